//! The kernel's trace of what KVM's guests do (`kvm:kvm_pio`, `kvm:kvm_mmio`), of any VMM, as a
//! recording.
//!
//! It is read as `trace-cmd report` and tracefs print it:
//!
//! ```text
//!  qemu-1234 [001] ..... 12.345678: kvm_pio: pio_write at 0x3f8 size 1 count 1 val 0x41
//!  qemu-1234 [001] ..... 12.345679: kvm_mmio: mmio write len 4 gpa 0xfee000b0 val 0x0
//!  qemu-1234 [001] ..... 12.345680: kvm_entry: vcpu 0, rip 0xffffffff81000000
//! ```
//!
//! Lines of other events are skipped, but for the numbers of vCPUs in them. A read of MMIO that the
//! VMM answers is traced twice, without its value and with it; the second one counts. Of a string of
//! several elements the trace has the first one only.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Write};

use trapline_access::record::{Access, OddLen, Op, Outcome, Record, TICK_NS, words_of};
use trapline_access::{Direction, Size, Space};

use crate::{Error, Level, MapChange, MapRegion, Meta, Place, Slot, Source, Stream, Writer};

/// The longest line that is looked at, in bytes.
const LINE_MAX: u64 = 4096;
/// Records that are kept of one stream before they are written.
const BATCH: usize = 8192;
/// The most bytes of a string: KVM makes a page of them at once.
const STRING_MAX: u64 = 4096;

/// What became of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Accesses.
    pub accesses: u64,
    /// Lines that are no access.
    pub other_lines: u64,
    /// Lines that name `kvm_pio` or `kvm_mmio` and make no sense.
    pub broken: u64,
    /// Accesses of regions that the board has.
    pub claimed: u64,
    /// How many vCPUs made them.
    pub vcpus: u16,
    /// Records that the kernel's buffer had no room for, where the text says so.
    pub lost: u64,
}

/// An access in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    space: Space,
    direction: Direction,
    address: u64,
    len: u64,
    count: u64,
    value: u64,
}

/// Reads a kernel's trace, and writes it as a recording whose regions are those of `board`: those of
/// a machine that the guest's is like. `step` is told how many bytes have been read.
///
/// # Errors
/// When the text cannot be read, has no access in it, or the recording cannot be written.
pub fn import<W: Write>(
    text: &mut impl BufRead,
    to: W,
    meta: Meta,
    board: MapChange,
    mut step: impl FnMut(u64),
) -> Result<(W, Imported), Error> {
    let meta = Meta {
        source: Source::KernelTrace,
        clock_hz: 1_000_000_000,
        levels: vec![Level::Accesses],
        unseen: vec![
            "of strings the trace has the first element only; the others are zero here".to_owned(),
            "the clock is the kernel's, not the one that devices were told".to_owned(),
        ],
        ..meta
    };
    let mut writer = Writer::new(to, &meta)?;
    writer.map(0, &board)?;
    let mut importer = Importer {
        writer,
        regions: placed(&board.regions),
        slots: HashMap::new(),
        new_slots: Vec::new(),
        streams: BTreeMap::new(),
        vcpus: HashMap::new(),
        start_ns: None,
        imported: Imported::default(),
    };
    let (mut line, mut read) = (Vec::new(), 0);
    loop {
        line.clear();
        let len = next_line(text, &mut line)?;
        if len == 0 {
            break;
        }
        read += len;
        importer.line(&String::from_utf8_lossy(&line))?;
        step(read);
    }
    importer.finish()
}

/// Reads a line, of which the start is kept; how long it was.
fn next_line(text: &mut impl BufRead, line: &mut Vec<u8>) -> Result<u64, Error> {
    let mut whole = 0;
    loop {
        let part = text.fill_buf()?;
        let end = part.iter().position(|&byte| byte == b'\n');
        let used = end.map_or(part.len(), |end| end + 1);
        let room = usize::try_from(LINE_MAX).unwrap_or(0).saturating_sub(line.len());
        line.extend(part.iter().take(used.min(room)));
        text.consume(used);
        whole += used as u64;
        if end.is_some() || used == 0 {
            return Ok(whole);
        }
    }
}

