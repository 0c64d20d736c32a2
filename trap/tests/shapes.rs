//! Which accesses a handler gets as they are, on the shortest way and on every other.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use support::Recorder;
use trapline::{
    Answer, Channel, ChannelRef, EventFd, Forwarded, Handle, Handler, IoCx, Observer, Region,
    Registry, Size, Space, TraceRecord, Waiter, Watch,
};

const SIZES: [Size; 4] = [Size::Byte, Size::Word, Size::Dword, Size::Qword];

/// A handle that has been to `addr` before, and so takes the shortest way there.
fn warm(registry: &Registry, space: Space, addr: u64) -> Handle {
    let mut handle = registry.handle(0);
    handle.read_value(space, addr, Size::Byte);
    handle.write_value(space, addr, Size::Byte, 0);
    handle
}

#[test]
fn a_region_of_any_length_gets_its_own_bytes_and_no_others() {
    for (space, base) in [(Space::Pio, 0x100), (Space::Mmio, 0x1000), (Space::Mmio, 0xffd)] {
        for len in 1..=9u64 {
            let registry = Registry::builder().build();
            let device = Recorder::new();
            let region = Region::new(space, Some(base), len, ("d", "r"), device.clone());
            let _map = registry.map(region).unwrap();
            let mut handle = warm(&registry, space, base);
            for (at, size) in (0..len).flat_map(|at| SIZES.map(|size| (at, size))) {
                let mut read = [0x5a; 8];
                let bytes = &mut read[..size.bytes()];
                handle.read(space, base + at, bytes);
                let expected = (at..).take(size.bytes());
                let expected = expected.map(|i| if i < len { i.to_le_bytes()[0] } else { 0xff });
                assert!(expected.eq(bytes.iter().copied()), "{bytes:x?} at {at} of {len}");
                device.take();
                handle.write(space, base + at, &[0x11; 8][..size.bytes()]);
                let written: usize = device.take().iter().map(|call| call.2).sum();
                let inside = size.bytes().min(usize::try_from(len - at).unwrap());
                assert_eq!(written, inside, "{size} bytes at {at} of {len}");
            }
        }
    }
}

#[test]
fn a_device_offset_may_be_of_any_size() {
    for device_offset in [1, 8, 255, 256, 257, 0x1_0000, 1 << 40] {
        let registry = Registry::builder().build();
        let device = Recorder::new();
        let region = Region::mmio(0x1000, 16, "d", "r", device.clone());
        let _map = registry.map(region.device_offset(device_offset)).unwrap();
        let mut handle = warm(&registry, Space::Mmio, 0x1000);
        device.take();
        handle.read_value(Space::Mmio, 0x1003, Size::Byte);
        handle.write_value(Space::Mmio, 0x1005, Size::Byte, 9);
        let offsets: Vec<u64> = device.take().iter().map(|call| call.1).collect();
        assert_eq!(offsets, [device_offset + 3, device_offset + 5]);
    }
}

/// Where the regions of several pages are, and on which of their pages something is special.
const BASE: u64 = 0x10_0000;
const PAGES: u64 = 3;

/// Counts what it hears.
#[derive(Default)]
struct Ear(AtomicU64);

