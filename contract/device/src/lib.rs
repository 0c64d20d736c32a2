//! The contract between the trap registry and whoever answers a trap.
//!
//! A device implements [`Handler`] (or [`HandlerMut`] behind [`Locked`]). It sees offsets into its
//! own registers, never a guest address; it holds a [`Line`] or an [`Interrupt`], never an interrupt
//! number; it asks a [`Clock`], never the host. That is what lets one device sit behind a port on
//! x86-64, behind MMIO on arm64, behind a qtest socket, or in a replay, without knowing.
//!
//! What one access is, and which regions a device answers, is said in `trapline-access`, which this
//! crate passes on.
//!
//! What was left out on purpose: a device's configuration, its threads and its file descriptors.
//! Those belong to whoever builds the machine.

#![forbid(unsafe_code)]

mod chardev;
mod clock;
mod device_state;
mod doorbell;
mod event_loop;
mod fdt;
mod interrupt;
mod irqchip;
mod life;
mod line;
mod msi;
mod power;
mod save;
mod saved_form;
mod thread;
mod vector;
mod witness;

pub use chardev::{CharBackend, CharDevice, NullBackend, OutputOnly};
pub use clock::{Clock, Timer, Wake};
pub use doorbell::{Doorbell, WatchedEventFd};
pub use event_loop::{EventHandler, EventLoop, Notifier, Readiness, Watch};
pub use fdt::{FdtDevice, FdtNode, FdtValue};
pub use interrupt::{Interrupt, InterruptMode};
pub use irqchip::{EoiSink, ExtInt, LevelRoutes, PcInput};
pub use life::Device;
pub use line::{Line, LineSink};
pub use msi::{Msi, MsiController, MsiSink};
pub use power::{Power, PowerEvent};
pub use save::{Form, SaveState, Saved, SavedBytes, StateError, WrongLength, restore_all};
pub use thread::{THREAD_STACK_LEN, thread_builder};
pub use trapline_access::{
    AccessClock, Channel, ChannelRef, Delivery, Direction, DirtyBitmap, DirtyLog, DoorbellTarget,
    EditError, EditListener, EventFd, Forwarded, Handler, HandlerMut, IoCx, Limits, Locked, Memory,
    MemoryListener, MemorySection, Mirror, MirrorHost, NoHandler, NoRegions, QUEUED_WRITES_MAX,
    READS_WORTH_A_SWITCH, Region, RegionEdit, RegionId, RegionName, Regions, Requester, Ring,
    Rules, Showing, Size, Space, Stamp, Window,
};
pub use vector::{MessageVector, SinkVector};
pub use witness::{Pieces, Witness};
