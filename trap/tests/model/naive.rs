//! What the registry is held against: a list of ranges, gone through from the front.

use std::collections::BTreeMap;

use trapline::{Counts, Direction, Limits, Rules, Size, Space, Unclaimed};

/// A call of a handler, as the recorder notes it.
pub(crate) type Call = (&'static str, u64, usize, u64);

#[derive(Clone, Debug)]
pub(crate) struct Bell {
    pub offset: u64,
    pub len: u64,
    pub value: Option<u64>,
    pub rung: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Range {
    pub key: usize,
    pub space: Space,
    pub base: Option<u64>,
    pub len: u64,
    pub rules: Rules,
    pub device_offset: u64,
    pub bells: Vec<Bell>,
    pub calls: Vec<Call>,
    pub counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Single,
    Element,
}

impl Range {
    /// The last address, unless the range wraps or leaves its space.
    fn last(&self) -> Option<u64> {
        self.base?.checked_add(self.len - 1).filter(|last| *last <= self.space.last())
    }

    fn contains(&self, space: Space, addr: u64) -> bool {
        self.space == space
            && self.base.is_some_and(|base| base <= addr)
            && self.last().is_some_and(|last| addr <= last)
    }

    fn offset(&self, addr: u64) -> u64 {
        addr - self.base.unwrap() + self.device_offset
    }

    fn value(offset: u64) -> [u8; 8] {
        std::array::from_fn(|i| offset.wrapping_add(i as u64).to_le_bytes()[0])
    }

    fn call_read(&mut self, offset: u64, size: usize) -> [u8; 8] {
        let value = Self::value(offset);
        let mut low = [0; 8];
        low[..size].copy_from_slice(&value[..size]);
        self.calls.push(("read", offset, size, u64::from_le_bytes(low)));
        value
    }

    fn count(&mut self, direction: Direction, kind: Kind, taken: bool) {
        match (direction, kind) {
            (Direction::Read, Kind::Single) => self.counts.reads += 1,
            (Direction::Write, Kind::Single) => self.counts.writes += 1,
            (Direction::Read, Kind::Element) => self.counts.string_reads += 1,
            (Direction::Write, Kind::Element) => self.counts.string_writes += 1,
        }
        self.counts.refused += u64::from(!taken);
    }

    fn admits(limits: Limits, offset: u64, len: usize) -> bool {
        let aligned = len.is_power_of_two() && offset.is_multiple_of(len as u64);
        (limits.min.bytes()..=limits.max.bytes()).contains(&len) && (limits.unaligned || aligned)
    }

    /// The next call for `left` bytes at `offset`: where it starts, how wide it is, how many bytes
    /// of it are before `offset`.
    fn next_call(handled: Limits, offset: u64, left: usize) -> (u64, usize, usize) {
        let most = left.min(handled.max.bytes());
        let fits = |size: &usize| *size <= most && offset.is_multiple_of(*size as u64);
        let whole = handled.unaligned && most.is_power_of_two();
        let size = if whole { most } else { [8, 4, 2, 1].into_iter().find(fits).unwrap() };
        if size >= handled.min.bytes() {
            return (offset, size, 0);
        }
        let size = handled.min.bytes();
        let start = offset / size as u64 * size as u64;
        (start, size, usize::try_from(offset - start).unwrap())
    }

    fn read(&mut self, addr: u64, data: &mut [u8], kind: Kind) {
        let offset = self.offset(addr);
        let taken = Self::admits(self.rules.valid, offset, data.len());
        self.count(Direction::Read, kind, taken);
        let mut done = 0;
        while taken && done < data.len() {
            let at = offset + done as u64;
            let (start, size, skip) = Self::next_call(self.rules.handled, at, data.len() - done);
            let len = (size - skip).min(data.len() - done);
            let value = self.call_read(start, size);
            data[done..done + len].copy_from_slice(&value[skip..skip + len]);
            done += len;
        }
    }

    fn write(&mut self, addr: u64, data: &[u8], kind: Kind) {
        let offset = self.offset(addr);
        let taken = Self::admits(self.rules.valid, offset, data.len());
        self.count(Direction::Write, kind, taken);
        let mut done = 0;
        while taken && done < data.len() {
            let at = offset + done as u64;
            let (start, size, skip) = Self::next_call(self.rules.handled, at, data.len() - done);
            let len = (size - skip).min(data.len() - done);
            let mut unit = if len < size { self.call_read(start, size) } else { [0; 8] };
            unit[skip..skip + len].copy_from_slice(&data[done..done + len]);
            unit[size..].fill(0);
            self.calls.push(("write", start, size, u64::from_le_bytes(unit)));
            done += len;
        }
    }

    fn ring(&mut self, addr: u64, data: &[u8], kind: Kind) -> bool {
        let offset = addr - self.base.unwrap();
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(value);
        let rung = self.bells.iter_mut().find(|bell| {
            let any = bell.len == 0;
            bell.offset == offset
                && (any
                    || bell.len == data.len() as u64
                        && bell.value.is_none_or(|wanted| wanted == value))
        });
        if let Some(bell) = rung {
            bell.rung += 1;
            self.counts.doorbells += 1;
            self.count(Direction::Write, kind, true);
            return true;
        }
        false
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Naive {
    pub ranges: Vec<Range>,
    pub gone: Vec<Range>,
    pub unclaimed: BTreeMap<Unclaimed, u64>,
}

impl Naive {
    /// Whether every range can be where it is.
    pub(crate) fn is_possible(&self) -> bool {
        let placed: Vec<_> = self.ranges.iter().filter(|range| range.base.is_some()).collect();
        placed.iter().enumerate().all(|(i, a)| {
            a.len > 0
                && a.last().is_some()
                && placed[..i]
                    .iter()
                    .all(|b| a.space != b.space || a.last() < b.base || b.last() < a.base)
        })
    }

    fn at(&mut self, space: Space, addr: u64) -> Option<&mut Range> {
        self.ranges.iter_mut().find(|range| range.contains(space, addr))
    }

    /// How many of the `len` bytes at `addr` are in the space and in one range, or in none.
    fn part(&self, space: Space, addr: u64, len: usize) -> usize {
        let owner = |at: u64| self.ranges.iter().position(|range| range.contains(space, at));
        let first = owner(addr);
        (1..len)
            .find(|i| {
                let at = addr.checked_add(*i as u64).filter(|at| *at <= space.last());
                at.is_none_or(|at| owner(at) != first)
            })
            .unwrap_or(len)
    }

    fn each_part(
        &mut self,
        space: Space,
        addr: u64,
        len: usize,
        direction: Direction,
        mut f: impl FnMut(&mut Range, u64, std::ops::Range<usize>) -> bool,
    ) {
        let mut done = 0;
        while done < len {
            let Some(at) = addr.checked_add(done as u64).filter(|at| *at <= space.last()) else {
                break;
            };
            let part = self.part(space, at, len - done);
            if let Some(range) = self.at(space, at) {
                if f(range, at, done..done + part) {
                    return;
                }
                done += part;
            } else {
                let key = Unclaimed { space, addr: at, len: part as u64, direction };
                *self.unclaimed.entry(key).or_default() += 1;
                done += part;
            }
        }
    }

    fn read_as(&mut self, space: Space, addr: u64, data: &mut [u8], kind: Kind) {
        data.fill(0xff);
        self.each_part(space, addr, data.len(), Direction::Read, |range, at, part| {
            range.read(at, &mut data[part], kind);
            false
        });
    }

    fn write_as(&mut self, space: Space, addr: u64, data: &[u8], kind: Kind) {
        self.each_part(space, addr, data.len(), Direction::Write, |range, at, part| {
            if part.start == 0 && range.ring(at, data, kind) {
                return true;
            }
            range.write(at, &data[part], kind);
            false
        });
    }

    pub(crate) fn read(&mut self, space: Space, addr: u64, data: &mut [u8]) {
        self.read_as(space, addr, data, Kind::Single);
    }

    pub(crate) fn write(&mut self, space: Space, addr: u64, data: &[u8]) {
        self.write_as(space, addr, data, Kind::Single);
    }

    pub(crate) fn read_rep(&mut self, port: u16, size: Size, data: &mut [u8]) {
        data.fill(0xff);
        for element in data.chunks_exact_mut(size.bytes()) {
            self.read_as(Space::Pio, port.into(), element, Kind::Element);
        }
    }

    pub(crate) fn write_rep(&mut self, port: u16, size: Size, data: &[u8]) {
        for element in data.chunks_exact(size.bytes()) {
            self.write_as(Space::Pio, port.into(), element, Kind::Element);
        }
    }
}
