//! The ioctls of VFIO: containers, groups and devices as the kernel has them.
//!
//! Spec: Linux, `include/uapi/linux/vfio.h` and `Documentation/driver-api/vfio.rst`.

#![expect(unsafe_code, reason = "makes system calls that take pointers")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use trapline_guestmem::GuestMem;
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_BASE, VFIO_GROUP_FLAGS_VIABLE, VFIO_TYPE, VFIO_TYPE1v2_IOMMU,
    vfio_device_info, vfio_group_status, vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap,
    vfio_irq_info,
};
use vmm_sys_util::ioctl::{
    ioctl, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val,
};
use vmm_sys_util::ioctl_io_nr;

use crate::hardware::{Hardware, Iommu, IovaSpace, Irq, RegionInfo};

const TYPE: u32 = VFIO_TYPE as u32;

ioctl_io_nr!(VFIO_GET_API_VERSION, TYPE, VFIO_BASE);
ioctl_io_nr!(VFIO_CHECK_EXTENSION, TYPE, VFIO_BASE + 1);
ioctl_io_nr!(VFIO_SET_IOMMU, TYPE, VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_GET_STATUS, TYPE, VFIO_BASE + 3);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, TYPE, VFIO_BASE + 4);
ioctl_io_nr!(VFIO_GROUP_GET_DEVICE_FD, TYPE, VFIO_BASE + 6);
ioctl_io_nr!(VFIO_DEVICE_GET_INFO, TYPE, VFIO_BASE + 7);
ioctl_io_nr!(VFIO_DEVICE_GET_REGION_INFO, TYPE, VFIO_BASE + 8);
ioctl_io_nr!(VFIO_DEVICE_GET_IRQ_INFO, TYPE, VFIO_BASE + 9);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, TYPE, VFIO_BASE + 10);
ioctl_io_nr!(VFIO_DEVICE_RESET, TYPE, VFIO_BASE + 11);
ioctl_io_nr!(VFIO_DEVICE_PCI_HOT_RESET, TYPE, VFIO_BASE + 13);
ioctl_io_nr!(VFIO_IOMMU_GET_INFO, TYPE, VFIO_BASE + 12);
ioctl_io_nr!(VFIO_IOMMU_MAP_DMA, TYPE, VFIO_BASE + 13);
ioctl_io_nr!(VFIO_IOMMU_UNMAP_DMA, TYPE, VFIO_BASE + 14);

/// More than any answer of variable length takes: the kernel writes no more than it was told.
const ANSWER_MAX: usize = 1 << 16;

fn done(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The length of a structure as its own `argsz` says it.
fn argsz<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

/// A structure whose length the kernel tells: asked for once with room for `words` and, if that was
/// too little, again. The first word is its length, the third what `index` says.
fn answer(file: &File, request: u64, words: usize, index: u32) -> io::Result<Vec<u32>> {
    let mut buffer = vec![0; words];
    loop {
        let len = u32::try_from(4 * buffer.len()).unwrap_or(u32::MAX);
        if let [argsz, _, third, ..] = buffer.as_mut_slice() {
            (*argsz, *third) = (len, index);
        }
        // SAFETY: the buffer is as long as its first word says, and the kernel writes no more.
        done(unsafe { ioctl_with_mut_ptr(file, request, buffer.as_mut_ptr()) })?;
        let needed = buffer.first().copied().unwrap_or(0);
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        if needed <= 4 * buffer.len() || needed > ANSWER_MAX {
            return Ok(buffer);
        }
        buffer = vec![0; needed.div_ceil(4)];
    }
}

/// Two words as one number.
pub(crate) fn wide(words: &[u32], at: usize) -> u64 {
    let word = |at: usize| u64::from(words.get(at).copied().unwrap_or(0));
    word(at + 1) << 32 | word(at)
}

/// An address space for devices (`/dev/vfio/vfio`), of IOMMU type 1, version 2.
pub(crate) struct Container(File);

impl Container {
    /// Takes an open container. It has no address space before its first group.
    ///
    /// # Errors
    /// It speaks another version of the protocol or has no IOMMU of this type.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        // SAFETY: neither takes a pointer.
        let version = done(unsafe { ioctl(&file, VFIO_GET_API_VERSION()) })?;
        // SAFETY: as above.
        let able = done(unsafe {
            ioctl_with_val(&file, VFIO_CHECK_EXTENSION(), VFIO_TYPE1v2_IOMMU.into())
        })?;
        if u32::try_from(version) != Ok(VFIO_API_VERSION) || able == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self(file))
    }

    /// Makes the address space, once there is a group.
    pub(crate) fn set_iommu(&self) -> io::Result<()> {
        // SAFETY: it takes no pointer.
        done(unsafe { ioctl_with_val(&self.0, VFIO_SET_IOMMU(), VFIO_TYPE1v2_IOMMU.into()) })
            .map(drop)
    }
}

impl Iommu for Container {
    fn space(&self) -> io::Result<IovaSpace> {
        Ok(IovaSpace::parse(&answer(&self.0, VFIO_IOMMU_GET_INFO(), 6, 0)?))
    }

    fn map(&self, iova: u64, vaddr: u64, len: u64, flags: u32) -> io::Result<()> {
        let argsz = argsz::<vfio_iommu_type1_dma_map>();
        let argument = vfio_iommu_type1_dma_map { argsz, flags, vaddr, iova, size: len };
        // SAFETY: the kernel reads the argument, and pins what is mapped at these addresses; what a
        // device then does to it is what a device does to guest memory, to which nobody has a
        // reference.
        done(unsafe { ioctl_with_ref(&self.0, VFIO_IOMMU_MAP_DMA(), &argument) }).map(drop)
    }

