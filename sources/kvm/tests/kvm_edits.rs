//! Edits while the guest hammers what is edited: one vCPU writes a growing number to a region
//! without a pause, another one makes ordinary accesses, which deliver what the first one queued,
//! and meanwhile the region is replaced, moved and removed.

#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use support::{Asm, MMIO, MMIO_SEGMENT, Machine, Offloading, Recorder, Running, until};
use trapline::{CoalescedWrite, Mapping, Offload, Region, Registry, Zone};
use trapline_device::{Handler, IoCx, Size, Space};
use trapline_kvm::Irqchip;

/// The other vCPU's port.
const BUSY: u16 = 0x3f8;
/// The hammered register, in one page or in two, and the hammered port.
const REGISTER: u16 = 0x100;
const PORT: u16 = 0x500;
/// Where the guest says which number it has written.
const SAID: u16 = 0x3000;

/// How many times each test edits: without the kernel's queue there is less that could go wrong.
fn edits(offloading: Offloading) -> usize {
    if offloading == Offloading::Kernel { 250 } else { 40 }
}

/// What arrived at any of several devices, in order: which device, which value.
#[derive(Default)]
struct Log(Mutex<Vec<(usize, u64)>>);

/// One of them.
struct Device(usize, Arc<Log>);

impl Handler for Device {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        self.1.0.lock().push((self.0, value));
    }
}

impl Log {
    fn device(self: &Arc<Self>, number: usize) -> Arc<Device> {
        Arc::new(Device(number, Arc::clone(self)))
    }
    /// What a device has had before its successors had anything.
    fn of_one(&self, number: usize) -> Vec<u64> {
        let log = self.0.lock();
        let until_it = log.iter().rev().skip_while(|(device, _)| *device > number);
        let its = until_it.take_while(|(device, _)| *device == number);
        let mut values: Vec<u64> = its.map(|(_, value)| *value).collect();
        values.reverse();
        values
    }
    /// What each of the first `count` devices has had.
    fn of_all(&self, count: usize) -> Vec<Vec<u64>> {
        let mut all = vec![Vec::new(); count];
        for (device, value) in &*self.0.lock() {
            if let Some(values) = all.get_mut(*device) {
                values.push(*value);
            }
        }
        all
    }
}

/// A register of a page, or a port, whose writes queue up if `coalesced`.
fn region(space: Space, page: u64, device: Arc<Device>) -> Region {
    match space {
        Space::Mmio => Region::mmio(MMIO + page * 0x1000, 0x1000, "d", "memory", device)
            .coalesce(u64::from(REGISTER)..u64::from(REGISTER) + 4),
        Space::Pio => Region::pio(PORT, 8, "d", "ports", device).coalesce(0..4),
    }
}

/// `body` for ever.
fn forever(first: Asm, body: &Asm) -> Asm {
    let back = -(i8::try_from(body.0.len()).unwrap() + 2);
    first.bytes(&body.0).bytes(&[0xeb]).bytes(&back.to_le_bytes())
}

/// `inc eax`
fn count(code: Asm) -> Asm {
    code.bytes(&[0x66, 0x40])
}

/// Two vCPUs, the second one hammering, and what arrives.
struct Hammered {
    machine: Machine,
    log: Arc<Log>,
    running: Option<Running>,
}

impl Hammered {
    fn new(offloading: Offloading) -> Self {
        let mut machine = Machine::built(2, Irqchip::None, offloading);
        machine.ports(BUSY, 8, &Recorder::new());
        Self { machine, log: Arc::default(), running: None }
    }

    fn map(&self, space: Space, page: u64, device: usize) -> Mapping {
        self.machine.registry.map(region(space, page, self.log.device(device))).unwrap()
    }

