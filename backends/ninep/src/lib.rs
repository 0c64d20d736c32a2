//! A server of the protocol by which Linux mounts a folder of another machine: 9P2000.L.
//!
//! ```text
//!   message ──► wire ──► Server: fids, qids, locks ──► Share: the folder, and the way into it
//!   Payload ◄── bytes of reads and writes, which never pass through here
//! ```
//!
//! Nothing here knows virtio, nor any other way of carrying messages: [`Server::answer`] takes one
//! and gives the reply to it, from as many threads at once as there are.
//!
//! No name leads out of the folder. A client gives names one at a time; each is looked up in a folder
//! that is open already, by `openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`. Links are the
//! client's to follow, with names that come here one at a time again. Only regular files and folders
//! are opened. See `share`.
//!
//! What was left out on purpose: authentication (`Tauth`), as the guest is who the host's user lets
//! it be; 9P2000 and 9P2000.u, which Linux does not need.
//!
//! Sources: the protocol as diod documents it (`protocol.md`), Linux' client (`net/9p`, `fs/9p`),
//! and QEMU's `mapped-xattr` for owners that the host's user cannot give files to.

#![forbid(unsafe_code)]

mod attr;
mod fids;
mod locks;
mod options;
mod qids;
mod server;
mod share;
mod wire;

pub use options::{SecurityModel, ShareOptions, TAG_LEN};
pub use server::{Answer, MSIZE_MAX, Payload, SavedFid, Server};
pub use share::{Share, ShareError};
pub use wire::{Header, kind};
