//! The table of the whole map, character by character: two runs are compared by it.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::Arc;

use support::{Recorder, Source, event};
use trapline::{
    Answer, Channel, ChannelRef, Direction, Forwarded, Limits, Memory, Observer, Region, Registry,
    Rules, Size, Space, Stats, Unclaimed, Waiter, Watch,
};

const TITLES: &str = "     range                         device/region                  \
    reads    writes    queued   str.in  str.out  refused  watch delivery\n";

/// Memory nobody looks into.
struct Blank(u64);

impl Memory for Blank {
    fn len(&self) -> u64 {
        self.0
    }

    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}

/// Somebody outside who answers nothing.
struct Outside;

impl Channel for Outside {
    fn read(&self, _access: &Forwarded, _: Option<&dyn Waiter>) -> Answer {
        Answer::Gone
    }

    fn write(&self, _access: &Forwarded, _value: u64, _: Option<&dyn Waiter>) -> Answer {
        Answer::Gone
    }
}

struct Deaf;

impl Observer for Deaf {}

#[test]
fn every_kind_of_delivery_has_its_words() {
    let source = Arc::new(Source::default());
    let registry = Registry::builder().offload(source).build();
    let to = ChannelRef::new(Arc::new(Outside));
    let bell = || event().1;
    let region = Region::mmio(0x1000, 0x100, "d", "all", Recorder::new())
        .coalesce(0..1)
        .coalesce(2..0xa)
        .doorbell(0x10, 0, None, bell())
        .doorbell(0x20, 4, Some(0x1f), bell())
        .forward(0x30..0x31, to.clone(), 0xa, false)
        .forward(0x40..0x50, to.clone(), 0xb, true)
        .forward(0x60..0x60, to, 0xc, true);
    let _all = registry.map(region).unwrap();
    let _ram = registry.map(Region::ram(0x2000, "d", "ram", Arc::new(Blank(0x1000)))).unwrap();
    let _rom = registry.map(Region::rom(0x4000, "d", "rom", Arc::new(Blank(0x800)))).unwrap();
    let expected = "\
mmio 0x1000-0x10ff                 d/all                              0         0         0        0        0        0  -     \
+0x0 coalesced (kernel), +0x2-0x9 coalesced (kernel), +0x10 doorbell len any (kernel), \
+0x20 doorbell len 4 = 0x1f (kernel), +0x30 forward 0xa (kernel), \
+0x40-0x4f forward 0xb posted (kernel), +0x60 forward len any 0xc posted (kernel)
mmio 0x2000-0x2fff                 d/ram                              0         0         0        0        0        0  -     \
+0x0-0xfff memory (kernel)
mmio 0x4000-0x47ff                 d/rom                              0         0         0        0        0        0  -     \
+0x0-0x7ff memory read-only (kernel)
";
    assert_eq!(registry.stats().to_string(), format!("{TITLES}{expected}"));
}

#[test]
fn counts_stand_under_their_titles_and_what_did_not_happen_has_no_line() {
    let registry = Registry::builder().build();
    let words = Rules { valid: Limits::only(Size::Word), handled: Limits::only(Size::Word) };
    let region = Region::pio(0x1f0, 8, "ide", "data", Recorder::with_rules(words));
    let map = registry.map(region).unwrap();
    let _nowhere =
        registry.map(Region::new(Space::Mmio, None, 0x1000, ("edu", "bar0"), Recorder::new()));
    let region = Region::pio(0x80, 1, "post", "code", Recorder::new());
    let post = registry.map(region.coalesce(0..1)).unwrap();
    let _watching = registry.watch(Watch::new().named("ide"), Arc::new(Deaf)).unwrap();
    let mut handle = registry.handle(0);
    (0..3).for_each(|_| assert_eq!(handle.read_value(Space::Pio, 0x1f0, Size::Word), 0x100));
    (0..2).for_each(|_| handle.write_value(Space::Pio, 0x1f0, Size::Word, 7));
    handle.read_value(Space::Pio, 0x1f2, Size::Byte);
    handle.read_rep(0x1f0, Size::Word, &mut [0; 10]);
    handle.write_rep(0x1f0, Size::Word, &[0; 12]);
    handle.write_value(Space::Pio, 0x80, Size::Byte, 1);
    drop(post);
    handle.write_value(Space::Pio, 0x80, Size::Byte, 1);
    handle.read_value(Space::Mmio, 0xfed0_0000, Size::Dword);
    let expected = "\
pio  0x01f0-0x01f7                 ide/data                           4         2         0        5        6        1  1     trap
mmio -                             edu/bar0                           0         0         0        0        0        0  -     trap
(unmapped)                         post/code                          0         1         0        0        0        0
mmio 0xfed00000 unclaimed read of 4: 1
pio  0x0080 unclaimed write of 1: 1
";
    let mut stats = registry.stats();
    assert_eq!(stats.to_string(), format!("{TITLES}{expected}"));
    let expected = expected.replace("4         2         0", "4         2         1");
    stats.regions.iter_mut().for_each(|region| region.counts.coalesced = region.counts.writes / 2);
    stats.unclaimed_others = 2;
    stats.too_deep = 3;
    let more = "     unclaimed elsewhere: 2\n     device transfers nested too deep: 3\n";
    assert_eq!(stats.to_string(), format!("{TITLES}{expected}{more}"));
    drop(map);
}

