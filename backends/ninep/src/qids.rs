//! Numbers of files that are different for all files of a share, though it may be of several file
//! systems of the host: Linux takes two files for one if their numbers are the same.

use std::collections::HashMap;

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::attr::{Attr, DIR, Device, LINK, TYPE};
use crate::wire::Qid;

/// How many bits of a file's number are kept as they are.
const KEPT: u32 = 48;

/// A folder (`P9_QTDIR`).
const QTDIR: u8 = 0x80;
/// A symbolic link (`P9_QTSYMLINK`).
const QTSYMLINK: u8 = 0x02;

/// The upper bits of numbers: one value for each file system and the upper bits there.
#[derive(Default)]
pub(crate) struct Qids {
    prefixes: Mutex<HashMap<(Device, u64), u16>>,
}

impl Qids {
    /// The number of file `ino` of file system `dev`.
    ///
    /// # Errors
    /// `ENFILE` when there are too many file systems to tell them apart.
    pub(crate) fn path(&self, dev: Device, ino: u64) -> Result<u64, Errno> {
        let mut prefixes = self.prefixes.lock();
        let next = u16::try_from(prefixes.len());
        let prefix = match prefixes.get(&(dev, ino >> KEPT)) {
            Some(prefix) => *prefix,
            None => *prefixes.entry((dev, ino >> KEPT)).or_insert(next.map_err(|_| Errno::NFILE)?),
        };
        Ok(u64::from(prefix) << KEPT | ino & ((1 << KEPT) - 1))
    }

    /// The qid of a file with these attributes.
    ///
    /// # Errors
    /// As of [`Self::path`].
    pub(crate) fn of(&self, attr: &Attr) -> Result<Qid, Errno> {
        // QEMU's: it changes with what is in the file.
        let version = attr.mtime.0.cast_unsigned() ^ attr.size << 8;
        let version = u32::try_from(version & u64::from(u32::MAX)).unwrap_or(0);
        let path = self.path(attr.dev, attr.ino)?;
        Ok(Qid { kind: kind(attr.mode & TYPE), version, path })
    }
}

/// A qid's type for a file's.
pub(crate) fn kind(file_type: u32) -> u8 {
    match file_type {
        DIR => QTDIR,
        LINK => QTSYMLINK,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_different_file_systems_have_different_numbers() {
        let qids = Qids::default();
        let files = [((8, 1), 2), ((8, 2), 2), ((8, 1), 2 | 1 << 60), ((8, 1), 3)];
        let paths = files.map(|(dev, ino)| qids.path(dev, ino).unwrap());
        assert_eq!(paths, [2, 1 << 48 | 2, 2 << 48 | 2, 3]);
        assert_eq!(files.map(|(dev, ino)| qids.path(dev, ino).unwrap()), paths, "for ever");
    }

    #[test]
    fn file_systems_are_bounded() {
        let qids = Qids::default();
        for dev in 0..=u32::from(u16::MAX) {
            qids.path((0, dev), 1).unwrap();
        }
        assert_eq!(qids.path((1, 0), 1), Err(Errno::NFILE));
        assert!(qids.path((0, 7), 2).is_ok(), "those that are known still are");
    }
}
