//! A viewer, written from RFC 6143 like any other.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use flate2::{Decompress, FlushDecompress};

use super::PATIENCE;
use crate::Rect;

/// A connection after its handshake.
pub(super) struct Viewer {
    pub(super) stream: TcpStream,
    inflate: Decompress,
    /// Bytes of a pixel, and of one in ZRLE.
    pub(super) pixel: (usize, usize),
    pub(super) size: (u16, u16),
    pub(super) name: String,
}

/// A rectangle of an update.
#[derive(Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) rect: Rect,
    pub(super) encoding: i32,
    /// Its pixels, as they came.
    pub(super) pixels: Vec<Vec<u8>>,
}

impl Viewer {
    /// Connects with protocol version 3.`minor`.
    pub(super) fn connect(address: SocketAddr, minor: u8, shared: bool) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let pixel = (4, 3);
        let mut viewer = Self {
            stream,
            inflate: Decompress::new(true),
            pixel,
            size: (0, 0),
            name: String::new(),
        };
        assert_eq!(&viewer.take::<12>(), b"RFB 003.008\n");
        viewer.say(format!("RFB 003.{minor:03}\n").as_bytes());
        if minor >= 7 {
            assert_eq!(viewer.take(), [1, 1], "one security type: none");
            viewer.say(&[1]);
        }
        if minor != 7 {
            assert_eq!(viewer.word(), u32::from(minor == 3), "3.3: the type; 3.8: success");
        }
        viewer.say(&[shared.into()]);
        viewer.size = (viewer.half(), viewer.half());
        assert_eq!(viewer.take::<16>()[..4], [32, 24, 0, 1]);
        let mut name = vec![0; viewer.word().try_into().unwrap()];
        viewer.stream.read_exact(&mut name).unwrap();
        viewer.name = String::from_utf8(name).unwrap();
        viewer
    }

    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn half(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    fn word(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    pub(super) fn set_encodings(&mut self, encodings: &[i32]) {
        let mut message = vec![2, 0];
        message.extend(u16::try_from(encodings.len()).unwrap().to_be_bytes());
        message.extend(encodings.iter().flat_map(|encoding| encoding.to_be_bytes()));
        self.say(&message);
    }

    pub(super) fn set_format(&mut self, format: [u8; 16], pixel: (usize, usize)) {
        self.say(&[0, 0, 0, 0]);
        self.say(&format);
        self.pixel = pixel;
    }

    pub(super) fn key(&mut self, down: bool, symbol: u32) {
        self.say(&[4, down.into(), 0, 0]);
        self.say(&symbol.to_be_bytes());
    }

    pub(super) fn pointer(&mut self, buttons: u8, x: u16, y: u16) {
        self.say(&[5, buttons]);
        self.say(&[x.to_be_bytes(), y.to_be_bytes()].concat());
    }

    pub(super) fn ask(&mut self, incremental: bool, area: Rect) {
        let mut message = vec![3, incremental.into()];
        for part in [area.x, area.y, area.width, area.height] {
            message.extend(part.to_be_bytes());
        }
        self.say(&message);
    }

    /// Asks for all of the screen, and reads the answer.
    pub(super) fn look(&mut self, incremental: bool) -> Vec<Piece> {
        let (width, height) = self.size;
        self.ask(incremental, Rect { x: 0, y: 0, width, height });
        self.update()
    }

    /// Reads an update.
    pub(super) fn update(&mut self) -> Vec<Piece> {
        let [kind, _] = self.take();
        assert_eq!(kind, 0);
        (0..self.half()).map(|_| self.piece()).collect()
    }

    fn piece(&mut self) -> Piece {
        let [x, y, width, height] = [self.half(), self.half(), self.half(), self.half()];
        let rect = Rect { x, y, width, height };
        let encoding = i32::from_be_bytes(self.take());
        let pixels = match encoding {
            0 => {
                let mut bytes = vec![0; rect.pixels() * self.pixel.0];
                self.stream.read_exact(&mut bytes).unwrap();
                bytes.chunks(self.pixel.0).map(<[u8]>::to_vec).collect()
            }
            16 => {
                let mut packed = vec![0; self.word().try_into().unwrap()];
                self.stream.read_exact(&mut packed).unwrap();
                let plain = inflate(&mut self.inflate, &packed);
                unpack(&plain, width.into(), height.into(), self.pixel.1)
            }
            other => panic!("encoding {other}"),
        };
        Piece { rect, encoding, pixels }
    }

    /// Whether the server has closed the connection.
    pub(super) fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }
}

pub(super) fn inflate(stream: &mut Decompress, packed: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let start = stream.total_in();
    loop {
        plain.reserve(1 << 16);
        let done = usize::try_from(stream.total_in() - start).unwrap();
        stream.decompress_vec(&packed[done..], &mut plain, FlushDecompress::Sync).unwrap();
        let all_in = stream.total_in() - start == packed.len() as u64;
        if all_in && plain.len() < plain.capacity() {
            return plain;
        }
    }
}

/// The pixels of a ZRLE rectangle (RFC 6143, 7.7.6), line by line.
pub(super) fn unpack(mut data: &[u8], width: usize, height: usize, pixel: usize) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new(); width * height];
    for top in (0..height).step_by(64) {
        for left in (0..width).step_by(64) {
            let (across, down) = ((width - left).min(64), (height - top).min(64));
            let mut take = |count: usize| {
                let (taken, rest) = data.split_at(count);
                data = rest;
                taken
            };
            let kind = usize::from(take(1)[0]);
            assert!(kind <= 16, "subencoding {kind}");
            let palette: Vec<&[u8]> = (0..kind).map(|_| take(pixel)).collect();
            let bits = [0, 0, 1, 2, 2].get(kind).copied().unwrap_or(4);
            for y in 0..down {
                let packed = if kind > 1 { take((across * bits).div_ceil(8)) } else { &[] };
                for x in 0..across {
                    let colour = match kind {
                        0 => take(pixel),
                        1 => palette[0],
                        _ => {
                            let shift = 8 - bits - x * bits % 8;
                            let index = packed[x * bits / 8] >> shift & ((1 << bits) - 1);
                            palette[usize::from(index)]
                        }
                    };
                    all[(top + y) * width + left + x] = colour.to_vec();
                }
            }
        }
    }
    assert!(data.is_empty());
    all
}
