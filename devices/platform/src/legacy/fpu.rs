//! The coprocessor ports 0xf0 and 0xf1.
//!
//! Spec: IBM PC/AT Technical Reference (1984), "Math coprocessor": a write to 0xf0 clears the
//! latched BUSY that an error left behind, and interrupt 13 with it; a write to 0xf1 resets an
//! 80287. Both are write-only.

use trapline_device::{Direction, Handler, IoCx, Rules, Size};

use super::regs::FPU;

/// Ports 0xf0 and 0xf1. Writes are complete without an effect: KVM's vCPUs never raise FERR, as
/// every kernel since the 80486 takes exception 16 instead (CR0.NE), so no error is ever latched;
/// and 0xf1 has no effect on a 387 and later. Reads are all ones, as nobody drives the bus.
#[derive(Clone, Copy, Debug, Default)]
pub struct FpuPorts;

impl Handler for FpuPorts {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, size: Size) -> u64 {
        size.ones()
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, offset: u64, _direction: Direction) -> Option<&'static str> {
        FPU.for_write(offset).map(|row| row.name)
    }
}
