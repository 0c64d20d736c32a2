//! The beginning of a connection (RFC 6143, 7.1 to 7.3).

use std::io::{self, Read, Write};

use super::pixel::PixelFormat;
use super::wire::{bytes, invalid};
use crate::Mode;

/// Our version; the viewer answers with its own, which is the one used.
const VERSION: &[u8; 12] = b"RFB 003.008\n";
/// The only security type we have: none.
const NONE: u8 = 1;

/// What a viewer has asked for so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// The other viewers may stay.
    pub(super) shared: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V3_3,
    V3_7,
    V3_8,
}

/// Goes through the handshake, up to and with the screen's size and name.
///
/// # Errors
/// The connection's end, or a viewer that wants something else.
pub(super) fn greet(
    stream: &mut (impl Read + Write),
    mode: Mode,
    name: &str,
) -> io::Result<Greeting> {
    stream.write_all(VERSION)?;
    let version = version(bytes(stream)?)?;
    if version == Version::V3_3 {
        // The server decides.
        stream.write_all(&u32::from(NONE).to_be_bytes())?;
    } else {
        stream.write_all(&[1, NONE])?;
        let [chosen] = bytes(stream)?;
        security_result(stream, version, chosen)?;
    }
    let [shared] = bytes(stream)?;
    stream.write_all(&server_init(mode, name))?;
    Ok(Greeting { shared: shared != 0 })
}

/// Versions other than these three count as 3.3, and those after 3.8 as 3.8 (RFC 6143, 7.1.1).
fn version(wire: [u8; 12]) -> io::Result<Version> {
    let text = wire.strip_prefix(b"RFB 003.").and_then(|rest| rest.strip_suffix(b"\n"));
    let digits = text.and_then(|digits| std::str::from_utf8(digits).ok());
    match digits.and_then(|digits| digits.parse::<u16>().ok()) {
        Some(7) => Ok(Version::V3_7),
        Some(8..) => Ok(Version::V3_8),
        Some(_) => Ok(Version::V3_3),
        None => Err(invalid("not a viewer")),
    }
}

/// 3.7 says nothing about success without authentication (RFC 6143, 7.1.3, and appendix A.2).
fn security_result(stream: &mut impl Write, version: Version, chosen: u8) -> io::Result<()> {
    match (version, chosen) {
        (Version::V3_8, NONE) => stream.write_all(&0u32.to_be_bytes()),
        (_, NONE) => Ok(()),
        (Version::V3_8, _) => {
            const REASON: &str = "there is no such security type here";
            let mut answer = 1u32.to_be_bytes().to_vec();
            answer.extend(u32::try_from(REASON.len()).unwrap_or(0).to_be_bytes());
            answer.extend(REASON.as_bytes());
            stream.write_all(&answer)?;
            Err(invalid("a security type we lack"))
        }
        _ => Err(invalid("a security type we lack")),
    }
}

fn server_init(mode: Mode, name: &str) -> Vec<u8> {
    let mut init = Vec::with_capacity(24 + name.len());
    init.extend(mode.width().to_be_bytes());
    init.extend(mode.height().to_be_bytes());
    init.extend(PixelFormat::NATIVE.encode());
    // A name is as long as its user made it; viewers put it in a title.
    let name: String = name.chars().take(64).collect();
    init.extend(u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
    init.extend(name.as_bytes());
    init
}
