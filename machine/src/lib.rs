//! Boards: which devices sit where, and the life of a whole machine.
//!
//! [`Session`] is one machine from power-on to its [`Ending`], and over as many resets as its user
//! wants;
//! [`qtest::Machine`] is the same board with no vCPU, for a client that plays one.
//! `x86_pc` and `arm64_virt` list the devices of their board and are, with their `layout.rs`, the
//! only places that know addresses and interrupts. Both are a `board::Board`, built of the same
//! devices with or without KVM; their `kvm.rs` and `qtest.rs` say what differs.

#![forbid(unsafe_code)]

mod arm64_virt;
mod board;
pub mod census;
mod config;
mod control;
pub mod debug;
pub mod deliveries;
mod error;
mod flash;
pub mod isolate;
mod kvm;
mod life;
mod on_loop;
pub mod qtest;
pub mod record;
pub mod recorded_map;
mod remote;
mod report;
mod serve;
mod session;
mod snapshot;
pub mod why;
mod x86_pc;

pub use board::{Plug, PlugDevice, PlugPort};
pub use config::{
    Arm64, Boot, Config, ConsoleKind, Ending, FirmwareFlash, FirmwareKernel, Initrd, Irqchip,
    PcConfigSpace, PcIrqchip, PortOptions, ResetCause, VirtioTransport, VirtioTransports,
    VsockOptions,
};
pub use control::Control;
pub use error::Error;
pub use isolate::Isolate;
pub use life::{ControlError, Request, State};
pub use on_loop::Terminal;
pub use remote::{IoRegion, OnDeath, Socket};
pub use report::Report;
pub use serve::{ServedDevice, serve};
pub use session::Session;
pub use snapshot::{Snapshot, SnapshotError};
pub use trapline::register_membarrier;
pub use trapline_backends::{Connected, Outlet};
pub use trapline_block as disk;
pub use trapline_boot as boot;
pub use trapline_display as display;
pub use trapline_guestio::interface;
pub use trapline_guestmem::Backing;
pub use trapline_kvm::{
    CrashReport, hardware_virtualization, map_in_small_pieces, release_startup_memory,
};
pub use trapline_net as net;
pub use trapline_ninep as ninep;
pub use trapline_remote::wire::Features as IoRegionFeatures;
pub use trapline_symbols as symbols;
pub use trapline_vfio as vfio;
pub use trapline_virtio::vsock::regs as vsock;
pub use trapline_virtio::{balloon, console, net as card};
pub use x86_pc::MMIO_CONSOLE;
