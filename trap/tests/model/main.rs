//! The registry against a list of ranges: the same edits and accesses to both must give the same
//! answers, the same calls of handlers, the same counts.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod input;
mod naive;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;

use input::{Change, Step, Wanted};
use naive::{Bell, Naive, Range};
use proptest::prelude::*;
use support::Recorder;
use trapline::{
    Counts, Edit, EditError, EventFd, Handle, Mapping, Observer, Region, RegionId, Registry, Space,
    Watch, Watching,
};

/// A live region of the real registry.
struct Live {
    key: usize,
    mapping: Mapping,
    device: Arc<Recorder>,
    events: Vec<std::os::fd::OwnedFd>,
}

struct Both {
    registry: Registry,
    handles: [Handle; 2],
    live: Vec<Live>,
    gone: Vec<Live>,
    naive: Naive,
    next_key: usize,
    /// Observers change nothing.
    watching: Vec<Watching>,
}

struct Nobody;

impl Observer for Nobody {}

/// Something to be done in an edit of the registry.
type Op = Box<dyn Fn(&mut Edit<'_>, &[Live])>;

/// An edit, worked out on the list.
struct Plan {
    naive: Naive,
    possible: bool,
    removed: Vec<usize>,
    new: Vec<(Region, Live)>,
    ops: Vec<Op>,
}

impl Plan {
    fn base(&mut self, key: usize) -> &mut Option<u64> {
        &mut self.naive.ranges.iter_mut().find(|range| range.key == key).unwrap().base
    }

    fn place(&mut self, live: &[Live], i: usize, to: Option<u64>) {
        let key = live[i].key;
        self.possible &= !self.removed.contains(&key);
        *self.base(key) = to;
        self.ops.push(Box::new(move |edit, live| edit.place(live[i].mapping.id(), to)));
    }
}

impl Both {
    fn new() -> Self {
        let registry = Registry::builder().build();
        let handles = [0, 1].map(|vcpu| registry.handle(vcpu));
        let (live, gone, naive) = (Vec::new(), Vec::new(), Naive::default());
        Self { registry, handles, live, gone, naive, next_key: 0, watching: Vec::new() }
    }

    fn region(&mut self, wanted: &Wanted) -> (Region, Live, Range) {
        let key = self.next_key;
        self.next_key += 1;
        let device = Recorder::with_rules(wanted.rules);
        let name = format!("r{key}");
        let mut region =
            Region::new(wanted.space, wanted.base, wanted.len, (&name, "m"), device.clone())
                .device_offset(wanted.device_offset);
        let mut events = Vec::new();
        for &(offset, len, value) in &wanted.bells {
            let (ours, theirs) = event();
            events.push(ours);
            region = region.doorbell(offset, len, value, EventFd::new(theirs));
        }
        let bells = wanted.bells.iter();
        let bells = bells.map(|&(offset, len, value)| Bell { offset, len, value, rung: 0 });
        let range = Range {
            key,
            space: wanted.space,
            base: wanted.base,
            len: wanted.len,
            rules: wanted.rules,
            device_offset: wanted.device_offset,
            bells: bells.collect(),
            calls: Vec::new(),
            counts: Counts::default(),
        };
        // The guard is put in when there is one.
        let nothing = Registry::builder().build();
        let nowhere = Region::new(Space::Mmio, None, 1, ("x", "x"), device.clone());
        let mapping = nothing.map(nowhere).unwrap();
        (region, Live { key, mapping, device, events }, range)
    }

    /// What the changes lead to in the list, and what is to be done to the registry.
    fn plan(&mut self, changes: &[Change]) -> Plan {
        let naive = self.naive.clone();
        let mut plan =
            Plan { naive, possible: true, removed: Vec::new(), new: Vec::new(), ops: Vec::new() };
        for change in changes {
            let count = self.live.len();
            match change {
                Change::Map(wanted) => {
                    plan.possible &= input::is_possible(wanted);
                    let (region, live, range) = self.region(wanted);
                    plan.naive.ranges.push(range);
                    plan.new.push((region, live));
                }
                Change::PlaceUnknown => {
                    plan.possible = false;
                    plan.ops.push(Box::new(|edit, _| edit.place(RegionId(u64::MAX), Some(0))));
                }
                _ if count == 0 => {}
                Change::Unmap(i) => {
                    let i = i % count;
                    plan.removed.push(self.live[i].key);
                    plan.ops.push(Box::new(move |edit, live| edit.unmap(&live[i].mapping)));
                }
                Change::Place(i, to) => plan.place(&self.live, i % count, *to),
                Change::Swap(a, b) => {
                    let (a, b) = (a % count, b % count);
                    let [to_b, to_a] = [a, b].map(|i| *plan.base(self.live[i].key));
                    plan.place(&self.live, a, to_a);
                    plan.place(&self.live, b, to_b);
                }
            }
        }
        let ranges = std::mem::take(&mut plan.naive.ranges);
        let (stay, go) = ranges.into_iter().partition(|r| !plan.removed.contains(&r.key));
        plan.naive.ranges = stay;
        let went: Vec<Range> = go;
        plan.naive.gone.extend(went);
        plan.possible &= plan.naive.is_possible();
        plan
    }

    /// Does all changes in one edit, to both.
    fn edit(&mut self, changes: &[Change]) {
        let Plan { naive, possible, removed, new, ops } = self.plan(changes);
        let live = &self.live;
        let outcome = self.registry.edit(|edit| {
            let mut mapped = Vec::new();
            for (region, live) in new {
                mapped.push(Live { mapping: edit.map(region)?, ..live });
            }
            ops.iter().for_each(|op| op(edit, live));
            Ok(mapped)
        });
        assert_eq!(outcome.is_ok(), possible, "{:?}", outcome.as_ref().err());
        if let Ok(mapped) = outcome {
            self.naive = naive;
            self.live.extend(mapped);
            let (stay, go) = self.live.drain(..).partition(|live| !removed.contains(&live.key));
            self.live = stay;
            let went: Vec<Live> = go;
            self.gone.extend(went);
        }
    }

    fn drop_guard(&mut self, i: usize) {
        if self.live.is_empty() {
            return;
        }
        let Live { key, mapping, device, events } = self.live.remove(i % self.live.len());
        self.registry.remove_sync(mapping);
        let at = self.naive.ranges.iter().position(|range| range.key == key).unwrap();
        let range = self.naive.ranges.remove(at);
        assert_eq!(device.take(), range.calls);
        drop(events);
        self.naive.gone.push(Range { calls: Vec::new(), ..range });
    }

    fn step(&mut self, turn: usize, step: &Step) {
        let handle = &mut self.handles[turn % 2];
        match step {
            Step::Edit(changes) => self.edit(changes),
            Step::Drop(i) => self.drop_guard(*i),
            Step::Trace(i, on) => {
                if let Some(live) = self.live.get(i % self.live.len().max(1)) {
                    let watch = Watch::new().region(live.mapping.id());
                    if *on {
                        let watching = self.registry.watch(watch, Arc::new(Nobody)).unwrap();
                        self.watching.push(watching);
                    } else {
                        self.watching.pop();
                    }
                }
            }
            Step::Read(space, addr, len) => {
                let (mut ours, mut theirs) = (vec![0x5a; *len], vec![0; *len]);
                handle.read(*space, *addr, &mut ours);
                self.naive.read(*space, *addr, &mut theirs);
                assert_eq!(ours, theirs);
            }
            Step::Write(space, addr, data) => {
                handle.write(*space, *addr, data);
                self.naive.write(*space, *addr, data);
            }
            Step::ReadRep(port, size, len) => {
                let (mut ours, mut theirs) = (vec![0x5a; *len], vec![0; *len]);
                handle.read_rep(*port, *size, &mut ours);
                self.naive.read_rep(*port, *size, &mut theirs);
                assert_eq!(ours, theirs);
            }
            Step::WriteRep(port, size, data) => {
                handle.write_rep(*port, *size, data);
                self.naive.write_rep(*port, *size, data);
            }
        }
    }

    /// Everything that both kept account of.
    fn compare(&self) {
        for live in &self.live {
            let range = self.naive.ranges.iter().find(|range| range.key == live.key).unwrap();
            assert_eq!(*live.device.log.lock(), range.calls, "r{}", live.key);
            for (bell, event) in range.bells.iter().zip(&live.events) {
                assert_eq!(rung(event), bell.rung, "r{} {bell:?}", live.key);
            }
        }
        let stats = self.registry.stats();
        assert_eq!(stats.regions.len(), self.naive.ranges.len());
        for range in &self.naive.ranges {
            let name = format!("r{}", range.key);
            let region = stats.regions.iter().find(|region| *region.name.device == name).unwrap();
            assert_eq!(region.counts, range.counts, "{name}");
            assert_eq!(region.range.map(|(base, _)| base), range.base);
        }
        for range in &self.naive.gone {
            let name = format!("r{}", range.key);
            let departed = stats.departed.iter().find(|(other, _)| *other.device == name);
            let counts = departed.map_or_else(Counts::default, |(_, counts)| *counts);
            // A region nobody came to leaves no trace, though it may have refused nothing either.
            assert_eq!(counts, range.counts, "{name}");
        }
        assert_eq!(stats.unclaimed, self.naive.unclaimed);
        assert_eq!(stats.unclaimed_others, 0);
    }
}

/// Two ends of one eventfd.
fn event() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    let flags = rustix::event::EventfdFlags::NONBLOCK;
    let fd = rustix::event::eventfd(0, flags).unwrap();
    (fd.try_clone().unwrap(), fd)
}

fn rung(event: &std::os::fd::OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(event, &mut count) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(_) => 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_registry_does_what_a_list_of_ranges_does(steps in prop::collection::vec(input::step(), 1..80)) {
        let mut both = Both::new();
        for (turn, step) in steps.iter().enumerate() {
            both.step(turn, step);
        }
        both.compare();
    }
}

#[test]
fn a_refused_edit_says_why() {
    let registry = Registry::builder().build();
    let error = registry
        .edit(|edit| {
            edit.place(RegionId(7), None);
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error, EditError::Unknown(RegionId(7)));
}
