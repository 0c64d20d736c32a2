//! Two threads that dispatch while a third edits. What is tested is order, not speed: every wait is
//! for an event, every loop has its end.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use parking_lot::Mutex;
use support::Recorder;
use trapline::{Handler, IoCx, Mapping, Region, Registry, Size, Space};

/// A handler that notices being run when it must not be.
#[derive(Default)]
struct Mortal {
    dead: AtomicBool,
    inside: AtomicU64,
    calls: AtomicU64,
    ran_dead: AtomicBool,
}

impl Mortal {
    fn run(&self) {
        self.inside.fetch_add(1, Ordering::SeqCst);
        self.calls.fetch_add(1, Ordering::Relaxed);
        for _ in 0..20 {
            std::hint::spin_loop();
            if self.dead.load(Ordering::SeqCst) {
                self.ran_dead.store(true, Ordering::SeqCst);
            }
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler for Mortal {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        self.run();
        0x11
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {
        self.run();
    }
}

/// Runs `body` with two threads that make accesses at `addr`s until it returns.
fn while_two_vcpus_access(registry: &Registry, addrs: &[u64], body: impl FnOnce()) -> u64 {
    let done = AtomicBool::new(false);
    let start = Barrier::new(3);
    std::thread::scope(|scope| {
        let vcpus: Vec<_> = (0..2)
            .map(|vcpu| {
                let mut handle = registry.handle(vcpu);
                let (done, start) = (&done, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut accesses = 0;
                    while !done.load(Ordering::Relaxed) {
                        for addr in addrs {
                            let value = handle.read_value(Space::Mmio, *addr, Size::Byte);
                            assert!(value == 0x11 || value == 0xff, "{value:#x}");
                            handle.write(Space::Mmio, addr - 1, &[0; 3]);
                            accesses += 2;
                        }
                        if accesses % 64 == 0 {
                            // The editing thread may have no processor of its own.
                            std::thread::yield_now();
                        }
                    }
                    accesses
                })
            })
            .collect();
        start.wait();
        body();
        done.store(true, Ordering::Relaxed);
        vcpus.into_iter().map(|vcpu| vcpu.join().unwrap()).sum()
    })
}

fn mortal_region(base: u64, device: &Arc<Mortal>) -> Region {
    Region::mmio(base, 4, "mortal", "r", device.clone())
}

#[test]
fn no_handler_runs_after_remove_sync_returned() {
    let registry = Registry::builder().build();
    while_two_vcpus_access(&registry, &[0x1000], || {
        for _ in 0..500 {
            let device = Arc::new(Mortal::default());
            let mapping = registry.map(mortal_region(0x1000, &device)).unwrap();
            while device.calls.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            registry.remove_sync(mapping);
            assert_eq!(device.inside.load(Ordering::SeqCst), 0);
            device.dead.store(true, Ordering::SeqCst);
            std::thread::yield_now();
            assert!(!device.ran_dead.load(Ordering::SeqCst));
        }
    });
}

#[test]
fn regions_that_swap_places_under_fire_are_never_both_missing() {
    let registry = Registry::builder().build();
    let device = Arc::new(Mortal::default());
    let maps: Vec<Mapping> = [0x1000, 0x2000]
        .map(|base| registry.map(Region::mmio(base, 8, "m", "r", device.clone())).unwrap())
        .into();
    let accesses = while_two_vcpus_access(&registry, &[0x1001, 0x2001], || {
        for i in 0..500 {
            let (a, b) = if i % 2 == 0 { (0x2000, 0x1000) } else { (0x1000, 0x2000) };
            registry
                .edit(|edit| {
                    edit.place(maps[0].id(), Some(a));
                    edit.place(maps[1].id(), Some(b));
                    Ok(())
                })
                .unwrap();
        }
    });
    let stats = registry.stats();
    assert_eq!(stats.unclaimed(), 0, "somebody saw the middle of an edit");
    assert_eq!(stats.claimed(), accesses);
}

#[test]
fn counts_add_up_whatever_is_mapped_meanwhile() {
    let registry = Registry::builder().build();
    let fixed = Arc::new(Mortal::default());
    let _fixed = registry.map(Region::mmio(0x1000, 8, "fixed", "r", fixed.clone())).unwrap();
    let accesses = while_two_vcpus_access(&registry, &[0x1001], || {
        // Others come and go, and their numbers in the counters with them.
        for i in 0..500 {
            let device = Arc::new(Mortal::default());
            let other = Region::mmio(0x8000 + i % 7 * 0x1000, 8, "other", "r", device);
            drop(registry.map(other).unwrap());
        }
    });
    let stats = registry.stats();
    assert_eq!(stats.regions[0].counts.total(), accesses);
    assert_eq!(stats.departed.len(), 0, "nobody came to the others");
}

/// A handler that says when it has begun and then waits to be let go.
struct Gate {
    begun: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Handler for Gate {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        self.begun.send(()).unwrap();
        self.go.lock().recv().unwrap();
        0
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

/// A region with a gate, and its outside.
fn gate() -> (Arc<Gate>, Receiver<()>, Sender<()>) {
    let (begun_tx, begun) = channel();
    let (go, go_rx) = channel();
    (Arc::new(Gate { begun: begun_tx, go: Mutex::new(go_rx) }), begun, go)
}

#[test]
fn a_handler_that_does_not_return_delays_nobody_elses_removal_nor_any_access_or_edit() {
    let registry = Registry::builder().build();
    let (slow, begun, go) = gate();
    let slow_map = registry.map(Region::mmio(0x1000, 8, "slow", "r", slow)).unwrap();
    let other = registry.map(Region::mmio(0x2000, 8, "other", "r", Recorder::new())).unwrap();
    let mut stuck = registry.handle(0);
    let vcpu = std::thread::spawn(move || stuck.read_value(Space::Mmio, 0x1000, Size::Byte));
    begun.recv().unwrap();
    // From here on the slow handler runs, and is let go only at the end: whatever waited for it
    // would wait for ever.
    let mut handle = registry.handle(1);
    assert_eq!(handle.read_value(Space::Mmio, 0x2000, Size::Byte), 0);
    registry.remove_sync(other);
    assert_eq!(handle.read_value(Space::Mmio, 0x2000, Size::Byte), 0xff);
    // Taking the slow region out does not wait either, and its place is free at once.
    drop(slow_map);
    let new = registry.map(Region::mmio(0x1000, 8, "new", "r", Recorder::new())).unwrap();
    assert_eq!(handle.read_value(Space::Mmio, 0x1003, Size::Byte), 3);
    registry.remove_sync(new);
    go.send(()).unwrap();
    assert_eq!(vcpu.join().unwrap(), 0);
}

/// Removes the region whose handler waits at the gate, and opens the gate: the removal waits.
fn remove_while_it_runs(registry: &Registry, map: Mapping, go: &Sender<()>) {
    let (removed_tx, removed) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            registry.remove_sync(map);
            removed_tx.send(()).unwrap();
        });
        // It can only be seen not to have returned; it never does before the gate opens.
        assert!(removed.recv_timeout(Duration::from_millis(50)).is_err());
        go.send(()).unwrap();
        removed.recv().unwrap();
    });
}

