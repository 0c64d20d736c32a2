//! The two queues between the guest's serial port and the terminal. Pure: no thread, no lock.

use std::collections::VecDeque;

/// Bytes the guest has sent and nobody has written yet.
#[derive(Debug)]
pub(super) struct OutQueue {
    bytes: Vec<u8>,
    /// How many of them are messages of ours, which take no room from the guest's.
    messages: usize,
    room: usize,
    /// The guest was turned away and waits to be told that there is room.
    starved: bool,
}

impl OutQueue {
    /// A queue for `room` bytes.
    pub(super) fn new(room: usize) -> Self {
        Self { bytes: Vec::with_capacity(room), messages: 0, room, starved: false }
    }

    /// Takes as much of `data` as there is room for; returns how much.
    pub(super) fn push(&mut self, data: &[u8]) -> usize {
        let taken = data.get(..self.room()).unwrap_or(data);
        self.bytes.extend_from_slice(taken);
        self.starved |= taken.len() < data.len();
        taken.len()
    }

    /// How many bytes of the guest's there is room for, whatever messages come.
    pub(super) fn room(&self) -> usize {
        (self.room + self.messages).saturating_sub(self.bytes.len())
    }

    /// Takes all of `data`, a message of ours; drops it when the queue holds more than twice its
    /// room already, so that a user who leans on a key while output is stuck does not fill memory.
    pub(super) fn push_message(&mut self, data: &[u8]) {
        if self.bytes.len() < 2 * self.room {
            self.bytes.extend_from_slice(data);
            self.messages += data.len();
        }
    }

    /// Exchanges what is queued for `empty`, whose memory the queue uses from then on. Says whether
    /// the guest has to be told that there is room.
    pub(super) fn take(&mut self, empty: Vec<u8>) -> (Vec<u8>, bool) {
        self.messages = 0;
        (std::mem::replace(&mut self.bytes, empty), std::mem::take(&mut self.starved))
    }

    /// How many bytes wait.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Bytes typed that the guest has not read yet.
#[derive(Debug)]
pub(super) struct InQueue {
    bytes: VecDeque<u8>,
    room: usize,
    /// The reader of the terminal found no room, and waits to be told of some.
    stalled: bool,
}

impl InQueue {
    /// A queue for `room` bytes.
    pub(super) const fn new(room: usize) -> Self {
        Self { bytes: VecDeque::new(), room, stalled: false }
    }

    /// How many bytes there is room for. When none, the next [`InQueue::pop`] that leaves the
    /// queue half empty says so.
    pub(super) fn room(&mut self) -> usize {
        let room = self.room.saturating_sub(self.bytes.len());
        self.stalled = room == 0;
        room
    }

    /// Queues `data`, which is no longer than [`InQueue::room`] was.
    pub(super) fn push(&mut self, data: &[u8]) {
        self.bytes.extend(data);
    }

    /// Hands out the oldest bytes; returns how many, and whether the reader of the terminal has to
    /// be told that there is room. It is told at half, not at the first byte, so that a guest that
    /// reads byte by byte does not wake it for each.
    pub(super) fn pop(&mut self, buf: &mut [u8]) -> (usize, bool) {
        let count = buf.len().min(self.bytes.len());
        buf.iter_mut().zip(self.bytes.drain(..count)).for_each(|(to, from)| *to = from);
        let tell = self.stalled && self.bytes.len() <= self.room / 2;
        self.stalled &= !tell;
        (count, tell)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_output_queue_turns_the_guest_away_and_remembers_it() {
        let mut queue = OutQueue::new(4);
        assert_eq!(queue.push(b"abc"), 3);
        assert_eq!(queue.push(b"def"), 1);
        assert_eq!(queue.push(b"ef"), 0);
        assert_eq!(queue.take(Vec::new()), (b"abcd".to_vec(), true));
        assert_eq!(queue.push(b"ef"), 2);
        assert_eq!(queue.take(Vec::new()), (b"ef".to_vec(), false));
    }

    #[test]
    fn a_message_goes_in_though_the_queue_is_full_but_not_for_ever() {
        let mut queue = OutQueue::new(4);
        queue.push(b"abcd");
        assert_eq!(queue.room(), 0);
        (0..100).for_each(|_| queue.push_message(b"help"));
        assert_eq!(queue.len(), 8);
        assert_eq!(queue.take(Vec::new()).0, b"abcdhelp");
        queue.push_message(b"help");
        assert_eq!(queue.room(), 4, "what the guest was promised is left to it");
        assert_eq!(queue.push(b"abcde"), 4);
    }

    #[test]
    fn a_stalled_reader_is_told_once_when_the_input_queue_is_half_empty() {
        let mut queue = InQueue::new(4);
        assert_eq!(queue.room(), 4);
        queue.push(b"abcd");
        assert_eq!(queue.room(), 0);
        assert_eq!(queue.pop(&mut [0; 1]), (1, false));
        assert_eq!(queue.pop(&mut [0; 1]), (1, true));
        assert_eq!(queue.pop(&mut [0; 9]), (2, false));
        assert_eq!(queue.pop(&mut [0; 9]), (0, false));
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 0..40),
            reads in prop::collection::vec(0usize..12, 40),
        ) {
            let mut out = OutQueue::new(8);
            let mut input = InQueue::new(8);
            let (mut sent, mut seen, mut typed, mut read) = (vec![], vec![], vec![], vec![]);
            for (piece, len) in pieces.iter().zip(reads) {
                let taken = out.push(piece);
                prop_assert!(out.len() <= 8);
                sent.extend_from_slice(&piece[..taken]);
                if len > 5 {
                    let (bytes, starved) = out.take(Vec::new());
                    prop_assert!(!starved || bytes.len() == 8);
                    seen.extend(bytes);
                }
                let fits = &piece[..piece.len().min(input.room())];
                input.push(fits);
                typed.extend_from_slice(fits);
                let mut buf = vec![0; len];
                let (count, _) = input.pop(&mut buf);
                read.extend_from_slice(&buf[..count]);
            }
            seen.extend(out.take(Vec::new()).0);
            prop_assert_eq!(sent, seen);
            prop_assert!(typed.starts_with(&read));
        }
    }
}
