//! What goes by the port between the VMM and init: frames of a kind (one byte), a length (four bytes,
//! little-endian) and so many bytes.

use std::io::{self, Read, Write};

/// The most bytes of a frame. More are a mistake of whoever sends them.
pub const FRAME_MAX: usize = 16 << 10;
/// Bytes of kind and length.
const HEADER: usize = 5;

/// A frame. Those for the guest and those from it have one number space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// To the guest: the command's standard input. Nothing is its end. The next is sent when this one
    /// is [`Taken`](Self::Taken).
    Stdin(Vec<u8>),
    /// To the guest: nobody reads what the command writes there any more: 1 for standard output, 2 for
    /// standard error.
    Closed(u8),
    /// To the guest: columns and rows of the terminal.
    Size(u16, u16),
    /// From the guest: what is to be run begins.
    Ready,
    /// From the guest: the command's standard output.
    Stdout(Vec<u8>),
    /// From the guest: the command's standard error.
    Stderr(Vec<u8>),
    /// From the guest: the command has ended with this status, as a shell has it. Nothing follows.
    Status(u8),
    /// From the guest: what was sent of the standard input is in the command's pipe.
    Taken,
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Stdin(_) => 1,
            Self::Closed(_) => 2,
            Self::Size(..) => 3,
            Self::Ready => 0x81,
            Self::Stdout(_) => 0x82,
            Self::Stderr(_) => 0x83,
            Self::Status(_) => 0x84,
            Self::Taken => 0x85,
        }
    }

    fn parse(kind: u8, body: Vec<u8>) -> Option<Self> {
        Some(match (kind, &body[..]) {
            (1, _) => Self::Stdin(body),
            (2, [stream]) => Self::Closed(*stream),
            (3, [a, b, c, d]) => {
                Self::Size(u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]))
            }
            (0x81, []) => Self::Ready,
            (0x82, _) => Self::Stdout(body),
            (0x83, _) => Self::Stderr(body),
            (0x84, [status]) => Self::Status(*status),
            (0x85, []) => Self::Taken,
            _ => return None,
        })
    }

    /// Writes a frame in one piece.
    ///
    /// # Errors
    /// Those of `to`; `InvalidInput` for a frame of more than [`FRAME_MAX`] bytes.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let body = match self {
            Self::Stdin(bytes) | Self::Stdout(bytes) | Self::Stderr(bytes) => bytes.clone(),
            Self::Closed(byte) | Self::Status(byte) => vec![*byte],
            Self::Size(columns, rows) => {
                [columns.to_le_bytes(), rows.to_le_bytes()].as_flattened().to_vec()
            }
            Self::Ready | Self::Taken => Vec::new(),
        };
        let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_MAX);
        let len = len.ok_or(io::ErrorKind::InvalidInput)?;
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.push(self.kind());
        bytes.extend(len.to_le_bytes());
        bytes.extend(body);
        to.write_all(&bytes)
    }

    /// Reads the next frame.
    ///
    /// # Errors
    /// Those of `from`; `InvalidData` for what is no frame.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; HEADER];
        from.read_exact(&mut header)?;
        let [kind, len @ ..] = header;
        let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
        if len > FRAME_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; len];
        from.read_exact(&mut body)?;
        Self::parse(kind, body).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let frames = [
            Frame::Stdin(vec![]),
            Frame::Closed(1),
            Frame::Size(80, 513),
            Frame::Ready,
            Frame::Stdout(vec![7; FRAME_MAX]),
            Frame::Stderr(b"x".to_vec()),
            Frame::Status(141),
            Frame::Taken,
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes).unwrap());
        let mut rest = &bytes[..];
        for frame in frames {
            assert_eq!(Frame::read(&mut rest).unwrap(), frame);
        }
        assert_eq!(Frame::read(&mut rest).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_takes_memory() {
        let wrong = [
            &[1, 1, 0x40, 0, 0][..],
            &[1, 0xff, 0xff, 0xff, 0xff],
            &[2, 0, 0, 0, 0],
            &[0x84, 2, 0, 0, 0, 1, 1],
            &[0, 0, 0, 0, 0],
        ];
        for mut bytes in wrong {
            let error = Frame::read(&mut bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        let long = Frame::Stdout(vec![0; FRAME_MAX + 1]);
        assert!(long.write(&mut Vec::new()).is_err());
    }
}
