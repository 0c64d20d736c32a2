//! Register maps as const data.
//!
//! A device's `regs.rs` lists its registers once, as a table in the order of the data sheet. The
//! compiler checks the table ([`RegMap::new`] fails to evaluate when rows overlap, are out of
//! order, misaligned or outside the window), and the device matches on names, never on offsets.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// Which accesses reach a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads.
    Read,
    /// Only writes.
    Write,
    /// Both.
    ReadWrite,
}

impl Access {
    const fn overlaps(self, other: Self) -> bool {
        !matches!((self, other), (Self::Read, Self::Write) | (Self::Write, Self::Read))
    }
}

/// One register: what the code calls it, what the data sheet calls it, and where it is.
#[derive(Clone, Copy, Debug)]
pub struct Row<R> {
    /// The register, for `match`.
    pub reg: R,
    /// Its name in the data sheet.
    pub name: &'static str,
    /// Offset of its first byte in the window.
    pub offset: u32,
    /// Width in bytes.
    pub width: u32,
    /// Which accesses reach it.
    pub access: Access,
    /// What recordings are told about it.
    pub traits: Traits,
}

/// What is to be known of a register by whoever compares or tunes what guests did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// What kind of values it has.
    pub class: Class,
    /// Whether a write must have its effect at once: it must not be queued up, although nothing that
    /// the guest reads later could tell.
    pub prompt: bool,
    /// Its bit fields, as far as they have names; in ascending order.
    pub fields: &'static [Field],
}

/// What kind of values a register has: whether two runs of one guest can be expected to agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// The same in each run.
    #[default]
    Exact = 0,
    /// A time or a count of it.
    Time = 1,
    /// What the guest moves through: characters, sectors, frames.
    Payload = 2,
    /// Different each time on purpose.
    Random = 3,
    /// Where the guest has put something in its memory.
    Address = 4,
}

impl Class {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Exact, Self::Time, Self::Payload, Self::Random, Self::Address];
}

/// Some bits of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Their name in the data sheet.
    pub name: &'static str,
    /// The lowest of them.
    pub bit: u8,
    /// How many there are.
    pub bits: u8,
}

/// One bit of a register.
pub const fn bit(name: &'static str, bit: u8) -> Field {
    Field { name, bit, bits: 1 }
}

/// `bits` bits of a register, from `bit` up.
pub const fn bits(name: &'static str, bit: u8, bits: u8) -> Field {
    Field { name, bit, bits }
}

/// A register as recordings know it, whatever the code calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name in the data sheet.
    pub name: &'static str,
    /// Offset of its first byte in the window, or its index behind a [`Select`].
    pub offset: u32,
    /// Its width in bytes.
    pub width: u32,
    /// Which accesses reach it.
    pub access: Access,
    /// What is to be known of it.
    pub traits: Traits,
}

/// Where several registers share a place, and which of them is there is what another register says: an
/// index, a bank. Their map has them by `(selecting value & mask) << shift`, and how far into the place an
/// access is counts from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Select {
    /// Offset of the selecting register in the window.
    pub selector: u32,
    /// Its width in bytes.
    pub width: u32,
    /// Bits of it that must be set for any of them to be there.
    pub enabled: u32,
    /// The bits that select.
    pub mask: u32,
    /// By how much those are shifted to the left.
    pub shift: u8,
    /// Offset of the shared place in the window.
    pub first: u32,
    /// Its length in bytes.
    pub len: u32,
}

impl Traits {
    /// Of a register of which nothing is said: exact values, writes that can be late, no fields.
    pub const PLAIN: Self = Self { class: Class::Exact, prompt: false, fields: &[] };
}

/// Shorthand for one row of a table.
pub const fn row<R>(reg: R, name: &'static str, offset: u32, width: u32, access: Access) -> Row<R> {
    Row { reg, name, offset, width, access, traits: Traits::PLAIN }
}

impl<R: Copy> Row<R> {
    /// Says what kind of values the register has.
    #[must_use]
    pub const fn class(mut self, class: Class) -> Self {
        self.traits.class = class;
        self
    }

    /// Forbids that writes to the register are late.
    #[must_use]
    pub const fn prompt(mut self) -> Self {
        self.traits.prompt = true;
        self
    }

    /// Names the register's bits.
    #[must_use]
    pub const fn fields(mut self, fields: &'static [Field]) -> Self {
        self.traits.fields = fields;
        self
    }
}

/// The registers of one window (for banked registers: of one bank), in ascending order of offset.
#[derive(Clone, Copy, Debug)]
pub struct RegMap<R: 'static> {
    rows: &'static [Row<R>],
}

