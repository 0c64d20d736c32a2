//! Owners, modes and devices that are only the guest's, in extended attributes: QEMU's
//! `mapped-xattr` (`hw/9pfs/9p-local.c`), so that a folder can go from one to the other.
//!
//! On the host all files are regular files of ours, or folders; a link is a file in which is where it
//! leads to.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::{Inode, Owner, PATH_MAX, Share};
use crate::attr::{Attr, DIR, Device, FILE, TYPE, decode_device, encode_device};

const UID: &str = "user.virtfs.uid";
const GID: &str = "user.virtfs.gid";
const MODE: &str = "user.virtfs.mode";
const RDEV: &str = "user.virtfs.rdev";

/// What the names of all of them begin with.
pub(crate) const PREFIX: &[u8] = b"user.virtfs.";

impl Share {
    /// Whether there can be extended attributes.
    pub(super) fn has_attributes(&self) -> bool {
        let path = Self::proc_path(self.root.as_fd());
        let mut none: [u8; 0] = [];
        let found = rustix::fs::getxattr(path, UID, &mut none[..]);
        !matches!(found, Err(Errno::NOTSUP | Errno::NOSYS))
    }

    /// Whether an extended attribute is one of ours.
    pub(crate) fn is_private(&self, name: &[u8]) -> bool {
        self.security == crate::SecurityModel::Mapped && name.starts_with(PREFIX)
    }

    /// Puts what the guest has set in the place of what the host has.
    pub(super) fn overlay(&self, file: BorrowedFd<'_>, attr: &mut Attr) -> Result<(), Errno> {
        if !matches!(attr.host_type, FILE | DIR) {
            return Ok(());
        }
        if let Some(uid) = number::<4>(file, UID)? {
            attr.uid = u32::from_le_bytes(uid);
        }
        if let Some(gid) = number::<4>(file, GID)? {
            attr.gid = u32::from_le_bytes(gid);
        }
        if let Some(mode) = number::<4>(file, MODE)?.map(u32::from_le_bytes) {
            // A folder is one whatever an attribute says, and nothing else is.
            let is_dir = mode & TYPE == DIR;
            if is_dir == (attr.host_type == DIR) {
                attr.mode = mode;
            }
        }
        if let Some(device) = number::<8>(file, RDEV)? {
            attr.rdev = decode_device(u64::from_le_bytes(device));
        }
        Ok(())
    }

    /// Keeps what the guest has set of a file.
    pub(super) fn map(
        &self,
        file: BorrowedFd<'_>,
        owner: Owner,
        mode: Option<u32>,
        device: Option<Device>,
    ) -> Result<(), Errno> {
        let path = Self::proc_path(file);
        let set = |name: &str, value: &[u8]| {
            rustix::fs::setxattr(&path, name, value, XattrFlags::empty())
        };
        owner.uid.map_or(Ok(()), |uid| set(UID, &uid.to_le_bytes()))?;
        owner.gid.map_or(Ok(()), |gid| set(GID, &gid.to_le_bytes()))?;
        mode.map_or(Ok(()), |mode| set(MODE, &mode.to_le_bytes()))?;
        let device = device.filter(|device| *device != (0, 0)).map(encode_device);
        device.map_or(Ok(()), |device| set(RDEV, &device.to_le_bytes()))
    }

    /// Makes the file that stands for a link or a device.
    pub(super) fn make_mapped(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        inode: Inode<'_>,
    ) -> Result<(), Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(dir, name, flags | OFlags::WRONLY, mode)?;
        if let Inode::Link(target) = inode {
            let written = match target.len() {
                0 => Err(Errno::NOENT),
                len if len >= PATH_MAX => Err(Errno::NAMETOOLONG),
                len => match rustix::io::write(&file, target) {
                    Ok(written) if written < len => Err(Errno::NOSPC),
                    result => result,
                },
            };
            written.inspect_err(|_| self.take_back(dir, name, false))?;
        }
        Ok(())
    }

    /// What is in the file that stands for a link.
    pub(super) fn read_mapped_link(&self, link: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        let file = self.reopen(link, OFlags::RDONLY)?;
        let mut target = vec![0; PATH_MAX];
        let len = rustix::io::pread(file, &mut target, 0)?;
        target.truncate(len);
        Ok(target)
    }
}

/// An attribute of `N` bytes, if there is one of that length.
fn number<const N: usize>(file: BorrowedFd<'_>, name: &str) -> Result<Option<[u8; N]>, Errno> {
    let mut value = [0; N];
    match rustix::fs::getxattr(Share::proc_path(file), name, &mut value[..]) {
        Ok(len) => Ok((len == N).then_some(value)),
        Err(Errno::NODATA | Errno::RANGE | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error),
    }
}
