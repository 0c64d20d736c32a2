//! Images in a format, through `imago`: qcow2, and VMDK to read.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use imago::file::File;
use imago::format::PreallocateMode;
use imago::format::gate::ImplicitOpenGate;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::vmdk::Vmdk;
use imago::{FormatAccess, FormatDriverBuilder, StorageOpenOptions};
use parking_lot::RwLock;

use super::{Opened, check};
use crate::{Error, Failure, Format, Request, Zeroes};

/// How many images may be behind one another. One that is behind itself would have no end.
const BACKING_FILES_MAX: usize = 32;

/// Space is given up and zeroed in pieces of this many bytes, so that a long range can be ended.
const AT_ONCE: u64 = 64 << 20;

/// An image whose format says where its bytes are.
#[derive(Debug)]
pub(crate) struct Formatted {
    /// Requests share it; giving up space, after which a place can be another's, does not.
    access: RwLock<FormatAccess<File>>,
}

impl Formatted {
    pub(crate) fn new(opened: Opened, format: Format) -> Result<Self, Error> {
        let path = opened.path.clone();
        let writable = opened.writable;
        let gate = Gate { writable, depth: BACKING_FILES_MAX, in_use: Arc::default() };
        let in_use = Arc::clone(&gate.in_use);
        let failed = |reason| match in_use.get() {
            Some(image) => Error::InUse { path: image.clone(), writing: false },
            None => Error::Format { path: path.clone(), format, reason },
        };
        let base = StorageOpenOptions::new().direct(opened.direct);
        let access = storage(opened).and_then(|storage| match format {
            Format::Qcow2 => {
                let image = Qcow2::<File>::builder(storage).write(writable);
                Ok(FormatAccess::new(image.storage_open_options(base).open(gate)?))
            }
            Format::Vmdk => {
                let image = Vmdk::<File>::builder(storage).storage_open_options(base);
                Ok(FormatAccess::new(image.open(gate)?))
            }
            Format::Raw | Format::Null => Err(io::ErrorKind::Unsupported.into()),
        });
        Ok(Self { access: RwLock::new(access.map_err(failed)?) })
    }

    pub(crate) fn len(&self) -> u64 {
        self.access.read().size()
    }

    pub(crate) fn resize(&self, len: u64) -> io::Result<()> {
        let mut access = self.access.write();
        // With a backing file that is longer, what is in that would come up again.
        access.resize(len, PreallocateMode::Zero)?;
        access.flush()
    }

    /// See [`super::Image::perform`]. What has failed is begun again from its start.
    pub(crate) fn perform(
        &self,
        request: &mut Request,
        cancelled: &AtomicBool,
    ) -> Result<(), Failure> {
        match request {
            Request::Read { offset, buffers } => {
                let slices = buffers.slices();
                let (vector, _mapped) = IoVectorMut::from_volatile_slice(&slices);
                self.access.read().readv(vector, *offset)?;
            }
            Request::Write { offset, buffers, durable } => {
                let slices = buffers.slices();
                let (vector, _mapped) = IoVector::from_volatile_slice(&slices);
                self.access.read().writev(vector, *offset)?;
                if *durable {
                    self.sync()?;
                }
            }
            Request::Flush => self.sync()?,
            Request::Discard(ranges) => {
                for range in ranges {
                    self.discard(range.start, range.end, cancelled)?;
                }
            }
            // It is not known where its bytes have been.
            Request::Erase(_) => return Err(Failure::Unsupported),
            Request::WriteZeroes(zeroes) => {
                for zeroes in zeroes {
                    self.write_zeroes(zeroes, cancelled)?;
                }
            }
        }
        Ok(())
    }

    /// Metadata is kept back until it is flushed; only then is there something to sync.
    fn sync(&self) -> io::Result<()> {
        let access = self.access.read();
        access.flush()?;
        access.sync()
    }

    /// A hint, which an old version of the format has no way to follow.
    fn discard(&self, start: u64, end: u64, cancelled: &AtomicBool) -> io::Result<()> {
        for (offset, len) in pieces(start, end) {
            check(cancelled)?;
            match self.access.write().discard_to_any(offset, len) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
                done => done?,
            }
        }
        Ok(())
    }

    fn write_zeroes(&self, zeroes: &Zeroes, cancelled: &AtomicBool) -> io::Result<()> {
        for (offset, len) in pieces(zeroes.range.start, zeroes.range.end) {
            check(cancelled)?;
            if zeroes.unmap && self.access.write().discard_to_zero(offset, len).is_ok() {
                continue;
            }
            let zeroed = self.access.read().write_zeroes(offset, len);
            match zeroed {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    self.write_literal_zeroes(offset, len, cancelled)?;
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn write_literal_zeroes(&self, start: u64, len: u64, cancelled: &AtomicBool) -> io::Result<()> {
        const LEN: u64 = 1 << 20;
        let zeroes = [0; 4096];
        let (mut offset, end) = (start, start + len);
        while offset < end {
            check(cancelled)?;
            let until = end.min(offset + LEN);
            let access = self.access.read();
            while offset < until {
                let len = usize::try_from(until - offset).unwrap_or(usize::MAX).min(zeroes.len());
                access.write(zeroes.get(..len).unwrap_or_default(), offset)?;
                offset += len as u64;
            }
        }
        Ok(())
    }
}

/// A range in pieces of [`AT_ONCE`]: offsets and lengths.
fn pieces(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let step = usize::try_from(AT_ONCE).unwrap_or(usize::MAX);
    (start..end).step_by(step).map(move |offset| (offset, AT_ONCE.min(end - offset)))
}

/// An opened file as `imago` has it, which looks for files that an image names beside it.
fn storage(opened: Opened) -> io::Result<File> {
    let path = opened.path.canonicalize()?;
    let options = StorageOpenOptions::new().filename(path);
    File::from_open_file(opened.file, options.write(opened.writable).direct(opened.direct))
}

/// What opens the files that an image names. They are locked like the image itself, and are
/// regular files or block devices as well.
#[derive(Clone, Debug)]
struct Gate {
    /// Whether data files can be written to; backing files never are.
    writable: bool,
    /// How many images may still be behind one another.
    depth: usize,
    /// The file that somebody else uses, if that is why the image cannot be opened: `imago` makes
    /// text of the errors it is given.
    in_use: Arc<OnceLock<PathBuf>>,
}

impl ImplicitOpenGate<File> for Gate {
    fn open_format<F: FormatDriverBuilder<File>>(
        &mut self,
        builder: F,
    ) -> io::Result<FormatAccess<File>> {
        let Some(depth) = self.depth.checked_sub(1) else {
            let text = format!("there are more than {BACKING_FILES_MAX} images behind one another");
            return Err(io::Error::other(text));
        };
        let in_use = Arc::clone(&self.in_use);
        Ok(FormatAccess::new(builder.open(Self { writable: false, depth, in_use })?))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<File> {
        let path = options.get_filename().ok_or(io::ErrorKind::NotFound)?;
        let writable = options.get_writable() && self.writable;
        let opened = Opened::new(path, writable, options.get_direct());
        storage(opened.map_err(|error| {
            if let Error::InUse { path, .. } = &error {
                let _ = self.in_use.set(path.clone());
            }
            io::Error::other(error.to_string())
        })?)
    }
}
