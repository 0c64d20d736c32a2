//! The remarks of the review of "mmio: Extend handling to include ioport emulation" (kvmtool, 2021),
//! each beside the test that answers it. The remark that style changes do not belong into a patch
//! is the only one that no test can hold us to.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::Arc;

use support::{Recorder, Source, read};
use trapline::EditError;
use trapline::{CoalescedWrite, Delivery, Offload, Region, Registry, Size, Space, Zone};

/// Both spaces; does not compile when there is one more that is not thought of.
fn spaces() -> [Space; 2] {
    match Space::Mmio {
        Space::Mmio | Space::Pio => [Space::Mmio, Space::Pio],
    }
}

fn region(space: Space, base: u64, device: &Arc<Recorder>) -> Region {
    Region::new(space, Some(base), 8, ("device", "registers"), device.clone())
}

// "Maybe I'm missing something, but why two trees? Is it valid to have an overlap between IO port
// and MMIO emulation?"
//
// It is: port 0x3f8 and guest physical address 0x3f8 are two places. One registry, two spaces.
#[test]
fn the_same_number_is_two_places_in_two_spaces() {
    let registry = Registry::builder().build();
    let devices = [Recorder::new(), Recorder::new()];
    let _maps: Vec<_> = spaces()
        .into_iter()
        .zip(&devices)
        .map(|(space, device)| registry.map(region(space, 0x3f8, device)).unwrap())
        .collect();
    read(&registry, Space::Pio, 0x3f9, 1);
    assert_eq!((devices[0].take().len(), devices[1].take().len()), (0, 1));
    for space in spaces() {
        assert!(registry.map(region(space, 0x3f8, &devices[0])).is_err(), "{space} is taken");
    }
}

// "Or was it done to make the removal of ioport emulation easier?"
//
// Removal needs neither the space nor the address: the guard knows them.
#[test]
fn removal_takes_nothing_but_the_guard() {
    let registry = Registry::builder().build();
    let device = Recorder::new();
    let [memory, port] = spaces().map(|space| registry.map(region(space, 0x70, &device)).unwrap());
    drop(port);
    assert_eq!(read(&registry, Space::Pio, 0x70, 1), [0xff]);
    assert_eq!(read(&registry, Space::Mmio, 0x71, 1), [1]);
    registry.remove_sync(memory);
    assert_eq!(read(&registry, Space::Mmio, 0x71, 1), [0xff]);
}

// "Saving the IOTRAP_COALESCE flag would also make it trivial to call
// KVM_UNREGISTER_COALESCED_MMIO in kvm__deregister_iotrap, which we currently don't do."
//
// The delivery stays with the region, so the zone leaves with it: with its own address, its own
// size (not the region's) and on its own bus.
#[test]
fn a_coalesced_zone_leaves_with_its_region_on_every_path() {
    for space in spaces() {
        let source = Arc::new(Source::default());
        let registry = Registry::builder().offload(source.clone()).build();
        let mapped = || registry.map(region(space, 0x40, &Recorder::new()).coalesce(2..5)).unwrap();
        let zone = |base: u64| (space, base + 2, 3, true);

        let map = mapped();
        assert_eq!(*source.zones.lock(), [zone(0x40)]);
        let place = |base| {
            registry.edit(|edit| {
                edit.place(map.id(), base);
                Ok(())
            })
        };
        place(Some(0x80)).unwrap();
        assert_eq!(*source.zones.lock(), [zone(0x80)]);
        place(None).unwrap();
        assert!(source.zones.lock().is_empty());
        place(Some(0x40)).unwrap();
        drop(map);
        assert!(source.zones.lock().is_empty());

        registry.remove_sync(mapped());
        assert!(source.zones.lock().is_empty());
        let map = mapped();
        registry
            .edit(|edit| {
                edit.unmap(&map);
                Ok(())
            })
            .unwrap();
        assert!(source.zones.lock().is_empty());
    }
}

// The code under review registers the zone first and inserts then; when the insert fails, the zone
// stays in the kernel and the node leaks.
#[test]
fn a_region_that_is_refused_was_never_in_the_kernel() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let _old = registry.map(region(Space::Pio, 0x70, &Recorder::new())).unwrap();
    let device = Recorder::new();
    assert!(registry.map(region(Space::Pio, 0x77, &device).coalesce(0..1)).is_err());
    assert!(source.zones.lock().is_empty());
    assert_eq!(Arc::strong_count(&device), 1, "the handler leaked");
}

