//! Cards, as users describe them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use trapline_device::{Clock, EventLoop};

use crate::{
    Abilities, Capture, Forward, FrameStream, Mac, NetBackend, Nobody, Tap, TapOptions, TapSource,
    User, UserNetOptions,
};

/// The address of a guest's first card, unless it is told another: kvmtool's.
pub const GUEST_MAC: Mac = Mac([0x02, 0x15, 0x15, 0x15, 0x15, 0x15]);

/// A card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetOptions {
    /// Its address.
    pub mac: Mac,
    /// The most bytes of an IP packet, if its driver is told another than the back end says.
    pub mtu: Option<u16>,
    /// Its speed in megabits a second, if its driver is told any.
    pub speed: Option<u32>,
    /// Where all of its frames are copied to, if anywhere.
    pub pcap: Option<PathBuf>,
    /// What is behind it.
    pub mode: NetMode,
}

/// What is behind a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetMode {
    /// Nothing.
    Nobody,
    /// A stream of frames over a socket that this process was started with, by its number.
    Socket(i32),
    /// A tap.
    Tap(TapOptions),
    /// A network in this process, which needs no rights.
    User(UserNetOptions),
}

/// What is behind a card cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A descriptor that this process was not started with, or that is no socket.
    #[error("network socket {fd}: {reason}")]
    Socket {
        /// Its number.
        fd: i32,
        /// Why not.
        reason: io::Error,
    },
    /// A tap.
    #[error("cannot have {}: {reason}", tap_of(.tap))]
    Tap {
        /// Where it was to come from.
        tap: TapSource,
        /// Why not.
        reason: io::Error,
    },
    /// A forwarded port.
    #[error("cannot forward {forward}: {reason}")]
    Forward {
        /// Where it was to be.
        forward: Forward,
        /// Why not.
        reason: io::Error,
    },
    /// A file for copies of frames.
    #[error("cannot write {}: {reason}", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
}

fn tap_of(source: &TapSource) -> String {
    match source {
        TapSource::New(_) => "a new tap".to_owned(),
        TapSource::Named(name) => format!("the tap {name}"),
        TapSource::Fd(fd) => format!("the tap with descriptor {fd}"),
    }
}

impl NetOptions {
    /// The card with this number, counted from 0, with this behind it, and nothing else said.
    pub fn new(number: u8, mode: NetMode) -> Self {
        Self { mac: GUEST_MAC.plus(number), mtu: None, speed: None, pcap: None, mode }
    }

    /// Opens what is behind the card.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn open(
        &self,
        event_loop: &Arc<dyn EventLoop>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<dyn NetBackend>, NetError> {
        let backend = self.mode.open(event_loop, clock)?;
        let Some(path) = &self.pcap else { return Ok(backend) };
        let refused = |reason| NetError::Capture { path: path.clone(), reason };
        Ok(Capture::new(backend, path, Arc::clone(clock)).map_err(refused)?)
    }
}

impl NetMode {
    fn open(
        &self,
        event_loop: &Arc<dyn EventLoop>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<dyn NetBackend>, NetError> {
        Ok(match self {
            Self::Nobody => Arc::new(Nobody(Abilities::PLAIN)),
            Self::Socket(fd) => {
                let refused = |reason| NetError::Socket { fd: *fd, reason };
                let socket = trapline_guestio::inherited(*fd).map_err(refused)?;
                FrameStream::new(socket, &**event_loop).map_err(refused)?
            }
            Self::Tap(options) => {
                let tap = options.source.clone();
                Tap::open(options, &**event_loop).map_err(|reason| NetError::Tap { tap, reason })?
            }
            Self::User(options) => {
                let refused = |(forward, reason)| NetError::Forward { forward, reason };
                User::new(options, event_loop, clock).map_err(refused)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_nobody_has_is_named() {
        let event_loop: Arc<dyn EventLoop> = trapline_testkit::event_loop();
        let clock: Arc<dyn Clock> = Arc::new(trapline_testkit::TestClock::default());
        let open =
            |fd| NetOptions::new(1, NetMode::Socket(fd)).open(&event_loop, &clock).map(|_| ());
        let said = open(1_000_000).unwrap_err().to_string();
        assert!(said.starts_with("network socket 1000000: Bad file descriptor"), "{said}");
        assert!(open(-1).is_err());
        let pcap = Some("/no/such/file".into());
        let copied = NetOptions { pcap, ..NetOptions::new(0, NetMode::Nobody) };
        let said = copied.open(&event_loop, &clock).err().unwrap().to_string();
        assert_eq!(said, "cannot write /no/such/file: No such file or directory (os error 2)");
        assert_eq!(NetOptions::new(2, NetMode::Nobody).mac.to_string(), "02:15:15:15:15:17");
    }
}
