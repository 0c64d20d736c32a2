//! What a user of the registry relies on. `Bn` are the kvmtool defects that must not come back.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Barrier};

use support::{Recorder, Source, read};
use trapline::{
    EditError, EventFd, Handler, IoCx, Limits, Mapping, Region, RegionId, Registry, Rules, Size,
    Space, Stats,
};

fn registry() -> Registry {
    Registry::builder().build()
}

#[test]
fn a_guard_is_printed_with_its_id() {
    let registry = Registry::builder().build();
    let map = registry.map(Region::pio(0x80, 1, "post", "code", Recorder::new())).unwrap();
    assert_eq!(format!("{map:?}"), format!("Mapping({})", map.id().0));
}

#[test]
fn a_handler_sees_offsets_sizes_and_values() {
    let registry = registry();
    let device = Recorder::new();
    let _uart = registry.map(Region::pio(0x3f8, 8, "serial0", "uart", device.clone())).unwrap();
    let mut handle = registry.handle(0);
    handle.write(Space::Pio, 0x3f9, &[0x41]);
    handle.write(Space::Pio, 0x3fa, &[0x34, 0x12]);
    let mut data = [0; 4];
    handle.read(Space::Pio, 0x3fc, &mut data);
    assert_eq!(data, [4, 5, 6, 7]);
    assert_eq!(
        device.take(),
        [("write", 1, 1, 0x41), ("write", 2, 2, 0x1234), ("read", 4, 4, 0x0706_0504)]
    );
}

#[test]
fn the_two_spaces_are_separate() {
    let registry = registry();
    let (port, memory) = (Recorder::new(), Recorder::new());
    let _a = registry.map(Region::pio(0x70, 2, "rtc", "index", port.clone())).unwrap();
    let _b = registry.map(Region::mmio(0x70, 2, "odd", "window", memory.clone())).unwrap();
    read(&registry, Space::Mmio, 0x71, 1);
    assert_eq!((port.take().len(), memory.take().len()), (0, 1));
}

#[test]
fn b1_unclaimed_reads_are_all_ones_whatever_was_in_the_buffer() {
    let registry = registry();
    for len in 1..=8 {
        assert_eq!(read(&registry, Space::Mmio, 0xd000_0000, len), vec![0xff; len]);
        assert_eq!(read(&registry, Space::Pio, 0x1234, len), vec![0xff; len]);
    }
    let stats = registry.stats();
    assert_eq!(stats.unclaimed(), 16);
    let port = stats.unclaimed.keys().find(|key| key.space == Space::Pio && key.len == 1).unwrap();
    assert!(port.is_read() && port.addr == 0x1234);
}

#[test]
fn b3_a_refused_edit_leaves_nothing_behind_and_names_both_regions() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let _a = registry
        .map(Region::mmio(0x1000, 0x10, "a", "regs", Recorder::new()).coalesce(0..4))
        .unwrap();
    let device = Recorder::new();
    let error = registry
        .map(Region::mmio(0x100c, 0x10, "b", "bar0", device.clone()).coalesce(0..0x10))
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("b/bar0") && text.contains("a/regs"), "{text}");
    assert_eq!(*source.zones.lock(), [(Space::Mmio, 0x1000, 4, true)]);
    assert_eq!(registry.stats().regions.len(), 1);
    assert_eq!(Arc::strong_count(&device), 1, "the registry forgot the rejected handler");
}

#[test]
fn b4_a_zone_leaves_the_kernel_with_its_real_size_and_bus() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let port =
        registry.map(Region::pio(0x70, 2, "rtc", "ports", Recorder::new()).coalesce(0..1)).unwrap();
    let memory = registry
        .map(Region::mmio(0x70, 2, "twin", "window", Recorder::new()).coalesce(0..2))
        .unwrap();
    drop(port);
    assert_eq!(*source.zones.lock(), [(Space::Mmio, 0x70, 2, true)]);
    drop(memory);
    assert!(source.zones.lock().is_empty());
}

