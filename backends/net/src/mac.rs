//! Addresses of network cards.

use std::fmt;
use std::str::FromStr;

/// An EUI-48 address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(
    /// Its octets, as they are sent.
    pub [u8; 6],
);

impl Mac {
    /// Everybody's.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it is that of a group; everybody's is one.
    pub const fn is_multicast(self) -> bool {
        let Self([first, ..]) = self;
        first & 1 != 0
    }

    /// Whether a card can have it: it is no group's, and not all zeroes.
    pub const fn is_one_cards(self) -> bool {
        !self.is_multicast() && !matches!(self, Self([0, 0, 0, 0, 0, 0]))
    }

    /// The address `n` further on in the last octet, which wraps.
    #[must_use]
    pub const fn plus(self, n: u8) -> Self {
        let Self([a, b, c, d, e, f]) = self;
        Self([a, b, c, d, e, f.wrapping_add(n)])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([a, b, c, d, e, g]) = self;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text is no address that a card can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacError;

impl fmt::Display for MacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no address of a network card: write six octets as in 02:15:15:15:15:15")
    }
}

impl std::error::Error for MacError {}

impl FromStr for Mac {
    type Err = MacError;

    /// Understands six hexadecimal octets between colons.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let octet = |part: &str| {
            let digits =
                (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(part, 16).ok()).flatten().ok_or(MacError)
        };
        let octets = text.split(':').map(octet).collect::<Result<Vec<_>, _>>()?;
        let mac = Self(octets.try_into().map_err(|_| MacError)?);
        if mac.is_one_cards() { Ok(mac) } else { Err(MacError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_octets_that_one_card_can_have() {
        let mac: Mac = "2:15:Ab:00:0:ff".parse().unwrap();
        assert_eq!(
            (mac, mac.to_string().as_str()),
            (Mac([2, 0x15, 0xab, 0, 0, 0xff]), "02:15:ab:00:00:ff")
        );
        assert_eq!(mac.plus(2), Mac([2, 0x15, 0xab, 0, 0, 1]));
        for text in [
            "",
            "2",
            "2:1:1:1:1",
            "2:1:1:1:1:1:1",
            "2:1:1:1:1:100",
            "2:1:1:1:1:g",
            "2:1:1:1:1:",
            "2:1:1:1:1:+1",
            "0:0:0:0:0:0",
            "1:0:5e:0:0:1",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(MacError), "{text}");
        }
    }
}
