//! The contract between a trap registry and whoever answers a trap, as far as one access goes.
//!
//! A device implements [`Handler`] (or [`HandlerMut`] behind [`Locked`]) and sees offsets into its
//! own registers. It says with a [`Region`] which addresses it answers and how accesses to parts of
//! them are delivered ([`Delivery`]): to the handler, queued, to an eventfd, through a channel to
//! another process, or from memory. What reading does not change, a guest can read without any of
//! them ([`Mirror`]). [`Regions`] is where regions are mapped, moved and changed. What was done is kept
//! as a [`record::Record`] an access.
//!
//! This crate depends on the standard library only, so that a device, a registry and a hypervisor's
//! back end of different origin can share it.

#![forbid(unsafe_code)]

mod access;
mod channel;
mod dirty;
mod doorbell;
mod eventfd;
mod handler;
mod listener;
mod memory;
mod mirror;
pub mod record;
mod region;
mod regions;
mod stamp;

pub use access::{Direction, Requester, Size, Space};
pub use channel::{Answer, Channel, ChannelRef, Forwarded, Waiter};
pub use dirty::{DirtyBitmap, DirtyLog};
pub use doorbell::{DoorbellTarget, Ring};
pub use eventfd::EventFd;
pub use handler::{Handler, HandlerMut, IoCx, Limits, Locked, Rules};
pub use listener::{MemoryListener, MemorySection};
pub use memory::{Memory, NoHandler};
pub use mirror::{Mirror, MirrorHost, QUEUED_WRITES_MAX, READS_WORTH_A_SWITCH, Showing};
pub use region::{Delivery, Forward, Region, Window};
pub use regions::{
    EditError, EditListener, NoRegions, PlacedRegion, RegionEdit, RegionId, RegionName, Regions,
};
pub use stamp::{AccessClock, Stamp};
