//! A wire that leads to nobody.

use std::io;
use std::sync::Weak;

use trapline_guestio::Buffers;

use crate::{Abilities, Header, NetBackend, NetCard};

/// A back end that drops what it is sent, and has nothing to say. It can do what it is said to.
#[derive(Clone, Copy, Debug)]
pub struct Nobody(pub Abilities);

impl NetBackend for Nobody {
    fn abilities(&self) -> Abilities {
        self.0
    }

    fn attach(&self, _card: Weak<dyn NetCard>) {}

    fn set_receiving(&self, _pair: u16, _on: bool) {}

    fn send(&self, _pair: u16, _header: &Header, _frame: &mut Buffers) -> io::Result<()> {
        Ok(())
    }

    fn receive(&self, _pair: u16, _buf: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}
