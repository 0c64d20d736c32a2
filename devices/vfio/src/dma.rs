//! The guest's memory as assigned functions see it: what the guest has at an address, their DMA reaches
//! at the same.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{MemoryListener, MemorySection};
use trapline_guestmem::{Keep, Piece};
use vfio_bindings::bindings::vfio::{VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE};

use crate::hardware::{Iommu, IovaSpace};

/// Maps all memory that the guest sees for the functions of a container, and keeps it mapped as it
/// comes and goes. The kernel pins what is mapped: none of it goes back to the host meanwhile.
pub(crate) struct DmaMap {
    iommu: Arc<dyn Iommu>,
    space: IovaSpace,
    /// By first address.
    mapped: Mutex<BTreeMap<u64, Mapped>>,
}

struct Mapped {
    len: u64,
    /// None for another function's registers, which are nobody's to give back.
    _keep: Option<Keep>,
}

impl DmaMap {
    pub(crate) fn new(iommu: Arc<dyn Iommu>) -> io::Result<Self> {
        let space = iommu.space()?;
        Ok(Self { iommu, space, mapped: Mutex::default() })
    }

    /// The whole pages of a section: first guest address, length, and how far into the section.
    fn pages(&self, section: &MemorySection) -> Option<(u64, u64, u64)> {
        let page = self.space.page;
        let start = section.addr.checked_next_multiple_of(page)?;
        let end = section.addr.checked_add(section.len)? / page * page;
        let len = end.checked_sub(start).filter(|len| *len > 0)?;
        Some((start, len, start - section.addr))
    }

    /// Maps what is whole pages of guest memory.
    fn map(&self, section: &MemorySection, piece: &Piece) -> Result<(), String> {
        let Some((iova, len, into)) = self.pages(section) else { return Ok(()) };
        let vaddr = piece.region().host_addr + section.offset + into;
        let (last, page) = (iova + (len - 1), self.space.page);
        if !vaddr.is_multiple_of(page) {
            return Err(format!(
                "{iova:#x} and where this process has it differ by parts of a page"
            ));
        }
        if !self.space.admits(iova, len) {
            let ranges = self.space.ranges.iter();
            let ranges = ranges.map(|range| format!("{:#x}..={:#x}", range.start(), range.end()));
            let ranges = ranges.collect::<Vec<_>>().join(", ");
            return Err(format!(
                "{iova:#x}..={last:#x} is not within what the IOMMU translates ({ranges}); give the \
                 guest less memory"
            ));
        }
        let write = if section.readonly { 0 } else { VFIO_DMA_MAP_FLAG_WRITE };
        // Before the kernel looks at the pages: what goes to the host after that is nobody's.
        let keep = (!piece.is_device()).then(|| piece.keep());
        let flags = VFIO_DMA_MAP_FLAG_READ | write;
        self.iommu.map(iova, vaddr, len, flags).map_err(|reason| refusal(&reason, iova, last))?;
        self.mapped.lock().insert(iova, Mapped { len, _keep: keep });
        Ok(())
    }
}

impl MemoryListener for DmaMap {
    fn add(&self, section: &MemorySection) -> Result<(), String> {
        let piece = section.memory.mapping().and_then(|mapping| mapping.downcast_ref::<Piece>());
        let Some(piece) = piece else {
            return Ok(());
        };
        match self.map(section, piece) {
            // Not every IOMMU lets functions reach each other, and drivers that want that ask first.
            Err(reason) if piece.is_device() || section.readonly => {
                tracing::debug!("{}: no DMA: {reason}", section.name);
                Ok(())
            }
            result => result,
        }
    }

    fn remove(&self, section: &MemorySection) {
        let Some((iova, len, _)) = self.pages(section) else { return };
        let mut mapped = self.mapped.lock();
        if mapped.get(&iova).is_some_and(|mapped| mapped.len == len) {
            if let Err(error) = self.iommu.unmap(iova, len) {
                tracing::error!("{}: DMA still reaches it: {error}", section.name);
            }
            mapped.remove(&iova);
        }
    }
}

impl Drop for DmaMap {
    /// What a registry has not told of goes with the container, when the last of its files is closed.
    fn drop(&mut self) {
        self.mapped.lock().clear();
    }
}

