//! The frames of registers, as handlers. Widths and alignments that no register takes read 0, are
//! ignored, and are counted by the chips: they all get through to them.

use std::sync::Arc;

use gicv3_its::gic::regs::{GICR_FRAMES, SGI_BASE, name};
use gicv3_its::redist::Redistributors as Lpis;
use gicv3_its::{Its, Progress, Target};
use trapline_device::{Direction, Handler, IoCx, Limits, Rules, Size};

use super::{GicV3, Inner};

/// Every width, naturally aligned, is the chips' to judge. What is not aligned the bus cuts into
/// pieces that are.
const FRAME_RULES: Rules =
    Rules { valid: Limits::ANY, handled: Limits { unaligned: false, ..Limits::ANY } };

/// Bytes of an access as the chips count them.
fn bytes(size: Size) -> u32 {
    size.bits() / 8
}

pub(super) struct Distributor(pub(super) Arc<GicV3>);

impl Handler for Distributor {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        self.0.access(|inner, _| inner.gic.read_distributor(offset, bytes(size)))
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        self.0.access(|inner, _| inner.gic.write_distributor(offset, bytes(size), value));
    }

    fn rules(&self) -> Rules {
        FRAME_RULES
    }

    fn register(&self, offset: u64, _direction: Direction) -> Option<&'static str> {
        name(offset, true)
    }
}

pub(super) struct Redistributors(pub(super) Arc<GicV3>);

/// Whose frames they are, and the offset in them.
fn split(offset: u64) -> (Target, u64) {
    let number = u32::try_from(offset / GICR_FRAMES).unwrap_or(u32::MAX);
    (Target(number), offset % GICR_FRAMES)
}

impl Handler for Redistributors {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let (target, within) = split(offset);
        self.0.access(|inner, _| inner.gic.read_redistributor(target, within, bytes(size)))
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let (target, within) = split(offset);
        self.0.access(|inner, ram| {
            inner.gic.write_redistributor(target, within, bytes(size), value, ram);
        });
    }

    fn rules(&self) -> Rules {
        FRAME_RULES
    }

    fn register(&self, offset: u64, _direction: Direction) -> Option<&'static str> {
        let (_, within) = split(offset);
        match within.checked_sub(SGI_BASE) {
            Some(within) => name(within, false),
            None => Lpis::register_name(within),
        }
    }
}

pub(super) struct ItsFrames(pub(super) Arc<GicV3>);

impl Handler for ItsFrames {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        self.0.access(|Inner { gic, its, .. }, ram| {
            its.read(offset, bytes(size), ram, &mut gic.redistributors.sink(ram))
        })
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        self.0.access(|Inner { gic, its, more, .. }, ram| {
            let sink = &mut gic.redistributors.sink(ram);
            *more = its.write(offset, bytes(size), value, ram, sink) == Progress::More;
        });
    }

    fn rules(&self) -> Rules {
        FRAME_RULES
    }

    fn register(&self, offset: u64, _direction: Direction) -> Option<&'static str> {
        Its::register_name(offset)
    }
}
