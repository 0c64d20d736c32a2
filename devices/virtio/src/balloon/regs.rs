//! A balloon's features, configuration space and statistics.
//!
//! Spec: virtio 1.3, section 5.5.

/// There are statistics of the guest's memory, in a queue of their own.
pub const F_STATS_VQ: u64 = 1 << 1;
/// The driver may take pages out by itself when the guest has none left.
pub const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// The driver says with what it fills free pages ([`POISON`]).
pub const F_PAGE_POISON: u64 = 1 << 4;
/// The driver reports pages that are free for the time being.
pub const F_PAGE_REPORTING: u64 = 1 << 5;

/// Length of the configuration space.
pub const CONFIG_LEN: u32 = 16;
/// Offset of how many pages the driver is to put into the balloon.
pub const NUM_PAGES: usize = 0;
/// Offset of how many it says are in there. The driver's.
pub const ACTUAL: usize = 4;
/// Offset of what free pages are filled with. The driver's.
pub const POISON: usize = 12;

/// The size of a balloon's page, whatever the guest's or the host's is.
pub const PAGE: u64 = 4096;

/// Length of a statistic: tag and value.
pub const STAT_LEN: usize = 10;
/// How many kinds of statistics there are.
pub const STATS: usize = 16;
