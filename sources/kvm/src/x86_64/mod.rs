//! What is particular to x86-64.

mod chips;
mod cpuid;
mod power_on;
mod registers;
mod start;

pub(crate) use chips::{PowerOnChips, set_up_vm};
pub(crate) use cpuid::{CpuModel, hardware_virtualization};
pub(crate) use power_on::PowerOn;
pub(crate) use registers::{code_address, describe_registers, entry_failure_hint};
pub use start::{Start, Table};
