//! The memory map a PC firmware would report through INT 15h, AX=E820h.
//!
//! Spec: Advanced Configuration and Power Interface 6.5, section 15.1, "INT 15H, E820H".

use std::ops::Range;

/// What a range of the address space is good for; the numbers are the specification's
/// (ACPI 6.5, chapter 15, "Address Range Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum E820Kind {
    /// Usable by the guest.
    Ram = 1,
    /// In use by the machine; never to be touched as RAM.
    Reserved = 2,
    /// RAM once the guest has read the ACPI tables in it.
    AcpiReclaimable = 3,
    /// Must survive the guest's sleep states.
    AcpiNvs = 4,
}

/// One line of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// First address.
    pub addr: u64,
    /// Length in bytes, never 0.
    pub len: u64,
    /// What it is.
    pub kind: E820Kind,
}

impl E820Entry {
    /// The first address after it.
    pub fn end(&self) -> u64 {
        self.addr.saturating_add(self.len)
    }
}

/// A map in the making: sorted, without overlaps, neighbours of one kind merged. Whatever is said
/// last about an address wins, so RAM comes first and the holes in it afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryMap {
    entries: Vec<E820Entry>,
}

impl MemoryMap {
    /// A map that says nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that `range` is `kind`. An empty range says nothing.
    #[must_use]
    pub fn with(self, range: Range<u64>, kind: E820Kind) -> Self {
        let mut map = self.without(range.clone());
        if !range.is_empty() {
            map.entries.push(E820Entry { addr: range.start, len: range.end - range.start, kind });
            map.entries.sort_by_key(|entry| entry.addr);
            map.merge();
        }
        map
    }

    /// Says nothing about `range`, as about a window of a device.
    #[must_use]
    pub fn without(mut self, range: Range<u64>) -> Self {
        if range.is_empty() {
            return self;
        }
        let mut kept = Vec::with_capacity(self.entries.len() + 1);
        for entry in self.entries {
            let below = entry.addr..entry.end().min(range.start);
            let above = entry.addr.max(range.end)..entry.end();
            for piece in [below, above] {
                if !piece.is_empty() {
                    let len = piece.end - piece.start;
                    kept.push(E820Entry { addr: piece.start, len, kind: entry.kind });
                }
            }
        }
        self.entries = kept;
        self
    }

    /// The lines, in ascending order of address.
    pub fn entries(&self) -> &[E820Entry] {
        &self.entries
    }

    fn merge(&mut self) {
        self.entries.dedup_by(|next, before| {
            let joins = next.kind == before.kind && next.addr == before.end();
            if joins {
                before.len += next.len;
            }
            joins
        });
    }
}

/// Whether all of `range` is usable RAM.
pub(crate) fn is_ram(map: &[E820Entry], range: &Range<u64>) -> bool {
    map.iter().any(|entry| {
        entry.kind == E820Kind::Ram && entry.addr <= range.start && range.end <= entry.end()
    })
}

/// All usable RAM, in bytes.
pub(crate) fn ram_bytes(map: &[E820Entry]) -> u64 {
    map.iter().filter(|entry| entry.kind == E820Kind::Ram).map(|entry| entry.len).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A PC with 4 GiB of RAM, one of them above 4 GiB.
    fn pc() -> MemoryMap {
        MemoryMap::new()
            .with(0..0xc000_0000, E820Kind::Ram)
            .with(0x1_0000_0000..0x1_4000_0000, E820Kind::Ram)
            .without(0xa_0000..0xf_0000)
            .with(0x9_fc00..0xa_0000, E820Kind::Reserved)
            .with(0xf_0000..0x10_0000, E820Kind::Reserved)
            .with(0xfffb_d000..0xfffc_0000, E820Kind::Reserved)
    }

    fn lines(map: &MemoryMap) -> String {
        let line = |e: &E820Entry| format!("{:#011x}..{:#011x} {:?}\n", e.addr, e.end(), e.kind);
        map.entries().iter().map(line).collect()
    }

    #[test]
    fn a_pc_map_lists_ram_around_its_holes() {
        insta::assert_snapshot!(lines(&pc()), @r"
        0x000000000..0x00009fc00 Ram
        0x00009fc00..0x0000a0000 Reserved
        0x0000f0000..0x000100000 Reserved
        0x000100000..0x0c0000000 Ram
        0x0fffbd000..0x0fffc0000 Reserved
        0x100000000..0x140000000 Ram
        ");
    }

    #[test]
    fn the_order_of_the_holes_does_not_matter() {
        let other = MemoryMap::new()
            .with(0..0x9_fc00, E820Kind::Ram)
            .with(0xfffb_d000..0xfffc_0000, E820Kind::Reserved)
            .with(0x10_0000..0xc000_0000, E820Kind::Ram)
            .with(0xf_0000..0x10_0000, E820Kind::Reserved)
            .with(0x1_0000_0000..0x1_4000_0000, E820Kind::Ram)
            .with(0x9_fc00..0xa_0000, E820Kind::Reserved);
        assert_eq!(other, pc());
    }

    #[test]
    fn neighbours_of_one_kind_become_one_line() {
        let map = MemoryMap::new()
            .with(0x2000..0x3000, E820Kind::Ram)
            .with(0..0x1000, E820Kind::Ram)
            .with(0x1000..0x2000, E820Kind::Ram);
        assert_eq!(map.entries(), [E820Entry { addr: 0, len: 0x3000, kind: E820Kind::Ram }]);
    }

    #[test]
    fn totals_and_containment_see_ram_only() {
        let map = pc();
        let ram = 0x9_fc00 + (0xc000_0000 - 0x10_0000) + 0x4000_0000;
        assert_eq!(ram_bytes(map.entries()), ram);
        assert!(is_ram(map.entries(), &(0x10_0000..0xc000_0000)));
        assert!(!is_ram(map.entries(), &(0x9_f000..0xa_0000)));
        assert!(!is_ram(map.entries(), &(0xbfff_ffff..0xc000_0001)));
    }

    proptest! {
        #[test]
        fn any_sequence_leaves_the_last_word_about_each_address(
            steps in prop::collection::vec((0u64..64, 0u64..64, 0usize..4), 0..12)
        ) {
            let kinds = [None, Some(E820Kind::Ram), Some(E820Kind::Reserved), Some(E820Kind::AcpiNvs)];
            let mut map = MemoryMap::new();
            let mut model = [None; 64];
            for (start, end, kind) in steps {
                let kind = kinds[kind];
                map = match kind {
                    Some(kind) => map.with(start..end, kind),
                    None => map.without(start..end),
                };
                for address in start..end {
                    model[usize::try_from(address).unwrap()] = kind;
                }
            }
            for (address, kind) in (0u64..).zip(model) {
                let found: Vec<_> = map.entries().iter()
                    .filter(|e| e.addr <= address && address < e.end()).collect();
                prop_assert!(found.len() <= 1);
                prop_assert_eq!(found.first().map(|e| e.kind), kind);
            }
            for pair in map.entries().windows(2) {
                let joined = pair[0].end() == pair[1].addr && pair[0].kind == pair[1].kind;
                prop_assert!(pair[0].end() <= pair[1].addr && !joined);
            }
        }
    }
}
