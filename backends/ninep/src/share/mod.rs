//! The folder on the host, and everything that is done with files in it.
//!
//! A file is a descriptor: `O_PATH` until it is opened. So it stays the same file whatever becomes of
//! its name, and no name is ever looked up but one below a folder that is open already.
//!
//! * A name is one component. `openat2` looks it up with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and
//!   `RESOLVE_NO_MAGICLINKS`, and `O_PATH` touches nothing, whatever is there.
//! * `..` is the folder of that name below the root, by the path that the kernel says the file has
//!   now: there is none for a file that has left the share.
//! * Only regular files and folders are opened, by the link of their descriptor in `/proc/self/fd`:
//!   a FIFO would have us wait, and a device is the host's.
//! * A file system of processes (`proc`) below the share is an empty folder: in it are this
//!   program's memory and descriptors.

mod make;
mod mapped;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, StatFs, StatxFlags, Timespec,
    Timestamps,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use crate::attr::{Attr, DIR, Device, FILE};
use crate::options::{SecurityModel, ShareOptions};

pub(crate) use make::{Inode, Owner};
pub(crate) use mapped::PREFIX;

/// The most bytes of where a link leads to, or of a path of the host (`PATH_MAX`).
pub(crate) const PATH_MAX: usize = 4096;

/// Why a folder cannot be shared. `Display` is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It cannot be opened.
    #[error("cannot share {}: {reason}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The kernel's reason.
        reason: io::Error,
    },
    /// The host does not say what its descriptors are.
    #[error("cannot share a folder without /proc/self/fd: {0}")]
    Proc(io::Error),
    /// The host cannot keep names inside of a folder.
    #[error("cannot share a folder: this kernel has no openat2 (Linux 5.6)")]
    NoOpenat2,
    /// There is no room for what the user wants kept beside the files.
    #[error("cannot share {} as mapped: its file system has no extended attributes", path.display())]
    NoAttributes {
        /// The folder.
        path: PathBuf,
    },
}

/// A shared folder.
pub struct Share {
    root: OwnedFd,
    /// `/proc/self/fd`.
    descriptors: OwnedFd,
    read_only: bool,
    security: SecurityModel,
    /// File systems that were met, and whether what is in them is kept from the guest.
    hidden: Mutex<HashMap<Device, bool>>,
    /// The one that the root is in is not kept from anybody.
    root_dev: Device,
}

/// What looking up a name may do.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A descriptor that stands for a file without opening it.
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How many file systems are remembered; of others it is asked again.
const HIDDEN_MAX: usize = 1024;

impl Share {
    /// Opens a folder to share.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn open(options: &ShareOptions) -> Result<Self, ShareError> {
        let path = &options.path;
        let refused =
            |reason: Errno| ShareError::Folder { path: path.clone(), reason: reason.into() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(refused)?;
        match rustix::fs::openat2(&root, ".", PLACE, Mode::empty(), BENEATH) {
            Ok(_) => {}
            Err(Errno::NOSYS) => return Err(ShareError::NoOpenat2),
            Err(reason) => return Err(refused(reason)),
        }
        let descriptors = rustix::fs::openat(CWD, "/proc/self/fd", flags, Mode::empty())
            .map_err(|reason| ShareError::Proc(reason.into()))?;
        let mut share = Self {
            root,
            descriptors,
            read_only: options.read_only,
            security: options.security,
            hidden: Mutex::default(),
            root_dev: (0, 0),
        };
        let root = share.stat(share.root.as_fd()).map_err(refused)?;
        share.root_dev = root.dev;
        // Whoever cannot list it cannot share it, either.
        share.reopen(share.root.as_fd(), OFlags::RDONLY).map_err(refused)?;
        if options.security == SecurityModel::Mapped && !share.has_attributes() {
            return Err(ShareError::NoAttributes { path: path.clone() });
        }
        Ok(share)
    }

    /// Whether the guest is to change nothing.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// A descriptor of the root.
    pub(crate) fn root(&self) -> Result<OwnedFd, Errno> {
        rustix::fs::openat2(&self.root, ".", PLACE, Mode::empty(), BENEATH)
    }

    /// What is below the root at `path`, whose components are as those of a client.
    pub(crate) fn at(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.take(PATH_MAX).try_fold(self.root()?, |dir, name| self.step(dir.as_fd(), name))
    }

