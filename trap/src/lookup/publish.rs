//! Publication: how readers see edits without a lock, and how an editor knows that nobody is
//! inside a region any more.
//!
//! The writer replaces `current` and then raises `generation`. A reader, before each lookup, says
//! "I am looking" in its own mark and only then compares generations. Between the two stands a full
//! barrier, and another between the writer's new generation and its look at the marks, so one of
//! the two sees the other: either the reader sees the new generation, or the writer sees the mark
//! (the pattern of Dekker's algorithm). After the lookup the mark names the region found, so a
//! writer waits for readers of *its* region and for no one else.
//!
//! Readers are many and writers few, so where the kernel has `membarrier` the writer pays for both
//! barriers: it makes all threads pass one when it wants to know, and a reader only has to keep
//! the compiler from reordering. Where the kernel has none, everybody has barriers of their own.

#[cfg(all(test, loom))]
mod model;

use std::sync::Arc;

use crate::sync::{
    AtomicU64, Mutex, Ordering, Padded, fence, has_heavy_barrier, heavy_barrier, light_barrier,
    relax,
};

/// Mark of a reader that neither looks up nor is in a handler.
const IDLE: u64 = 0;
/// Bit in the mark of a reader that is looking up; the other bits are the generation it looks in. So a
/// writer tells a lookup that may still find what was removed from a later one.
const LOOKING: u64 = 1 << 63;

/// The latest snapshot, and the marks of all its readers.
pub(crate) struct Published<T> {
    /// Locked to copy or replace the pointer, nothing else.
    current: Mutex<(u64, Arc<T>)>,
    /// The number of `current`, with [`LOOKING`] set: a reader's mark while it looks with it.
    generation: Padded<AtomicU64>,
    marks: Mutex<Vec<Arc<Mark>>>,
    barriers: Barriers,
}

/// How the barriers between a reader's mark and a writer's generation are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Barriers {
    /// By the writer, for all threads, with `membarrier(2)`.
    Writers,
    /// By readers and writers, each with a fence.
    Everybody,
}

type Mark = Padded<AtomicU64>;

/// A reader: the snapshot it has, and its mark. Belongs to one thread at a time.
pub(crate) struct Reader<T> {
    snapshot: Arc<T>,
    /// The number of `snapshot`, with [`LOOKING`] set.
    generation: u64,
    mark: Arc<Mark>,
    barriers: Barriers,
}

impl<T> Published<T> {
    pub(crate) fn new(first: T) -> Self {
        let writers = has_heavy_barrier();
        Self::with(first, if writers { Barriers::Writers } else { Barriers::Everybody })
    }

    fn with(first: T, barriers: Barriers) -> Self {
        Self {
            current: Mutex::new((LOOKING, Arc::new(first))),
            generation: Padded::new(AtomicU64::new(LOOKING)),
            marks: Mutex::new(Vec::new()),
            barriers,
        }
    }

    /// The latest snapshot.
    pub(crate) fn latest(&self) -> Arc<T> {
        Arc::clone(&self.current.lock().1)
    }

    /// Replaces the snapshot; returns the old one, which the caller keeps until no reader has it,
    /// so that readers never free it. Callers take turns (the registry's edit lock).
    pub(crate) fn publish(&self, next: Arc<T>) -> Arc<T> {
        let mut current = self.current.lock();
        let generation = current.0 + 1;
        let old = std::mem::replace(&mut *current, (generation, next));
        drop(current);
        self.generation.store(generation, Ordering::Release);
        old.1
    }

    /// A new reader.
    pub(crate) fn reader(&self) -> Reader<T> {
        let mark = Arc::new(Padded::new(AtomicU64::new(IDLE)));
        self.marks.lock().push(Arc::clone(&mark));
        let (generation, snapshot) = self.copy_current();
        Reader { snapshot, generation, mark, barriers: self.barriers }
    }

    /// Waits until no reader can be inside region `id`, which the latest snapshot no longer has.
    pub(crate) fn wait_for(&self, id: u64) {
        let now = self.generation.load(Ordering::Acquire);
        match self.barriers {
            Barriers::Writers => heavy_barrier(),
            Barriers::Everybody => fence(Ordering::SeqCst),
        }
        let marks: Vec<_> = self.marks.lock().clone();
        for mark in marks {
            let mut spins = 0;
            loop {
                let seen = mark.load(Ordering::Acquire);
                let may_find_it = seen & LOOKING != 0 && seen < now;
                if seen != id && !may_find_it {
                    break;
                }
                relax(&mut spins);
            }
        }
    }

    fn copy_current(&self) -> (u64, Arc<T>) {
        let current = self.current.lock();
        (current.0, Arc::clone(&current.1))
    }

    fn forget(&self, mark: &Arc<Mark>) {
        self.marks.lock().retain(|other| !Arc::ptr_eq(other, mark));
    }
}

