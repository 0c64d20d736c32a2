//! The machine a recording runs on: an ITS, redistributors, RAM, and what a processor takes.

use std::collections::VecDeque;

use gicv3_its::command::Executed;
use gicv3_its::id_registers::{Component, IdRegisters};
use gicv3_its::redist::regs::{PENDBASER_ADDRESS, typer};
use gicv3_its::redist::{Pending, RedistConfig, RedistributorState, Redistributors, Sink};
use gicv3_its::regs::{Baser, Typer};
use gicv3_its::{Config, GuestMemory, Its, Lpi, LpiSink, MemoryErrors, Progress, Target};

use crate::ram::Ram;

/// The INTID that says "nothing pending".
const SPURIOUS: u32 = 1023;

/// What a recording says about the implementation it was made on.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) its: Config,
    pub(crate) redist: RedistConfig,
    pub(crate) typers: Vec<gicv3_its::redist::regs::Typer>,
}

impl Identity {
    /// QEMU's, for `count` processors.
    pub(crate) fn new(count: u16) -> Self {
        let redist = RedistConfig {
            iidr: 0x0000_043b,
            features: gicv3_its::redist::regs::CTLR_CES,
            ids: IdRegisters::new(Component::Redistributor),
            two_security_states: false,
        };
        let typers = (0..count).map(|number| typer(number, count.into())).collect();
        Self { its: Config::qemu(), redist, typers }
    }

    /// `CREADR` was seen stalled: memory errors stop the queue.
    pub(crate) fn stalls(&mut self) {
        self.its.memory_errors = MemoryErrors::Stall;
    }

    /// A read of a read-only ITS register said this.
    pub(crate) fn its_read(&mut self, offset: u64, size: u32, value: u64) {
        let wide = |old: u64| replace(old, offset, size, value);
        match offset {
            0x4 => self.its.iidr = low(value),
            0x8 | 0xc => self.its.typer = Typer::from_bits(wide(self.its.typer.into_bits())),
            0x100..0x140 => {
                let n = usize::try_from((offset - 0x100) / 8).unwrap_or(0);
                if let Some(baser) = self.its.basers.get_mut(n) {
                    *baser = Baser::from_bits(wide(baser.into_bits()));
                }
            }
            0xffd0.. => ids(&mut self.its.ids, offset, value),
            _ => {}
        }
    }

    /// A read of a read-only redistributor register said this.
    pub(crate) fn gicr_read(&mut self, cpu: u32, offset: u64, size: u32, value: u64) {
        match offset {
            0x0 => self.redist.features = low(value) & 0x6,
            0x4 => self.redist.iidr = low(value),
            0x8 | 0xc => {
                let typer = usize::try_from(cpu).ok().and_then(|cpu| self.typers.get_mut(cpu));
                if let Some(typer) = typer {
                    let bits = replace(typer.into_bits(), offset, size, value);
                    *typer = gicv3_its::redist::regs::Typer::from_bits(bits);
                }
            }
            0xffd0.. => ids(&mut self.redist.ids, offset, value),
            _ => {}
        }
    }
}

fn ids(ids: &mut IdRegisters, offset: u64, value: u64) {
    let byte = u8::try_from(value & 0xff).unwrap_or(0);
    match offset {
        0xffd0 => ids.pidr4 = byte,
        0xffe0 => ids.part = Some(byte),
        0xffe8 => ids.architecture = byte >> 4,
        _ => {}
    }
}

fn replace(old: u64, offset: u64, size: u32, value: u64) -> u64 {
    match (size, offset & 4) {
        (8, _) => value,
        (_, 0) => (old & !0xffff_ffff) | (value & 0xffff_ffff),
        _ => (old & 0xffff_ffff) | value << 32,
    }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

/// One processor's interface: which priorities are active.
#[derive(Clone, Default)]
struct Interface {
    active: Vec<u8>,
}

/// The redistributors as a sink that also remembers which commands were executed.
struct Recorder<'a> {
    sink: Sink<'a, Ram>,
    executed: &'a mut VecDeque<Executed>,
}

#[rustfmt::skip]
impl LpiSink for Recorder<'_> {
    fn targets(&self) -> u32 { self.sink.targets() }
    fn lpi_end(&self) -> u32 { self.sink.lpi_end() }
    fn set_pending(&mut self, target: Target, lpi: Lpi) { self.sink.set_pending(target, lpi); }
    fn clear_pending(&mut self, target: Target, lpi: Lpi) { self.sink.clear_pending(target, lpi); }
    fn move_pending(&mut self, from: Target, to: Target, lpi: Lpi) {
        self.sink.move_pending(from, to, lpi);
    }
    fn move_all_pending(&mut self, from: Target, to: Target) {
        self.sink.move_all_pending(from, to);
    }
    fn invalidate(&mut self, target: Target, lpi: Lpi) { self.sink.invalidate(target, lpi); }
    fn invalidate_all(&mut self, target: Target) { self.sink.invalidate_all(target); }
    fn executed(&mut self, executed: &Executed) { self.executed.push_back(*executed); }
}

