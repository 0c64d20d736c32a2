//! What is left of a region that is gone: nothing.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use support::{Recorder, Source};
use trapline::{Handle, Handler, IoCx, Region, Registry, Size, Space};

fn region(device: &Arc<Recorder>) -> Region {
    Region::mmio(0x1000, 8, "d", "r", device.clone())
}

#[test]
fn remove_sync_frees_the_handler() {
    let registry = Registry::builder().build();
    let device = Recorder::new();
    for _ in 0..3 {
        let map = registry.map(region(&device)).unwrap();
        registry.handle(0).read_value(Space::Mmio, 0x1000, Size::Byte);
        registry.remove_sync(map);
        assert_eq!(Arc::strong_count(&device), 1);
    }
}

#[test]
fn a_handler_that_a_handle_still_knows_is_freed_by_the_edit_after_its_next_access() {
    let registry = Registry::builder().build();
    let device = Recorder::new();
    let map = registry.map(region(&device)).unwrap();
    let mut handle = registry.handle(0);
    registry.remove_sync(map);
    assert!(Arc::strong_count(&device) > 1, "the handle keeps the map it looked in last");
    assert_eq!(handle.read_value(Space::Mmio, 0x1000, Size::Byte), 0xff);
    drop(registry.map(region(&Recorder::new())).unwrap());
    assert_eq!(Arc::strong_count(&device), 1);
}

/// The one who makes accesses must not run the destructor of a device, however long that takes.
#[test]
fn no_handle_frees_a_handler_when_it_takes_notice_of_an_edit() {
    let registry = Registry::builder().build();
    let device = Recorder::new();
    let map = registry.map(region(&device)).unwrap();
    let mut handle = registry.handle(0);
    handle.read_value(Space::Mmio, 0x1000, Size::Byte);
    drop(map);
    let kept = Arc::strong_count(&device);
    assert!(kept > 1, "the handle keeps the map it looked in last");
    handle.read_value(Space::Mmio, 0x1000, Size::Byte);
    handle.read_value(Space::Mmio, 0x1000, Size::Byte);
    assert!(Arc::strong_count(&device) > 1, "it waits for the next edit");
    drop(registry.map(Region::mmio(0x9000, 8, "e", "r", Recorder::new())).unwrap());
    assert_eq!(Arc::strong_count(&device), 1);
}

/// A device that drops a handle when it is written to.
struct Dropper(Mutex<Option<Handle>>);

impl Handler for Dropper {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {
        drop(self.0.lock().take());
    }
}

#[test]
fn remove_sync_frees_what_the_last_handle_let_go_of_while_it_waited() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let device = Recorder::new();
    let map = registry.map(region(&device).coalesce(0..4)).unwrap();
    let dropper = Arc::new(Dropper(Mutex::default()));
    let other = Region::mmio(0x2000, 8, "dropper", "r", dropper.clone()).coalesce(0..4);
    let _other = registry.map(other).unwrap();
    *dropper.0.lock() = Some(registry.handle(0));
    // Delivered by `remove_sync`, after the region is out of the map and before it returns.
    assert!(source.guest_write(Space::Mmio, 0x2000, &[1]));
    let gone: Weak<Recorder> = Arc::downgrade(&device);
    drop(device);
    registry.remove_sync(map);
    assert!(gone.upgrade().is_none());
}
