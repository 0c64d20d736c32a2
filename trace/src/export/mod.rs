//! Recordings in the formats of others.

mod json;
mod mmiotrace;
mod pcapng;
mod perfetto;
mod script;

use std::io::{self, Read, Seek, Write};

use trapline_access::record::{Op, Outcome, Record};
use trapline_access::{Direction, Space};

use crate::{Error, Event, Filter, Merged, Meta, Site, Sites, Stream};

/// What a recording can be turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Perfetto's TrackEvents (protobuf), for its viewer and its trace processor: a track for each
    /// vCPU with one for each region below it.
    Perfetto,
    /// pcapng, for Wireshark with our dissector: an interface for each vCPU.
    Pcapng,
    /// A script of QEMU's qtest protocol: the accesses, and the clock.
    Qtest,
    /// ViDeZZo's plan in text: the accesses, and the clock.
    Plan,
    /// The text of Linux's mmiotrace; it has no ports.
    Mmiotrace,
    /// A JSON object for each line: first what was run, then each record.
    Json,
}

/// What was left out of an export, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Accesses that were written.
    pub written: u64,
    /// Accesses to ports, which the format does not have.
    pub ports: u64,
    /// Accesses to regions that had no address when they were recorded.
    pub nowhere: u64,
}

/// One access on its way out.
struct Access<'a> {
    event: &'a Event,
    site: &'a Site,
    /// The site's number.
    number: usize,
    address: u64,
}

impl Access<'_> {
    fn record(&self) -> &Record {
        &self.event.record
    }

    fn outcome(&self) -> Outcome {
        self.record().access().map_or(Outcome::Handled, |(_, _, _, outcome)| outcome)
    }

    /// What is moved, one by one: a string's elements, or the one value.
    fn values(&self) -> Vec<u64> {
        let little = |element: &[u8]| {
            element.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
        };
        match self.record().op {
            Op::String(_) => self.event.data.chunks(self.site.bytes.max(1)).map(little).collect(),
            _ => vec![self.record().value],
        }
    }

    /// The access as ones of 1, 2, 4 or 8 bytes, for formats that have no others: address, width and
    /// value of each.
    fn pieces(&self) -> Vec<(u64, usize, u64)> {
        if self.site.bytes.is_power_of_two() {
            return self.values().into_iter().map(|v| (self.address, self.site.bytes, v)).collect();
        }
        let bytes = (0..self.site.bytes as u64).zip(self.record().value.to_le_bytes());
        bytes.map(|(i, byte)| (self.address.wrapping_add(i), 1, byte.into())).collect()
    }
}

/// A format's writer.
trait Exporter {
    /// What comes before all records.
    fn begin(&mut self, to: &mut dyn Write, meta: &Meta, streams: &[Stream]) -> io::Result<()>;

    /// One access.
    fn access(&mut self, to: &mut dyn Write, access: &Access<'_>) -> io::Result<()>;

    /// Another record.
    fn other(&mut self, _to: &mut dyn Write, _event: &Event, _sites: &Sites) -> io::Result<()> {
        Ok(())
    }

    /// Whether the format has ports.
    fn has_ports(&self) -> bool {
        true
    }
}

/// Writes the records that are wanted in a format. `step` is called after each record.
///
/// # Errors
/// When the recording cannot be read, or the export not be written.
pub fn export<R: Read + Seek>(
    merged: &mut Merged<'_, R>,
    format: Format,
    filter: &Filter,
    to: &mut dyn Write,
    mut step: impl FnMut(&Merged<'_, R>),
) -> Result<Summary, Error> {
    let mut sites = Sites::new(merged.reader().map());
    let mut exporter: Box<dyn Exporter> = match format {
        Format::Perfetto => Box::new(perfetto::Perfetto::default()),
        Format::Pcapng => Box::new(pcapng::Pcapng::default()),
        Format::Qtest => Box::new(script::Script::new(script::Words::Qtest)),
        Format::Plan => Box::new(script::Script::new(script::Words::Plan)),
        Format::Mmiotrace => Box::new(mmiotrace::Mmiotrace::default()),
        Format::Json => Box::new(json::Json),
    };
    let (meta, streams) = (merged.reader().meta().clone(), merged.reader().streams()?);
    exporter.begin(to, &meta, &streams)?;
    let mut summary = Summary::default();
    while let Some(event) = merged.next()? {
        step(merged);
        let number = sites.of(&event);
        let site = number.and_then(|number| sites.get(number));
        if !filter.wants(&event, site) {
            continue;
        }
        let Some((number, site)) = number.zip(site) else {
            exporter.other(to, &event, &sites)?;
            continue;
        };
        if site.space == Space::Pio && !exporter.has_ports() {
            summary.ports += 1;
            continue;
        }
        let Some(address) = sites.address(site) else {
            summary.nowhere += 1;
            continue;
        };
        exporter.access(to, &Access { event: &event, site, number, address })?;
        summary.written += 1;
    }
    to.flush()?;
    Ok(summary)
}

/// `read` and `write` for tables and texts.
const fn verb(direction: Direction) -> &'static str {
    match direction {
        Direction::Read => "read",
        Direction::Write => "write",
    }
}
