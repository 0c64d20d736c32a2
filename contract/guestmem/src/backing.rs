//! What guest RAM is made of: anonymous memory, a memfd, or a file of huge pages.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create, statfs};
use vm_memory::FileOffset;

use crate::Error;

/// `HUGETLBFS_MAGIC` of `linux/magic.h`.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// A transparent huge page of a file has to begin at a multiple of this in the file, too.
const HUGE_PAGE: u64 = 2 << 20;

/// Where the bytes of guest RAM are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// In anonymous memory of this process alone. Most hosts give only this kind transparent huge
    /// pages (`shmem_enabled` is `never`).
    #[default]
    Private,
    /// In a memfd that other processes can map (vhost-user, vfio-user). It is sealed: nobody can
    /// make it shorter under our mapping.
    Memfd,
    /// In an unnamed file in this directory of a hugetlbfs mount, in pages of its size, which other
    /// processes can map as well. All of them are reserved at once, so that the guest never lacks
    /// one.
    Hugetlbfs(PathBuf),
}

impl Backing {
    /// The size of the pages it cannot be divided below, where those are not the host's.
    pub(crate) fn huge_page(&self) -> Result<Option<u64>, Error> {
        let Self::Hugetlbfs(path) = self else { return Ok(None) };
        let stat = statfs(path).map_err(|reason| hugetlbfs(path)(reason.into()))?;
        if u64::try_from(stat.f_type).ok() != Some(HUGETLBFS_MAGIC) {
            return Err(Error::NotHugetlbfs { path: path.clone() });
        }
        Ok(u64::try_from(stat.f_bsize).ok().filter(|size| *size > 0))
    }

    /// A file for `len` bytes of RAM at guest address `addr`, and where in it they begin.
    pub(crate) fn file(&self, addr: u64, len: u64) -> Result<Option<FileOffset>, Error> {
        let map = |reason: io::Error| Error::Map { bytes: len, reason: reason.to_string() };
        match self {
            Self::Private => Ok(None),
            Self::Memfd => memfd(addr % HUGE_PAGE, len).map(Some).map_err(map),
            Self::Hugetlbfs(path) => {
                let file = tempfile::tempfile_in(path).map_err(hugetlbfs(path))?;
                file.set_len(len).map_err(hugetlbfs(path))?;
                Ok(Some(FileOffset::new(file, 0)))
            }
        }
    }
}

fn hugetlbfs(path: &Path) -> impl Fn(io::Error) -> Error {
    move |reason| Error::Hugetlbfs { path: path.to_owned(), reason }
}

/// A memfd of `len` ones, which nobody can change.
pub(crate) fn ones(len: usize) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("all-ones", flags)?);
    file.write_all(&vec![0xff; len])?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// A memfd with `len` bytes after `start`, whose length is fixed for good.
fn memfd(start: u64, len: u64) -> io::Result<FileOffset> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("guest-ram", flags)?);
    let end = start.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
    file.set_len(end)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(FileOffset::new(file, start))
}
