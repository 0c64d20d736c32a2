//! What goes wrong in other dispatchers, one test for each: the fault is named in front of it, and
//! the test would fail here if we had it.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use support::{Recorder, Source, read};
use trapline::EditError;
use trapline::{Handler, IoCx, Mapping, Region, RegionId, Registry, Size, Space};

fn registry() -> Registry {
    Registry::builder().build()
}

fn mmio(base: u64, len: u64, device: &Arc<Recorder>) -> Region {
    Region::mmio(base, len, "d", "r", device.clone())
}

/// A handler that says when it has begun and then waits to be let go.
struct Slow {
    begun: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Slow {
    fn new() -> (Arc<Self>, Receiver<()>, Sender<()>) {
        let (begun_tx, begun) = channel();
        let (go, go_rx) = channel();
        (Arc::new(Self { begun: begun_tx, go: Mutex::new(go_rx) }), begun, go)
    }
}

impl Handler for Slow {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        self.begun.send(()).unwrap();
        self.go.lock().recv().unwrap();
        0x77
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

/// A registry with a slow device at 0x1000, and a thread inside it.
fn somebody_inside() -> (Registry, Mapping, Sender<()>, std::thread::JoinHandle<u64>) {
    let registry = registry();
    let (slow, begun, go) = Slow::new();
    let map = registry.map(Region::mmio(0x1000, 0x1000, "slow", "r", slow)).unwrap();
    let mut handle = registry.handle(2);
    let vcpu = std::thread::spawn(move || handle.read_value(Space::Mmio, 0x1000, Size::Byte));
    begun.recv().unwrap();
    (registry, map, go, vcpu)
}

// kvmtool: while a handler runs, its region can be deregistered but not registered again (-EEXIST,
// "Error activating emulation for BAR").
#[test]
fn a_region_can_be_mapped_again_while_its_old_handler_still_runs() {
    let (registry, map, go, vcpu) = somebody_inside();
    drop(map);
    let device = Recorder::new();
    let _again = registry.map(mmio(0x1000, 0x1000, &device)).unwrap();
    assert_eq!(read(&registry, Space::Mmio, 0x1002, 1), [2]);
    go.send(()).unwrap();
    assert_eq!(vcpu.join().unwrap(), 0x77);
}

// kvmtool, the same through a BAR that is switched off and on by the guest while another vCPU is
// in the device.
#[test]
fn a_bar_can_be_switched_off_and_on_while_its_handler_runs() {
    let (registry, map, go, vcpu) = somebody_inside();
    let place = |base| {
        registry.edit(|edit| {
            edit.place(map.id(), base);
            Ok(())
        })
    };
    place(None).unwrap();
    place(Some(0x1000)).unwrap();
    place(Some(0x5000)).unwrap();
    go.send(()).unwrap();
    vcpu.join().unwrap();
}

// Firecracker: one slow handler holds up every access on the bus as soon as somebody removes any
// device (250 ms each in the measurement).
#[test]
fn a_slow_handler_holds_up_neither_the_removal_of_another_device_nor_its_accesses() {
    let (registry, _map, go, vcpu) = somebody_inside();
    let (one, two) = (Recorder::new(), Recorder::new());
    let first = registry.map(mmio(0x8000, 8, &one)).unwrap();
    let _second = registry.map(mmio(0x9000, 8, &two)).unwrap();
    // Each of these would wait for the slow handler, which waits for the end of this test.
    registry.remove_sync(first);
    assert_eq!(read(&registry, Space::Mmio, 0x9001, 1), [1]);
    go.send(()).unwrap();
    vcpu.join().unwrap();
}

// Firecracker: inserting or removing from inside a handler deadlocks on the bus lock the handler
// is called under.
#[test]
fn a_handler_can_edit_the_registry_it_is_called_from() {
    struct Switch(Mutex<Option<RegionId>>);
    impl Handler for Switch {
        fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
            0
        }
        fn write(&self, cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
            let to = (value != 0).then_some(value);
            cx.regions().place(&[(self.0.lock().unwrap(), to)]).unwrap();
        }
    }
    let registry = registry();
    let bar = registry.map(mmio(0x4000, 8, &Recorder::new())).unwrap();
    let switch = Arc::new(Switch(Mutex::new(Some(bar.id()))));
    let _switch = registry.map(Region::mmio(0x1000, 8, "switch", "r", switch)).unwrap();
    let mut handle = registry.handle(0);
    handle.write_value(Space::Mmio, 0x1000, Size::Dword, 0x6000);
    assert_eq!(handle.read_value(Space::Mmio, 0x6001, Size::Byte), 1);
    handle.write_value(Space::Mmio, 0x1000, Size::Dword, 0);
    assert_eq!(handle.read_value(Space::Mmio, 0x6001, Size::Byte), 0xff);
}

// cloud-hypervisor: remove() returns while the removed device's handler is still running.
#[test]
fn remove_sync_returns_only_when_the_handler_has() {
    let (registry, map, go, vcpu) = somebody_inside();
    let manager = std::thread::spawn(move || registry.remove_sync(map));
    for _ in 0..20 {
        std::thread::yield_now();
        assert!(!manager.is_finished());
    }
    go.send(()).unwrap();
    vcpu.join().unwrap();
    manager.join().unwrap();
}

// cloud-hypervisor: moving a range onto an occupied one fails, and the old mapping is lost.
#[test]
fn a_move_that_fails_leaves_the_region_where_it_was() {
    let registry = registry();
    let (moved, other) = (Recorder::new(), Recorder::new());
    let map = registry.map(mmio(0x1000, 0x1000, &moved)).unwrap();
    let _other = registry.map(mmio(0x2000, 0x1000, &other)).unwrap();
    let error = registry
        .edit(|edit| {
            edit.place(map.id(), Some(0x2800));
            Ok(())
        })
        .unwrap_err();
    assert!(matches!(error, EditError::Overlap { .. }));
    assert_eq!(read(&registry, Space::Mmio, 0x1003, 1), [3]);
    assert_eq!(read(&registry, Space::Mmio, 0x2004, 1), [4]);
}

// cloud-hypervisor: the move of a device's second resource fails after the first was moved, which
// leaves the device half here and half there (with its doorbells in the old place).
#[test]
fn a_move_of_several_regions_is_all_or_nothing_in_the_kernel_too() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let bars = [0x1000, 0x2000]
        .map(|base| registry.map(mmio(base, 0x100, &Recorder::new()).coalesce(0..4)).unwrap());
    let _wall = registry.map(mmio(0x8000, 0x100, &Recorder::new())).unwrap();
    let before = source.zones.lock().clone();
    let error = registry.edit(|edit| {
        edit.place(bars[0].id(), Some(0x6000));
        edit.place(bars[1].id(), Some(0x8000));
        Ok(())
    });
    assert!(error.is_err());
    assert_eq!(*source.zones.lock(), before);
    assert_eq!(read(&registry, Space::Mmio, 0x1001, 1), [1]);
    assert_eq!(read(&registry, Space::Mmio, 0x6001, 1), [0xff]);
}

