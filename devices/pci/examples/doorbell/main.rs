//! A PCI bus with one function on it, rung by hand. What there is to the function is in
//! `doorbell.rs`, and the board's part of it is one line.

mod doorbell;

use std::sync::Arc;

use doorbell::{COUNT, DOORBELL, Doorbell};
use trapline_device::{NoRegions, Size};
use trapline_pci::{Bus, Devfn, Slot, regs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::new(Arc::new(NoRegions), Vec::new());
    let devfn = Devfn::new(1, 0).ok_or("00:01.0 exists")?;
    let slot = Slot { name: "doorbell", devfn, pin: None, messages: None };
    // Without a registry to map its BAR in it is refused, and the reason printed.
    match bus.insert(devfn, Doorbell::function(slot)) {
        Ok(()) => println!("{:#x}", bus.config_read(devfn, regs::VENDOR_ID, Size::Dword)),
        Err(error) => println!("{devfn}: registers {COUNT:#x} and {DOORBELL:#x}: {error}"),
    }
    Ok(())
}
