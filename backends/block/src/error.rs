//! Why a disk cannot be had, and why a request failed.

use std::io;
use std::path::PathBuf;

/// Why a disk cannot be had. One sentence for the user each.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image cannot be opened.
    #[error("cannot open disk image {}: {reason}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// The reason given.
        reason: io::Error,
    },
    /// The image is a directory.
    #[error("{} is a directory and no disk image; a guest can have it by --9p", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The image is neither a regular file nor a block device.
    #[error("disk image {} is neither a regular file nor a block device", path.display())]
    NoDisk {
        /// What it is called.
        path: PathBuf,
    },
    /// The page cache cannot be left out.
    #[error("disk image {}: its file system has no direct I/O; leave out ,direct", path.display())]
    NoDirect {
        /// The image.
        path: PathBuf,
    },
    /// Somebody else has the image.
    #[error("disk image {} is in use by another program{}", path.display(),
        if *writing { "; two writers would destroy it" } else { ", which writes to it" })]
    InUse {
        /// The image, or one behind it.
        path: PathBuf,
        /// Whether it was to be written to.
        writing: bool,
    },
    /// A format we can only read.
    #[error("disk image {} is in VMDK format, which can only be read; add ,ro", path.display())]
    ReadOnlyFormat {
        /// The image.
        path: PathBuf,
    },
    /// A format we cannot read.
    #[error(
        "disk image {} looks like {format}, which is not supported; convert it (qemu-img convert), \
         or add ,format=raw if it is not",
        path.display()
    )]
    Foreign {
        /// The image.
        path: PathBuf,
        /// What its format is called.
        format: &'static str,
    },
    /// The format's reader does not like it.
    #[error("disk image {} is no usable {format} image: {reason}", path.display())]
    Format {
        /// The image.
        path: PathBuf,
        /// The format.
        format: crate::Format,
        /// The reason given.
        reason: io::Error,
    },
    /// It cannot be given another size.
    #[error("disk image {} cannot be resized to {size} bytes: {reason}", path.display())]
    Resize {
        /// The image.
        path: PathBuf,
        /// The size asked for.
        size: u64,
        /// The reason given.
        reason: io::Error,
    },
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It goes beyond the disk's end.
    #[error("the request goes beyond the disk's end")]
    OutOfRange,
    /// It would write to a disk that cannot be written.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The image cannot do that.
    #[error("the image does not support the request")]
    Unsupported,
    /// The host could not.
    #[error(transparent)]
    Io(#[from] io::Error),
}
