//! Why guest memory could not be made or reached.

use std::path::PathBuf;

/// One sentence for the user each.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host would not map that much.
    #[error("cannot map {bytes} bytes of guest RAM: {reason}")]
    Map {
        /// How much was asked for.
        bytes: u64,
        /// The reason given.
        reason: String,
    },
    /// Huge pages were asked of a file system that has none.
    #[error("{} is not on a hugetlbfs file system, so it has no huge pages for guest memory", path.display())]
    NotHugetlbfs {
        /// What was named.
        path: PathBuf,
    },
    /// The hugetlbfs mount cannot be used.
    #[error("cannot make guest memory in {}: {reason}", path.display())]
    Hugetlbfs {
        /// The mount.
        path: PathBuf,
        /// The reason given.
        reason: std::io::Error,
    },
    /// A piece of RAM would end or begin within a huge page.
    #[error(
        "guest memory at {addr:#x}..{:#x} is not a whole number of the {} KiB pages that {} has",
        addr.saturating_add(*len), page >> 10, path.display()
    )]
    NotWholePages {
        /// The mount.
        path: PathBuf,
        /// First address of the piece.
        addr: u64,
        /// Its length in bytes.
        len: u64,
        /// The mount's page size in bytes.
        page: u64,
    },
    /// The host has set too few huge pages aside.
    #[error(
        "{} has fewer free huge pages than the {pages} of {} KiB that guest memory needs; \
         /proc/sys/vm/nr_hugepages says how many the host has",
        path.display(), page >> 10
    )]
    TooFewHugePages {
        /// The mount.
        path: PathBuf,
        /// How many pages one piece of RAM needs.
        pages: u64,
        /// The mount's page size in bytes.
        page: u64,
    },
    /// The range is not all RAM, or not of one piece where it has to be.
    #[error("guest addresses {addr:#x}..{:#x} are not all RAM", addr.saturating_add(*len as u64))]
    OutOfRange {
        /// First address.
        addr: u64,
        /// Length in bytes.
        len: usize,
    },
    /// The host would not take memory back.
    #[error("the host does not take guest memory at {addr:#x} back: {reason}")]
    GiveBack {
        /// First address.
        addr: u64,
        /// The reason given.
        reason: std::io::Error,
    },
    /// An atomic access to an address that is no multiple of its size.
    #[error("guest address {addr:#x} is not aligned to the {len} bytes of an atomic access")]
    Unaligned {
        /// The address.
        addr: u64,
        /// Length of the access in bytes.
        len: usize,
    },
}
