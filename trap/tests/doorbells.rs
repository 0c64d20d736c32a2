//! Doorbells and coalesced zones: what rings them, and who has them after an edit that failed.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::Arc;

use parking_lot::Mutex;
use support::{Recorder, Source, event, rung};
use trapline::{Offload, Region, Registry, Size, Space, Zone};

#[test]
fn a_value_is_compared_in_all_bits_of_the_write() {
    for (size, bits) in [(Size::Byte, 8), (Size::Word, 16), (Size::Dword, 32), (Size::Qword, 64)] {
        let registry = Registry::builder().build();
        let device = Recorder::new();
        let (seen, bell) = event();
        let wanted = 0x8877_6655_4433_2211u64 & size.ones();
        let region = Region::mmio(0x1000, 8, "d", "r", device.clone());
        let region = region.doorbell(0, size.bytes() as u64, Some(wanted), bell);
        let _map = registry.map(region).unwrap();
        let mut handle = registry.handle(0);
        handle.write_value(Space::Mmio, 0x1000, size, wanted);
        assert_eq!((rung(&seen), device.take().len()), (1, 0));
        for bit in 0..bits {
            handle.write_value(Space::Mmio, 0x1000, size, wanted ^ 1 << bit);
            assert_eq!((rung(&seen), device.take().len()), (0, 1), "bit {bit} of {bits}");
        }
    }
}

#[test]
fn only_the_start_of_a_write_rings_and_a_write_that_rings_goes_nowhere_else() {
    let registry = Registry::builder().build();
    let (low, high) = (Recorder::new(), Recorder::new());
    let ((seen_first, first), (seen_last, last)) = (event(), event());
    let region = Region::mmio(0x1000, 8, "low", "r", low.clone());
    let _low = registry.map(region.doorbell(6, 0, None, last)).unwrap();
    let region = Region::mmio(0x1008, 8, "high", "r", high.clone());
    let _high = registry.map(region.doorbell(0, 0, None, first)).unwrap();
    let mut handle = registry.handle(0);
    // From the region below across the doorbell at the start of the one above.
    handle.write_value(Space::Mmio, 0x1004, Size::Qword, 0x0807_0605_0403_0201);
    assert_eq!((rung(&seen_first), rung(&seen_last)), (0, 0));
    assert_eq!(low.take(), [("write", 4, 4, 0x0403_0201)]);
    assert_eq!(high.take(), [("write", 0, 4, 0x0807_0605)]);
    // From a doorbell at the end of its region into the one above.
    handle.write_value(Space::Mmio, 0x1006, Size::Dword, 1);
    assert_eq!((rung(&seen_first), rung(&seen_last)), (0, 1));
    assert_eq!((low.take().len(), high.take().len()), (0, 0));
}

#[test]
fn a_doorbell_the_source_has_taken_is_not_rung_by_the_registry() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source).build();
    let device = Recorder::new();
    let (seen, bell) = event();
    let region = Region::mmio(0x1000, 8, "d", "r", device.clone()).doorbell(0, 4, None, bell);
    let _map = registry.map(region).unwrap();
    assert!(registry.stats().regions[0].deliveries[0].1, "the source has it");
    // What comes here all the same, the source did not ring for.
    registry.handle(0).write_value(Space::Mmio, 0x1000, Size::Dword, 1);
    assert_eq!((rung(&seen), device.take().len()), (0, 1));
}

/// A source that refuses what it is told to, and forgets nothing it has.
struct Picky {
    zones: Source,
    refused: Mutex<Vec<u64>>,
}

impl Offload for Picky {
    fn install(&self, zone: &Zone) -> Result<bool, String> {
        if self.refused.lock().contains(&zone.addr) {
            return Err("No space left on device".to_owned());
        }
        self.zones.install(zone)
    }

    fn remove(&self, zone: &Zone) {
        self.zones.remove(zone);
    }
}

#[test]
fn a_zone_that_cannot_be_had_back_after_a_failed_edit_is_the_registrys_and_the_others_are_back() {
    let source = Arc::new(Picky { zones: Source::default(), refused: Mutex::default() });
    let registry = Registry::builder().offload(source.clone()).build();
    let device = Recorder::new();
    let bells = [event(), event(), event()];
    let region = Region::mmio(0x1000, 0x10, "d", "r", device.clone());
    let region = bells
        .iter()
        .zip([0, 4, 8])
        .fold(region, |region, ((_, bell), offset)| region.doorbell(offset, 4, None, bell.clone()));
    let map = registry.map(region).unwrap();
    assert_eq!(source.zones.zones.lock().len(), 3);
    // The new place is refused at its second zone, and then the old one at its second, too.
    source.refused.lock().extend([0x2004, 0x1004]);
    let moved = registry.edit(|edit| {
        edit.place(map.id(), Some(0x2000));
        Ok(())
    });
    moved.unwrap_err();
    let back = [0x1000, 0x1008].map(|at| (Space::Mmio, at, 4, false));
    assert_eq!(*source.zones.zones.lock(), back);
    let taken: Vec<bool> = registry.stats().regions[0].deliveries.iter().map(|d| d.1).collect();
    assert_eq!(taken, [true, false, true]);
    let mut handle = registry.handle(0);
    for addr in [0x1000, 0x1004, 0x1008] {
        handle.write_value(Space::Mmio, addr, Size::Dword, 1);
    }
    // The source of this test rings nothing for the zones it has, nor does the registry.
    assert_eq!(bells.each_ref().map(|(seen, _)| rung(seen)), [0, 1, 0]);
    assert_eq!(device.take().len(), 2);
    drop(map);
    assert_eq!(*source.zones.zones.lock(), []);
}
