//! What a handler may ask of the registry while it runs: to move its own regions.

use std::fmt;
use std::sync::Arc;

use crate::Space;

/// The name of a mapped region in its registry. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(pub u64);

/// The two names every region carries: whose it is, and which of its regions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionName {
    /// The device, as the user knows it: `serial0`.
    pub device: Arc<str>,
    /// The region within the device: `uart`.
    pub region: Arc<str>,
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.device, self.region)
    }
}

/// Why an edit of the registry was refused. Nothing of a refused edit has happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// Two regions would answer the same address.
    #[error(
        "{wanted} at {space} {base:#x}..={last:#x} overlaps {existing} at {existing_base:#x}..={existing_last:#x}"
    )]
    Overlap {
        /// The space of both.
        space: Space,
        /// The region that was to be placed.
        wanted: RegionName,
        /// Its first address.
        base: u64,
        /// Its last address.
        last: u64,
        /// The region that is in the way.
        existing: RegionName,
        /// Its first address.
        existing_base: u64,
        /// Its last address.
        existing_last: u64,
    },
    /// A region of no bytes answers nothing.
    #[error("{name} is zero bytes long")]
    Empty {
        /// The region.
        name: RegionName,
    },
    /// The region does not fit below the end of its space.
    #[error("{name} at {space} {base:#x}, {len:#x} bytes, runs past {:#x}", space.last())]
    PastEnd {
        /// The region.
        name: RegionName,
        /// Its space.
        space: Space,
        /// The address asked for.
        base: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// The region has no address to be moved from or to: it is gone.
    #[error("region {} is not registered", .0.0)]
    Unknown(
        /// The name that was used.
        RegionId,
    ),
    /// A delivery window was asked for outside its region.
    #[error("{name} has no offsets {start:#x}..{end:#x} to deliver differently")]
    Window {
        /// The region.
        name: RegionName,
        /// First offset of the window.
        start: u64,
        /// First offset past the window.
        end: u64,
    },
    /// Two deliveries of one region exclude each other.
    #[error("{name}: two deliveries collide at offset {offset:#x}")]
    Delivery {
        /// The region.
        name: RegionName,
        /// The offset both were asked for.
        offset: u64,
    },
    /// The source refused to take over a delivery, for a reason that is not "I cannot do that".
    #[error("{name}: the kernel refused its {what}: {reason}")]
    Offload {
        /// The region.
        name: RegionName,
        /// The kind of delivery.
        what: &'static str,
        /// The operating system's words.
        reason: String,
    },
    /// The registry is full.
    #[error("no room for {name}: the registry holds {limit} regions")]
    Full {
        /// The region.
        name: RegionName,
        /// The most it can hold.
        limit: usize,
    },
}

/// The registry as a handler sees it. Calls never wait for another vCPU, so a handler can not
/// deadlock on itself or on a device another vCPU is in.
pub trait Regions: Sync {
    /// Moves regions to new base addresses (`Some`) or out of their space (`None`), all or
    /// nothing. Overlap is judged on the result, so two regions can swap.
    ///
    /// # Errors
    /// The first reason found; nothing has moved then.
    fn place(&self, moves: &[(RegionId, Option<u64>)]) -> Result<(), EditError>;
}

/// A registry without regions, for handlers that run outside one.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRegions;

impl Regions for NoRegions {
    fn place(&self, moves: &[(RegionId, Option<u64>)]) -> Result<(), EditError> {
        moves.first().map_or(Ok(()), |&(id, _)| Err(EditError::Unknown(id)))
    }
}