/// Why the kernel would not map, in words that help.
fn refusal(reason: &io::Error, first: u64, last: u64) -> String {
    let what = format!("the IOMMU cannot map {first:#x}..={last:#x}");
    if reason.kind() != io::ErrorKind::OutOfMemory {
        return format!("{what}: {reason}");
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let limit = limit.map_or("no limit".to_owned(), |bytes| format!("{} KiB", bytes >> 10));
    format!(
        "{what}, which takes locked memory, of which this user may have {limit}: raise it (ulimit -l) \
         to more than the guest's memory, or run as root"
    )
}

#[cfg(test)]
mod tests {
    use trapline_device::{Memory, RegionName};
    use trapline_guestmem::GuestMem;

    use super::*;

    /// An IOMMU that remembers, and refuses with the error it is told.
    #[derive(Default)]
    struct Fake {
        log: Mutex<Vec<String>>,
        refusal: Mutex<Option<i32>>,
    }

    impl Iommu for Fake {
        fn space(&self) -> io::Result<IovaSpace> {
            let ranges = vec![0..=0xfedf_ffff, 0xfef0_0000..=0xff_ffff_ffff];
            Ok(IovaSpace { page: 4096, ranges })
        }

        fn map(&self, iova: u64, _: u64, len: u64, flags: u32) -> io::Result<()> {
            if let Some(errno) = *self.refusal.lock() {
                return Err(io::Error::from_raw_os_error(errno));
            }
            self.log.lock().push(format!("map {iova:#x} {len:#x} {flags}"));
            Ok(())
        }

        fn unmap(&self, iova: u64, len: u64) -> io::Result<()> {
            self.log.lock().push(format!("unmap {iova:#x} {len:#x}"));
            Ok(())
        }
    }

    fn section(addr: u64, len: u64, memory: &Arc<dyn Memory>, offset: u64) -> MemorySection {
        let name = RegionName { device: "ram".into(), region: "0".into() };
        MemorySection { name, addr, len, memory: Arc::clone(memory), offset, readonly: false }
    }

    fn memory() -> (GuestMem, Arc<dyn Memory>) {
        let mem = GuestMem::new(&[(0, 0x10_0000)]).unwrap();
        let piece = mem.pieces().remove(0);
        (mem, Arc::new(piece))
    }

    #[test]
    fn whole_pages_are_mapped_and_kept_until_they_are_removed() {
        let fake = Arc::new(Fake::default());
        let map = DmaMap::new(fake.clone()).unwrap();
        let (mem, memory) = memory();
        let all = section(0x1000, 0x5000, &memory, 0);
        let parts = section(0x10_0800, 0x2000, &memory, 0x800);
        let none = section(0x20_0800, 0xfff, &memory, 0x800);
        for section in [&all, &parts, &none] {
            map.add(section).unwrap();
        }
        assert_eq!(*fake.log.lock(), ["map 0x1000 0x5000 3", "map 0x101000 0x1000 3"]);
        assert_eq!(mem.give_back(0, 0x1000).unwrap(), 0, "the device has those pages");
        fake.log.lock().clear();
        for section in [&all, &parts, &none] {
            map.remove(section);
            map.remove(section);
        }
        assert_eq!(*fake.log.lock(), ["unmap 0x1000 0x5000", "unmap 0x101000 0x1000"]);
        assert_eq!(mem.give_back(0, 0x1000).unwrap(), 0x1000);
    }

    #[test]
    fn what_the_guest_cannot_write_no_device_can() {
        let fake = Arc::new(Fake::default());
        let map = DmaMap::new(fake.clone()).unwrap();
        let (_mem, memory) = memory();
        map.add(&MemorySection { readonly: true, ..section(0, 0x1000, &memory, 0) }).unwrap();
        assert_eq!(*fake.log.lock(), ["map 0x0 0x1000 1"]);
    }

    #[test]
    fn a_refusal_says_what_is_the_matter() {
        let fake = Arc::new(Fake::default());
        let map = DmaMap::new(fake.clone()).unwrap();
        let (_mem, memory) = memory();
        let refused = |section| map.add(&section).unwrap_err();
        let text = refused(section(0xfee0_0000, 0x1000, &memory, 0));
        let ranges = "(0x0..=0xfedfffff, 0xfef00000..=0xffffffffff)";
        assert!(text.contains("0xfee00000..=0xfee00fff is not within") && text.contains(ranges));
        assert!(refused(section(0, 0x1000, &memory, 1)).contains("differ by parts of a page"));
        *fake.refusal.lock() = Some(12);
        let text = refused(section(0, 0x1000, &memory, 0));
        assert!(text.contains("locked memory") && text.contains("ulimit -l"), "{text}");
        *fake.refusal.lock() = Some(17);
        assert!(refused(section(0, 0x1000, &memory, 0)).contains("0x0..=0xfff: File exists"));
    }

    #[test]
    fn another_functions_registers_are_mapped_if_they_can_be() {
        let page = rustix::param::page_size() as u64;
        let file = tempfile::tempfile().unwrap();
        file.set_len(page).unwrap();
        let registers = GuestMem::of_device(std::os::fd::AsFd::as_fd(&file), 0, page).unwrap();
        let memory: Arc<dyn Memory> = Arc::new(registers.pieces().remove(0));
        let fake = Arc::new(Fake::default());
        let map = DmaMap::new(fake.clone()).unwrap();
        map.add(&section(0xe000_0000, page, &memory, 0)).unwrap();
        assert_eq!(fake.log.lock().len(), 1);
        *fake.refusal.lock() = Some(14);
        let other = section(0xe100_0000, page, &memory, 0);
        map.add(&other).unwrap();
        map.remove(&other);
        assert_eq!(fake.log.lock().len(), 1, "what was never mapped is not unmapped");
    }
}
