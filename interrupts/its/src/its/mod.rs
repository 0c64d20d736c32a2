//! The ITS: two register frames, a command queue, and signals that become LPIs.

mod cache;
mod collections;
mod core;
mod exec;
mod registers;
mod state;
mod tables;

pub use cache::TranslationCache;
pub use state::{RestoreError, SaveError, State};

use self::core::Core;
use crate::command::{Command, Executed};
use crate::config::{Config, ConfigError, MemoryErrors};
use crate::error::{Blocked, CommandError, Counters, bump};
use crate::host::{GuestMemory, LpiSink};
use crate::queue::Queue;
use crate::{CollectionId, DeviceId, EventId, Lpi, Target};

/// How far the command queue got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "commands may be left, which somebody has to process"]
pub enum Progress {
    /// Nothing is left to do.
    Idle,
    /// The budget is used up and commands are left: call [`Its::process`] before the vCPU runs
    /// again, or from elsewhere. A driver that reads `CREADR` or `CTLR` makes progress too.
    More,
    /// The queue stopped at a command ([`MemoryErrors::Stall`]).
    Stalled,
}

/// An interrupt translation service.
///
/// Between calls everything is at rest: no command is half done. Memory held on the host is
/// bounded by [`Its::MEMORY_BOUND`] whatever the guest does; devices and events are in guest RAM.
#[derive(Clone, Debug)]
pub struct Its {
    queue: Queue,
    core: Core,
}

impl Its {
    /// The most heap memory an ITS holds, bytes: the targets of 65,536 collections.
    pub const MEMORY_BOUND: usize = 65_536 * 4;

    /// An ITS after reset.
    ///
    /// # Errors
    /// The configuration contradicts itself.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { queue: Queue::default(), core: Core::new(config) })
    }

    /// Back to the state after [`new`](Self::new). Counters go on; caches are void.
    pub fn reset(&mut self) {
        let Core { config, generation, ref counters, .. } = self.core;
        let counters = counters.clone();
        self.core = Core { generation, counters, ..Core::new(config) };
        self.core.changed();
        self.queue = Queue::default();
    }

    /// What it was built as.
    pub const fn config(&self) -> &Config {
        &self.core.config
    }

    /// `GITS_CTLR.Enabled`.
    pub const fn enabled(&self) -> bool {
        self.core.enabled
    }

    /// What it has counted.
    pub const fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// The collections commands have named, with their targets, in ascending order. Empty while
    /// the ITS is disabled: they are in guest RAM then.
    pub fn collections(&self) -> impl Iterator<Item = (CollectionId, Option<Target>)> {
        self.core.collections.iter()
    }

    pub(crate) const fn generation(&self) -> u64 {
        self.core.generation
    }

    pub(crate) const fn core(&self) -> &Core {
        &self.core
    }

    /// Executes at most `budget` commands.
    pub fn process(
        &mut self,
        mem: &impl GuestMemory,
        sink: &mut impl LpiSink,
        budget: u32,
    ) -> Progress {
        for _ in 0..budget {
            if self.step(mem, sink).is_none() {
                break;
            }
        }
        match () {
            () if self.queue.stalled() => Progress::Stalled,
            () if self.core.enabled && self.queue.has_work() => Progress::More,
            () => Progress::Idle,
        }
    }

    /// Executes the command at `CREADR`, if there is one and the ITS is enabled, and says which
    /// it was and how it went.
    pub fn step(&mut self, mem: &impl GuestMemory, sink: &mut impl LpiSink) -> Option<Executed> {
        if !self.core.enabled {
            return None;
        }
        let drain = self.queue.drain();
        let (offset, words) = drain.front(mem)?;
        let command = words.ok().map(Command::decode);
        let result = match &command {
            Some(command) => self.core.execute(command, mem, sink),
            None => Err(CommandError::QueueMemory),
        };
        let memory = matches!(result, Err(CommandError::QueueMemory | CommandError::TableMemory));
        if memory && self.core.config.memory_errors == MemoryErrors::Stall {
            drain.stall();
        } else {
            drain.pop();
        }
        self.core.counters.command(result);
        let executed = Executed { offset, command, result };
        sink.executed(&executed);
        Some(executed)
    }

    /// What a signal of `event` by `device` becomes. Reads the tables in guest RAM: with two
    /// levels three numbers, else two.
    ///
    /// # Errors
    /// Why it comes to nothing.
    pub fn translate(
        &self,
        mem: &impl GuestMemory,
        device: DeviceId,
        event: EventId,
    ) -> Result<(Lpi, Target), Blocked> {
        self.core.translate(mem, device, event)
    }

    /// A device's write of `data`, `size` bytes wide, to `GITS_TRANSLATER`: translates, makes the
    /// LPI pending, counts. 16-bit data are zero-extended.
    ///
    /// The device's number comes from the bus it sits on. Signals that do not come this way but
    /// from a vCPU's store to `TRANSLATER` are dropped: a CPU has no DeviceID here.
    ///
    /// # Errors
    /// Why it came to nothing.
    pub fn msi(
        &mut self,
        mem: &impl GuestMemory,
        sink: &mut impl LpiSink,
        device: DeviceId,
        size: u32,
        data: u32,
    ) -> Result<(Lpi, Target), Blocked> {
        let result = match event(size, data) {
            Some(event) => self.translate(mem, device, event),
            None => Err(Blocked::Size),
        };
        self.deliver(result, sink)
    }

    /// As [`msi`](Self::msi), with a cache in front of the tables.
    ///
    /// # Errors
    /// Why it came to nothing.
    pub fn msi_cached(
        &mut self,
        cache: &mut TranslationCache,
        mem: &impl GuestMemory,
        sink: &mut impl LpiSink,
        device: DeviceId,
        size: u32,
        data: u32,
    ) -> Result<(Lpi, Target), Blocked> {
        let result = match event(size, data) {
            Some(event) => cache.translate(self, mem, device, event),
            None => Err(Blocked::Size),
        };
        self.deliver(result, sink)
    }

    fn deliver(
        &mut self,
        result: Result<(Lpi, Target), Blocked>,
        sink: &mut impl LpiSink,
    ) -> Result<(Lpi, Target), Blocked> {
        self.core.counters.signal(&result);
        if let Ok((lpi, target)) = result {
            sink.set_pending(target, lpi);
        }
        result
    }

    fn bad_access(&mut self) {
        bump(&mut self.core.counters.bad_accesses);
    }
}

/// The event a write of `size` bytes signals.
fn event(size: u32, data: u32) -> Option<EventId> {
    match size {
        4 => Some(EventId(data)),
        2 => Some(EventId(data & 0xffff)),
        _ => None,
    }
}
