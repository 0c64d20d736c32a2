//! Saving and restoring, in the order KVM documents.
//!
//! Spec: Linux, `Documentation/virt/kvm/devices/arm-vgic-its.rst`, "ITS Restore Sequence". All
//! vCPUs are stopped. Saved are the registers here and the tables in guest RAM; the redistributors
//! save their pending tables themselves. Restored is first guest RAM, then the redistributors,
//! then this: `CBASER`, the other registers, the tables, and `CTLR` last, which runs the queue.

use core::fmt;

use super::tables::Walk;
use super::{Core, Its, Progress};
use crate::CollectionId;
use crate::config::MemoryErrors;
use crate::host::{GuestMemory, LpiSink};
use crate::queue::Queue;
use crate::regs::{
    BASER_READ_ONLY, BASERS, Baser, CBASER_WRITABLE, CREADR_STALLED, CTLR_ENABLED, CTLR_QUIESCENT,
    Cbaser, QUEUE_OFFSET,
};

/// The registers of an ITS, as numbers of fixed width. With guest RAM, all there is to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Version of this structure: [`State::VERSION`].
    pub version: u16,
    /// `GITS_CTLR`.
    pub ctlr: u32,
    /// `GITS_IIDR`; its Revision is the version of the table layout.
    pub iidr: u32,
    /// `GITS_CBASER`.
    pub cbaser: u64,
    /// `GITS_CWRITER`.
    pub cwriter: u64,
    /// `GITS_CREADR`, Stalled included.
    pub creadr: u64,
    /// `GITS_BASER<n>`.
    pub basers: [u64; BASERS],
}

impl State {
    /// The version this model writes and the only one it reads.
    pub const VERSION: u16 = 1;
}

/// Why the tables could not be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SaveError {
    /// -EFAULT: the collection table is not in RAM.
    Memory,
    /// -EINVAL: the collection table is too short for the collections in use, or the guest's
    /// tables are too large to look through.
    TooLarge,
    /// -EINVAL: the guest's tables overlap, so that no writing makes all of them consistent.
    /// With KVM's identity also: two devices of different sizes share a translation table.
    Inconsistent(RestoreError),
}

/// Why a state was refused. The ITS is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestoreError {
    /// -EINVAL: unknown version of the structure or of the table layout.
    Version,
    /// -EINVAL: a register has a value it can not have, here named.
    Register(&'static str),
    /// -EFAULT: a table is not in RAM.
    Memory,
    /// -EINVAL: a device has more EventID bits than there are.
    Device,
    /// -EINVAL: an event's INTID is no LPI.
    Interrupt,
    /// -EINVAL: an event's `next` leaves its table.
    Next,
    /// -EINVAL: a collection that is out of range, or is not in the collection table.
    Collection(CollectionId),
    /// -EEXIST: a collection is in the table twice.
    Duplicate(CollectionId),
    /// -EINVAL: a collection's target does not exist.
    Target(CollectionId),
    /// -EINVAL: more entries than [a walk](RestoreError::TooLarge) looks at, 2^26.
    TooLarge,
}

impl RestoreError {
    /// The error number KVM would return, as a positive number.
    pub const fn errno(self) -> i32 {
        match self {
            Self::Memory => 14,
            Self::Duplicate(_) => 17,
            _ => 22,
        }
    }
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("unknown version"),
            Self::Register(name) => write!(f, "{name} can not have the value saved"),
            Self::Memory => f.write_str("a table is not in RAM"),
            Self::Device => f.write_str("a device has too many EventID bits"),
            Self::Interrupt => f.write_str("an event's INTID is no LPI"),
            Self::Next => f.write_str("an event's next entry is outside its table"),
            Self::Collection(id) => write!(f, "collection {id} is out of range or not listed"),
            Self::Duplicate(id) => write!(f, "collection {id} is listed twice"),
            Self::Target(id) => write!(f, "collection {id} has a target that does not exist"),
            Self::TooLarge => f.write_str("the tables are too large to look through"),
        }
    }
}

impl core::error::Error for RestoreError {}

impl fmt::Display for SaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("the collection table is not in RAM"),
            Self::TooLarge => {
                f.write_str("the collection table is too short, or the tables too large")
            }
            Self::Inconsistent(error) => write!(f, "the guest's tables overlap: {error}"),
        }
    }
}

impl core::error::Error for SaveError {}