#[test]
fn b6_an_access_across_borders_is_split_and_its_holes_are_ones() {
    let registry = registry();
    let (low, high) = (Recorder::new(), Recorder::new());
    let _low = registry.map(Region::mmio(0x1000, 4, "low", "r", low.clone())).unwrap();
    let _high = registry.map(Region::mmio(0x1006, 4, "high", "r", high.clone())).unwrap();
    assert_eq!(read(&registry, Space::Mmio, 0x1002, 8), [2, 3, 0xff, 0xff, 0, 1, 2, 3]);
    assert_eq!(read(&registry, Space::Mmio, 0xffe, 4), [0xff, 0xff, 0, 1]);
    low.take();
    high.take();
    registry.handle(0).write(Space::Mmio, 0x1003, &[1, 2, 3, 4, 5]);
    assert_eq!(low.take(), [("write", 3, 1, 1)]);
    assert_eq!(high.take(), [("write", 0, 2, 0x0504)]);
}

#[test]
fn b8_an_access_the_device_does_not_take_is_known_as_such() {
    let registry = registry();
    let rules = Rules { valid: Limits::only(Size::Dword), handled: Limits::only(Size::Dword) };
    let device = Recorder::with_rules(rules);
    let _map = registry.map(Region::mmio(0, 0x100, "its", "regs", device.clone())).unwrap();
    assert_eq!(read(&registry, Space::Mmio, 0x10, 2), [0xff; 2]);
    assert_eq!(read(&registry, Space::Mmio, 0x12, 4), [0xff; 4]);
    registry.handle(0).write(Space::Mmio, 0x10, &[0; 8]);
    assert!(device.take().is_empty());
    assert_eq!(read(&registry, Space::Mmio, 0x10, 4), [0x10, 0x11, 0x12, 0x13]);
    let stats = registry.stats();
    let counts = stats.regions[0].counts;
    assert_eq!((counts.reads, counts.writes, counts.refused), (3, 1, 3));
}

#[test]
fn accesses_at_the_ends_of_the_spaces_do_not_wrap() {
    let registry = registry();
    let device = Recorder::new();
    let _top = registry.map(Region::mmio(u64::MAX - 1, 2, "top", "r", device.clone())).unwrap();
    let _bottom = registry.map(Region::mmio(0, 2, "bottom", "r", Recorder::new())).unwrap();
    let _port = registry.map(Region::pio(0xffff, 1, "last", "r", Recorder::new())).unwrap();
    assert_eq!(read(&registry, Space::Mmio, u64::MAX, 4), [1, 0xff, 0xff, 0xff]);
    assert_eq!(read(&registry, Space::Pio, 0xffff, 4), [0, 0xff, 0xff, 0xff]);
    assert_eq!(read(&registry, Space::Pio, 0x1_0000, 1), [0xff]);
}

#[test]
fn impossible_regions_are_refused() {
    let registry = registry();
    let region = |base, len| Region::mmio(base, len, "d", "r", Recorder::new());
    assert!(matches!(registry.map(region(0, 0)), Err(EditError::Empty { .. })));
    assert!(matches!(registry.map(region(u64::MAX, 2)), Err(EditError::PastEnd { .. })));
    let port = Region::pio(0xffff, 2, "d", "r", Recorder::new());
    assert!(matches!(registry.map(port), Err(EditError::PastEnd { .. })));
    let window = region(0, 4).coalesce(2..6);
    assert!(matches!(registry.map(window), Err(EditError::Window { .. })));
}

fn two_bars(registry: &Registry) -> (Arc<Recorder>, Mapping, Arc<Recorder>, Mapping) {
    let (a, b) = (Recorder::new(), Recorder::new());
    let bar_a = registry.map(Region::mmio(0x1000, 0x1000, "a", "bar", a.clone())).unwrap();
    let bar_b = registry.map(Region::mmio(0x2000, 0x1000, "b", "bar", b.clone())).unwrap();
    (a, bar_a, b, bar_b)
}

