//! What a driver is told of the card.

use super::regs::{
    CONFIG_LEN, DUPLEX_FULL, DUPLEX_UNKNOWN, SPEED_UNKNOWN, STATUS_ANNOUNCE, STATUS_LINK_UP,
};

/// The configuration space, `struct virtio_net_config`. What a feature that is not offered has in it
/// is 0.
pub(super) struct Config {
    pub(super) mac: [u8; 6],
    pub(super) has_link: bool,
    pub(super) announce: bool,
    pub(super) pairs: u16,
    pub(super) mtu: Option<u16>,
    pub(super) speed: Option<u32>,
}

impl Config {
    pub(super) fn bytes(&self) -> [u8; CONFIG_LEN as usize] {
        let link = if self.has_link { STATUS_LINK_UP } else { 0 };
        let status = link | if self.announce { STATUS_ANNOUNCE } else { 0 };
        // What there is no link for has no speed either.
        let (speed, duplex) = match self.speed {
            Some(speed) if self.has_link => (speed, DUPLEX_FULL),
            Some(_) => (SPEED_UNKNOWN, DUPLEX_UNKNOWN),
            None => (0, 0),
        };
        let fields: [&[u8]; 6] = [
            &self.mac,
            &status.to_le_bytes(),
            &self.pairs.to_le_bytes(),
            &self.mtu.unwrap_or(0).to_le_bytes(),
            &speed.to_le_bytes(),
            &[duplex],
        ];
        let mut config = [0; CONFIG_LEN as usize];
        let bytes = fields.into_iter().flatten();
        config.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        config
    }
}
