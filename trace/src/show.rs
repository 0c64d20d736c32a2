//! Records in words, and which of them are wanted.

use std::fmt::Write;

use trapline_access::Direction;
use trapline_access::record::{Blob, Op, Outcome, Record};

use crate::{Event, Site, Sites, outside};

/// Which records are wanted: those that everything said here is true of.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of one of these devices or regions, by name; empty for all.
    pub devices: Vec<String>,
    /// Of one of these registers, by name (in any case) or `+OFFSET`; empty for all.
    pub registers: Vec<String>,
    /// Not before this time in nanoseconds.
    pub from_ns: Option<u64>,
    /// Before this time in nanoseconds.
    pub until_ns: Option<u64>,
    /// Of one of these vCPUs; empty for all streams.
    pub vcpus: Vec<u16>,
    /// In this direction.
    pub direction: Option<Direction>,
    /// Of this value, under this mask.
    pub value: Option<(u64, u64)>,
}

impl Filter {
    /// Whether a record is wanted; `site` is its site, if it is an access.
    pub fn wants(&self, event: &Event, site: Option<&Site>) -> bool {
        let time = event.time_ns;
        if self.from_ns.is_some_and(|from| time < from)
            || self.until_ns.is_some_and(|until| time >= until)
        {
            return false;
        }
        let vcpu = event.stream.as_vcpu();
        if !self.vcpus.is_empty() && !vcpu.is_some_and(|vcpu| self.vcpus.contains(&vcpu)) {
            return false;
        }
        match site {
            Some(site) => self.wants_access(&event.record, site),
            None => {
                self.registers.is_empty()
                    && self.devices.is_empty()
                    && self.direction.is_none()
                    && self.value.is_none()
            }
        }
    }

    fn wants_access(&self, record: &Record, site: &Site) -> bool {
        let is_device = |name: &String| *name == site.device || *name == site.region;
        let is_register = |name: &String| name.eq_ignore_ascii_case(&site.register);
        (self.devices.is_empty() || self.devices.iter().any(is_device))
            && (self.registers.is_empty() || self.registers.iter().any(is_register))
            && self.direction.is_none_or(|direction| direction == site.direction)
            && self.value.is_none_or(|(value, mask)| record.value & mask == value & mask)
    }
}

/// A time as it is shown: seconds with six digits behind the point.
pub fn seconds(ns: u64) -> String {
    format!("{}.{:06}", ns / 1_000_000_000, ns % 1_000_000_000 / 1000)
}

/// A record in a line without an end; `None` for records that are the format's own business.
/// `site` is the number that [`Sites::of`] gave for it.
pub fn line(event: &Event, sites: &Sites, site: Option<usize>) -> Option<String> {
    let mut line = format!("{:>14} {:<8}", seconds(event.time_ns), event.stream);
    match site.and_then(|site| sites.get(site)) {
        Some(site) => access(&mut line, event, site),
        None => line.push_str(&format!(" {}", words(event, sites)?)),
    }
    line.truncate(line.trim_end().len());
    Some(line)
}

fn access(line: &mut String, event: &Event, site: &Site) {
    let record = &event.record;
    let arrow = match site.direction {
        Direction::Read => "->",
        Direction::Write => "<-",
    };
    let _ = write!(line, " {:<5} {:<28} {arrow} ", site.direction, site.name());
    let value = match record.op {
        Op::String(_) => strung(&event.data, site.bytes),
        _ => format!("{:#0width$x}", record.value, width = site.bytes * 2 + 2),
    };
    line.push_str(&value);
    let fields = site.decode(record.value);
    if !fields.is_empty() && !matches!(record.op, Op::String(_)) {
        let _ = write!(line, " {{{fields}}}");
    }
    match record.access() {
        None | Some((_, _, _, Outcome::Handled | Outcome::Unclaimed)) => {}
        Some((_, _, _, outcome)) => {
            let _ = write!(line, " {outcome}");
        }
    }
}

/// The first elements of a string, and how many there are.
fn strung(data: &[u8], bytes: usize) -> String {
    let elements = data.chunks(bytes.max(1));
    let count = elements.len();
    let hex = |element: &[u8]| element.iter().rev().map(|b| format!("{b:02x}")).collect::<String>();
    let first: Vec<_> = elements.take(8).map(hex).collect();
    let more = if count > first.len() { " …" } else { "" };
    format!("{count} x {bytes}: {}{more}", first.join(" "))
}

/// A record that is no access, in words; `None` for those that are the format's own business.
pub(crate) fn words(event: &Event, sites: &Sites) -> Option<String> {
    let Record { op, slot, offset, value, .. } = event.record;
    let blob = Blob::of(value);
    Some(match op {
        Op::Rang => format!("{value} rings of {} in the kernel", sites.device(slot)),
        Op::Edit => format!("map {value}"),
        Op::In if offset >= outside::BLOBS => {
            let (device, what) = (sites.device(slot), input(offset));
            format!("{device} takes {} bytes from outside: {what}", blob.len)
        }
        Op::In => {
            let (device, what) = (sites.device(slot), input(offset));
            format!("{device} is told {what} from outside: {value}")
        }
        Op::Out => format!("{} {}", sites.device(slot), output(offset, value)),
        Op::Stop => "stopped".to_owned(),
        Op::Reset => "reset".to_owned(),
        Op::Snapshot => format!("snapshot {value}"),
        Op::Lost => format!("{value} records are missing"),
        Op::Time | Op::Turn | Op::Access(_) | Op::Odd { .. } | Op::String(_) => return None,
    })
}

/// What a device takes from outside.
fn input(kind: u16) -> &'static str {
    outside::Input::of(kind).map_or("something", outside::Input::words)
}

/// What a device does to the world outside.
fn output(kind: u16, value: u64) -> String {
    match outside::Output::of(kind) {
        Some(outside::Output::Level) if value & 1 == 0 => format!("lowers line {}", value >> 1),
        Some(outside::Output::Level) => format!("raises line {}", value >> 1),
        Some(outside::Output::Message) => "sends a message-signalled interrupt".to_owned(),
        Some(outside::Output::Sent) => format!("sends {} bytes", value >> 32),
        // The address is eight more.
        Some(outside::Output::Written) => {
            format!("writes {} bytes to guest memory", (value >> 32).saturating_sub(8))
        }
        None => format!("puts out {value:#x} (kind {kind})"),
    }
}

/// The text that a guest's consoles print: characters written to a transmitter register, line by
/// line.
#[derive(Clone, Debug, Default)]
pub struct Console {
    line: String,
    last: String,
}

impl Console {
    /// Takes notice of an access.
    pub fn see(&mut self, event: &Event, site: &Site) {
        if site.direction != Direction::Write || !matches!(site.register.as_str(), "THR" | "UARTDR")
        {
            return;
        }
        let one = [u8::try_from(event.record.value & 0xff).unwrap_or(0)];
        let bytes = if event.data.is_empty() { &one[..] } else { &event.data };
        for &byte in bytes {
            match byte {
                b'\n' => self.last = std::mem::take(&mut self.line),
                b' '..=b'~' if self.line.len() < 200 => self.line.push(char::from(byte)),
                _ => {}
            }
        }
    }

    /// The last line that was begun, or else the one before; `None` while there was none.
    pub fn last(&self) -> Option<&str> {
        let shown = if self.line.is_empty() { &self.last } else { &self.line };
        (!shown.is_empty()).then_some(shown.as_str())
    }
}
