//! A vCPU for who debugs its guest: stopped right after an access or at an instruction, its registers
//! read and written.

use crate::arch::{self, Processor};
use crate::exit::DebugExit;
use crate::kick::Kick;
use crate::run::Stop;
use crate::{Error, Vcpu};

/// Stops one vCPU after the access that it makes. Clones are the same brake.
#[derive(Clone, Debug)]
pub struct Brake(Kick);

impl Brake {
    /// Has the vCPU stop ([`Stop::Braked`]) as soon as the access that it makes is complete and the
    /// instruction over, which is before it executes another one. To be called in the middle of the
    /// access, on the vCPU's own thread; from elsewhere it stops wherever it is.
    pub fn pull(&self) {
        self.0.pull_brake();
    }
}

/// What a vCPU stops at besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traps {
    /// After each instruction.
    pub step: bool,
    /// At instructions that were written into memory to stop it (x86-64 `int3`, arm64 `brk`): where
    /// they are, as virtual addresses. Those of the guest's own reach the guest.
    pub software: Vec<u64>,
    /// Before the instructions at these virtual addresses, by the processor's debug registers.
    pub breakpoints: Vec<u64>,
    /// After accesses to these places, on arm64 before them.
    pub watchpoints: Vec<Watchpoint>,
    /// It stands still while others run.
    pub held: bool,
}

impl Traps {
    /// Whether it is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A place in virtual memory whose accesses are to stop a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchpoint {
    /// Its first byte.
    pub addr: u64,
    /// How many bytes: 1, 2, 4 or 8, and a multiple of that is the address.
    pub len: u64,
    /// When it is read.
    pub read: bool,
    /// When it is written.
    pub write: bool,
}

/// Why a vCPU stopped for who debugs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugStop {
    /// It has executed an instruction.
    Step,
    /// It is at one of [`Traps::software`].
    Software(u64),
    /// It is at one of [`Traps::breakpoints`].
    Hardware(u64),
    /// Something was accessed there, at one of [`Traps::watchpoints`].
    Watch(u64),
}

/// What an exit for debugging means on this architecture.
pub(crate) enum Debugged {
    Stop(DebugStop),
    /// An instruction of the guest's own, for the guest.
    Guests,
}

impl Vcpu {
    /// Its brake.
    pub fn brake(&self) -> Brake {
        Brake(self.kick().clone())
    }

    /// Its last accesses to devices and the last writes that KVM had queued, by whatever vCPU,
    /// oldest first, as in a [`crate::CrashReport`].
    pub fn recent(&self) -> Vec<String> {
        self.handle.recent().iter().map(ToString::to_string).collect()
    }

    /// The registers of a stopped vCPU.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn processor(&self) -> Result<Processor, Error> {
        Processor::of(self.fd()).map_err(Error::ioctl("read the registers"))
    }

    /// Writes the registers of a stopped vCPU, but for those that [`Processor`] says.
    ///
    /// # Errors
    /// It has not made its last access, which waits for somebody outside; or KVM's refusal.
    pub fn set_processor(&self, processor: &Processor) -> Result<(), Error> {
        if self.unfinished.is_some() {
            return Err(Error::InAccess { vcpu: self.index() });
        }
        processor.put(self.fd()).map_err(Error::ioctl("write the registers"))
    }

    /// Says what a stopped vCPU is to stop at when it runs.
    ///
    /// # Errors
    /// More than the processor has debug registers for, or KVM's refusal. It stops at what it did
    /// before.
    pub fn set_traps(&mut self, traps: &Traps) -> Result<(), Error> {
        if *traps == self.traps {
            return Ok(());
        }
        arch::set_traps(self.fd(), traps, false)?;
        self.traps = traps.clone();
        Ok(())
    }

    /// Stands still until it is to stop ([`Traps::held`]).
    pub(crate) fn stand_still(&self) -> Stop {
        while !self.kick().is_stopping() {
            std::thread::park();
        }
        self.kick().acknowledge();
        Stop::Requested
    }

    /// Whether it is at one of [`Traps::software`]. A KVM that emulates the guest's code may not know
    /// the instruction that is there, and give up.
    pub(crate) fn at_breakpoint(&self) -> Option<Stop> {
        if self.traps.software.is_empty() {
            return None;
        }
        let pc = self.processor().ok()?.pc();
        self.traps.software.contains(&pc).then_some(Stop::Debug(DebugStop::Software(pc)))
    }

    /// It came to something that [`Vcpu::set_traps`] asked for.
    pub(crate) fn debugged(&mut self, exit: &DebugExit) -> Option<Stop> {
        match arch::debugged(self.fd(), &self.traps, exit) {
            Ok(Debugged::Stop(stop)) => Some(Stop::Debug(stop)),
            Ok(Debugged::Guests) => {
                let given = arch::give_to_guest(self.fd(), &self.traps, exit);
                given.err().map(|error| self.crash(format!("its own breakpoint is lost: {error}")))
            }
            Err(error) => Some(self.crash(format!("KVM does not tell its registers: {error}"))),
        }
    }
}
