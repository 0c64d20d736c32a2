//! The LPI side of the redistributors: their `RD_base` frames, pending and configuration tables.
//!
//! Spec: Arm IHI 0069, "LPIs" and "The Redistributor register map". SGIs and PPIs are in
//! [`crate::gic`].

mod lpis;
pub mod regs;
mod state;

pub use lpis::Pending;
pub use state::RedistributorState;

use alloc::vec::Vec;

use self::lpis::{Lpis, Tables};
use self::regs::{
    CTLR_CES, CTLR_ENABLE_LPIS, CTLR_IR, MAP, PENDBASER_ADDRESS, PENDBASER_PTZ, PENDBASER_WRITABLE,
    PROPBASER_WRITABLE, Propbaser, RD_FRAME, Reg, Typer, WAKER_CHILDREN_ASLEEP,
    WAKER_PROCESSOR_SLEEP,
};
use crate::error::bump;
use crate::host::{GuestMemory, LpiSink};
use crate::id_registers::{Component, IdRegisters};
use crate::{LPI_BASE, Lpi, Target};

/// What redistributors are built as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedistConfig {
    /// `GICR_IIDR`.
    pub iidr: u32,
    /// The read-only bits of `GICR_CTLR`: CES and IR.
    pub features: u32,
    /// `PIDR` and `CIDR`.
    pub ids: IdRegisters,
    /// `GICD_CTLR.DS` is 0, so that LPI priorities are those of the non-secure half.
    pub two_security_states: bool,
}

impl Default for RedistConfig {
    fn default() -> Self {
        Self {
            iidr: 0x5400_043b,
            features: CTLR_CES | CTLR_IR,
            ids: IdRegisters::new(Component::Redistributor),
            two_security_states: false,
        }
    }
}

/// One processor's frame.
#[derive(Clone, Debug)]
struct Frame {
    typer: Typer,
    enabled: bool,
    waker: u32,
    propbaser: u64,
    pendbaser: u64,
    /// The driver said that the pending table is all zero.
    zero: bool,
    lpis: Lpis,
}

impl Frame {
    fn new(typer: Typer) -> Self {
        Self {
            typer,
            enabled: false,
            waker: WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP,
            propbaser: 0,
            pendbaser: 0,
            zero: false,
            lpis: Lpis::default(),
        }
    }

    fn tables(&self, config: &RedistConfig) -> Tables {
        Tables {
            config: Propbaser::from_bits(self.propbaser),
            pending: self.pendbaser & PENDBASER_ADDRESS,
            two_security_states: config.two_security_states,
        }
    }
}

/// The redistributors of a GIC.
///
/// Heap memory is bounded by [`Redistributors::MEMORY_BOUND`] per processor whatever the guest
/// does; work per call by one scan of 57,344 LPIs.
#[derive(Clone, Debug)]
pub struct Redistributors {
    config: RedistConfig,
    frames: Vec<Frame>,
    /// Accesses of a wrong width or alignment, or to no register.
    pub bad_accesses: u64,
    /// Times a pending table could not be written back.
    pub lost_tables: u64,
}

impl Redistributors {
    /// The most heap memory one processor's LPIs hold, bytes, besides the frame itself.
    pub const MEMORY_BOUND: usize = 57_344 / 8 * 2 + 57_344;

    /// Redistributors of as many processors as there are `typers`, after reset.
    pub fn new(config: RedistConfig, typers: impl IntoIterator<Item = Typer>) -> Self {
        let frames = typers.into_iter().map(Frame::new).collect();
        Self { config, frames, bad_accesses: 0, lost_tables: 0 }
    }

    /// Redistributors of `count` processors, sixteen to a cluster.
    pub fn of(count: u16) -> Self {
        let typers = (0..count).map(|number| regs::typer(number, count.into()));
        Self::new(RedistConfig::default(), typers)
    }

    /// Back to the state after [`new`](Self::new).
    pub fn reset(&mut self) {
        self.frames.iter_mut().for_each(|frame| *frame = Frame::new(frame.typer));
    }

