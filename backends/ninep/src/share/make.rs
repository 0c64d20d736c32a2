//! New files, and whose they are.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::Share;
use crate::attr::{Attr, DIR, Device, FILE, LINK, PERMISSIONS, TYPE};
use crate::options::SecurityModel;

/// Who a file is to be given to; nobody in particular where there is no number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

impl Owner {
    /// Those that a client has named; its word for nobody is -1.
    pub(crate) fn new(uid: u32, gid: u32) -> Self {
        let named = |id| (id != u32::MAX).then_some(id);
        Self { uid: named(uid), gid: named(gid) }
    }
}

/// What a new name is to be of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Inode<'a> {
    /// A folder.
    Dir,
    /// A link to there.
    Link(&'a [u8]),
    /// A file of the type in the mode, and for a device its numbers.
    Node(Device),
}

impl Share {
    /// Makes a file that is not to be opened. `mode` has its type, unless `inode` does.
    pub(crate) fn make(
        &self,
        (dir, name): (BorrowedFd<'_>, &[u8]),
        inode: Inode<'_>,
        mode: u32,
        owner: Owner,
    ) -> Result<Attr, Errno> {
        self.check_new(dir, name)?;
        let mapped = self.security == SecurityModel::Mapped;
        let permissions = Mode::from_bits_retain(mode & PERMISSIONS);
        let file_type = match inode {
            Inode::Dir => DIR,
            Inode::Link(_) => LINK,
            Inode::Node(_) if mode & TYPE == 0 => FILE,
            Inode::Node(_) => mode & TYPE,
        };
        match inode {
            Inode::Dir => {
                rustix::fs::mkdirat(dir, name, if mapped { Mode::RWXU } else { permissions })?;
            }
            Inode::Link(_) | Inode::Node(_) if mapped => self.make_mapped(dir, name, inode)?,
            Inode::Link(target) => rustix::fs::symlinkat(target, dir, name)?,
            Inode::Node((major, minor)) => {
                let kind = FileType::from_raw_mode(file_type);
                let device = rustix::fs::makedev(major, minor);
                rustix::fs::mknodat(dir, name, kind, permissions, device)?;
            }
        }
        let made = self.step(dir, name)?;
        let device = match inode {
            Inode::Node(device) => device,
            Inode::Dir | Inode::Link(_) => (0, 0),
        };
        self.settle(made.as_fd(), file_type | mode & PERMISSIONS, owner, device)
            .inspect_err(|_| self.take_back(dir, name, file_type == DIR))
    }

    /// Makes a regular file, or takes one that is there unless it has to be new, and opens it.
    pub(crate) fn create(
        &self,
        (dir, name): (BorrowedFd<'_>, &[u8]),
        flags: OFlags,
        exclusive: bool,
        mode: u32,
        owner: Owner,
    ) -> Result<(OwnedFd, Attr), Errno> {
        self.check_new(dir, name)?;
        let mapped = self.security == SecurityModel::Mapped;
        let permissions = if mapped { 0o600 } else { mode & PERMISSIONS };
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(
            dir,
            name,
            flags | new | OFlags::NOCTTY,
            Mode::from_bits_retain(permissions),
        );
        match made {
            Ok(file) => {
                let attr = self
                    .settle(file.as_fd(), FILE | mode & PERMISSIONS, owner, (0, 0))
                    .inspect_err(|_| self.take_back(dir, name, false))?;
                Ok((file, attr))
            }
            Err(Errno::EXIST) if !exclusive => {
                let file = self.step(dir, name)?;
                let file = self.open_file(file.as_fd(), flags)?;
                let attr = self.stat(file.as_fd())?;
                if attr.is_dir() {
                    return Err(Errno::ISDIR);
                }
                Ok((file, attr))
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a new file its owner and its mode.
    fn settle(
        &self,
        file: BorrowedFd<'_>,
        mode: u32,
        owner: Owner,
        device: Device,
    ) -> Result<Attr, Errno> {
        if self.security == SecurityModel::Mapped {
            self.map(file, owner, Some(mode), Some(device))?;
            return self.stat(file);
        }
        let attr = self.stat(file)?;
        let differs = owner.uid.is_some_and(|uid| uid != attr.uid)
            || owner.gid.is_some_and(|gid| gid != attr.gid);
        if differs {
            match (self.give(file, owner), self.security) {
                (Ok(()), _) => {}
                (Err(_), SecurityModel::None) => {}
                (Err(error), _) => return Err(error),
            }
        }
        // A folder in one that hands its group down does so, too, whatever the client says.
        let handed_down = attr.mode & Mode::SGID.bits() & if attr.is_dir() { !0 } else { 0 };
        let wanted = mode & PERMISSIONS | handed_down;
        if attr.mode & TYPE != LINK && (differs || attr.mode & PERMISSIONS != wanted) {
            self.chmod(file, wanted)?;
        }
        if differs || attr.mode & PERMISSIONS != wanted { self.stat(file) } else { Ok(attr) }
    }

    /// Removes what was made and could not be what it was to be.
    pub(super) fn take_back(&self, dir: BorrowedFd<'_>, name: &[u8], is_folder: bool) {
        let _ = self.unlink(dir, name, is_folder);
    }

    /// Gives a file to somebody.
    pub(crate) fn set_owner(&self, file: BorrowedFd<'_>, owner: Owner) -> Result<(), Errno> {
        match self.security {
            SecurityModel::Mapped => self.map(file, owner, None, None),
            SecurityModel::None | SecurityModel::Passthrough => self.give(file, owner),
        }
    }

    /// Gives a file another mode.
    pub(crate) fn set_mode(&self, file: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
        match self.security {
            SecurityModel::Mapped => {
                let file_type = self.stat(file)?.mode & TYPE;
                self.map(file, Owner::default(), Some(file_type | mode & PERMISSIONS), None)
            }
            SecurityModel::None | SecurityModel::Passthrough => self.chmod(file, mode),
        }
    }

    fn give(&self, file: BorrowedFd<'_>, Owner { uid, gid }: Owner) -> Result<(), Errno> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(file, "", uid, gid, AtFlags::EMPTY_PATH)
    }

    fn chmod(&self, file: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_bits_retain(mode & PERMISSIONS);
        rustix::fs::chmodat(&self.descriptors, DecInt::from_fd(file), mode, AtFlags::empty())
    }
}
