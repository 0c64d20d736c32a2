//! What a guest does a second, by device and register, out of two looks at it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use trapline_control::api::{RegisterCount, Statistics};

use crate::statistics::shortened;

/// How rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// By exits, the most first.
    #[default]
    Exits,
    /// By reads, the most first.
    Reads,
    /// By writes, the most first.
    Writes,
    /// By the time that handlers take, the longest first.
    Time,
    /// By name.
    Name,
}

impl Sort {
    /// All of them, in the order in which a key goes through them.
    pub const ALL: [Self; 5] = [Self::Exits, Self::Reads, Self::Writes, Self::Time, Self::Name];

    /// What the command line calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exits => "exits",
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Time => "time",
            Self::Name => "name",
        }
    }

    /// The one after this.
    pub fn next(self) -> Self {
        let at = Self::ALL.iter().position(|one| *one == self).unwrap_or(0);
        Self::ALL.get(at + 1).copied().unwrap_or_default()
    }
}

/// What a guest did between two looks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    /// The guest's name.
    pub guest: String,
    /// The time between the looks, in seconds.
    pub seconds: f64,
    /// How many vCPUs there are.
    pub vcpu_count: u32,
    /// Returns of vCPUs from the guest, a second.
    pub exits: f64,
    /// By register, what was touched.
    pub registers: Vec<Rate>,
}

/// What was done to a register.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rate {
    /// The region; `unclaimed` where there is none.
    pub region: String,
    /// The register; empty for what is not told apart.
    pub register: String,
    /// Reads a second.
    pub reads: f64,
    /// Writes a second, queued ones among them.
    pub writes: f64,
    /// Accesses a second that stopped the guest.
    pub exits: f64,
    /// The mean time in the handler in nanoseconds, of those that were timed.
    pub handler_ns: Option<f64>,
    /// Its part of all exits of accesses, 0 to 1.
    pub share: f64,
    /// What was read or written last.
    pub last_value: Option<String>,
    /// Whether that was written.
    pub last_written: bool,
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn float(count: u64) -> f64 {
    count as f64
}

/// What was done between `before` and `after`.
pub(super) fn rates(guest: &str, before: &Statistics, after: &Statistics) -> Rates {
    let ns = after.uptime_ns.saturating_sub(before.uptime_ns).max(1);
    let seconds = float(ns) / 1e9;
    let a_second = |count: u64| float(count) / seconds;
    let exits = |of: &Statistics| of.exits.values().sum::<u64>();
    let known: BTreeMap<_, _> =
        before.registers.iter().map(|row| ((&row.region, &row.register), row)).collect();
    let nothing = RegisterCount::default();
    let mut registers = Vec::new();
    for row in &after.registers {
        let old = known.get(&(&row.region, &row.register)).copied().unwrap_or(&nothing);
        // Another count, if it has begun anew.
        let old = if old.exits > row.exits { &nothing } else { old };
        let reads = row.reads.saturating_sub(old.reads);
        let writes = row.writes.saturating_sub(old.writes);
        if reads + writes == 0 {
            continue;
        }
        let timed = row.timed.saturating_sub(old.timed);
        let timed_ns = row.timed_ns.saturating_sub(old.timed_ns);
        registers.push(Rate {
            region: row.region.clone(),
            register: row.register.clone(),
            reads: a_second(reads),
            writes: a_second(writes),
            exits: a_second(row.exits.saturating_sub(old.exits)),
            handler_ns: (timed > 0).then(|| float(timed_ns) / float(timed)),
            share: 0.0,
            last_value: Some(row.last_value.clone()),
            last_written: row.last_written,
        });
    }
    let all: f64 = registers.iter().map(|rate| rate.exits).sum();
    for rate in &mut registers {
        rate.share = if all > 0.0 { rate.exits / all } else { 0.0 };
    }
    Rates {
        guest: guest.to_owned(),
        seconds,
        vcpu_count: after.vcpu_count,
        exits: a_second(exits(after).saturating_sub(exits(before))),
        registers,
    }
}

impl Rates {
    /// Sorts the rows; of the same size by name.
    pub(super) fn sort(&mut self, by: Sort) {
        #[expect(clippy::cast_possible_truncation, reason = "rates are far below")]
        let size = |rate: &Rate| match by {
            Sort::Exits => (rate.exits * 1000.0) as i64,
            Sort::Reads => (rate.reads * 1000.0) as i64,
            Sort::Writes => (rate.writes * 1000.0) as i64,
            Sort::Time => (rate.handler_ns.unwrap_or(0.0) * 1000.0) as i64,
            Sort::Name => 0,
        };
        self.registers
            .sort_by_key(|rate| (Reverse(size(rate)), rate.region.clone(), rate.register.clone()));
    }

