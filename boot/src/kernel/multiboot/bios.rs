//! What a PC's BIOS leaves behind, for kernels that start where one has run.
//!
//! Multiboot says little about devices, as its loaders run after a BIOS. Kernels that go back to
//! real mode then find interrupt vectors, interrupt controllers that use them, and a timer that
//! ticks. Linux and PVH kernels are told more and need none of this.
//!
//! Spec: IBM PC/AT Technical Reference, "System BIOS usage" (vectors 08 to 0f and 70 to 77 for
//! the interrupt controllers, 18.2 ticks per second); Intel 8259A and 8254 data sheets for the words
//! written.

use trapline_guestmem::GuestMem;

use super::LOADED_BY_MULTIBOOT;
use crate::error::{Error, placing};

/// Where the board has room for a few instructions, and the devices they are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bios {
    /// Guest physical address, in the last 64 KiB below 1 MiB, of [`Bios::LEN`] bytes that the
    /// memory map reserves.
    pub code: u64,
    /// The first ports of both 8259s.
    pub pics: [u8; 2],
    /// The first port of the 8254.
    pub pit: u8,
}

/// Entries of real mode's interrupt vector table, at address 0.
const VECTORS: usize = 256;
/// Vectors of the first and of the second 8259.
const PIC_VECTORS: [u8; 2] = [0x08, 0x70];
/// The segment of the BIOS.
const SEGMENT: u16 = 0xf000;

// Offsets of the routines in the code.
const IRET: u16 = 0x00;
const EOI_FIRST: u16 = 0x10;
const EOI_BOTH: u16 = 0x20;
const START: u16 = 0x40;

impl Bios {
    /// Bytes of code.
    pub const LEN: u64 = 0x100;

    /// Writes the vectors and the code. Returns where to start, in protected mode, so that the
    /// devices are set up and `kernel` starts then, with EAX of Multiboot's value and every other
    /// register as it was.
    pub(super) fn write(&self, mem: &GuestMem, kernel: u32) -> Result<u32, Error> {
        let what = "interrupt vectors";
        let base = self.code & 0xffff;
        let offset = u16::try_from(base).unwrap_or(0);
        let vectors: Vec<u8> = (0..VECTORS)
            .flat_map(|vector| {
                let [first, second] = PIC_VECTORS.map(usize::from);
                let routine = match vector {
                    v if (first..first + 8).contains(&v) => EOI_FIRST,
                    v if (second..second + 8).contains(&v) => EOI_BOTH,
                    _ => IRET,
                };
                [(offset + routine).to_le_bytes(), SEGMENT.to_le_bytes()].concat()
            })
            .collect();
        mem.write(0, &vectors).map_err(placing(what))?;
        let start = crate::error::below_4g(what, self.code + u64::from(START))?;
        for (at, code) in [
            (IRET, vec![0xcf]),
            (EOI_FIRST, self.end_of_interrupt(&self.pics[..1])),
            (EOI_BOTH, self.end_of_interrupt(&self.pics)),
            (START, self.start(start, kernel)),
        ] {
            mem.write(self.code + u64::from(at), &code).map_err(placing(what))?;
        }
        Ok(start)
    }

    /// push ax; the end of interrupt to each of `pics`, the second first; pop ax; iret.
    fn end_of_interrupt(&self, pics: &[u8]) -> Vec<u8> {
        const EOI: u8 = 0x20;
        let mut code = vec![0x50];
        pics.iter().rev().for_each(|port| out(&mut code, *port, EOI));
        code.extend([0x58, 0xcf]);
        code
    }

    fn start(&self, start: u32, kernel: u32) -> Vec<u8> {
        let mut code = Vec::new();
        // ICW1: ICW4 follows, cascaded, edge. ICW2: the vectors. ICW3: which input the second is
        // on. ICW4: 8086. OCW1: all masked but the timer and the second controller.
        let [first, second] = PIC_VECTORS;
        for (port, words) in
            self.pics.iter().zip([[0x11, first, 1 << 2, 1, !0b101], [0x11, second, 2, 1, !0]])
        {
            let [icw1, rest @ ..] = words;
            out(&mut code, *port, icw1);
            rest.into_iter().for_each(|word| out(&mut code, port + 1, word));
        }
        // Counter 0, both bytes, mode 2; a count of 65,536.
        out(&mut code, self.pit + 3, 0x34);
        out(&mut code, self.pit, 0);
        out(&mut code, self.pit, 0);
        // mov eax, imm32; jmp rel32
        code.push(0xb8);
        code.extend(LOADED_BY_MULTIBOOT.to_le_bytes());
        code.push(0xe9);
        let next = start.wrapping_add(u32::try_from(code.len() + 4).unwrap_or(0));
        code.extend(kernel.wrapping_sub(next).to_le_bytes());
        code
    }
}

/// mov al, imm8; out imm8, al
fn out(code: &mut Vec<u8>, port: u8, value: u8) {
    code.extend([0xb0, value, 0xe6, port]);
}

/// The routines do not reach into each other, nor beyond the end.
const _: () = assert!(START as u64 + 4 * 13 + 10 <= Bios::LEN && EOI_BOTH + 12 < START);
