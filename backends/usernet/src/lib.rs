//! A network for one guest that needs no rights on the host: its frames end in this process, and what
//! they ask for is asked of the host's kernel by ordinary sockets.
//!
//! ```text
//!   frames ──► frame::Packet ──┬── arp, ndp: who has the gateway's addresses, which prefix is here
//!                              ├── dhcp: the guest's address
//!                              ├── tcp: smoltcp speaks TCP with the guest ─┐
//!                              ├── datagram: UDP, ICMP echo ───────────────┼──► sockets of the host
//!   Outbox ◄───────────────────┴── icmp: what could not be reached ◄───────┘
//! ```
//!
//! The gateway ([`Addresses`]) is the host itself: its addresses lead to the host's loopback
//! interface, its port 53 to the host's name server. All other addresses are those that the host
//! reaches. Nobody reaches the guest but by a port that the user forwards.
//!
//! Everything that a guest can have many of has a bound: connections ([`CONNECTIONS_MAX`]), flows of
//! datagrams ([`DATAGRAM_FLOWS_MAX`]), fragments, and bytes that wait for the guest.

#![forbid(unsafe_code)]

mod addresses;
mod arp;
mod datagram;
mod dhcp;
mod forward;
mod fragments;
mod frame;
mod host;
mod icmp;
mod ndp;
mod outbox;
mod resolver;
mod stack;
mod tcp;

pub use addresses::Addresses;
pub use datagram::DATAGRAM_FLOWS_MAX;
pub use forward::{Forward, ForwardError, Protocol};
pub use stack::{Counts, FramesReady, MTU, UserNet, UserNetOptions};
pub use tcp::CONNECTIONS_MAX;
