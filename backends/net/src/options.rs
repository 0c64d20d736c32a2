//! Cards, as users describe them.

use std::io;
use std::sync::Arc;

use trapline_device::EventLoop;

use crate::{FrameStream, Mac, NetBackend, Nobody};

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
}

impl NetOptions {
    /// The card with this number, counted from 0, with this behind it, and nothing else said.
    pub fn new(number: u8, mode: NetMode) -> Self {
        Self { mac: GUEST_MAC.plus(number), mtu: None, speed: None, mode }
    }

    /// Opens what is behind the card.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn open(&self, event_loop: &Arc<dyn EventLoop>) -> Result<Arc<dyn NetBackend>, NetError> {
        match &self.mode {
            NetMode::Nobody => Ok(Arc::new(Nobody)),
            NetMode::Socket(fd) => {
                let refused = |reason| NetError::Socket { fd: *fd, reason };
                let socket = trapline_guestio::inherited(*fd).map_err(refused)?;
                let stream = FrameStream::new(socket, &**event_loop).map_err(refused)?;
                Ok(stream)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_nobody_has_is_named() {
        let event_loop: Arc<dyn EventLoop> = trapline_testkit::event_loop();
        let open = |fd| NetOptions::new(1, NetMode::Socket(fd)).open(&event_loop).map(|_| ());
        let said = open(1_000_000).unwrap_err().to_string();
        assert!(said.starts_with("network socket 1000000: Bad file descriptor"), "{said}");
        assert!(open(-1).is_err());
        assert_eq!(NetOptions::new(2, NetMode::Nobody).mac.to_string(), "02:15:15:15:15:17");
    }
}
