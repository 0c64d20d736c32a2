//! A back end of network cards whose other end is the test. Shared by unit tests, the hostile suite
//! and a fuzz target.
#![allow(dead_code, reason = "not everybody does everything")]

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use trapline_guestio::Buffers;
use trapline_net::{Abilities, HEADER_LEN, Header, Mac, NetBackend, NetCard, Offloads};

/// The back end.
pub(crate) struct Wire {
    abilities: Abilities,
    card: OnceLock<Weak<dyn NetCard>>,
    pub(crate) ends: Mutex<Ends>,
}

/// What is on it, and what it was told.
#[derive(Default)]
pub(crate) struct Ends {
    /// Packets for the guest.
    packets: VecDeque<Vec<u8>>,
    /// Frames of the guest's: the pair of queues, header and bytes.
    pub(crate) sent: Vec<(u16, Header, Vec<u8>)>,
    /// It has no room.
    pub(crate) full: bool,
    /// Whoever is at the other end has gone.
    pub(crate) gone: bool,
    offloads: Offloads,
    pairs: u16,
    told: BTreeSet<u16>,
    announced: Vec<Mac>,
}

impl Wire {
    pub(crate) fn new(abilities: Abilities) -> Arc<Self> {
        let (card, ends) = (OnceLock::new(), Mutex::default());
        Arc::new(Self { abilities, card, ends })
    }

    /// With as many pairs of queues, and every offload.
    pub(crate) fn able(pairs: u16) -> Arc<Self> {
        Self::new(Abilities { sends: Offloads::ALL, receives: Offloads::ALL, mtu: None, pairs })
    }

    pub(crate) fn card(&self) -> Arc<dyn NetCard> {
        self.card.get().unwrap().upgrade().unwrap()
    }

    /// A frame comes, with a header. The card hears of it if it wants to.
    pub(crate) fn comes_with(&self, header: Header, frame: &[u8]) {
        self.ends.lock().packets.push_back([&header.bytes()[..], frame].concat());
        if self.told().contains(&0) {
            self.card().ready(0);
        }
    }

    /// A frame comes.
    pub(crate) fn comes(&self, frame: &[u8]) {
        self.comes_with(Header::default(), frame);
    }

    pub(crate) fn offloads(&self) -> Offloads {
        self.ends.lock().offloads
    }

    pub(crate) fn pairs(&self) -> u16 {
        self.ends.lock().pairs
    }

    /// Pairs whose card is told of packets.
    pub(crate) fn told(&self) -> Vec<u16> {
        self.ends.lock().told.iter().copied().collect()
    }

    pub(crate) fn announced(&self) -> Vec<Mac> {
        self.ends.lock().announced.clone()
    }

    /// Forgets what is on it.
    pub(crate) fn clear(&self) {
        let mut ends = self.ends.lock();
        ends.packets.clear();
        ends.sent.clear();
    }

    /// How many packets are still here.
    pub(crate) fn waiting(&self) -> usize {
        self.ends.lock().packets.len()
    }

    /// The frames that were sent since the last call.
    pub(crate) fn take_sent(&self) -> Vec<(u16, Header, Vec<u8>)> {
        std::mem::take(&mut self.ends.lock().sent)
    }
}

impl NetBackend for Wire {
    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn attach(&self, card: Weak<dyn NetCard>) {
        self.card.get_or_init(|| card);
    }

    fn has_link(&self) -> bool {
        !self.ends.lock().gone
    }

    fn set_offloads(&self, receives: Offloads) {
        self.ends.lock().offloads = receives;
    }

    fn set_pairs(&self, pairs: u16) {
        self.ends.lock().pairs = pairs;
    }

    fn set_receiving(&self, pair: u16, on: bool) {
        let told = &mut self.ends.lock().told;
        assert!(if on { told.insert(pair) } else { told.remove(&pair) }, "it is another word");
    }

    fn send(&self, pair: u16, header: &Header, frame: &mut Buffers) -> io::Result<()> {
        let mut ends = self.ends.lock();
        if ends.full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = usize::try_from(frame.len()).unwrap();
        let mut bytes = vec![0; len.min(0x1_0000)];
        frame.copy_to(&mut bytes);
        // Somebody may send for ever who never looks.
        if ends.sent.len() < 1024 {
            ends.sent.push((pair, *header, bytes));
        }
        Ok(())
    }

    fn announce(&self, mac: Mac) {
        self.ends.lock().announced.push(mac);
    }

    fn receive(&self, _pair: u16, buf: &mut [u8]) -> io::Result<usize> {
        let packet = self.ends.lock().packets.pop_front();
        let packet = packet.ok_or(io::ErrorKind::WouldBlock)?;
        buf[..packet.len()].copy_from_slice(&packet);
        assert!(packet.len() >= HEADER_LEN);
        Ok(packet.len())
    }
}