#[test]
fn two_regions_can_swap_in_one_edit_and_a_half_swap_changes_nothing() {
    let registry = registry();
    let (a, bar_a, b, bar_b) = two_bars(&registry);
    let half = registry.edit(|edit| {
        edit.place(bar_a.id(), Some(0x2000));
        Ok(())
    });
    assert!(matches!(half, Err(EditError::Overlap { .. })));
    registry
        .edit(|edit| {
            edit.place(bar_a.id(), Some(0x2000));
            edit.place(bar_b.id(), Some(0x1000));
            Ok(())
        })
        .unwrap();
    read(&registry, Space::Mmio, 0x2004, 4);
    assert_eq!((a.take().len(), b.take().len()), (1, 0));
}

#[test]
fn a_region_can_leave_its_space_and_come_back_with_its_counts() {
    let registry = registry();
    let (a, bar_a, _b, _bar_b) = two_bars(&registry);
    read(&registry, Space::Mmio, 0x1000, 4);
    let place = |base| {
        registry.edit(|edit| {
            edit.place(bar_a.id(), base);
            Ok(())
        })
    };
    place(None).unwrap();
    assert_eq!(read(&registry, Space::Mmio, 0x1000, 4), [0xff; 4]);
    place(Some(0x8000_0000_0000)).unwrap();
    read(&registry, Space::Mmio, 0x8000_0000_0000, 4);
    assert_eq!(a.take().len(), 2);
    let stats = registry.stats();
    let region = stats.regions.iter().find(|r| &*r.name.device == "a").unwrap();
    assert_eq!(region.counts.reads, 2);
}

/// A PCI device whose register moves its own BAR.
struct SelfMover(std::sync::OnceLock<RegionId>);
impl Handler for SelfMover {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0x5a
    }
    fn write(&self, cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        cx.regions().place(&[(*self.0.get().unwrap(), Some(value))]).unwrap();
    }
}

#[test]
fn a_handler_can_move_its_own_region() {
    let registry = registry();
    let device = Arc::new(SelfMover(std::sync::OnceLock::new()));
    let bar = registry.map(Region::mmio(0x1000, 8, "pci", "bar", device.clone())).unwrap();
    device.0.set(bar.id()).unwrap();
    let mut handle = registry.handle(0);
    handle.write(Space::Mmio, 0x1000, &0x9000u32.to_le_bytes());
    assert_eq!(read(&registry, Space::Mmio, 0x1000, 1), [0xff]);
    let mut data = [0];
    handle.read(Space::Mmio, 0x9000, &mut data);
    assert_eq!(data, [0x5a]);
    assert_eq!(handle_error(&registry), EditError::Unknown(RegionId(u64::MAX)));
}

fn handle_error(registry: &Registry) -> EditError {
    registry
        .edit(|edit| {
            edit.place(RegionId(u64::MAX), None);
            Ok(())
        })
        .unwrap_err()
}

#[test]
fn string_io_keeps_its_element_size_and_order() {
    let registry = registry();
    let device = Recorder::new();
    let _port = registry.map(Region::pio(0x1f0, 2, "ide", "data", device.clone())).unwrap();
    let mut handle = registry.handle(0);
    handle.write_rep(0x1f0, Size::Word, &[1, 0, 2, 0, 3, 0]);
    assert_eq!(device.take(), [("write", 0, 2, 1), ("write", 0, 2, 2), ("write", 0, 2, 3)]);
    let mut data = [0; 6];
    handle.read_rep(0x1f0, Size::Word, &mut data);
    assert_eq!(data, [0, 1, 0, 1, 0, 1]);
    handle.read_rep(0x1f1, Size::Word, &mut data);
    assert_eq!(data, [1, 0xff, 1, 0xff, 1, 0xff], "each element straddles the region's end");
    let counts = registry.stats().regions[0].counts;
    assert_eq!((counts.string_writes, counts.string_reads), (3, 6));
}

