//! Block limits of the host's storage (logical and physical block size, preferred transfer size), for a
//! guest to align its file system to.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, StatxFlags, major, minor, statx};

use super::Opened;

/// Sizes in bytes, each of them a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// What a request should be a multiple of.
    pub logical_block: u32,
    /// What a write should be a multiple of, so that nothing has to be read for it.
    pub physical_block: u32,
    /// What makes a good size and alignment of a request.
    pub min_io: u32,
    /// The best size of a request; 0 if there is none.
    pub opt_io: u32,
    /// What space is given up in.
    pub discard_granularity: u32,
    /// What a buffer's address has to be a multiple of, where the page cache is left out.
    pub(crate) memory_align: u32,
}

impl Topology {
    /// What everything has that says nothing.
    pub(super) const PLAIN: Self = Self {
        logical_block: 512,
        physical_block: 512,
        min_io: 512,
        opt_io: 0,
        discard_granularity: 512,
        memory_align: 512,
    };

    /// Its numbers, in the order of its fields.
    pub fn numbers(&self) -> [u32; 5] {
        let Self { logical_block, physical_block, min_io, opt_io, discard_granularity, .. } = *self;
        [logical_block, physical_block, min_io, opt_io, discard_granularity]
    }

    /// One with these numbers, of a disk that is written down somewhere.
    pub fn of_numbers(numbers: [u32; 5]) -> Self {
        let [logical_block, physical_block, min_io, opt_io, discard_granularity] = numbers;
        let memory_align = Self::PLAIN.memory_align;
        Self { logical_block, physical_block, min_io, opt_io, discard_granularity, memory_align }
    }

    /// Of an image's file.
    pub(crate) fn of(opened: &Opened) -> Self {
        let mut topology = if opened.is_device() { device(opened) } else { file(opened) };
        if opened.direct {
            let (memory, offset) = direct(opened).unwrap_or((4096, 4096));
            topology.memory_align = memory;
            topology.logical_block = topology.logical_block.max(offset);
        } else {
            // The page cache takes any.
            topology.logical_block = 512;
        }
        topology.physical_block = topology.physical_block.max(topology.logical_block);
        topology.min_io = topology.min_io.max(topology.logical_block);
        topology
    }
}

/// A regular file's blocks are its file system's.
fn file(opened: &Opened) -> Topology {
    let block = power_of_two(opened.metadata.blksize()).unwrap_or(4096).min(4096);
    Topology { physical_block: block, min_io: block, discard_granularity: block, ..Topology::PLAIN }
}

/// A block device's are in sysfs.
fn device(opened: &Opened) -> Topology {
    let read = |name: &str| device_limit(opened, name).and_then(power_of_two);
    let logical = read("logical_block_size").unwrap_or(512);
    Topology {
        logical_block: logical,
        physical_block: read("physical_block_size").unwrap_or(logical),
        min_io: read("minimum_io_size").unwrap_or(logical),
        opt_io: read("optimal_io_size").unwrap_or(0),
        discard_granularity: read("discard_granularity").unwrap_or(logical),
        memory_align: logical,
    }
}

/// A number that sysfs has of a block device's queue; a partition's is its disk's.
pub(super) fn device_limit(opened: &Opened, name: &str) -> Option<u64> {
    let number = opened.metadata.rdev();
    let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", major(number), minor(number)));
    let queues = [folder.join("queue"), folder.join("../queue")];
    let text = queues.iter().find_map(|queue| fs::read_to_string(queue.join(name)).ok());
    text.and_then(|text| text.trim().parse().ok())
}

/// What `O_DIRECT` asks of addresses and of offsets, where the kernel says so (Linux 6.1).
fn direct(opened: &Opened) -> Option<(u32, u32)> {
    /// `STATX_DIOALIGN` of `linux/stat.h`.
    const DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);
    let stat = statx(&opened.file, "", AtFlags::EMPTY_PATH, DIOALIGN).ok()?;
    let memory = power_of_two(stat.stx_dio_mem_align.into())?;
    let offset = power_of_two(stat.stx_dio_offset_align.into())?;
    Some((memory, offset))
}

fn power_of_two(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| number.is_power_of_two())
}
