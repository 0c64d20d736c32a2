//! A disk: an image with its size and limits, as a device shows them to a guest, and the checks of what
//! a guest may write to it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use trapline_guestio::Pool;

use crate::image::{Image, Topology};
use crate::limit::Limiter;
use crate::options::SERIAL_LEN;
use crate::{DiskOptions, Error, Failure, OnError};

/// Bytes of a sector, the unit of every disk's size.
pub const SECTOR: u64 = 512;

/// A disk. Its requests go through [`crate::Queue`]s.
#[derive(Debug)]
pub struct Disk {
    options: DiskOptions,
    pub(crate) image: Arc<Image>,
    topology: Topology,
    serial: String,
    /// Bytes, a multiple of [`SECTOR`].
    capacity: AtomicU64,
    pub(crate) limiter: Mutex<Limiter>,
    pub(crate) pool: Pool,
    on_stop: OnStop,
    /// For a disk without an image. Its queues' witnesses know how requests end.
    stand_in: Option<StandIn>,
}

/// What cannot be asked of an image that is not there.
#[derive(Clone, Copy, Debug)]
struct StandIn {
    can_discard: bool,
    can_erase: bool,
}

/// What a driver sees of a disk, apart from its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskShape {
    /// Its size in bytes.
    pub capacity: u64,
    /// How the host's storage is made.
    pub topology: Topology,
    /// Whether giving up space does anything.
    pub can_discard: bool,
    /// Whether space can be erased.
    pub can_erase: bool,
    /// What the disk says of itself.
    pub serial: String,
}

/// Who stops the machine.
#[derive(Default)]
struct OnStop {
    call: OnceLock<Box<StopMachine>>,
    /// Whether they have been called, and the machine has not gone on yet: requests that fail one after
    /// another are one reason.
    called: AtomicBool,
}

type StopMachine = dyn Fn(&str) + Send + Sync;

impl Disk {
    /// Opens an image, and locks it against other programs that write, or that want nobody to.
    ///
    /// # Errors
    /// Why it cannot be had, in a sentence.
    pub fn open(options: &DiskOptions) -> Result<Arc<Self>, Error> {
        let failed = |reason| Error::Open { path: options.path.clone(), reason };
        let (image, topology) = Image::open(options)?;
        let len = image.len().map_err(failed)?;
        if !len.is_multiple_of(SECTOR) {
            tracing::warn!(
                "disk image {}: the last {} bytes are no whole sector, the guest does not see them",
                options.path.display(),
                len % SECTOR
            );
        }
        let serial = match &options.serial {
            Some(serial) => serial.clone(),
            None if matches!(image, Image::Null(_)) => String::new(),
            None => default_serial(options).map_err(failed)?,
        };
        Ok(Arc::new(Self {
            options: options.clone(),
            image: Arc::new(image),
            topology,
            serial,
            capacity: AtomicU64::new(len / SECTOR * SECTOR),
            limiter: Mutex::new(Limiter::new(options.limits, 0)),
            pool: Pool::new("disk"),
            on_stop: OnStop::default(),
            stand_in: None,
        }))
    }

    /// A disk that looks as one with these options did, and has no image: its queues are told how requests
    /// end ([`crate::Queue::set_witness`]).
    pub fn stand_in(options: &DiskOptions, shape: DiskShape) -> Arc<Self> {
        let DiskShape { capacity, topology, can_discard, can_erase, serial } = shape;
        Arc::new(Self {
            options: options.clone(),
            image: Arc::new(Image::absent()),
            topology,
            serial,
            capacity: AtomicU64::new(capacity / SECTOR * SECTOR),
            limiter: Mutex::new(Limiter::new(options.limits, 0)),
            pool: Pool::new("disk"),
            on_stop: OnStop::default(),
            stand_in: Some(StandIn { can_discard, can_erase }),
        })
    }

    /// What a driver sees of it.
    pub fn shape(&self) -> DiskShape {
        DiskShape {
            capacity: self.capacity(),
            topology: self.topology,
            can_discard: self.can_discard(),
            can_erase: self.can_erase(),
            serial: self.serial.clone(),
        }
    }

    /// Whether it is a [`Disk::stand_in`].
    pub(crate) fn is_stand_in(&self) -> bool {
        self.stand_in.is_some()
    }

