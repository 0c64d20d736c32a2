//! Pages go back to the host, those of the guest's and no others, and statistics come.

use std::ops::{Deref, DerefMut};

use trapline_testkit::TestClock;
use trapline_testkit::virtio::Part;

use super::*;
use crate::alone::Alone;

const RAM: u64 = 0x100_0000;
const LIST: u64 = 0x10_0000;
/// The first page that tests give away.
const FIRST: u32 = 0x800;
const ALL: u64 = F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_POISON | F_PAGE_REPORTING;

struct Bench {
    clock: TestClock,
    alone: Alone<Balloon>,
}

impl Deref for Bench {
    type Target = Alone<Balloon>;

    fn deref(&self) -> &Alone<Balloon> {
        &self.alone
    }
}

impl DerefMut for Bench {
    fn deref_mut(&mut self) -> &mut Alone<Balloon> {
        &mut self.alone
    }
}

impl Bench {
    fn new(features: u64) -> Self {
        let clock = TestClock::default();
        let mem = GuestMem::new(&[(0, RAM)]).unwrap();
        let balloon = Balloon::new(mem.clone(), 0, Arc::new(clock.clone()));
        let mut bench = Self { clock, alone: Alone::new(balloon, mem) };
        bench.start(features);
        bench
    }

    /// Makes a request; how much was written, if it has come back.
    fn ask(&mut self, queue: u16, parts: &[Part]) -> Option<u32> {
        self.add(queue, parts);
        self.used(queue)
    }

    /// Sends a list of pages.
    fn pages(&mut self, queue: u16, pages: &[u32]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.mem.write(LIST, &bytes).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        assert_eq!(self.ask(queue, &[Part::Read(LIST, len)]), Some(0));
    }

    /// Fills pages with something.
    fn fill(&self, pages: std::ops::Range<u32>) {
        for page in pages {
            self.mem.write(u64::from(page) * PAGE, &[0xaa; 4096]).unwrap();
        }
    }

    /// Whether each of these pages is as it was filled.
    fn filled(&self, pages: std::ops::Range<u32>) -> Vec<bool> {
        let mut bytes = [0; 4096];
        let is_filled = |page| {
            self.mem.read(u64::from(page) * PAGE, &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "all of it or nothing");
            bytes[0] == 0xaa
        };
        pages.map(is_filled).collect()
    }

    fn config(&self) -> [u32; 4] {
        let mut bytes = [0; 16];
        self.device.config_read(0, &mut bytes);
        std::array::from_fn(|n| u32::from_le_bytes(bytes[4 * n..][..4].try_into().unwrap()))
    }
}

#[test]
fn what_is_in_the_balloon_goes_back_and_can_be_used_again() {
    let mut bench = Bench::new(ALL);
    bench.fill(FIRST..FIRST + 8);
    bench.pages(INFLATE, &[FIRST + 5, FIRST + 1, FIRST + 2, FIRST + 2]);
    let left = [true, false, false, true, true, false, true, true];
    assert_eq!(bench.filled(FIRST..FIRST + 8), left);
    bench.pages(DEFLATE, &[FIRST + 1]);
    bench.fill(FIRST + 1..FIRST + 2);
    assert_eq!(bench.filled(FIRST + 1..FIRST + 3), [true, false]);
}

#[test]
fn pages_that_are_not_the_guests_are_left_out_and_the_others_are_not() {
    let mut bench = Bench::new(ALL);
    let end = u32::try_from(RAM / PAGE).unwrap();
    bench.fill(end - 2..end);
    bench.pages(INFLATE, &[u32::MAX, end, end - 1, end + 1, 0x8000_0000]);
    assert_eq!(bench.filled(end - 2..end), [true, false]);
    for parts in [
        &[Part::Read(RAM, 4)][..],
        &[Part::Read(LIST, 3)],
        &[Part::Write(LIST, 4)],
        &[Part::Read(LIST, 0)],
        &[Part::Read(u64::MAX, 4)],
    ] {
        assert_eq!(bench.ask(INFLATE, parts), Some(0), "{parts:?}");
        assert_eq!(bench.ask(DEFLATE, parts), Some(0), "{parts:?}");
    }
    // Half a number is none.
    bench.mem.write(LIST, &[&(end - 2).to_le_bytes()[..], &[0; 2]].concat()).unwrap();
    assert_eq!(bench.ask(INFLATE, &[Part::Read(LIST, 1), Part::Read(LIST + 1, 5)]), Some(0));
    assert_eq!(bench.filled(end - 2..end - 1), [false]);
}

