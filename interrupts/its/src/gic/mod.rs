//! A GICv3 distributor, the SGI and PPI side of its redistributors, and processor interfaces:
//! enough to deliver LPIs, SPIs, PPIs and SGIs to a software processor or a test.
//!
//! Spec: Arm IHI 0069. One security state (`GICD_CTLR.DS` is 1), affinity routing always on, five
//! bits of priority, no extended ranges, no message-based SPIs.

mod cpu;
mod interrupts;
mod registers;
pub mod regs;
mod state;

pub use cpu::{CpuInterface, IDLE};
pub use interrupts::Interrupt;
pub use state::{GicState, InterruptState, ProcessorState};

use alloc::vec;
use alloc::vec::Vec;

use self::interrupts::Interrupts;
use self::regs::{CTLR_ENABLE_GROUP0, CTLR_ENABLE_GROUP1, IROUTER_ANY};
use crate::host::GuestMemory;
use crate::redist::Redistributors;
use crate::{Lpi, Target};

/// The INTID that says that there is nothing.
pub const SPURIOUS: u32 = 1023;
/// One past the last INTID that can be an SPI.
pub const SPI_END: u32 = 1020;

/// What a processor is signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Its priority, 0 the highest.
    pub priority: u8,
    /// Its INTID.
    pub intid: u32,
    /// Group 1; else Group 0.
    pub group1: bool,
}

/// A distributor, redistributors and processor interfaces.
///
/// Memory is bounded by its construction and [`Redistributors::MEMORY_BOUND`]; an access or a
/// question looks at each interrupt at most once.
#[derive(Clone, Debug)]
pub struct Gic {
    /// The redistributors' LPI side; the sink of an [`Its`](crate::Its).
    pub redistributors: Redistributors,
    /// Processor interfaces.
    pub cpus: Vec<CpuInterface>,
    ctlr: u32,
    shared: Interrupts,
    private: Vec<Interrupts>,
    spis: usize,
    /// Accesses of a wrong width or alignment, or to no register.
    pub bad_accesses: u64,
}

impl Gic {
    /// A GIC of `processors` processors with `spis` SPIs, at most 988, rounded up to a multiple of
    /// 32 (`GICD_TYPER.ITLinesNumber` counts those).
    pub fn new(processors: u16, spis: u16) -> Self {
        let count = usize::from(processors);
        let spis = usize::from(spis.min(988)).next_multiple_of(32).min(988);
        Self {
            redistributors: Redistributors::of(processors),
            cpus: vec![CpuInterface::default(); count],
            ctlr: 0,
            shared: Interrupts::shared(spis),
            private: vec![Interrupts::private(); count],
            spis,
            bad_accesses: 0,
        }
    }

    fn interrupts(&self, target: Target, intid: u32) -> Option<&Interrupts> {
        if intid < 32 {
            self.private.get(usize::try_from(target.0).ok()?)
        } else {
            Some(&self.shared)
        }
    }

    fn interrupt_mut(&mut self, target: Target, intid: u32) -> Option<&mut Interrupt> {
        if intid < 32 {
            self.private.get_mut(usize::try_from(target.0).ok()?)?.get_mut(intid)
        } else {
            self.shared.get_mut(intid)
        }
    }

    /// An SGI, PPI or SPI as `target` sees it.
    pub fn interrupt(&self, target: Target, intid: u32) -> Option<&Interrupt> {
        self.interrupts(target, intid)?.get(intid)
    }

    /// Drives an SPI's line; other INTIDs do nothing.
    pub fn set_spi(&mut self, intid: u32, level: bool) {
        if let Some(spi) = self.shared.get_mut(intid) {
            spi.set_line(level);
        }
    }

    /// Drives a PPI's line (INTID 16 to 31) of one processor; other INTIDs do nothing.
    pub fn set_ppi(&mut self, target: Target, intid: u32, level: bool) {
        if (16..32).contains(&intid)
            && let Some(ppi) = self.interrupt_mut(target, intid)
        {
            ppi.set_line(level);
        }
    }