// cloud-hypervisor: two devices cannot swap their BARs, so Windows' rebalancing of resources ends
// in an error and the guest does not boot.
#[test]
fn bars_can_swap_in_one_edit() {
    let registry = registry();
    let (a, b) = (Recorder::new(), Recorder::new());
    let (map_a, map_b) =
        (registry.map(mmio(0x1000, 8, &a)).unwrap(), registry.map(mmio(0x2000, 8, &b)).unwrap());
    registry
        .edit(|edit| {
            edit.place(map_a.id(), Some(0x2000));
            edit.place(map_b.id(), Some(0x1000));
            Ok(())
        })
        .unwrap();
    read(&registry, Space::Mmio, 0x1000, 1);
    assert_eq!((a.take().len(), b.take().len()), (0, 1));
}

// cloud-hypervisor: removing with the wrong length succeeds.
#[test]
fn a_region_is_removed_by_its_guard_which_knows_all_of_it() {
    let registry = registry();
    let device = Recorder::new();
    let map = registry.map(mmio(0x1000, 0x100, &device)).unwrap();
    drop(map);
    for addr in [0x1000, 0x1080, 0x10ff] {
        assert_eq!(read(&registry, Space::Mmio, addr, 1), [0xff]);
    }
    assert_eq!(Arc::strong_count(&device), 1, "nothing of it is left");
}

