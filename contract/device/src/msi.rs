//! Message-signalled interrupts: a write of 32 bits that an interrupt controller answers.

use std::fmt;

/// One message: what is written, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Msi {
    /// The address written to. On x86 it says which processors (Intel SDM volume 3, "Message
    /// Address Register Format").
    pub address: u64,
    /// The 32 bits written. On x86: vector, delivery mode and trigger mode ("Message Data Register
    /// Format").
    pub data: u32,
}

impl fmt::Display for Msi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} <- {:#x}", self.address, self.data)
    }
}

/// Where messages go: the processors' local interrupt controllers.
///
/// A leaf: it calls no device, so that a device may send while it holds its own lock.
pub trait MsiSink: Send + Sync {
    /// Delivers the message of `data` written to `address`, as in [`Msi`]. One that nobody accepts
    /// vanishes.
    fn send(&self, address: u64, data: u32);
}