impl<T> Reader<T> {
    /// Starts a lookup if [`Reader::snapshot`] is the latest.
    #[inline]
    pub(crate) fn look_if_current(&self, published: &Published<T>) -> Option<Marker<'_>> {
        self.say_looking();
        let marker = self.marker();
        (published.generation.load(Ordering::Acquire) == self.generation).then_some(marker)
    }

    /// Starts a lookup: says so, and makes sure that [`Reader::snapshot`] is the latest. Take a
    /// [`Reader::marker`] next; its end is the end of the lookup.
    #[inline]
    pub(crate) fn look(&mut self, published: &Published<T>) {
        self.say_looking();
        if published.generation.load(Ordering::Acquire) != self.generation {
            self.refresh(published);
        }
    }

    #[inline]
    fn say_looking(&self) {
        self.mark.store(self.generation, Ordering::Relaxed);
        match self.barriers {
            Barriers::Writers => light_barrier(),
            Barriers::Everybody => fence(Ordering::SeqCst),
        }
    }

    /// The snapshot to look in.
    #[inline]
    pub(crate) fn snapshot(&self) -> &T {
        &self.snapshot
    }

    /// The number of [`Reader::snapshot`]: higher than those of all before.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The reader's mark, to say what the lookup found.
    #[inline]
    pub(crate) fn marker(&self) -> Marker<'_> {
        Marker(&self.mark)
    }

    #[cold]
    fn refresh(&mut self, published: &Published<T>) {
        (self.generation, self.snapshot) = published.copy_current();
    }

    /// Takes the reader off the list.
    pub(crate) fn retire(&self, published: &Published<T>) {
        published.forget(&self.mark);
    }
}

/// A reader's mark, borrowed. Dropping it says "nobody inside", also when a handler panics.
pub(crate) struct Marker<'a>(&'a Mark);

impl Marker<'_> {
    /// The lookup found region `id`; its handler runs next.
    #[inline]
    pub(crate) fn found(&self, id: u64) {
        self.0.store(id, Ordering::Release);
    }
}

impl Drop for Marker<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(IDLE, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::expect_used, reason = "a test that cannot go on has failed")]

    use super::*;

    #[test]
    fn a_reader_that_retires_leaves_no_mark() {
        let published = Published::new(());
        let kept = published.reader();
        for _ in 0..3 {
            let reader = published.reader();
            assert_eq!(published.marks.lock().len(), 2);
            reader.retire(&published);
        }
        let marks = published.marks.lock().clone();
        assert!(marks.iter().map(Arc::as_ptr).eq([Arc::as_ptr(&kept.mark)]));
        kept.retire(&published);
        assert_eq!(published.marks.lock().len(), 0);
    }

    /// Long enough for a thread that waits for nothing to be done; a slow machine cannot make a test
    /// fail by it, only let a fault pass.
    const MOMENT: std::time::Duration = std::time::Duration::from_millis(50);

    #[test]
    fn only_who_may_find_what_an_edit_took_out_is_waited_for() {
        let published = Published::new(());
        let early = published.reader();
        let marker = early.look_if_current(&published);
        published.publish(Arc::new(()));
        let late = published.reader();
        std::thread::scope(|scope| {
            let (done, waited) = std::sync::mpsc::channel();
            let published = &published;
            scope.spawn(move || {
                published.wait_for(7);
                done.send(()).expect("the other end is there");
            });
            assert!(waited.recv_timeout(MOMENT).is_err(), "it may find the region yet");
            drop(marker);
            waited.recv().expect("nobody is left to wait for");
        });
        // Would never return if it waited for one that looks with the latest snapshot, or for one
        // inside another region.
        let marker = late.look_if_current(&published);
        published.wait_for(7);
        marker.as_ref().expect("the snapshot is the latest").found(8);
        published.wait_for(7);
    }

    #[test]
    fn a_reader_says_with_what_it_looks_what_it_found_and_that_it_is_done() {
        let published = Published::new(0);
        let mut reader = published.reader();
        let said = |reader: &Reader<i32>| reader.mark.load(Ordering::Relaxed);
        assert_eq!(said(&reader), IDLE);
        for n in 1..=3 {
            let marker = reader.look_if_current(&published);
            assert_eq!(said(&reader), LOOKING + n - 1);
            marker.as_ref().expect("the snapshot is the latest").found(7);
            assert_eq!(said(&reader), 7);
            drop(marker);
            assert_eq!(said(&reader), IDLE);
            published.publish(Arc::new(i32::try_from(n).expect("small")));
            assert_eq!(published.generation.load(Ordering::Relaxed), LOOKING + n);
            assert!(reader.look_if_current(&published).is_none(), "there is a later one");
            assert_eq!(said(&reader), IDLE);
            reader.look(&published);
            assert_eq!(said(&reader), LOOKING + n - 1, "the generation it had before");
            assert_eq!(u64::try_from(*reader.snapshot()), Ok(n));
            drop(reader.marker());
        }
    }
}
