//! A block device's features, configuration space and requests.
//!
//! Spec: virtio 1.3, section 5.2.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_GEOMETRY, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SECURE_ERASE,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};

/// How many buffers a request can have is in the configuration.
pub const F_SEG_MAX: u64 = 1 << VIRTIO_BLK_F_SEG_MAX;
/// Cylinders, heads and sectors are in the configuration.
pub const F_GEOMETRY: u64 = 1 << VIRTIO_BLK_F_GEOMETRY;
/// The disk cannot be written.
pub const F_RO: u64 = 1 << VIRTIO_BLK_F_RO;
/// The size of a block is in the configuration.
pub const F_BLK_SIZE: u64 = 1 << VIRTIO_BLK_F_BLK_SIZE;
/// There is [`T_FLUSH`].
pub const F_FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
/// How storage is made is in the configuration.
pub const F_TOPOLOGY: u64 = 1 << VIRTIO_BLK_F_TOPOLOGY;
/// The driver can choose whether writes are durable at once ([`WRITEBACK`]).
pub const F_CONFIG_WCE: u64 = 1 << VIRTIO_BLK_F_CONFIG_WCE;
/// There are several queues.
pub const F_MQ: u64 = 1 << VIRTIO_BLK_F_MQ;
/// There is [`T_DISCARD`].
pub const F_DISCARD: u64 = 1 << VIRTIO_BLK_F_DISCARD;
/// There is [`T_WRITE_ZEROES`].
pub const F_WRITE_ZEROES: u64 = 1 << VIRTIO_BLK_F_WRITE_ZEROES;
/// There is [`T_SECURE_ERASE`].
pub const F_SECURE_ERASE: u64 = 1 << VIRTIO_BLK_F_SECURE_ERASE;

/// Length of the configuration space, up to and with what [`F_WRITE_ZEROES`] has in it.
pub const CONFIG_LEN: u32 = 60;
/// The same with [`F_SECURE_ERASE`], which has its fields behind that.
pub const CONFIG_LEN_ERASE: u32 = 72;
/// Offset of the one byte of it that can be written: whether there is a write-back cache.
pub const WRITEBACK: u32 = 32;

/// Length of a request's header: type, a reserved word, first sector.
pub const HEADER_LEN: usize = 16;
/// Length of a segment of [`T_DISCARD`], [`T_WRITE_ZEROES`] and [`T_SECURE_ERASE`]: first sector, count, flags.
pub const SEGMENT_LEN: usize = 16;
/// Flag of a segment: the space may be given up.
pub const SEGMENT_UNMAP: u32 = 1;

/// Read.
pub const T_IN: u32 = 0;
/// Write.
pub const T_OUT: u32 = 1;
/// Everything that was written is to be durable.
pub const T_FLUSH: u32 = 4;
/// Read the serial number.
pub const T_GET_ID: u32 = 8;
/// Space is not needed any more.
pub const T_DISCARD: u32 = 11;
/// Space is to read as zeroes.
pub const T_WRITE_ZEROES: u32 = 13;
/// Nobody is to get at what is in a space any more.
pub const T_SECURE_ERASE: u32 = 14;

/// Status of a request: done.
pub const S_OK: u8 = 0;
/// It failed, or is wrong.
pub const S_IOERR: u8 = 1;
/// There is no such request.
pub const S_UNSUPP: u8 = 2;
