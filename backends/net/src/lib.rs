//! What is behind network cards: where a guest's frames go, and where those for it come from.
//!
//! ```text
//!   card ── send: header, Buffers ──► NetBackend ──► a tap, a socket of frames, passt, a network in this process
//!     ▲                                   │
//!     └── NetCard: ready, room, link ◄────┘ event loop
//! ```
//!
//! A frame goes with a [`Header`] that says what of it is left to do (checksums, segmentation). A
//! back end says what it can do ([`Abilities`]), a driver what it takes
//! ([`NetBackend::set_offloads`]); nobody sees a header that was not agreed on.

#![forbid(unsafe_code)]

mod backend;
mod capture;
mod header;
mod mac;
mod nobody;
mod options;
mod passt;
mod rarp;
mod stream;
mod tap;
mod user;

pub use backend::{Abilities, FRAME_MAX, NetBackend, NetCard, PACKET_MAX};
pub use capture::Capture;
pub use header::{Gso, HEADER_LEN, Header, Offloads};
pub use mac::{Mac, MacError};
pub use nobody::Nobody;
pub use options::{GUEST_MAC, NetError, NetMode, NetOptions, UserBackend, UserOptions};
pub use rarp::{RARP_LEN, rarp};
pub use stream::FrameStream;
pub use tap::{Tap, TapOptions, TapSource};
pub use trapline_usernet::{Addresses, Forward, ForwardError, UserNetOptions};
pub use user::User;