/// Regions with a place, by space and address.
type Placed = BTreeMap<(Space, u64), (u64, u64)>;

fn placed(regions: &[MapRegion]) -> Placed {
    let of = |region: &MapRegion| Some(((region.space, region.base?), (region.len, region.id)));
    regions.iter().filter_map(of).collect()
}

struct Importer<W: Write> {
    writer: Writer<W>,
    regions: Placed,
    slots: HashMap<Place, u16>,
    new_slots: Vec<Slot>,
    streams: BTreeMap<Stream, Pending>,
    /// The stream of each thread.
    vcpus: HashMap<String, u16>,
    start_ns: Option<u64>,
    imported: Imported,
}

/// Records of a stream that are not written yet.
#[derive(Default)]
struct Pending {
    first_ns: u64,
    last_ns: u64,
    words: Vec<[u64; 2]>,
}

impl<W: Write> Importer<W> {
    fn line(&mut self, line: &str) -> Result<(), Error> {
        let Some((thread, time_ns, event, rest)) = split(line) else {
            self.imported.other_lines += 1;
            self.imported.lost += lost(line).unwrap_or(0);
            return Ok(());
        };
        let access = match event {
            "kvm_pio" => pio(rest),
            "kvm_mmio" if rest.starts_with("mmio unsatisfied-read") => {
                self.imported.other_lines += 1;
                return Ok(());
            }
            "kvm_mmio" => mmio(rest),
            _ => {
                self.imported.other_lines += 1;
                if let Some(vcpu) = vcpu_of(event, rest) {
                    self.vcpus.insert(thread.to_owned(), vcpu);
                }
                return Ok(());
            }
        };
        let Some(access) = access else {
            self.imported.broken += 1;
            return Ok(());
        };
        let next = u16::try_from(self.vcpus.len()).unwrap_or(u16::MAX);
        let vcpu = *self.vcpus.entry(thread.to_owned()).or_insert(next);
        let start = *self.start_ns.get_or_insert(time_ns);
        self.access(Stream::vcpu(vcpu), time_ns.saturating_sub(start), access)
    }

    fn access(&mut self, stream: Stream, time_ns: u64, line: Line) -> Result<(), Error> {
        let (place, offset) = self.place(line.space, line.address);
        let outcome = match place {
            Place::Region { .. } => Outcome::Handled,
            Place::Unclaimed { .. } => Outcome::Unclaimed,
        };
        self.imported.claimed += u64::from(outcome == Outcome::Handled);
        let Some(slot) = self.slot(place) else {
            return Err(Error::Unrecordable("accesses to more than 65536 places of 64 KiB"));
        };
        let Some(op) = op(&line, outcome) else {
            self.imported.broken += 1;
            return Ok(());
        };
        self.imported.accesses += 1;
        // Stamps are in ticks. Up, so that a whole number of microseconds stays the same number.
        let time_ns = time_ns.checked_next_multiple_of(TICK_NS).unwrap_or(time_ns);
        let pending = self.streams.entry(stream).or_default();
        pending.add(Record { op, slot, offset, delta: 0, value: line.value }, time_ns, &line);
        if pending.words.len() >= BATCH {
            self.flush(stream)?;
        }
        Ok(())
    }

    /// The place of an address, and the offset in its 64 KiB.
    #[expect(clippy::cast_possible_truncation, reason = "the low half")]
    fn place(&self, space: Space, address: u64) -> (Place, u16) {
        let before = self.regions.range((space, 0)..=(space, address)).next_back();
        match before {
            Some((&(_, base), &(len, id))) if address - base < len => {
                let offset = address - base;
                (Place::Region { id, page: offset >> 16 }, offset as u16)
            }
            _ => (Place::Unclaimed { space, page: address >> 16 }, address as u16),
        }
    }

    fn slot(&mut self, place: Place) -> Option<u16> {
        if let Some(&slot) = self.slots.get(&place) {
            return Some(slot);
        }
        let number = u16::try_from(self.slots.len()).ok()?;
        self.slots.insert(place, number);
        self.new_slots.push(Slot { number, place });
        Some(number)
    }

