//! Who polls: the last accesses of each vCPU for as long as they brought nothing new.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use trapline::{Followed, Follower, Recorder, Registry, Slot, StreamId};
use trapline_access::Direction;
use trapline_access::record::{Op, Record};
use trapline_regs::Class;

use crate::recorded_map::Known;

/// A poll reads so often a second at least.
const RATE_MIN: f64 = 5.0;
/// And so often in all.
const READS_MIN: u64 = 8;
/// A loop that polls accesses so many registers at most.
const REGISTERS_MAX: usize = 16;
/// Of so many places it is remembered what is known of them.
const PLACES_MAX: usize = 4096;

/// A register that is read again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The region; nothing, if nobody claims the address.
    pub region: Option<String>,
    /// The register, or its offset or address, where it has no name.
    pub register: String,
    /// Where that is: `pio 0x3fd`.
    pub place: String,
    /// What it says each time.
    pub value: u64,
    /// How often it was read without a change.
    pub reads: u64,
    /// How often a second it is read, of late.
    pub rate: u64,
    /// For how long.
    pub lasted: Duration,
    /// It was so before that as well, as far as anybody knows.
    pub at_least: bool,
    /// What else the vCPU accesses meanwhile, with nothing new either.
    pub others: Vec<String>,
}

/// Reads the rings of recent accesses.
pub(super) struct Polls {
    recorder: Arc<Recorder>,
    registry: Registry,
    follower: Follower,
    slots: Vec<Slot>,
    classes: HashMap<(Place, Said), Class>,
    tails: BTreeMap<u32, Tail>,
    /// What was written last to places whose writes are queued.
    queued: HashMap<Place, u64>,
    /// The rings have been read before: what comes is of now.
    watching: bool,
}

/// A slot, the offset in it, and the direction.
type Place = (u16, u16, Direction);

/// What a register was called when it was reached, if somebody said so.
type Said = Option<&'static str>;

/// A vCPU's accesses since it last made one that brought something new.
#[derive(Default)]
struct Tail {
    seen: Vec<Seen>,
    /// Ticks of the first and of the last one.
    first: u64,
    last: u64,
    /// Something new came before.
    exact: bool,
    /// All that were made while somebody watched.
    watched: u64,
}

struct Seen {
    place: Place,
    register: Said,
    value: u64,
    count: u64,
    /// How many of them were made while somebody watched.
    watched: u64,
}

impl Polls {
    /// Begins with what the rings still have; nothing, without a recorder.
    pub(super) fn start(registry: &Registry) -> Option<Self> {
        let recorder = Arc::clone(registry.recorder()?);
        let (slots, classes, tails, queued) = Default::default();
        let follower = recorder.follow_untimed();
        let (registry, watching) = (registry.clone(), false);
        let mut polls =
            Self { recorder, registry, follower, slots, classes, tails, queued, watching };
        polls.round();
        polls.watching = true;
        Some(polls)
    }

    /// Reads the rings; says how much the fullest had.
    pub(super) fn round(&mut self) -> usize {
        let read = self.follower.read();
        self.slots.extend(self.recorder.slots(self.slots.len()));
        let queued = read.iter().find(|one| one.stream == Some(StreamId::Queued));
        let news = queued.is_some_and(|queued| self.brings_news(queued));
        // Who made a queued write, and when, the queue does not say. Of the past only what came after
        // the last of them is known to be without news.
        let since = if self.watching { None } else { self.recorder.quiet_ns(StreamId::Queued) };
        if news && self.watching {
            self.tails.values_mut().for_each(Tail::begin_anew);
        }
        for followed in &read {
            if let Some(StreamId::Vcpu(vcpu)) = followed.stream {
                self.add(vcpu, followed, since);
            }
        }
        read.iter().map(|followed| followed.records.len()).max().unwrap_or(0)
    }

    fn brings_news(&mut self, queued: &Followed) -> bool {
        let mut news = queued.lost > 0;
        for (record, register) in queued.records.iter().zip(&queued.registers) {
            let place = (record.slot, record.offset, Direction::Write);
            if self.queued.len() >= PLACES_MAX {
                self.queued.clear();
            }
            let before = self.queued.insert(place, record.value);
            news |= before != Some(record.value) || self.class(place, *register) == Class::Payload;
        }
        news
    }

    fn add(&mut self, vcpu: u32, followed: &Followed, since: Option<u64>) {
        let mut tail = self.tails.remove(&vcpu).unwrap_or_default();
        if followed.lost > 0 && self.watching {
            // What was missed may have been anything.
            tail.begin_anew();
        }
        let quiet = self.recorder.quiet_ns(StreamId::Vcpu(vcpu)).unwrap_or(0);
        let end = followed.ticks.last().copied().unwrap_or(0);
        let records = followed.records.iter().zip(&followed.registers);
        for ((record, register), at) in records.zip(&followed.ticks) {
            let age = || quiet.saturating_add(self.recorder.ticks_to_ns(end.saturating_sub(*at)));
            if since.is_some_and(|since| age() > since) {
                continue;
            }
            self.add_record(&mut tail, (record, *register), *at);
        }
        self.tails.insert(vcpu, tail);
    }

