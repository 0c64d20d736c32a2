//! Spec: QEMU's `pc-testdev` and `isa-debug-exit` devices as the published test suite
//! kvm-unit-tests drives them (`x86/README`, `x86/run`, `lib/x86`); Bochs' power-off port
//! ("Shutdown" written to 0x8900).

use trapline_regs::Access::{ReadWrite, Write};
use trapline_regs::{RegMap, row};

/// Bytes of the latch, behind either of its windows.
pub const LATCH_LEN: u32 = 4;
/// Bytes of the flush register.
pub const FLUSH_LEN: u32 = 4;
/// Interrupt lines, one port each (`lib/x86/apic.c`, `set_irq_line`).
pub const LINES: usize = 24;
/// Bytes of scratch memory (`x86/ioram.h`).
pub const SCRATCH_LEN: u32 = 0x1_0000;
/// What has to be written, byte after byte, to switch the machine off (`lib/x86/io.c`, `exit`).
pub const SHUTDOWN: &[u8; 8] = b"Shutdown";

/// The registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// 32 bits, remembered; all or any bytes of them.
    Latch,
    /// A guest physical address, whose page is to fault when it is used next.
    Flush,
    /// The same 32 bits as [`Reg::Latch`], for accesses that are to be cut into bytes.
    ByteLatch,
}

/// The first window: three registers of 32 bits (0xe0, 0xe4 and 0xe8 on the PC).
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(12, &[
    row(Reg::Latch,     "LATCH",  0, 4, ReadWrite),
    row(Reg::Flush,     "FLUSH",  4, 4, Write),
    row(Reg::ByteLatch, "LATCH8", 8, 4, ReadWrite),
]);

/// The port that switches off.
#[rustfmt::skip]
pub const POWER_MAP: RegMap<()> = RegMap::new(1, &[
    row((), "SHUTDOWN", 0, 1, Write),
]);

/// Every byte of the scratch memory is a register of this kind.
pub const SCRATCH_NAME: &str = "SCRATCH";
/// Every port of the interrupt lines is a register of this kind: 0 lowers the line, all else
/// raises it.
pub const LINE_NAME: &str = "IRQ";
