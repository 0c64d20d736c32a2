//! One connection of a guest's with the host: what is owed to either side, and how much each has room for.
//!
//! Spec: virtio 1.3, section 5.10.6.3: a sender has sent so many bytes, its peer has room for
//! `buf_alloc` and has taken `fwd_cnt` out of that. Counts are of 32 bits and wrap.

use super::packet::Header;
use super::regs::{
    OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_SHUTDOWN, SHUTDOWN_RECEIVE,
    SHUTDOWN_SEND,
};

/// Bytes that may wait for somebody on the host to read them.
pub(super) const BUFFER_LEN: u32 = 64 << 10;
/// As many have to be taken before the guest is told unasked.
const WORTH_TELLING: u32 = BUFFER_LEN / 4;

/// A connection, by the number that the back end knows it by.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u32,
    /// It is among those that may be owed something.
    pub(super) queued: bool,
    /// The guest has been asked and has not answered.
    pub(super) asked: bool,
    /// From the guest, for the host.
    pub(super) buffer: Vec<u8>,
    /// The host has no room at present.
    pub(super) stuck: bool,
    /// The host has nothing to read at present.
    pub(super) dry: bool,
    /// Bytes that were taken out of the buffer, and how many the guest knows of.
    taken: u32,
    told: u32,
    /// What the guest will not do any more: [`SHUTDOWN_RECEIVE`], [`SHUTDOWN_SEND`].
    pub(super) guest_done: u32,
    /// Whether the host knows that nothing more comes from the guest.
    pub(super) finished: bool,
    /// The host sends no more.
    pub(super) host_done: bool,
    /// Bytes that were sent to the guest, and what it says of its buffer.
    sent: u32,
    peer_room: u32,
    peer_taken: u32,
    /// The guest has been asked for credit since it has given any.
    wants_credit: bool,
    owed: Owed,
}

/// Packets that the guest is owed.
#[derive(Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    credit: bool,
    credit_request: bool,
    shutdown: bool,
}

impl Connection {
    /// One that the host has begun.
    pub(super) fn incoming(id: u32) -> Self {
        let owed = Owed { request: true, ..Owed::default() };
        Self { asked: true, owed, ..Self::plain(id) }
    }

    /// One that the guest has begun with this packet.
    pub(super) fn outgoing(id: u32, request: &Header) -> Self {
        let mut this = Self { owed: Owed { response: true, ..Owed::default() }, ..Self::plain(id) };
        this.hears(request);
        this
    }

    fn plain(id: u32) -> Self {
        Self {
            id,
            queued: false,
            asked: false,
            buffer: Vec::new(),
            stuck: false,
            dry: false,
            taken: 0,
            told: 0,
            guest_done: 0,
            finished: false,
            host_done: false,
            sent: 0,
            peer_room: 0,
            peer_taken: 0,
            wants_credit: false,
            owed: Owed::default(),
        }
    }

    /// What every packet says of the guest's buffer.
    pub(super) fn hears(&mut self, header: &Header) {
        let before = self.credit();
        (self.peer_room, self.peer_taken) = (header.buf_alloc, header.fwd_cnt);
        if self.credit() != before {
            self.wants_credit = false;
        }
    }

    /// How many bytes the guest has room for. A guest that has taken more than it was sent has none.
    pub(super) fn credit(&self) -> u32 {
        self.peer_room.saturating_sub(self.sent.wrapping_sub(self.peer_taken))
    }

    /// Bytes that the host has sent go to the guest.
    pub(super) fn sends(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }

    /// Whether the guest keeps to what it was told with `len` bytes more, which are then put in the
    /// buffer.
    pub(super) fn takes(&mut self, data: &[u8]) -> bool {
        let fits = self.buffer.len().saturating_add(data.len()) <= BUFFER_LEN as usize;
        if fits {
            self.buffer.extend_from_slice(data);
        }
        fits
    }

    /// The host has read so much of the buffer.
    pub(super) fn gives(&mut self, len: usize) {
        self.buffer.drain(..len.min(self.buffer.len()));
        self.taken = self.taken.wrapping_add(u32::try_from(len).unwrap_or(0));
        self.owed.credit |= self.taken.wrapping_sub(self.told) >= WORTH_TELLING;
    }

    /// The guest wants to know how much room there is.
    pub(super) fn is_asked_for_credit(&mut self) {
        self.owed.credit = true;
    }

    /// The host sends no more.
    pub(super) fn ends(&mut self) {
        self.host_done = true;
        self.owed.shutdown = true;
    }

    /// Whether there may be data for the guest: if it has no room it is asked for some, once.
    pub(super) fn has_data(&mut self) -> bool {
        let open = !self.asked && !self.host_done && self.guest_done & SHUTDOWN_RECEIVE == 0;
        let may = open && !self.dry && !self.owed.response;
        if may && self.credit() == 0 && !std::mem::replace(&mut self.wants_credit, true) {
            self.owed.credit_request = true;
        }
        may && self.credit() > 0
    }

    /// The next packet that the guest is owed, with its flags, if that is none of data.
    pub(super) fn next_packet(&mut self) -> Option<(u16, u32)> {
        let take = |flag: &mut bool| std::mem::take(flag);
        let owed = &mut self.owed;
        let op = if take(&mut owed.request) {
            OP_REQUEST
        } else if take(&mut owed.response) {
            OP_RESPONSE
        } else if take(&mut owed.credit) {
            OP_CREDIT_UPDATE
        } else if take(&mut owed.credit_request) {
            OP_CREDIT_REQUEST
        } else if take(&mut owed.shutdown) {
            return Some((OP_SHUTDOWN, SHUTDOWN_SEND));
        } else {
            return None;
        };
        Some((op, 0))
    }

    /// Whether [`Self::next_packet`] has one.
    pub(super) fn owes(&self) -> bool {
        let Owed { request, response, credit, credit_request, shutdown } = self.owed;
        request || response || credit || credit_request || shutdown
    }

    /// What a packet to the guest says of the buffer. The guest knows it then.
    pub(super) fn tells(&mut self) -> (u32, u32) {
        self.told = self.taken;
        (BUFFER_LEN, self.taken)
    }

    /// As if so many bytes had gone each way already.
    #[cfg(test)]
    pub(super) fn count_from(&mut self, start: u32) {
        (self.taken, self.told) = (start, start);
        (self.sent, self.peer_taken) = (start, start);
    }

    /// Whether the guest has said that it is done with it in both directions, and the host has all.
    pub(super) fn is_over(&self) -> bool {
        self.guest_done == SHUTDOWN_RECEIVE | SHUTDOWN_SEND && self.buffer.is_empty()
    }
}
