//! A whole PCI function: a BAR with a counter and a doorbell, and MSI-X. Each time the doorbell is
//! rung it counts, and sends the message of its only vector.

use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{Interrupt, IoCx, Ring, Size, device_state, saved_form};
use trapline_pci::{Bar, Function, FunctionBuilder, Identity, MsixLayout, PciDevice, Slot};

/// Offsets in BAR0, behind the MSI-X table and its pending bits.
pub(crate) const COUNT: u64 = 0x800;
pub(crate) const DOORBELL: u64 = 0x804;

pub(crate) struct Doorbell {
    interrupt: Interrupt,
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    count: u32,
}

saved_form! {
    struct DoorbellV1 of State, "doorbell" version 1 unchecked { count: u32 }
}

device_state!(Doorbell, DoorbellV1, state);

impl Doorbell {
    pub(crate) fn function(slot: Slot<'_>) -> Function {
        let identity = Identity { vendor: 0x1af4, device: 0x10f0, ..Identity::default() };
        let mut builder = FunctionBuilder::express(slot, &identity)
            .bar(0, Bar::Mem32 { len: 0x1000, prefetchable: false })
            .msix(MsixLayout::in_bar(0, 1));
        let interrupt = builder.interrupt(0);
        let device = Arc::new(Self { interrupt, state: Mutex::default() });
        builder.doorbell(0, DOORBELL, 4, device.clone()).build(device)
    }
}

impl Ring for Doorbell {
    fn ring(&self, _cx: &IoCx<'_>) {
        let state = &mut *self.state.lock();
        state.count = state.count.wrapping_add(1);
        self.interrupt.trigger();
    }
}

impl PciDevice for Doorbell {
    fn bar_read(&self, _cx: &IoCx<'_>, _bar: usize, offset: u64, _size: Size) -> u64 {
        if offset == COUNT { self.state.lock().count.into() } else { 0 }
    }
}