    /// What the user said of it.
    pub fn options(&self) -> &DiskOptions {
        &self.options
    }

    /// Its size in bytes, a multiple of [`SECTOR`].
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// How the host's storage is made.
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// Whether a guest can write to it.
    pub fn is_writable(&self) -> bool {
        !self.options.read_only
    }

    /// Whether giving up space ([`crate::Request::Discard`]) does anything.
    pub fn can_discard(&self) -> bool {
        let can = || self.image.can_discard();
        self.is_writable() && self.stand_in.map_or_else(can, |known| known.can_discard)
    }

    /// Whether the host can erase space so that nobody gets at what was there
    /// ([`crate::Request::Erase`]): some block devices can.
    pub fn can_erase(&self) -> bool {
        let can = || self.image.can_erase();
        self.is_writable() && self.stand_in.map_or_else(can, |known| known.can_erase)
    }

    /// What the disk says of itself: [`SERIAL_LEN`] bytes, with zeroes behind the text.
    pub fn serial(&self) -> [u8; SERIAL_LEN] {
        let mut serial = [0; SERIAL_LEN];
        serial.iter_mut().zip(self.serial.bytes()).for_each(|(to, from)| *to = from);
        serial
    }

    /// Gives the image, and so the disk, another size. Whoever shows it to a guest has to tell it.
    ///
    /// # Errors
    /// The image cannot have that size.
    pub fn resize(&self, bytes: u64) -> Result<(), Error> {
        let refused =
            |reason| Error::Resize { path: self.options.path.clone(), size: bytes, reason };
        if !bytes.is_multiple_of(SECTOR) {
            return Err(refused(io::Error::other("it is no multiple of 512")));
        }
        if !self.is_writable() {
            return Err(refused(io::ErrorKind::ReadOnlyFilesystem.into()));
        }
        // Nobody is to write to what goes away.
        let before = self.capacity.fetch_min(bytes, Ordering::SeqCst);
        self.image.resize(bytes).map_err(|reason| {
            self.capacity.store(before, Ordering::SeqCst);
            refused(reason)
        })?;
        self.capacity.store(bytes, Ordering::SeqCst);
        Ok(())
    }

    /// Takes over the size that the image has been given by others: a file that was extended, a
    /// volume that has grown. Says whether it is another one than before.
    ///
    /// # Errors
    /// The host's.
    pub fn look_again(&self) -> io::Result<bool> {
        let now = self.image.len()? / SECTOR * SECTOR;
        Ok(self.capacity.swap(now, Ordering::SeqCst) != now)
    }

    /// Has `stop` called when a request fails of a disk that is to stop the machine then
    /// ([`OnError::Stop`]), with a sentence that says why; and again only after [`Disk::goes_on`]. Only
    /// the first one counts.
    pub fn on_stop(&self, stop: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.on_stop.call.set(Box::new(stop));
    }

    /// The machine goes on: the next request that fails stops it again.
    pub fn goes_on(&self) {
        self.on_stop.called.store(false, Ordering::SeqCst);
    }

    /// Has no end and is writable, for tests with a file that is no disk.
    #[cfg(test)]
    pub(crate) fn become_memory(&mut self) {
        self.options.read_only = false;
        self.capacity = AtomicU64::new(u64::MAX / SECTOR * SECTOR);
    }

    /// Stops the machine because of this failure, if that is what the user wants. Says whether
    /// somebody does.
    pub(crate) fn stop(&self, failure: &Failure) -> bool {
        let (OnError::Stop, Failure::Io(reason)) = (self.options.on_error, failure) else {
            return false;
        };
        let Some(stop) = self.on_stop.call.get() else { return false };
        if self.on_stop.called.swap(true, Ordering::SeqCst) {
            return true;
        }
        stop(&format!("disk image {}: {reason}", self.options.path.display()));
        true
    }
}

/// As kvmtool has it: the numbers of the file.
fn default_serial(options: &DiskOptions) -> io::Result<String> {
    let metadata = options.path.metadata()?;
    let serial = format!("{}{}{}", metadata.dev(), metadata.rdev(), metadata.ino());
    Ok(serial.chars().take(SERIAL_LEN).collect())
}

impl std::fmt::Debug for OnStop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OnStop").field(&self.call.get().is_some()).finish()
    }
}
