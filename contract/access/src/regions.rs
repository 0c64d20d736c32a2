//! Edits of a registry: regions mapped, moved and changed, also by handlers while they run.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};

use crate::{DirtyLog, Memory, MemoryListener, Region, Space, Window};

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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EditError {
    /// Two regions would answer the same address.
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
    Empty {
        /// The region.
        name: RegionName,
    },
    /// The region does not fit below the end of its space.
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
    /// There is no such region, or no more.
    Unknown(
        /// The id that was used.
        RegionId,
    ),
    /// The region has no such window, so it cannot be removed.
    NoWindow {
        /// The region.
        name: RegionName,
        /// First offset of the window.
        offset: u64,
    },
    /// A delivery window was asked for outside its region, its memory or its kind's sizes.
    Window {
        /// The region.
        name: RegionName,
        /// First offset of the window.
        start: u64,
        /// First offset past the window.
        end: u64,
    },
    /// Two deliveries of one region exclude each other.
    Delivery {
        /// The region.
        name: RegionName,
        /// The offset both were asked for.
        offset: u64,
    },
    /// The source refused to take over a delivery, for a reason that is not "I cannot do that".
    Offload {
        /// The region.
        name: RegionName,
        /// The kind of delivery.
        what: &'static str,
        /// The operating system's words.
        reason: String,
    },
    /// The registry is full.
    Full {
        /// The region.
        name: RegionName,
        /// The most it can hold.
        limit: usize,
    },
    /// Somebody who maps the guest's memory, too, cannot map this.
    Listener {
        /// The region.
        name: RegionName,
        /// The listener's words.
        reason: String,
    },
    /// The source cannot log which pages of a memory are written.
    DirtyLog {
        /// The operating system's words.
        reason: String,
    },
    /// There is no registry to edit, or no more.
    NoRegistry,
}

impl std::error::Error for EditError {}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap { space, wanted, base, last, existing, existing_base, existing_last } => {
                write!(
                    f,
                    "{wanted} at {space} {base:#x}..={last:#x} overlaps {existing} at \
                 {existing_base:#x}..={existing_last:#x}"
                )
            }
            Self::Empty { name } => write!(f, "{name} is zero bytes long"),
            Self::PastEnd { name, space, base, len } => {
                let end = space.last();
                write!(f, "{name} at {space} {base:#x}, {len:#x} bytes, runs past {end:#x}")
            }
            Self::Unknown(id) => write!(f, "region {} is not registered", id.0),
            Self::NoWindow { name, offset } => {
                write!(f, "{name} has no such window at offset {offset:#x}")
            }
            Self::Window { name, start, end } => {
                write!(f, "{name} has no offsets {start:#x}..{end:#x} to deliver differently")
            }
            Self::Delivery { name, offset } => {
                write!(f, "{name}: two deliveries collide at offset {offset:#x}")
            }
            Self::Offload { name, what, reason } => {
                write!(f, "{name}: the kernel refused its {what}: {reason}")
            }
            Self::Full { name, limit } => {
                write!(f, "no room for {name}: the registry holds {limit} regions")
            }
            Self::Listener { name, reason } => {
                write!(f, "{name}: a device cannot reach this memory: {reason}")
            }
            Self::DirtyLog { reason } => {
                write!(f, "the kernel does not log which pages of memory are written: {reason}")
            }
            Self::NoRegistry => f.write_str("there is no registry"),
        }
    }
}

/// A region that is mapped, as whoever wants to change its deliveries has to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedRegion {
    /// Its id.
    pub id: RegionId,
    /// Its names.
    pub name: RegionName,
    /// Its first address.
    pub base: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Where accesses are delivered otherwise than to its handler.
    pub windows: Vec<Window>,
}

/// One change in an edit.
#[derive(Clone)]
pub enum RegionEdit {
    /// Maps a region. It stays until it is unmapped, or the registry is gone.
    Map(Region),
    /// Unmaps a region. No error if it is gone.
    Unmap(RegionId),
    /// Moves a region to a base address, or out of its space.
    Place(RegionId, Option<u64>),
    /// Delivers accesses to a part of a region in another way from now on.
    AddWindow(RegionId, Window),
    /// Ends that: the window is one that the region was mapped with, or that was added.
    RemoveWindow(RegionId, Window),
}

/// A registry, to be edited: by whoever maps devices, and by handlers while they run. Calls never
/// wait for another vCPU's access, so a handler can not deadlock on itself or on a device another
/// vCPU is in.
pub trait Regions: Send + Sync {
    /// Makes the changes together, all or none. Overlap is judged on the result, so two regions can
    /// swap. The ids of the regions mapped, in order.
    ///
    /// # Errors
    /// The first reason found; nothing has happened then.
    fn edit(&self, edits: Vec<RegionEdit>) -> Result<Vec<RegionId>, EditError>;

    /// Moves regions to new base addresses (`Some`) or out of their space (`None`), all or nothing.
    ///
    /// # Errors
    /// As of [`Regions::edit`].
    fn place(&self, moves: &[(RegionId, Option<u64>)]) -> Result<(), EditError> {
        let edits = moves.iter().map(|&(id, base)| RegionEdit::Place(id, base)).collect();
        self.edit(edits).map(drop)
    }

    /// The region that has an address, if one has.
    fn region_at(&self, _space: Space, _addr: u64) -> Option<PlacedRegion> {
        None
    }

    /// Starts a log of which pages of `memory` are written: by the guest wherever it sees it, and
    /// through this process, as by a device that does DMA. Several can want to know. What is being
    /// written at this moment may be missed, so who must have all starts while the guest stands
    /// still. Memory is the same if it is the same [`Arc`].
    ///
    /// # Errors
    /// [`EditError::DirtyLog`] when the source cannot log what it has of the memory,
    /// [`EditError::NoRegistry`].
    fn log_dirty(&self, _memory: Arc<dyn Memory>) -> Result<Box<dyn DirtyLog>, EditError> {
        Err(EditError::NoRegistry)
    }

    /// Has `listener` hear of all memory that the guest sees, now and from now on, until what is
    /// returned is dropped; then it hears that all of it goes. Not to be called from inside a call
    /// of a listener.
    ///
    /// # Errors
    /// [`EditError::Listener`] when it refuses what there is, [`EditError::NoRegistry`].
    fn listen(
        &self,
        _listener: Arc<dyn MemoryListener>,
    ) -> Result<Box<dyn Any + Send + Sync>, EditError> {
        Err(EditError::NoRegistry)
    }

    /// Has `listener` hear of every edit from now on in which addresses may have become free. Does
    /// nothing where that is never anybody's but the listener's own.
    fn listen_freed(&self, _listener: Weak<dyn EditListener>) {}
}

/// Somebody who waits for room in an address space: a bus whose BAR lies on what is another's.
pub trait EditListener: Send + Sync {
    /// A region was moved or unmapped. Called on the thread that did it, after the edit and with no
    /// lock of the registry held; it may be an edit of the listener's own. That thread may hold any
    /// device's lock, so the listener must wait for no lock that is held while somebody edits: what
    /// it cannot have at once it leaves to whoever has it.
    fn freed(&self);
}

/// No registry, for handlers that run outside one.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRegions;

impl Regions for NoRegions {
    fn edit(&self, _edits: Vec<RegionEdit>) -> Result<Vec<RegionId>, EditError> {
        Err(EditError::NoRegistry)
    }
}