impl<R: Copy> RegMap<R> {
    /// Checks the table. `window` is its length in bytes. In a `const`, a bad table does not
    /// compile. A read-only and a write-only register may share an offset.
    ///
    /// # Panics
    /// On rows that are out of order, overlap, are not aligned to their width, or leave the window.
    pub const fn new(window: u32, rows: &'static [Row<R>]) -> Self {
        let mut i = 0;
        while i < rows.len() {
            let row = at(rows, i);
            assert!(row.width.is_power_of_two(), "a register's width is a power of two");
            assert!(row.offset.is_multiple_of(row.width), "a register is aligned to its width");
            assert!(row.offset + row.width <= window, "a register lies inside the window");
            check_fields(row.traits.fields, row.width);
            let mut j = 0;
            while j < i {
                let before = at(rows, j);
                assert!(before.offset <= row.offset, "registers are in ascending order");
                assert!(
                    before.offset + before.width <= row.offset
                        || !before.access.overlaps(row.access),
                    "two registers overlap"
                );
                j += 1;
            }
            i += 1;
        }
        Self { rows }
    }

    /// The register a read of `offset` reaches.
    pub fn for_read(&self, offset: u64) -> Option<&'static Row<R>> {
        self.find(offset, Access::Read)
    }

    /// The register a write of `offset` reaches.
    pub fn for_write(&self, offset: u64) -> Option<&'static Row<R>> {
        self.find(offset, Access::Write)
    }

    /// All registers, in order.
    pub const fn rows(&self) -> &'static [Row<R>] {
        self.rows
    }

    /// All registers, in order, as recordings know them.
    pub fn described(&self) -> impl Iterator<Item = Described> + use<R> {
        let of = |row: &Row<R>| Described {
            name: row.name,
            offset: row.offset,
            width: row.width,
            access: row.access,
            traits: row.traits,
        };
        self.rows.iter().map(of)
    }

    fn find(&self, offset: u64, access: Access) -> Option<&'static Row<R>> {
        self.rows.iter().find(|row| {
            (u64::from(row.offset)..u64::from(row.offset + row.width)).contains(&offset)
                && row.access.overlaps(access)
        })
    }
}

#[expect(clippy::indexing_slicing, reason = "const evaluation has no get(); i is below len")]
const fn at<R>(rows: &'static [Row<R>], i: usize) -> &'static Row<R> {
    &rows[i]
}

/// Fields are in ascending order, do not overlap, and are inside of the register.
#[expect(clippy::indexing_slicing, reason = "const evaluation has no get(); i is below len")]
const fn check_fields(fields: &[Field], width: u32) {
    let (mut i, mut end) = (0, 0);
    while i < fields.len() {
        let Field { bit, bits, .. } = fields[i];
        assert!(bit as u32 >= end && bits > 0, "fields are in ascending order and do not overlap");
        end = bit as u32 + bits as u32;
        assert!(end <= width * 8, "a field lies inside its register");
        i += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Reg {
        Rbr,
        Thr,
        Ier,
    }
    const MAP: RegMap<Reg> = RegMap::new(
        8,
        &[
            row(Reg::Rbr, "RBR", 0, 1, Access::Read),
            row(Reg::Thr, "THR", 0, 1, Access::Write),
            row(Reg::Ier, "IER", 4, 4, Access::ReadWrite),
        ],
    );

    #[test]
    fn registers_sharing_an_offset_are_told_apart_by_direction() {
        assert_eq!(MAP.for_read(0).map(|row| row.reg), Some(Reg::Rbr));
        assert_eq!(MAP.for_write(0).map(|row| row.reg), Some(Reg::Thr));
        assert_eq!(MAP.for_read(6).map(|row| row.name), Some("IER"));
        assert!(MAP.for_read(1).is_none());
        assert_eq!(MAP.rows().len(), 3);
    }

    #[test]
    fn overlapping_rows_are_refused() {
        static ROWS: [Row<u8>; 2] =
            [row(0, "A", 0, 2, Access::ReadWrite), row(1, "B", 1, 1, Access::Read)];
        assert!(std::panic::catch_unwind(|| RegMap::new(4, &ROWS)).is_err());
    }

    #[test]
    fn fields_that_overlap_or_leave_the_register_are_refused() {
        static ROW: Row<u8> = row(0, "A", 0, 1, Access::ReadWrite)
            .class(Class::Time)
            .prompt()
            .fields(&[bit("LOW", 0), bits("HIGH", 4, 4)]);
        static GOOD: [Row<u8>; 1] = [ROW];
        let described: Vec<_> = RegMap::new(1, &GOOD).described().collect();
        assert_eq!(described.len(), 1);
        assert!(described.iter().all(|d| d.traits.class == Class::Time && d.traits.prompt));
        static OVERLAP: [Row<u8>; 1] =
            [row(0, "A", 0, 1, Access::Read).fields(&[bits("LOW", 0, 2), bit("ONE", 1)])];
        assert!(std::panic::catch_unwind(|| RegMap::new(1, &OVERLAP)).is_err());
        static OUTSIDE: [Row<u8>; 1] =
            [row(0, "A", 0, 1, Access::Read).fields(&[bits("HIGH", 4, 5)])];
        assert!(std::panic::catch_unwind(|| RegMap::new(1, &OUTSIDE)).is_err());
    }
}