    /// A processor's write of `ICC_SGI1R_EL1` (`group1`) or `ICC_SGI0R_EL1`: makes an SGI pending
    /// on every processor named, or (IRM) on every one but itself, where it is of that group. IHI
    /// 0069, `ICC_SGI1R_EL1`.
    pub fn send_sgi(&mut self, from: Target, group1: bool, value: u64) {
        let intid = u32::try_from((value >> 24) & 0xf).unwrap_or(0);
        let others = value & 1 << 40 != 0;
        let cluster =
            (value >> 48 & 0xff) << 24 | (value >> 32 & 0xff) << 16 | (value >> 16 & 0xff) << 8;
        let range = (value >> 44 & 0xf) * 16;
        for number in 0..self.redistributors.count() {
            let target = Target(number);
            let Some(typer) = self.redistributors.typer(target) else { continue };
            let affinity = u64::from(typer.affinity());
            let bit = (affinity & 0xff).checked_sub(range).filter(|bit| *bit < 16);
            let listed =
                affinity & !0xff == cluster && bit.is_some_and(|bit| value >> bit & 1 != 0);
            let meant = if others { target != from } else { listed };
            let sgi = self.interrupt_mut(target, intid);
            if let Some(sgi) = sgi.filter(|sgi| meant && sgi.group1 == group1) {
                sgi.latched = true;
            }
        }
    }

    /// Whether an SPI goes to this processor. One that may go to any goes to the first.
    fn routed(&self, target: Target, spi: &Interrupt) -> bool {
        if spi.route & IROUTER_ANY != 0 {
            return target.0 == 0;
        }
        let affinity = (spi.route >> 32 & 0xff) << 24 | spi.route & 0xff_ffff;
        let typer = self.redistributors.typer(target);
        typer.is_some_and(|typer| u64::from(typer.affinity()) == affinity)
    }

    /// `ICC_HPPIR*_EL1`: the pending, enabled interrupt of the highest priority, among equals the
    /// lowest INTID, whether or not the processor lets it through.
    pub fn highest(&mut self, target: Target, mem: &impl GuestMemory) -> Option<Candidate> {
        let open = |group1: bool| {
            let bit = if group1 { CTLR_ENABLE_GROUP1 } else { CTLR_ENABLE_GROUP0 };
            self.ctlr & bit != 0
        };
        let private = usize::try_from(target.0).ok().and_then(|n| self.private.get(n))?;
        let shared = self.shared.iter().filter(|(_, spi)| self.routed(target, spi));
        let best = private
            .iter()
            .chain(shared)
            .filter(|(_, one)| one.enabled && one.pending() && !one.active && open(one.group1))
            .map(|(intid, one)| {
                let Interrupt { priority, group1, .. } = *one;
                Candidate { priority, intid, group1 }
            })
            .min();
        let lpis = open(true);
        let lpi = self.redistributors.next(target, mem).filter(|_| lpis).map(|next| Candidate {
            priority: next.priority,
            intid: next.lpi.intid(),
            group1: true,
        });
        best.into_iter().chain(lpi).min()
    }

    /// What the processor is signalled, if anything: its interrupt line.
    pub fn signalled(&mut self, target: Target, mem: &impl GuestMemory) -> Option<Candidate> {
        let highest = self.highest(target, mem)?;
        let cpu = usize::try_from(target.0).ok().and_then(|n| self.cpus.get(n))?;
        cpu.admits(highest.group1, highest.priority).then_some(highest)
    }

    /// A read of `ICC_IAR0_EL1` or (`group1`) `ICC_IAR1_EL1`: takes the interrupt.
    pub fn acknowledge(&mut self, target: Target, group1: bool, mem: &impl GuestMemory) -> u32 {
        let Some(next) = self.signalled(target, mem).filter(|next| next.group1 == group1) else {
            return SPURIOUS;
        };
        if let Some(cpu) = usize::try_from(target.0).ok().and_then(|n| self.cpus.get_mut(n)) {
            cpu.start(group1, next.priority);
        }
        match Lpi::new(next.intid) {
            Some(lpi) => self.redistributors.acknowledge(target, lpi),
            None => {
                if let Some(interrupt) = self.interrupt_mut(target, next.intid) {
                    interrupt.acknowledge();
                }
            }
        }
        next.intid
    }

    /// A write of `ICC_EOIR0_EL1` or (`group1`) `ICC_EOIR1_EL1`.
    pub fn end(&mut self, target: Target, group1: bool, intid: u32) {
        if (SPI_END..crate::LPI_BASE).contains(&intid) {
            return;
        }
        let Some(cpu) = usize::try_from(target.0).ok().and_then(|n| self.cpus.get_mut(n)) else {
            return;
        };
        let dropped = cpu.drop_priority(group1);
        if dropped && !cpu.separate_deactivate {
            self.deactivate(target, intid);
        }
    }

    /// A write of `ICC_DIR_EL1`.
    pub fn deactivate(&mut self, target: Target, intid: u32) {
        if let Some(interrupt) = self.interrupt_mut(target, intid) {
            interrupt.active = false;
        }
    }
}