    /// The register of an `RD_base` frame an access of `offset` would reach, for traces.
    pub fn register_name(offset: u64) -> Option<&'static str> {
        MAP.for_read(offset).map(|row| row.name)
    }

    /// How many processors there are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.frames.len()).unwrap_or(u32::MAX)
    }

    /// The sink for an ITS, on this memory.
    pub const fn sink<'a, M: GuestMemory>(&'a mut self, mem: &'a M) -> Sink<'a, M> {
        Sink { redistributors: self, mem }
    }

    fn frame(&self, target: Target) -> Option<&Frame> {
        self.frames.get(usize::try_from(target.0).ok()?)
    }

    /// An enabled frame and its tables.
    fn active(&mut self, target: Target) -> Option<(&mut Frame, Tables)> {
        let frame = self.frames.get_mut(usize::try_from(target.0).ok()?)?;
        let tables = frame.tables(&self.config);
        frame.enabled.then_some((frame, tables))
    }

    /// `GICR_TYPER` of a processor.
    pub fn typer(&self, target: Target) -> Option<Typer> {
        self.frame(target).map(|frame| frame.typer)
    }

    /// `GICR_CTLR.EnableLPIs` of a processor.
    pub fn enabled(&self, target: Target) -> bool {
        self.frame(target).is_some_and(|frame| frame.enabled)
    }

    /// Whether an LPI is pending; while LPIs are disabled, whether its bit is set in guest RAM.
    pub fn pending(&self, target: Target, lpi: Lpi, mem: &impl GuestMemory) -> bool {
        match self.frame(target) {
            Some(frame) if frame.enabled => frame.lpis.pending(lpi),
            _ => self.all_pending(target, mem).contains(&lpi),
        }
    }

    /// All pending LPIs in ascending order; while LPIs are disabled, those with a bit set in guest
    /// RAM.
    pub fn all_pending(&self, target: Target, mem: &impl GuestMemory) -> Vec<Lpi> {
        match self.frame(target) {
            Some(frame) if frame.enabled => frame.lpis.all(),
            Some(frame) if frame.pendbaser & PENDBASER_ADDRESS != 0 => {
                lpis::in_ram(mem, &frame.tables(&self.config))
            }
            _ => Vec::new(),
        }
    }

    /// The LPI a processor would be signalled: pending, enabled, of the highest priority, among
    /// equals the lowest INTID.
    pub fn next(&mut self, target: Target, mem: &impl GuestMemory) -> Option<Pending> {
        let (frame, tables) = self.active(target)?;
        frame.lpis.next(mem, &tables)
    }

    /// The processor takes an LPI: it is not pending any more. LPIs have no active state.
    pub fn acknowledge(&mut self, target: Target, lpi: Lpi) {
        if let Some((frame, tables)) = self.active(target) {
            frame.lpis.clear(&tables, lpi);
        }
    }

    /// A guest's read of `size` bytes at `offset` of a processor's `RD_base` frame. What no
    /// register takes reads 0 and is counted.
    pub fn read(&mut self, target: Target, offset: u64, size: u32) -> u64 {
        let value = register(offset, size).and_then(|reg| self.value(target, reg, offset));
        match value {
            Some(value) if size == 8 => value,
            Some(value) if is_wide(offset) => (value >> ((offset & 4) * 8)) & 0xffff_ffff,
            Some(value) => value & 0xffff_ffff,
            None => {
                bump(&mut self.bad_accesses);
                0
            }
        }
    }

    fn value(&self, target: Target, reg: Reg, offset: u64) -> Option<u64> {
        let frame = self.frame(target)?;
        Some(match reg {
            Reg::Ctlr => {
                let enable = if frame.enabled { CTLR_ENABLE_LPIS } else { 0 };
                (self.config.features | enable).into()
            }
            Reg::Iidr => self.config.iidr.into(),
            Reg::Typer => frame.typer.into_bits(),
            Reg::Waker => frame.waker.into(),
            Reg::Propbaser => frame.propbaser,
            Reg::Pendbaser => frame.pendbaser,
            // Nothing this model does takes longer than the access that starts it.
            Reg::Syncr | Reg::Raz | Reg::Invlpir | Reg::Invallr => 0,
            Reg::Id => self.config.ids.read(offset & !3).unwrap_or(0).into(),
        })
    }

    /// A guest's write of `size` bytes at `offset` of a processor's `RD_base` frame. What no
    /// register takes is ignored and counted.
    pub fn write(
        &mut self,
        target: Target,
        offset: u64,
        size: u32,
        value: u64,
        mem: &impl GuestMemory,
    ) {
        let reg = register(offset, size);
        let Some((reg, old)) = reg.and_then(|reg| Some((reg, self.value(target, reg, offset)?)))
        else {
            bump(&mut self.bad_accesses);
            return;
        };
        let shift = if is_wide(offset) { (offset & 4) * 8 } else { 0 };
        let (mask, value) = match size {
            8 => (u64::MAX, value),
            _ => (0xffff_ffff << shift, (value & 0xffff_ffff) << shift),
        };
        let whole = (old & !mask) | value;
        let invalidates = self.config.features & CTLR_IR != 0;
        if reg == Reg::Ctlr {
            self.enable(target, whole & u64::from(CTLR_ENABLE_LPIS) != 0, mem);
        }
        let Some(frame) = usize::try_from(target.0).ok().and_then(|n| self.frames.get_mut(n))
        else {
            return;
        };
        match reg {
            Reg::Waker => {
                let sleep = whole & u64::from(WAKER_PROCESSOR_SLEEP) != 0;
                // A processor model of ours has no state to save: children follow at once.
                let asleep = WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP;
                frame.waker = if sleep { asleep } else { 0 };
            }
            // The tables are the redistributor's while LPIs are enabled.
            Reg::Propbaser if !frame.enabled => frame.propbaser = whole & PROPBASER_WRITABLE,
            Reg::Pendbaser if !frame.enabled => {
                frame.pendbaser = whole & PENDBASER_WRITABLE;
                // A write of the lower half alone says nothing about PTZ.
                if mask & PENDBASER_PTZ != 0 {
                    frame.zero = whole & PENDBASER_PTZ != 0;
                }
            }
            // A write of the upper half alone says INTID 0, which is no LPI.
            Reg::Invlpir if invalidates && frame.enabled => {
                let intid = u32::try_from(whole & 0xffff_ffff).unwrap_or(0);
                if let Some(lpi) = Lpi::new(intid) {
                    frame.lpis.invalidate(lpi);
                }
            }
            Reg::Invallr if invalidates && frame.enabled && mask & 1 != 0 => {
                frame.lpis.invalidate_all();
            }
            _ => {}
        }
    }

    fn enable(&mut self, target: Target, enable: bool, mem: &impl GuestMemory) {
        let clearable = self.config.features & CTLR_CES != 0;
        let Some(frame) = usize::try_from(target.0).ok().and_then(|n| self.frames.get_mut(n))
        else {
            return;
        };
        if enable == frame.enabled || !(enable || clearable) || !frame.typer.physical_lpis() {
            return;
        }
        let tables = frame.tables(&self.config);
        frame.enabled = enable;
        if enable {
            frame.lpis.load(mem, &tables, frame.zero);
            // Said of the table as it was then, not of what is written back to it later.
            frame.zero = false;
        } else {
            if frame.lpis.store(mem, &tables).is_err() {
                bump(&mut self.lost_tables);
            }
            frame.lpis.unload();
        }
    }
}