// "I'm sorry, but I don't understand that last sentence. Do you mean that the ioport emulation code
// has been modified to use kvm__emulate_pio() as a fallback for when the port is not found in the
// ioport_tree?" and "I have to admit this gave me pause because this patch doesn't add any users
// for kvm__register_pio()."
//
// There is one path, and no second place to look: every access is answered, and counted, once.
#[test]
fn every_access_is_answered_once_in_either_space() {
    let registry = Registry::builder().build();
    let device = Recorder::new();
    let _port = registry.map(Region::pio(0x60, 8, "device", "registers", device.clone())).unwrap();
    let _memory =
        registry.map(Region::mmio(0x60, 8, "device", "registers", device.clone())).unwrap();
    let mut calls = Vec::new();
    for space in spaces() {
        let mut handle = registry.handle(0);
        handle.write(space, 0x61, &[7]);
        handle.read(space, 0x62, &mut [0; 2]);
        handle.read(space, 0x1000, &mut [0]);
        calls.push(device.take());
    }
    assert_eq!(calls[0], [("write", 1, 1, 7), ("read", 2, 2, 0x302)]);
    assert_eq!(calls[0], calls[1], "one device, one prototype, one behaviour");
    let stats = registry.stats();
    assert_eq!((stats.claimed(), stats.unclaimed()), (4, 2));
}

// "It's not immediately obvious what this mask does. [...] The flag names we pass to
// kvm__register_iotrap() are slightly inconsistent (DEVICE_BUS_PCI, DEVICE_BUS_MMIO and
// IOTRAP_COALESCE) [...] it's worth it to have a compile time check that IOTRAP_BUS_MASK is >=
// DEVICES_BUS_MAX".
//
// No flags and no mask: a space is a type with two values, and a delivery is a value of its own.
// `spaces()` is the compile-time check.
#[test]
fn the_space_of_a_region_and_its_delivery_are_told_apart() {
    let registry = Registry::builder().build();
    let device = Recorder::new();
    let _maps = spaces().map(|space| {
        let [plain, coalesced] = [0x100, 0x200].map(|base| region(space, base, &device));
        [plain, coalesced.coalesce(0..8)].map(|region| registry.map(region).unwrap())
    });
    let table = registry.stats();
    let seen: Vec<_> = table.regions.iter().map(|r| (r.space, r.deliveries.len())).collect();
    assert_eq!(seen, [(Space::Mmio, 0), (Space::Mmio, 1), (Space::Pio, 0), (Space::Pio, 1)]);
}

/// A source that can coalesce MMIO only, and says so or fails.
struct OldKernel {
    fails: bool,
    zones: Source,
}

impl Offload for OldKernel {
    fn install(&self, zone: &Zone) -> Result<bool, String> {
        match (zone.space, &zone.delivery, self.fails) {
            (Space::Pio, Delivery::Coalesced, true) => {
                Err("port I/O cannot be coalesced by this kernel".to_owned())
            }
            (Space::Pio, Delivery::Coalesced, false) => Ok(false),
            _ => self.zones.install(zone),
        }
    }

    fn remove(&self, zone: &Zone) {
        self.zones.remove(zone);
    }

    fn pop(&self) -> Option<CoalescedWrite> {
        None
    }
}

// "There is no such flag being used in ioport.c, is it valid to have the flags DEVICE_BUS_IOPORT
// and IOTRAP_COALESCE set at the same time?"
//
// It is where the source can do it; where it cannot, the region works all the same; and where the
// source calls it an error, so do we, by the region's name.
#[test]
fn coalescing_ports_is_accepted_where_it_can_be_done_and_a_clear_error_elsewhere() {
    let wanted = |device: &Arc<Recorder>| region(Space::Pio, 0x70, device).coalesce(0..1);

    let modern = Arc::new(Source::default());
    let registry = Registry::builder().offload(modern.clone()).build();
    let device = Recorder::new();
    let _map = registry.map(wanted(&device)).unwrap();
    assert!(modern.guest_write(Space::Pio, 0x70, &[0x0f]));
    registry.drain();
    assert_eq!(device.take(), [("write", 0, 1, 0x0f)]);

    let unable = Arc::new(OldKernel { fails: false, zones: Source::default() });
    let registry = Registry::builder().offload(unable.clone()).build();
    let device = Recorder::new();
    let _map = registry.map(wanted(&device)).unwrap();
    assert!(unable.zones.zones.lock().is_empty());
    registry.handle(0).write(Space::Pio, 0x70, &[0x0f]);
    assert_eq!(device.take(), [("write", 0, 1, 0x0f)]);

    let failing = Arc::new(OldKernel { fails: true, zones: Source::default() });
    let registry = Registry::builder().offload(failing).build();
    let error = registry.map(wanted(&Recorder::new())).unwrap_err();
    assert!(matches!(error, EditError::Offload { .. }));
    let text = error.to_string();
    assert!(text.contains("device/registers") && text.contains("cannot be coalesced"), "{text}");
    assert!(registry.stats().regions.is_empty());
}

// `kvm__emulate_pio` of the patch calls the handler `count` times with the data moving on and the
// port staying, from one lookup.
#[test]
fn a_string_is_count_accesses_to_one_port() {
    let registry = Registry::builder().build();
    let device = Recorder::new();
    let _map = registry.map(region(Space::Pio, 0x1f0, &device)).unwrap();
    registry.handle(0).write_rep(0x1f0, Size::Word, &[1, 0, 2, 0, 3, 0]);
    assert_eq!(device.take(), [("write", 0, 2, 1), ("write", 0, 2, 2), ("write", 0, 2, 3)]);
}
