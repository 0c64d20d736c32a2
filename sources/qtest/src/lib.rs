//! A machine without a CPU, driven in QEMU's qtest protocol.
//!
//! Spec: QEMU's documentation, "QTest Device Emulation Testing Framework", section "QTest
//! Protocol".
//!
//! ```text
//!  client ──line──► parse ──Command──► Session ──► registry, RAM        of a Target
//!         ◄─reply────────────────────────┤   └───► VirtualClock ──► woken devices
//!         ◄─IRQ raise N, IRQ lower N─────┴──── Wires ◄── lines of the devices
//! ```
//!
//! Beside it, [`qmp`] is the protocol of QEMU's monitor, by which a client changes what the machine
//! is made of.
//!
//! [`parse()`] is pure. A [`Session`] answers one client over anything that reads and writes;
//! a [`Door`] is where clients come from. Time stands still but for `clock_step` and `clock_set`
//! ([`VirtualClock`]), so that a session's answers depend on its commands alone.

#![forbid(unsafe_code)]

mod clock;
mod listen;
mod memory;
mod parse;
pub mod qmp;
mod server;
mod wires;

pub use clock::{Advance, VirtualClock};
pub use listen::{Address, BadAddress, Door, Way};
pub use parse::{Command, DATA_MAX, Encoding, FILL_MAX, Refusal, parse};
pub use server::{End, Session, Target};
pub use wires::{Pin, Side, Wires};
