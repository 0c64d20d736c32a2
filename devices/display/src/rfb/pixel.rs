//! Pixel formats (RFC 6143, 7.4): from the frame buffer's pixels to a viewer's.

use crate::Mode;

/// How a viewer wants its pixels: true colour in 1, 2 or 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PixelFormat {
    /// Bytes of a pixel: 1, 2 or 4.
    bytes: u8,
    depth: u8,
    big_endian: bool,
    red: Channel,
    green: Channel,
    blue: Channel,
}

/// A colour's place in a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Channel {
    /// Its brightest value.
    max: u16,
    /// Its lowest bit.
    shift: u8,
}

impl PixelFormat {
    /// The frame buffer's own.
    pub(super) const NATIVE: Self = Self {
        bytes: 4,
        depth: 24,
        big_endian: false,
        red: Channel { max: 255, shift: 16 },
        green: Channel { max: 255, shift: 8 },
        blue: Channel { max: 255, shift: 0 },
    };

    /// From a viewer. None for formats we lack: those with a colour map, and sizes that do not
    /// exist.
    pub(super) fn decode(wire: [u8; 16]) -> Option<Self> {
        let [bits, depth, big_endian, true_colour, r1, r0, g1, g0, b1, b0, r, g, b, _, _, _] = wire;
        let bytes = match bits {
            8 => 1,
            16 => 2,
            32 => 4,
            _ => return None,
        };
        let channel = |max: [u8; 2], shift: u8| {
            (shift < bits).then_some(Channel { max: u16::from_be_bytes(max), shift })
        };
        let (red, green) = (channel([r1, r0], r)?, channel([g1, g0], g)?);
        let blue = channel([b1, b0], b)?;
        let format = Self { bytes, depth, big_endian: big_endian != 0, red, green, blue };
        (true_colour != 0).then_some(format)
    }

    /// For a viewer.
    pub(super) fn encode(self) -> [u8; 16] {
        let [r1, r0] = self.red.max.to_be_bytes();
        let [g1, g0] = self.green.max.to_be_bytes();
        let [b1, b0] = self.blue.max.to_be_bytes();
        let (r, g, b) = (self.red.shift, self.green.shift, self.blue.shift);
        let big_endian = u8::from(self.big_endian);
        [8 * self.bytes, self.depth, big_endian, 1, r1, r0, g1, g0, b1, b0, r, g, b, 0, 0, 0]
    }
}

/// Turns the frame buffer's pixels into a viewer's.
pub(super) struct Converter {
    red: Vec<u32>,
    green: Vec<u32>,
    blue: Vec<u32>,
    bytes: usize,
    big_endian: bool,
    compact: Compact,
}

/// The three bytes that stand for a pixel of four in ZRLE (RFC 6143, 7.7.5, CPIXEL).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compact {
    /// All bytes count.
    No,
    /// The lowest three count.
    Low,
    /// The highest three count.
    High,
}

impl Converter {
    pub(super) fn new(format: PixelFormat) -> Self {
        let mask = u32::MAX >> (32 - 8 * u32::from(format.bytes));
        let table = |channel: Channel| -> Vec<u32> {
            let max = u32::from(channel.max);
            let scaled = |level: u32| (level * max + 127) / 255;
            (0..=255).map(|level| scaled(level).wrapping_shl(channel.shift.into()) & mask).collect()
        };
        let channels = [format.red, format.green, format.blue];
        let used = channels
            .iter()
            .fold(0u64, |used, channel| used | u64::from(channel.max) << channel.shift);
        let compact = match format.bytes {
            4 if format.depth <= 24 && used >> 24 == 0 => Compact::Low,
            4 if format.depth <= 24 && used & 0xff == 0 => Compact::High,
            _ => Compact::No,
        };
        Self {
            red: table(format.red),
            green: table(format.green),
            blue: table(format.blue),
            bytes: format.bytes.into(),
            big_endian: format.big_endian,
            compact,
        }
    }

