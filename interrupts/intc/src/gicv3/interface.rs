//! The processors' interfaces, by address: for a client that plays the processors and has no
//! system registers.
//!
//! Spec: Arm IHI 0069, "CPU interface" and the `ICC_*_EL1` registers, whose names and fields these
//! have. Their offsets are this project's own.

use std::sync::Arc;

use gicv3_its::Target;
use gicv3_its::gic::{Gic, SPURIOUS};
use trapline_device::{Direction, Handler, IoCx, Limits, Rules, Size};
use trapline_regs::{Access, RegMap, row};

use super::GicV3;

/// Bytes of one processor's registers.
pub const FRAME: u64 = 0x1000;

/// `ICC_CTLR_EL1.EOImode`. IHI 0069, `ICC_CTLR_EL1`.
const CTLR_EOI_MODE: u64 = 1 << 1;
/// `ICC_CTLR_EL1`, what is fixed: PRIbits (10:8), less one, 4; IDbits (13:11) 0, 16 bits; A3V 0.
const CTLR_FIXED: u64 = 4 << 8;
/// `ICC_BPR1_EL1`: all five bits of priority are group priority.
const BPR: u64 = 3;

/// A register of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// `ICC_CTLR_EL1`: EOImode.
    Ctlr,
    /// `ICC_PMR_EL1`: the priority mask.
    Pmr,
    /// `ICC_BPR1_EL1`, fixed.
    Bpr,
    /// `ICC_RPR_EL1`: the running priority.
    Rpr,
    /// `ICC_IGRPEN0_EL1` or (true) `ICC_IGRPEN1_EL1`.
    Igrpen(bool),
    /// `ICC_IAR0_EL1` or (true) `ICC_IAR1_EL1`: reading takes the interrupt.
    Iar(bool),
    /// `ICC_EOIR0_EL1` or (true) `ICC_EOIR1_EL1`.
    Eoir(bool),
    /// `ICC_HPPIR0_EL1` or (true) `ICC_HPPIR1_EL1`.
    Hppir(bool),
    /// `ICC_DIR_EL1`.
    Dir,
    /// `ICC_SGI0R_EL1` or (true) `ICC_SGI1R_EL1`, 64 bits.
    Sgi(bool),
    /// `ICC_AP0R0_EL1` or (true) `ICC_AP1R0_EL1`.
    Apr(bool),
}

/// One processor's registers.
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(0x1000, &[
    row(Reg::Ctlr,          "ICC_CTLR_EL1",    0x00, 4, Access::ReadWrite),
    row(Reg::Pmr,           "ICC_PMR_EL1",     0x04, 4, Access::ReadWrite),
    row(Reg::Bpr,           "ICC_BPR1_EL1",    0x08, 4, Access::Read),
    row(Reg::Rpr,           "ICC_RPR_EL1",     0x0c, 4, Access::Read),
    row(Reg::Igrpen(false), "ICC_IGRPEN0_EL1", 0x10, 4, Access::ReadWrite),
    row(Reg::Igrpen(true),  "ICC_IGRPEN1_EL1", 0x14, 4, Access::ReadWrite),
    row(Reg::Iar(false),    "ICC_IAR0_EL1",    0x20, 4, Access::Read),
    row(Reg::Iar(true),     "ICC_IAR1_EL1",    0x24, 4, Access::Read),
    row(Reg::Eoir(false),   "ICC_EOIR0_EL1",   0x28, 4, Access::Write),
    row(Reg::Eoir(true),    "ICC_EOIR1_EL1",   0x2c, 4, Access::Write),
    row(Reg::Hppir(false),  "ICC_HPPIR0_EL1",  0x30, 4, Access::Read),
    row(Reg::Hppir(true),   "ICC_HPPIR1_EL1",  0x34, 4, Access::Read),
    row(Reg::Dir,           "ICC_DIR_EL1",     0x38, 4, Access::Write),
    row(Reg::Sgi(false),    "ICC_SGI0R_EL1",   0x40, 8, Access::Write),
    row(Reg::Sgi(true),     "ICC_SGI1R_EL1",   0x48, 8, Access::Write),
    row(Reg::Apr(false),    "ICC_AP0R0_EL1",   0x50, 4, Access::Read),
    row(Reg::Apr(true),     "ICC_AP1R0_EL1",   0x54, 4, Access::Read),
]);

