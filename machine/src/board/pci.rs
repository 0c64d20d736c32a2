//! Plugging PCI functions into a board's bus 0, with their pins and message controller.

use trapline_device::{Line, MsiController};
use trapline_pci::{Bus, Devfn, Edu, Function, Pin, Slot};

use crate::Error;

/// The last device of a bus.
const LAST_DEVICE: u8 = 31;

/// The slots of a board's bus 0, with the wires that lead to them.
pub(crate) struct PciSlots<'a> {
    pub(crate) bus: &'a Bus,
    /// Where a pin of a device goes.
    pub(crate) pin: &'a dyn Fn(u8, Pin) -> Line,
    /// Where messages go, if the interrupt controller takes any.
    pub(crate) messages: Option<&'a dyn MsiController>,
}

impl PciSlots<'_> {
    /// Plugs a function in, which is called `name` and interrupts by INTA#, if by a pin.
    pub(crate) fn plug(
        &self,
        name: &str,
        devfn: Devfn,
        make: impl FnOnce(Slot<'_>) -> Function,
    ) -> Result<(), Error> {
        let pin = Some((self.pin)(devfn.device(), Pin::A));
        let slot = Slot { name, devfn, pin, messages: self.messages };
        Ok(self.bus.insert(devfn, make(slot))?)
    }

    /// Plugs as many educational devices in, as device `first` and those behind it.
    pub(crate) fn plug_edus(&self, first: u8, count: u8) -> Result<(), Error> {
        let devices = (first..=LAST_DEVICE).zip(0..count);
        devices.into_iter().try_for_each(|(device, n)| {
            self.plug(&format!("edu{n}"), Devfn::from_bits(device << 3), Edu::function)
        })
    }
}
