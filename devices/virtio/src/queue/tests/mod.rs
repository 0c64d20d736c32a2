//! A queue with a driver that keeps to the rules, and its notifications.

mod hostile;

use super::*;
use crate::features::{EVENT_IDX, IN_ORDER, INDIRECT_DESC};
use trapline_testkit::virtio::{Part, Ring};

const SIZE: u16 = 8;
const RING: u64 = 0x1_0000;
const BUFFERS: u64 = 0x8_0000;
const RAM: u64 = 0x10_0000;

/// What the queue said, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Used,
    Broken,
    Again,
}

#[derive(Default)]
struct Log(Mutex<Vec<Event>>);

impl Log {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl QueueEvents for Log {
    fn used(&self, _queue: u16) {
        self.0.lock().push(Event::Used);
    }

    fn broken(&self, _queue: u16) {
        self.0.lock().push(Event::Broken);
    }

    fn again(&self, _queue: u16) {
        self.0.lock().push(Event::Again);
    }
}

/// A queue and the driver at its other end.
struct Pair {
    mem: GuestMem,
    log: Arc<Log>,
    queue: Queue,
    driver: Ring<GuestMem>,
}

fn stopped() -> Pair {
    let mem = GuestMem::new(&[(0, RAM)]).unwrap();
    let log = Arc::new(Log::default());
    let queue = Queue::new(0, SIZE, mem.clone(), log.clone());
    let driver = Ring::new(mem.clone(), RING, SIZE);
    Pair { mem, log, queue, driver }
}

fn place(driver: &Ring<GuestMem>) -> QueuePlace {
    QueuePlace {
        size: driver.size(),
        descriptors: driver.descriptors(),
        driver: driver.driver(),
        device: driver.device(),
    }
}

fn started(features: u64) -> Pair {
    let pair = stopped();
    pair.queue.start(&place(&pair.driver), features).unwrap();
    pair
}

impl Pair {
    /// Serves everything, writing nothing; how many requests there were.
    fn serve(&self) -> usize {
        let Some(mut serving) = self.queue.serve() else { return 0 };
        let mut count = 0;
        while let Some(chain) = serving.pop() {
            serving.complete(chain, 0);
            count += 1;
        }
        count
    }
}

#[test]
fn a_request_is_read_and_written_across_its_buffers() {
    let mut pair = started(0);
    pair.mem.write(BUFFERS, b"abcdefgh").unwrap();
    let parts = [
        Part::Read(BUFFERS, 3),
        Part::Read(BUFFERS + 3, 0),
        Part::Read(BUFFERS + 3, 5),
        Part::Write(BUFFERS + 0x100, 2),
        Part::Write(BUFFERS + 0x200, 4),
    ];
    let head = pair.driver.add(&parts);
    let mut serving = pair.queue.serve().unwrap();
    let chain = serving.pop().unwrap();
    assert_eq!(chain.head(), head);
    assert_eq!((chain.readable_len(), chain.writable_len()), (8, 6));
    assert_eq!((chain.readable().len(), chain.writable().len()), (3, 2));
    let mut read = [0; 4];
    chain.read_at(&pair.mem, 1, &mut read).unwrap();
    assert_eq!(&read, b"bcde");
    assert_eq!(chain.read_at(&pair.mem, 5, &mut read), Err(ChainError::TooShort));
    chain.write_at(&pair.mem, 1, b"XYZ").unwrap();
    assert_eq!(chain.write_at(&pair.mem, 5, b"XY"), Err(ChainError::TooShort));
    let slices = chain.writable_slices(&pair.mem, 1..5).unwrap();
    assert_eq!(slices.iter().map(|slice| slice.len()).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(chain.readable_slices(&pair.mem, 0..9).unwrap_err(), ChainError::TooShort);
    serving.complete(chain, 4);
    drop(serving);
    let mut written = [0; 3];
    pair.mem.read(BUFFERS + 0x101, &mut written[..1]).unwrap();
    pair.mem.read(BUFFERS + 0x200, &mut written[1..]).unwrap();
    assert_eq!(&written, b"XYZ");
    assert_eq!(pair.driver.take_used(), Some((head.into(), 4)));
    assert_eq!(pair.driver.take_used(), None);
    assert_eq!(pair.log.take(), [Event::Used]);
}

#[test]
fn an_indirect_table_can_follow_descriptors_of_the_queue() {
    use trapline_testkit::virtio::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor};
    let mut pair = started(INDIRECT_DESC);
    let table = BUFFERS + 0x1000;
    let inner = [Part::Read(BUFFERS + 0x10, 2), Part::Write(BUFFERS + 0x20, 3)];
    let head = pair.driver.add_indirect(table, &inner);
    let mut serving = pair.queue.serve().unwrap();
    let chain = serving.pop().unwrap();
    let buffers = [(0x10, 2), (0x20, 3)].map(|(at, len)| Buffer { addr: BUFFERS + at, len });
    assert_eq!((chain.head(), chain.readable()), (head, &buffers[..1]));
    assert_eq!(chain.writable(), &buffers[1..]);
    serving.complete(chain, 3);
    drop(serving);

    // The device ignores whether a table is to be written (2.7.5.3.2).
    let first = Descriptor { addr: BUFFERS, len: 1, flags: DESC_NEXT, next: 6 };
    let flags = DESC_INDIRECT | DESC_WRITE;
    pair.driver.describe(5, first);
    pair.driver.describe(6, Descriptor { addr: table, len: 32, flags, next: 0 });
    pair.driver.offer(5);
    let mut serving = pair.queue.serve().unwrap();
    let chain = serving.pop().unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (3, 3));
    serving.complete(chain, 0);
    drop(serving);
    assert_eq!(pair.log.take(), [Event::Used, Event::Used]);
}

