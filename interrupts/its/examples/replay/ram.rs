//! Guest RAM of a recording: 512 MiB from 0x40000000, pages made when written.

use std::cell::RefCell;
use std::collections::HashMap;

use gicv3_its::{GuestMemory, MemoryError};

const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;

/// Sparse RAM that reads zero until written.
#[derive(Clone, Default)]
pub(crate) struct Ram {
    pages: RefCell<HashMap<u64, Box<[u8; PAGE_BYTES]>>>,
}

impl Ram {
    /// Address of the first byte.
    pub(crate) const BASE: u64 = 0x4000_0000;
    /// Bytes.
    pub(crate) const LEN: u64 = 512 << 20;

    /// The pieces of a range, page by page: page, offset in it, bytes; `None` if not all is RAM.
    fn pieces(address: u64, len: usize) -> Option<impl Iterator<Item = (u64, usize, usize)>> {
        let end = address.checked_add(len as u64)?;
        if address < Self::BASE || end > Self::BASE + Self::LEN {
            return None;
        }
        let mut at = address;
        Some(std::iter::from_fn(move || {
            let left = end - at;
            if left == 0 {
                return None;
            }
            let (page, offset) = (at / PAGE, at % PAGE);
            let count = left.min(PAGE - offset);
            at += count;
            Some((page, usize::try_from(offset).ok()?, usize::try_from(count).ok()?))
        }))
    }
}

impl GuestMemory for Ram {
    fn read(&self, address: u64, mut data: &mut [u8]) -> Result<(), MemoryError> {
        let pages = self.pages.borrow();
        for (page, offset, count) in Self::pieces(address, data.len()).ok_or(MemoryError)? {
            let (part, rest) = data.split_at_mut(count);
            let source = pages.get(&page).and_then(|page| page.get(offset..offset + count));
            match source {
                Some(source) => part.copy_from_slice(source),
                None => part.fill(0),
            }
            data = rest;
        }
        Ok(())
    }

    fn write(&self, address: u64, mut data: &[u8]) -> Result<(), MemoryError> {
        let mut pages = self.pages.borrow_mut();
        for (page, offset, count) in Self::pieces(address, data.len()).ok_or(MemoryError)? {
            let (part, rest) = data.split_at(count);
            let page = pages.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES]));
            if let Some(target) = page.get_mut(offset..offset + count) {
                target.copy_from_slice(part);
            }
            data = rest;
        }
        Ok(())
    }
}
