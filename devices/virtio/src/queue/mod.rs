//! A virtqueue: the one way a device has to its driver's requests.
//!
//! A split ring of `virtio-queue`, and around it what that leaves to its users: what a hostile or
//! broken driver can write into a ring is judged here and nowhere else.
//!
//! * A chain that cannot be parsed goes back unused where it has an end; without one the queue is
//!   retired, and the device needs a reset.
//! * A head out of range or in flight already, an index that ran ahead by more than the queue, and
//!   a ring that is not RAM retire the queue as well.
//! * A wake-up hands out as many requests as the queue is long, then it is another one's turn.
//! * What a batch of requests completes is one decision about notifying the driver.
//! * A request outlives the queue it is from: completing it after a reset publishes nothing.
//!
//! Spec: virtio 1.3, section 2.7.

mod chain;
mod live;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use trapline_guestmem::GuestMem;

pub use chain::{Buffer, Chain, ChainError, Slices};
use live::{Live, Popped};

/// The longest queue that a device can have.
pub(crate) const MAX_SIZE: u16 = 1024;

/// Where a queue's notifications go. Leaves: they call no device.
pub trait QueueEvents: Send + Sync {
    /// The driver wants to know that buffers were used.
    fn used(&self, queue: u16);

    /// The driver has broken the rules of the queue, which has stopped (`DEVICE_NEEDS_RESET`).
    fn broken(&self, queue: u16);

    /// There are more requests than one turn serves: the queue is to be processed again.
    fn again(&self, queue: u16);
}

/// Where a driver has put a queue, as it wrote it into a transport's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuePlace {
    /// How many descriptors there are.
    pub size: u16,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Of the driver area: the available ring.
    pub driver: u64,
    /// Of the device area: the used ring.
    pub device: u64,
}

/// How far a queue was served, and what the device had of it: a part of a transport's saved form,
/// version 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePosition {
    /// The next entry of the available ring.
    pub next_avail: u16,
    /// The next entry of the used ring.
    pub next_used: u16,
    /// Heads of the requests the device has; with `IN_ORDER` in order, and what was written to
    /// those it is done with.
    pub requests: Vec<(u16, Option<u32>)>,
}

impl QueuePosition {
    /// Whether a queue of `size` descriptors can be there.
    pub(crate) fn is_possible(&self, size: u16) -> bool {
        let heads = self.requests.iter().map(|(head, _)| *head);
        let distinct: BTreeSet<u16> = heads.clone().collect();
        distinct.len() == self.requests.len() && heads.into_iter().all(|head| head < size)
    }
}

/// Why a queue cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// Its size is no power of two, or more than the device's.
    #[error("the queue's size is not one it can have")]
    Size,
    /// A part of it is not aligned as it has to be.
    #[error("a part of the queue is not aligned")]
    Unaligned,
    /// A part of it is not RAM.
    #[error("a part of the queue is not RAM")]
    NotRam,
}

/// A queue, as its device holds it for life: stopped, until a driver has set it up and started the
/// device.
pub struct Queue {
    index: u16,
    max_size: u16,
    mem: GuestMem,
    events: Arc<dyn QueueEvents>,
    state: Mutex<State>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("index", &self.index).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// Counts the starts: requests are of one.
    epoch: u64,
    live: Option<Live>,
}

impl Queue {
    /// Queue `index` of a device, stopped, of at most `max_size` descriptors.
    ///
    /// # Panics
    /// When that is no power of two up to 1,024.
    pub fn new(index: u16, max_size: u16, mem: GuestMem, events: Arc<dyn QueueEvents>) -> Self {
        let possible = max_size.is_power_of_two() && max_size <= MAX_SIZE;
        assert!(possible, "a queue has a power of two of descriptors, at most {MAX_SIZE}");
        Self { index, max_size, mem, events, state: Mutex::default() }
    }

    /// Its number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The most descriptors it can have.
    pub fn max_size(&self) -> u16 {
        self.max_size
    }

    /// The guest's RAM, where the buffers of requests are.
    pub fn mem(&self) -> &GuestMem {
        &self.mem
    }

    /// Starts the queue, empty, with these of its features.
    ///
    /// # Errors
    /// It cannot be where the driver has put it; it is stopped then.
    pub fn start(&self, place: &QueuePlace, features: u64) -> Result<(), QueueError> {
        let state = &mut *self.state.lock();
        state.live = None;
        state.live = Some(Live::new(&self.mem, self.max_size, place, features)?);
        state.epoch += 1;
        Ok(())
    }

    /// Starts the queue where [`Self::position`] was. Requests that the device had are taken back by
    /// [`Serving::take_back`].
    ///
    /// # Errors
    /// As of [`Self::start`].
    pub fn resume(
        &self,
        place: &QueuePlace,
        features: u64,
        position: &QueuePosition,
    ) -> Result<(), QueueError> {
        self.start(place, features)?;
        let state = &mut *self.state.lock();
        state.live = state.live.take().map(|live| live.at(position));
        Ok(())
    }

    /// How far the queue was served, unless it is stopped.
    pub fn position(&self) -> Option<QueuePosition> {
        self.state.lock().live.as_ref().map(Live::position)
    }

    /// Whether a queue that goes on from its position would do as this one: the device has no request,
    /// and knows of none that it has not looked at.
    pub fn is_at_rest(&self) -> bool {
        self.state.lock().live.as_ref().is_none_or(Live::is_at_rest)
    }

