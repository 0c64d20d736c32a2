//! A whole PCI function in one file: a BAR with a register and a doorbell, and MSI-X. Each time the
//! doorbell is rung it counts, and sends the message of its only vector.
//!
//! This file and one line of a board, which gives it a slot, are all there is to a new function.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use trapline_device::{
    Device, Form, Interrupt, IoCx, NoRegions, Ring, SaveState, Saved, Size, StateError,
};
use trapline_pci::{
    Bar, Bus, Devfn, Function, FunctionBuilder, Identity, MsixLayout, PciDevice, Slot,
};

/// Where the doorbell is in BAR0; the count is at 0.
pub(crate) const DOORBELL: u64 = 4;

pub(crate) struct Doorbell {
    interrupt: Interrupt,
    count: AtomicU32,
}

impl Doorbell {
    pub(crate) fn function(slot: Slot<'_>) -> Function {
        let identity = Identity { vendor: 0x1af4, device: 0x10f0, ..Identity::default() };
        let mut builder = FunctionBuilder::express(slot, &identity)
            .bar(0, Bar::Mem32 { len: 0x1000, prefetchable: false })
            .bar(1, Bar::Mem32 { len: 0x1000, prefetchable: false })
            .msix(MsixLayout::in_bar(1, 1));
        let interrupt = builder.interrupt(0);
        let device = Arc::new(Self { interrupt, count: AtomicU32::new(0) });
        builder.doorbell(0, DOORBELL, 4, device.clone()).build(device)
    }
}

impl Ring for Doorbell {
    fn ring(&self, _cx: &IoCx<'_>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.interrupt.trigger();
    }
}

impl PciDevice for Doorbell {
    fn bar_read(&self, _cx: &IoCx<'_>, _bar: usize, offset: u64, _size: Size) -> u64 {
        if offset == 0 { self.count.load(Ordering::Relaxed).into() } else { 0 }
    }
}

impl Device for Doorbell {
    fn reset(&self) {
        self.count.store(0, Ordering::Relaxed);
    }
}

#[derive(Serialize, Deserialize)]
struct DoorbellV1 {
    count: u32,
}

impl Form for DoorbellV1 {
    const NAME: &'static str = "doorbell";
    const VERSION: u32 = 1;
}

impl SaveState for Doorbell {
    fn save(&self) -> Saved {
        Saved::encode(&DoorbellV1 { count: self.count.load(Ordering::Relaxed) })
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        self.count.store(saved.decode::<DoorbellV1>()?.count, Ordering::Relaxed);
        Ok(())
    }
}

#[allow(dead_code, reason = "the tests have a board of their own")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::new(Arc::new(NoRegions), Vec::new());
    let devfn = Devfn::new(1, 0).ok_or("00:01.0 exists")?;
    let slot = Slot { name: "doorbell", devfn, pin: None, messages: None };
    // Without a registry to map BARs in, it stays at this: the bus says why.
    println!("{:?}", bus.insert(devfn, Doorbell::function(slot)));
    Ok(())
}