    /// The pixels of a line as numbers.
    pub(super) fn values<'a>(&'a self, line: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
        line.chunks_exact(Mode::PIXEL).map(|pixel| {
            let level = |table: &[u32], at: usize| {
                let level = pixel.get(at).copied().unwrap_or_default();
                table.get(usize::from(level)).copied().unwrap_or_default()
            };
            level(&self.blue, 0) | level(&self.green, 1) | level(&self.red, 2)
        })
    }

    /// Appends a pixel.
    pub(super) fn push(&self, value: u32, to: &mut Vec<u8>) {
        if self.big_endian {
            to.extend(value.to_be_bytes().iter().skip(4 - self.bytes));
        } else {
            to.extend(value.to_le_bytes().iter().take(self.bytes));
        }
    }

    /// Appends a pixel as ZRLE has it.
    pub(super) fn push_compact(&self, value: u32, to: &mut Vec<u8>) {
        let three = match self.compact {
            Compact::No => return self.push(value, to),
            Compact::Low => value,
            Compact::High => value >> 8,
        };
        if self.big_endian {
            to.extend(three.to_be_bytes().iter().skip(1));
        } else {
            to.extend(three.to_le_bytes().iter().take(3));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn format(bits: u8, big_endian: u8, maxes: [u16; 3], shifts: [u8; 3]) -> PixelFormat {
        let mut wire = vec![bits, bits.min(24), big_endian, 1];
        maxes.iter().for_each(|max| wire.extend(max.to_be_bytes()));
        wire.extend(shifts);
        wire.resize(16, 0);
        PixelFormat::decode(wire.try_into().unwrap()).unwrap()
    }

    fn sent(format: PixelFormat, pixel: [u8; 4]) -> (Vec<u8>, Vec<u8>) {
        let converter = Converter::new(format);
        let (mut plain, mut compact) = (Vec::new(), Vec::new());
        for value in converter.values(&pixel) {
            converter.push(value, &mut plain);
            converter.push_compact(value, &mut compact);
        }
        (plain, compact)
    }

    /// Blue 0x33, green 0x66, red 0xcc.
    const PIXEL: [u8; 4] = [0x33, 0x66, 0xcc, 0xff];

    #[test]
    fn the_native_format_is_the_frame_buffers_without_its_hidden_byte() {
        let (plain, compact) = sent(PixelFormat::NATIVE, PIXEL);
        assert_eq!((plain, compact), (vec![0x33, 0x66, 0xcc, 0], vec![0x33, 0x66, 0xcc]));
        assert_eq!(PixelFormat::decode(PixelFormat::NATIVE.encode()), Some(PixelFormat::NATIVE));
    }

    #[test]
    fn sixteen_and_eight_bits_and_both_byte_orders() {
        let rgb565 = |order| format(16, order, [31, 63, 31], [11, 5, 0]);
        // 25/31, 25/63, 6/31.
        let value: u16 = 25 << 11 | 25 << 5 | 6;
        assert_eq!(sent(rgb565(0), PIXEL).0, value.to_le_bytes());
        assert_eq!(sent(rgb565(1), PIXEL).1, value.to_be_bytes());
        // 6/7, 3/7, 1/3.
        let bgr233 = format(8, 0, [7, 7, 3], [0, 3, 6]);
        assert_eq!(sent(bgr233, PIXEL).0, [6 | 3 << 3 | 1 << 6]);
        let high = format(32, 1, [255; 3], [24, 16, 8]);
        assert_eq!(sent(high, PIXEL), (vec![0xcc, 0x66, 0x33, 0], vec![0xcc, 0x66, 0x33]));
    }

    #[test]
    fn formats_with_a_colour_map_or_of_no_size_are_refused() {
        let mut wire = PixelFormat::NATIVE.encode();
        wire[3] = 0;
        assert_eq!(PixelFormat::decode(wire), None);
        for bits in [0, 1, 24, 64, 255] {
            let mut wire = PixelFormat::NATIVE.encode();
            wire[0] = bits;
            assert_eq!(PixelFormat::decode(wire), None, "{bits}");
        }
    }

    proptest! {
        #[test]
        fn any_format_that_is_taken_gives_pixels_of_its_size(wire: [u8; 16], pixel: [u8; 4]) {
            if let Some(format) = PixelFormat::decode(wire) {
                let (plain, compact) = sent(format, pixel);
                prop_assert_eq!(plain.len(), usize::from(format.bytes));
                prop_assert!(compact.len() == plain.len() || compact.len() == 3);
                let again = PixelFormat::decode(format.encode());
                prop_assert_eq!(again, Some(format));
            }
        }

        #[test]
        fn black_is_black_and_white_is_white(
            bits in prop::sample::select(vec![(5u8, 6u8, 5u8), (8, 8, 8), (5, 5, 5)]),
        ) {
            let (r, g, b) = bits;
            let max = |bits: u8| (1u16 << bits) - 1;
            let format = format(32, 0, [max(r), max(g), max(b)], [g + b, b, 0]);
            prop_assert_eq!(sent(format, [0; 4]).0, [0; 4]);
            let white = (1u32 << (r + g + b)) - 1;
            prop_assert_eq!(sent(format, [255; 4]).0, white.to_le_bytes());
        }
    }
}
