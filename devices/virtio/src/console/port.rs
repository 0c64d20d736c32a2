//! Characters of one port: from requests to its back end, and from there into buffers.

use trapline_guestmem::GuestMem;

use super::PortSetup;
use crate::{Chain, Serving};

/// The most bytes of one request that go through in one piece.
const PIECE: usize = 4096;

/// How many bytes of a port's requests go out in one turn; the rest is the next turn's.
const TURN: u64 = 64 << 10;

/// How long a console's terminal may take nothing before output for it is dropped. Linux sends a
/// console's output with a spinlock held, so that processor stands still meanwhile.
pub(super) const PATIENCE_NS: u64 = 1_000_000_000;

/// What a port remembers of its back end for as long as the device is in use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    /// Since when the back end has taken nothing.
    since_ns: Option<u64>,
}

impl Patience {
    /// The back end took something.
    fn renew(&mut self) {
        self.since_ns = None;
    }

    /// Whether the back end has taken nothing for too long.
    fn is_over(&self, now_ns: u64) -> bool {
        self.since_ns.is_some_and(|since| now_ns.saturating_sub(since) >= PATIENCE_NS)
    }

    /// When it is over, if it is tried.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        self.since_ns.map(|since| since.saturating_add(PATIENCE_NS))
    }
}

/// How a turn at sending has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Everything is sent.
    All,
    /// The back end takes no more.
    Stalled,
    /// There is more than a turn may send.
    More,
}

/// Sends what there is to send; `sent` is how much of the first request was before.
pub(super) fn transmit(
    port: Option<&PortSetup>,
    (patience, sent): (&mut Patience, &mut u64),
    serving: &mut Serving<'_>,
    now_ns: u64,
) -> Sent {
    let mut left = TURN;
    while let Some(chain) = serving.pop() {
        let result = match port {
            Some(port) => send(port, &chain, serving.mem(), (patience, sent, &mut left), now_ns),
            None => Sent::All,
        };
        if result != Sent::All {
            serving.put_back(chain);
            return result;
        }
        *sent = 0;
        serving.complete(chain, 0);
    }
    Sent::All
}

/// Sends what is left of one request. Bytes that are not RAM are nobody's, nor those behind.
fn send(
    port: &PortSetup,
    chain: &Chain,
    mem: &GuestMem,
    (patience, sent, left): (&mut Patience, &mut u64, &mut u64),
    now_ns: u64,
) -> Sent {
    let mut piece = [0; PIECE];
    loop {
        let rest = chain.readable_len().saturating_sub(*sent);
        if rest == 0 {
            return Sent::All;
        }
        if *left == 0 {
            return Sent::More;
        }
        let len = usize::try_from(rest.min(*left)).unwrap_or(PIECE).min(PIECE);
        let Some(data) = piece.get_mut(..len) else { return Sent::All };
        if chain.read_at(mem, *sent, data).is_err() {
            return Sent::All;
        }
        let taken = port.backend.transmit(data).min(len);
        *sent += taken as u64;
        *left -= taken as u64;
        if taken > 0 {
            patience.renew();
        }
        if taken < len {
            if port.is_console && patience.is_over(now_ns) {
                return Sent::All;
            }
            patience.since_ns.get_or_insert(now_ns);
            return Sent::Stalled;
        }
    }
}

/// Fills buffers with what the back end has. A buffer is taken only when there is something for it,
/// so what the guest does not read stays at the back end.
pub(super) fn receive(port: &PortSetup, serving: &mut Serving<'_>) {
    let mut piece = [0; PIECE];
    while let Some(chain) = serving.pop() {
        let room = usize::try_from(chain.writable_len()).unwrap_or(PIECE).min(PIECE);
        let ram = chain.writable_slices(serving.mem(), 0..room as u64).is_ok();
        let Some(space) = piece.get_mut(..room).filter(|_| ram && room > 0) else {
            serving.complete(chain, 0);
            continue;
        };
        let count = port.backend.receive(space).min(room);
        if count == 0 {
            return serving.put_back(chain);
        }
        let data = space.get(..count).unwrap_or_default();
        let written = chain.write_at(serving.mem(), 0, data).map_or(0, |()| count);
        serving.complete(chain, u32::try_from(written).unwrap_or(0));
    }
}
