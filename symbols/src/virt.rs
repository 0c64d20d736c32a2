//! A guest's virtual memory.

use crate::paging::{Mapped, Paging};
use crate::{Cpu, Memory};

/// Memory as a guest's code sees it, through the page tables of one processor.
#[derive(Clone, Copy)]
pub struct Virtual<'a> {
    memory: &'a dyn Memory,
    paging: Paging,
}

impl<'a> Virtual<'a> {
    /// What `cpu` sees of `memory`.
    pub const fn of(memory: &'a dyn Memory, cpu: &Cpu) -> Self {
        Self { memory, paging: cpu.paging() }
    }

    /// Where `virt` is in guest physical memory.
    pub fn translate(&self, virt: u64) -> Option<Mapped> {
        self.paging.translate(self.memory, virt).ok()
    }

    /// The page tables.
    pub const fn paging(&self) -> &Paging {
        &self.paging
    }

    /// Copies the bytes at `virt` to `buf`; `false` unless all of them are mapped memory.
    pub fn read(&self, virt: u64, buf: &mut [u8]) -> bool {
        self.copy(virt, buf, |_| false)
    }

    /// Copies what is there of the bytes at `virt` to `buf`, and zeros for the rest. Says whether
    /// anything is there.
    pub fn read_mapped(&self, virt: u64, buf: &mut [u8]) -> bool {
        let mut there = buf.len();
        self.copy(virt, buf, |hole| {
            there -= hole.len();
            hole.fill(0);
            true
        });
        there > 0
    }

    /// Eight bytes.
    pub fn read_u64(&self, virt: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(virt, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// Four bytes.
    pub fn read_u32(&self, virt: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(virt, &mut bytes).then(|| u32::from_le_bytes(bytes))
    }

    /// The `len` bytes at `virt`, page by page: where in guest physical memory, if anywhere, and how
    /// many bytes.
    pub fn pieces(&self, virt: u64, len: usize) -> impl Iterator<Item = (Option<u64>, usize)> {
        let (mut virt, mut rest) = (virt, len);
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let found = self.paging.translate(self.memory, virt);
            let left = found.map_or_else(|hole| hole.left, |mapped| mapped.left);
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest);
            // What is after the last address is before the first one.
            virt = virt.wrapping_add(len as u64);
            rest -= len;
            Some((found.ok().map(|mapped| mapped.phys), len))
        })
    }

    /// Copies page by page; what is no memory goes to `missing`, which says whether to go on.
    fn copy(&self, virt: u64, buf: &mut [u8], mut missing: impl FnMut(&mut [u8]) -> bool) -> bool {
        let len = buf.len();
        let mut rest = buf;
        self.pieces(virt, len).all(|(phys, len)| {
            let (piece, others) = std::mem::take(&mut rest).split_at_mut(len);
            rest = others;
            phys.is_some_and(|phys| self.memory.read(phys, piece)) || missing(piece)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::X86;
    use crate::testing::Ram;

    #[test]
    fn pages_are_put_together_and_holes_are_said() {
        let mut ram = Ram::new(0x10000);
        // Two pages the wrong way round, and nothing after them.
        for (at, entry) in [(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x4003)] {
            ram.put(at, entry);
        }
        ram.put(0x4000, 0x9003);
        ram.put(0x4008, 0x8003);
        ram.put(0x9ff8, 0x1111);
        ram.put(0x8000, 0x2222);
        let cpu = X86 { cr0: 1 << 31, cr3: 0x1000, cr4: 1 << 5, efer: 1 << 10, ..X86::default() };
        let virt = Virtual::of(&ram, &Cpu::X86(cpu));
        let mut bytes = [0xff; 16];
        assert!(virt.read(0xff8, &mut bytes));
        assert_eq!(bytes, [0x11, 0x11, 0, 0, 0, 0, 0, 0, 0x22, 0x22, 0, 0, 0, 0, 0, 0]);
        assert_eq!(virt.read_u64(0xff8), Some(0x1111));
        assert_eq!(virt.read_u64(0x1ffc), None);
        assert_eq!(virt.translate(0x1000).map(|mapped| mapped.phys), Some(0x8000));
        let mut bytes = vec![0xff; 0x2000];
        assert!(virt.read_mapped(0x1000, &mut bytes));
        assert_eq!((bytes[0], bytes[0xfff], bytes[0x1000], bytes[0x1fff]), (0x22, 0, 0, 0));
        assert!(!virt.read_mapped(0x2000, &mut bytes));
        assert!(virt.read(0x2000, &mut []), "nothing is wanted");
    }
}
