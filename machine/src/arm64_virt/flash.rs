//! The file behind the flash, and the guest's direct view of it.

use std::fs::{File, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::Path;

use trapline_guestmem::GuestMem;
use trapline_platform::flash::{FlashArray, Worn, usable_len};

use crate::Error;

/// A flash image: a copy in memory to read from, and the file that every change goes to first.
pub(super) struct FlashFile {
    file: File,
    contents: GuestMem,
}

impl FlashFile {
    /// Opens an image, of which as much is used as a flash chip can have.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let refused = |reason: String| Error::Flash { path: path.to_owned(), reason };
        let failed = |error: std::io::Error| refused(error.to_string());
        let (file, all) = trapline_boot::open_for_update(path).map_err(failed)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => refused("another machine writes to it".to_owned()),
            TryLockError::Error(error) => failed(error),
        })?;
        let Some(len) = usable_len(all) else {
            return Err(refused("a flash image has 64 KiB at least".to_owned()));
        };
        if len < all {
            tracing::warn!(
                "flash has a power of two of bytes and no more than 16 MiB: only the first {} KiB \
                 of {} are used",
                len >> 10,
                path.display()
            );
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let contents = GuestMem::new(&[(0, len)])?;
        contents.write(0, &bytes)?;
        Ok(Self { file, contents })
    }

    /// What is in it, as memory a guest can be shown.
    #[cfg(target_arch = "aarch64")]
    pub(super) fn contents(&self) -> &GuestMem {
        &self.contents
    }
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
        if let Err(error) = self.file.write_all_at(data, offset) {
            tracing::debug!("the flash image cannot be written: {error}");
            return Err(Worn);
        }
        self.contents.write(offset, data).map_err(|_| Worn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_in_the_file_when_they_are_acknowledged() {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(0x2_4000).unwrap();
        let flash = FlashFile::open(image.path()).unwrap();
        assert_eq!(flash.len_bytes(), 0x2_0000, "a power of two");
        flash.write(0x1_fffe, &[0xab, 0xcd]).unwrap();
        let bytes = std::fs::read(image.path()).unwrap();
        assert_eq!(bytes[0x1_fffd..0x2_0001], [0, 0xab, 0xcd, 0]);
        let mut back = [0; 2];
        flash.read(0x1_fffe, &mut back);
        assert_eq!(back, [0xab, 0xcd]);
    }

    #[test]
    fn what_is_wrong_with_an_image_is_said() {
        let refusal = |path: &Path| FlashFile::open(path).err().unwrap().to_string();
        let missing = refusal(Path::new("/nonexistent/flash"));
        assert!(missing.starts_with("Unable to open flash /nonexistent/flash: "), "{missing}");
        let zeros = refusal(Path::new("/dev/zero"));
        assert!(zeros.ends_with(": it is a character device, not a file"), "{zeros}");
        let small = tempfile::NamedTempFile::new().unwrap();
        assert!(refusal(small.path()).ends_with("a flash image has 64 KiB at least"));
        small.as_file().set_len(0x1_0000).unwrap();
        let _first = FlashFile::open(small.path()).unwrap();
        assert!(refusal(small.path()).ends_with("another machine writes to it"));
    }
}