#[test]
fn one_device_can_answer_several_small_regions() {
    let registry = registry();
    let device = Recorder::with_rules(Rules::BYTES);
    let data = Region::pio(0x60, 1, "i8042", "data", device.clone());
    let command = Region::pio(0x64, 1, "i8042", "command", device.clone()).device_offset(4);
    let _maps = registry.edit(|edit| Ok((edit.map(data)?, edit.map(command)?))).unwrap();
    assert_eq!(read(&registry, Space::Pio, 0x64, 1), [4]);
    assert_eq!(read(&registry, Space::Pio, 0x60, 2), [0, 0xff]);
}

fn event() -> (EventFd, File) {
    let (reader, writer) = std::io::pipe().unwrap();
    (EventFd::new(writer.into()), File::from(std::os::fd::OwnedFd::from(reader)))
}

#[test]
fn doorbells_ring_without_a_source_as_they_would_in_the_kernel() {
    let registry = registry();
    let device = Recorder::new();
    let (one, mut one_rx) = event();
    let (any, mut any_rx) = event();
    let region = Region::mmio(0x1000, 0x100, "virtio", "notify", device.clone())
        .doorbell(0x10, 2, Some(1), one)
        .doorbell(0x20, 0, None, any);
    let _map = registry.map(region).unwrap();
    let mut handle = registry.handle(0);
    handle.write(Space::Mmio, 0x1010, &[1, 0]);
    handle.write(Space::Mmio, 0x1020, &[9; 4]);
    assert!(device.take().is_empty(), "a rung doorbell reaches no handler");
    handle.write(Space::Mmio, 0x1010, &[2, 0]);
    handle.write(Space::Mmio, 0x1010, &[1, 0, 0, 0]);
    handle.write(Space::Mmio, 0x1011, &[1]);
    assert_eq!(device.take().len(), 3, "another value, length or address is the handler's");
    let mut count = [0; 8];
    one_rx.read_exact(&mut count).unwrap();
    any_rx.read_exact(&mut count).unwrap();
    assert_eq!(registry.stats().regions[0].counts.doorbells, 2);
}

#[test]
fn doorbells_collide_by_the_kernels_rules() {
    let bells = |list: &[(u64, u64, Option<u64>)]| {
        let region = Region::mmio(0, 0x100, "d", "r", Recorder::new());
        let region = list.iter().fold(region, |region, &(offset, len, value)| {
            region.doorbell(offset, len, value, event().0)
        });
        registry().map(region).map(drop)
    };
    assert!(bells(&[(0, 4, Some(1)), (0, 4, Some(2)), (0, 2, Some(1)), (1, 1, None)]).is_ok());
    for clash in [
        [(0, 4, Some(1)), (0, 4, Some(1))],
        [(0, 4, None), (0, 4, Some(1))],
        [(0, 0, None), (0, 4, Some(1))],
    ] {
        assert!(matches!(bells(&clash), Err(EditError::Delivery { .. })), "{clash:?}");
    }
    assert!(bells(&[(0, 0, Some(1))]).is_err(), "a value needs a length");
    assert!(bells(&[(0xfe, 4, None)]).is_err(), "it must end inside the region");
}

#[test]
fn queued_writes_arrive_before_any_later_access_and_in_order() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let device = Recorder::new();
    let _uart = registry
        .map(Region::pio(0x3f8, 8, "serial0", "uart", device.clone()).coalesce(0..1))
        .unwrap();
    for byte in *b"abc" {
        assert!(source.guest_write(Space::Pio, 0x3f8, &[byte]));
    }
    assert!(!source.guest_write(Space::Pio, 0x3f9, &[0]), "only the window is coalesced");
    read(&registry, Space::Mmio, 0xdead_0000, 1);
    let sent: Vec<u64> = device.take().iter().map(|(_, _, _, value)| *value).collect();
    assert_eq!(sent, [0x61, 0x62, 0x63]);
    assert_eq!(registry.stats().regions[0].counts.coalesced, 3);
    source.guest_write(Space::Pio, 0x3f8, b"d");
    registry.drain();
    assert_eq!(device.take().len(), 1, "an idle guest's last write can be fetched");
}

