//! The PC's platform devices, each a module that knows its data sheet and nothing of the machine
//! it is plugged into: no address, no interrupt number, no host clock.

#![forbid(unsafe_code)]

pub mod acpi_pm;
pub mod flash;
pub mod fw_cfg;
pub mod i8042;
pub mod legacy;
pub mod rtc;
pub mod serial;
pub mod testdev;

#[cfg(test)]
mod saved_tests;
