//! The file behind the flash, and the guest's direct view of it.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trapline_guestmem::GuestMem;
use trapline_kvm::{MemoryWindow, Vm};
use trapline_platform::flash::{FlashArray, Part, Worn};

use crate::Error;

/// Whether the guest can change what is in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It cannot: programming and erasing fail, and other machines can use the image, too.
    ReadOnly,
    /// It can, and no other machine may use the image meanwhile.
    ReadWrite,
}

/// A flash image: a copy in memory to read from, and the file that every change goes to first.
pub(crate) struct FlashFile {
    path: PathBuf,
    file: File,
    access: Access,
    contents: GuestMem,
    /// What was written may not be on the disk yet.
    dirty: AtomicBool,
    /// The user knows that the image cannot be written.
    told: AtomicBool,
}

impl FlashFile {
    /// Opens an image for a flash of this part.
    ///
    /// # Errors
    /// It cannot be opened, another machine uses it, or it is of a length the part cannot have.
    pub(crate) fn open(path: &Path, part: &Part, access: Access) -> Result<Self, Error> {
        let refused = |reason: String| Error::Flash { path: path.to_owned(), reason };
        let failed = |error: io::Error| refused(error.to_string());
        let (file, all) = open(path, access).map_err(refused)?;
        let locked = match access {
            Access::ReadOnly => file.try_lock_shared(),
            Access::ReadWrite => file.try_lock(),
        };
        locked.map_err(|error| match error {
            TryLockError::WouldBlock => refused(match access {
                Access::ReadOnly => "another machine writes to it".to_owned(),
                Access::ReadWrite => "another machine uses it".to_owned(),
            }),
            TryLockError::Error(error) => failed(error),
        })?;
        let len = len(path, part, all).map_err(refused)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let contents = GuestMem::new(&[(0, len)])?;
        contents.write(0, &bytes)?;
        let [dirty, told] = Default::default();
        Ok(Self { path: path.to_owned(), file, access, contents, dirty, told })
    }

    /// What is in it.
    pub(crate) fn contents(&self) -> &GuestMem {
        &self.contents
    }

    /// The guest is told; its user has to be, too, but only once, as the guest may try again and
    /// again.
    fn fails(&self, error: &io::Error) -> Worn {
        if !self.told.swap(true, Ordering::Relaxed) {
            let name = self.path.display();
            tracing::warn!("the flash image {name} cannot be written: {error}");
        }
        Worn
    }
}

/// Opens a file or a disk; its length in bytes with it.
fn open(path: &Path, access: Access) -> Result<(File, u64), String> {
    // Says what a pipe or a directory is, and does not wait for anybody.
    if access == Access::ReadOnly {
        return trapline_boot::open(path).map_err(|error| error.to_string());
    }
    trapline_boot::open_for_update(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("{error}; the guest changes it, so it has to be a copy of your own")
        }
        _ => error.to_string(),
    })
}

/// How much of an image of `len` bytes is used.
fn len(path: &Path, part: &Part, len: u64) -> Result<u64, String> {
    let block = part.block >> 10;
    let Some(usable) = part.usable_len(len) else {
        return Err(format!("a flash image has {block} KiB at least"));
    };
    if usable == len {
        return Ok(len);
    }
    let max = part.len_max >> 20;
    if !part.power_of_two {
        return Err(format!(
            "a flash image is a multiple of {block} KiB and no more than {max} MiB; this one has \
             {len} bytes"
        ));
    }
    tracing::warn!(
        "flash has a power of two of bytes and no more than {max} MiB: only the first {} KiB of {} \
         are used",
        usable >> 10,
        path.display()
    );
    Ok(usable)
}

/// Whether two names are of one file.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    identity(one).is_some_and(|file| identity(other) == Some(file))
}

