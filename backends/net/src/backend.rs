//! The two sides of a way of frames.

use std::io;
use std::sync::Weak;

use trapline_guestio::Buffers;

use crate::{HEADER_LEN, Header, Mac, Offloads};

/// The longest frame: an IP packet of 64 KiB that is cut later, its Ethernet header and a VLAN tag.
pub const FRAME_MAX: usize = 65_535 + 14 + 4;

/// The longest frame with its header.
pub const PACKET_MAX: usize = HEADER_LEN + FRAME_MAX;

/// What a back end can do. The same for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// What it takes from the guest.
    pub sends: Offloads,
    /// What it has for a guest that takes it.
    pub receives: Offloads,
    /// The most bytes of an IP packet, where the driver should know: it takes 1,500 otherwise.
    pub mtu: Option<u16>,
    /// How many pairs of queues it has, from 1.
    pub pairs: u16,
}

impl Abilities {
    /// Those of who takes frames as they are on a wire.
    pub const PLAIN: Self =
        Self { sends: Offloads::NONE, receives: Offloads::NONE, mtu: None, pairs: 1 };
}

/// What is behind a card. It never blocks its caller.
pub trait NetBackend: Send + Sync {
    /// What it can do.
    fn abilities(&self) -> Abilities {
        Abilities::PLAIN
    }

    /// The card that it is behind. Called once, before anything else.
    fn attach(&self, card: Weak<dyn NetCard>);

    /// Whether it has a link at present.
    fn has_link(&self) -> bool {
        true
    }

    /// What the driver takes from now on, of what there is: at its start, when it says so, and with a
    /// reset, after which it takes none.
    fn set_offloads(&self, _receives: Offloads) {}

    /// How many pairs of queues are in use from now on, of those there are.
    fn set_pairs(&self, _pairs: u16) {}

    /// Whether [`NetCard::ready`] is to be called for this pair: not while the driver has no buffers, nor
    /// before the first call.
    fn set_receiving(&self, pair: u16, on: bool);

    /// Sends a frame of `frame`'s bytes, with what its header asks for.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is no room for it; [`NetCard::room`] is called once
    /// there is. The frame is lost with any other.
    fn send(&self, pair: u16, header: &Header, frame: &mut Buffers) -> io::Result<()>;

    /// Tells the network that this address is here, by a RARP packet of its own (RFC 903).
    fn announce(&self, _mac: Mac) {}

    /// Puts a frame into `buf`, which has room for [`PACKET_MAX`] bytes, behind its header, in which
    /// the count of buffers is left open. Returns the length of both.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none. With any other a frame, if there was one, is
    /// lost.
    fn receive(&self, pair: u16, buf: &mut [u8]) -> io::Result<usize>;
}

/// A card, as its back end sees it. All of it is called on the event loop, with no lock of the back end
/// held, and from none of the back end's methods.
pub trait NetCard: Send + Sync {
    /// There are frames for this pair of queues.
    fn ready(&self, pair: u16);

    /// There is room again for frames of this pair.
    fn room(&self, pair: u16);

    /// [`NetBackend::has_link`] is another now.
    fn link_changed(&self);
}
