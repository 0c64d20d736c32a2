//! Publication: how readers see edits without a lock, and how an editor knows that nobody is
//! inside a region any more.
//!
//! The writer replaces `current` and then raises `generation`. A reader, before each lookup, says
//! "I am looking" in its own mark and only then compares generations. Both are sequentially
//! consistent, so one of the two sees the other: either the reader sees the new generation, or the
//! writer sees the mark (the pattern of Dekker's algorithm). After the lookup the mark names the
//! region found, so a writer waits for readers of *its* region and for no one else.

use std::sync::Arc;

use crate::sync::{AtomicU64, Mutex, Ordering, Padded, relax};

/// Nobody inside.
const IDLE: u64 = 0;
/// The reader is between "I am looking" and the end of its lookup; the rest counts lookups, so
/// that a later lookup, which sees newer snapshots, is not mistaken for this one.
const LOOKING: u64 = 1 << 63;

/// The latest snapshot, and everybody who reads it.
pub(crate) struct Published<T> {
    /// Locked to copy or replace the pointer, nothing else.
    current: Mutex<(u64, Arc<T>)>,
    generation: Padded<AtomicU64>,
    marks: Mutex<Vec<Arc<Mark>>>,
}

type Mark = Padded<AtomicU64>;

/// One thread's view.
pub(crate) struct Reader<T> {
    snapshot: Arc<T>,
    generation: u64,
    mark: Arc<Mark>,
    looks: u64,
}

impl<T> Published<T> {
    pub(crate) fn new(first: T) -> Self {
        Self {
            current: Mutex::new((0, Arc::new(first))),
            generation: Padded::new(AtomicU64::new(0)),
            marks: Mutex::new(Vec::new()),
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
        self.generation.store(generation, Ordering::SeqCst);
        old.1
    }

    /// A new reader.
    pub(crate) fn reader(&self) -> Reader<T> {
        let mark = Arc::new(Padded::new(AtomicU64::new(IDLE)));
        self.marks.lock().push(Arc::clone(&mark));
        let (generation, snapshot) = self.copy_current();
        Reader { snapshot, generation, mark, looks: 0 }
    }

    /// Waits until no reader can be inside region `id`, which the latest snapshot no longer has.
    pub(crate) fn wait_for(&self, id: u64) {
        let marks: Vec<_> = self.marks.lock().clone();
        for mark in marks {
            let first = mark.load(Ordering::SeqCst);
            let looking = first & LOOKING != 0;
            let mut spins = 0;
            loop {
                let now = mark.load(Ordering::SeqCst);
                if now != id && !(looking && now == first) {
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
    /// Starts a lookup: says so, and makes sure that [`Reader::snapshot`] is the latest. Take a
    /// [`Reader::marker`] next; its end is the end of the lookup.
    #[inline]
    pub(crate) fn look(&mut self, published: &Published<T>) {
        self.looks = (self.looks + 1) & !LOOKING;
        self.mark.swap(LOOKING | self.looks, Ordering::SeqCst);
        if published.generation.load(Ordering::SeqCst) != self.generation {
            self.refresh(published);
        }
    }

    /// The snapshot to look in.
    #[inline]
    pub(crate) fn snapshot(&self) -> &T {
        &self.snapshot
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
