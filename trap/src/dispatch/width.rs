//! The part of an access that falls into one region, cut to the sizes its handler codes for.

use trapline_access::{Handler, IoCx, Limits, Rules, Size};

/// Little-endian bytes as a number; missing high bytes are zero.
#[inline]
pub(crate) fn load(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => a.into(),
        [a, b] => u16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => {
            let mut value = [0; 8];
            value.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            u64::from_le_bytes(value)
        }
    }
}

/// The low bytes of `value` into `bytes`, lowest first.
#[inline]
pub(crate) fn store(bytes: &mut [u8], value: u64) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match bytes.len() {
        1 => bytes.copy_from_slice(&[a]),
        2 => bytes.copy_from_slice(&[a, b]),
        4 => bytes.copy_from_slice(&[a, b, c, d]),
        8 => bytes.copy_from_slice(&[a, b, c, d, e, f, g, h]),
        _ => bytes.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from),
    }
}

/// Reads `buf.len()` bytes at the handler's `offset`. Whether `rules` accept that shape; `buf`
/// is left as it was if not.
pub(crate) fn read(
    handler: &dyn Handler,
    rules: Rules,
    cx: &IoCx<'_>,
    offset: u64,
    buf: &mut [u8],
) -> bool {
    let Rules { valid, handled } = rules;
    if !valid.admit(offset, buf.len()) {
        return false;
    }
    let mut rest = buf;
    let mut at = offset;
    while !rest.is_empty() {
        let piece = Piece::first(handled, at, rest.len());
        let value = handler.read(cx, piece.unit_offset, piece.unit) >> (piece.skip * 8);
        let (now, later) = rest.split_at_mut(piece.len.min(rest.len()));
        store(now, value);
        at = at.wrapping_add(now.len() as u64);
        rest = later;
    }
    true
}

/// Writes `data` at the handler's `offset`. Whether `rules` accept that shape.
pub(crate) fn write(
    handler: &dyn Handler,
    rules: Rules,
    cx: &IoCx<'_>,
    offset: u64,
    data: &[u8],
) -> bool {
    let Rules { valid, handled } = rules;
    if !valid.admit(offset, data.len()) {
        return false;
    }
    let mut rest = data;
    let mut at = offset;
    while !rest.is_empty() {
        let piece = Piece::first(handled, at, rest.len());
        let (now, later) = rest.split_at(piece.len.min(rest.len()));
        write_piece(handler, cx, piece, now);
        at = at.wrapping_add(now.len() as u64);
        rest = later;
    }
    true
}

fn write_piece(handler: &dyn Handler, cx: &IoCx<'_>, piece: Piece, data: &[u8]) {
    let mut value = load(data);
    if data.len() < piece.unit.bytes() {
        // Narrower than the handler's narrowest: the rest of its unit keeps its value.
        let mut unit = handler.read(cx, piece.unit_offset, piece.unit).to_le_bytes();
        unit.iter_mut().skip(piece.skip).zip(data).for_each(|(to, from)| *to = *from);
        value = u64::from_le_bytes(unit);
    }
    handler.write(cx, piece.unit_offset, piece.unit, value & piece.unit.ones());
}

/// One call of a handler, and which bytes of it are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    unit_offset: u64,
    unit: Size,
    /// Bytes of the unit before the wanted ones.
    skip: usize,
    /// Wanted bytes.
    len: usize,
}

impl Piece {
    /// The first call for `left` bytes at `offset`.
    fn first(handled: Limits, offset: u64, left: usize) -> Self {
        let most = left.min(handled.max.bytes());
        let whole = Size::new(most).filter(|_| handled.unaligned);
        let size = whole.unwrap_or_else(|| Size::largest_aligned(offset, most));
        if size >= handled.min {
            return Self { unit_offset: offset, unit: size, skip: 0, len: size.bytes() };
        }
        let mask = handled.min.bytes() as u64 - 1;
        let skip = usize::from((offset & mask).to_le_bytes()[0]);
        let len = left.min(handled.min.bytes() - skip);
        Self { unit_offset: offset & !mask, unit: handled.min, skip, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use trapline_access::{NoRegions, Requester};

    fn cut(handled: Limits, mut offset: u64, mut left: usize) -> Vec<(u64, usize, usize, usize)> {
        let mut out = Vec::new();
        while left > 0 {
            let piece = Piece::first(handled, offset, left);
            out.push((piece.unit_offset, piece.unit.bytes(), piece.skip, piece.len));
            offset += piece.len as u64;
            left -= piece.len;
        }
        out
    }

    #[test]
    fn odd_lengths_become_aligned_powers_of_two() {
        let handled = Rules::ANY.handled;
        assert_eq!(cut(handled, 0, 7), [(0, 4, 0, 4), (4, 2, 0, 2), (6, 1, 0, 1)]);
        assert_eq!(cut(handled, 1, 3), [(1, 1, 0, 1), (2, 2, 0, 2)]);
        assert_eq!(cut(Rules::BYTES.handled, 2, 2), [(2, 1, 0, 1), (3, 1, 0, 1)]);
    }

    /// Eight registers of four bytes that hold their own offsets in every byte, read and written by
    /// the register only.
    struct Dwords(Mutex<Vec<(u64, u64)>>);

    impl Handler for Dwords {
        fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
            assert_eq!(size, Size::Dword);
            offset | (offset + 1) << 8 | (offset + 2) << 16 | (offset + 3) << 24
        }

        fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
            assert_eq!(size, Size::Dword);
            self.0.lock().push((offset, value));
        }
    }

    #[test]
    fn bytes_of_a_wider_register_are_read_and_written_in_their_place() {
        let rules = Rules { handled: Limits::only(Size::Dword), ..Rules::ANY };
        let cx = IoCx::new(Requester::Dma, &NoRegions);
        for at in 0..8u8 {
            for len in 1..=8 {
                let device = Dwords(Mutex::default());
                let mut buf = vec![0; len];
                assert!(read(&device, rules, &cx, at.into(), &mut buf));
                assert!(buf.iter().copied().eq((at..).take(len)), "{buf:x?} at {at}");
                let data = vec![0xee; len];
                assert!(write(&device, rules, &cx, at.into(), &data));
                let log = device.0.into_inner();
                let mut written = Vec::new();
                for (offset, value) in log {
                    let value = u32::try_from(value).unwrap_or(0).to_le_bytes();
                    written.extend((offset..).zip(value));
                }
                let end = u64::from(at) + len as u64;
                let whole = u64::from(at & !3)..end.next_multiple_of(4);
                let byte =
                    |i: u64| if (at.into()..end).contains(&i) { 0xee } else { i.to_le_bytes()[0] };
                let expected: Vec<(u64, u8)> = whole.map(|i| (i, byte(i))).collect();
                assert_eq!(written, expected, "{len} bytes at {at}");
            }
        }
    }

    #[test]
    fn narrow_accesses_are_widened_to_the_unit_around_them() {
        let dwords = Limits::only(Size::Dword);
        assert_eq!(cut(dwords, 5, 1), [(4, 4, 1, 1)]);
        assert_eq!(cut(dwords, 6, 4), [(4, 4, 2, 2), (8, 4, 0, 2)]);
        assert_eq!(cut(dwords, 0, 8), [(0, 4, 0, 4), (4, 4, 0, 4)]);
    }
}
