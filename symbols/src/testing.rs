//! Guest memory for tests.

use crate::{Memory, X86};

/// RAM from address 0 on.
pub(crate) struct Ram(Vec<u8>);

impl Ram {
    pub(crate) fn new(len: usize) -> Self {
        Self(vec![0; len])
    }

    pub(crate) fn put(&mut self, addr: u64, value: u64) {
        self.write(addr, &value.to_le_bytes());
    }

    pub(crate) fn write(&mut self, addr: u64, bytes: &[u8]) {
        let addr = usize::try_from(addr).unwrap();
        self.0[addr..addr + bytes.len()].copy_from_slice(bytes);
    }
}

impl Memory for Ram {
    fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
        let start = usize::try_from(addr).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(buf.len())?));
        match range.and_then(|range| self.0.get(range)) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

/// Memory of which `len` bytes, from 2 MiB on, are at the virtual address `virt` (a multiple of
/// 2 MiB), and a processor that sees it so.
pub(crate) fn paged(virt: u64, len: u64) -> (Ram, X86) {
    let mut ram = Ram::new(usize::try_from(len).unwrap() + PHYSICAL_USIZE);
    ram.put(0x1000 + (virt >> 39 & 0x1ff) * 8, 0x2003);
    ram.put(0x2000 + (virt >> 30 & 0x1ff) * 8, 0x3003);
    for page in 0..len >> 21 {
        ram.put(0x3000 + (((virt >> 21) + page) & 0x1ff) * 8, (PHYSICAL + (page << 21)) | 0x83);
    }
    let paging = X86 { cr0: 1 << 31, cr3: 0x1000, cr4: 1 << 5, efer: 1 << 10, ..X86::default() };
    (ram, X86 { long: true, ..paging })
}

/// Where the memory of [`paged`] begins.
const PHYSICAL: u64 = 2 << 20;
const PHYSICAL_USIZE: usize = 2 << 20;

impl Ram {
    /// Writes into the memory of [`paged`], at `offset` of it.
    pub(crate) fn write_paged(&mut self, offset: u64, bytes: &[u8]) {
        self.write(PHYSICAL + offset, bytes);
    }
}
