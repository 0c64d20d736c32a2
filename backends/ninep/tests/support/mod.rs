//! A client without a kernel: it says one thing at a time, and nothing is too absurd for it.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use trapline_ninep::{Header, Payload, SecurityModel, Server, Share, ShareOptions, kind};
use trapline_testkit::ninep::Field::{self, Str, U8, U16, U32, U64};
use trapline_testkit::ninep::message;

/// The fid that is none.
pub(crate) const NOFID: u32 = u32::MAX;
/// The fid that a client has of the root.
pub(crate) const ROOT: u32 = 0;

/// Numbers of errors.
pub(crate) mod errno {
    pub(crate) const EPERM: u32 = 1;
    pub(crate) const ENOENT: u32 = 2;
    pub(crate) const ENXIO: u32 = 6;
    pub(crate) const E2BIG: u32 = 7;
    pub(crate) const EBADF: u32 = 9;
    pub(crate) const ENOMEM: u32 = 12;
    pub(crate) const EACCES: u32 = 13;
    pub(crate) const EBUSY: u32 = 16;
    pub(crate) const EEXIST: u32 = 17;
    pub(crate) const EXDEV: u32 = 18;
    pub(crate) const ENOTDIR: u32 = 20;
    pub(crate) const EISDIR: u32 = 21;
    pub(crate) const EINVAL: u32 = 22;
    pub(crate) const ENFILE: u32 = 23;
    pub(crate) const ENOSPC: u32 = 28;
    pub(crate) const EROFS: u32 = 30;
    pub(crate) const ERANGE: u32 = 34;
    pub(crate) const ENAMETOOLONG: u32 = 36;
    pub(crate) const ENOTEMPTY: u32 = 39;
    pub(crate) const ELOOP: u32 = 40;
    pub(crate) const ENODATA: u32 = 61;
    pub(crate) const EPROTO: u32 = 71;
    pub(crate) const EMSGSIZE: u32 = 90;
    pub(crate) const EOPNOTSUPP: u32 = 95;
}

/// A client, and the server it talks to.
pub(crate) struct Client {
    pub(crate) server: Server,
    /// How much room there is for a reply.
    pub(crate) room: u32,
}

/// What a transport does with data: here it is all in this process.
#[derive(Default)]
pub(crate) struct Bytes {
    /// What a write has.
    pub(crate) sent: Vec<u8>,
    /// What a read got.
    pub(crate) received: Vec<u8>,
}

fn as_file(file: BorrowedFd<'_>) -> io::Result<std::fs::File> {
    Ok(file.try_clone_to_owned()?.into())
}

impl Payload for Bytes {
    fn read(&mut self, file: BorrowedFd<'_>, offset: u64, len: u32) -> io::Result<u32> {
        self.received.resize(len as usize, 0);
        let read = as_file(file)?.read_at(&mut self.received, offset)?;
        self.received.truncate(read);
        Ok(u32::try_from(read).unwrap())
    }

    fn write(&mut self, file: BorrowedFd<'_>, offset: u64, len: u32) -> io::Result<u32> {
        let bytes = self.sent.get(..len as usize).ok_or(io::Error::from_raw_os_error(14))?;
        Ok(u32::try_from(as_file(file)?.write_at(bytes, offset)?).unwrap())
    }

    fn copy(&mut self, to: &mut [u8]) -> io::Result<()> {
        let bytes = self.sent.get(..to.len()).ok_or(io::Error::from_raw_os_error(14))?;
        to.copy_from_slice(bytes);
        Ok(())
    }
}

/// What came of a request: the fields of its reply and the data behind them, or the number of an
/// error.
pub(crate) type Outcome = Result<Vec<u8>, u32>;

impl Client {
    /// A client that has attached to this folder.
    pub(crate) fn new(folder: &Path) -> Self {
        Self::with(&ShareOptions::new(folder, "t"))
    }

    pub(crate) fn read_only(folder: &Path) -> Self {
        Self::with(&ShareOptions { read_only: true, ..ShareOptions::new(folder, "t") })
    }

    pub(crate) fn mapped(folder: &Path) -> Self {
        let security = SecurityModel::Mapped;
        Self::with(&ShareOptions { security, ..ShareOptions::new(folder, "t") })
    }

    pub(crate) fn with(options: &ShareOptions) -> Self {
        let client = Self::stranger(options);
        client.version(64 << 10).unwrap();
        client.attach(ROOT, "").unwrap();
        client
    }

    /// One that has not said anything yet.
    pub(crate) fn stranger(options: &ShareOptions) -> Self {
        Self { server: Server::new(Share::open(options).unwrap()), room: 1 << 20 }
    }

