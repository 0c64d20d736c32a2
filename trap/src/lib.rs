//! One I/O trap registry.
//!
//! A guest touches a port or a device address, the access leaves the CPU as a trap, and somebody
//! has to answer it. This crate finds out who. Port I/O and MMIO are two address spaces behind one
//! region type ([`Region`]), one handler trait ([`Handler`]) and one way to edit
//! ([`Registry::edit`]); how an access is delivered is an attribute of the region
//! ([`Delivery`]).
//!
//! * Lookups of ordinary accesses take no lock and write nothing that another thread writes; they
//!   cost the same whether there are eight regions or thousands.
//! * Edits are all or nothing, and judged on their result: two regions can swap places.
//! * What a region had the kernel do leaves with the region's guard ([`Mapping`]).
//! * Accesses across the borders of regions are split; what nobody claims reads as all ones.
//! * Devices and debuggers reach RAM and regions through one [`AddressSpace`].
//! * Accesses can be watched while the guest runs ([`Registry::watch`]).
//! * Everything is counted, per region and handle, and unclaimed accesses by address.
//! * The last accesses are remembered, or all are recorded ([`Registry::start_recorder`]).

#![forbid(unsafe_code)]

mod address_space;
mod core;
mod counters;
mod delivery;
mod dispatch;
mod edit;
mod lookup;
mod memory;
mod recorder;
mod region;
mod registry;
mod stats;
mod sync;
mod watch;

pub use address_space::{AddressSpace, NoRam, Ram, Transfer};
pub use counters::{Counts, Unclaimed};
pub use delivery::offload::{CoalescedWrite, Offload, Zone};
pub use dispatch::Handle;
pub use recorder::tape::RecentAccess;
pub use recorder::{Followed, Follower, Mode, Recorder, Slot, SlotRegion, Step, StreamId, Taken};
pub use registry::{Builder, Edit, Mapping, Registry, WeakRegistry};
pub use stats::{RegionStats, Stats};
pub use trapline_access::{
    AccessClock, Answer, Channel, ChannelRef, Delivery, Direction, DirtyBitmap, DirtyLog,
    DoorbellTarget, EditError, EditListener, EventFd, Forward, Forwarded, Handler, HandlerMut,
    IoCx, Limits, Locked, Memory, MemoryListener, MemorySection, Mirror, MirrorHost, NoHandler,
    NoRegions, PlacedRegion, READS_WORTH_A_SWITCH, Region, RegionEdit, RegionId, RegionName,
    Regions, Requester, Ring, Rules, Showing, Size, Space, Stamp, Waiter, Window,
};
pub use watch::{AccessSummary, Observer, Outcome, TraceRecord, Watch, WatchedRegion, Watching};

/// Registers this process for `membarrier(2)`, which a registry's edits use. The first registry
/// does so if nobody has; but the call takes microseconds in a process with one thread and tens of
/// milliseconds in one with several, so programs in a hurry make it first thing in `main`.
pub fn register_membarrier() {
    // Where the kernel has none, registries do without.
    let _done = sync::has_heavy_barrier();
}
