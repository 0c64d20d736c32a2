//! `KVM_SET_IOREGION` as the patches had it, done in a registry: which region goes to which descriptor.
//!
//! No kernel has the ioctl, and the capability numbers of the patches belong to others by now
//! (`KVM_CHECK_EXTENSION` of the patches' 191 and 206 may well say yes), so nobody is asked: a source
//! that can forward by itself takes the windows over as it would any.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use trapline_access::{
    ChannelRef, Delivery, EditError, Forward, NoHandler, PlacedRegion, Region, RegionEdit,
    RegionId, Regions, Space, Window,
};

use crate::ends::Ends;
use crate::link::{Link, LinkOptions};

/// `KVM_IOREGION_PIO`: ports, not memory.
pub const PIO: u32 = 1 << 0;
/// `KVM_IOREGION_POSTED_WRITES`: the guest does not wait for writes.
pub const POSTED_WRITES: u32 = 1 << 1;
/// `KVM_IOREGION_DEASSIGN`: the region is to go (v3).
pub const DEASSIGN: u32 = 1 << 2;
/// `KVM_IOREGION_FAST_MMIO`, as proposed in the review of v1: commands have no size and no data, and
/// reads look as writes do. The patches never had a number for it.
pub const FAST_MMIO: u32 = 1 << 3;
/// Ours: only writes of [`KvmIoregion::datamatch`].
pub const DATAMATCH: u32 = 1 << 4;
const ALL_FLAGS: u32 = PIO | POSTED_WRITES | DEASSIGN | FAST_MMIO | DATAMATCH;

/// `struct kvm_ioregion`, 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KvmIoregion {
    /// The first address, or port.
    pub guest_paddr: u64,
    /// Bytes; 0 for an access of any width at the address, of which nothing is passed on but that.
    pub memory_size: u64,
    /// What the device knows the region by.
    pub user_data: u64,
    /// Where responses are read from.
    pub read_fd: i32,
    /// Where commands are written to.
    pub write_fd: i32,
    /// [`PIO`], [`POSTED_WRITES`], [`DEASSIGN`], [`FAST_MMIO`], [`DATAMATCH`].
    pub flags: u32,
    /// Not looked at.
    pub pad: u32,
    /// What a write has to be to be taken, with [`DATAMATCH`]; the patches have padding here.
    pub datamatch: u64,
    /// Not looked at.
    pub pad2: [u8; 16],
}

const _: () = assert!(size_of::<KvmIoregion>() == 64, "as the ioctl's number says");

/// The regions that are forwarded to descriptors. As with the kernel's, they are gone when it is.
pub struct IoRegions {
    regions: Arc<dyn Regions>,
    options: LinkOptions,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    assigned: Vec<Assigned>,
    /// By the descriptors' files: several regions on one channel keep the order of accesses.
    links: HashMap<[(u64, u64); 2], Weak<Link>>,
}

/// A region that has been set.
struct Assigned {
    key: Key,
    id: RegionId,
    /// Whether the region is there for this alone.
    is_ours: bool,
    window: Window,
    /// What the region had in the same place before.
    displaced: Vec<Window>,
    link: Arc<Link>,
    user_data: u64,
}

/// Where a window is now.
struct Placed {
    id: RegionId,
    is_ours: bool,
    window: Window,
    displaced: Vec<Window>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    space: Space,
    addr: u64,
    len: u64,
    datamatch: Option<u64>,
}

impl Key {
    /// How much of the address space it takes up.
    fn bytes(&self) -> u64 {
        self.len.max(1)
    }
}

impl IoRegions {
    /// None yet, in this registry. Channels get these options.
    pub fn new(regions: Arc<dyn Regions>, options: LinkOptions) -> Self {
        Self { regions, options, inner: Mutex::default() }
    }

    /// Assigns a region, or takes it away ([`DEASSIGN`], or both descriptors -1).
    ///
    /// Where a device of the VMM is, the region goes in front of it; what the kernel would have queued or
    /// shown of it there is trapped meanwhile.
    ///
    /// # Errors
    /// `EINVAL`: flags that are not known or exclude each other, a size that does not fit, an address
    /// that wraps, one descriptor of two. `EBADF`: a descriptor that is not open. `EEXIST`: another
    /// region, an eventfd's, or half of a device's, is there. `ENOENT`: there is no such region to take
    /// away. `ENOSPC`: the registry is full. `EPERM`, `ENOSYS`: the process may not have its own
    /// descriptors duplicated.
    pub fn set_ioregion(&self, args: &KvmIoregion) -> Result<(), Errno> {
        let key = key(args)?;
        let both_closed = args.read_fd == -1 && args.write_fd == -1;
        if args.flags & DEASSIGN != 0 || both_closed {
            return self.deassign(key);
        }
        let posted = args.flags & POSTED_WRITES != 0;
        let fast = args.flags & FAST_MMIO != 0;
        let answers = !(posted && (fast || args.memory_size == 0));
        if args.memory_size == 0 && !posted && !fast {
            return Err(Errno::INVAL);
        }
        if args.write_fd == -1 || (answers && args.read_fd == -1) {
            return Err(Errno::INVAL);
        }
        let write_fd = duplicate(args.write_fd)?;
        let read_fd = if answers { duplicate(args.read_fd)? } else { duplicate(args.write_fd)? };
        let mut inner = self.inner.lock();
        let link = inner.link(read_fd, write_fd, &self.options)?;
        self.assign_in(&mut inner, key, args, link)
    }