#[test]
fn a_turn_gives_back_so_much_and_the_next_one_goes_on() {
    let mut bench = Bench::new(ALL);
    let parts = [Part::Read(LIST, u32::try_from(4 * TURN_PAGES).unwrap())];
    for _ in 0..3 {
        bench.rings[0].add(&parts);
    }
    bench.device.process(INFLATE);
    assert_eq!(
        (bench.rings[0].used_index(), bench.events.queues.lock().clone()),
        (1, vec![INFLATE])
    );
    bench.settle();
    assert_eq!(bench.rings[0].used_index(), 3);
    // Of a request that is longer the beginning counts.
    bench.mem.write(LIST + 4 * TURN_PAGES, &FIRST.to_le_bytes()).unwrap();
    bench.fill(FIRST..FIRST + 1);
    let parts = [Part::Read(LIST, u32::try_from(4 * TURN_PAGES).unwrap() + 4)];
    bench.rings[0].add(&parts);
    bench.device.process(INFLATE);
    assert_eq!(bench.filled(FIRST..FIRST + 1), [true]);
    bench.settle();
}

#[test]
fn free_pages_that_are_reported_go_back_unless_something_has_to_be_in_them() {
    for (features, queue) in [
        (ALL, 3),
        (ALL, 4),
        (F_PAGE_REPORTING, 2),
        (F_PAGE_REPORTING, 4),
        (F_PAGE_REPORTING | F_PAGE_POISON, 2),
    ] {
        let mut bench = Bench::new(features);
        bench.fill(FIRST..FIRST + 6);
        let at = u64::from(FIRST) * PAGE;
        let two = [Part::Write(at, 0x2000), Part::Write(at + 0x3800, 0x1800)];
        assert_eq!(bench.ask(queue, &two), Some(0));
        let left = [false, false, true, true, false, true];
        assert_eq!(bench.filled(FIRST..FIRST + 6), left, "whole pages, by queue {queue}");
        for parts in [
            &[Part::Write(RAM - PAGE, 0x2000)][..],
            &[Part::Read(at, 0x1000)],
            &[Part::Write(0, 0)],
        ] {
            assert_eq!(bench.ask(queue, parts), Some(0), "{parts:?}");
        }
        bench.fill(FIRST..FIRST + 1);
        bench.device.config_write(12, &[0xaa; 4]);
        assert_eq!(bench.ask(queue, &two), Some(0));
        assert_eq!(bench.filled(FIRST..FIRST + 1), [features & F_PAGE_POISON != 0]);
    }
    let mut bench = Bench::new(ALL & !F_PAGE_REPORTING);
    assert_eq!(bench.ask(3, &[Part::Write(0, 0x1000)]), None, "it was not accepted");
}

#[test]
fn memory_that_somebody_keeps_stays() {
    let mut bench = Bench::new(ALL);
    bench.fill(FIRST..FIRST + 2);
    let keep = bench.mem.keep();
    bench.pages(INFLATE, &[FIRST]);
    assert_eq!(bench.ask(3, &[Part::Write(u64::from(FIRST) * PAGE, 0x1000)]), Some(0));
    assert_eq!(bench.filled(FIRST..FIRST + 1), [true]);
    drop(keep);
    bench.pages(INFLATE, &[FIRST]);
    assert_eq!(bench.filled(FIRST..FIRST + 2), [false, true]);
}

