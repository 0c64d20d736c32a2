//! Buffers are never given back empty, and the rate is bounded.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use trapline_guestmem::GuestMem;
use trapline_testkit::TestClock;
use trapline_testkit::virtio::{Part, Ring};

use super::*;
use crate::{QueueEvents, QueuePlace};

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

/// Processes the queue when it is asked to, as a transport would.
#[derive(Default)]
struct Events(Mutex<u32>);

impl QueueEvents for Events {
    fn used(&self, _queue: u16) {}
    fn broken(&self, queue: u16) {
        panic!("queue {queue} is broken");
    }
    fn again(&self, _queue: u16) {
        *self.0.lock() += 1;
    }
}

impl crate::DeviceEvents for Events {
    fn config_changed(&self) {}
    fn needs_reset(&self) {}
    fn process_soon(&self, queue: u16) {
        self.again(queue);
    }
}

struct Bench {
    clock: TestClock,
    source: Arc<Counter>,
    rng: Arc<Rng>,
    events: Arc<Events>,
    mem: GuestMem,
    queue: Arc<Queue>,
    ring: Ring<GuestMem>,
}

fn bench() -> Bench {
    let (clock, source) = (TestClock::default(), Arc::<Counter>::default());
    let rng = Rng::new(Arc::clone(&source), Arc::new(clock.clone()));
    let events = Arc::<Events>::default();
    let mem = GuestMem::new(&[(0, RAM)]).unwrap();
    let queue = Arc::new(Queue::new(0, QUEUE_SIZE, mem.clone(), events.clone()));
    let ring = Ring::new(mem.clone(), 0x1_0000, QUEUE_SIZE);
    let transport: Arc<dyn crate::DeviceEvents> = events.clone();
    rng.attach(&Link::new(Arc::downgrade(&transport)));
    let mut bench = Bench { clock, source, rng, events, mem, queue, ring };
    bench.start();
    bench
}

impl Bench {
    fn start(&mut self) {
        self.ring = Ring::new(self.mem.clone(), 0x1_0000, QUEUE_SIZE);
        let (descriptors, driver) = (self.ring.descriptors(), self.ring.driver());
        let device = self.ring.device();
        let place = QueuePlace { size: QUEUE_SIZE, descriptors, driver, device };
        let queues = [Arc::clone(&self.queue)];
        self.rng.activate(&Activation { features: 0, queues: &queues });
        self.queue.start(&place, 0).unwrap();
    }

    /// Lets it work until it has nothing to do; what it gave back.
    fn run(&mut self) -> Vec<u32> {
        self.rng.process(0);
        while std::mem::take(&mut *self.events.0.lock()) > 0 {
            self.rng.process(0);
        }
        std::iter::from_fn(|| self.ring.take_used()).map(|(_, written)| written).collect()
    }

    fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read(addr, &mut bytes).unwrap();
        bytes
    }
}

#[test]
fn each_buffer_is_filled_across_its_parts_and_long_ones_in_part() {
    let mut bench = bench();
    bench.ring.add(&[Part::Write(BUFFER, 3), Part::Write(BUFFER + 0x100, 5)]);
    bench.ring.add(&[Part::Write(BUFFER + 0x1000, 100_000)]);
    assert_eq!(bench.run(), [8, 4096]);
    let filled = |bytes: &[u8]| bytes.iter().all(|byte| *byte != 0);
    assert!(filled(&bench.bytes(BUFFER, 3)) && filled(&bench.bytes(BUFFER + 0x100, 5)));
    assert!(filled(&bench.bytes(BUFFER + 0x1000, 4096)));
    assert_eq!(bench.bytes(BUFFER + 3, 1), [0], "not past the end");
    assert_eq!(bench.bytes(BUFFER + 0x2000, 4), [0; 4]);
    // No byte is given twice.
    bench.ring.add(&[Part::Write(BUFFER, 4)]);
    bench.ring.add(&[Part::Write(BUFFER + 8, 4)]);
    assert_eq!(bench.run(), [4, 4]);
    assert_ne!(bench.bytes(BUFFER, 4), bench.bytes(BUFFER + 8, 4));
}

#[test]
fn the_rate_is_bounded_and_what_waits_is_served_later() {
    let mut bench = bench();
    let all = usize::try_from(PERIOD_BYTES).unwrap() / REQUEST_MAX;
    for _ in 0..all + 2 {
        bench.ring.add(&[Part::Write(BUFFER, 4096)]);
    }
    assert_eq!(bench.run().len(), all);
    assert_eq!(bench.run().len(), 0);
    // A reset is no way around it.
    bench.rng.reset();
    assert_eq!(bench.clock.next_deadline_ns(), None);
    bench.queue.stop();
    bench.start();
    bench.ring.add(&[Part::Write(BUFFER, 16)]);
    assert_eq!(bench.run(), [0_u32; 0]);
    bench.clock.step_ns(PERIOD_NS - 1);
    assert_eq!(*bench.events.0.lock(), 0);
    bench.clock.step_ns(1);
    assert_eq!(*bench.events.0.lock(), 1, "the timer has the queue processed");
    assert_eq!(bench.run(), [16]);
}

#[test]
fn while_the_host_has_no_bytes_buffers_wait() {
    let mut bench = bench();
    bench.source.dry.store(true, Ordering::Relaxed);
    bench.ring.add(&[Part::Write(BUFFER, 16)]);
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
    bench.ring.add(&[Part::Read(BUFFER, 16)]);
    bench.ring.add(&[Part::Write(BUFFER, 0)]);
    bench.ring.add(&[Part::Write(RAM, 16)]);
    bench.ring.add(&[Part::Write(BUFFER, 2), Part::Write(RAM - 1, 2), Part::Write(BUFFER, 2)]);
    assert_eq!(bench.run(), [0, 0, 0, 2]);
}

#[test]
fn what_was_given_away_is_saved_and_bytes_are_not() {
    let mut bench = bench();
    bench.ring.add(&[Part::Write(BUFFER, 16)]);
    bench.run();
    let saved = bench.rng.save();
    bench.ring.add(&[Part::Write(BUFFER, 16)]);
    bench.run();
    bench.rng.restore(&saved).unwrap();
    assert_eq!(bench.rng.save(), saved);
    assert!(bench.rng.run.lock().pool.is_empty());
    let too_many = State { period_start_ns: 0, given: PERIOD_BYTES + 1 };
    let refused = bench.rng.restore(&Saved::encode(&SavedV1::from(&too_many)));
    assert!(matches!(refused, Err(StateError::Inconsistent { .. })));
}

#[test]
fn the_hosts_bytes_are_not_all_alike() {
    let mut bytes = [0; 1000];
    HostEntropy.fill(&mut bytes).unwrap();
    assert!(bytes.iter().any(|byte| *byte != bytes[0]));
}
