//! A session with a client: from a message to its reply.

mod attrs;
mod dirs;
mod files;
mod locking;
mod names;
mod saved;
mod values;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use crate::attr::Attr;
use crate::fids::{Fid, Fids, What};
use crate::locks::Locks;
use crate::qids::Qids;
use crate::share::{Owner, Share};
use crate::wire::{Header, NOFID, Put, Qid, Reader, kind};

pub use saved::SavedFid;

/// The longest message: what Linux' client can have on a virtqueue of 128 descriptors.
pub const MSIZE_MAX: u32 = 512 << 10;

/// The shortest one that a client can settle on, as of QEMU.
const MSIZE_MIN: u32 = 4096;

/// What a client leaves for everything but the data of a read or write (`P9_IOHDRSZ`).
const IO_HEADER: u32 = 24;

/// The most fids.
const FIDS_MAX: usize = 65_536;

/// Descriptors that are not for fids.
const DESCRIPTORS_KEPT: u64 = 512;

/// The only version there is.
const VERSION: &[u8] = b"9P2000.L";

/// The most names of a `Twalk` (`P9_MAXWELEM`).
const NAMES_MAX: u16 = 16;

/// The data of reads and writes, which the server moves between a file and wherever the transport
/// has it.
pub trait Payload {
    /// Reads `len` bytes at `offset` of a file, or as many as there are, to where the data of a
    /// reply to `Tread` is: behind its first 11 bytes. Says how many.
    ///
    /// # Errors
    /// The kernel's; `EFAULT` where there is nothing to read to.
    fn read(&mut self, file: BorrowedFd<'_>, offset: u64, len: u32) -> io::Result<u32>;

    /// Writes the first `len` bytes of a `Twrite`'s data, or as many as the file takes. Says how
    /// many.
    ///
    /// # Errors
    /// The kernel's; `EFAULT` where there is nothing to write from.
    fn write(&mut self, file: BorrowedFd<'_>, offset: u64, len: u32) -> io::Result<u32>;

    /// Copies the first bytes of a `Twrite`'s data, as many as `to` has room for.
    ///
    /// # Errors
    /// `EFAULT` where there are not as many.
    fn copy(&mut self, to: &mut [u8]) -> io::Result<()>;
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its bytes, but for what a read has put behind them.
    pub head: Vec<u8>,
    /// How many bytes that is.
    pub data: u32,
}

impl Answer {
    /// How long the whole message is.
    pub fn len(&self) -> usize {
        self.head.len() + usize::try_from(self.data).unwrap_or(0)
    }

    /// Whether there is nothing in it, which is never so.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A server of one folder to one client.
pub struct Server {
    share: Share,
    fids: Fids,
    qids: Qids,
    locks: Locks,
    /// The longest message that the client has settled on; 0 before it has.
    msize: AtomicU32,
}

/// A request being answered.
struct Request<'a> {
    kind: u8,
    /// The longest reply there is room for.
    room: u32,
    reply: &'a mut Vec<u8>,
    payload: &'a mut dyn Payload,
    /// Bytes of data that were read.
    data: u32,
}

impl Server {
    /// A server without a client. As many descriptors as the host lets the process have are for it.
    pub fn new(share: Share) -> Self {
        Self::with_fids(share, fids_max())
    }

    fn with_fids(share: Share, max: usize) -> Self {
        Self {
            share,
            fids: Fids::new(max),
            qids: Qids::default(),
            locks: Locks::default(),
            msize: AtomicU32::new(0),
        }
    }

    /// Answers a message, which is whole but for the data of a `Twrite`, in `room` bytes.
    ///
    /// `None` if there is no header, or no room for any reply.
    pub fn answer(&self, message: &[u8], payload: &mut dyn Payload, room: u32) -> Option<Answer> {
        let header = Header::of(message)?;
        let fields = message.get(Header::LEN..)?;
        let mut head = Vec::with_capacity(64);
        head.u32(0).u8(header.kind.wrapping_add(1)).u16(header.tag);
        let msize = self.msize.load(Ordering::Relaxed);
        let room = if msize == 0 { room } else { room.min(msize) };
        let mut request = Request { kind: header.kind, room, reply: &mut head, payload, data: 0 };
        let whole = header.kind == kind::TWRITE || u64::from(header.size) == message.len() as u64;
        let done = match whole {
            true => self.perform(&mut request, &mut Reader::new(fields)),
            false => Err(Errno::MSGSIZE),
        };
        let data = request.data;
        let long = |head: &Vec<u8>| head.len() as u64 + u64::from(data) > u64::from(room);
        let done = done.and_then(|()| if long(&head) { Err(Errno::MSGSIZE) } else { Ok(()) });
        let answer = match done {
            Ok(()) => Answer { head, data },
            Err(error) => {
                head.clear();
                let error = error.raw_os_error().unsigned_abs();
                head.u32(0).u8(kind::RLERROR).u16(header.tag).u32(error);
                Answer { head, data: 0 }
            }
        };
        seal(answer, room)
    }

    /// Forgets the client: all fids and locks.
    pub fn reset(&self) {
        self.msize.store(0, Ordering::Relaxed);
        self.fids.clear();
        self.locks.clear();
    }

    fn perform(&self, request: &mut Request<'_>, fields: &mut Reader<'_>) -> Result<(), Errno> {
        if request.kind == kind::TVERSION {
            return self.version(request, fields);
        }
        if self.msize.load(Ordering::Relaxed) == 0 {
            return Err(Errno::PROTO);
        }
        match request.kind {
            kind::TATTACH => self.attach(request, fields),
            kind::TWALK => self.walk(request, fields),
            kind::TCLUNK => self.clunk(fields),
            // Whoever carries the messages waits for those that are under way.
            kind::TFLUSH => fields.u16().map(drop),
            kind::TLOPEN => self.lopen(request, fields),
            kind::TLCREATE => self.lcreate(request, fields),
            kind::TREAD => self.read(request, fields),
            kind::TWRITE => self.write(request, fields),
            kind::TFSYNC => self.fsync(fields),
            kind::TREADDIR => self.readdir(request, fields),
            kind::TGETATTR => self.getattr(request, fields),
            kind::TSETATTR => self.setattr(fields),
            kind::TSTATFS => self.statfs(request, fields),
            kind::TREADLINK => self.readlink(request, fields),
            kind::TSYMLINK => self.symlink(request, fields),
            kind::TMKNOD => self.mknod(request, fields),
            kind::TMKDIR => self.mkdir(request, fields),
            kind::TLINK => self.link(fields),
            kind::TRENAME => self.rename(fields),
            kind::TRENAMEAT => self.renameat(fields),
            kind::TUNLINKAT => self.unlinkat(fields),
            kind::TREMOVE => self.remove(fields),
            kind::TXATTRWALK => self.xattrwalk(request, fields),
            kind::TXATTRCREATE => self.xattrcreate(fields),
            kind::TLOCK => self.lock(request, fields),
            kind::TGETLOCK => self.getlock(request, fields),
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    /// `msize[4] version[s]`: begins a session, which ends the one there was.
    fn version(&self, request: &mut Request<'_>, fields: &mut Reader<'_>) -> Result<(), Errno> {
        let (msize, version) = (fields.u32()?, fields.string()?);
        self.reset();
        if version != VERSION {
            request.reply.u32(msize.min(MSIZE_MAX)).string(b"unknown");
            return Ok(());
        }
        if msize < MSIZE_MIN {
            return Err(Errno::MSGSIZE);
        }
        let msize = msize.min(MSIZE_MAX);
        self.msize.store(msize, Ordering::Relaxed);
        request.reply.u32(msize).string(VERSION);
        Ok(())
    }

    /// `fid[4] afid[4] uname[s] aname[s] n_uname[4]`: a fid of the root, or of a folder below it.
    fn attach(&self, request: &mut Request<'_>, fields: &mut Reader<'_>) -> Result<(), Errno> {
        let (fid, afid) = (fields.u32()?, fields.u32()?);
        let (_, aname, uid) = (fields.string()?, fields.string()?, fields.u32()?);
        if afid != NOFID {
            return Err(Errno::OPNOTSUPP);
        }
        let root = self.share.at(aname)?;
        request.reply.qid(self.qid(&root)?);
        self.fids.add(fid, Fid { uid, what: What::Place(root.into()) })
    }

    /// `fid[4] newfid[4] nwname[2] nwname*(wname[s])`: another fid, of the same file or one below it.
    fn walk(&self, request: &mut Request<'_>, fields: &mut Reader<'_>) -> Result<(), Errno> {
        let (number, new, count) = (fields.u32()?, fields.u32()?, fields.u16()?);
        if count > NAMES_MAX {
            return Err(Errno::INVAL);
        }
        let names = (0..count).map(|_| fields.string()).collect::<Result<Vec<_>, _>>()?;
        let fid = self.fids.get(number)?;
        let (qids, last) = self.steps(&fid, &names)?;
        let count = u16::try_from(qids.len()).map_err(|_| Errno::INVAL)?;
        request.reply.u16(count);
        for qid in &qids {
            request.reply.qid(*qid);
        }
        let what = match last {
            // It is as far as it goes, and no new fid.
            _ if qids.len() < names.len() => return Ok(()),
            Some(last) => What::Place(last.into()),
            None => What::Place(fid.place()?),
        };
        match new == number {
            true => self.fids.change(number, what),
            false => self.fids.add(new, Fid { uid: fid.uid, what }),
        }
    }

    /// Goes along names for as long as they are there, if the first one is: qids on the way, and where
    /// it ends.
    fn steps(&self, fid: &Fid, names: &[&[u8]]) -> Result<(Vec<Qid>, Option<OwnedFd>), Errno> {
        let (mut qids, mut last) = (Vec::new(), None::<OwnedFd>);
        for name in names {
            let here = last.as_ref().map_or(fid.file()?.as_fd(), |file| file.as_fd());
            let step = self.share.step(here, name);
            match step.and_then(|file| self.qid(&file).map(|qid| (file, qid))) {
                Ok((file, qid)) => {
                    qids.push(qid);
                    last = Some(file);
                }
                Err(error) if qids.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok((qids, last))
    }

    /// `fid[4]`: gives a fid back, with what hangs on it.
    fn clunk(&self, fields: &mut Reader<'_>) -> Result<(), Errno> {
        let number = fields.u32()?;
        let fid = self.fids.remove(number)?;
        match fid.what {
            What::File(_) | What::Dir(_) => self.locks.forget(number),
            What::NewValue(value) => self.set_value(&value)?,
            What::Place(_) | What::Value(_) => {}
        }
        Ok(())
    }

    /// The qid of a file.
    fn qid(&self, file: impl AsFd) -> Result<Qid, Errno> {
        self.qids.of(&self.share.stat(file.as_fd())?)
    }

    fn qid_of(&self, attr: &Attr) -> Result<Qid, Errno> {
        self.qids.of(attr)
    }

    /// Refuses what changes anything, where nothing is to be changed.
    fn writing(&self) -> Result<(), Errno> {
        if self.share.is_read_only() { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// Who a file that is made by a fid is to belong to.
    fn owner(fid: &Fid, gid: u32) -> Owner {
        Owner::new(fid.uid, gid)
    }
}

/// Fills the length of a reply in. `None` if it has no room.
fn seal(mut answer: Answer, room: u32) -> Option<Answer> {
    let len = u32::try_from(answer.len()).ok().filter(|len| *len <= room)?;
    answer.head.get_mut(..4)?.copy_from_slice(&len.to_le_bytes());
    Some(answer)
}

/// How many fids there can be, after the process has been given all the descriptors it can have.
fn fids_max() -> usize {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let current = match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    // Without a limit there is none.
    let descriptors = current.unwrap_or(u64::MAX);
    let spare = descriptors.saturating_sub(DESCRIPTORS_KEPT).max(descriptors / 2);
    usize::try_from(spare).unwrap_or(FIDS_MAX).min(FIDS_MAX)
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("share", &self.share).finish_non_exhaustive()
    }
}
