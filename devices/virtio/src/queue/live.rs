//! A queue that a driver has started: its ring, and the requests that the device has of it.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

use smallvec::SmallVec;
use trapline_guestmem::GuestMem;
use virtio_bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};
use virtio_queue::{Queue as Ring, QueueT};
use vm_memory::GuestAddress;

use super::chain::{self, Chain, Defect};
use super::{QueueError, QueuePlace, QueuePosition};
use crate::features::{EVENT_IDX, IN_ORDER, INDIRECT_DESC};

// Of either ring (2.7.6, 2.7.8): where its flags and its index are, and its first entry; and how long an
// entry is.
const RING_FLAGS: u64 = 0;
const RING_INDEX: u64 = 2;
const RING_ENTRIES: u64 = 4;
const AVAIL_ENTRY: u64 = 2;
const USED_ENTRY: u64 = 8;
/// The device does not want to be notified.
#[expect(clippy::cast_possible_truncation, reason = "a flag of 16 bits")]
const NO_NOTIFY: u16 = VRING_USED_F_NO_NOTIFY as u16;

/// The driver has broken the queue's rules, and nothing more can be made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// What there is in the available ring.
pub(super) enum Popped {
    /// Nothing.
    Nothing,
    /// A request.
    Request(Chain),
    /// The head of one that can only go back.
    Malformed(u16),
}

/// A ring in use.
pub(super) struct Live {
    ring: Ring,
    indirect: bool,
    event_idx: bool,
    /// Whether the driver was asked to notify of new buffers, and has not been told otherwise.
    armed: bool,
    /// For each descriptor, whether the device has a request that begins with it.
    taken: Box<[bool]>,
    in_flight: u16,
    /// The available ring's index, as last read.
    seen: u16,
    /// The requests that were handed out last, in order, while they can still be put back.
    newest: Vec<u16>,
    /// How many used buffers the driver was not asked about yet, whether it wants to know.
    added: u16,
    /// With `IN_ORDER`: the requests that the device has, with what was written to those it is
    /// done with, in the order in which they go back.
    order: Option<VecDeque<(u16, Option<u32>)>>,
}

impl Live {
    pub(super) fn new(
        mem: &GuestMem,
        max_size: u16,
        place: &QueuePlace,
        features: u64,
    ) -> Result<Self, QueueError> {
        let mut ring = Ring::new(max_size).map_err(|_| QueueError::Size)?;
        ring.try_set_size(place.size).map_err(|_| QueueError::Size)?;
        let unaligned = |_| QueueError::Unaligned;
        ring.try_set_desc_table_address(GuestAddress(place.descriptors)).map_err(unaligned)?;
        ring.try_set_avail_ring_address(GuestAddress(place.driver)).map_err(unaligned)?;
        ring.try_set_used_ring_address(GuestAddress(place.device)).map_err(unaligned)?;
        let event_idx = features & EVENT_IDX != 0;
        ring.set_event_idx(event_idx);
        ring.set_ready(true);
        // The library takes an available ring at 0 for none.
        if place.driver == 0 || !ring.is_valid(mem) {
            return Err(QueueError::NotRam);
        }
        Ok(Self {
            ring,
            indirect: features & INDIRECT_DESC != 0,
            event_idx,
            armed: true,
            taken: vec![false; place.size.into()].into(),
            in_flight: 0,
            seen: 0,
            newest: Vec::new(),
            added: 0,
            order: (features & IN_ORDER != 0).then(VecDeque::new),
        })
    }

    /// The same ring, as far as it was served when its position was saved.
    pub(super) fn at(mut self, position: &QueuePosition) -> Self {
        self.ring.set_next_avail(position.next_avail);
        self.seen = position.next_avail;
        self.ring.set_next_used(position.next_used);
        for (head, done) in &position.requests {
            if let Some(taken) = self.taken.get_mut(usize::from(*head)) {
                self.in_flight += u16::from(!std::mem::replace(taken, true));
            }
            if let Some(order) = &mut self.order {
                order.push_back((*head, *done));
            }
        }
        self
    }

