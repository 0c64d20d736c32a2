//! Why a recording cannot be written or read.

use std::io;

use trapline_access::record::UnknownOp;

use crate::chunk::Kind;

/// Why a recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system's word on reading or writing the file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not one of our files.
    #[error("this is no recording of trapline")]
    Magic,
    /// A recording of a version that this program does not read.
    #[error(
        "this recording has format {found}, and this program reads formats {} to {}",
        known[0],
        known[1]
    )]
    Version {
        /// The file's.
        found: u32,
        /// The first and the last of ours.
        known: [u32; 2],
    },
    /// Not even the head of the recording is there.
    #[error("this recording ends before it begins: it has no description of the run")]
    NoMeta,
    /// The checksum is right and the content is not: whoever wrote it did not know the format, or
    /// knew a newer one.
    #[error("the {kind} chunk at byte {at} of the recording makes no sense: {why}")]
    Content {
        /// The chunk's kind.
        kind: Kind,
        /// Where it begins in the file.
        at: u64,
        /// What is wrong with it.
        why: String,
    },
    /// An operation that is not one of ours.
    #[error("the records at byte {at} of the recording have an {op}")]
    Op {
        /// Where their chunk begins in the file.
        at: u64,
        /// The operation.
        op: UnknownOp,
    },
    /// More of something than any run has.
    #[error("this recording has more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much would have been read.
        limit: u64,
    },
    /// The recorder was given something that has no place in a recording.
    #[error("cannot record {0}")]
    Unrecordable(&'static str),
    /// There is no such blob or saved state in the recording.
    #[error("the recording has no {what} {number}")]
    Missing {
        /// Of what.
        what: &'static str,
        /// Which.
        number: u64,
    },
}
