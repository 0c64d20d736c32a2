//! Coalesced writes on their way from the source's queue to their handlers.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, ReentrantMutex};

use crate::delivery::offload::CoalescedWrite;
use crate::region::Entry;

/// Writes that an edit took out of the source, and whose they are.
pub(crate) type Reclaimed = VecDeque<(CoalescedWrite, Option<Entry>)>;

/// Writes that the source queued, on their way to their handlers.
#[derive(Default)]
pub(crate) struct Coalesced {
    /// The turn to deliver: held by the one thread that delivers queued writes, in order. Whoever has
    /// waited for it knows that all earlier writes have arrived. The value says whether its holder
    /// is delivering, so that accesses which a handler makes meanwhile do not deliver again.
    pub(crate) turn: ReentrantMutex<Cell<bool>>,
    /// Whether somebody is delivering.
    pub(crate) delivering: AtomicBool,
    /// Whether the source was ever asked to queue anything. Until then nobody looks.
    pub(crate) in_use: AtomicBool,
    /// Writes taken out of the source's queue by an edit, with the region they were made to. A
    /// leaf lock, which also keeps `Offload::pop` to one caller.
    pub(crate) queue: Mutex<Reclaimed>,
    /// Whether `queue` holds anything.
    pub(crate) has_reclaimed: AtomicBool,
}
