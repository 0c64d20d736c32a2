//! What goes beyond the patches is agreed on before anything else is sent.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::ends::Ends;
use crate::ring::Shared;
use crate::wire::{COMMAND_LEN, Features, Hello, RESPONSE_LEN, Response};

impl Ends {
    /// Asks the device for what goes beyond the patches, and waits for its answer: what of `wanted` it
    /// does, and the ends to go on with. A ring takes a UNIX socket.
    ///
    /// To be called first, and only for a device that is known to know it: one of before takes it for no
    /// command, and ends.
    ///
    /// # Errors
    /// The device has ended, or has not answered for as long as `patience`; or there is no memory.
    pub fn negotiate(self, wanted: Features, patience: Duration) -> io::Result<(Self, Features)> {
        let deadline = Instant::now() + patience;
        let wants_ring = wanted.has(Features::RING) && self.is_unix_socket();
        let features = if wants_ring { wanted } else { wanted.and(Features::IDS) };
        let shared = wants_ring.then(Shared::new).transpose()?;
        let hello = Hello { features }.encode();
        match &shared {
            Some(shared) => {
                let fds = [shared.fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&fds));
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let sent =
                    sendmsg(self.writable(), &[io::IoSlice::new(&hello)], &mut control, flags)?;
                whole(sent, COMMAND_LEN)?;
            }
            None => whole(self.send(&hello, COMMAND_LEN)?, COMMAND_LEN)?,
        }
        let granted = Features::from_bits(self.answer(deadline)?.data).and(features);
        match shared.filter(|_| granted.has(Features::RING)) {
            Some(shared) => Ok((self.with_ring(|socket| shared.vmm(socket))?, granted)),
            None => Ok((self, granted.and(Features::IDS))),
        }
    }

    /// The device's answer to a hello.
    fn answer(&self, deadline: Instant) -> io::Result<Response> {
        let (mut bytes, mut have) = ([0; RESPONSE_LEN], 0);
        while have < RESPONSE_LEN {
            match self.receive(bytes.get_mut(have..).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => have += n,
                Err(Errno::AGAIN) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    let left = Timespec::try_from(left).ok();
                    let mut fds = [PollFd::from_borrowed_fd(self.readable(), PollFlags::IN)];
                    match poll(&mut fds, left.as_ref()) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Response::decode(&bytes))
    }

    /// Receives what comes first, and the descriptor that may come along with it.
    pub(crate) fn receive_first(&self, buf: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
        if !self.is_unix_socket() {
            return self.receive(buf).map(|len| (len, None));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut parts = [io::IoSliceMut::new(buf)];
        let message = recvmsg(self.readable(), &mut parts, &mut control, flags)?;
        let mut fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Ok((message.bytes, fds.next()))
    }
}

/// A hello is the first message, so a socket has room for it.
fn whole(sent: usize, len: usize) -> io::Result<()> {
    if sent == len { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The end of a device that was asked for a ring, or why it cannot be.
pub(crate) fn device_ring(ends: &Ends, memory: Option<OwnedFd>) -> io::Result<Ends> {
    let shared = Shared::received(memory.ok_or(io::ErrorKind::NotFound)?);
    let socket = ends.readable().as_fd().try_clone_to_owned()?;
    Ends::socket(socket)?.with_ring(|socket| shared.device(socket))
}