#[test]
fn windows_that_no_source_takes_are_the_registrys() {
    let registry = Registry::builder().build();
    let region = Region::pio(0x3f8, 8, "serial0", "uart", Recorder::new()).coalesce(0..1);
    let _map = registry.map(region).unwrap();
    let line = "pio  0x03f8-0x03ff                 serial0/uart                       \
                0         0         0        0        0        0  -     +0x0 coalesced (registry)";
    assert_eq!(registry.stats().to_string().lines().nth(1), Some(line));
}

#[test]
fn an_unclaimed_access_says_which_way_it_went() {
    let unclaimed = |direction| Unclaimed { space: Space::Pio, addr: 0x80, len: 1, direction };
    assert!(unclaimed(Direction::Read).is_read());
    assert!(!unclaimed(Direction::Write).is_read());
}

/// What a machine counted before a reset and after it.
#[test]
fn the_counts_of_an_earlier_registry_are_added_by_name_and_address() {
    let run = |mapped: &[&str], name: &str, writes: u64, stray: u64| -> Stats {
        let registry = Registry::builder().build();
        let maps: Vec<_> = mapped
            .iter()
            .zip([0x10, 0x20, 0x30])
            .map(|(name, base)| registry.map(Region::pio(base, 1, name, "r", Recorder::new())))
            .collect();
        let base = mapped
            .iter()
            .position(|other| *other == name)
            .map_or(0x50, |at| u64::try_from(at + 1).unwrap() * 0x10);
        let mut handle = registry.handle(0);
        (0..writes).for_each(|_| handle.write_value(Space::Pio, base, Size::Byte, 0));
        (0..stray).for_each(|_| handle.write_value(Space::Pio, 0x99, Size::Byte, 0));
        let stats = registry.stats();
        drop(maps);
        Stats { unclaimed_others: stray * 10, too_deep: stray * 100, ..stats }
    };
    let writes = |stats: &Stats, name: &str| -> Vec<u64> {
        let live = stats.regions.iter().filter(|region| &*region.name.device == name);
        live.map(|region| region.counts.writes).collect()
    };
    let departed = |stats: &Stats| -> Vec<(String, u64)> {
        stats.departed.iter().map(|(name, counts)| (name.to_string(), counts.writes)).collect()
    };
    let mut now = run(&["a", "b"], "b", 1, 1);
    now.add_departed(&run(&["a", "b", "gone"], "b", 2, 2));
    now.add_departed(&run(&["gone", "never"], "gone", 4, 4));
    assert_eq!((writes(&now, "a"), writes(&now, "b")), (vec![0], vec![3]));
    assert_eq!(departed(&now), [("gone/r".to_owned(), 4)]);
    // What had departed already departs again.
    let mut after = run(&[], "", 0, 0);
    after.add_departed(&now);
    after.add_departed(&run(&["gone"], "gone", 8, 0));
    assert_eq!(departed(&after), [("b/r".to_owned(), 3), ("gone/r".to_owned(), 12)]);
    assert_eq!(after.claimed(), 15);
    let key = Unclaimed { space: Space::Pio, addr: 0x99, len: 1, direction: Direction::Write };
    assert_eq!(after.unclaimed.get(&key), Some(&7));
    assert_eq!((after.unclaimed_others, after.too_deep), (70, 700));
    assert_eq!(after.unclaimed(), 77);
}