    /// The same with a channel that is there already; the descriptors are not looked at.
    ///
    /// # Errors
    /// As of [`IoRegions::set_ioregion`].
    pub fn assign(&self, args: &KvmIoregion, link: Arc<Link>) -> Result<(), Errno> {
        let key = key(args)?;
        if args.memory_size == 0 && args.flags & (POSTED_WRITES | FAST_MMIO) == 0 {
            return Err(Errno::INVAL);
        }
        self.assign_in(&mut self.inner.lock(), key, args, link)
    }

    fn assign_in(
        &self,
        inner: &mut Inner,
        key: Key,
        args: &KvmIoregion,
        link: Arc<Link>,
    ) -> Result<(), Errno> {
        let channel: Arc<Link> = Arc::clone(&link);
        let forward = Forward {
            channel: ChannelRef::new(channel),
            user_data: args.user_data,
            posted: args.flags & POSTED_WRITES != 0,
            no_data: args.flags & FAST_MMIO != 0,
            datamatch: key.datamatch,
        };
        let window = |offset| {
            let delivery = Delivery::Forward(forward.clone());
            Window { offset, len: key.len, delivery }
        };
        let user_data = args.user_data;
        let placed = match self.regions.region_at(key.space, key.addr) {
            Some(there) => self.in_front_of(inner, there, &key, window)?,
            None => self.alone(&key, user_data, Vec::new(), window(0))?,
        };
        let Placed { id, is_ours, window, displaced } = placed;
        inner.assigned.push(Assigned { key, id, is_ours, window, displaced, link, user_data });
        Ok(())
    }

    /// Puts a window onto a region that is there.
    fn in_front_of(
        &self,
        inner: &mut Inner,
        there: PlacedRegion,
        key: &Key,
        window: impl Fn(u64) -> Window,
    ) -> Result<Placed, Errno> {
        let (bytes, offset, id) = (key.bytes(), key.addr - there.base, there.id);
        let is_ours = inner.assigned.iter().any(|other| other.id == id && other.is_ours);
        if there.len - offset < bytes {
            if !is_ours || offset != 0 {
                return Err(Errno::EXIST);
            }
            // One for more bytes takes the place of a region of our own, with all that was there.
            let placed = self.alone(key, 0, vec![there], window(0))?;
            let ours = inner.assigned.iter_mut().filter(|other| other.id == id);
            ours.for_each(|other| other.id = placed.id);
            return Ok(placed);
        }
        let window = window(offset);
        let gives_way = |other: &Window| gives_way(other, &window, bytes);
        let displaced: Vec<Window> = there.windows.into_iter().filter(gives_way).collect();
        let away = displaced.iter().map(|other| RegionEdit::RemoveWindow(id, other.clone()));
        let edits = away.chain([RegionEdit::AddWindow(id, window.clone())]).collect();
        self.regions.edit(edits).map_err(|error| errno(&error))?;
        Ok(Placed { id, is_ours, window, displaced })
    }

    /// Maps a region for a window alone, in the place of one of our own if there is one.
    fn alone(
        &self,
        key: &Key,
        user_data: u64,
        before: Vec<PlacedRegion>,
        window: Window,
    ) -> Result<Placed, Errno> {
        let (name, handler) = (format!("{user_data:#x}"), Arc::new(NoHandler));
        let names = ("ioregion", name.as_str());
        let mut region = Region::new(key.space, Some(key.addr), key.bytes(), names, handler);
        let mut edits = Vec::new();
        for before in before {
            edits.push(RegionEdit::Unmap(before.id));
            region.name = before.name;
            region.windows.extend(before.windows);
        }
        edits.push(RegionEdit::Map(region.window(window.clone())));
        let ids = self.regions.edit(edits).map_err(|error| errno(&error))?;
        let id = ids.first().copied().ok_or(Errno::NOSPC)?;
        Ok(Placed { id, is_ours: true, window, displaced: Vec::new() })
    }

