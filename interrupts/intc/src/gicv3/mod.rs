//! A GICv3 with one ITS as devices of a board.
//!
//! Spec: Arm IHI 0069. The chips are [`gicv3_its`]'s; here is what connects them.
//!
//! ```text
//!   Line ──► spi(n) ──┐
//!   Line ──► ppi(n) ──┤                 ┌──► IRQ and FIQ of each processor (Line)
//!                     ├─► distributor,  │
//!   MsiController ────┤   redistributors┴◄── interface(): ICC_* registers
//!     DeviceID known  │   ▲ pending LPIs
//!     by the sink     └─► ITS ◄──► tables and command queue in guest RAM
//! ```
//!
//! All of it is behind one lock, which is the "command queue lock" of the ITS: see
//! [`gicv3_its::queue`] for why two vCPUs writing `GITS_CWRITER` cannot both process the queue and
//! why no command is left behind. An access executes at most [`gicv3_its::Config::budget`]
//! commands; what is left goes on with the next access to any of the frames, and with
//! [`GicV3::work`], which the source calls before it lets a processor run.

mod frames;
mod interface;
mod state;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use gicv3_its::gic::Gic;
pub use gicv3_its::regs::TRANSLATER;
use gicv3_its::report::Report;
pub use gicv3_its::{Config, ConfigError};
use gicv3_its::{DeviceId, GuestMemory, Its, MemoryError, Progress, Target, TranslationCache};
use parking_lot::Mutex;
use trapline_device::{Device, Handler, Line, LineSink, MsiController, MsiSink};
use trapline_guestmem::GuestMem;

use self::frames::{Distributor, ItsFrames, Redistributors};
use self::interface::Interfaces;
pub use self::interface::{FRAME as INTERFACE_FRAME, MAP as INTERFACE_MAP};

/// Table entries that a report looks at.
const REPORT_ENTRIES: u32 = 1 << 20;

/// Guest RAM as the chips use it.
struct Ram(GuestMem);

impl GuestMemory for Ram {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        self.0.read(address, data).map_err(|_| MemoryError)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.0.write(address, data).map_err(|_| MemoryError)
    }

    fn read_u64(&self, address: u64) -> Result<u64, MemoryError> {
        self.0.read_u64(address).map_err(|_| MemoryError)
    }
}

/// What a GICv3 is built as.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Processors, 1 to 512.
    pub processors: u16,
    /// Shared peripheral interrupts, at most 988.
    pub spis: u16,
    /// The ITS.
    pub its: Config,
}

/// A processor's interrupt inputs.
#[derive(Debug)]
pub struct Outputs {
    /// High while a Group 1 interrupt is signalled.
    pub irq: Line,
    /// High while a Group 0 interrupt is signalled.
    pub fiq: Line,
}

/// A GICv3 with one ITS.
pub struct GicV3 {
    // Wiring.
    ram: Ram,
    /// In the order of the processors' numbers.
    outputs: Vec<Outputs>,
    inner: Mutex<Inner>,
}

struct Inner {
    gic: Gic,
    its: Its,
    cache: TranslationCache,
    /// Commands are left in the queue.
    more: bool,
}

impl Inner {
    /// Executes a slice of the command queue if some is left to do.
    fn slice(&mut self, ram: &Ram) {
        if self.more {
            let budget = self.its.config().budget;
            let sink = &mut self.gic.redistributors.sink(ram);
            self.more = self.its.process(ram, sink, budget) == Progress::More;
        }
    }
}

impl GicV3 {
    /// A GIC after reset. `outputs` are its processors' inputs, as many as there are processors.
    ///
    /// # Errors
    /// The ITS's configuration contradicts itself.
    pub fn new(
        build: &Build,
        ram: GuestMem,
        outputs: Vec<Outputs>,
    ) -> Result<Arc<Self>, ConfigError> {
        let inner = Inner {
            gic: Gic::new(build.processors, build.spis),
            its: Its::new(build.its)?,
            cache: TranslationCache::new(),
            more: false,
        };
        Ok(Arc::new(Self { ram: Ram(ram), outputs, inner: Mutex::new(inner) }))
    }

    /// The distributor's frame, 64 KiB.
    pub fn distributor(self: &Arc<Self>) -> Arc<dyn Handler> {
        Arc::new(Distributor(Arc::clone(self)))
    }

    /// The redistributors' frames, 128 KiB for each processor in order.
    pub fn redistributors(self: &Arc<Self>) -> Arc<dyn Handler> {
        Arc::new(Redistributors(Arc::clone(self)))
    }

    /// The ITS's two frames, 128 KiB.
    pub fn its(self: &Arc<Self>) -> Arc<dyn Handler> {
        Arc::new(ItsFrames(Arc::clone(self)))
    }

