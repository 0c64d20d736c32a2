//! Guest memory and regions as one address space.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use support::{Recorder, Source};
use trapline::{
    AddressSpace, Handler, IoCx, Limits, NoRam, Ram, Region, Registry, Rules, Size, Space, Transfer,
};

/// Pieces of RAM or ROM that note which pages were written.
#[derive(Default)]
struct Pieces {
    pieces: Vec<(u64, bool, Mutex<Vec<u8>>)>,
    dirty: Mutex<BTreeSet<u64>>,
    longest: Mutex<usize>,
}

impl Pieces {
    fn ram(mut self, base: u64, len: usize) -> Self {
        self.pieces.push((base, true, Mutex::new(vec![0; len])));
        self
    }

    fn rom(mut self, base: u64, bytes: &[u8]) -> Self {
        self.pieces.push((base, false, Mutex::new(bytes.to_vec())));
        self
    }

    fn part<R>(&self, addr: u64, len: usize, f: impl FnOnce(bool, &mut [u8]) -> R) -> Option<R> {
        let mut longest = self.longest.lock();
        *longest = len.max(*longest);
        let holds = |(base, _, bytes): &&(u64, bool, Mutex<Vec<u8>>)| {
            (*base..base + bytes.lock().len() as u64).contains(&addr)
        };
        let (base, writable, bytes) = self.pieces.iter().find(holds)?;
        let at = usize::try_from(addr - base).unwrap();
        let mut bytes = bytes.lock();
        let end = bytes.len().min(at + len);
        Some(f(*writable, &mut bytes[at..end]))
    }
}

