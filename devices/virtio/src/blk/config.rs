//! What a driver is told of the disk.

use trapline_block::{Disk, SECTOR};

use super::regs::{CONFIG_LEN, CONFIG_LEN_ERASE};

/// Segments of one request that discards, erases or zeroes.
pub(super) const SEGMENTS_MAX: u32 = 32;

/// Sectors of one such segment: QEMU's limit, below 2 GiB.
pub(super) const SEGMENT_SECTORS_MAX: u32 = (i32::MAX as u32) >> 9;

/// Heads and sectors of a track, where nobody has a disk that has any.
const HEADS: u64 = 16;
const TRACK_SECTORS: u64 = 63;

/// All that a configuration space can have.
pub(super) type Bytes = [u8; CONFIG_LEN_ERASE as usize];

/// How long it is for this disk.
pub(super) fn len(disk: &Disk) -> u32 {
    if disk.can_erase() { CONFIG_LEN_ERASE } else { CONFIG_LEN }
}

/// The configuration space, `struct virtio_blk_config`. What a feature that is not offered has in
/// it is 0.
pub(super) fn of(disk: &Disk, (queues, queue_size): (u16, u16), writeback: bool) -> Bytes {
    let topology = disk.topology();
    let sectors = disk.capacity() / SECTOR;
    let block = topology.logical_block.max(1);
    let mut config = Config::default();
    config.put(&sectors.to_le_bytes());
    config.put(&0u32.to_le_bytes()); // size_max
    // Header and status are buffers as well.
    config.put(&u32::from(queue_size.saturating_sub(2)).to_le_bytes());
    let cylinders = (sectors / (HEADS * TRACK_SECTORS)).min(16383);
    config.put(&u16::try_from(cylinders).unwrap_or(u16::MAX).to_le_bytes());
    config.put(&[16, 63]); // HEADS, TRACK_SECTORS
    config.put(&block.to_le_bytes());
    let exponent = (topology.physical_block / block).checked_ilog2().unwrap_or(0);
    config.put(&[u8::try_from(exponent).unwrap_or(0), 0]);
    config.put(&u16::try_from(topology.min_io / block).unwrap_or(0).to_le_bytes());
    config.put(&(topology.opt_io / block).to_le_bytes());
    config.put(&[u8::from(writeback), 0]);
    config.put(&queues.to_le_bytes());
    let aligned = u32::try_from(u64::from(topology.discard_granularity) / SECTOR).unwrap_or(1);
    let limits = |can: bool| if can { [SEGMENT_SECTORS_MAX, SEGMENTS_MAX] } else { [0, 0] };
    for limit in limits(disk.can_discard()) {
        config.put(&limit.to_le_bytes());
    }
    config.put(&if disk.can_discard() { aligned.max(1) } else { 0 }.to_le_bytes());
    for limit in limits(disk.is_writable()) {
        config.put(&limit.to_le_bytes());
    }
    config.put(&[u8::from(disk.can_discard()), 0, 0, 0]);
    for limit in limits(disk.can_erase()) {
        config.put(&limit.to_le_bytes());
    }
    // What is not a multiple of it is no error: it has to be of blocks only.
    config.put(&if disk.can_erase() { aligned.max(1) } else { 0 }.to_le_bytes());
    config.bytes
}

/// The configuration, field by field.
struct Config {
    bytes: Bytes,
    at: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { bytes: [0; CONFIG_LEN_ERASE as usize], at: 0 }
    }
}

impl Config {
    fn put(&mut self, field: &[u8]) {
        let end = self.at + field.len();
        if let Some(place) = self.bytes.get_mut(self.at..end) {
            place.copy_from_slice(field);
        }
        self.at = end;
    }
}
