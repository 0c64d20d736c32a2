//! A disk as its user describes it.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;

/// The most queues a disk can have.
pub const QUEUES_MAX: u16 = 64;

/// Bytes of a serial number that a driver can read.
pub const SERIAL_LEN: usize = 20;

/// What the user says of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// The image: a regular file or a block device. Nothing is called so with [`Format::Null`].
    pub path: PathBuf,
    /// The guest cannot write.
    pub read_only: bool,
    /// The host's page cache is left out (`O_DIRECT`).
    pub direct: bool,
    /// How many queues there are, from 1 to [`QUEUES_MAX`].
    pub queues: u16,
    /// What the disk says of itself; made from the image's device and inode numbers, if not said.
    pub serial: Option<String>,
    /// How the image is to be understood; found out from its first bytes, if not said.
    pub format: Option<Format>,
    /// How much the guest may ask for.
    pub limits: Limits,
    /// What happens when the host cannot read or write.
    pub on_error: OnError,
}

/// How an image is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Byte for byte.
    Raw,
    /// QEMU's, version 2 or 3.
    Qcow2,
    /// VMware's, which can only be read.
    Vmdk,
    /// No image at all: reads as zeroes, forgets what is written, and is 1 GiB long at first. For
    /// tests and measurements (QEMU's `null-co`).
    Null,
}

/// Limits on what a guest asks of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests a second.
    pub iops: Option<NonZeroU64>,
    /// Bytes read and written a second.
    pub bps: Option<NonZeroU64>,
}

/// What happens when the host cannot read or write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told.
    #[default]
    Report,
    /// The machine is paused, and the request made again when it goes on.
    Stop,
}

impl DiskOptions {
    /// A disk with everything as it is without options.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read_only: false,
            direct: false,
            queues: 1,
            serial: None,
            format: None,
            limits: Limits::default(),
            on_error: OnError::default(),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Null => "null",
        })
    }
}