    /// The file called `name` in a folder: one component, or `.`, or `..`, which is the root of the
    /// root.
    ///
    /// # Errors
    /// `ENOENT` for what is no component; the kernel's.
    pub(crate) fn step(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
        match name {
            b"." => rustix::fs::openat2(dir, ".", PLACE, Mode::empty(), BENEATH),
            b".." => self.parent(dir),
            name if !is_component(name) => Err(Errno::NOENT),
            name => {
                if self.is_hidden(dir)? {
                    return Err(Errno::NOENT);
                }
                rustix::fs::openat2(dir, name, PLACE, Mode::empty(), BENEATH)
            }
        }
    }

    /// The folder that a folder is in; the root is in itself.
    fn parent(&self, dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let attr = self.stat(dir)?;
        if !attr.is_dir() {
            return Err(Errno::NOTDIR);
        }
        if attr.is(&self.stat(self.root.as_fd())?) {
            return self.root();
        }
        self.place(dir).map(|(parent, _)| parent)
    }

    /// Where a file is now: its folder, and its name there.
    ///
    /// # Errors
    /// `EBUSY` of the root; `ENOENT` if it has no name any more, or none in this share.
    pub(crate) fn place(&self, file: BorrowedFd<'_>) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let below = self.below(file)?;
        if below.is_empty() {
            return Err(Errno::BUSY);
        }
        let slash = below.iter().rposition(|byte| *byte == b'/');
        let (folder, name) = match slash {
            Some(at) => (below.get(..at), below.get(at + 1..)),
            None => (Some(&b"."[..]), Some(&below[..])),
        };
        let (folder, name) = folder.zip(name).ok_or(Errno::NOENT)?;
        let flags = PLACE | OFlags::DIRECTORY;
        let parent = rustix::fs::openat2(&self.root, folder, flags, Mode::empty(), BENEATH)?;
        // The path may be of yesterday, or that of a removed file, at which there is another one.
        let here = self.step(parent.as_fd(), name).map_err(|_| Errno::NOENT)?;
        match self.stat(here.as_fd())?.is(&self.stat(file)?) {
            true => Ok((parent, name.to_vec())),
            false => Err(Errno::NOENT),
        }
    }

    /// The path of a file below the root, where it is; nothing is the root.
    ///
    /// # Errors
    /// `ENOENT` if it has no name any more, or none in this share.
    pub(crate) fn path_below(&self, file: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        let path = self.below(file)?;
        if !path.is_empty() {
            self.place(file)?;
        }
        Ok(path)
    }

    /// The same without a look at whether it is there.
    fn below(&self, file: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        let root = self.path_of(self.root.as_fd())?;
        let path = self.path_of(file)?;
        let below = path.strip_prefix(&root[..]).ok_or(Errno::NOENT)?;
        let below = match &root[..] {
            b"/" => Some(below),
            _ if below.is_empty() => Some(below),
            _ => below.strip_prefix(b"/"),
        };
        below.map(<[u8]>::to_vec).ok_or(Errno::NOENT)
    }

    /// The path of a file on the host, for the kernel's process of this program.
    fn path_of(&self, file: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        let room = Vec::with_capacity(PATH_MAX);
        let path = rustix::fs::readlinkat(&self.descriptors, DecInt::from_fd(file), room)?;
        Ok(path.into_bytes())
    }

    /// Attributes of a file, as the guest sees them.
    pub(crate) fn stat(&self, file: BorrowedFd<'_>) -> Result<Attr, Errno> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted)?;
        let mut attr = Attr::new(&stat);
        if self.security == SecurityModel::Mapped {
            self.overlay(file, &mut attr)?;
        }
        Ok(attr)
    }

    /// What the file system that a file is in has.
    pub(crate) fn statfs(&self, file: BorrowedFd<'_>) -> Result<StatFs, Errno> {
        rustix::fs::fstatfs(file)
    }

    /// Whether what is in this folder is kept from the guest.
    pub(crate) fn is_hidden(&self, dir: BorrowedFd<'_>) -> Result<bool, Errno> {
        let stat = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
        let dev = (stat.stx_dev_major, stat.stx_dev_minor);
        if dev == self.root_dev {
            return Ok(false);
        }
        if let Some(hidden) = self.hidden.lock().get(&dev) {
            return Ok(*hidden);
        }
        let hidden = rustix::fs::fstatfs(dir)?.f_type == PROC_SUPER_MAGIC;
        let mut known = self.hidden.lock();
        if known.len() < HIDDEN_MAX {
            known.insert(dev, hidden);
        }
        Ok(hidden)
    }