    fn flush(&mut self, stream: Stream) -> Result<(), Error> {
        let Some(pending) = self.streams.get_mut(&stream) else { return Ok(()) };
        if !self.new_slots.is_empty() {
            let slots = std::mem::take(&mut self.new_slots);
            self.writer.map(pending.first_ns, &MapChange { slots, ..MapChange::default() })?;
        }
        self.writer.access(stream, pending.first_ns, &pending.words)?;
        pending.words.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(W, Imported), Error> {
        let streams: Vec<Stream> = self.streams.keys().copied().collect();
        for stream in &streams {
            self.flush(*stream)?;
        }
        self.imported.vcpus = u16::try_from(streams.len()).unwrap_or(u16::MAX);
        Ok((self.writer.finish()?, self.imported))
    }
}

impl Pending {
    fn add(&mut self, mut record: Record, time_ns: u64, line: &Line) {
        // Of two lines of one thread the second is later, whatever the clock of its CPU says.
        let time_ns = time_ns.max(self.last_ns);
        if self.words.is_empty() {
            self.first_ns = time_ns;
        } else {
            let ticks = (time_ns - self.last_ns) / TICK_NS;
            match u32::try_from(ticks).ok().filter(|ticks| *ticks < Record::DELTA_END) {
                Some(ticks) => record.delta = ticks,
                None => {
                    let op = Op::Time;
                    let time = Record { op, slot: 0, offset: 0, delta: 0, value: time_ns };
                    self.words.push(time.encode());
                }
            }
        }
        self.last_ns = time_ns;
        if !matches!(record.op, Op::String(_)) {
            self.words.push(record.encode());
            return;
        }
        record.value = line.len * line.count;
        let mut data = line.value.to_le_bytes().to_vec();
        data.truncate(usize::try_from(line.len).unwrap_or(8));
        data.resize(usize::try_from(record.value).unwrap_or(0), 0);
        self.words.push(record.encode());
        for part in data.chunks(Record::LEN) {
            let mut bytes = [0; Record::LEN];
            bytes.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            self.words.push(words_of(bytes));
        }
    }
}

/// The operation of an access; `None` for a shape that no guest can make.
fn op(line: &Line, outcome: Outcome) -> Option<Op> {
    let Line { direction, space, len, count, .. } = *line;
    let len = usize::try_from(len).ok()?;
    match (Size::new(len), OddLen::new(len)) {
        (Some(size), _) if count == 1 => {
            Some(Op::Access(Access { direction, size, space, outcome }))
        }
        (Some(size), _) if line.len * count <= STRING_MAX => {
            Some(Op::String(Access { direction, size, space, outcome }))
        }
        (None, Some(len)) if count == 1 => Some(Op::Odd { direction, len, space, outcome }),
        _ => None,
    }
}

/// Thread, time in nanoseconds, event and the rest of a line.
fn split(line: &str) -> Option<(&str, u64, &str, &str)> {
    // The thread's name can have anything in it: what is sure is `TIME: EVENT: `.
    let (before, cpu) = line.split_once(" [")?;
    let (_, after) = cpu.split_once(']')?;
    let mut rest = after.trim_start();
    // Flags, where they are printed.
    let time = loop {
        let (word, more) = rest.split_once(char::is_whitespace)?;
        rest = more.trim_start();
        if let Some(time) = word.strip_suffix(':').and_then(time_ns) {
            break time;
        }
    };
    let (event, rest) = rest.split_once(':')?;
    Some((before.trim(), time, event.trim(), rest.trim()))
}

/// Seconds with up to nine digits behind the point, in nanoseconds.
fn time_ns(word: &str) -> Option<u64> {
    let (whole, part) = word.split_once('.')?;
    if part.is_empty() || part.len() > 9 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scale = 10_u64.pow(9 - u32::try_from(part.len()).ok()?);
    let part = part.parse::<u64>().ok()?.checked_mul(scale)?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(part)
}

/// `pio_write at 0x3f8 size 1 count 1 val 0x41`.
fn pio(rest: &str) -> Option<Line> {
    let mut words = rest.split_whitespace();
    let direction = match words.next()? {
        "pio_read" => Direction::Read,
        "pio_write" => Direction::Write,
        _ => return None,
    };
    let mut value = |name: &str| (words.next()? == name).then(|| number(words.next()?)).flatten();
    let (address, len) = (value("at")?, value("size")?);
    let (count, value) = (value("count")?, value("val")?);
    let line = Line { space: Space::Pio, direction, address, len, count, value };
    (address <= Space::Pio.last() && matches!(len, 1 | 2 | 4) && count > 0).then_some(line)
}

/// `mmio write len 4 gpa 0xfee000b0 val 0x0`.
fn mmio(rest: &str) -> Option<Line> {
    let mut words = rest.split_whitespace();
    let direction = match (words.next()?, words.next()?) {
        ("mmio", "read") => Direction::Read,
        ("mmio", "write") => Direction::Write,
        _ => return None,
    };
    let mut value = |name: &str| (words.next()? == name).then(|| number(words.next()?)).flatten();
    let (len, address, value) = (value("len")?, value("gpa")?, value("val")?);
    let line = Line { space: Space::Mmio, direction, address, len, count: 1, value };
    (1..=8).contains(&len).then_some(line)
}

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

/// The vCPU in `kvm_entry: vcpu 0, rip …` or `kvm_exit: vcpu 0 reason …`.
fn vcpu_of(event: &str, rest: &str) -> Option<u16> {
    if !matches!(event, "kvm_entry" | "kvm_exit") {
        return None;
    }
    let mut words = rest.split([' ', ',']);
    words.find(|word| *word == "vcpu")?;
    words.next()?.parse().ok()
}

/// How many events are missing, where the text says that some are: `CPU:1 [LOST 12 EVENTS]`.
fn lost(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("[LOST ")?;
    rest.split_once(" EVENTS]")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_tracefs_and_trace_cmd_print_them() {
        let tracefs = "       CPU 0/KVM-1234    [001] ..... 12.345678: kvm_pio: pio_write at 0x3f8 size 1 count 1 val 0x41 ";
        let (thread, time, event, rest) = split(tracefs).unwrap();
        assert_eq!((thread, time, event), ("CPU 0/KVM-1234", 12_345_678_000, "kvm_pio"));
        let access = pio(rest).unwrap();
        assert_eq!((access.address, access.len, access.value), (0x3f8, 1, 0x41));
        let trace_cmd = "  lkvm-77 [000]  5.000000001: kvm_mmio:   mmio read len 4 gpa 0xd0000000 val 0x74726976";
        let (thread, time, event, rest) = split(trace_cmd).unwrap();
        assert_eq!((thread, time, event), ("lkvm-77", 5_000_000_001, "kvm_mmio"));
        let access = mmio(rest).unwrap();
        assert_eq!((access.direction, access.address), (Direction::Read, 0xd000_0000));
        assert_eq!(vcpu_of("kvm_entry", "vcpu 3, rip 0xfff0"), Some(3));
        assert_eq!(vcpu_of("kvm_exit", "vcpu 1 reason IO rip 0x1"), Some(1));
        assert_eq!(lost("CPU:1 [LOST 12 EVENTS]"), Some(12));
    }

    #[test]
    fn what_no_guest_can_do_is_no_access() {
        for wrong in [
            "pio_write at 0x3f8 size 3 count 1 val 0x41",
            "pio_write at 0x10000 size 1 count 1 val 0x41",
            "pio_write at 0x3f8 size 1 count 0 val 0x41",
            "pio_write at 0x3f8 size 1 count 1",
            "pio_swap at 0x3f8 size 1 count 1 val 0",
            "",
        ] {
            assert_eq!(pio(wrong), None, "{wrong}");
        }
        for wrong in
            ["mmio write len 9 gpa 0x1 val 0x0", "mmio write len 4 gpa 0xz val 0x0", "mmio"]
        {
            assert_eq!(mmio(wrong), None, "{wrong}");
        }
        for wrong in ["12.345678: kvm_pio:", "a [1 12.5: kvm_pio: x", "a-1 [001] kvm_pio: x"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }
}
