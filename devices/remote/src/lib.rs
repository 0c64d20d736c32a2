//! Devices behind a file descriptor, as the `ioregionfd` patches for KVM had them: each access of the
//! guest to a region is a command of 32 bytes, and its answer a response of 32 bytes.
//!
//! Spec: the RFC series "Introduce MMIO/PIO dispatch file descriptors (ioregionfd)" for Linux's KVM,
//! v1 (2020-12-29), v2 (2021-01-28) and v3 (2021-02-21). No kernel has it.
//!
//! [`wire`] is what goes over the descriptor. It has no I/O and needs no operating system;
//! `include/ioregionfd.h` says the same to authors of devices in C.
#![no_std]
#![forbid(unsafe_code)]

pub mod wire;