/// Everything between two `meta` records.
pub(crate) struct Machine {
    pub(crate) its: Its,
    pub(crate) redist: Redistributors,
    pub(crate) ram: Ram,
    /// Commands executed and not yet compared.
    pub(crate) executed: VecDeque<Executed>,
    /// `GICD_CTLR.EnableGrp1`.
    pub(crate) group1: bool,
    interfaces: Vec<Interface>,
}

impl Machine {
    pub(crate) fn new(identity: &Identity, group1: bool) -> Result<Self, String> {
        let its = Its::new(identity.its).map_err(|error| error.to_string())?;
        let redist = Redistributors::new(identity.redist, identity.typers.iter().copied());
        let interfaces = vec![Interface::default(); identity.typers.len()];
        let (ram, executed) = (Ram::default(), VecDeque::new());
        Ok(Self { its, redist, ram, executed, group1, interfaces })
    }

    pub(crate) fn its_write(&mut self, offset: u64, size: u32, value: u64) {
        let Self { its, redist, ram, executed, .. } = self;
        let mut recorder = Recorder { sink: redist.sink(ram), executed };
        let mut progress = its.write(offset, size, value, ram, &mut recorder);
        while progress == Progress::More {
            progress = its.process(ram, &mut recorder, 64);
        }
    }

    pub(crate) fn its_read(&mut self, offset: u64, size: u32) -> u64 {
        let Self { its, redist, ram, executed, .. } = self;
        its.read(offset, size, ram, &mut Recorder { sink: redist.sink(ram), executed })
    }

    /// The guest writes memory; what is not RAM takes nothing.
    ///
    /// An implementation that keeps the pending tables in RAM sees what is written to them even
    /// while LPIs are enabled (software must not, but a test may). So this one looks there, too.
    pub(crate) fn memory_write(&mut self, address: u64, data: &[u8]) {
        let end = address.saturating_add(data.len() as u64);
        let touched = (0..self.redist.count()).map(Target).any(|target| {
            let table = self.redist.read(target, 0x78, 8) & PENDBASER_ADDRESS;
            self.redist.enabled(target) && address < table + 0x2000 && table < end
        });
        let mut states = vec![RedistributorState::default(); self.interfaces.len()];
        let written = touched && self.redist.save(&self.ram, &mut states).is_ok();
        let _no_ram = self.ram.write(address, data);
        if written && let Err(error) = self.redist.restore(&states, &self.ram) {
            unreachable!("redistributors take back what they gave: {error}");
        }
    }

    pub(crate) fn gicr_write(&mut self, target: Target, offset: u64, size: u32, value: u64) {
        self.redist.write(target, offset, size, value, &self.ram);
    }

    /// A device's signal, and what it was translated to.
    pub(crate) fn signal(&mut self, device: u32, size: u32, data: u32) -> Option<(Lpi, Target)> {
        let mut sink = self.redist.sink(&self.ram);
        self.its.msi(&self.ram, &mut sink, gicv3_its::DeviceId(device), size, data).ok()
    }

    /// Takes `intid` if it is pending and enabled on the processor.
    pub(crate) fn take(&mut self, target: Target, intid: u32) -> bool {
        let Some(lpi) = Lpi::new(intid).filter(|lpi| self.redist.pending(target, *lpi, &self.ram))
        else {
            return false;
        };
        // Which one would be next is not asked here, so what is pending besides is set aside.
        let mut alone = self.redist.clone();
        for other in self.redist.all_pending(target, &self.ram) {
            if other != lpi {
                alone.acknowledge(target, other);
            }
        }
        let enabled = alone.next(target, &self.ram).is_some();
        self.redist.acknowledge(target, lpi);
        enabled
    }

    /// Reads `ICC_IAR1_EL1`.
    pub(crate) fn acknowledge(&mut self, target: Target) -> u32 {
        let next = self.redist.next(target, &self.ram).filter(|_| self.group1);
        let interface = usize::try_from(target.0).ok().and_then(|n| self.interfaces.get_mut(n));
        let (Some(Pending { priority, lpi }), Some(interface)) = (next, interface) else {
            return SPURIOUS;
        };
        // Five bits of priority decide about preemption.
        let group = priority & 0xf8;
        // The priority mask is not recorded: all that five bits can let through passes.
        if priority >= 0xf8 || interface.active.iter().any(|active| *active <= group) {
            return SPURIOUS;
        }
        interface.active.push(group);
        self.redist.acknowledge(target, lpi);
        lpi.intid()
    }

    /// Writes `ICC_EOIR1_EL1`: the highest active priority is dropped.
    pub(crate) fn end(&mut self, target: Target, intid: u32) {
        let interface = usize::try_from(target.0).ok().and_then(|n| self.interfaces.get_mut(n));
        if let Some(interface) = interface.filter(|_| Lpi::new(intid).is_some()) {
            interface.active.pop();
        }
    }
}
