//! The protocol under every interleaving and every reordering the memory model allows:
//! `RUSTFLAGS="--cfg loom" cargo test -p trapline --release --lib publish`.
//!
//! `membarrier` is modelled as what it stands for, a full barrier on both sides.

use loom::sync::Arc as Shared;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use super::{Barriers, Published};

/// The regions of a snapshot, by mark.
type Regions = Vec<u64>;

struct World {
    published: Published<Regions>,
    /// Whether region 1 has been taken down, so that its handler must not run.
    gone: AtomicBool,
}

fn world(barriers: Barriers, regions: Regions) -> Shared<World> {
    Shared::new(World {
        published: Published::with(regions, barriers),
        gone: AtomicBool::new(false),
    })
}

/// What a vCPU does, `times` over: looks, and is inside region 1 if it finds it.
fn dispatch(world: &World, times: usize) {
    let mut reader = world.published.reader();
    for _ in 0..times {
        reader.look(&world.published);
        let marker = reader.marker();
        if reader.snapshot().contains(&1) {
            marker.found(1);
            assert!(!world.gone.load(Ordering::Relaxed), "a handler ran after it was waited for");
        }
    }
    reader.retire(&world.published);
}

/// As [`dispatch`], the quick way: only with what is current.
fn dispatch_if_current(world: &World) {
    let reader = world.published.reader();
    if let Some(marker) = reader.look_if_current(&world.published)
        && reader.snapshot().contains(&1)
    {
        marker.found(1);
        assert!(!world.gone.load(Ordering::Relaxed), "a handler ran after it was waited for");
    }
    reader.retire(&world.published);
}

fn remove(world: &World) {
    world.published.publish(vec![2].into());
    world.published.wait_for(1);
    world.gone.store(true, Ordering::Relaxed);
}

/// Up to four changes of thread in the middle of something: more finds nothing new in a protocol
/// of so few steps, but takes hours.
fn in_both_ways(test: impl Fn(Barriers) + Copy + Send + Sync + 'static) {
    for barriers in [Barriers::Writers, Barriers::Everybody] {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(4);
        model.check(move || test(barriers));
    }
}

#[test]
fn no_handler_runs_after_the_wait_for_it() {
    in_both_ways(|barriers| {
        let world = world(barriers, vec![1, 2]);
        let vcpu = thread::spawn({
            let world = world.clone();
            move || dispatch(&world, 2)
        });
        remove(&world);
        vcpu.join().unwrap();
    });
}

#[test]
fn nor_does_one_that_was_found_the_quick_way() {
    in_both_ways(|barriers| {
        let world = world(barriers, vec![1, 2]);
        let vcpu = thread::spawn({
            let world = world.clone();
            move || dispatch_if_current(&world)
        });
        remove(&world);
        vcpu.join().unwrap();
    });
}

#[test]
fn two_readers_are_both_waited_for() {
    in_both_ways(|barriers| {
        let world = world(barriers, vec![1]);
        let vcpus = [(); 2].map(|()| {
            let world = world.clone();
            thread::spawn(move || dispatch_if_current(&world))
        });
        remove(&world);
        vcpus.into_iter().for_each(|vcpu| vcpu.join().unwrap());
    });
}

#[test]
fn a_reader_inside_another_region_is_not_waited_for() {
    in_both_ways(|barriers| {
        let world = world(barriers, vec![1, 2]);
        let mut reader = world.published.reader();
        reader.look(&world.published);
        let marker = reader.marker();
        marker.found(2);
        // The model has one thread: if this waited, it would wait for ever.
        remove(&world);
        drop(marker);
    });
}

#[test]
fn an_edit_is_seen_by_whoever_looks_after_it() {
    in_both_ways(|barriers| {
        let world = world(barriers, vec![]);
        let mapped = Shared::new(AtomicUsize::new(0));
        let vcpu = thread::spawn({
            let (world, mapped) = (world.clone(), mapped.clone());
            move || {
                let mut reader = world.published.reader();
                let before = mapped.load(Ordering::Acquire);
                reader.look(&world.published);
                let found = reader.snapshot().contains(&1);
                assert!(found || before == 0, "mapped before the look, but not found");
                reader.retire(&world.published);
            }
        });
        world.published.publish(vec![1].into());
        mapped.store(1, Ordering::Release);
        vcpu.join().unwrap();
    });
}