    /// The processors' `ICC_*` registers by address, [`INTERFACE_FRAME`] bytes for each processor
    /// in order: for a client that plays the processors. No real GICv3 has this.
    pub fn interfaces(self: &Arc<Self>) -> Arc<dyn Handler> {
        Arc::new(Interfaces(Arc::clone(self)))
    }

    /// The end of a line at shared peripheral interrupt `number`, counted from 0 (INTID 32).
    pub fn spi(self: &Arc<Self>, number: u32) -> impl LineSink + use<> {
        Input { gic: Arc::clone(self), processor: None, intid: number.saturating_add(32) }
    }

    /// The end of a line at private peripheral interrupt `number` of a processor, counted from 0
    /// (INTID 16).
    pub fn ppi(self: &Arc<Self>, processor: u32, number: u32) -> impl LineSink + use<> {
        let intid = number.saturating_add(16);
        Input { gic: Arc::clone(self), processor: Some(Target(processor)), intid }
    }

    /// What takes the messages of a bus whose functions write them to `doorbell`, the board's
    /// address of `GITS_TRANSLATER`. A function's DeviceID is its Requester ID; messages to other
    /// addresses vanish.
    pub fn messages(self: &Arc<Self>, doorbell: u64) -> Arc<dyn MsiController> {
        Arc::new(Doorbell { gic: Arc::clone(self), address: doorbell })
    }

    /// Executes a slice of the command queue, if an access left some of it; says whether some is
    /// left still. To be called before a processor runs again.
    pub fn work(&self) -> bool {
        let mut inner = self.inner.lock();
        if inner.more {
            inner.slice(&self.ram);
            self.sync(&mut inner);
        }
        inner.more
    }

    /// The ITS as a table: devices, events, collections, and what was counted.
    pub fn report(&self) -> Report {
        self.inner.lock().its.report(&self.ram, REPORT_ENTRIES)
    }

    /// Derives the outputs from the state.
    fn sync(&self, inner: &mut Inner) {
        for (target, outputs) in (0..).map(Target).zip(&self.outputs) {
            let signalled = inner.gic.signalled(target, &self.ram);
            outputs.irq.set(signalled.is_some_and(|one| one.group1));
            outputs.fiq.set(signalled.is_some_and(|one| !one.group1));
        }
    }

    /// One access to any of the frames.
    fn access<T>(&self, act: impl FnOnce(&mut Inner, &Ram) -> T) -> T {
        let mut inner = self.inner.lock();
        inner.slice(&self.ram);
        let answer = act(&mut inner, &self.ram);
        self.sync(&mut inner);
        answer
    }

    fn set_line(&self, processor: Option<Target>, intid: u32, level: bool) {
        let mut inner = self.inner.lock();
        match processor {
            None => inner.gic.set_spi(intid, level),
            Some(target) => inner.gic.set_ppi(target, intid, level),
        }
        self.sync(&mut inner);
    }

    fn signal(&self, device: DeviceId, data: u32) {
        let mut inner = self.inner.lock();
        let Inner { gic, its, cache, .. } = &mut *inner;
        let sink = &mut gic.redistributors.sink(&self.ram);
        // Counted by the ITS, with its reason, where it comes to nothing.
        let _translated = its.msi_cached(cache, &self.ram, sink, device, 4, data);
        self.sync(&mut inner);
    }
}

impl Device for GicV3 {
    /// The inputs are other devices' and stay as they are.
    fn reset(&self) {
        let mut inner = self.inner.lock();
        inner.gic.reset();
        inner.its.reset();
        inner.more = false;
        self.sync(&mut inner);
    }
}

impl std::fmt::Debug for GicV3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GicV3").field("its", &self.inner.lock().its).finish_non_exhaustive()
    }
}

struct Input {
    gic: Arc<GicV3>,
    processor: Option<Target>,
    intid: u32,
}

impl LineSink for Input {
    fn set_level(&self, level: bool) {
        self.gic.set_line(self.processor, self.intid, level);
    }
}

struct Doorbell {
    gic: Arc<GicV3>,
    address: u64,
}

impl MsiController for Doorbell {
    fn sink(&self, requester: u16) -> Arc<dyn MsiSink> {
        let (gic, address) = (Arc::clone(&self.gic), self.address);
        Arc::new(Function { gic, address, device: DeviceId(requester.into()) })
    }
}

/// One function's way to the ITS: it knows who sends.
struct Function {
    gic: Arc<GicV3>,
    address: u64,
    device: DeviceId,
}

impl MsiSink for Function {
    fn send(&self, address: u64, data: u32) {
        if address == self.address {
            self.gic.signal(self.device, data);
        }
    }
}