#[test]
fn a_table_can_be_at_any_address_and_longer_than_what_is_used_of_it() {
    use trapline_testkit::virtio::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor};
    let first = Descriptor { addr: BUFFERS + 0x10, len: 2, flags: DESC_NEXT, next: 1 };
    let second = Descriptor { addr: BUFFERS + 0x20, len: 3, flags: DESC_WRITE, next: 0 };
    // At a multiple of 8, at none, and with an end that is not RAM.
    for (table, len) in [(BUFFERS + 0x1008, 32), (BUFFERS + 0x1004, 32), (RAM - 32, 64)] {
        let mut pair = started(INDIRECT_DESC);
        let outer = Descriptor { addr: table, len, flags: DESC_INDIRECT, next: 0 };
        pair.driver.describe(0, outer);
        pair.driver.describe_at(table, 0, first);
        pair.driver.describe_at(table, 1, second);
        pair.driver.offer(0);
        let mut serving = pair.queue.serve().unwrap();
        let chain = serving.pop().unwrap();
        assert_eq!(chain.readable(), [Buffer { addr: first.addr, len: 2 }], "{table:#x}");
        assert_eq!(chain.writable(), [Buffer { addr: second.addr, len: 3 }], "{table:#x}");
        serving.complete(chain, 3);
    }
}

#[test]
fn a_batch_is_one_notification_and_an_empty_turn_none() {
    let mut pair = started(0);
    for _ in 0..3 {
        pair.driver.add(&[Part::Write(BUFFERS, 1)]);
    }
    assert_eq!(pair.serve(), 3);
    assert_eq!(pair.log.take(), [Event::Used]);
    assert_eq!(pair.serve(), 0);
    assert_eq!(pair.log.take(), []);
}

#[test]
fn the_driver_can_do_without_interrupts() {
    let mut pair = started(0);
    pair.driver.set_no_interrupt(true);
    pair.driver.add(&[Part::Write(BUFFERS, 1)]);
    assert_eq!(pair.serve(), 1);
    assert_eq!(pair.log.take(), []);
    pair.driver.set_no_interrupt(false);
    pair.driver.add(&[Part::Write(BUFFERS, 1)]);
    assert_eq!(pair.serve(), 1);
    assert_eq!(pair.log.take(), [Event::Used]);
}

