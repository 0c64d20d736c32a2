//! Buffers are never given back empty, and the rate is bounded.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use trapline_guestmem::GuestMem;
use trapline_testkit::TestClock;
use trapline_testkit::virtio::Part;

use super::*;
use crate::alone::Alone;

const RAM: u64 = 0x20_0000;
const BUFFER: u64 = 0x10_0000;

/// Bytes that count, from a source that can be dry.
#[derive(Default)]
struct Counter {
    next: AtomicU8,
    dry: AtomicBool,
}

impl Entropy for Arc<Counter> {
    fn fill(&self, buf: &mut [u8]) -> io::Result<()> {
        if self.dry.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buf.fill_with(|| self.next.fetch_add(1, Ordering::Relaxed) | 1);
        Ok(())
    }
}

struct Bench {
    clock: TestClock,
    source: Arc<Counter>,
    alone: Alone<Rng>,
}

impl Deref for Bench {
    type Target = Alone<Rng>;

    fn deref(&self) -> &Alone<Rng> {
        &self.alone
    }
}

impl DerefMut for Bench {
    fn deref_mut(&mut self) -> &mut Alone<Rng> {
        &mut self.alone
    }
}

fn bench() -> Bench {
    let (clock, source) = (TestClock::default(), Arc::<Counter>::default());
    let rng = Rng::new(Arc::clone(&source), Arc::new(clock.clone()));
    let alone = Alone::new(rng, GuestMem::new(&[(0, RAM)]).unwrap());
    let mut bench = Bench { clock, source, alone };
    bench.start(0);
    bench
}

impl Bench {
    /// Lets it work until it has nothing to do; what it gave back.
    fn run(&mut self) -> Vec<u32> {
        self.notify(0);
        std::iter::from_fn(|| self.used(0)).collect()
    }
}

#[test]
fn each_buffer_is_filled_across_its_parts_and_long_ones_in_part() {
    let mut bench = bench();
    bench.rings[0].add(&[Part::Write(BUFFER, 3), Part::Write(BUFFER + 0x100, 5)]);
    bench.rings[0].add(&[Part::Write(BUFFER + 0x1000, 100_000)]);
    assert_eq!(bench.run(), [8, 4096]);
    let filled = |bytes: &[u8]| bytes.iter().all(|byte| *byte != 0);
    assert!(filled(&bench.bytes(BUFFER, 3)) && filled(&bench.bytes(BUFFER + 0x100, 5)));
    assert!(filled(&bench.bytes(BUFFER + 0x1000, 4096)));
    assert_eq!(bench.bytes(BUFFER + 3, 1), [0], "not past the end");
    assert_eq!(bench.bytes(BUFFER + 0x2000, 4), [0; 4]);
    // No byte is given twice.
    bench.rings[0].add(&[Part::Write(BUFFER, 4)]);
    bench.rings[0].add(&[Part::Write(BUFFER + 8, 4)]);
    assert_eq!(bench.run(), [4, 4]);
    assert_ne!(bench.bytes(BUFFER, 4), bench.bytes(BUFFER + 8, 4));
}

#[test]
fn the_rate_is_bounded_and_what_waits_is_served_later() {
    let mut bench = bench();
    let all = usize::try_from(PERIOD_BYTES).unwrap() / REQUEST_MAX;
    for _ in 0..all + 2 {
        bench.rings[0].add(&[Part::Write(BUFFER, 4096)]);
    }
    assert_eq!(bench.run().len(), all);
    assert_eq!(bench.run().len(), 0);
    // A reset is no way around it.
    bench.reset();
    assert_eq!(bench.clock.next_deadline_ns(), None);
    bench.start(0);
    bench.rings[0].add(&[Part::Write(BUFFER, 16)]);
    assert_eq!(bench.run(), [0_u32; 0]);
    bench.clock.step_ns(PERIOD_NS - 1);
    assert!(bench.events.queues.lock().is_empty());
    bench.clock.step_ns(1);
    assert_eq!(*bench.events.queues.lock(), [0], "the timer has the queue processed");
    assert_eq!(bench.run(), [16]);
}

#[test]
fn while_the_host_has_no_bytes_buffers_wait() {
    let mut bench = bench();
    assert_eq!(bench.source.next.load(Ordering::Relaxed), 0, "nobody wants any yet");
    bench.source.dry.store(true, Ordering::Relaxed);
    assert_eq!((bench.run(), bench.clock.next_deadline_ns()), (vec![], None));
    bench.rings[0].add(&[Part::Write(BUFFER, 16)]);
    assert_eq!(bench.run(), [0_u32; 0]);
    bench.clock.step_ns(PERIOD_NS);
    assert_eq!(bench.run(), [0_u32; 0]);
    bench.source.dry.store(false, Ordering::Relaxed);
    bench.clock.step_ns(PERIOD_NS);
    assert_eq!(bench.run(), [16]);
}

#[test]
fn buffers_that_can_not_be_written_go_back_with_what_could() {
    let mut bench = bench();
    bench.rings[0].add(&[Part::Read(BUFFER, 16)]);
    bench.rings[0].add(&[Part::Write(BUFFER, 0)]);
    bench.rings[0].add(&[Part::Write(RAM, 16)]);
    bench.rings[0].add(&[Part::Write(BUFFER, 2), Part::Write(RAM - 1, 2), Part::Write(BUFFER, 2)]);
    assert_eq!(bench.run(), [0, 0, 0, 2]);
}

#[test]
fn what_was_given_away_is_saved_and_bytes_are_not() {
    let mut bench = bench();
    bench.rings[0].add(&[Part::Write(BUFFER, 16)]);
    bench.run();
    let saved = bench.device.save();
    bench.rings[0].add(&[Part::Write(BUFFER, 16)]);
    bench.run();
    bench.device.restore(&saved).unwrap();
    assert_eq!(bench.device.save(), saved);
    assert!(bench.device.run.lock().pool.is_empty());
    let too_many = State { period_start_ns: 0, given: PERIOD_BYTES + 1 };
    let refused = bench.device.restore(&Saved::encode(&SavedV1::from(&too_many)));
    assert!(matches!(refused, Err(StateError::Inconsistent { .. })));
}

#[test]
fn the_hosts_bytes_are_not_all_alike() {
    let mut bytes = [0; 1000];
    HostEntropy.fill(&mut bytes).unwrap();
    assert!(bytes.iter().any(|byte| *byte != bytes[0]));
}