#[test]
fn the_host_says_how_much_and_the_driver_how_far_it_is() {
    let bench = Bench::new(ALL);
    bench.device.set_held(0x12_3456);
    assert_eq!((bench.config(), *bench.events.configs.lock()), ([0x123, 0, 0, 0], 1));
    bench.device.set_left(RAM - 0x2000);
    assert_eq!(bench.config()[0], 2);
    bench.device.set_held(u64::MAX);
    assert_eq!(u64::from(bench.config()[0]) * PAGE, RAM);
    bench.device.set_left(u64::MAX);
    assert_eq!(bench.config()[0], 0);
    bench.device.config_write(0, &[0xff; 12]);
    assert_eq!(bench.config(), [0, u32::MAX, 0, 0], "the driver writes one of them");
    assert_eq!((bench.device.held(), bench.device.left()), (RAM, 0), "it cannot be more");
    bench.device.config_write(4, &[7, 0, 0, 0]);
    bench.device.config_write(5, &[1]);
    assert_eq!((bench.config()[1], bench.device.held()), (0x107, 0x10_7000));
    bench.device.config_write(15, &[0x80]);
    assert_eq!(bench.config()[3], 0x8000_0000);
    bench.device.set_held(0x3000);
    bench.device.reset();
    assert_eq!(bench.config(), [3, 0, 0, 0], "what the host wants stays");
}

#[test]
fn statistics_are_read_and_their_buffer_waits_until_newer_ones_are_wanted() {
    let mut bench = Bench::new(ALL);
    assert_eq!(bench.device.statistics(), None);
    let stat = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
    let send = |bench: &mut Bench, stats: &[Vec<u8>]| {
        let bytes = stats.concat();
        bench.mem.write(LIST, &bytes).unwrap();
        bench.ask(STATISTICS, &[Part::Read(LIST, u32::try_from(bytes.len()).unwrap())])
    };
    bench.clock.step_ns(5);
    assert_eq!(send(&mut bench, &[stat(4, 100), stat(5, 200), stat(16, 1), stat(4, 101)]), None);
    let first = bench.device.statistics().unwrap();
    assert_eq!((first.at_ns, first.values[4], first.values[5]), (5, Some(101), Some(200)));
    assert_eq!(first.values.iter().flatten().count(), 2, "what has no meaning is left out");
    assert_eq!(bench.queues[2].position().unwrap().requests, [], "the device holds nothing");
    bench.device.process(STATISTICS);

    bench.clock.step_ns(5);
    bench.device.ask_for_statistics();
    bench.settle();
    assert_eq!(bench.used(STATISTICS), Some(0));
    assert_eq!(bench.device.statistics().unwrap(), first, "until the driver answers");
    // Cut short in the middle of one.
    assert_eq!(send(&mut bench, &[stat(0, 7), vec![1; 9]]), None);
    let second = bench.device.statistics().unwrap();
    assert_eq!((second.at_ns, second.values[0], second.values[4]), (10, Some(7), None));

    // What has been read of the buffer that waits is in a snapshot.
    let saved = bench.device.save();
    let other = Balloon::new(bench.mem.clone(), 0, Arc::new(bench.clock.clone()));
    other.restore(&saved).unwrap();
    assert_eq!(other.save(), saved);
    other.activate(&Activation { features: ALL, queues: &bench.queues });
    other.process(STATISTICS);
    assert_eq!((other.statistics(), bench.used(STATISTICS)), (None, None));
    other.ask_for_statistics();
    other.process(STATISTICS);
    assert_eq!(bench.used(STATISTICS), Some(0), "the driver gets it back there");
    for parts in [&[Part::Read(RAM, 10)][..], &[Part::Write(LIST, 10)]] {
        other.ask_for_statistics();
        bench.rings[2].add(parts);
        other.process(STATISTICS);
        assert_eq!(bench.used(STATISTICS), Some(0), "{parts:?}");
        assert_eq!(other.statistics().unwrap().values, [None; STATS]);
    }
}

#[test]
fn after_a_reset_of_the_queue_or_the_device_statistics_begin_anew() {
    for of_queue in [false, true] {
        let mut bench = Bench::new(ALL);
        bench.mem.write(LIST, &[0; 10]).unwrap();
        assert_eq!(bench.ask(STATISTICS, &[Part::Read(LIST, 10)]), None);
        assert!(bench.device.statistics().is_some());
        bench.queues.iter().for_each(|queue| queue.stop());
        if of_queue {
            bench.device.stop_queue(STATISTICS);
        } else {
            bench.device.reset();
            assert_eq!(bench.device.statistics(), None);
        }
        bench.start(ALL);
        bench.mem.write(LIST + 2, &[9]).unwrap();
        assert_eq!(bench.ask(STATISTICS, &[Part::Read(LIST, 10)]), None);
        assert_eq!(bench.device.statistics().unwrap().values[0], Some(9));
    }
}