impl Ram for Pieces {
    fn read(&self, addr: u64, data: &mut [u8]) -> usize {
        let len = data.len();
        let copied = self.part(addr, len, |_, bytes| {
            data[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        });
        copied.unwrap_or(0)
    }

    fn write(&self, addr: u64, data: &[u8]) -> usize {
        let copied = self.part(addr, data.len(), |writable, bytes| {
            if !writable {
                return 0;
            }
            bytes.copy_from_slice(&data[..bytes.len()]);
            self.dirty.lock().insert(addr / 4096);
            bytes.len()
        });
        copied.unwrap_or(0)
    }

    fn next(&self, addr: u64) -> Option<u64> {
        let after = self.pieces.iter().filter_map(|(base, _, bytes)| {
            let end = base + bytes.lock().len() as u64;
            (addr < end).then_some(addr.max(*base))
        });
        after.min()
    }
}

fn machine(ram: Pieces) -> (Registry, Arc<Pieces>, AddressSpace) {
    let registry = Registry::builder().build();
    let ram = Arc::new(ram);
    let space = AddressSpace::new(&registry, ram.clone());
    (registry, ram, space)
}

#[test]
fn a_transfer_crosses_from_ram_through_regions_and_holes_to_ram() {
    let (registry, _, space) = machine(Pieces::default().ram(0, 0x1000).ram(0x1020, 0x1000));
    let device = Recorder::new();
    let _map = registry.map(Region::mmio(0x1004, 8, "d", "r", device.clone())).unwrap();
    let mut data = [0x55; 0x30];
    let transfer = space.read(0xff8, &mut data);
    assert_eq!(transfer, Transfer { ram: 8 + 8, trapped: 8, unclaimed: 0x18, too_deep: 0 });
    assert_eq!(data[..8], [0; 8]);
    assert_eq!(data[8..12], [0xff; 4]);
    assert_eq!(data[12..20], [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(data[20..0x28], [0xff; 0x14]);
    assert_eq!(data[0x28..], [0; 8]);
    device.take();
    let sent: Vec<u8> = (0..0x30).collect();
    assert_eq!(space.write(0xff8, &sent), transfer);
    assert_eq!(device.take(), [("write", 0, 8, 0x1312_1110_0f0e_0d0c)]);
    let mut back = [0; 8];
    space.read(0x1020, &mut back);
    assert_eq!(back, [0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f]);
    // RAM that ends within a page.
    let ends = Transfer { ram: 4, unclaimed: 4, ..Transfer::default() };
    assert_eq!(space.write(0x201c, &[1, 2, 3, 4, 5, 6, 7, 8]), ends);
    assert_eq!(space.read(0x201c, &mut back), ends);
    assert_eq!(back, [1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff]);
}

#[test]
fn ram_is_reached_page_by_page_and_every_page_written_is_marked() {
    let (_registry, ram, space) = machine(Pieces::default().ram(0x1_0000, 0x10_0000));
    let data: Vec<u8> = (0..0x5001u32).map(|i| i.to_le_bytes()[0]).collect();
    assert_eq!(space.write(0x1_0fff, &data).ram, 0x5001);
    assert_eq!(*ram.dirty.lock(), (0x10..=0x15).collect());
    let mut back = vec![0; 0x5001];
    assert_eq!(space.read(0x1_0fff, &mut back).ram, 0x5001);
    assert_eq!(back, data);
    assert!(*ram.longest.lock() <= 4096);
    assert!(ram.dirty.lock().len() == 6, "reading marks nothing");
}

#[test]
fn a_region_is_asked_in_the_widths_it_takes() {
    let (registry, _, space) = machine(Pieces::default());
    let words = Limits { min: Size::Byte, max: Size::Word, unaligned: false };
    let device = Recorder::with_rules(Rules { valid: words, handled: words });
    let _map = registry.map(Region::mmio(0x1000, 0x10, "d", "r", device.clone())).unwrap();
    let mut data = [0; 6];
    assert_eq!(space.read(0x1001, &mut data).trapped, 6);
    assert_eq!(data, [1, 2, 3, 4, 5, 6]);
    let widths: Vec<_> = device.take().iter().map(|call| (call.1, call.2)).collect();
    assert_eq!(widths, [(1, 1), (2, 2), (4, 2), (6, 1)]);
}

#[test]
fn a_region_is_never_asked_in_a_width_it_refuses() {
    for max in [Size::Byte, Size::Word, Size::Dword, Size::Qword] {
        let (registry, _, space) = machine(Pieces::default());
        let limits = Limits { min: Size::Byte, max, unaligned: false };
        let device = Recorder::with_rules(Rules { valid: limits, handled: limits });
        let _map = registry.map(Region::mmio(0x1000, 0x10, "d", "r", device.clone())).unwrap();
        let mut data = [0; 0x10];
        assert_eq!(space.read(0x1000, &mut data).trapped, 0x10);
        assert!(data.iter().copied().eq(0..0x10), "{data:x?}");
        assert_eq!(device.take().len(), 0x10 / max.bytes());
        assert_eq!(space.write(0x1000, &data).trapped, 0x10);
        assert_eq!(device.take().len(), 0x10 / max.bytes());
        assert_eq!(registry.stats().regions[0].counts.refused, 0);
    }
}

#[test]
fn a_region_is_asked_at_multiples_of_the_width_counted_as_its_handler_counts() {
    // At an odd place, and as a later part of a device's registers.
    for (base, device_offset) in [(0x1002, 0), (0x1000, 2), (0x1001, 4)] {
        let (registry, _, space) = machine(Pieces::default());
        let dwords = Limits { min: Size::Byte, max: Size::Dword, unaligned: false };
        let device = Recorder::with_rules(Rules { valid: dwords, handled: dwords });
        let region = Region::mmio(base, 8, "d", "r", device.clone()).device_offset(device_offset);
        let _map = registry.map(region).unwrap();
        let mut data = [0; 8];
        space.read(base, &mut data);
        assert!(data.iter().copied().eq((0..8).map(|i| i + device_offset.to_le_bytes()[0])));
        let calls = device.take();
        assert!(calls.iter().all(|call| call.1 % call.2 as u64 == 0), "{calls:x?}");
        assert_eq!(calls.iter().map(|call| call.2).max(), Some(4));
        assert_eq!(registry.stats().regions[0].counts.refused, 0);
    }
}

#[test]
fn a_guests_access_across_the_end_of_ram_is_ram_and_one_access() {
    let (registry, ram, space) = machine(Pieces::default().ram(0, 0x1000).ram(0x3000, 0x1000));
    let device = Recorder::new();
    let _map = registry.map(Region::mmio(0x2ffc, 4, "d", "r", device.clone())).unwrap();
    let mut handle = registry.handle(0);
    // From RAM to nothing.
    let transfer = space.guest_write(&mut handle, 0xffe, &[1, 2, 3, 4]);
    assert_eq!(transfer, Transfer { ram: 2, unclaimed: 2, ..Transfer::default() });
    let mut data = [0; 4];
    assert_eq!(space.guest_read(&mut handle, 0xffe, &mut data), transfer);
    assert_eq!(data, [1, 2, 0xff, 0xff]);
    // From a region to RAM; the region gets an access of the width that is left for it.
    let transfer = space.guest_write(&mut handle, 0x2ffe, &[5, 6, 7, 8]);
    assert_eq!(transfer, Transfer { ram: 2, trapped: 2, ..Transfer::default() });
    assert_eq!(device.take(), [("write", 2, 2, 0x0605)]);
    assert_eq!(space.guest_read(&mut handle, 0x2ffe, &mut data), transfer);
    assert_eq!(data, [2, 3, 7, 8]);
    assert_eq!(*ram.dirty.lock(), BTreeSet::from([0, 3]));
    let stats = registry.stats();
    let unclaimed: Vec<_> = stats.unclaimed.keys().map(|key| (key.addr, key.len)).collect();
    assert_eq!(unclaimed, [(0x1000, 2), (0x1000, 2)], "a read and a write");
}

#[test]
fn a_guests_access_keeps_its_width_and_may_be_refused() {
    let (registry, _, space) = machine(Pieces::default());
    let bytes = Limits::only(Size::Byte);
    let device = Recorder::with_rules(Rules { valid: bytes, handled: bytes });
    let _map = registry.map(Region::mmio(0x1000, 8, "d", "r", device.clone())).unwrap();
    let mut handle = registry.handle(0);
    let mut data = [0; 2];
    space.guest_read(&mut handle, 0x1000, &mut data);
    assert_eq!((data, device.take().len()), ([0xff; 2], 0));
    space.read(0x1000, &mut data);
    assert_eq!((data, device.take().len()), ([0, 1], 2), "a device's is made as it is taken");
}

#[test]
fn rom_is_read_as_ram_and_its_writes_go_to_the_region() {
    let (registry, ram, space) = machine(Pieces::default().rom(0x1000, &[9; 0x1000]));
    let flash = Recorder::new();
    let _map = registry.map(Region::mmio(0x1000, 0x1000, "flash", "r", flash.clone())).unwrap();
    let mut data = [0; 4];
    assert_eq!(space.read(0x1010, &mut data).ram, 4);
    assert_eq!(data, [9; 4]);
    assert_eq!(space.write(0x1010, &[1, 2, 3, 4]).trapped, 4);
    assert_eq!(flash.take(), [("write", 0x10, 4, 0x0403_0201)]);
    assert!(ram.dirty.lock().is_empty());
}

#[test]
fn a_transfer_does_not_wrap_round_the_end_of_the_space() {
    let (registry, _, space) = machine(Pieces::default().ram(0, 0x1000));
    let device = Recorder::new();
    let _map = registry.map(Region::mmio(u64::MAX - 3, 4, "top", "r", device)).unwrap();
    let mut data = [0; 12];
    let transfer = space.read(u64::MAX - 3, &mut data);
    assert_eq!(transfer, Transfer { ram: 0, trapped: 4, unclaimed: 8, too_deep: 0 });
    assert_eq!(data[4..], [0xff; 8]);
}

#[test]
fn no_ram_at_all_is_a_hole_everywhere() {
    let registry = Registry::builder().build();
    let space = AddressSpace::new(&registry, Arc::new(NoRam));
    let mut data = vec![0; 10_000];
    assert_eq!(space.read(0x123, &mut data).unclaimed, 10_000);
    assert!(data.iter().all(|byte| *byte == 0xff));
    assert_eq!(registry.stats().unclaimed(), 3, "one for each page");
}

/// A device that answers a write by writing to an address of the guest's choice.
struct DmaEngine {
    space: OnceLock<AddressSpace>,
    target: u64,
    transfers: Mutex<Vec<Transfer>>,
}

impl Handler for DmaEngine {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        let mut data = [0; 4];
        let transfer = self.space.get().unwrap().read(self.target, &mut data);
        self.transfers.lock().push(transfer);
        u32::from_le_bytes(data).into()
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        let value = u32::try_from(value).unwrap();
        let transfer = self.space.get().unwrap().write(self.target, &value.to_le_bytes());
        self.transfers.lock().push(transfer);
    }
}

fn engine(space: &AddressSpace, target: u64) -> Arc<DmaEngine> {
    let (cell, transfers) = (OnceLock::new(), Mutex::default());
    let engine = Arc::new(DmaEngine { space: cell, target, transfers });
    engine.space.set(space.clone()).ok().unwrap();
    engine
}

#[test]
fn dma_into_ones_own_registers_ends_at_the_eighth_level() {
    let (registry, _, space) = machine(Pieces::default());
    let engine = engine(&space, 0x1000);
    let _map = registry.map(Region::mmio(0x1000, 4, "dma", "r", engine.clone())).unwrap();
    let mut handle = registry.handle(0);
    handle.write(Space::Mmio, 0x1000, &[1, 2, 3, 4]);
    let transfers = std::mem::take(&mut *engine.transfers.lock());
    assert_eq!(transfers.len(), 9);
    assert_eq!(transfers[0], Transfer { too_deep: 4, ..Transfer::default() });
    assert!(transfers[1..].iter().all(|transfer| transfer.trapped == 4));
    assert_eq!(handle.read_value(Space::Mmio, 0x1000, Size::Dword), 0xffff_ffff);
    let stats = registry.stats();
    assert_eq!(stats.too_deep, 2);
    assert_eq!((stats.regions[0].counts.writes, stats.regions[0].counts.reads), (9, 9));
    assert!(stats.to_string().contains("nested too deep: 2"));
}

#[test]
fn dma_from_a_handler_that_is_being_delivered_to_does_not_deliver_again() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source.clone()).build();
    let ram = Arc::new(Pieces::default().ram(0x10_0000, 0x1000));
    let space = AddressSpace::new(&registry, ram);
    let target = Recorder::new();
    let _target = registry.map(Region::mmio(0x2000, 8, "t", "r", target.clone())).unwrap();
    let engine = engine(&space, 0x2000);
    let region = Region::mmio(0x1000, 4, "dma", "r", engine).coalesce(0..4);
    let _map = registry.map(region).unwrap();
    for value in 1..=3u32 {
        assert!(source.guest_write(Space::Mmio, 0x1000, &value.to_le_bytes()));
    }
    let mut data = [0];
    space.read(0x2000, &mut data);
    let values: Vec<u64> = target.take().iter().map(|call| call.3).collect();
    assert_eq!(values, [1, 2, 3, 0], "in order, and before the read that could see them");
}

#[test]
fn what_nobody_claims_up_to_the_next_region_is_one_access() {
    let registry = Registry::builder().build();
    let space = AddressSpace::new(&registry, Arc::new(NoRam));
    let _map = registry.map(Region::mmio(0x2010, 8, "d", "r", Recorder::new())).unwrap();
    let mut data = [0; 0x20];
    let done = space.read(0x2000, &mut data);
    assert_eq!(done, Transfer { trapped: 8, unclaimed: 0x18, ..Transfer::default() });
    let stats = registry.stats();
    let strays: Vec<_> = stats.unclaimed.iter().map(|(key, n)| (key.addr, key.len, *n)).collect();
    assert_eq!(strays, [(0x2000, 0x10, 1), (0x2018, 8, 1)]);
}
