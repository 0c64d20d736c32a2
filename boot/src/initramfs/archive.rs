//! A cpio archive in the newc format, of which Linux makes its initramfs, while it is written.
//!
//! Spec: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use cpio::newc::{Builder, ModeFileType, trailer};

use crate::error::Error;

/// Adds each path once, after its directories. Owner is root and time is 0 throughout, so that
/// the same files make the same bytes.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    paths: BTreeSet<String>,
    files: usize,
}

impl Archive {
    /// Adds a directory and those above it.
    pub(super) fn directory(&mut self, path: &str) -> Result<(), Error> {
        self.parents(path)?;
        self.entry(path, 0o755, ModeFileType::Directory, |builder| builder.nlink(2), &[])
    }

    /// Adds a character device with the given major and minor number.
    pub(super) fn device(
        &mut self,
        path: &str,
        mode: u32,
        (major, minor): (u32, u32),
    ) -> Result<(), Error> {
        let numbers = |builder: Builder| builder.rdev_major(major).rdev_minor(minor);
        self.entry(path, mode, ModeFileType::Char, numbers, &[])
    }

    /// Adds a symbolic link.
    pub(super) fn symlink(&mut self, path: &str, target: &str) -> Result<(), Error> {
        self.parents(path)?;
        self.entry(path, 0o777, ModeFileType::Symlink, |builder| builder, target.as_bytes())
    }

    /// Adds an executable file with the contents of `host`; nothing if `path` is there already.
    pub(super) fn file(&mut self, path: &str, host: &Path) -> Result<(), Error> {
        self.parents(path)?;
        if !self.is_new(path) {
            return Ok(());
        }
        let bad = |error: io::Error| {
            let (name, reason) = (host.display().to_string(), error.to_string());
            Error::Initramfs { name, reason }
        };
        let file = File::open(host).map_err(bad)?;
        let len = file.metadata().map_err(bad)?.len();
        let size = u32::try_from(len).map_err(|_| bad(io::ErrorKind::FileTooLarge.into()))?;
        let builder = self.builder(path, 0o755, ModeFileType::Regular);
        let mut writer = builder.write(&mut self.bytes, size);
        io::copy(&mut file.take(len), &mut writer).map_err(bad)?;
        writer.finish().map_err(bad)?;
        self.files += 1;
        Ok(())
    }

    /// Adds a file with these permissions and contents; nothing if `path` is there already.
    pub(super) fn contents(
        &mut self,
        path: &str,
        permissions: u32,
        contents: &[u8],
    ) -> Result<(), Error> {
        self.parents(path)?;
        self.files += 1;
        self.entry(path, permissions, ModeFileType::Regular, |builder| builder, contents)
    }

    /// How many regular files there are.
    pub(super) fn files(&self) -> usize {
        self.files
    }

    /// The archive, with its trailer.
    pub(super) fn finish(self) -> Result<Vec<u8>, Error> {
        trailer(self.bytes).map_err(|error| refused("the trailer", &error))
    }

    fn parents(&mut self, path: &str) -> Result<(), Error> {
        for (end, _) in path.match_indices('/') {
            let parent = path.get(..end).unwrap_or_default();
            self.entry(parent, 0o755, ModeFileType::Directory, |builder| builder.nlink(2), &[])?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        kind: ModeFileType,
        extra: impl FnOnce(Builder) -> Builder,
        contents: &[u8],
    ) -> Result<(), Error> {
        if !self.is_new(path) {
            return Ok(());
        }
        let size = u32::try_from(contents.len())
            .map_err(|_| refused(path, &io::ErrorKind::FileTooLarge.into()))?;
        let builder = extra(self.builder(path, mode, kind));
        let mut writer = builder.write(&mut self.bytes, size);
        let written = writer.write_all(contents).and_then(|()| writer.finish());
        written.map(drop).map_err(|error| refused(path, &error))
    }

    fn is_new(&mut self, path: &str) -> bool {
        self.paths.insert(path.to_owned())
    }

    fn builder(&self, path: &str, mode: u32, kind: ModeFileType) -> Builder {
        let number = u32::try_from(self.paths.len()).unwrap_or(u32::MAX);
        Builder::new(path).ino(number).nlink(1).mode(mode).set_mode_file_type(kind)
    }
}

fn refused(name: &str, error: &io::Error) -> Error {
    Error::Initramfs { name: name.to_owned(), reason: error.to_string() }
}