    /// `body` is what the second vCPU does over and over.
    fn start(&mut self, body: &Asm) {
        let busy = forever(Asm::new().mov_dx(BUSY), &Asm::new().in_al());
        let first = Asm::new().mov_ds(MMIO_SEGMENT).mov_dx(PORT).mov_eax(0);
        let hammer = forever(first, &body.clone().keep_eax(SAID));
        self.running = Some(self.machine.start_all(&[busy, hammer]));
    }

    /// The last number the guest is known to have written.
    fn said(&self) -> u64 {
        u32::from_le_bytes(self.machine.read(SAID.into())).into()
    }

    /// Waits until the guest has written some more, sometimes more than the ring holds.
    fn wait(&self, edit: usize) {
        let more = if edit.is_multiple_of(20) { 400 } else { 1 };
        let target = self.said() + more;
        until("another write", || self.said() >= target);
    }

    fn stop(&mut self) {
        self.running.take().unwrap().set.stop().unwrap();
        self.machine.registry.drain();
    }

    /// All numbers from 1 to what the guest said arrived, in order, whichever device had them.
    fn assert_whole(&self) {
        let log = self.log.0.lock();
        for (expected, (device, value)) in (1..).zip(&*log) {
            assert_eq!(*value, expected, "at device {device}, of {}", self.said());
        }
        // It may have been stopped, or have made up to two writes, before it could say so.
        let (arrived, said) = (log.len() as u64, self.said());
        assert!((said..=said + 2).contains(&arrived), "{arrived} arrived, {said} were said");
    }
}

fn store() -> Asm {
    count(Asm::new()).store_eax(REGISTER)
}

fn out() -> Asm {
    count(Asm::new()).out_eax()
}

/// In one edit another region takes the place of the hammered one.
fn replace(space: Space, body: &Asm, offloading: Offloading) {
    let mut guest = Hammered::new(offloading);
    let mut current = guest.map(space, 0, 0);
    guest.start(body);
    let mut left = Vec::new();
    for edit in 1..=edits(offloading) {
        guest.wait(edit);
        let next = guest.machine.registry.edit(|change| {
            change.unmap(&current);
            change.map(region(space, 0, guest.log.device(edit)))
        });
        guest.machine.registry.remove_sync(std::mem::replace(&mut current, next.unwrap()));
        left.push(guest.log.of_one(edit - 1).len());
    }
    guest.stop();
    for (device, (has, had)) in guest.log.of_all(left.len()).iter().zip(&left).enumerate() {
        assert_eq!(has.len(), *had, "device {device} was gone");
    }
    guest.assert_whole();
}

#[test]
fn no_write_is_lost_or_late_while_its_region_is_replaced() {
    for offloading in [Offloading::Kernel, Offloading::Absent] {
        replace(Space::Mmio, &store(), offloading);
        replace(Space::Pio, &out(), offloading);
    }
}

/// Two regions, both hammered, change places over and over.
#[test]
fn no_write_is_lost_or_overtaken_while_two_regions_swap() {
    for offloading in [Offloading::Kernel, Offloading::Absent] {
        let mut guest = Hammered::new(offloading);
        let (a, b) = (guest.map(Space::Mmio, 0, 0), guest.map(Space::Mmio, 1, 1));
        guest.start(&count(store()).store_eax(0x1000 + REGISTER));
        for edit in 0..edits(offloading) {
            guest.wait(edit);
            let (low, high) = if edit.is_multiple_of(2) { (&b, &a) } else { (&a, &b) };
            let swapped = guest.machine.registry.edit(|change| {
                change.place(low.id(), Some(MMIO));
                change.place(high.id(), Some(MMIO + 0x1000));
                Ok(())
            });
            swapped.unwrap();
        }
        guest.stop();
        guest.assert_whole();
        assert!(guest.log.of_all(2).iter().all(|has| has.len() > edits(offloading)));
    }
}