impl Ear {
    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Observer for Ear {
    fn access(&self, _record: &TraceRecord<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_watch_covers_every_page_of_its_region() {
    let registry = Registry::builder().build();
    let ear = Arc::new(Ear::default());

    let region = Region::mmio(BASE, PAGES << 12, "d", "r", Recorder::new());
    let map = registry.map(region).unwrap();
    let mut handle = warm(&registry, Space::Mmio, BASE);
    let mut heard = || {
        (0..PAGES).for_each(|page| {
            handle.read_value(Space::Mmio, BASE + (page << 12) + 8, Size::Dword);
            handle.write_value(Space::Mmio, BASE + (page << 12) + 8, Size::Dword, 1);
        });
        ear.take()
    };
    assert_eq!(heard(), 0);
    let watching = registry.watch(Watch::new().region(map.id()), ear.clone()).unwrap();
    assert_eq!(heard(), 2 * PAGES);
    drop(watching);
    assert_eq!(heard(), 0);
}

#[test]
fn doorbells_are_rung_on_every_page_of_their_region() {
    let registry = Registry::builder().build();
    let device = Recorder::new();
    let region = Region::mmio(BASE, PAGES << 12, "d", "r", device.clone());
    let (_rx, tx) = std::io::pipe().unwrap();
    let event = EventFd::new(tx.into());
    let bells = (0..PAGES).map(|page| (page << 12) + 0x40);
    let region =
        bells.clone().fold(region, |region, bell| region.doorbell(bell, 4, None, event.clone()));
    let _map = registry.map(region).unwrap();
    let mut handle = warm(&registry, Space::Mmio, BASE);
    device.take();
    for bell in bells {
        handle.write_value(Space::Mmio, BASE + bell, Size::Dword, 1);
    }
    assert_eq!(device.take(), []);
    assert_eq!(registry.stats().regions[0].counts.doorbells, PAGES);
}

/// Somebody outside who answers 0x77.
#[derive(Default)]
struct Outside(Mutex<Vec<u64>>);

impl Channel for Outside {
    fn read(&self, access: &Forwarded, _: Option<&dyn Waiter>) -> Answer {
        self.0.lock().push(access.offset);
        Answer::Done(0x77)
    }

    fn write(&self, access: &Forwarded, _value: u64, _: Option<&dyn Waiter>) -> Answer {
        self.0.lock().push(access.offset);
        Answer::Done(0)
    }
}

#[test]
fn windows_are_forwarded_on_every_page_of_their_region() {
    let registry = Registry::builder().build();
    let device = Recorder::new();
    let outside = Arc::new(Outside::default());
    let channel = ChannelRef::new(outside.clone());
    let region = Region::mmio(BASE, PAGES << 12, "d", "r", device.clone());
    let windows = (0..PAGES).map(|page| page << 12);
    let region = windows.clone().fold(region, |region, window| {
        region.forward(window + 0x100..window + 0x200, channel.clone(), 0, false)
    });
    let _map = registry.map(region).unwrap();
    let mut handle = warm(&registry, Space::Mmio, BASE);
    device.take();
    for window in windows {
        assert_eq!(handle.read_value(Space::Mmio, BASE + window + 0x104, Size::Byte), 0x77);
        handle.write_value(Space::Mmio, BASE + window + 0x108, Size::Dword, 1);
    }
    assert_eq!(device.take(), []);
    assert_eq!(*outside.0.lock(), [4, 8].repeat(usize::try_from(PAGES).unwrap()));
}

/// A device that takes whole strings.
#[derive(Default)]
struct Fifo(Mutex<Vec<usize>>);

impl Handler for Fifo {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}

    fn read_rep(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, data: &mut [u8]) {
        data.fill(0x33);
        self.0.lock().push(data.len());
    }

    fn write_rep(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, data: &[u8]) {
        self.0.lock().push(data.len());
    }
}

#[test]
fn a_device_that_takes_whole_strings_is_given_whole_elements() {
    let registry = Registry::builder().build();
    let device = Arc::new(Fifo::default());
    let _map = registry.map(Region::pio(0x1f0, 4, "ide", "data", device.clone())).unwrap();
    let mut handle = registry.handle(0);
    let mut data = [0x5a; 7];
    handle.read_rep(0x1f0, Size::Dword, &mut data);
    assert_eq!(data, [0x33, 0x33, 0x33, 0x33, 0xff, 0xff, 0xff]);
    handle.write_rep(0x1f0, Size::Dword, &data);
    assert_eq!(*device.0.lock(), [4, 4]);
}

#[test]
fn a_string_ends_with_its_last_whole_element() {
    let registry = Registry::builder().build();
    let device = Recorder::new();
    // One port whose elements the handler takes as they are, one whose elements straddle its end.
    let _map = registry.map(Region::pio(0x1f0, 2, "ide", "data", device.clone())).unwrap();
    let mut handle = registry.handle(0);
    for (port, first) in [(0x1f0, [0, 1]), (0x1f1, [1, 0xff])] {
        let mut data = [0x5a; 5];
        handle.read_rep(port, Size::Word, &mut data);
        assert_eq!(data, [first[0], first[1], first[0], first[1], 0xff]);
        assert_eq!(device.take().len(), 2);
        handle.write_rep(port, Size::Word, &[1, 2, 3, 4, 5]);
        assert_eq!(device.take().len(), 2);
    }
    let counts = registry.stats().regions[0].counts;
    assert_eq!((counts.string_reads, counts.string_writes), (4, 4));
    let mut short = [0x5a];
    handle.read_rep(0x1f0, Size::Word, &mut short);
    assert_eq!((short, device.take().len()), ([0xff], 0));
}
