//! What a driver asks for in a chain, whatever buffers it has cut it into.

use std::ops::Range;

use trapline_block::{Disk, Failure, Request, SECTOR, Zeroes};
use trapline_guestmem::GuestMem;

use super::config::{SEGMENT_SECTORS_MAX, SEGMENTS_MAX};
use super::regs::{
    F_DISCARD, F_SECURE_ERASE, F_WRITE_ZEROES, HEADER_LEN, S_IOERR, S_OK, S_UNSUPP, SEGMENT_LEN,
    SEGMENT_UNMAP, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT, T_SECURE_ERASE, T_WRITE_ZEROES,
};
use crate::Chain;

/// What becomes of a chain.
pub(super) enum Parsed {
    /// The image is asked.
    Request(Request),
    /// It is answered with this status at once.
    Status(u8),
}

/// How requests are understood at present.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) disk: &'a Disk,
    /// What the driver has accepted.
    pub(super) features: u64,
    /// Whether a write is durable when it is done.
    pub(super) durable: bool,
}

impl Rules<'_> {
    /// Understands a chain.
    pub(super) fn parse(self, chain: &Chain, mem: &GuestMem) -> Parsed {
        let mut header = [0; HEADER_LEN];
        if chain.read_at(mem, 0, &mut header).is_err() {
            return Parsed::Status(S_IOERR);
        }
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let (kind, sector) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(sector));
        let parsed = match kind {
            T_IN => self.read(chain, mem, sector),
            T_OUT => self.write(chain, mem, sector),
            T_FLUSH => Some(Parsed::Request(Request::Flush)),
            T_GET_ID => self.identify(chain, mem),
            T_DISCARD if self.features & F_DISCARD != 0 => ranges(chain, mem, Request::Discard),
            T_SECURE_ERASE if self.features & F_SECURE_ERASE != 0 => {
                ranges(chain, mem, Request::Erase)
            }
            T_WRITE_ZEROES if self.features & F_WRITE_ZEROES != 0 => self.write_zeroes(chain, mem),
            _ => Some(Parsed::Status(S_UNSUPP)),
        };
        parsed.unwrap_or(Parsed::Status(S_IOERR))
    }

    fn read(self, chain: &Chain, mem: &GuestMem, sector: u64) -> Option<Parsed> {
        let len = whole_sectors(chain.writable_len().checked_sub(1)?)?;
        let buffers = chain.writable_buffers(mem, 0..len).ok()?;
        Some(Parsed::Request(Request::Read { offset: sector.checked_mul(SECTOR)?, buffers }))
    }

    fn write(self, chain: &Chain, mem: &GuestMem, sector: u64) -> Option<Parsed> {
        let len = chain.readable_len();
        whole_sectors(len.checked_sub(HEADER_LEN as u64)?)?;
        let buffers = chain.readable_buffers(mem, HEADER_LEN as u64..len).ok()?;
        let offset = sector.checked_mul(SECTOR)?;
        Some(Parsed::Request(Request::Write { offset, buffers, durable: self.durable }))
    }

    fn identify(self, chain: &Chain, mem: &GuestMem) -> Option<Parsed> {
        let room = usize::try_from(chain.writable_len().checked_sub(1)?).ok()?;
        let serial = self.disk.serial();
        let serial = serial.get(..room.min(serial.len()))?;
        chain.write_at(mem, 0, serial).ok()?;
        Some(Parsed::Status(S_OK))
    }

    fn write_zeroes(self, chain: &Chain, mem: &GuestMem) -> Option<Parsed> {
        let segments = segments(chain, mem)?;
        if segments.iter().any(|segment| segment.flags & !SEGMENT_UNMAP != 0) {
            return Some(Parsed::Status(S_UNSUPP));
        }
        let zeroes = |segment: &Segment| {
            Some(Zeroes { range: segment.range()?, unmap: segment.flags & SEGMENT_UNMAP != 0 })
        };
        let zeroes = segments.iter().map(zeroes).collect::<Option<_>>()?;
        Some(Parsed::Request(Request::WriteZeroes(zeroes)))
    }
}

/// What a driver is told of a request's outcome.
pub(super) fn status(outcome: &Result<(), Failure>) -> u8 {
    match outcome {
        Ok(()) => S_OK,
        Err(Failure::Unsupported) => S_UNSUPP,
        Err(Failure::OutOfRange | Failure::ReadOnly | Failure::Io(_)) => S_IOERR,
    }
}

/// What is of whole sectors only.
fn whole_sectors(len: u64) -> Option<u64> {
    len.is_multiple_of(SECTOR).then_some(len)
}

/// A request that has nothing but ranges.
fn ranges(
    chain: &Chain,
    mem: &GuestMem,
    request: impl Fn(Vec<Range<u64>>) -> Request,
) -> Option<Parsed> {
    let segments = segments(chain, mem)?;
    // Nothing is to be read as zeroes afterwards, so there is nothing that may be given up.
    if segments.iter().any(|segment| segment.flags != 0) {
        return Some(Parsed::Status(S_UNSUPP));
    }
    let ranges = segments.iter().map(Segment::range).collect::<Option<_>>()?;
    Some(Parsed::Request(request(ranges)))
}

struct Segment {
    sector: u64,
    sectors: u32,
    flags: u32,
}

impl Segment {
    fn range(&self) -> Option<Range<u64>> {
        if self.sectors > SEGMENT_SECTORS_MAX {
            return None;
        }
        let start = self.sector.checked_mul(SECTOR)?;
        Some(start..start.checked_add(u64::from(self.sectors) * SECTOR)?)
    }
}

/// The segments that follow a header: as many as there may be.
fn segments(chain: &Chain, mem: &GuestMem) -> Option<Vec<Segment>> {
    let len = chain.readable_len().checked_sub(HEADER_LEN as u64)?;
    let count = len / SEGMENT_LEN as u64;
    if !len.is_multiple_of(SEGMENT_LEN as u64) || !(1..=SEGMENTS_MAX.into()).contains(&count) {
        return None;
    }
    let segment = |index: u64| {
        let mut bytes = [0; SEGMENT_LEN];
        let offset = HEADER_LEN as u64 + index * SEGMENT_LEN as u64;
        chain.read_at(mem, offset, &mut bytes).ok()?;
        let [sector @ .., a, b, c, d, e, f, g, h] = bytes;
        let [sectors, flags] = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
        Some(Segment { sector: u64::from_le_bytes(sector), sectors, flags })
    };
    (0..count).map(segment).collect()
}
