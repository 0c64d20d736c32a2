//! File I/O on guest memory: a back end's reads into the buffers that a driver has handed over, and
//! writes out of them, without a copy in between.
//!
//! ```text
//!   guest addresses ──► Buffers ──┬── read_at, write_at: preadv2, pwritev2 in the calling thread
//!                     (own the    └── Ring: io_uring, which owns the buffers until it is done
//!                      mapping)
//! ```
//!
//! Besides, what back ends need of the kernel that no other crate asks of it: descriptors that a user
//! names by their numbers ([`inherited()`]), taps ([`mod@tap`]), what addresses and routes network
//! interfaces have ([`interface`]), and that a device erases ([`secure_erase`]).
//!
//! The kernel is given addresses of guest RAM, which no borrow can vouch for: that is what this
//! crate's `unsafe` is about. [`Buffers`] hold the mapping they are in, and a [`Ring`] lets go of a
//! request's buffers only when the kernel has said that it is done with them. Whoever has to wait does
//! so in a [`Pool`] of threads.

mod buffers;
mod erase;
mod inherited;
pub mod interface;
mod pool;
mod ring;
pub mod tap;
#[cfg(test)]
mod tests;

pub use buffers::{Buffers, Places, Wait};
pub use erase::{can_secure_erase, secure_erase};
pub use inherited::{hand_down, inherited, keep_from_children};
pub use pool::Pool;
pub use ring::{Completion, Operation, Ring};