#[test]
fn remove_sync_waits_for_the_handler_of_its_region() {
    let registry = Registry::builder().build();
    let (slow, begun, go) = gate();
    let slow_map = registry.map(Region::mmio(0x1000, 8, "slow", "r", slow)).unwrap();
    let mut stuck = registry.handle(0);
    let vcpu = std::thread::spawn(move || stuck.read_value(Space::Mmio, 0x1000, Size::Byte));
    begun.recv().unwrap();
    remove_while_it_runs(&registry, slow_map, &go);
    vcpu.join().unwrap();
}

#[test]
fn a_region_unmapped_by_an_edit_can_still_be_waited_for() {
    let registry = Registry::builder().build();
    let (slow, begun, go) = gate();
    let map = registry.map(Region::mmio(0x1000, 8, "slow", "r", slow)).unwrap();
    let mut stuck = registry.handle(0);
    let vcpu = std::thread::spawn(move || stuck.read_value(Space::Mmio, 0x1000, Size::Byte));
    begun.recv().unwrap();
    registry
        .edit(|edit| {
            edit.unmap(&map);
            Ok(())
        })
        .unwrap();
    // A region that comes now must not be taken for the one that went.
    let _new = registry.map(Region::mmio(0x1000, 8, "new", "r", Recorder::new())).unwrap();
    remove_while_it_runs(&registry, map, &go);
    vcpu.join().unwrap();
}

/// A handler that panics when it is written to.
struct Bomb;

impl Handler for Bomb {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        1
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {
        panic!("on purpose");
    }
}

#[test]
fn a_handler_that_panics_leaves_nobody_waiting() {
    let source = Arc::new(support::Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let region = Region::mmio(0x1000, 8, "bomb", "r", Arc::new(Bomb)).coalesce(4..8);
    let map = registry.map(region).unwrap();
    let mut handle = registry.handle(0);
    let mut write = || {
        let write = || handle.write(Space::Mmio, 0x1000, &[1]);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).is_err()
    };
    assert!(write(), "the write itself");
    source.guest_write(Space::Mmio, 0x1004, &[1]);
    assert!(write(), "the delivery of a queued write before it");
    let other = registry.handle(1).read_value(Space::Mmio, 0x1000, Size::Byte);
    assert_eq!(other, 1);
    registry.remove_sync(map);
}
