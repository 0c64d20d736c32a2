//! Messages as they are on the wire: little-endian numbers, strings with a length of 16 bits.

use rustix::io::Errno;

/// Types of messages (`p9_msg_t` of Linux' `include/net/9p/9p.h`). A reply's is its request's and
/// one more.
pub mod kind {
    /// The reply to a request that failed: the number of an error of Linux.
    pub const RLERROR: u8 = 7;
    /// What there is of room in the file system.
    pub const TSTATFS: u8 = 8;
    /// Opens a file.
    pub const TLOPEN: u8 = 12;
    /// Makes a regular file and opens it.
    pub const TLCREATE: u8 = 14;
    /// Makes a symbolic link.
    pub const TSYMLINK: u8 = 16;
    /// Makes a file of any type.
    pub const TMKNOD: u8 = 18;
    /// Renames what a fid is.
    pub const TRENAME: u8 = 20;
    /// Where a symbolic link leads to.
    pub const TREADLINK: u8 = 22;
    /// Attributes of a file.
    pub const TGETATTR: u8 = 24;
    /// Changes attributes of a file.
    pub const TSETATTR: u8 = 26;
    /// Makes a fid of an extended attribute, or of their list.
    pub const TXATTRWALK: u8 = 30;
    /// Makes a fid one to write an extended attribute by.
    pub const TXATTRCREATE: u8 = 32;
    /// Entries of a folder.
    pub const TREADDIR: u8 = 40;
    /// Has a file's data on the medium.
    pub const TFSYNC: u8 = 50;
    /// Takes or gives back a lock.
    pub const TLOCK: u8 = 52;
    /// Who is in the way of a lock.
    pub const TGETLOCK: u8 = 54;
    /// Makes another name for a file.
    pub const TLINK: u8 = 70;
    /// Makes a folder.
    pub const TMKDIR: u8 = 72;
    /// Renames a name in a folder.
    pub const TRENAMEAT: u8 = 74;
    /// Removes a name from a folder.
    pub const TUNLINKAT: u8 = 76;
    /// Begins a session.
    pub const TVERSION: u8 = 100;
    /// Asks for authentication.
    pub const TAUTH: u8 = 102;
    /// Makes a fid of the root.
    pub const TATTACH: u8 = 104;
    /// Takes a request back.
    pub const TFLUSH: u8 = 108;
    /// Makes a fid of a file below another.
    pub const TWALK: u8 = 110;
    /// Reads from a file.
    pub const TREAD: u8 = 116;
    /// Writes to a file.
    pub const TWRITE: u8 = 118;
    /// Gives a fid back.
    pub const TCLUNK: u8 = 120;
    /// Removes what a fid is, and gives the fid back.
    pub const TREMOVE: u8 = 122;
}

/// Flags of opening a file (`P9_DOTL_*`), which are one architecture's `O_*` on all of them.
pub(crate) mod open {
    pub(crate) const ACCESS: u32 = 3;
    pub(crate) const WRONLY: u32 = 1;
    pub(crate) const RDWR: u32 = 2;
    pub(crate) const EXCL: u32 = 0o200;
    pub(crate) const TRUNC: u32 = 0o1000;
    pub(crate) const APPEND: u32 = 0o2000;
    pub(crate) const DSYNC: u32 = 0o10000;
    pub(crate) const DIRECTORY: u32 = 0o200_000;
    pub(crate) const SYNC: u32 = 0o4_000_000;

    /// Whether a file that is opened with these is to be written to.
    pub(crate) fn is_writing(flags: u32) -> bool {
        matches!(flags & ACCESS, WRONLY | RDWR)
    }
}

/// The fid that is none (`P9_NOFID`).
pub(crate) const NOFID: u32 = u32::MAX;

/// What every message begins with: `size[4] type[1] tag[2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the whole message.
    pub size: u32,
    /// Its type, of [`kind`].
    pub kind: u8,
    /// The client's name for it while it is under way.
    pub tag: u16,
}

