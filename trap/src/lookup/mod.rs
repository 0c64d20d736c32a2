//! Lookup: from an address to the region that answers it, on the path of every access.
//!
//! # The fast path
//!
//! Most accesses are of a width one handler takes as it is, to a region nobody watches, with nothing
//! queued before them. Such an access does this, in order (`Handle::fast`):
//!
//! 1. It stores the number of its snapshot in its handle's mark: "I am looking, in this one". The
//!    mark is on a cache line of its own, so no other thread's access writes near it.
//! 2. It compares that number with the number of the latest snapshot ([`publish`]). Loading it after
//!    the store is what an editor's `membarrier` makes safe; no barrier is executed here.
//! 3. It hashes the page of the address (MMIO: 4 KiB; ports: runs of eight) and loads one bucket of
//!    32 bytes ([`page_hash`]). The bucket has what is needed of the region: first address, length,
//!    which widths go straight to the handler, the number of its counters, and the handler
//!    ([`fast_entry`]). A bucket may be another page's: the address is compared with the range.
//! 4. It adds one to a 16-bit counter of its own handle ([`crate::counters`]), unless that wraps.
//! 5. It stores the region's number in the mark, for whoever waits until nobody is inside that region
//!    any more, calls the handler, and clears the mark.
//!
//! So it takes no lock, and writes to nothing that another access writes. Whatever fails on the way
//! (an edit was made, the bucket is of another region, a counter wraps, the access is of an odd
//! shape, something is queued) starts again in [`crate::dispatch`], which finds the region in a
//! [`snapshot`]: the neighbouring bucket, the bucket's overflow, and at last a binary search in
//! [`spans`].

pub(crate) mod fast_entry;
pub(crate) mod page_hash;
pub(crate) mod publish;
pub(crate) mod snapshot;
pub(crate) mod spans;