// dbs-device: an insert that overlaps another range is accepted unless both have the same base.
#[test]
fn every_kind_of_overlap_is_refused_by_the_names_of_both() {
    let registry = registry();
    let old = Region::mmio(0x1000, 0x100, "old", "bar", Recorder::new());
    let _old = registry.map(old).unwrap();
    for (base, len) in [
        (0x1000, 0x100),
        (0x1000, 1),
        (0x10ff, 1),
        (0xfff, 2),
        (0x1004, 4),
        (0, 0x10000),
        (0x1080, 0x1000),
    ] {
        let new = Region::mmio(base, len, "new", "bar", Recorder::new());
        let text = registry.map(new).unwrap_err().to_string();
        assert!(text.contains("new/bar") && text.contains("old/bar"), "{text}");
    }
}

// dbs-device: when an insert at an occupied base is refused, the refused device owns the range
// from then on.
#[test]
fn a_refused_region_gets_no_access_and_the_old_owner_keeps_them() {
    let registry = registry();
    let (old, new) = (Recorder::new(), Recorder::new());
    let _old = registry.map(mmio(0x1000, 0x1000, &old)).unwrap();
    assert!(registry.map(mmio(0x1000, 0x100, &new)).is_err());
    read(&registry, Space::Mmio, 0x1004, 4);
    read(&registry, Space::Mmio, 0x1100, 4);
    assert_eq!((old.take().len(), new.take().len()), (2, 0));
}

// cloud-hypervisor, dbs-device, crosvm, OpenVMM, Propolis: an access that runs over the end of a
// region is handed to its device whole, as (0xffe, 4).
// kvmtool: it is not delivered at all, and the guest reads what was in the buffer.
#[test]
fn an_access_over_the_end_reaches_the_device_as_far_as_the_region_goes() {
    let registry = registry();
    let device = Recorder::new();
    let _map = registry.map(mmio(0x1000, 0x1000, &device)).unwrap();
    assert_eq!(read(&registry, Space::Mmio, 0x1ffe, 4), [0xfe, 0xff, 0xff, 0xff]);
    assert_eq!(device.take(), [("read", 0xffe, 2, 0xfffe)]);
}

// kvmtool, Dragonball, cloud-hypervisor before 2026: a read that nobody answers leaves the buffer
// as it is, and the guest gets the bytes of an earlier access.
#[test]
fn an_unclaimed_read_never_shows_old_bytes() {
    let registry = registry();
    let mut handle = registry.handle(0);
    for len in 0..=8 {
        let mut data = vec![0xab; len];
        handle.read(Space::Mmio, 0xdead_0000, &mut data);
        assert_eq!(data, vec![0xff; len]);
        let mut data = vec![0xcd; len];
        handle.read(Space::Pio, 0xcf8, &mut data);
        assert_eq!(data, vec![0xff; len]);
    }
}

// cloud-hypervisor, Firecracker, vm-device: `rep insw` of eight is delivered as one access of 16
// bytes, which devices refuse, drop or panic at.
#[test]
fn string_port_io_arrives_in_elements() {
    let registry = registry();
    let device = Recorder::new();
    let _map = registry.map(Region::pio(0x1f0, 8, "ide", "data", device.clone())).unwrap();
    let mut data = [0; 16];
    registry.handle(0).read_rep(0x1f0, Size::Word, &mut data);
    assert_eq!(device.take(), [("read", 0, 2, 0x100); 8]);
}

