//! What is behind a network card, by way of the journal: the frames it had, what became of those it was
//! sent, and when the card was told of either.

use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{EventHandler, Readiness};
use trapline_guestio::Buffers;
use trapline_net::{Abilities, Header, Mac, NetBackend, NetCard, Offloads};

use super::host::listen;
use super::journal::{Input, Journal};

/// A back end by way of the journal.
pub(crate) struct JournaledNet {
    inner: Arc<dyn NetBackend>,
    journal: Arc<dyn Journal>,
    port: u16,
    /// Those who call the card, kept for the card's life.
    card: Mutex<Option<Arc<JournaledCard>>>,
}

impl JournaledNet {
    /// What is behind the card of this name.
    pub(crate) fn around(
        inner: Arc<dyn NetBackend>,
        journal: &Arc<dyn Journal>,
        name: &str,
    ) -> Arc<dyn NetBackend> {
        let port = journal.port(name);
        let journal = Arc::clone(journal);
        Arc::new(Self { inner, journal, port, card: Mutex::default() })
    }
}

/// What became of a frame that was sent, or of one that was to be had.
const DONE: u64 = 0;
const NO_ROOM: u64 = 1;
const LOST: u64 = 2;

fn number_of<T>(result: &io::Result<T>) -> u64 {
    match result {
        Ok(_) => DONE,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => NO_ROOM,
        Err(_) => LOST,
    }
}

fn result_of(number: u64) -> io::Result<()> {
    match number {
        DONE => Ok(()),
        NO_ROOM => Err(io::ErrorKind::WouldBlock.into()),
        _ => Err(io::Error::other("the frame was lost")),
    }
}

impl NetBackend for JournaledNet {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    fn attach(&self, card: Weak<dyn NetCard>) {
        let pairs = self.inner.abilities().pairs;
        let card = JournaledCard::around(card, &self.journal, (self.port, pairs));
        let called: Weak<JournaledCard> = Arc::downgrade(&card);
        *self.card.lock() = Some(card);
        self.inner.attach(called);
    }

    fn has_link(&self) -> bool {
        let mut ask = || u64::from(self.inner.has_link());
        self.journal.number(self.port, Input::Connected, 1, &mut ask) != 0
    }

    fn set_offloads(&self, receives: Offloads) {
        self.inner.set_offloads(receives);
    }

    fn set_pairs(&self, pairs: u16) {
        self.inner.set_pairs(pairs);
    }

    fn set_receiving(&self, pair: u16, on: bool) {
        self.inner.set_receiving(pair, on);
    }

    fn send(&self, pair: u16, header: &Header, frame: &mut Buffers) -> io::Result<()> {
        self.journal.payload(self.port, frame.len(), &mut |tell| frame.places().each(tell));
        let mut ask = || number_of(&self.inner.send(pair, header, frame));
        result_of(self.journal.number(self.port, Input::Answer, DONE, &mut ask))
    }

    fn announce(&self, mac: Mac) {
        self.inner.announce(mac);
    }

    fn receive(&self, pair: u16, buf: &mut [u8]) -> io::Result<usize> {
        let mut received = Err(io::ErrorKind::WouldBlock.into());
        let mut ask = || {
            received = self.inner.receive(pair, buf);
            u64::from(number_of(&received) == LOST)
        };
        if self.journal.number(self.port, Input::Lost, 0, &mut ask) != 0 {
            return received.and_then(|_| result_of(LOST).map(|()| 0));
        }
        let len = received.unwrap_or(0);
        match self.journal.bytes(self.port, Input::Received, buf, &mut |_| len) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            len => Ok(len),
        }
    }
}

/// A card as its back end calls it.
struct JournaledCard {
    /// Of each pair, and the card's.
    calls: Vec<Weak<dyn EventHandler>>,
    _kept: Vec<Arc<Call>>,
}

/// One of the calls of a card.
struct Call {
    card: Weak<dyn NetCard>,
    what: What,
}

/// Which.
#[derive(Clone, Copy)]
enum What {
    Ready(u16),
    Room(u16),
    Link,
}

impl JournaledCard {
    fn around(
        card: Weak<dyn NetCard>,
        journal: &Arc<dyn Journal>,
        (port, pairs): (u16, u16),
    ) -> Arc<Self> {
        let of_pairs = (0..pairs).flat_map(|pair| [What::Ready(pair), What::Room(pair)]);
        let all = std::iter::once(What::Link).chain(of_pairs);
        let kept: Vec<_> =
            all.map(|what| Arc::new(Call { card: Weak::clone(&card), what })).collect();
        // Its queues are numbered from 0 in the same port.
        const FIRST: u64 = 1 << 16;
        let calls = (FIRST..).zip(&kept).map(|(number, call)| {
            let target: Weak<Call> = Arc::downgrade(call);
            listen(journal, (port, number), target)
        });
        Arc::new(Self { calls: calls.collect(), _kept: kept })
    }

    fn call(&self, number: usize) {
        if let Some(call) = self.calls.get(number).and_then(Weak::upgrade) {
            call.event(Readiness::NONE);
        }
    }
}

impl NetCard for JournaledCard {
    fn ready(&self, pair: u16) {
        self.call(1 + 2 * usize::from(pair));
    }

    fn room(&self, pair: u16) {
        self.call(2 + 2 * usize::from(pair));
    }

    fn link_changed(&self) {
        self.call(0);
    }
}

impl EventHandler for Call {
    fn event(&self, _ready: Readiness) {
        let Some(card) = self.card.upgrade() else { return };
        match self.what {
            What::Ready(pair) => card.ready(pair),
            What::Room(pair) => card.room(pair),
            What::Link => card.link_changed(),
        }
    }
}