    fn deassign(&self, key: Key) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        let at = inner.assigned.iter().position(|assigned| assigned.key == key);
        let assigned = at.map(|at| inner.assigned.remove(at)).ok_or(Errno::NOENT)?;
        let is_last = !inner.assigned.iter().any(|other| other.id == assigned.id);
        self.take_away(&assigned, is_last);
        let is_left = inner.assigned.iter().any(|other| {
            Arc::ptr_eq(&other.link, &assigned.link) && other.user_data == assigned.user_data
        });
        if !is_left {
            assigned.link.cancel(assigned.user_data);
        }
        if !inner.assigned.iter().any(|other| Arc::ptr_eq(&other.link, &assigned.link)) {
            assigned.link.close();
            inner.links.retain(|_, link| !link.ptr_eq(&Arc::downgrade(&assigned.link)));
        }
        Ok(())
    }

    fn take_away(&self, assigned: &Assigned, is_last: bool) {
        let Assigned { id, is_ours, window, displaced, .. } = assigned;
        let edits = if *is_ours && is_last {
            vec![RegionEdit::Unmap(*id)]
        } else {
            let back = displaced.iter().map(|other| RegionEdit::AddWindow(*id, other.clone()));
            std::iter::once(RegionEdit::RemoveWindow(*id, window.clone())).chain(back).collect()
        };
        // A region that has gone meanwhile took its windows along.
        let _ = self.regions.edit(edits);
    }
}

impl Drop for IoRegions {
    fn drop(&mut self) {
        let assigned = std::mem::take(&mut self.inner.get_mut().assigned);
        for (at, region) in assigned.iter().enumerate() {
            let later = assigned.get(at + 1..).unwrap_or_default();
            self.take_away(region, !later.iter().any(|other| other.id == region.id));
            region.link.close();
        }
    }
}

impl Inner {
    /// The channel of these descriptors: that of before if they are the same files.
    fn link(
        &mut self,
        read_fd: OwnedFd,
        write_fd: OwnedFd,
        options: &LinkOptions,
    ) -> Result<Arc<Link>, Errno> {
        let files = [identity(&read_fd)?, identity(&write_fd)?];
        self.links.retain(|_, link| link.strong_count() > 0);
        if let Some(link) = self.links.get(&files).and_then(Weak::upgrade) {
            return Ok(link);
        }
        let ends = match files {
            [read, write] if read == write => Ends::socket(write_fd),
            _ => Ends::pair(read_fd, write_fd),
        };
        let ends = ends.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
        let link = Arc::new(Link::new(ends, options.clone()));
        self.links.insert(files, Arc::downgrade(&link));
        Ok(link)
    }
}

/// What a region is found again by, if it can be one.
fn key(args: &KvmIoregion) -> Result<Key, Errno> {
    let KvmIoregion { guest_paddr: addr, memory_size: len, flags, .. } = *args;
    let space = if flags & PIO != 0 { Space::Pio } else { Space::Mmio };
    let has = |flag| flags & flag != 0;
    let is_of_value = has(DATAMATCH);
    let wrong = flags & !ALL_FLAGS != 0
        || (has(PIO) && has(FAST_MMIO))
        || (is_of_value && (has(FAST_MMIO) || !matches!(len, 1 | 2 | 4 | 8)))
        || addr.checked_add(len.saturating_sub(1)).is_none_or(|last| last > space.last());
    let value = args.datamatch & (u64::MAX >> (64 - 8 * len.clamp(1, 8)));
    if wrong || (is_of_value && value != args.datamatch) {
        return Err(Errno::INVAL);
    }
    Ok(Key { space, addr, len, datamatch: is_of_value.then_some(value) })
}

/// Whether a window of a device's is in the place of `window`, and nothing but a shorter way to the
/// device. What rings goes its own way, and collides.
fn gives_way(other: &Window, window: &Window, bytes: u64) -> bool {
    let overlaps = other.offset < window.offset + bytes && window.offset < other.offset + other.len;
    let shortcut = matches!(other.delivery, Delivery::Coalesced | Delivery::Mirrored { .. });
    let Delivery::Forward(forward) = &window.delivery else { return false };
    let goes_along = other.delivery == Delivery::Coalesced
        && forward.posted
        && !forward.no_data
        && forward.datamatch.is_none()
        && window.len != 0;
    shortcut && overlaps && !goes_along
}

fn errno(error: &EditError) -> Errno {
    match error {
        EditError::Overlap { .. } | EditError::Delivery { .. } => Errno::EXIST,
        EditError::Full { .. } => Errno::NOSPC,
        EditError::Unknown(_) | EditError::NoWindow { .. } | EditError::NoRegistry => Errno::NOENT,
        _ => Errno::INVAL,
    }
}

/// A descriptor of our own for the number of one.
fn duplicate(fd: i32) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(this, fd, PidfdGetfdFlags::empty())
}

/// What tells files apart: the device and the number on it. The number alone is not enough.
fn identity(fd: &impl AsFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}