/// The register an access reaches, if its width and alignment are good.
fn register(offset: u64, size: u32) -> Option<Reg> {
    if offset >= RD_FRAME || !matches!(size, 4 | 8) || !offset.is_multiple_of(size.into()) {
        return None;
    }
    let row = MAP.for_read(offset)?;
    (size <= row.width).then_some(row.reg)
}

fn is_wide(offset: u64) -> bool {
    MAP.for_read(offset).is_some_and(|row| row.width == 8)
}

/// The redistributors as the ITS sees them, with the memory their tables are in.
#[derive(Debug)]
pub struct Sink<'a, M> {
    redistributors: &'a mut Redistributors,
    mem: &'a M,
}

impl<M> Sink<'_, M> {
    /// One past the largest INTID that can be pending on both; 0 unless both have their LPIs
    /// enabled.
    fn common_end(&mut self, one: Target, other: Target) -> u32 {
        let mut end = |target| self.redistributors.active(target).map(|(_, tables)| tables.end());
        end(one).zip(end(other)).map_or(0, |(one, other)| one.min(other))
    }
}

impl<M: GuestMemory> LpiSink for Sink<'_, M> {
    fn targets(&self) -> u32 {
        self.redistributors.count()
    }

    fn lpi_end(&self) -> u32 {
        let ends = self.redistributors.frames.iter();
        let end = ends.map(|frame| frame.tables(&self.redistributors.config).end()).max();
        end.filter(|end| *end > LPI_BASE).unwrap_or(0)
    }

    fn set_pending(&mut self, target: Target, lpi: Lpi) {
        if let Some((frame, tables)) = self.redistributors.active(target) {
            frame.lpis.set(self.mem, &tables, lpi);
        }
    }

    fn clear_pending(&mut self, target: Target, lpi: Lpi) {
        self.redistributors.acknowledge(target, lpi);
    }

    fn move_pending(&mut self, from: Target, to: Target, lpi: Lpi) {
        // Beyond what both admit nothing can be pending, or would get lost on the way.
        if lpi.intid() < self.common_end(from, to)
            && self.redistributors.pending(from, lpi, self.mem)
        {
            self.clear_pending(from, lpi);
            self.set_pending(to, lpi);
        }
    }

    fn move_all_pending(&mut self, from: Target, to: Target) {
        let end = self.common_end(from, to);
        let index = |target: Target| usize::try_from(target.0).unwrap_or(usize::MAX);
        let frames = self.redistributors.frames.get_disjoint_mut([index(from), index(to)]);
        if let Ok([from, to]) = frames {
            from.lpis.move_to(&mut to.lpis, end);
        }
    }

    fn invalidate(&mut self, target: Target, lpi: Lpi) {
        if let Some((frame, _)) = self.redistributors.active(target) {
            frame.lpis.invalidate(lpi);
        }
    }

    fn invalidate_all(&mut self, target: Target) {
        if let Some((frame, _)) = self.redistributors.active(target) {
            frame.lpis.invalidate_all();
        }
    }
}