    /// The lines of the table in so many columns, at least 80, the first of which is the header.
    pub(super) fn lines(&self, columns: usize) -> Vec<String> {
        // The last value has what the others leave, up to that of 64 bits.
        let columns = columns.max(80);
        let value = if columns >= 100 { 19 } else { 11 };
        let width = columns - 46 - value;
        let mut lines = vec![format!(
            "{:<width$} {:>9} {:>9} {:>9} {:>7} {:>5}  {:<value$}",
            "DEVICE/REGION REGISTER", "READS/s", "WRITES/s", "EXITS/s", "MEAN", "SHARE", "LAST"
        )];
        for rate in &self.registers {
            let register = if rate.register.is_empty() { "(others)" } else { &rate.register };
            let name = shortened(&format!("{} {register}", rate.region), width);
            let last = rate.last_value.as_deref().unwrap_or_default();
            let arrow = if rate.last_written { '<' } else { '>' };
            let last = shortened(&format!("{arrow}{last}"), value);
            let mut line = format!("{name:<width$}");
            for per_second in [rate.reads, rate.writes, rate.exits] {
                let _ = write!(line, " {:>9}", number(per_second));
            }
            let mean = rate.handler_ns.map_or_else(|| "-".to_owned(), duration);
            let _ = write!(line, " {mean:>7} {:>4.0}%  {last:<value$}", rate.share * 100.0);
            lines.push(line);
        }
        lines
    }
}

/// A rate in nine columns.
fn number(rate: f64) -> String {
    match rate {
        0.0 => String::new(),
        0.0..10.0 => format!("{rate:.1}"),
        ..1e9 => format!("{rate:.0}"),
        _ => format!("{:.0}M", rate / 1e6),
    }
}

/// A time in seven columns.
fn duration(ns: f64) -> String {
    match ns {
        ..1e4 => format!("{ns:.0}ns"),
        ..1e7 => format!("{:.0}us", ns / 1e3),
        ..1e10 => format!("{:.0}ms", ns / 1e6),
        _ => format!("{:.0}s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(register: &str, reads: u64, writes: u64, timed_ns: u64) -> RegisterCount {
        RegisterCount {
            region: "serial0/uart".to_owned(),
            register: register.to_owned(),
            reads,
            writes,
            exits: reads + writes,
            timed: reads / 64,
            timed_ns,
            last_value: "0x60".to_owned(),
            ..RegisterCount::default()
        }
    }

    fn look(ms: u64, registers: Vec<RegisterCount>) -> Statistics {
        let exits = [("port read".to_owned(), registers.iter().map(|row| row.exits).sum())].into();
        Statistics { uptime_ns: ms * 1_000_000, exits, registers, ..Statistics::default() }
    }

    #[test]
    fn rates_are_of_what_came_between_two_looks() {
        let before = look(1000, vec![row("LSR", 640, 0, 5_000), row("IER", 0, 7, 0)]);
        let after = look(
            1500,
            vec![row("LSR", 1280, 0, 8_000), row("IER", 0, 7, 0), row("THR", 0, 160, 0)],
        );
        let mut rates = rates("one", &before, &after);
        rates.sort(Sort::Exits);
        assert_eq!((rates.exits, rates.seconds), (1600.0, 0.5));
        let seen: Vec<_> = rates
            .registers
            .iter()
            .map(|rate| (rate.register.as_str(), rate.reads, rate.writes, rate.share))
            .collect();
        assert_eq!(seen, [("LSR", 1280.0, 0.0, 0.8), ("THR", 0.0, 320.0, 0.2)]);
        assert_eq!(rates.registers[0].handler_ns, Some(300.0));
        assert_eq!(rates.registers[1].handler_ns, None);
        rates.sort(Sort::Writes);
        assert_eq!(rates.registers[0].register, "THR");
        rates.sort(Sort::Name);
        assert_eq!(rates.registers[0].register, "LSR");
    }

    #[test]
    fn a_count_that_begins_anew_is_taken_whole() {
        let before = look(1000, vec![row("LSR", 640, 0, 5_000)]);
        let after = look(2000, vec![row("LSR", 64, 0, 100)]);
        assert_eq!(rates("one", &before, &after).registers[0].reads, 64.0);
    }

    #[test]
    fn every_line_fits() {
        let mut one = row("A_REGISTER_WITH_A_VERY_LONG_NAME", 1 << 40, 0, 1 << 60);
        one.last_value = format!("{:#x}", u64::MAX);
        let rates = rates("one", &look(0, vec![]), &look(1000, vec![one, row("LSR", 3, 1, 0)]));
        for columns in [80, 100, 200] {
            for line in rates.lines(columns) {
                assert_eq!(line.chars().count(), columns, "{line}");
            }
        }
    }
}
