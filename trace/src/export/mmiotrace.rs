//! The text of Linux's mmiotrace (its `Documentation/trace/mmiotrace.rst`): a `MAP` for each region
//! before its first access, `R` and `W` lines, names as `MARK`s. It has no ports.

use std::collections::HashMap;
use std::io::{self, Write};

use trapline_access::Direction;

use super::{Access, Exporter};
use crate::{Meta, Stream};

#[derive(Default)]
pub(super) struct Mmiotrace {
    /// The number of each mapping, by region and address of the region.
    maps: HashMap<(Option<u64>, u64), usize>,
}

fn time(ns: u64) -> String {
    crate::show::seconds(ns)
}

impl Exporter for Mmiotrace {
    fn begin(&mut self, to: &mut dyn Write, _meta: &Meta, _streams: &[Stream]) -> io::Result<()> {
        writeln!(to, "VERSION 20070824")
    }

    fn access(&mut self, to: &mut dyn Write, access: &Access<'_>) -> io::Result<()> {
        let (site, now) = (access.site, time(access.event.time_ns));
        let base = access.address - site.offset.min(access.address);
        let next = self.maps.len() + 1;
        let map = *self.maps.entry((site.id, base)).or_insert(next);
        if map == next {
            let (name, last) = (&site.region, site.offset + site.bytes as u64);
            // How long the region is does not matter to its readers; that it is inside does.
            let len = last.next_multiple_of(0x1000);
            writeln!(to, "MAP {now} {map} {base:#x} {base:#x} {len:#x} 0x0 0")?;
            writeln!(to, "MARK {now} {map} is {name}")?;
        }
        let letter = match site.direction {
            Direction::Read => 'R',
            Direction::Write => 'W',
        };
        for (address, bytes, value) in access.pieces() {
            writeln!(to, "{letter} {bytes} {now} {map} {address:#x} {value:#x} 0x0 0")?;
        }
        Ok(())
    }

    fn has_ports(&self) -> bool {
        false
    }
}