/// Removed, and mapped again after a while: what was written meanwhile is nobody's, what was
/// written before is all there, and nothing comes after the removal.
fn remove(space: Space, body: &Asm, offloading: Offloading) {
    let mut guest = Hammered::new(offloading);
    guest.start(body);
    let mut left = Vec::new();
    for edit in 0..edits(offloading) {
        let mapping = guest.map(space, 0, edit);
        until("a write", || !guest.log.of_one(edit).is_empty());
        guest.wait(edit);
        guest.machine.registry.remove_sync(mapping);
        left.push((guest.said(), guest.log.of_one(edit).len()));
        if edit.is_multiple_of(10) {
            guest.wait(edit);
        }
    }
    guest.stop();
    for (device, (has, &(said, had))) in guest.log.of_all(left.len()).iter().zip(&left).enumerate()
    {
        assert_eq!(has.len(), had, "device {device} was gone");
        if let Some(hole) = has.windows(2).position(|pair| pair[1] != pair[0] + 1) {
            let at = &has[hole..had.min(hole + 4)];
            panic!("device {device} misses some: {at:?} at {hole} of {had}");
        }
        assert!(has.last().is_some_and(|last| *last <= said + 1), "no write of the future");
    }
}

#[test]
fn nothing_arrives_after_a_removal_and_all_before_it_has() {
    for offloading in [Offloading::Kernel, Offloading::Absent] {
        remove(Space::Mmio, &store(), offloading);
        remove(Space::Pio, &out(), offloading);
    }
}

/// A source whose queue does not run dry for as long as a drain can last, as that of a guest which
/// writes faster than its device takes it.
#[derive(Default)]
struct Endless {
    popped: AtomicU64,
}

/// The ring of a 64 KiB page has fewer entries; they may all be there when a drain begins.
const RING_MAX: u64 = 2730;
/// Nobody may be held for longer than so many writes.
const BOUND: u64 = 4 * RING_MAX;
/// A drain that has taken so many would go on for ever.
const FOR_EVER: u64 = 200_000;

impl Endless {
    /// What `what` took out of the queue.
    fn during(&self, what: impl FnOnce()) -> u64 {
        let before = self.popped.swap(0, Ordering::Relaxed);
        assert!(before < FOR_EVER);
        what();
        self.popped.load(Ordering::Relaxed)
    }
}

impl Offload for Endless {
    fn install(&self, _zone: &Zone) -> Result<bool, String> {
        Ok(true)
    }
    fn remove(&self, _zone: &Zone) {}
    fn queued(&self) -> bool {
        true
    }
    fn pop(&self) -> Option<CoalescedWrite> {
        let write = CoalescedWrite { space: Space::Pio, addr: PORT.into(), len: 1, data: [1; 8] };
        (self.popped.fetch_add(1, Ordering::Relaxed) < FOR_EVER).then_some(write)
    }
}

/// Whoever drains delivers what was queued when it began, and is not held by a guest that goes on.
#[test]
fn a_guest_that_queues_without_end_holds_nobody() {
    let source = Arc::new(Endless::default());
    let registry = Registry::builder().offload(Arc::<Endless>::clone(&source)).build();
    let log = Arc::new(Log::default());
    let queueing = registry.map(region(Space::Pio, 0, log.device(0))).unwrap();
    let other = registry.map(Region::pio(BUSY, 8, "d", "other", log.device(1))).unwrap();
    let mut handle = registry.handle(0);
    let within = RING_MAX..=BOUND;
    let access = || handle.write_value(Space::Pio, BUSY.into(), Size::Byte, 7);
    let taken = source.during(access);
    assert!(within.contains(&taken), "an access delivered {taken} writes");
    assert_eq!(log.of_one(1), [7], "and was made");
    let taken = source.during(|| assert!(registry.drain()));
    assert!(within.contains(&taken), "a drain delivered {taken} writes");
    let taken = source.during(|| registry.remove_sync(other));
    assert!(taken <= BOUND, "a removal of another region delivered {taken} writes");
    let taken = source.during(|| registry.remove_sync(queueing));
    assert!(within.contains(&taken), "a removal of the region delivered {taken} writes");
}