    /// Stops the queue. When this returns nobody serves it, and nothing more is published in it.
    pub fn stop(&self) {
        self.state.lock().live = None;
    }

    /// Whether it can be served.
    pub fn is_live(&self) -> bool {
        self.state.lock().live.is_some()
    }

    /// Takes a turn at serving the queue, unless it is stopped.
    pub fn serve(&self) -> Option<Serving<'_>> {
        let state = self.state.lock();
        let budget = state.live.as_ref()?.size();
        Some(Serving { queue: self, state, budget, exhausted: false, completed: false })
    }
}

/// One turn at serving a queue, which nobody else serves meanwhile. Its end is the decision whether
/// to notify the driver of what was completed.
pub struct Serving<'a> {
    queue: &'a Queue,
    state: MutexGuard<'a, State>,
    /// Requests that may still be handed out in this turn.
    budget: u16,
    /// Whether there may be more than that.
    exhausted: bool,
    completed: bool,
}

impl Serving<'_> {
    /// The next request. `None` when there is none, or this turn has handed out as many as the
    /// queue is long, and another one will come; the driver's next notification is asked for in the
    /// first case.
    pub fn pop(&mut self) -> Option<Chain> {
        let State { epoch, live } = &mut *self.state;
        loop {
            if self.budget == 0 {
                self.exhausted = true;
                return None;
            }
            let mem = &self.queue.mem;
            let ring = live.as_mut()?;
            let done = match ring.pop(mem, *epoch) {
                Ok(Popped::Nothing) => return None,
                Ok(Popped::Request(chain)) => {
                    self.budget -= 1;
                    return Some(chain);
                }
                // It goes back as it came.
                Ok(Popped::Malformed(head)) => ring.complete(mem, &[(head, 0)]),
                Err(broken) => Err(broken),
            };
            self.budget -= 1;
            let Ok(published) = done else {
                self.fail();
                return None;
            };
            self.completed |= published;
        }
    }

    /// Gives a request back, with `written` bytes written from the first writable one on. One that
    /// was handed out before the queue was stopped vanishes.
    pub fn complete(&mut self, chain: Chain, written: u32) {
        if chain.epoch == self.state.epoch {
            self.publish(&[used(&chain, written)]);
        }
    }

    /// Gives requests back that belong together, in this order: the driver sees all of them used, or
    /// none.
    pub fn complete_together(&mut self, requests: impl IntoIterator<Item = (Chain, u32)>) {
        let epoch = self.state.epoch;
        let of_now = requests.into_iter().filter(|(chain, _)| chain.epoch == epoch);
        let used = of_now.map(|(chain, written)| used(&chain, written));
        self.publish(&used.collect::<SmallVec<[_; 1]>>());
    }

    fn publish(&mut self, requests: &[(u16, u32)]) {
        let Some(ring) = &mut self.state.live else { return };
        match ring.complete(&self.queue.mem, requests) {
            Ok(published) => self.completed |= published,
            Err(live::Broken) => self.fail(),
        }
    }

    /// Leaves the request that was handed out last, of those that are neither back nor completed, for
    /// a later turn, in which it is the next one again: a device without data for it yet has nothing
    /// to remember of it. The driver does not see the difference.
    pub fn put_back(&mut self, chain: Chain) {
        let State { epoch, live } = &mut *self.state;
        if chain.epoch == *epoch
            && let Some(ring) = live
        {
            let newest = ring.put_back(chain.head);
            debug_assert!(newest, "only the request that came last can be put back");
            self.budget += u16::from(newest);
        }
    }

    /// A request that the device had when a snapshot was taken, by its head.
    pub fn take_back(&mut self, head: u16) -> Option<Chain> {
        self.state.live.as_ref()?.again(&self.queue.mem, head, self.state.epoch)
    }

    /// The guest's RAM.
    pub fn mem(&self) -> &GuestMem {
        &self.queue.mem
    }

    /// How many requests the device has, this turn's and earlier ones'.
    pub fn in_flight(&self) -> u16 {
        self.state.live.as_ref().map_or(0, Live::in_flight)
    }

    /// How many descriptors the queue has, and so the most requests there can be at once.
    pub fn size(&self) -> u16 {
        self.state.live.as_ref().map_or(0, Live::size)
    }

    /// The driver did what the specification of this kind of device forbids in a way that leaves no
    /// answer: stops the queue, and asks for a reset.
    pub fn fail(&mut self) {
        if self.state.live.take().is_some() {
            self.queue.events.broken(self.queue.index);
        }
    }
}

/// What the used ring is to have of a request.
fn used(chain: &Chain, written: u32) -> (u16, u32) {
    let most = u32::try_from(chain.writable_len()).unwrap_or(u32::MAX);
    debug_assert!(written <= most, "a device writes where a request has room");
    (chain.head, written.min(most))
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let Some(live) = &mut self.state.live else { return };
        let index = self.queue.index;
        if self.completed {
            match live.needs_notification(&self.queue.mem) {
                Ok(true) => self.queue.events.used(index),
                Ok(false) => {}
                Err(live::Broken) => return self.fail(),
            }
        }
        if self.exhausted {
            self.queue.events.again(index);
        }
    }
}
