//! The socket device's features, configuration space and packets.
//!
//! Spec: virtio 1.3, section 5.10.

/// Sockets are streams. Without it they are, too.
pub const F_STREAM: u64 = 1 << 0;

/// Where the guest's context identifier is in the configuration, 64 bits of which the upper 32 are 0.
pub const GUEST_CID: u32 = 0;
/// Length of the configuration space in bytes.
pub const CONFIG_LEN: u32 = 8;

/// The host's context identifier.
pub const HOST_CID: u64 = 2;
/// The least that a guest can have. Those below are other hosts'.
pub const GUEST_CID_MIN: u32 = 3;
/// The greatest: the one above stands for all.
pub const GUEST_CID_MAX: u32 = u32::MAX - 1;

/// The queue of packets for the driver.
pub const RX: u16 = 0;
/// Of those from it.
pub const TX: u16 = 1;
/// Of events for it.
pub const EVENTS: u16 = 2;

/// Length of a packet's header in bytes.
pub const HEADER_LEN: usize = 44;
/// A packet of a stream.
pub const TYPE_STREAM: u16 = 1;

/// Asks for a connection.
pub const OP_REQUEST: u16 = 1;
/// Takes it.
pub const OP_RESPONSE: u16 = 2;
/// There is no connection, or no longer.
pub const OP_RST: u16 = 3;
/// Its sender receives, or sends, no more.
pub const OP_SHUTDOWN: u16 = 4;
/// Data.
pub const OP_RW: u16 = 5;
/// Says how much the sender has room for, as every packet does.
pub const OP_CREDIT_UPDATE: u16 = 6;
/// Asks for that.
pub const OP_CREDIT_REQUEST: u16 = 7;

/// Flag of [`OP_SHUTDOWN`]: its sender receives no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// Flag of [`OP_SHUTDOWN`]: its sender sends no more.
pub const SHUTDOWN_SEND: u32 = 2;

/// All connections have been lost, and the guest's context identifier may be another.
pub const EVENT_TRANSPORT_RESET: u32 = 0;