pub(super) struct Interfaces(pub(super) Arc<GicV3>);

/// Whose registers they are, and the offset in them.
fn split(offset: u64) -> (Target, u64) {
    (Target(u32::try_from(offset / FRAME).unwrap_or(u32::MAX)), offset % FRAME)
}

impl Handler for Interfaces {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let (target, within) = split(offset);
        let row = MAP
            .for_read(within)
            .filter(|row| u64::from(row.offset) == within && row.width == size.bits() / 8);
        let Some(row) = row else { return 0 };
        self.0.access(|inner, ram| match row.reg {
            Reg::Iar(group1) => inner.gic.acknowledge(target, group1, ram).into(),
            Reg::Hppir(group1) => {
                let highest = inner.gic.highest(target, ram);
                highest.filter(|one| one.group1 == group1).map_or(SPURIOUS, |one| one.intid).into()
            }
            reg => value(&inner.gic, target, reg),
        })
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let (target, within) = split(offset);
        let row = MAP
            .for_write(within)
            .filter(|row| u64::from(row.offset) == within && row.width == size.bits() / 8);
        if let Some(row) = row {
            self.0.access(|inner, _| store(&mut inner.gic, target, row.reg, value));
        }
    }

    /// Reading `ICC_IAR*_EL1` has a side effect, so nothing narrower is made into it.
    fn rules(&self) -> Rules {
        let limits = Limits { min: Size::Dword, max: Size::Qword, unaligned: false };
        Rules { valid: limits, handled: limits }
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        let (_, within) = split(offset);
        let row = match direction {
            Direction::Read => MAP.for_read(within),
            Direction::Write => MAP.for_write(within),
        };
        row.map(|row| row.name)
    }
}

/// A register that can be read without side effects.
fn value(gic: &Gic, target: Target, reg: Reg) -> u64 {
    let cpu = usize::try_from(target.0).ok().and_then(|n| gic.cpus.get(n));
    let Some(cpu) = cpu else { return 0 };
    let [active0, active1] = cpu.active;
    match reg {
        Reg::Ctlr => CTLR_FIXED | if cpu.separate_deactivate { CTLR_EOI_MODE } else { 0 },
        Reg::Pmr => cpu.mask.into(),
        Reg::Bpr => BPR,
        Reg::Rpr => cpu.running().into(),
        Reg::Igrpen(false) => cpu.group0.into(),
        Reg::Igrpen(true) => cpu.group1.into(),
        Reg::Apr(false) => active0.into(),
        Reg::Apr(true) => active1.into(),
        Reg::Iar(_) | Reg::Hppir(_) | Reg::Eoir(_) | Reg::Dir | Reg::Sgi(_) => 0,
    }
}

fn store(gic: &mut Gic, target: Target, reg: Reg, value: u64) {
    let [low, ..] = value.to_le_bytes();
    let intid = u32::try_from(value & 0xff_ffff).unwrap_or(0);
    match reg {
        Reg::Eoir(group1) => return gic.end(target, group1, intid),
        Reg::Dir => return gic.deactivate(target, intid),
        Reg::Sgi(group1) => return gic.send_sgi(target, group1, value),
        _ => {}
    }
    let cpu = usize::try_from(target.0).ok().and_then(|n| gic.cpus.get_mut(n));
    let Some(cpu) = cpu else { return };
    match reg {
        Reg::Ctlr => cpu.separate_deactivate = value & CTLR_EOI_MODE != 0,
        // Five bits of priority are implemented.
        Reg::Pmr => cpu.mask = low & 0xf8,
        Reg::Igrpen(false) => cpu.group0 = value & 1 != 0,
        Reg::Igrpen(true) => cpu.group1 = value & 1 != 0,
        _ => {}
    }
}
