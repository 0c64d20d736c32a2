//! A GICv3 interrupt translation service (ITS) for guests, and the LPI side of the redistributors
//! it signals to.
//!
//! Spec: Arm IHI 0069, "GICv3 and GICv4 Architecture Specification"; register pages Arm DDI 0601.
//! Tables in guest RAM have the layout Linux's KVM documents
//! (`Documentation/virt/kvm/devices/arm-vgic-its.rst`, revision 0).
//!
//! The model has no clock, no thread, no lock and no `unsafe`. It stands on two traits,
//! [`GuestMemory`] and [`LpiSink`]; [`redist::Redistributors`] is the sink that comes with it.
//! No value of a guest makes it panic, allocate beyond a stated bound, or work beyond a stated
//! budget in one call.
//!
//! Why two vCPUs can not process one command queue, and why no wake-up is lost: [`queue`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod command;
mod config;
mod entry;
mod error;
pub mod gic;
mod host;
pub mod id_registers;
mod ids;
mod its;
pub mod lint;
pub mod queue;
pub mod redist;
pub mod regs;
pub mod report;
mod table;

pub use config::{Config, ConfigError, MemoryErrors, Sticky};
pub use entry::{CTE_UNMAPPED, Cte, Dte, Ite};
pub use error::{Blocked, CommandError, Counters};
pub use host::{GuestMemory, LpiSink, MemoryError};
pub use ids::{CollectionId, DeviceId, EventId, LPI_BASE, LPI_COUNT, LPI_END, Lpi, Target};
pub use its::{Its, Progress, RestoreError, SaveError, State, TranslationCache};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