#[test]
fn with_event_indices_the_driver_says_when_it_wants_an_interrupt() {
    let mut pair = started(EVENT_IDX);
    // Flags count for nothing then.
    pair.driver.set_no_interrupt(true);
    pair.driver.set_used_event(2);
    for expected in [&[][..], &[], &[Event::Used], &[], &[]] {
        pair.driver.add(&[Part::Write(BUFFERS, 1)]);
        assert_eq!(pair.serve(), 1);
        assert_eq!(pair.log.take(), expected);
        pair.driver.take_used().unwrap();
    }
    pair.driver.set_used_event(6);
    for _ in 0..3 {
        pair.driver.add(&[Part::Write(BUFFERS, 1)]);
    }
    assert_eq!(pair.serve(), 3);
    assert_eq!(pair.log.take(), [Event::Used], "one in the middle of a batch counts");
}

#[test]
fn notifications_are_off_while_a_queue_is_served_and_on_again_when_it_is_empty() {
    let mut pair = started(0);
    pair.driver.add(&[Part::Write(BUFFERS, 1)]);
    let mut serving = pair.queue.serve().unwrap();
    assert!(!pair.driver.no_notify());
    let chain = serving.pop().unwrap();
    assert!(pair.driver.no_notify());
    serving.complete(chain, 0);
    assert!(serving.pop().is_none());
    assert!(!pair.driver.no_notify());
    drop(serving);

    let mut pair = started(EVENT_IDX);
    for count in 1..=3 {
        pair.driver.add(&[Part::Write(BUFFERS, 1)]);
        assert_eq!(pair.serve(), 1);
        assert_eq!(pair.driver.avail_event(), count);
        pair.driver.take_used().unwrap();
    }
}

#[test]
fn a_turn_ends_after_as_many_requests_as_the_queue_is_long() {
    let mut pair = started(0);
    let mut serving = pair.queue.serve().unwrap();
    for _ in 0..SIZE {
        pair.driver.add(&[Part::Write(BUFFERS, 1)]);
        let chain = serving.pop().unwrap();
        serving.complete(chain, 0);
        pair.driver.take_used().unwrap();
    }
    pair.driver.add(&[Part::Write(BUFFERS, 1)]);
    assert!(serving.pop().is_none());
    drop(serving);
    assert_eq!(pair.log.take(), [Event::Used, Event::Again]);
    assert_eq!(pair.serve(), 1);
    assert_eq!(pair.log.take(), [Event::Used]);
}

#[test]
fn a_device_keeps_requests_for_later_turns() {
    let mut pair = started(0);
    let heads = [1, 2].map(|n| pair.driver.add(&[Part::Write(BUFFERS, n)]));
    let mut serving = pair.queue.serve().unwrap();
    let kept = [serving.pop().unwrap(), serving.pop().unwrap()];
    assert_eq!(serving.in_flight(), 2);
    drop(serving);
    assert_eq!(pair.log.take(), []);
    let mut serving = pair.queue.serve().unwrap();
    kept.into_iter().rev().for_each(|chain| serving.complete(chain, 1));
    assert_eq!(serving.in_flight(), 0);
    drop(serving);
    assert_eq!(pair.log.take(), [Event::Used]);
    let used = [pair.driver.take_used(), pair.driver.take_used()];
    assert_eq!(used, [Some((heads[1].into(), 1)), Some((heads[0].into(), 1))]);
}

#[test]
fn in_order_means_that_what_is_done_early_waits() {
    let mut pair = started(IN_ORDER);
    let heads: Vec<u32> =
        (0..3).map(|_| pair.driver.add(&[Part::Write(BUFFERS, 9)]).into()).collect();
    let mut serving = pair.queue.serve().unwrap();
    let [first, second, third] = [(); 3].map(|()| serving.pop().unwrap());
    serving.complete(third, 3);
    serving.complete(second, 2);
    assert_eq!(pair.driver.used_index(), 0);
    drop(serving);
    assert_eq!(pair.log.take(), [], "nothing was used");
    let mut serving = pair.queue.serve().unwrap();
    serving.complete(first, 1);
    drop(serving);
    assert_eq!(pair.log.take(), [Event::Used]);
    let used: Vec<_> = std::iter::from_fn(|| pair.driver.take_used()).collect();
    assert_eq!(used, [(heads[0], 1), (heads[1], 2), (heads[2], 3)]);
}

