//! KVM as a source of traps: `/dev/kvm`, a VM, its vCPU threads, and what the kernel can take off
//! the registry's hands.
//!
//! ```text
//!   Kvm ──► Vm ──► Vcpu ──► VcpuSet: one thread per vCPU
//!            │       │         KVM_RUN ─► Exit ─► trapline::Handle ─► device
//!            │       ├─ CrashReport: why it ended, registers, last accesses
//!            │       └─ Brake, Traps, Processor: for who debugs the guest
//!            ├─ line(gsi), resampled_input(gsi): inputs of the in-kernel interrupt controllers
//!            ├─ messages(): MSI and MSI-X vectors, whose eventfds are irqfds
//!            └─ offload(): coalesced zones, doorbells and memory slots in the kernel
//! ```
//!
//! `kvm_run` is decoded here and not by kvm-ioctls, which throws away the element size of string
//! port I/O (rust-vmm/kvm issues 166 and 371). What is left out on purpose: addresses and
//! interrupt numbers (the board's), kernels and tables (the boot crate's), devices.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod activity;
mod again;
mod cause;
mod counted;
mod crash;
mod debug;
mod error;
mod exit;
mod flush;
mod ioctl;
mod kick;
mod map;
mod messages;
mod offload;
mod page;
mod resample;
mod ring;
mod routing;
mod run;
mod slots;
mod startup;
mod stats;
mod system;
mod vcpu;
mod vm;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

pub use activity::{Activity, Unfinished};
#[cfg(target_arch = "aarch64")]
pub use arch::{Gic, GicInterrupt, Pmu, Processor, Start, VmOptions};
#[cfg(target_arch = "x86_64")]
pub use arch::{
    Irqchip, KernelChips, KernelIoApic, KernelPic, LocalApic, LocalApics, Processor, Start, Table,
    VmOptions,
};
pub use counted::CountedClock;
pub use crash::CrashReport;
pub use debug::{Brake, DebugStop, Traps, Watchpoint};
pub use error::Error;
pub use resample::ResampledInput;
pub use run::{Stop, Stuck, VcpuEvent, VcpuSet};
pub use slots::SeenMemory;
pub use startup::{map_in_small_pieces, release_startup_memory};
pub use stats::{ExitCounters, ExitKind, ExitStats};
pub use system::{Caps, Kvm, hardware_virtualization};
pub use vcpu::Vcpu;
pub use vm::Vm;