    pub(super) fn position(&self) -> QueuePosition {
        let taken = (0..).zip(&self.taken).filter(|(_, taken)| **taken);
        let requests = match &self.order {
            Some(order) => order.iter().copied().collect(),
            None => taken.map(|(head, _)| (head, None)).collect(),
        };
        let (next_avail, next_used) = (self.ring.next_avail(), self.ring.next_used());
        QueuePosition { next_avail, next_used, requests }
    }

    /// Whether [`Live::at`] its position is all of it.
    pub(super) fn is_at_rest(&self) -> bool {
        self.armed && self.seen == self.ring.next_avail() && self.in_flight == 0 && self.added == 0
    }

    /// A request that the device has already, if it can be parsed still.
    pub(super) fn again(&self, mem: &GuestMem, head: u16, epoch: u64) -> Option<Chain> {
        let taken = self.taken.get(usize::from(head)).copied().unwrap_or(false);
        let done = |(other, done): &(u16, Option<u32>)| *other == head && done.is_some();
        if !taken || self.order.iter().flatten().any(done) {
            return None;
        }
        let table = (self.ring.desc_table(), self.ring.size());
        chain::walk(mem, table, self.indirect, (head, epoch)).ok()
    }

    pub(super) fn size(&self) -> u16 {
        self.ring.size()
    }

    pub(super) fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// The next request.
    #[inline]
    pub(super) fn pop(&mut self, mem: &GuestMem, epoch: u64) -> Result<Popped, Broken> {
        let Some(head) = self.next_head(mem)? else { return Ok(Popped::Nothing) };
        let taken = self.taken.get_mut(usize::from(head)).ok_or(Broken)?;
        if std::mem::replace(taken, true) {
            return Err(Broken);
        }
        self.in_flight += 1;
        self.newest.push(head);
        if let Some(order) = &mut self.order {
            order.push_back((head, None));
        }
        let table = (self.ring.desc_table(), self.ring.size());
        match chain::walk(mem, table, self.indirect, (head, epoch)) {
            Ok(chain) => Ok(Popped::Request(chain)),
            Err(Defect::Returnable) => Ok(Popped::Malformed(head)),
            Err(Defect::Endless) => Err(Broken),
        }
    }

    /// Has the request that was handed out last found again as the next one; whether it was that.
    pub(super) fn put_back(&mut self, head: u16) -> bool {
        if self.newest.pop_if(|newest| *newest == head).is_none() {
            return false;
        }
        if let Some(taken) = self.taken.get_mut(usize::from(head)) {
            *taken = false;
        }
        self.in_flight -= 1;
        if let Some(order) = &mut self.order {
            order.pop_back();
        }
        self.ring.set_next_avail(self.ring.next_avail().wrapping_sub(1));
        true
    }

    /// The next entry of the available ring. When there is none, the driver has been asked to
    /// notify of the next, and none has come in between.
    fn next_head(&mut self, mem: &GuestMem) -> Result<Option<u16>, Broken> {
        for _ in 0..2 {
            if let Some(head) = self.known_head(mem)? {
                if std::mem::take(&mut self.armed) {
                    self.ask(mem, false)?;
                }
                return Ok(Some(head));
            }
            self.armed = true;
            self.ask(mem, true)?;
            let index = mem.load::<u16>(self.ring.avail_ring() + RING_INDEX, Ordering::Relaxed);
            if u16::from_le(index.map_err(|_| Broken)?) == self.ring.next_avail() {
                return Ok(None);
            }
        }
        // There was one, and now there is none: the index went back.
        Err(Broken)
    }

