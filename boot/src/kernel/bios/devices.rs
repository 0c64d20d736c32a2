//! What a BIOS leaves in devices: interrupt controllers that use its vectors, and a timer that
//! ticks.
//!
//! Spec: Intel 8259A and 8254 data sheets for the words written.

use trapline_guestmem::GuestMem;

use super::code::{START, out};
use super::{Bios, PIC_VECTORS};
use crate::error::{Error, placing};
use crate::kernel::multiboot::LOADED_BY_MULTIBOOT;

impl Bios {
    /// Writes the first instructions of a Multiboot kernel, in the BIOS. Returns where to start, in
    /// protected mode, so that the devices are set up and `kernel` starts then, with EAX of
    /// Multiboot's value and every other register as it was.
    pub(in crate::kernel) fn start(&self, mem: &GuestMem, kernel: u32) -> Result<u32, Error> {
        let what = "BIOS";
        let start = crate::error::below_4g(what, self.code + u64::from(START))?;
        mem.write(start.into(), &self.start_code(start, kernel)).map_err(placing(what))?;
        Ok(start)
    }

    fn start_code(&self, start: u32, kernel: u32) -> Vec<u8> {
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
