//! What devices read from guest RAM and write to it, for who writes it down or knows it from before.

use std::fmt::Debug;

/// Sees each access that a device makes to guest RAM through a handle of [`GuestMem::with_tap`], in the
/// order in which it makes them.
///
/// Bytes that others move there by themselves ([`GuestMem::slice`]) do not come by: whoever lends a
/// buffer to a back end or to the kernel does not look into it.
///
/// [`GuestMem::with_tap`]: crate::GuestMem::with_tap
/// [`GuestMem::slice`]: crate::GuestMem::slice
pub trait Tap: Debug + Send + Sync {
    /// The device reads `data` at guest address `addr`. Whoever knows what it has read before may
    /// change them into that.
    fn read(&self, addr: u64, data: &mut [u8]);

    /// The device has written `data` at guest address `addr`.
    fn wrote(&self, addr: u64, data: &[u8]);
}
