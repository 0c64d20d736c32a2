//! [`GuestMem`] as a [`GuestMemory`], for code that is generic over it.
//!
//! `vm_memory`'s own way from an address to bytes goes through several iterators, whose cost is that of
//! a copy of a hundred bytes or two, and a queue of virtio makes a dozen accesses of a few bytes for
//! each request. Here the usual access, all of which is in one piece of RAM, is one look-up.

use std::iter::FusedIterator;

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::{Error, GuestMemorySliceIterator, Result};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryRegion, Permissions};

use crate::written::WrittenPages;
use crate::{Backend, GuestMem, Slice};

impl GuestMemory for GuestMem {
    type PhysicalMemory = Backend;
    type Bitmap = WrittenPages;

    fn check_range(&self, addr: GuestAddress, count: usize, _access: Permissions) -> bool {
        self.contains(addr.0, count)
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        _access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, BS<'a, Self::Bitmap>>> {
        Ok(Pieces { mem: self, addr: addr.0, left: count })
    }

    fn physical_memory(&self) -> Option<&Self::PhysicalMemory> {
        Some(self.backend())
    }
}

/// A range of RAM, piece by piece. Ends where there is none, with an error.
struct Pieces<'m> {
    mem: &'m GuestMem,
    addr: u64,
    left: usize,
}

impl<'m> Iterator for Pieces<'m> {
    type Item = Result<Slice<'m>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let piece = self.piece();
        match &piece {
            Ok(piece) => {
                self.left -= piece.len();
                // At the very end of all addresses nothing is left.
                self.addr = self.addr.wrapping_add(piece.len() as u64);
            }
            Err(_) => self.left = 0,
        }
        Some(piece)
    }
}

impl<'m> Pieces<'m> {
    #[inline]
    fn piece(&self) -> Result<Slice<'m>> {
        let none = || Error::InvalidGuestAddress(GuestAddress(self.addr));
        let (region, offset) = self.mem.find_unseen(self.addr).ok_or_else(none)?;
        let here = usize::try_from(region.len() - offset.0).unwrap_or(usize::MAX);
        region.get_slice(offset, self.left.min(here))
    }
}

impl FusedIterator for Pieces<'_> {}

impl<'m> GuestMemorySliceIterator<'m, BS<'m, WrittenPages>> for Pieces<'m> {
    #[inline]
    fn stop_on_error(mut self) -> Result<impl Iterator<Item = Slice<'m>>> {
        let first = self.next().transpose()?;
        Ok(first.into_iter().chain(self.map_while(Result::ok)))
    }
}
