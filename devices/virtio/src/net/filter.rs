//! Which frames a driver receives, as it says by commands (5.1.6.5.1 to 5.1.6.5.3), and all else that
//! it can change of a card.

use trapline_device::{StateError, saved_form};
use trapline_net::Mac;

/// The most addresses of each table; a longer one is as good as all of them.
pub(super) const TABLE_MAX: usize = 64;

/// VLANs in a word of their set, and how many words that makes.
const VLANS_OF_A_WORD: u16 = 64;
const VLAN_WORDS: usize = 4096 / 64;

/// Ethernet types of VLAN tags: of customers (802.1Q), and of providers (802.1ad).
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];

/// What a driver has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The card's address.
    pub(super) mac: [u8; 6],
    pub(super) promiscuous: bool,
    pub(super) all_multicast: bool,
    pub(super) all_unicast: bool,
    pub(super) no_multicast: bool,
    pub(super) no_unicast: bool,
    pub(super) no_broadcast: bool,
    /// Other single cards' addresses; `None` are all.
    pub(super) unicast: Option<Vec<[u8; 6]>>,
    /// Groups' addresses; `None` are all.
    pub(super) multicast: Option<Vec<[u8; 6]>>,
    /// VLANs, a bit for each.
    pub(super) vlans: Vec<u64>,
    /// Pairs of queues in use.
    pub(super) pairs: u16,
    /// What it takes, as bits of features, if that is not what it has settled on at its start.
    pub(super) offloads: Option<u64>,
    /// It was asked to announce itself.
    pub(super) announce: bool,
}

impl State {
    /// As after a reset. Before a driver says what it wants, it gets everything.
    pub(super) fn new(mac: Mac) -> Self {
        Self {
            mac: mac.0,
            promiscuous: true,
            all_multicast: false,
            all_unicast: false,
            no_multicast: false,
            no_unicast: false,
            no_broadcast: false,
            unicast: Some(Vec::new()),
            multicast: Some(Vec::new()),
            vlans: vec![0; VLAN_WORDS],
            pairs: 1,
            offloads: None,
            announce: false,
        }
    }

    /// Adds a VLAN, or takes it out. Whether there is one with that number.
    pub(super) fn set_vlan(&mut self, vlan: u16, on: bool) -> bool {
        let word = self.vlans.get_mut(usize::from(vlan / VLANS_OF_A_WORD));
        let bit = 1 << (vlan % VLANS_OF_A_WORD);
        word.map(|word| *word = if on { *word | bit } else { *word & !bit }).is_some()
    }

    fn has_vlan(&self, vlan: u16) -> bool {
        let word = self.vlans.get(usize::from(vlan / VLANS_OF_A_WORD)).copied().unwrap_or(0);
        word >> (vlan % VLANS_OF_A_WORD) & 1 != 0
    }

    /// Whether the driver gets this frame. `by_vlan` says whether it names the VLANs it wants.
    pub(super) fn takes(&self, frame: &[u8], by_vlan: bool) -> bool {
        if by_vlan
            && let Some([a, b, high, low]) = frame.get(12..16)
            && TAGS.contains(&[*a, *b])
            && !self.has_vlan(u16::from_be_bytes([high & 0xf, *low]))
        {
            return false;
        }
        if self.promiscuous {
            return true;
        }
        let Some(to) = frame.first_chunk::<6>() else { return false };
        let listed =
            |table: &Option<Vec<[u8; 6]>>| table.as_ref().is_none_or(|table| table.contains(to));
        let address = Mac(*to);
        if address == Mac::BROADCAST {
            return !self.no_broadcast;
        }
        match address.is_multicast() {
            true => !self.no_multicast && (self.all_multicast || listed(&self.multicast)),
            false => {
                let mine = *to == self.mac || self.all_unicast || listed(&self.unicast);
                !self.no_unicast && mine
            }
        }
    }

    fn check(&self) -> Result<(), StateError> {
        let short = |table: &Option<Vec<[u8; 6]>>| {
            table.as_ref().is_none_or(|table| table.len() <= TABLE_MAX)
        };
        let bounded = self.vlans.len() == VLAN_WORDS
            && [&self.unicast, &self.multicast].into_iter().all(short)
            && self.pairs >= 1;
        StateError::check::<SavedV1>(bounded, "tables are no longer than they can be")
    }
}

saved_form! {
    /// [`State`], version 1.
    pub(super) struct SavedV1 of State, "virtio-net" version 1 {
        mac: [u8; 6],
        promiscuous: bool,
        all_multicast: bool,
        all_unicast: bool,
        no_multicast: bool,
        no_unicast: bool,
        no_broadcast: bool,
        unicast: Option<Vec<[u8; 6]>>,
        multicast: Option<Vec<[u8; 6]>>,
        vlans: Vec<u64>,
        pairs: u16,
        offloads: Option<u64>,
        announce: bool,
    }
}