    fn add_record(&mut self, tail: &mut Tail, (record, register): (&Record, Said), at: u64) {
        let Some((direction, ..)) = record.access() else { return };
        let place = (record.slot, record.offset, direction);
        let watched = u64::from(self.watching);
        tail.watched += watched;
        let news = match self.class(place, register) {
            Class::Time => return,
            Class::Payload => true,
            _ => matches!(record.op, Op::String(_)),
        };
        if news {
            return tail.begin_anew();
        }
        let full = tail.seen.len() >= REGISTERS_MAX;
        match tail.seen.iter_mut().find(|seen| seen.place == place) {
            Some(seen) if seen.value == record.value => {
                seen.register = register.or(seen.register);
                seen.count += 1;
                seen.watched += watched;
                tail.last = at;
                return;
            }
            Some(_) => tail.begin_anew(),
            None if full => tail.begin_anew(),
            None => {}
        }
        if tail.seen.is_empty() {
            tail.first = at;
        }
        tail.last = at;
        tail.seen.push(Seen { place, register, value: record.value, count: 1, watched });
    }

    /// What kind of values is at a place: by what its register was called, or, if nobody has said, is
    /// called now.
    fn class(&mut self, place: Place, said: Said) -> Class {
        if let Some(class) = self.classes.get(&(place, said)) {
            return *class;
        }
        let (slot, offset, direction) = place;
        let class = match self.slots.get(usize::from(slot)) {
            Some(Slot { region: Some(region), base, .. }) => {
                let into = base.wrapping_sub(region.base).wrapping_add(offset.into());
                let now = || self.registry.register_at(region.id, into, direction);
                let name = said.or_else(now);
                let known = Known::of(&region.name.device);
                name.map_or(Class::Exact, |name| known.traits(name).class)
            }
            _ => Class::Exact,
        };
        if self.classes.len() >= PLACES_MAX {
            self.classes.clear();
        }
        self.classes.insert((place, said), class);
        class
    }

    /// How many accesses a vCPU made while somebody watched.
    pub(super) fn accesses(&self, vcpu: u32) -> u64 {
        self.tails.get(&vcpu).map_or(0, |tail| tail.watched)
    }

    /// The register that a vCPU polls, if it polls one, which was watched for so long. Of a machine
    /// that stands still, it is what the vCPU did before.
    pub(super) fn poll(&self, vcpu: u32, watched: Duration) -> Option<Poll> {
        let tail = self.tails.get(&vcpu)?;
        let reads = tail.seen.iter().filter(|seen| seen.place.2 == Direction::Read);
        let most = reads.max_by_key(|seen| (seen.watched, seen.count))?;
        let lasted =
            Duration::from_nanos(self.recorder.ticks_to_ns(tail.last.saturating_sub(tail.first)));
        let seconds = if watched.is_zero() { lasted } else { watched }.as_secs_f64();
        let count = if watched.is_zero() { most.count } else { most.watched };
        let rate = float(count) / seconds.max(0.001);
        if most.count < READS_MIN || rate < RATE_MIN {
            return None;
        }
        let others = tail.seen.iter().filter(|seen| seen.place != most.place);
        let others = others.map(|seen| {
            let (region, register, place) = self.name(seen);
            let direction = seen.place.2;
            match region {
                Some(region) => format!("{region} {register} ({place}) {direction}"),
                None => format!("{place} {direction}"),
            }
        });
        let (region, register, place) = self.name(most);
        Some(Poll {
            region,
            register,
            place,
            value: most.value,
            reads: most.count,
            rate: whole(rate),
            lasted,
            at_least: !tail.exact,
            others: others.collect(),
        })
    }

    /// The region, the register and where it is.
    fn name(&self, seen: &Seen) -> (Option<String>, String, String) {
        let (slot, offset, direction) = seen.place;
        let Some(slot) = self.slots.get(usize::from(slot)) else {
            return (None, "somewhere".to_owned(), "somewhere".to_owned());
        };
        let addr = slot.base.wrapping_add(offset.into());
        let place = format!("{} {addr:#x}", slot.space);
        match &slot.region {
            Some(region) => {
                let into = addr.wrapping_sub(region.base);
                let now = || self.registry.register_at(region.id, into, direction);
                let name = seen.register.or_else(now);
                let register = name.map_or_else(|| format!("+{into:#x}"), str::to_owned);
                (Some(region.name.to_string()), register, place)
            }
            None => (None, place.clone(), place),
        }
    }
}

impl Tail {
    fn begin_anew(&mut self) {
        self.seen.clear();
        self.exact = true;
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a second")]
fn float(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate, which is positive"
)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use trapline::{Mode, Region, Size, Space};
    use trapline_access::{AccessClock, Handler, IoCx};

    use super::*;

    /// A millisecond later at each access.
    #[derive(Default)]
    struct Ticking(AtomicU64);
    impl AccessClock for Ticking {
        fn stamp_ns(&self) -> u64 {
            self.0.fetch_add(1_000_000, Ordering::Relaxed)
        }
    }

    /// Its first register says what was written to the second.
    #[derive(Default)]
    struct Device(AtomicU64);
    impl Handler for Device {
        fn read(&self, _: &IoCx<'_>, _: u64, _: Size) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn write(&self, _: &IoCx<'_>, _: u64, _: Size, value: u64) {
            self.0.store(value, Ordering::Relaxed);
        }

        fn register(&self, offset: u64, _: Direction) -> Option<&'static str> {
            ["STATUS", "COMMAND"].get(usize::try_from(offset).unwrap()).copied()
        }
    }

