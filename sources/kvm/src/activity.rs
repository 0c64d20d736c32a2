//! What a stopped vCPU was doing, and which interrupts wait for it: for who asks why a guest hangs.

use trapline_device::{Direction, Space};

use crate::exit::{Exit, Io};
use crate::{Error, Vcpu, arch};

/// What a stopped vCPU goes on with when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Its next instruction.
    Runs,
    /// Nothing, until an interrupt wakes it. KVM does not tell this of an arm64 processor that waits by
    /// `wfi`, which runs.
    Halted,
    /// Nothing, until another vCPU starts it.
    AwaitsStart,
}

/// An access that a vCPU waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The space of its address.
    pub space: Space,
    /// Its address.
    pub addr: u64,
    /// Its direction.
    pub direction: Direction,
}

impl Vcpu {
    /// What it goes on with.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn activity(&self) -> Result<Activity, Error> {
        arch::activity(self.fd()).map_err(Error::ioctl("tell what a vCPU is doing"))
    }

    /// The access that it has not finished, as somebody outside has not answered yet. It is made again
    /// when the vCPU runs.
    pub fn unfinished(&self) -> Option<Unfinished> {
        Some(match self.unfinished.as_ref()? {
            Exit::Io(Io { port, direction, .. }) => {
                Unfinished { space: Space::Pio, addr: (*port).into(), direction: *direction }
            }
            Exit::Mmio { addr, direction, .. } => {
                Unfinished { space: Space::Mmio, addr: *addr, direction: *direction }
            }
            _ => return None,
        })
    }
}
