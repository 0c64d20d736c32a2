//! The messages of a viewer (RFC 6143, 7.5), read without trust: nothing is allocated for a length
//! a viewer names.

use std::io::{self, Read};

use super::pixel::PixelFormat;
use crate::Rect;

/// What a viewer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Pixels are to be sent like this.
    SetPixelFormat(PixelFormat),
    /// It understands these encodings.
    SetEncodings(Encodings),
    /// It wants to see.
    Update(Request),
    /// A key.
    Key {
        /// It goes down.
        down: bool,
        /// An X11 key symbol.
        symbol: u32,
    },
    /// The pointer.
    Pointer {
        /// Bit 0 left, 1 middle, 2 right; wheels above.
        buttons: u8,
        /// Its column.
        x: u16,
        /// Its line.
        y: u16,
    },
    /// Text it has cut. There is nowhere to paste it.
    CutText,
}

/// What a viewer wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Only what is new.
    pub(super) incremental: bool,
    /// Where.
    pub(super) area: Rect,
}

/// Which of our encodings a viewer understands. Every viewer understands Raw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Encodings {
    /// ZRLE.
    pub(super) zrle: bool,
}

/// Raw pixels (RFC 6143, 7.7.1).
pub(super) const RAW: i32 = 0;
/// Zlib run-length encoding (RFC 6143, 7.7.6).
pub(super) const ZRLE: i32 = 16;

/// Reads the next message.
///
/// # Errors
/// The connection's end, or `InvalidData` for what no viewer may say: it cannot be skipped, as its
/// length is not known.
pub(super) fn read(from: &mut impl Read) -> io::Result<Message> {
    let [kind] = bytes(from)?;
    match kind {
        0 => {
            let [_, _, _] = bytes(from)?;
            let format = PixelFormat::decode(bytes(from)?);
            format.map(Message::SetPixelFormat).ok_or_else(|| invalid("a pixel format we lack"))
        }
        2 => {
            let [_, high, low] = bytes(from)?;
            let mut encodings = Encodings::default();
            for _ in 0..u16::from_be_bytes([high, low]) {
                encodings.zrle |= i32::from_be_bytes(bytes(from)?) == ZRLE;
            }
            Ok(Message::SetEncodings(encodings))
        }
        3 => {
            let [incremental] = bytes(from)?;
            let [x, y, width, height] = [half(from)?, half(from)?, half(from)?, half(from)?];
            let area = Rect { x, y, width, height };
            Ok(Message::Update(Request { incremental: incremental != 0, area }))
        }
        4 => {
            let [down, _, _] = bytes(from)?;
            Ok(Message::Key { down: down != 0, symbol: u32::from_be_bytes(bytes(from)?) })
        }
        5 => {
            let [buttons] = bytes(from)?;
            Ok(Message::Pointer { buttons, x: half(from)?, y: half(from)? })
        }
        6 => {
            let [_, _, _] = bytes(from)?;
            let len = u64::from(u32::from_be_bytes(bytes(from)?));
            match io::copy(&mut from.take(len), &mut io::sink())? {
                all if all == len => Ok(Message::CutText),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        _ => Err(invalid("a message of no known kind")),
    }
}

pub(super) fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn half(from: &mut impl Read) -> io::Result<u16> {
    Ok(u16::from_be_bytes(bytes(from)?))
}

pub(super) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The header of a rectangle (RFC 6143, 7.6.1).
pub(super) fn rect_header(rect: Rect, encoding: i32, to: &mut Vec<u8>) {
    for part in [rect.x, rect.y, rect.width, rect.height] {
        to.extend(part.to_be_bytes());
    }
    to.extend(encoding.to_be_bytes());
}