#[test]
fn writes_queued_before_a_region_goes_still_reach_it() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let (old, new) = (Recorder::new(), Recorder::new());
    let map =
        registry.map(Region::mmio(0x1000, 8, "old", "r", old.clone()).coalesce(0..8)).unwrap();
    source.guest_write(Space::Mmio, 0x1000, &[7]);
    drop(map);
    let _new = registry.map(Region::mmio(0x1000, 8, "new", "r", new.clone())).unwrap();
    read(&registry, Space::Mmio, 0x1000, 1);
    assert_eq!(old.take(), [("write", 0, 1, 7)]);
    assert_eq!(new.take().len(), 1);
}

#[test]
fn an_edit_that_the_source_refuses_half_way_is_undone_there() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let region = Region::mmio(0x1000, 0x10, "d", "r", Recorder::new()).coalesce(0..4);
    let map = registry.map(region.coalesce(8..12)).unwrap();
    let before = source.zones.lock().clone();
    *source.refuse_at.lock() = Some(0x2008);
    let moved = registry.edit(|edit| {
        edit.place(map.id(), Some(0x2000));
        Ok(())
    });
    let text = moved.unwrap_err().to_string();
    assert!(text.contains("d/r") && text.contains("No space left"), "{text}");
    assert_eq!(*source.zones.lock(), before);
    assert_eq!(read(&registry, Space::Mmio, 0x1004, 1), [4], "the region is where it was");
}

#[test]
fn many_small_regions_on_one_page_are_all_found() {
    let registry = registry();
    let device = Recorder::new();
    let maps: Vec<_> = (0..64)
        .map(|i| registry.map(Region::mmio(0x5000 + i * 16, 8, "d", "r", device.clone())).unwrap())
        .collect();
    for i in 0..64 {
        assert_eq!(read(&registry, Space::Mmio, 0x5000 + i * 16 + 3, 1), [3]);
        assert_eq!(read(&registry, Space::Mmio, 0x5000 + i * 16 + 8, 1), [0xff]);
    }
    drop(maps);
    assert_eq!(read(&registry, Space::Mmio, 0x5003, 1), [0xff]);
}

#[test]
fn handles_come_and_go_while_others_make_accesses_and_all_of_theirs_are_counted() {
    let registry = Registry::builder().build();
    let first = registry.map(Region::mmio(0x1000, 8, "d", "first", Recorder::new())).unwrap();
    let begin = Barrier::new(4);
    let come_and_go = || {
        begin.wait();
        for vcpu in 0..50 {
            let mut handle = registry.handle(vcpu);
            handle.read_value(Space::Mmio, 0x1000, Size::Byte);
            handle.read_value(Space::Mmio, 0x9000, Size::Byte);
        }
    };
    std::thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(come_and_go)));
        begin.wait();
        // Regions whose numbers are used again, with nothing counted before their first access.
        for _ in 0..50 {
            let second = registry.map(Region::mmio(0x2000, 8, "d", "second", Recorder::new()));
            let counts = |stats: &Stats| stats.regions.last().unwrap().counts.total();
            assert_eq!(counts(&registry.stats()), 0);
            registry.handle(9).read_value(Space::Mmio, 0x2000, Size::Byte);
            assert_eq!(counts(&registry.stats()), 1);
            registry.remove_sync(second.unwrap());
        }
    });
    let stats = registry.stats();
    assert_eq!(stats.regions[0].counts.reads, 150);
    assert_eq!((stats.unclaimed(), stats.claimed()), (150, 200));
    drop(first);
}
