//! Zlib run-length encoding (RFC 6143, 7.7.6): tiles of 64 by 64 pixels in one zlib stream per
//! viewer. A tile goes out solid, with a palette of up to 16 colours, or as it is; a text console is
//! nearly all of the first two kinds.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::pixel::Converter;

/// Pixels of a tile each way.
const TILE: usize = 64;
/// The most colours a packed palette has.
const PALETTE_MAX: usize = 16;
/// Subencodings.
const RAW: u8 = 0;
const SOLID: u8 = 1;

/// A viewer's stream.
pub(super) struct Zrle {
    stream: Compress,
    plain: Vec<u8>,
}

impl Zrle {
    pub(super) fn new() -> Self {
        Self { stream: Compress::new(Compression::fast(), true), plain: Vec::new() }
    }

    /// Appends a rectangle of these pixels, `width` to a line, as the rectangle's data.
    pub(super) fn encode(
        &mut self,
        pixels: &[u32],
        width: usize,
        converter: &Converter,
        to: &mut Vec<u8>,
    ) {
        self.plain.clear();
        let mut tile = Vec::with_capacity(TILE * TILE);
        for band in pixels.chunks(width.max(1) * TILE) {
            for left in (0..width).step_by(TILE) {
                let right = width.min(left + TILE);
                tile.clear();
                let rows = band.chunks_exact(width);
                tile.extend(rows.flat_map(|row| row.get(left..right).unwrap_or_default()));
                encode_tile(&tile, right - left, converter, &mut self.plain);
            }
        }
        let start = to.len();
        to.extend([0; 4]);
        self.compress(to);
        let len = u32::try_from(to.len() - start - 4).unwrap_or(u32::MAX);
        to.iter_mut().skip(start).zip(len.to_be_bytes()).for_each(|(at, byte)| *at = byte);
    }

    fn compress(&mut self, to: &mut Vec<u8>) {
        let start = self.stream.total_in();
        loop {
            to.reserve(self.plain.len() / 4 + 1024);
            let done = usize::try_from(self.stream.total_in() - start).unwrap_or(usize::MAX);
            let rest = self.plain.get(done..).unwrap_or_default();
            let status = self.stream.compress_vec(rest, to, FlushCompress::Sync);
            // Everything is out once there is room left after everything went in.
            let room = to.capacity() - to.len();
            let all_in = self.stream.total_in() - start == self.plain.len() as u64;
            match status {
                Ok(Status::Ok | Status::BufError) if !(all_in && room > 0) => {}
                _ => return,
            }
        }
    }
}

fn encode_tile(tile: &[u32], width: usize, converter: &Converter, to: &mut Vec<u8>) {
    let mut palette: Vec<u32> = Vec::with_capacity(PALETTE_MAX);
    for pixel in tile {
        if palette.contains(pixel) {
            continue;
        }
        if palette.len() == PALETTE_MAX {
            to.push(RAW);
            tile.iter().for_each(|pixel| converter.push_compact(*pixel, to));
            return;
        }
        palette.push(*pixel);
    }
    match u8::try_from(palette.len()) {
        Ok(count @ 2..) => to.push(count),
        _ => to.push(SOLID),
    }
    palette.iter().for_each(|pixel| converter.push_compact(*pixel, to));
    let bits = match palette.len() {
        0 | 1 => return,
        2 => 1,
        3..=4 => 2,
        _ => 4,
    };
    let index = |pixel: &u32| palette.iter().position(|colour| colour == pixel).unwrap_or(0);
    for row in tile.chunks(width.max(1)) {
        for packed in row.chunks(8 / bits) {
            // The leftmost pixel is in the highest bits; what is left of the last byte is padding.
            let byte = packed.iter().fold(0, |byte, pixel| byte << bits | index(pixel));
            let byte = byte << (8 - bits * packed.len());
            to.push(u8::try_from(byte).unwrap_or(0));
        }
    }
}