    pub(crate) fn ask(&self, kind: u8, fields: &[Field<'_>]) -> Outcome {
        self.send(kind, fields, &mut Bytes::default())
    }

    pub(crate) fn send(&self, kind: u8, fields: &[Field<'_>], data: &mut Bytes) -> Outcome {
        let answer = self.server.answer(&message(kind, 7, fields), data, self.room);
        let answer = answer.expect("there is room for a reply");
        let header = Header::of(&answer.head).unwrap();
        assert_eq!(header.size as usize, answer.len(), "the reply says how long it is");
        assert_eq!(header.tag, 7);
        let mut body = answer.head[Header::LEN..].to_vec();
        if header.kind == kind::RLERROR {
            return Err(u32::from_le_bytes(body.try_into().unwrap()));
        }
        assert_eq!(header.kind, kind + 1);
        assert_eq!(answer.data as usize, data.received.len());
        body.extend(&data.received);
        Ok(body)
    }

    pub(crate) fn version(&self, msize: u32) -> Result<u32, u32> {
        let reply = self.ask(kind::TVERSION, &[U32(msize), Str(b"9P2000.L")])?;
        assert_eq!(&reply[4..], b"\x08\x009P2000.L");
        Ok(u32_at(&reply, 0))
    }

    pub(crate) fn attach(&self, fid: u32, aname: &str) -> Outcome {
        let fields = [U32(fid), U32(NOFID), Str(b"root"), Str(aname.as_bytes()), U32(NOFID)];
        self.ask(kind::TATTACH, &fields)
    }

    /// Makes `new` the file at a path below `fid`. How many names there are qids for.
    pub(crate) fn walk(&self, fid: u32, new: u32, path: &[&str]) -> Result<u16, u32> {
        let count = u16::try_from(path.len()).unwrap();
        let mut fields = vec![U32(fid), U32(new), U16(count)];
        fields.extend(path.iter().map(|name| Str(name.as_bytes())));
        let reply = self.ask(kind::TWALK, &fields)?;
        let found = u16::from_le_bytes(reply[..2].try_into().unwrap());
        assert_eq!(reply.len(), 2 + 13 * usize::from(found));
        Ok(found)
    }

    pub(crate) fn clunk(&self, fid: u32) -> Outcome {
        self.ask(kind::TCLUNK, &[U32(fid)])
    }

    pub(crate) fn open(&self, fid: u32, flags: u32) -> Outcome {
        self.ask(kind::TLOPEN, &[U32(fid), U32(flags)])
    }

    pub(crate) fn create(&self, fid: u32, name: &str, flags: u32, mode: u32) -> Outcome {
        let fields = [U32(fid), Str(name.as_bytes()), U32(flags), U32(mode), U32(NOFID)];
        self.ask(kind::TLCREATE, &fields)
    }

    pub(crate) fn read(&self, fid: u32, offset: u64, count: u32) -> Outcome {
        let reply = self.ask(kind::TREAD, &[U32(fid), U64(offset), U32(count)])?;
        assert_eq!(u32_at(&reply, 0) as usize, reply.len() - 4);
        Ok(reply[4..].to_vec())
    }

    pub(crate) fn write(&self, fid: u32, offset: u64, data: &[u8]) -> Result<u32, u32> {
        let count = u32::try_from(data.len()).unwrap();
        let mut bytes = Bytes { sent: data.to_vec(), ..Bytes::default() };
        let fields = [U32(fid), U64(offset), U32(count)];
        self.send(kind::TWRITE, &fields, &mut bytes).map(|reply| u32_at(&reply, 0))
    }

    /// The size, mode, uid and gid of a file.
    pub(crate) fn stat(&self, fid: u32) -> Result<(u64, u32, u32, u32), u32> {
        let reply = self.ask(kind::TGETATTR, &[U32(fid), U64(0x7ff)])?;
        assert_eq!(reply.len(), 153);
        Ok((u64_at(&reply, 49), u32_at(&reply, 21), u32_at(&reply, 25), u32_at(&reply, 29)))
    }

    pub(crate) fn mkdir(&self, dir: u32, name: &str) -> Outcome {
        let name = Str(name.as_bytes());
        self.ask(kind::TMKDIR, &[U32(dir), name, U32(0o755), U32(NOFID)])
    }

    pub(crate) fn symlink(&self, dir: u32, name: &str, target: &str) -> Outcome {
        let (name, target) = (Str(name.as_bytes()), Str(target.as_bytes()));
        self.ask(kind::TSYMLINK, &[U32(dir), name, target, U32(NOFID)])
    }

    pub(crate) fn mknod(&self, dir: u32, name: &str, mode: u32, device: (u32, u32)) -> Outcome {
        let name = Str(name.as_bytes());
        let (major, minor) = (U32(device.0), U32(device.1));
        self.ask(kind::TMKNOD, &[U32(dir), name, U32(mode), major, minor, U32(NOFID)])
    }

    pub(crate) fn link(&self, dir: u32, file: u32, name: &str) -> Outcome {
        self.ask(kind::TLINK, &[U32(dir), U32(file), Str(name.as_bytes())])
    }

    pub(crate) fn readlink(&self, fid: u32) -> Result<String, u32> {
        let reply = self.ask(kind::TREADLINK, &[U32(fid)])?;
        Ok(String::from_utf8(reply[2..].to_vec()).unwrap())
    }

    pub(crate) fn rename(&self, fid: u32, dir: u32, name: &str) -> Outcome {
        self.ask(kind::TRENAME, &[U32(fid), U32(dir), Str(name.as_bytes())])
    }

    pub(crate) fn renameat(&self, old: (u32, &str), new: (u32, &str)) -> Outcome {
        let (from, to) = (Str(old.1.as_bytes()), Str(new.1.as_bytes()));
        self.ask(kind::TRENAMEAT, &[U32(old.0), from, U32(new.0), to])
    }

    pub(crate) fn unlink(&self, dir: u32, name: &str, flags: u32) -> Outcome {
        self.ask(kind::TUNLINKAT, &[U32(dir), Str(name.as_bytes()), U32(flags)])
    }

    pub(crate) fn remove(&self, fid: u32) -> Outcome {
        self.ask(kind::TREMOVE, &[U32(fid)])
    }

    /// Sets what `valid` says: mode, uid, gid, size, and both times to the same.
    pub(crate) fn setattr(
        &self,
        fid: u32,
        valid: u32,
        values: (u32, u32, u32, u64, u64),
    ) -> Outcome {
        let (mode, uid, gid, size, time) = values;
        let mut fields = vec![U32(fid), U32(valid), U32(mode), U32(uid), U32(gid), U64(size)];
        fields.extend([U64(time), U64(5), U64(time), U64(6)]);
        self.ask(kind::TSETATTR, &fields)
    }

    /// Entries behind `offset`, as far as `count` bytes go: name, offset and type.
    pub(crate) fn readdir(
        &self,
        fid: u32,
        offset: u64,
        count: u32,
    ) -> Result<Vec<(String, u64, u8)>, u32> {
        let reply = self.ask(kind::TREADDIR, &[U32(fid), U64(offset), U32(count)])?;
        assert!(u32_at(&reply, 0) as usize == reply.len() - 4 && reply.len() <= count as usize + 4);
        let (mut entries, mut rest) = (Vec::new(), &reply[4..]);
        while !rest.is_empty() {
            let len = usize::from(u16::from_le_bytes(rest[22..24].try_into().unwrap()));
            let name = String::from_utf8(rest[24..24 + len].to_vec()).unwrap();
            entries.push((name, u64_at(rest, 13), rest[21]));
            rest = &rest[24 + len..];
        }
        Ok(entries)
    }

    /// The value of an extended attribute; without a name, the list of them.
    pub(crate) fn getxattr(&self, fid: u32, name: &str) -> Outcome {
        const VALUE: u32 = 0x7000_0000;
        let fields = [U32(fid), U32(VALUE), Str(name.as_bytes())];
        let len = u64_at(&self.ask(kind::TXATTRWALK, &fields)?, 0);
        let value = self.read(VALUE, 0, 65_536)?;
        assert_eq!(value.len() as u64, len);
        self.clunk(VALUE)?;
        Ok(value)
    }

    pub(crate) fn setxattr(&self, fid: u32, name: &str, value: &[u8], flags: u32) -> Outcome {
        const VALUE: u32 = 0x7000_0001;
        self.walk(fid, VALUE, &[])?;
        let fields = [U32(VALUE), Str(name.as_bytes()), U64(value.len() as u64), U32(flags)];
        let begun = self.ask(kind::TXATTRCREATE, &fields);
        if begun.is_err() {
            self.clunk(VALUE)?;
            return begun;
        }
        for (n, part) in value.chunks(1000).enumerate() {
            self.write(VALUE, n as u64 * 1000, part)?;
        }
        self.clunk(VALUE)
    }

    /// Asks for a lock: what becomes of it.
    pub(crate) fn lock(
        &self,
        fid: u32,
        kind: u8,
        range: (u64, u64),
        process: u32,
    ) -> Result<u8, u32> {
        let range = [U64(range.0), U64(range.1), U32(process), Str(b"guest")];
        let fields = [&[U32(fid), U8(kind), U32(0)][..], &range].concat();
        self.ask(kind::TLOCK, &fields).map(|reply| reply[0])
    }

    /// What is in the way of a lock: its type, start and length.
    pub(crate) fn getlock(
        &self,
        fid: u32,
        kind: u8,
        range: (u64, u64),
        process: u32,
    ) -> Result<(u8, u64, u64), u32> {
        let range = [U64(range.0), U64(range.1), U32(process), Str(b"guest")];
        let fields = [&[U32(fid), U8(kind)][..], &range].concat();
        let reply = self.ask(kind::TGETLOCK, &fields)?;
        assert_eq!(&reply[21..], b"\x05\x00guest");
        Ok((reply[0], u64_at(&reply, 1), u64_at(&reply, 9)))
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
