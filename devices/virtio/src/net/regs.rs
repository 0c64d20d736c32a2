//! A network card's features, configuration space and control commands.
//!
//! Spec: virtio 1.3, section 5.1.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_MAC,
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO,
    VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_SPEED_DUPLEX, VIRTIO_NET_F_STATUS,
};

/// A command's class, which the bindings have wider.
const fn low(value: u32) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low
}

/// The device makes checksums of what it is sent.
pub const F_CSUM: u64 = 1 << VIRTIO_NET_F_CSUM;
/// The driver takes frames without theirs.
pub const F_GUEST_CSUM: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM;
/// The driver can change what it takes ([`CLASS_GUEST_OFFLOADS`]).
pub const F_CTRL_GUEST_OFFLOADS: u64 = 1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;
/// The longest packet is in the configuration.
pub const F_MTU: u64 = 1 << VIRTIO_NET_F_MTU;
/// The card's address is in the configuration.
pub const F_MAC: u64 = 1 << VIRTIO_NET_F_MAC;
/// The driver takes long segments of TCP over IPv4.
pub const F_GUEST_TSO4: u64 = 1 << VIRTIO_NET_F_GUEST_TSO4;
/// Over IPv6.
pub const F_GUEST_TSO6: u64 = 1 << VIRTIO_NET_F_GUEST_TSO6;
/// With ECN's mark.
pub const F_GUEST_ECN: u64 = 1 << VIRTIO_NET_F_GUEST_ECN;
/// The driver takes datagrams that are to be fragments.
pub const F_GUEST_UFO: u64 = 1 << VIRTIO_NET_F_GUEST_UFO;
/// The device takes long segments of TCP over IPv4.
pub const F_HOST_TSO4: u64 = 1 << VIRTIO_NET_F_HOST_TSO4;
/// Over IPv6.
pub const F_HOST_TSO6: u64 = 1 << VIRTIO_NET_F_HOST_TSO6;
/// With ECN's mark.
pub const F_HOST_ECN: u64 = 1 << VIRTIO_NET_F_HOST_ECN;
/// The device takes datagrams that are to be fragments.
pub const F_HOST_UFO: u64 = 1 << VIRTIO_NET_F_HOST_UFO;
/// A received frame can be in several buffers.
pub const F_MRG_RXBUF: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
/// Whether there is a link is in the configuration.
pub const F_STATUS: u64 = 1 << VIRTIO_NET_F_STATUS;
/// There is a control queue.
pub const F_CTRL_VQ: u64 = 1 << VIRTIO_NET_F_CTRL_VQ;
/// There is [`CLASS_RX`], and a table of addresses.
pub const F_CTRL_RX: u64 = 1 << VIRTIO_NET_F_CTRL_RX;
/// There is [`CLASS_VLAN`].
pub const F_CTRL_VLAN: u64 = 1 << VIRTIO_NET_F_CTRL_VLAN;
/// There is more of [`CLASS_RX`].
pub const F_CTRL_RX_EXTRA: u64 = 1 << VIRTIO_NET_F_CTRL_RX_EXTRA;
/// The device can ask the driver to tell the network where it is.
pub const F_GUEST_ANNOUNCE: u64 = 1 << VIRTIO_NET_F_GUEST_ANNOUNCE;
/// There are several pairs of queues.
pub const F_MQ: u64 = 1 << VIRTIO_NET_F_MQ;
/// The driver can give the card another address by a command.
pub const F_CTRL_MAC_ADDR: u64 = 1 << VIRTIO_NET_F_CTRL_MAC_ADDR;
/// The driver takes several datagrams of UDP over IPv4 in one.
pub const F_GUEST_USO4: u64 = 1 << VIRTIO_NET_F_GUEST_USO4;
/// Over IPv6.
pub const F_GUEST_USO6: u64 = 1 << VIRTIO_NET_F_GUEST_USO6;
/// The device takes several datagrams of UDP in one.
pub const F_HOST_USO: u64 = 1 << VIRTIO_NET_F_HOST_USO;
/// The link's speed is in the configuration.
pub const F_SPEED_DUPLEX: u64 = 1 << VIRTIO_NET_F_SPEED_DUPLEX;

/// Length of the configuration space, up to and with what [`F_SPEED_DUPLEX`] has in it.
pub const CONFIG_LEN: u32 = 17;
/// Bit of the status: there is a link.
pub const STATUS_LINK_UP: u16 = 1;
/// Bit of the status: the driver should announce itself.
pub const STATUS_ANNOUNCE: u16 = 2;
/// Duplex: full.
pub const DUPLEX_FULL: u8 = 1;
/// Speed and duplex that nobody knows.
pub const SPEED_UNKNOWN: u32 = u32::MAX;
/// See [`SPEED_UNKNOWN`].
pub const DUPLEX_UNKNOWN: u8 = u8::MAX;

/// Class of commands: what is received.
pub const CLASS_RX: u8 = low(VIRTIO_NET_CTRL_RX);
/// Everything.
pub const RX_PROMISC: u8 = 0;
/// All groups' frames.
pub const RX_ALLMULTI: u8 = 1;
/// All single cards' frames.
pub const RX_ALLUNI: u8 = 2;
/// No groups' frames.
pub const RX_NOMULTI: u8 = 3;
/// No single cards' frames.
pub const RX_NOUNI: u8 = 4;
/// No frames to everybody.
pub const RX_NOBCAST: u8 = 5;
/// Class of commands: addresses.
pub const CLASS_MAC: u8 = low(VIRTIO_NET_CTRL_MAC);
/// The tables of single cards' and groups' addresses to be received.
pub const MAC_TABLE_SET: u8 = 0;
/// The card's own.
pub const MAC_ADDR_SET: u8 = 1;
/// Class of commands: VLANs to be received.
pub const CLASS_VLAN: u8 = low(VIRTIO_NET_CTRL_VLAN);
/// One more.
pub const VLAN_ADD: u8 = 0;
/// One less.
pub const VLAN_DEL: u8 = 1;
/// Class of commands: announcements.
pub const CLASS_ANNOUNCE: u8 = low(VIRTIO_NET_CTRL_ANNOUNCE);
/// The driver has announced itself.
pub const ANNOUNCE_ACK: u8 = 0;
/// Class of commands: several pairs of queues.
pub const CLASS_MQ: u8 = low(VIRTIO_NET_CTRL_MQ);
/// How many are in use.
pub const MQ_VQ_PAIRS_SET: u8 = 0;
/// Class of commands: what the driver takes.
pub const CLASS_GUEST_OFFLOADS: u8 = low(VIRTIO_NET_CTRL_GUEST_OFFLOADS);
/// All of it, as bits of features.
pub const GUEST_OFFLOADS_SET: u8 = 0;

/// Answer to a command: done.
pub const OK: u8 = 0;
/// It is wrong, or there is no such command.
pub const ERR: u8 = 1;
