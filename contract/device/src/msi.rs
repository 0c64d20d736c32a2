//! Message-signalled interrupts: a write of 32 bits that an interrupt controller answers.

use std::fmt;
use std::sync::Arc;

use crate::{MessageVector, SinkVector};

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

/// What takes the messages of a bus: gives each function a sink of its own.
///
/// Some controllers tell functions apart by who sends (the ITS of a GICv3: by DeviceID); a
/// function does not know who it is, so its sink does.
pub trait MsiController: Send + Sync {
    /// The sink of the function whose PCI Requester ID is `requester`: bus in bits 15:8, device
    /// in bits 7:3, function in bits 2:0.
    fn sink(&self, requester: u16) -> Arc<dyn MsiSink>;

    /// A new vector, masked, of that function.
    fn vector(&self, requester: u16) -> Arc<dyn MessageVector> {
        Arc::new(SinkVector::new(self.sink(requester)))
    }
}