    fn registry() -> (Registry, trapline::Mapping) {
        let registry = Registry::builder().build();
        registry.start_recorder(Arc::new(Ticking::default()), Mode::Flight);
        let region = Region::pio(0x300, 8, "box", "ports", Arc::new(Device::default()));
        let mapping = registry.map(region).unwrap();
        (registry, mapping)
    }

    /// A UART's first place: what is written to the second says which register is there.
    #[derive(Default)]
    struct Banked(AtomicU64);
    impl Handler for Banked {
        fn read(&self, _: &IoCx<'_>, _: u64, _: Size) -> u64 {
            0
        }

        fn write(&self, cx: &IoCx<'_>, offset: u64, _: Size, value: u64) {
            cx.reaches(|| self.register(offset, Direction::Write));
            if offset == 1 {
                self.0.store(value, Ordering::Relaxed);
            }
        }

        fn register(&self, offset: u64, _: Direction) -> Option<&'static str> {
            let first = if self.0.load(Ordering::Relaxed) == 0 { "THR" } else { "DLL" };
            Some(if offset == 0 { first } else { "LCR" })
        }
    }

    #[test]
    fn what_is_sent_is_news_whatever_else_was_in_its_place() {
        let registry = Registry::builder().build();
        registry.start_recorder(Arc::new(Ticking::default()), Mode::Flight);
        let region = Region::pio(0x300, 8, "serial0", "uart", Arc::new(Banked::default()));
        let _mapping = registry.map(region).unwrap();
        let mut handle = registry.handle(0);
        let mut polls = Polls::start(&registry).unwrap();
        // The divisor, again and again, which brings nothing new; and then characters.
        for (bank, is_news) in [(1, false), (0, true)] {
            handle.write_value(Space::Pio, 0x301, Size::Byte, bank);
            for _ in 0..100 {
                handle.write_value(Space::Pio, 0x300, Size::Byte, 1);
                handle.read_value(Space::Pio, 0x302, Size::Byte);
            }
            polls.round();
            let poll = polls.poll(0, SECOND);
            assert_eq!(poll.is_none(), is_news, "{poll:?}");
            if let Some(poll) = poll {
                let others =
                    ["serial0/uart LCR (pio 0x301) write", "serial0/uart DLL (pio 0x300) write"];
                assert_eq!(poll.others, others);
            }
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_register_that_says_the_same_is_polled_from_its_last_change_on() {
        let (registry, _mapping) = registry();
        let mut handle = registry.handle(0);
        handle.write_value(Space::Pio, 0x301, Size::Byte, 0x40);
        let mut read = |count| {
            for _ in 0..count {
                handle.write_value(Space::Pio, 0x510, Size::Byte, 7);
                handle.read_value(Space::Pio, 0x300, Size::Byte);
            }
        };
        read(50);
        let mut polls = Polls::start(&registry).unwrap();
        assert_eq!(polls.poll(0, SECOND), None, "that was before");
        assert_eq!(polls.poll(0, Duration::ZERO).unwrap().reads, 50, "but it stands still");
        read(100);
        polls.round();
        let poll = polls.poll(0, SECOND).unwrap();
        assert_eq!((poll.region.as_deref(), &*poll.register), (Some("box/ports"), "STATUS"));
        assert_eq!((poll.value, poll.reads, poll.rate, poll.at_least), (0x40, 150, 100, true));
        assert_eq!(poll.place, "pio 0x300");
        assert!(poll.lasted >= Duration::from_millis(250), "{:?}", poll.lasted);
        assert_eq!(poll.others, ["box/ports COMMAND (pio 0x301) write", "pio 0x510 write"]);
        assert_eq!(polls.poll(1, SECOND), None, "there is no other");
    }

    #[test]
    fn what_changes_is_no_poll_and_what_nobody_claims_is() {
        let (registry, _mapping) = registry();
        let mut handle = registry.handle(0);
        let mut polls = Polls::start(&registry).unwrap();
        for value in 0..500 {
            handle.write_value(Space::Pio, 0x301, Size::Byte, value / 5);
            handle.read_value(Space::Pio, 0x300, Size::Byte);
        }
        polls.round();
        assert_eq!(polls.poll(0, SECOND), None);
        for _ in 0..500 {
            handle.read_value(Space::Mmio, 0xd000_0000, Size::Dword);
        }
        polls.round();
        let poll = polls.poll(0, SECOND).unwrap();
        assert_eq!((poll.region, &*poll.register), (None, "mmio 0xd0000000"));
        assert_eq!((poll.value, poll.at_least), (0xffff_ffff, false));
        assert_eq!(polls.accesses(0), 1500);
    }
}
