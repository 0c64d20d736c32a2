//! Cards, as users describe them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use trapline_device::{Clock, EventLoop};

use crate::{
    Abilities, Capture, Forward, FrameStream, Mac, NetBackend, Nobody, Tap, TapOptions, TapSource,
    User, UserNetOptions, passt,
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
    /// A network of its own, which needs no rights.
    User(UserOptions),
}

/// A network that needs no rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserOptions {
    /// Its addresses and forwarded ports.
    pub network: UserNetOptions,
    /// Who makes it.
    pub backend: UserBackend,
}

/// Who makes a network that needs no rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserBackend {
    /// passt where it is installed and runs, else this process.
    #[default]
    Either,
    /// passt, in a process of its own.
    Passt,
    /// This process.
    Embedded,
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
    /// passt was asked for, and cannot be had.
    #[error("cannot have a network of passt's: {0}")]
    Passt(io::Error),
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
            Self::User(options) => options.open(event_loop, clock)?,
        })
    }
}

impl UserOptions {
    /// As nobody else has said who makes it: with these addresses and ports.
    pub fn new(network: UserNetOptions) -> Self {
        Self { network, backend: UserBackend::default() }
    }

    fn open(
        &self,
        event_loop: &Arc<dyn EventLoop>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<dyn NetBackend>, NetError> {
        if self.backend != UserBackend::Embedded {
            match (passt::open(&self.network, &**event_loop), self.backend) {
                (Ok(stream), _) => return Ok(stream),
                (Err(reason), UserBackend::Passt) => return Err(NetError::Passt(reason)),
                (Err(reason), _) => tracing::debug!("there is no network of passt's: {reason}"),
            }
        }
        let refused = |(forward, reason)| NetError::Forward { forward, reason };
        Ok(User::new(&self.network, event_loop, clock).map_err(refused)?)
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