impl Header {
    /// Its length in bytes.
    pub const LEN: usize = 7;
    /// Length of a `Twrite` before its data, which a transport keeps to itself ([`crate::Payload`]).
    pub const OF_WRITE: usize = Self::LEN + 4 + 8 + 4;

    /// That of a message; `None` if there are not enough bytes.
    pub fn of(message: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(message);
        let (size, kind, tag) = (reader.u32().ok()?, reader.u8().ok()?, reader.u16().ok()?);
        Some(Self { size, kind, tag })
    }
}

/// Which file it is, for a client that has seen it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Qid {
    /// What sort of file (`P9_QTDIR`, …).
    pub(crate) kind: u8,
    /// Another one when the file has changed.
    pub(crate) version: u32,
    /// One for each file of a share.
    pub(crate) path: u64,
}

impl Qid {
    /// Length on the wire.
    pub(crate) const LEN: usize = 13;
}

/// Takes fields off a message; what is too short is `EINVAL`.
pub(crate) struct Reader<'m> {
    rest: &'m [u8],
}

impl<'m> Reader<'m> {
    pub(crate) fn new(message: &'m [u8]) -> Self {
        Self { rest: message }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'m [u8], Errno> {
        let (now, later) = self.rest.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.rest = later;
        Ok(now)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        self.bytes(N)?.try_into().map_err(|_| Errno::INVAL)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Errno> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Errno> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Errno> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Errno> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn string(&mut self) -> Result<&'m [u8], Errno> {
        let len = self.u16()?;
        self.bytes(len.into())
    }
}

/// Puts fields behind a reply's.
pub(crate) trait Put {
    fn u8(&mut self, value: u8) -> &mut Self;
    fn u16(&mut self, value: u16) -> &mut Self;
    fn u32(&mut self, value: u32) -> &mut Self;
    fn u64(&mut self, value: u64) -> &mut Self;
    /// A string, of which more than 64 KiB are cut off: no name and no link of Linux is that long.
    fn string(&mut self, bytes: &[u8]) -> &mut Self;
    fn qid(&mut self, qid: Qid) -> &mut Self;
}

impl Put for Vec<u8> {
    fn u8(&mut self, value: u8) -> &mut Self {
        self.push(value);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.extend(value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.extend(value.to_le_bytes());
        self
    }

    fn string(&mut self, bytes: &[u8]) -> &mut Self {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(len).extend(bytes.iter().take(len.into()));
        self
    }

    fn qid(&mut self, qid: Qid) -> &mut Self {
        self.u8(qid.kind).u32(qid.version).u64(qid.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_they_were_put_and_no_further() {
        let mut bytes = Vec::new();
        bytes.u8(1).u16(2).u32(3).u64(4).string(b"name");
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.u8(), reader.u16()), (Ok(1), Ok(2)));
        assert_eq!((reader.u32(), reader.u64()), (Ok(3), Ok(4)));
        assert_eq!(reader.string(), Ok(&b"name"[..]));
        assert_eq!(reader.u8(), Err(Errno::INVAL));
        // A string that says it is longer than the message.
        assert_eq!(Reader::new(&[5, 0, b'x']).string(), Err(Errno::INVAL));
        let qid = Qid { kind: 0x80, version: 7, path: 9 };
        assert_eq!(Vec::new().qid(qid).len(), Qid::LEN);
        assert_eq!(Vec::new().string(&[0; 70_000]).len(), 2 + 65_535);
    }

    #[test]
    fn a_header_is_seven_bytes() {
        let header = Header { size: 23, kind: kind::TWRITE, tag: 0xfffe };
        assert_eq!(Header::of(&[23, 0, 0, 0, 118, 0xfe, 0xff, 1]), Some(header));
        assert_eq!(Header::of(&[23, 0, 0, 0, 118, 0xfe]), None);
    }
}
