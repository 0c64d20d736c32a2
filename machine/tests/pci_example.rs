//! The example of a PCI function, on a bus and driven as by a guest.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

#[path = "../../devices/pci/examples/doorbell/doorbell.rs"]
mod doorbell;

use std::sync::Arc;

use doorbell::{COUNT, DOORBELL, Doorbell};
use parking_lot::Mutex;
use trapline::{Registry, Size, Space};
use trapline_device::{Msi, MsiController, MsiSink, SaveState};
use trapline_pci::{BridgeWindow, Bus, Devfn, Slot, WindowKind, regs};

/// Where BAR0 is put, with the MSI-X table at its start.
const BAR: u64 = 0xd000_0000;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Msi>>>);

impl MsiSink for Log {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().push(Msi { address, data });
    }
}

impl MsiController for Log {
    fn sink(&self, _requester: u16) -> Arc<dyn MsiSink> {
        Arc::new(self.clone())
    }
}

#[test]
fn its_doorbell_counts_and_sends_a_message() {
    let registry = Registry::builder().build();
    let windows = vec![BridgeWindow::identity(WindowKind::Memory, 0xd000_0000..0xe000_0000)];
    let bus = Bus::new(Arc::new(registry.downgrade()), windows);
    let (devfn, log) = (Devfn::from_bits(8), Log::default());
    let slot = Slot { name: "doorbell", devfn, pin: None, messages: Some(&log) };
    bus.insert(devfn, Doorbell::function(slot)).unwrap();

    let config = |offset, value| bus.config_write(devfn, offset, Size::Dword, value);
    config(regs::BAR0, 0xd000_0000);
    config(regs::COMMAND, 6);
    let mut handle = registry.handle(0);
    let mut write = |address, value| handle.write_value(Space::Mmio, address, Size::Dword, value);
    write(BAR, 0xfee0_0000);
    write(BAR + 8, 0x41);
    write(BAR + DOORBELL, 0);
    let mut at = bus.config_read(devfn, regs::CAPABILITIES, Size::Byte) & 0xff;
    let byte = |at: u32| bus.config_read(devfn, u16::try_from(at).unwrap(), Size::Byte) & 0xff;
    while byte(at) != 0x11 {
        at = byte(at + 1);
    }
    config(u16::try_from(at).unwrap(), 0x8000_0000);
    write(BAR + 12, 0);
    write(BAR + DOORBELL, 7);
    let message = Msi { address: 0xfee0_0000, data: 0x41 };
    assert_eq!(*log.0.lock(), [message], "what was rung before messages were enabled is lost");
    assert_eq!(handle.read_value(Space::Mmio, BAR + COUNT, Size::Dword), 2);

    let saved = bus.save();
    config(u16::try_from(at).unwrap(), 0);
    bus.restore(&saved).unwrap();
    handle.write_value(Space::Mmio, BAR + DOORBELL, Size::Dword, 7);
    assert_eq!(*log.0.lock(), [message; 2]);
    assert_eq!(handle.read_value(Space::Mmio, BAR + COUNT, Size::Dword), 3);
}
