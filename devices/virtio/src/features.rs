//! Feature bits that are not of one kind of device (virtio 1.3, chapter 6).

use virtio_bindings::virtio_config::{
    VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_ANY_LAYOUT, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// A legacy driver may split a request's header and data as it likes.
pub const ANY_LAYOUT: u64 = 1 << VIRTIO_F_ANY_LAYOUT;
/// A descriptor can refer to a table of descriptors.
pub const INDIRECT_DESC: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;
/// Either side says by an index when it wants to be notified next.
pub const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
/// The device is no legacy one.
pub const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
/// Addresses may be translated or restricted on their way to memory.
pub const ACCESS_PLATFORM: u64 = 1 << VIRTIO_F_ACCESS_PLATFORM;
/// Buffers are used in the order in which they were made available.
pub const IN_ORDER: u64 = 1 << VIRTIO_F_IN_ORDER;
/// A queue can be reset by itself.
pub const RING_RESET: u64 = 1 << VIRTIO_F_RING_RESET;

/// What [`crate::Queue`] does for any device, which offers it.
pub const OF_QUEUES: u64 = INDIRECT_DESC | EVENT_IDX | IN_ORDER;
