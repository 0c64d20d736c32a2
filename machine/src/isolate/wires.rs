//! What a device and the VMM say to each other beside accesses: a socket that keeps the borders of
//! messages, `SOCK_SEQPACKET`, with a message of serde's in each.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use trapline_device::Saved;

use super::kind::Kind;

/// Longest message in bytes. The states of the devices there are have a fraction of that.
const MESSAGE_MAX: usize = 4096;
/// Most characters in a message.
pub(super) const CHARACTERS_MAX: usize = 512;

/// What the VMM tells a device's process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToDevice {
    /// The first one: what it is to be.
    Start {
        /// The device.
        kind: Kind,
        /// Its name on the board.
        name: String,
        /// When machine time began, in nanoseconds of `CLOCK_MONOTONIC`.
        epoch_ns: u64,
        /// How many characters it can send for now.
        room: usize,
    },
    /// Characters for it, no more than it has room for.
    Characters(Vec<u8>),
    /// It can send so many characters more.
    Room(usize),
    /// The other end of the line sends a break.
    Break,
    /// A key of the keyboard goes down or up.
    Key(Vec<u8>),
    /// The mouse moves, or its buttons do.
    Movement {
        /// Counts to the right.
        dx: i32,
        /// Counts up.
        dy: i32,
        /// The buttons that are down.
        buttons: u8,
    },
    /// The state to become, when it is told to ([`Order::Restore`]).
    State(Saved),
}

/// What a device's process tells the VMM.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromDevice {
    /// The first one: it is there, and confined.
    Ready {
        /// Whether the kernel keeps it from files and the network.
        landlock: bool,
    },
    /// One of its interrupt lines has changed.
    Level {
        /// Which one, from 0.
        line: usize,
        /// Where to.
        high: bool,
    },
    /// Characters it sends, no more than it was given room for.
    Characters(Vec<u8>),
    /// It has room for so many characters more.
    Room(usize),
    /// The guest asks through it for the machine to be reset.
    PowerReset,
    /// Its state ([`Order::Save`]).
    State(Saved),
    /// Why it has not become the state it was to be, unless it has ([`Order::Restore`]).
    Restored(Option<String>),
    /// It cannot go on.
    Failed(String),
}

/// What the VMM has a device's process do between two accesses: a write to a register that is not the
/// device's, at the offset of the order, so that it comes after all that the guest has done before, and
/// is done when it is answered. A read there waits for the same and does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    /// Power-on state.
    Reset,
    /// Time goes on without it: no timers, no characters.
    Pause,
    /// After that.
    Resume,
    /// Say what state it has.
    Save,
    /// Become the state it was sent.
    Restore,
}

impl Order {
    pub(super) const ALL: [Self; 5] =
        [Self::Reset, Self::Pause, Self::Resume, Self::Save, Self::Restore];
}

/// What the region of [`Order`]s is called on the channel. Those of the device are called by the register
/// they begin with, up to [`FIRST_REGISTERS`] of them.
pub(super) const ORDERS: u64 = u64::MAX;
pub(super) const FIRST_REGISTERS: u64 = 8;

/// Why nothing more comes.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("it has ended")]
    Closed,
    #[error("what it says makes no sense")]
    Nonsense,
    #[error("the socket to it fails: {0}")]
    Io(Errno),
}

/// One end.
#[derive(Debug)]
pub(super) struct Wires(OwnedFd);

impl Wires {
    /// Both ends.
    pub(super) fn pair() -> io::Result<[OwnedFd; 2]> {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok([a, b])
    }

    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends, if that can be at once; whether it could.
    pub(super) fn send<M: Serialize>(&self, message: &M) -> Result<bool, Broken> {
        let Ok(bytes) = postcard::to_allocvec(message) else { return Err(Broken::Nonsense) };
        loop {
            return match send(&self.0, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => Ok(true),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Ok(false),
                Err(Errno::PIPE | Errno::CONNRESET) => Err(Broken::Closed),
                Err(error) => Err(Broken::Io(error)),
            };
        }
    }

    /// The next message, if one has come.
    pub(super) fn receive<M: DeserializeOwned>(&self) -> Result<Option<M>, Broken> {
        let mut buf = [0; MESSAGE_MAX];
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let len = loop {
            match recv(&self.0, &mut buf, flags) {
                Ok((_, len)) => break len,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNRESET) => return Err(Broken::Closed),
                Err(error) => return Err(Broken::Io(error)),
            }
        };
        if len == 0 {
            return Err(Broken::Closed);
        }
        let bytes = buf.get(..len).ok_or(Broken::Nonsense)?;
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Ok(Some(message)),
            _ => Err(Broken::Nonsense),
        }
    }

    /// Waits until something has come, or there is room: so long at most; whether that is so.
    pub(super) fn wait(&self, what: PollFlags, time: Option<Duration>) -> bool {
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let mut fds = [PollFd::new(&self.0, what)];
        poll(&mut fds, time.as_ref()).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Wires {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_no_message_is_nonsense_and_the_end_is_the_end() {
        let [ours, theirs] = Wires::pair().unwrap();
        let wires = Wires::new(ours);
        assert!(wires.receive::<FromDevice>().unwrap().is_none());
        let long = vec![0; MESSAGE_MAX + 1];
        let known = postcard::to_allocvec(&FromDevice::PowerReset).unwrap();
        let too_long = [&known[..], &[0]].concat();
        for bytes in [&long[..], &[0xff], &too_long] {
            send(&theirs, bytes, SendFlags::NOSIGNAL).unwrap();
            let broken = wires.receive::<FromDevice>().unwrap_err();
            assert!(matches!(broken, Broken::Nonsense), "{broken}");
        }
        send(&theirs, &known, SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(wires.receive().unwrap(), Some(FromDevice::PowerReset)));
        drop(theirs);
        assert!(matches!(wires.receive::<FromDevice>(), Err(Broken::Closed)));
        assert!(matches!(wires.send(&ToDevice::Break), Err(Broken::Closed)));
    }
}