impl FlashArray for FlashFile {
    fn len_bytes(&self) -> u64 {
        self.contents.len()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        // The device asks for nothing that is not there.
        let _ = self.contents.read(offset, buf);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Worn> {
        if self.access == Access::ReadOnly {
            return Err(Worn);
        }
        self.dirty.store(true, Ordering::Relaxed);
        self.file.write_all_at(data, offset).map_err(|error| self.fails(&error))?;
        self.contents.write(offset, data).map_err(|_| Worn)
    }

    fn flush(&self) -> Result<(), Worn> {
        if !self.dirty.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        self.file.sync_data().map_err(|error| self.fails(&error))
    }
}

impl Drop for FlashFile {
    fn drop(&mut self) {
        // A driver may have been in the middle of its work. There is nobody to tell.
        let _ = self.flush();
    }
}

/// An image whose flash is at this guest address, shown to the guest by KVM where that can be.
pub(crate) fn on_kvm(vm: &Arc<Vm>, file: FlashFile, base: u64) -> Arc<dyn FlashArray> {
    match MemoryWindow::read_only(vm, file.contents()) {
        Ok(window) => Arc::new(Shown { file, window, base }),
        Err(error) => {
            tracing::debug!("every access to the flash is trapped: {error}");
            Arc::new(file)
        }
    }
}

/// A flash image that the guest reads by itself, as long as it is what reads are answered with.
struct Shown {
    file: FlashFile,
    window: MemoryWindow,
    base: u64,
}

impl FlashArray for Shown {
    fn len_bytes(&self) -> u64 {
        self.file.len_bytes()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        self.file.read(offset, buf);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Worn> {
        self.file.write(offset, data)
    }

    fn flush(&self) -> Result<(), Worn> {
        self.file.flush()
    }

    fn show(&self, visible: bool) {
        if let Err(error) = self.window.place(visible.then_some(self.base)) {
            // Then it is nowhere, and every access is trapped.
            tracing::debug!("the flash is not shown: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use trapline_platform::flash::regs::{PAIR_OF_X16, X8};

    use super::*;

    fn image(len: u64) -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(len).unwrap();
        image
    }

    #[test]
    fn changes_are_in_the_file_when_they_are_acknowledged() {
        let image = image(0x2_4000);
        let flash = FlashFile::open(image.path(), &PAIR_OF_X16, Access::ReadWrite).unwrap();
        assert_eq!(flash.len_bytes(), 0x2_0000, "a power of two");
        flash.write(0x1_fffe, &[0xab, 0xcd]).unwrap();
        let bytes = std::fs::read(image.path()).unwrap();
        assert_eq!(bytes[0x1_fffd..0x2_0001], [0, 0xab, 0xcd, 0]);
        flash.flush().unwrap();
        let mut back = [0; 2];
        flash.read(0x1_fffe, &mut back);
        assert_eq!(back, [0xab, 0xcd]);
    }

    #[test]
    fn what_is_wrong_with_an_image_is_said() {
        let open = |path: &Path, part, access| FlashFile::open(path, part, access);
        let refusal =
            |path: &Path, part| open(path, part, Access::ReadWrite).err().unwrap().to_string();
        let missing = refusal(Path::new("/nonexistent/flash"), &X8);
        assert!(missing.starts_with("Unable to open flash /nonexistent/flash: "), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        assert!(refusal(folder.path(), &X8).ends_with(": it is a directory"));
        let small = image(0);
        assert!(refusal(small.path(), &PAIR_OF_X16).ends_with("a flash image has 64 KiB at least"));
        assert!(refusal(small.path(), &X8).ends_with("a flash image has 4 KiB at least"));
        let odd = image(0x1_0001);
        assert!(refusal(odd.path(), &X8).ends_with(
            "a flash image is a multiple of 4 KiB and no more than 16 MiB; this one has 65537 bytes"
        ));
        let large = image((16 << 20) + 0x1000);
        assert!(refusal(large.path(), &X8).ends_with("this one has 16781312 bytes"));
    }

    #[test]
    fn one_machine_writes_to_an_image_or_several_read_it() {
        let image = image(0x1_0000);
        let open = |access| FlashFile::open(image.path(), &X8, access);
        let refusal = |access| open(access).err().unwrap().to_string();
        let first = open(Access::ReadWrite).unwrap();
        assert!(refusal(Access::ReadWrite).ends_with(": another machine uses it"));
        assert!(refusal(Access::ReadOnly).ends_with(": another machine writes to it"));
        drop(first);
        let readers = [open(Access::ReadOnly).unwrap(), open(Access::ReadOnly).unwrap()];
        assert!(refusal(Access::ReadWrite).ends_with(": another machine uses it"));
        assert_eq!(readers[0].write(0, &[1]), Err(Worn));
    }

    #[test]
    fn a_file_is_the_same_by_whatever_name() {
        let (folder, image) = (tempfile::tempdir().unwrap(), image(1));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(image.path(), &link).unwrap();
        assert!(is_same(image.path(), &link));
        assert!(!is_same(image.path(), folder.path()));
        assert!(!is_same(Path::new("/nonexistent"), Path::new("/nonexistent")));
    }

    #[test]
    fn an_image_that_cannot_be_written_any_more_wears() {
        let image = image(0x1_0000);
        let mut flash = FlashFile::open(image.path(), &X8, Access::ReadWrite).unwrap();
        // As a file that has become unwritable.
        flash.file = File::open(image.path()).unwrap();
        assert_eq!(flash.write(0, &[1]), Err(Worn));
        let mut back = [7];
        flash.read(0, &mut back);
        assert_eq!(back, [0], "and nothing has changed");
    }
}
