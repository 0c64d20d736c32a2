//! The stated memory bounds, measured at the allocator while a guest does its worst.
//!
//! The usual test harness runs a test beside its own thread, whose allocations would be counted
//! here; `libtest-mimic` with one thread runs it on the main thread, alone in the process.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

#[path = "support/plain.rs"]
#[allow(unreachable_pub, reason = "a bench includes it, too")]
mod plain;

use std::alloc::System;

use cap::Cap;
use gicv3_its::command::{Command, RdBase};
use gicv3_its::redist::Redistributors;
use gicv3_its::{
    CollectionId, Config, DeviceId, EventId, GuestMemory, Its, Lpi, LpiSink, Progress, Target,
};
use libtest_mimic::{Arguments, Trial};
use plain::Plain;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const PROCESSORS: u16 = 4;
const QUEUE: u64 = 0;
const DEVICES: u64 = 0x10_0000;
const COLLECTIONS: u64 = 0x20_0000;
const CONFIG: u64 = 0x40_0000;
const PENDING: u64 = 0x50_0000;
const ITT: u64 = 0x80_0000;
const VALID: u64 = 1 << 63;

struct Guest {
    its: Its,
    redist: Redistributors,
    /// It is there before anything is measured.
    ram: Plain,
    next: u64,
}

impl Guest {
    fn write(&mut self, offset: u64, size: u32, value: u64) {
        let Self { its, redist, ram, .. } = self;
        let sink = &mut redist.sink(ram);
        let mut progress = its.write(offset, size, value, ram, sink);
        while progress == Progress::More {
            progress = its.process(ram, sink, 64);
        }
    }

    fn run(&mut self, commands: impl Iterator<Item = Command>) {
        for command in commands {
            for (at, word) in (QUEUE + self.next..).step_by(8).zip(command.encode()) {
                self.ram.write(at, &word.to_le_bytes()).unwrap();
            }
            self.next = (self.next + 32) % 0x10_0000;
            if self.next.is_multiple_of(0x1000) {
                self.write(0x88, 8, self.next);
            }
        }
        self.write(0x88, 8, self.next);
    }
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let test = Trial::test(
        "what_a_hostile_guest_makes_the_model_hold_stays_under_the_stated_bounds",
        || {
            what_a_hostile_guest_makes_the_model_hold_stays_under_the_stated_bounds();
            Ok(())
        },
    );
    libtest_mimic::run(&arguments, vec![test]).exit();
}

fn what_a_hostile_guest_makes_the_model_hold_stays_under_the_stated_bounds() {
    let its = Its::new(Config::new()).unwrap();
    let redist = Redistributors::of(PROCESSORS);
    let ram = Plain::new(64 << 20);
    let mut guest = Guest { its, redist, ram, next: 0 };
    let bound = Its::MEMORY_BOUND + usize::from(PROCESSORS) * Redistributors::MEMORY_BOUND;
    let before = ALLOCATOR.allocated();
    let mut most = 0;
    let mut look = |what: &str| {
        let held = ALLOCATOR.allocated().saturating_sub(before);
        assert!(held <= bound, "{what}: {held} bytes are held, {bound} were promised");
        most = most.max(held);
    };
    for cpu in 0..u32::from(PROCESSORS) {
        for (offset, size, value) in
            [(0x70, 8, CONFIG | 15), (0x78, 8, PENDING + u64::from(cpu) * 0x1_0000), (0, 4, 1)]
        {
            guest.redist.write(Target(cpu), offset, size, value, &guest.ram);
        }
    }
    guest.write(0x100, 8, VALID | DEVICES | 0x207);
    guest.write(0x108, 8, VALID | COLLECTIONS | 0x207);
    guest.write(0x80, 8, VALID | QUEUE | 0xff);
    guest.write(0, 4, 1);
    look("everything on");
    let collections = (0..=u16::MAX).rev().map(|id| Command::Mapc {
        collection: CollectionId(id),
        target: RdBase(u64::from(id) % 4),
        valid: true,
    });
    guest.run(collections);
    assert_eq!(guest.its.collections().count(), 65_536);
    look("every collection");
    guest.run((0..0x1_0000).map(|device| Command::Mapd {
        device: DeviceId(device),
        size: 15,
        itt: ITT,
        valid: true,
    }));
    look("every device");
    guest.run((0..0x1_0000u32).map(|event| Command::Mapti {
        device: DeviceId(event),
        event: EventId(event),
        intid: 8192 + event % 57_344,
        collection: CollectionId(u16::try_from(event).unwrap()),
    }));
    assert_eq!(guest.its.counters().all_refused(), 0);
    look("every event");
    for intid in 8192..65_536 {
        for cpu in 0..u32::from(PROCESSORS) {
            let lpi = Lpi::new(intid).unwrap();
            guest.redist.sink(&guest.ram).set_pending(Target(cpu), lpi);
        }
    }
    for cpu in 0..u32::from(PROCESSORS) {
        guest.redist.next(Target(cpu), &guest.ram);
    }
    look("every LPI on every processor");
    guest.run(
        (0..0x4000u64).map(|n| Command::Movall { from: RdBase(n % 4), to: RdBase(n / 4 % 4) }),
    );
    for _ in 0..8 {
        guest.write(0, 4, 0);
        guest.write(0, 4, 1);
    }
    look("after moving and switching");
    // A bound far above what can be reached would mean nothing.
    assert!(most > bound - bound / 8, "{most} bytes of {bound}");
    println!("{most} bytes held at most, {bound} promised");
}