// cloud-hypervisor (PR 8506), Propolis (520): the guest panics the VMM by the width of an access.
#[test]
fn no_width_reaches_a_handler_that_it_does_not_code_for() {
    struct Picky;
    impl Handler for Picky {
        fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
            assert!(size == Size::Dword && offset.is_multiple_of(4));
            0
        }
        fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
            assert!(size == Size::Dword && offset.is_multiple_of(4) && value <= u32::MAX.into());
        }
        fn rules(&self) -> trapline::Rules {
            let handled = trapline::Limits::only(Size::Dword);
            trapline::Rules { valid: trapline::Limits::ANY, handled }
        }
    }
    let registry = registry();
    let _map = registry.map(Region::mmio(0x1000, 0x10, "picky", "r", Arc::new(Picky))).unwrap();
    let mut handle = registry.handle(0);
    for addr in 0xff8..0x1018 {
        for len in 0..=8 {
            handle.read(Space::Mmio, addr, &mut vec![0; len]);
            handle.write(Space::Mmio, addr, &vec![0xee; len]);
        }
    }
}

// cloud-hypervisor forks: a guest fills the log with one line per unclaimed access.
#[test]
fn unclaimed_accesses_take_bounded_memory_however_many_there_are() {
    let registry = registry();
    let mut handle = registry.handle(0);
    for addr in 0..20_000 {
        handle.read_value(Space::Mmio, addr * 8, Size::Byte);
    }
    let stats = registry.stats();
    assert!(stats.unclaimed.len() <= 1024, "{}", stats.unclaimed.len());
    assert_eq!(stats.unclaimed(), 20_000);
}

// OpenVMM (PR 3855): a stale range is left behind by a removed device, and the one that is put in
// its place is dead, with no more than a warning.
#[test]
fn a_device_that_comes_back_is_alive() {
    let registry = registry();
    for round in 0..100u64 {
        let device = Recorder::new();
        let map = registry.map(mmio(0x1000 + round * 8, 0x800, &device)).unwrap();
        read(&registry, Space::Mmio, 0x1400, 1);
        assert_eq!(device.take().len(), 1, "round {round}");
        registry.remove_sync(map);
    }
}

// kvmtool: a zone that was registered for a region which is then refused stays in the kernel, and
// zones of removed regions do too.
#[test]
fn nothing_stays_in_the_kernel_of_what_is_refused_or_removed() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let map = registry.map(mmio(0x1000, 0x100, &Recorder::new()).coalesce(0..8)).unwrap();
    assert!(registry.map(mmio(0x10f8, 0x100, &Recorder::new()).coalesce(0..8)).is_err());
    assert_eq!(source.zones.lock().len(), 1);
    drop(map);
    assert!(source.zones.lock().is_empty());
}

// kvmtool: every vCPU drains the one ring of the VM without a lock, so writes can overtake each
// other or be delivered twice.
#[test]
fn queued_writes_are_delivered_once_and_in_order_whoever_delivers() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let device = Recorder::new();
    let _map = registry.map(mmio(0x1000, 8, &device).coalesce(0..8)).unwrap();
    const WRITES: u32 = 2000;
    for value in 0..WRITES {
        assert!(source.guest_write(Space::Mmio, 0x1000, &value.to_le_bytes()));
    }
    std::thread::scope(|scope| {
        for vcpu in 0..2 {
            let mut handle = registry.handle(vcpu);
            scope.spawn(move || (0..50).for_each(|_| handle.drain()));
        }
    });
    let values: Vec<u64> = device.take().iter().map(|call| call.3).collect();
    assert!(values.iter().copied().eq(0..u64::from(WRITES)));
}
