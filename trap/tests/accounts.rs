//! What is counted: nothing is lost, nothing grows without bound.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::Arc;

use support::Recorder;
use trapline::{Handler, IoCx, Region, Registry, Size, Space};

/// A device that keeps nothing.
struct Null;

impl Handler for Null {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

#[test]
fn counts_go_on_past_every_power_of_two() {
    let registry = Registry::builder().build();
    let _map = registry.map(Region::pio(0x80, 1, "post", "code", Arc::new(Null))).unwrap();
    let mut handle = registry.handle(0);
    let counted = || {
        let counts = registry.stats().regions[0].counts;
        (counts.reads, counts.writes)
    };
    let (mut reads, mut writes) = (0, 0);
    for step in [65_534, 1, 1, 1, 65_534, 1, 1, 70_000] {
        for _ in 0..step {
            handle.read_value(Space::Pio, 0x80, Size::Byte);
        }
        reads += step;
        assert_eq!(counted(), (reads, writes));
        (0..step * 2).for_each(|_| handle.write_value(Space::Pio, 0x80, Size::Byte, 0));
        writes += step * 2;
        assert_eq!(counted(), (reads, writes));
    }
}

#[test]
fn counts_of_departed_regions_of_one_name_add_up() {
    let registry = Registry::builder().build();
    for accesses in 1..=3 {
        let region = Region::pio(0x80, 1, "post", "code", Recorder::new());
        let map = registry.map(region).unwrap();
        let mut handle = registry.handle(0);
        (0..accesses).for_each(|_| handle.write_value(Space::Pio, 0x80, Size::Byte, 0));
        registry.remove_sync(map);
    }
    let stats = registry.stats();
    assert_eq!(stats.departed.len(), 1);
    assert_eq!(stats.departed.values().next().unwrap().writes, 1 + 2 + 3);
    assert_eq!(stats.claimed(), 1 + 2 + 3);
}

#[test]
fn of_departed_regions_no_more_than_1024_names_are_kept() {
    let registry = Registry::builder().build();
    let mut handle = registry.handle(0);
    for i in 0..1100 {
        let name = format!("disk{i}");
        let map = registry.map(Region::pio(0x80, 1, &name, "r", Arc::new(Null)));
        handle.read_value(Space::Pio, 0x80, Size::Byte);
        drop(map.unwrap());
    }
    assert_eq!(registry.stats().departed.len(), 1024);
    // One that is known goes on being counted.
    let map = registry.map(Region::pio(0x80, 1, "disk0", "r", Arc::new(Null)));
    handle.read_value(Space::Pio, 0x80, Size::Byte);
    drop(map.unwrap());
    let stats = registry.stats();
    let disk0 = stats.departed.iter().find(|(name, _)| &*name.device == "disk0").unwrap();
    assert_eq!(disk0.1.reads, 2);
}

#[test]
fn counts_stay_when_a_handle_makes_room_for_more_regions() {
    let registry = Registry::builder().build();
    let first = registry.map(Region::pio(0x80, 1, "post", "code", Arc::new(Null))).unwrap();
    let mut handle = registry.handle(0);
    // Beyond what the lower bits of a count hold, and what they hold besides.
    let (reads, writes) = (0x1_0003, 0x2_0005);
    (0..reads).for_each(|_| assert_eq!(handle.read_value(Space::Pio, 0x80, Size::Byte), 0));
    (0..writes).for_each(|_| handle.write_value(Space::Pio, 0x80, Size::Byte, 0));
    handle.read_rep(0x80, Size::Byte, &mut [0; 7]);
    handle.write_rep(0x80, Size::Byte, &[0; 9]);
    let more: Vec<_> = (0..100)
        .map(|i| registry.map(Region::pio(0x100 + i, 1, "other", "r", Arc::new(Null))).unwrap())
        .collect();
    (0..100).for_each(|i| handle.write_value(Space::Pio, 0x100 + i, Size::Byte, 0));
    let stats = registry.stats();
    let counts = stats.regions[0].counts;
    assert_eq!((counts.reads, counts.writes), (reads, writes));
    assert_eq!((counts.string_reads, counts.string_writes), (7, 9));
    assert!(stats.regions[1..].iter().all(|region| region.counts.writes == 1));
    drop((first, more));
}

#[test]
fn unclaimed_accesses_beyond_those_told_apart_are_summed_over_all_handles() {
    let registry = Registry::builder().build();
    for vcpu in 0..2 {
        let mut handle = registry.handle(vcpu);
        (0..1024 + 3).for_each(|i| handle.write_value(Space::Mmio, i, Size::Byte, 0));
    }
    let stats = registry.stats();
    assert_eq!(stats.unclaimed_others, 2 * 3);
    assert_eq!(stats.unclaimed(), 2 * (1024 + 3));
}