impl Its {
    /// Brings the tables in guest RAM up to date and returns the registers. The machine may go on
    /// afterwards; saving twice is the same as saving once. Commands may be left in the queue.
    /// `targets` is how many processors there are.
    ///
    /// # Errors
    /// The tables could not be written. The ITS itself is unchanged.
    pub fn save(&mut self, mem: &impl GuestMemory, targets: u32) -> Result<State, SaveError> {
        if self.core.enabled {
            let mut collections = self.core.collections.clone();
            self.core.walk(mem, &mut collections, Walk::Repair).map_err(|error| match error {
                RestoreError::Memory => SaveError::Memory,
                _ => SaveError::TooLarge,
            })?;
            self.core.collections = collections;
            self.core.changed();
            self.core.write_collections(mem).map_err(|error| match error {
                crate::table::TableError::Memory => SaveError::Memory,
                _ => SaveError::TooLarge,
            })?;
            // What is saved can be restored, or is not saved.
            let (mut collections, result) = self.core.read_collections(mem, targets);
            result
                .and_then(|()| self.core.walk(mem, &mut collections, Walk::Check))
                .map_err(SaveError::Inconsistent)?;
        }
        let Core { config, enabled, ref basers, .. } = self.core;
        let stalled = if self.queue.stalled() { CREADR_STALLED } else { 0 };
        Ok(State {
            version: State::VERSION,
            ctlr: if enabled { CTLR_ENABLED } else { CTLR_QUIESCENT },
            iidr: config.iidr,
            cbaser: self.queue.base().into_bits(),
            cwriter: self.queue.write().into(),
            creadr: u64::from(self.queue.read()) | stalled,
            basers: basers.map(Baser::into_bits),
        })
    }

    /// Takes a saved state over; guest RAM and the redistributors are restored already. If it was
    /// enabled, a slice of the queue is executed at the end.
    ///
    /// # Errors
    /// The state or the tables are inconsistent. This ITS and guest RAM are unchanged then.
    pub fn restore(
        &mut self,
        state: &State,
        mem: &impl GuestMemory,
        sink: &mut impl LpiSink,
    ) -> Result<Progress, RestoreError> {
        let State { version, ctlr, iidr, cbaser, cwriter, creadr, basers } = *state;
        let config = self.core.config;
        if version != State::VERSION || iidr & 0xf000 != config.iidr & 0xf000 {
            return Err(RestoreError::Version);
        }
        let enabled = ctlr & CTLR_ENABLED != 0;
        let queue = restore_queue(cbaser, cwriter, creadr)?;
        if queue.stalled() && config.memory_errors != MemoryErrors::Stall {
            return Err(RestoreError::Register("GITS_CREADR"));
        }
        let mut core = Core { basers: restore_basers(&config, &basers)?, ..Core::new(config) };
        if ctlr & !(CTLR_ENABLED | CTLR_QUIESCENT) != 0
            || (enabled && !(core.tables_valid() && queue.base().valid()))
        {
            return Err(RestoreError::Register("GITS_CTLR"));
        }
        core.enabled = enabled;
        if enabled {
            let (mut collections, result) = core.read_collections(mem, sink.targets());
            result?;
            core.walk(mem, &mut collections, Walk::Check)?;
            core.walk(mem, &mut collections, Walk::Normalise)?;
            core.collections = collections;
        }
        core.generation = self.core.generation;
        core.counters = self.core.counters.clone();
        core.changed();
        self.core = core;
        self.queue = queue;
        Ok(self.process(mem, sink, config.budget))
    }
}

fn restore_queue(cbaser: u64, cwriter: u64, creadr: u64) -> Result<Queue, RestoreError> {
    if cbaser & !CBASER_WRITABLE != 0 {
        return Err(RestoreError::Register("GITS_CBASER"));
    }
    let offset = |value: u64, name| {
        u32::try_from(value)
            .ok()
            .filter(|_| value & !QUEUE_OFFSET == 0)
            .ok_or(RestoreError::Register(name))
    };
    let read = offset(creadr & !CREADR_STALLED, "GITS_CREADR")?;
    let write = offset(cwriter, "GITS_CWRITER")?;
    let stalled = creadr & CREADR_STALLED != 0;
    Queue::restore(Cbaser::from_bits(cbaser), read, write, stalled)
        .ok_or(RestoreError::Register("GITS_CREADR or GITS_CWRITER"))
}

fn restore_basers(
    config: &crate::Config,
    values: &[u64; BASERS],
) -> Result<[Baser; BASERS], RestoreError> {
    let same = |(reset, value): (&Baser, &u64)| {
        let fixed = if reset.kind() == 0 { u64::MAX } else { BASER_READ_ONLY };
        reset.into_bits() & fixed == value & fixed
    };
    if config.basers.iter().zip(values).all(same) {
        Ok(values.map(Baser::from_bits))
    } else {
        Err(RestoreError::Register("GITS_BASER"))
    }
}