    /// Asks the driver to notify of what it makes available next, or not to. The library does the same
    /// by several look-ups of the address.
    fn ask(&self, mem: &GuestMem, wanted: bool) -> Result<(), Broken> {
        let used = self.ring.used_ring();
        let (value, at) = match (self.event_idx, wanted) {
            (true, true) => {
                let event = RING_ENTRIES + USED_ENTRY * u64::from(self.ring.size());
                (self.ring.next_avail(), event)
            }
            // An index that has been passed asks for nothing.
            (true, false) => return Ok(()),
            (false, true) => (0, RING_FLAGS),
            (false, false) => (NO_NOTIFY, RING_FLAGS),
        };
        let at = used.checked_add(at).ok_or(Broken)?;
        mem.store(value.to_le(), at, Ordering::Relaxed).map_err(|_| Broken)?;
        if wanted {
            // The wish is to be seen before the index is read once more.
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    /// The next entry of the available ring, if there is one. The library's way there looks at the
    /// index for each entry.
    fn known_head(&mut self, mem: &GuestMem) -> Result<Option<u16>, Broken> {
        let (next, ring) = (self.ring.next_avail(), self.ring.avail_ring());
        if self.seen == next {
            let index = mem.load::<u16>(ring + RING_INDEX, Ordering::Acquire);
            self.seen = u16::from_le(index.map_err(|_| Broken)?);
            if self.seen.wrapping_sub(next) > self.ring.size() {
                return Err(Broken);
            }
        }
        if self.seen == next {
            return Ok(None);
        }
        let entry = ring + RING_ENTRIES + AVAIL_ENTRY * u64::from(next % self.ring.size());
        let head = mem.load::<u16>(entry, Ordering::Relaxed).map_err(|_| Broken)?;
        self.ring.set_next_avail(next.wrapping_add(1));
        Ok(Some(u16::from_le(head)))
    }

    /// Puts requests, or with `IN_ORDER` those whose turn it is, into the used ring, where the driver
    /// sees all of them at once. Whether there were any.
    pub(super) fn complete(
        &mut self,
        mem: &GuestMem,
        requests: &[(u16, u32)],
    ) -> Result<bool, Broken> {
        let Some(mut order) = self.order.take() else { return self.publish(mem, requests) };
        for (head, written) in requests {
            if let Some((_, done)) = order.iter_mut().find(|(other, _)| other == head) {
                *done = Some(*written);
                self.forget(*head);
            }
        }
        let mut due = SmallVec::<[(u16, u32); 1]>::new();
        while let Some(&(head, Some(written))) = order.front() {
            order.pop_front();
            due.push((head, written));
        }
        self.order = Some(order);
        self.publish(mem, &due)
    }

    /// A request, and those that were handed out before it, cannot be put back any more.
    fn forget(&mut self, head: u16) {
        if let Some(at) = self.newest.iter().position(|newest| *newest == head) {
            self.newest.drain(..=at);
        }
    }

    fn publish(&mut self, mem: &GuestMem, requests: &[(u16, u32)]) -> Result<bool, Broken> {
        if requests.is_empty() {
            return Ok(false);
        }
        for (head, _) in requests {
            if let Some(taken) = self.taken.get_mut(usize::from(*head))
                && std::mem::take(taken)
            {
                self.in_flight -= 1;
            }
            self.forget(*head);
            self.added = self.added.saturating_add(1);
        }
        let ring = self.ring.used_ring();
        for (head, written) in requests {
            let next = self.ring.next_used();
            let entry = ring + RING_ENTRIES + USED_ENTRY * u64::from(next % self.ring.size());
            let values = [u32::from(*head).to_le(), written.to_le()];
            mem.store_pair(values, entry).map_err(|_| Broken)?;
            self.ring.set_next_used(next.wrapping_add(1));
        }
        // The driver sees the entries before it sees that there are any.
        let index = self.ring.next_used().to_le();
        mem.store(index, ring + RING_INDEX, Ordering::Release).map_err(|_| Broken)?;
        Ok(true)
    }

    /// Whether the driver wants to know of what was completed since it was last asked.
    pub(super) fn needs_notification(&mut self, mem: &GuestMem) -> Result<bool, Broken> {
        // What was used is to be seen before the driver's wish is read.
        fence(Ordering::SeqCst);
        let added = std::mem::take(&mut self.added);
        let avail = self.ring.avail_ring();
        let load = |addr: u64| mem.load::<u16>(addr, Ordering::Relaxed).map_err(|_| Broken);
        if self.event_idx {
            let at = RING_ENTRIES + AVAIL_ENTRY * u64::from(self.ring.size());
            let event = u16::from_le(load(avail.checked_add(at).ok_or(Broken)?)?);
            let past = self.ring.next_used().wrapping_sub(event).wrapping_sub(1);
            return Ok(past < added);
        }
        Ok(u32::from(u16::from_le(load(avail)?)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }
}
