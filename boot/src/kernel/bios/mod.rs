//! What a PC's BIOS leaves in RAM, for kernels that start where one has run.
//!
//! A kernel that goes back to real mode (Multiboot's do, a hypervisor's other processors, Linux with
//! `reboot=b`) finds interrupt vectors, the BIOS data area, an extended BIOS data area and the reset
//! vector. What a BIOS leaves in devices is for Multiboot kernels only ([`Bios::start`]): the others
//! are told of the interrupt controllers and set them up themselves.
//!
//! Spec: IBM PC/AT Technical Reference, "System BIOS usage"; Ralf Brown's Interrupt List for the
//! services and for `MEMORY.LST`; ACPI 6.5, section 15.1, "INT 15H, E820H".

mod code;
mod data;
mod devices;
#[cfg(test)]
mod tests;

use trapline_guestmem::GuestMem;

use crate::e820::E820Entry;
use crate::error::{Error, placing};

/// Where the board has room for a BIOS, and the devices it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bios {
    /// Guest physical address of the last [`Bios::LEN`] bytes below 1 MiB, which the memory map
    /// reserves.
    pub code: u64,
    /// The extended BIOS data area, 1 KiB that the memory map reserves; conventional memory ends
    /// there.
    pub ebda: u64,
    /// The first ports of both 8259s.
    pub pics: [u8; 2],
    /// The first port of the 8254.
    pub pit: u8,
    /// The first ports of the serial ports; 0 where there is none.
    pub serial: [u16; 4],
    /// The first ports of the printer ports.
    pub printers: [u16; 2],
    /// The reset control register.
    pub reset: u16,
}

/// Vectors of the first and of the second 8259.
const PIC_VECTORS: [u8; 2] = [0x08, 0x70];
/// The segment of the BIOS.
const SEGMENT: u16 = 0xf000;

impl Bios {
    /// Bytes of the BIOS: the last page of its segment.
    pub const LEN: u64 = 0x1000;

    /// Writes everything a BIOS leaves in RAM.
    pub(super) fn write(&self, mem: &GuestMem, e820: &[E820Entry]) -> Result<(), Error> {
        let what = "BIOS";
        mem.write(data::VECTORS_AT, &self.vectors()).map_err(placing("interrupt vectors"))?;
        mem.write(data::BDA_AT, &self.data_area()).map_err(placing("BIOS data area"))?;
        mem.write(self.ebda, &data::extended()).map_err(placing(what))?;
        mem.write(self.code, &self.image(e820)?).map_err(placing(what))
    }

    /// The offset in its segment of what is at `at` in the BIOS.
    fn offset(&self, at: u16) -> u16 {
        // The BIOS is the end of a 64 KiB segment.
        u16::try_from(self.code & 0xffff).unwrap_or(0).wrapping_add(at)
    }
}
