//! The file behind the flash, and the guest's direct view of it.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use trapline::{
    Delivery, Memory, Region, RegionEdit, RegionId, Regions, Registry, WeakRegistry, Window,
};
use trapline_guestmem::GuestMem;
use trapline_platform::flash::{Flash, FlashArray, Part, Worn};

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

/// A flash image whose contents are memory to the guest for as long as reads are answered with them:
/// a read-only window of the chip's region, which goes while a chip answers otherwise.
pub(crate) struct FlashImage {
    file: FlashFile,
    window: Window,
    shown: Mutex<Shown>,
}

struct Shown {
    visible: bool,
    /// The region, once it is mapped.
    region: Option<(WeakRegistry, RegionId)>,
}

impl FlashImage {
    /// An image that is visible, with its region not mapped yet.
    pub(crate) fn new(file: FlashFile) -> Arc<Self> {
        let pieces = file.contents.pieces().into_iter();
        let memory = pieces.map(|piece| -> Arc<dyn Memory> { Arc::new(piece) }).next();
        let memory = memory.unwrap_or_else(|| unreachable!("an image has bytes"));
        let (len, delivery) =
            (memory.len(), Delivery::Memory { memory, offset: 0, readonly: true });
        let window = Window { offset: 0, len, delivery };
        let shown = Mutex::new(Shown { visible: true, region: None });
        Arc::new(Self { file, window, shown })
    }

    /// What is in it.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "the PC starts in it"))]
    pub(crate) fn contents(&self) -> &GuestMem {
        &self.file.contents
    }

    /// The region of `chip`, whose image this is: visible.
    pub(crate) fn region(&self, base: u64, device: &str, chip: Arc<Flash>) -> Region {
        Region::mmio(base, self.len_bytes(), device, REGION, chip).window(self.window.clone())
    }

    /// Says that the region has been mapped.
    pub(crate) fn mapped(&self, registry: &Registry, device: &str) {
        let found = registry.find(&format!("{device}/{REGION}")).into_iter().next();
        self.shown.lock().region = found.map(|id| (registry.downgrade(), id));
    }
}

/// What the region of a chip is called.
const REGION: &str = "cfi";

impl FlashArray for FlashImage {
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
        let mut shown = self.shown.lock();
        let Some((registry, id)) = shown.region.as_ref().filter(|_| shown.visible != visible)
        else {
            return;
        };
        let window = self.window.clone();
        let edit = match visible {
            true => RegionEdit::AddWindow(*id, window),
            false => RegionEdit::RemoveWindow(*id, window),
        };
        match registry.edit(vec![edit]) {
            Ok(_) => shown.visible = visible,
            // Every access is trapped then. That it goes is never refused.
            Err(error) => tracing::debug!("the flash is not shown: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use trapline::Space;
    use trapline_device::Device;
    use trapline_platform::flash::regs::{PAIR_OF_X16, X8};

    use super::*;

    fn image(len: u64) -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(len).unwrap();
        image
    }

    #[test]
    fn an_image_is_memory_while_the_chip_answers_with_it_and_trapped_otherwise() {
        let registry = Registry::builder().build();
        let file = image(0x1_0000);
        let file = FlashFile::open(file.path(), &X8, Access::ReadWrite).unwrap();
        let image = FlashImage::new(file);
        let chip = Arc::new(Flash::new(&X8, image.clone()));
        let _mapping = registry.map(image.region(0x1000, "flash7", chip.clone())).unwrap();
        image.mapped(&registry, "flash7");
        let windows = || registry.stats().regions[0].deliveries.len();
        let mut handle = registry.handle(0);
        let mut write = |value| handle.write(Space::Mmio, 0x1010, &[value]);
        assert_eq!(windows(), 1);
        write(0x70);
        assert_eq!(windows(), 0, "reads are the status register");
        write(0xff);
        assert_eq!(windows(), 1);
        for cycle in [0x40, 0x5a, 0x70] {
            write(cycle);
        }
        assert_eq!(windows(), 0);
        chip.reset();
        assert_eq!(windows(), 1, "a reset has it answer with the array");
        let mut found = [0xff; 2];
        handle.read(Space::Mmio, 0x100f, &mut found);
        assert_eq!(found, [0, 0], "programming sets no bits");
        drop(registry);
        image.show(false);
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
