//! A message in a chain: how it comes to the server, and its data to and from files.

use std::io;
use std::os::fd::BorrowedFd;

use trapline_guestio::{Buffers, Wait};
use trapline_guestmem::GuestMem;
use trapline_ninep::{Header, Payload, Server, kind};

use crate::{Chain, ChainError};

/// The longest message that is taken, but for the data of a write: names of a path, say.
const MESSAGE_MAX: u64 = 32 << 10;

/// Length of a reply to a read before its data.
const READ_HEADER: u64 = Header::LEN as u64 + 4;

/// Has a message answered. How many bytes were written; none where there is no message, or no room
/// for any reply.
pub(super) fn carry(server: &Server, chain: &Chain, mem: &GuestMem) -> u32 {
    try_carry(server, chain, mem).unwrap_or(0)
}

fn try_carry(server: &Server, chain: &Chain, mem: &GuestMem) -> Option<u32> {
    let mut header = [0; Header::LEN];
    chain.read_at(mem, 0, &mut header).ok()?;
    let header = Header::of(&header)?;
    let (size, there) = (u64::from(header.size), chain.readable_len());
    let len = match header.kind {
        kind::TWRITE => there.min(size).min(Header::OF_WRITE as u64),
        // One that is longer than it can be is refused, as it is not whole.
        _ => there.min(size).min(MESSAGE_MAX),
    };
    let mut message = vec![0; usize::try_from(len).ok()?.max(Header::LEN)];
    chain.read_at(mem, 0, &mut message).ok()?;
    let room = u32::try_from(chain.writable_len()).unwrap_or(u32::MAX);
    let mut data = Data { chain, mem, end: size.min(there) };
    let answer = server.answer(&message, &mut data, room)?;
    chain.write_at(mem, 0, &answer.head).ok()?;
    u32::try_from(answer.len()).ok()
}

/// The data of a read or write, in guest memory.
struct Data<'a> {
    chain: &'a Chain,
    mem: &'a GuestMem,
    /// Where the message ends.
    end: u64,
}

impl Data<'_> {
    /// Where the data of a write is.
    fn sent(&self, len: u64) -> io::Result<std::ops::Range<u64>> {
        let start = Header::OF_WRITE as u64;
        let end = start.saturating_add(len);
        if end > self.end { Err(fault()) } else { Ok(start..end) }
    }
}

impl Payload for Data<'_> {
    fn read(&mut self, file: BorrowedFd<'_>, offset: u64, len: u32) -> io::Result<u32> {
        let range = READ_HEADER..READ_HEADER + u64::from(len);
        let buffers =
            self.chain.writable_buffers(self.mem, range).map_err(|_: ChainError| fault())?;
        all(buffers, offset, |buffers, offset| buffers.read_at(file, offset, Wait::Yes))
    }

    fn write(&mut self, file: BorrowedFd<'_>, offset: u64, len: u32) -> io::Result<u32> {
        let range = self.sent(len.into())?;
        let buffers =
            self.chain.readable_buffers(self.mem, range).map_err(|_: ChainError| fault())?;
        all(buffers, offset, |buffers, offset| buffers.write_at(file, offset, Wait::Yes, false))
    }

    fn copy(&mut self, to: &mut [u8]) -> io::Result<()> {
        let range = self.sent(to.len() as u64)?;
        self.chain.read_at(self.mem, range.start, to).map_err(|_| fault())
    }
}

/// Goes on until all buffers are used up, or there is no more. Says how much it was; what comes after
/// an error is the client's to ask for again.
fn all(
    mut buffers: Buffers,
    mut offset: u64,
    mut once: impl FnMut(&mut Buffers, u64) -> io::Result<u64>,
) -> io::Result<u32> {
    let mut moved = 0;
    while !buffers.is_empty() {
        match once(&mut buffers, offset) {
            Ok(0) => break,
            Ok(some) => {
                moved += some;
                offset = offset.saturating_add(some);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if moved == 0 => return Err(error),
            Err(_) => break,
        }
    }
    u32::try_from(moved).map_err(|_| fault())
}

/// `EFAULT`: an address that is not RAM.
fn fault() -> io::Error {
    rustix::io::Errno::FAULT.into()
}