    /// Opens a file that there is a descriptor of.
    ///
    /// # Errors
    /// `ENXIO` for what is neither a regular file nor a folder; `ELOOP` for a link; the kernel's.
    pub(crate) fn open_file(&self, file: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let attr = self.stat(file)?;
        match (attr.host_type, attr.mode & crate::attr::TYPE) {
            (FILE, FILE) if self.is_hidden(file)? => Err(Errno::ACCESS),
            (FILE, FILE) | (DIR, DIR) => self.reopen(file, flags),
            (_, crate::attr::LINK) => Err(Errno::LOOP),
            _ => Err(Errno::NXIO),
        }
    }

    fn reopen(&self, file: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::openat(&self.descriptors, DecInt::from_fd(file), flags, Mode::empty())
    }

    /// A path by which the kernel finds a file that there is a descriptor of, for calls that have no
    /// other way.
    pub(crate) fn proc_path(file: BorrowedFd<'_>) -> PathBuf {
        Path::new("/proc/self/fd").join(DecInt::from_fd(file).as_ref() as &Path)
    }

    /// Where a link leads to.
    pub(crate) fn read_link(&self, link: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        let attr = self.stat(link)?;
        match (attr.host_type, attr.mode & crate::attr::TYPE) {
            (FILE, crate::attr::LINK) => self.read_mapped_link(link),
            (_, crate::attr::LINK) => {
                Ok(rustix::fs::readlinkat(link, "", Vec::with_capacity(PATH_MAX))?.into_bytes())
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// Gives a file this length. `open` says whether the descriptor is one to write with.
    pub(crate) fn truncate(&self, file: BorrowedFd<'_>, open: bool, len: u64) -> Result<(), Errno> {
        match open {
            true => rustix::fs::ftruncate(file, len),
            false => rustix::fs::ftruncate(self.open_file(file, OFlags::WRONLY)?, len),
        }
    }

    /// Gives a file these times.
    pub(crate) fn set_times(
        &self,
        file: BorrowedFd<'_>,
        [last_access, last_modification]: [Timespec; 2],
    ) -> Result<(), Errno> {
        let times = Timestamps { last_access, last_modification };
        let name = DecInt::from_fd(file);
        rustix::fs::utimensat(&self.descriptors, name, &times, AtFlags::empty())
    }

    /// Gives a file another name.
    pub(crate) fn link(
        &self,
        file: BorrowedFd<'_>,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), Errno> {
        self.check_new(dir, name)?;
        let from = DecInt::from_fd(file);
        rustix::fs::linkat(&self.descriptors, from, dir, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Renames what is called `from` in one folder.
    pub(crate) fn rename(
        &self,
        (old, from): (BorrowedFd<'_>, &[u8]),
        (new, to): (BorrowedFd<'_>, &[u8]),
    ) -> Result<(), Errno> {
        for (dir, name) in [(old, from), (new, to)] {
            match name {
                b"." | b".." => return Err(Errno::ISDIR),
                name if !is_component(name) || self.is_hidden(dir)? => return Err(Errno::NOENT),
                _ => {}
            }
        }
        rustix::fs::renameat(old, from, new, to)
    }

    /// Removes a name from a folder: that of a folder or of another file.
    pub(crate) fn unlink(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        is_folder: bool,
    ) -> Result<(), Errno> {
        match name {
            b"." => return Err(Errno::INVAL),
            b".." => return Err(Errno::NOTEMPTY),
            name if !is_component(name) || self.is_hidden(dir)? => return Err(Errno::NOENT),
            _ => {}
        }
        let flags = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(dir, name, flags)
    }

    /// Whether something can be made in a folder by this name.
    fn check_new(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        match name {
            b"." | b".." => Err(Errno::EXIST),
            name if !is_component(name) => Err(Errno::NOENT),
            _ if self.is_hidden(dir)? => Err(Errno::ACCESS),
            _ => Ok(()),
        }
    }
}

/// Whether a name is one component of a path.
fn is_component(name: &[u8]) -> bool {
    !name.is_empty() && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Share")
            .field("root", &self.root)
            .field("read_only", &self.read_only)
            .field("security", &self.security)
            .finish_non_exhaustive()
    }
}
