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
}

/// Shorthand for one row of a table.
pub const fn row<R>(reg: R, name: &'static str, offset: u32, width: u32, access: Access) -> Row<R> {
    Row { reg, name, offset, width, access }
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
}