#[test]
fn a_request_of_before_a_reset_publishes_nothing() {
    let mut pair = started(0);
    pair.driver.add(&[Part::Write(BUFFERS, 1)]);
    let chain = pair.queue.serve().unwrap().pop().unwrap();
    pair.queue.stop();
    assert!(!pair.queue.is_live());
    assert!(pair.queue.serve().is_none());
    let driver = Ring::new(pair.mem.clone(), RING, SIZE);
    pair.queue.start(&place(&driver), 0).unwrap();
    let mut serving = pair.queue.serve().unwrap();
    serving.complete(chain, 1);
    drop(serving);
    assert_eq!((driver.used_index(), pair.log.take()), (0, vec![]));
}

#[test]
fn a_queue_starts_only_where_it_can_be() {
    let Pair { driver, queue, .. } = &stopped();
    let good = place(driver);
    for (bad, error) in [
        (QueuePlace { size: 0, ..good }, QueueError::Size),
        (QueuePlace { size: 3, ..good }, QueueError::Size),
        (QueuePlace { size: 2 * SIZE, ..good }, QueueError::Size),
        (QueuePlace { descriptors: good.descriptors + 8, ..good }, QueueError::Unaligned),
        (QueuePlace { driver: good.driver + 1, ..good }, QueueError::Unaligned),
        (QueuePlace { device: good.device + 2, ..good }, QueueError::Unaligned),
        (QueuePlace { descriptors: RAM - 16, ..good }, QueueError::NotRam),
        (QueuePlace { driver: RAM - 4, ..good }, QueueError::NotRam),
        (QueuePlace { driver: 0, ..good }, QueueError::NotRam),
        (QueuePlace { device: RAM - 4, ..good }, QueueError::NotRam),
        (QueuePlace { descriptors: u64::MAX - 15, ..good }, QueueError::NotRam),
        (QueuePlace { driver: u64::MAX - 1, ..good }, QueueError::NotRam),
        (QueuePlace { device: u64::MAX - 3, ..good }, QueueError::NotRam),
    ] {
        assert_eq!(queue.start(&bad, 0), Err(error), "{bad:x?}");
        assert!(!queue.is_live());
    }
    assert_eq!(queue.start(&good, 0), Ok(()));
    assert_eq!(queue.start(&QueuePlace { size: SIZE / 2, ..good }, 0), Ok(()));
}

#[test]
fn a_request_that_is_put_back_is_the_next_one_again() {
    for features in [0, IN_ORDER, EVENT_IDX] {
        let mut pair = started(features);
        for n in 0..3 {
            pair.driver.add(&[Part::Write(BUFFERS + n * 16, 16)]);
        }
        let mut serving = pair.queue.serve().unwrap();
        let kept = serving.pop().unwrap();
        let second = serving.pop().unwrap();
        serving.put_back(second);
        assert_eq!(serving.in_flight(), 1);
        drop(serving);
        assert_eq!(pair.log.take(), [], "the driver does not notice");
        let position = pair.queue.position().unwrap();
        assert_eq!((position.next_avail, position.requests), (1, vec![(0, None)]));
        let mut serving = pair.queue.serve().unwrap();
        let heads: Vec<_> = (0..2).map(|_| serving.pop().unwrap()).collect();
        assert!(serving.pop().is_none());
        assert_eq!(heads.iter().map(Chain::head).collect::<Vec<_>>(), [1, 2]);
        serving.complete(kept, 1);
        heads.into_iter().for_each(|chain| serving.complete(chain, 2));
        drop(serving);
        let used: Vec<_> = std::iter::from_fn(|| pair.driver.take_used()).collect();
        assert_eq!(used, [(0, 1), (1, 2), (2, 2)]);
    }
}

#[test]
fn putting_back_costs_nothing_of_a_turn() {
    let mut pair = started(0);
    pair.driver.add(&[Part::Write(BUFFERS, 16)]);
    for _ in 0..3 {
        let mut serving = pair.queue.serve().unwrap();
        for _ in 0..2 * SIZE {
            let chain = serving.pop().unwrap();
            serving.put_back(chain);
        }
    }
    assert_eq!((pair.serve(), pair.log.take()), (1, vec![Event::Used]));
}
