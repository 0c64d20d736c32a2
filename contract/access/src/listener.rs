//! Memory listeners: those who map guest memory a second time (an IOMMU, a device in another process)
//! and are told of each memory region that is mapped or unmapped.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::{Memory, RegionName};

/// A window of memory at its place in the guest physical address space: what a device in the kernel
/// or in another process needs to reach it by itself (VFIO's `VFIO_IOMMU_MAP_DMA`, vhost-user's
/// `SET_MEM_TABLE`). It need not begin or end at a page.
#[derive(Clone)]
pub struct MemorySection {
    /// Whose it is, and which.
    pub name: RegionName,
    /// First guest physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// The memory, which stays mapped in this process for as long as somebody has it. Where, its
    /// kind knows ([`Memory::mapping`]).
    pub memory: Arc<dyn Memory>,
    /// Where in the memory the section begins.
    pub offset: u64,
    /// Whether the guest, and whoever acts for it, can only read it.
    pub readonly: bool,
}

impl MemorySection {
    /// The file that the section is mapped from and where in it, if it is.
    pub fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        let (fd, offset) = self.memory.file()?;
        Some((fd, offset.checked_add(self.offset)?))
    }
}

impl fmt::Debug for MemorySection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, addr, len, offset, readonly, .. } = self;
        let readonly = if *readonly { ", read-only" } else { "" };
        write!(f, "{name}: {addr:#x}, {len:#x} bytes, from {offset:#x} of its memory{readonly}")
    }
}

impl PartialEq for MemorySection {
    /// Whether both are the same bytes of the same memory, at the same place.
    fn eq(&self, other: &Self) -> bool {
        let place = |section: &Self| (section.addr, section.len, section.offset, section.readonly);
        place(self) == place(other)
            && self.name == other.name
            && Arc::ptr_eq(&self.memory, &other.memory)
    }
}

/// Hears of the guest's memory: of all there is when it is registered
/// ([`crate::Regions::listen`]), and of each change as part of the edit that makes it.
///
/// Who takes the pages themselves, and not only their addresses in this process (an IOMMU pins them),
/// has their owner keep them where they are: a balloon would give the guest others.
///
/// Calls come between [`MemoryListener::begin`] and [`MemoryListener::commit`]: first what goes, then
/// what comes. One edit at a time, and none can be made from inside a call, which would wait for
/// itself. They are made while vCPUs run.
pub trait MemoryListener: Send + Sync {
    /// Changes follow.
    fn begin(&self) {}

    /// The guest sees this memory now.
    ///
    /// # Errors
    /// Why the edit that maps it must not be made. It is undone then: what was added in it is removed
    /// again, and what was removed is added.
    fn add(&self, section: &MemorySection) -> Result<(), String>;

    /// The guest is about not to see this memory any more.
    fn remove(&self, section: &MemorySection);

    /// That was all of it. Who has a table of everything passes it on now.
    fn commit(&self) {}
}