    fn unmap(&self, iova: u64, len: u64) -> io::Result<()> {
        let argsz = argsz::<vfio_iommu_type1_dma_unmap>();
        let mut argument =
            vfio_iommu_type1_dma_unmap { argsz, iova, size: len, ..Default::default() };
        // SAFETY: the kernel reads and writes no more than the argument.
        done(unsafe { ioctl_with_mut_ref(&self.0, VFIO_IOMMU_UNMAP_DMA(), &mut argument) })?;
        // The second version of the type unmaps whole mappings only, or nothing, without an error.
        if argument.size == len { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

/// The functions that an IOMMU cannot tell apart (`/dev/vfio/N`).
pub(crate) struct Group(File);

impl Group {
    pub(crate) fn new(file: File) -> Self {
        Self(file)
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// Whether no driver of the host has any of them.
    pub(crate) fn is_viable(&self) -> io::Result<bool> {
        let argsz = argsz::<vfio_group_status>();
        let mut status = vfio_group_status { argsz, ..Default::default() };
        // SAFETY: the kernel writes no more than the argument.
        done(unsafe { ioctl_with_mut_ref(&self.0, VFIO_GROUP_GET_STATUS(), &mut status) })?;
        Ok(status.flags & VFIO_GROUP_FLAGS_VIABLE != 0)
    }

    /// Has its devices reach memory as the container says.
    pub(crate) fn join(&self, container: &Container) -> io::Result<()> {
        let fd = container.0.as_raw_fd();
        // SAFETY: the kernel only reads the argument, and takes a reference of its own.
        done(unsafe { ioctl_with_ref(&self.0, VFIO_GROUP_SET_CONTAINER(), &fd) }).map(drop)
    }

    /// The device with this name, which is nobody else's to open.
    pub(crate) fn device(&self, name: &str) -> io::Result<DeviceFile> {
        let name = CString::new(name)?;
        // SAFETY: the kernel reads the name to its end.
        let fd =
            done(unsafe { ioctl_with_ptr(&self.0, VFIO_GROUP_GET_DEVICE_FD(), name.as_ptr()) })?;
        // SAFETY: the descriptor is new, and nobody else's.
        Ok(DeviceFile(RwLock::new(Some(unsafe { File::from_raw_fd(fd) }))))
    }
}

/// A device of VFIO. Closing it gives it back, quiet and reset where that can be.
pub(crate) struct DeviceFile(RwLock<Option<File>>);

impl DeviceFile {
    fn open(&self) -> io::Result<MappedRwLockReadGuard<'_, File>> {
        let opened = RwLockReadGuard::try_map(self.0.read(), Option::as_ref);
        opened.map_err(|_| io::ErrorKind::NotConnected.into())
    }
}

impl Hardware for DeviceFile {
    fn flags(&self) -> io::Result<u32> {
        let argsz = argsz::<vfio_device_info>();
        let mut info = vfio_device_info { argsz, ..Default::default() };
        // SAFETY: the kernel writes no more than the argument.
        done(unsafe { ioctl_with_mut_ref(&*self.open()?, VFIO_DEVICE_GET_INFO(), &mut info) })?;
        Ok(info.flags)
    }

    fn region(&self, index: u32) -> io::Result<RegionInfo> {
        Ok(RegionInfo::parse(&answer(&*self.open()?, VFIO_DEVICE_GET_REGION_INFO(), 8, index)?))
    }

    fn irqs(&self, index: u32) -> io::Result<u32> {
        let argsz = argsz::<vfio_irq_info>();
        let mut info = vfio_irq_info { argsz, index, ..Default::default() };
        // SAFETY: the kernel writes no more than the argument.
        done(unsafe { ioctl_with_mut_ref(&*self.open()?, VFIO_DEVICE_GET_IRQ_INFO(), &mut info) })?;
        Ok(info.count)
    }

    fn set_irqs(&self, irq: &Irq<'_>) -> io::Result<()> {
        let words =
            irq.words(|fd: Option<BorrowedFd<'_>>| -> RawFd { fd.map_or(-1, |fd| fd.as_raw_fd()) });
        // SAFETY: the kernel only reads, and no more than the first word says, which is the length.
        let result =
            unsafe { ioctl_with_ptr(&*self.open()?, VFIO_DEVICE_SET_IRQS(), words.as_ptr()) };
        match done(result)? {
            0 => Ok(()),
            // How many vectors the host could have given.
            few => Err(io::Error::other(format!("the host has {few} interrupt vectors left"))),
        }
    }

    fn reset(&self) -> io::Result<()> {
        // SAFETY: it takes no argument.
        done(unsafe { ioctl(&*self.open()?, VFIO_DEVICE_RESET()) }).map(drop)
    }

    fn hot_reset(&self, groups: &[BorrowedFd<'_>]) -> io::Result<()> {
        let count = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        let mut words = vec![12 + 4 * count, 0, count];
        words.extend(groups.iter().map(|fd| fd.as_raw_fd().cast_unsigned()));
        // SAFETY: the kernel only reads, and no more than the first word says, which is the length.
        done(unsafe { ioctl_with_ptr(&*self.open()?, VFIO_DEVICE_PCI_HOT_RESET(), words.as_ptr()) })
            .map(drop)
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.open()?.read_exact_at(data, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.open()?.write_all_at(data, offset)
    }

    fn close(&self) {
        *self.0.write() = None;
    }

    fn map(&self, offset: u64, len: u64) -> Result<GuestMem, trapline_guestmem::Error> {
        let refused = |reason: io::Error| trapline_guestmem::Error::Map {
            bytes: len,
            reason: reason.to_string(),
        };
        GuestMem::of_device(self.open().map_err(refused)?.as_fd(), offset, len)
    }
}
