//! How often each register was read and written, and what that cost.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{Read, Seek};

use serde::Serialize;
use trapline_access::Direction;
use trapline_access::record::Op;

use crate::sites::is_exit;
use crate::{Error, Filter, Merged, Sites, Stream};

/// What a recording's accesses come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// By register, the most exits first.
    pub registers: Vec<Row>,
    /// By region, the most exits first.
    pub regions: Vec<Row>,
    /// All together.
    pub total: Row,
    /// The time of the first record in nanoseconds.
    pub first_ns: u64,
    /// The time of the last one.
    pub last_ns: u64,
}

/// The counts of one register, region, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The region.
    pub region: String,
    /// The register; empty for all of them.
    pub register: String,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Writes of those that were queued up.
    pub coalesced: u64,
    /// Accesses that stopped the guest: all but queued writes.
    pub exits: u64,
    /// Time from accesses that stopped the guest to the next one of the same vCPU, in nanoseconds: what
    /// the access took, and what the guest did then.
    pub until_next_ns: u64,
}

impl Row {
    fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.coalesced += other.coalesced;
        self.exits += other.exits;
        self.until_next_ns = self.until_next_ns.saturating_add(other.until_next_ns);
    }
}

/// Counts the records that are wanted. `step` is called after each record.
///
/// # Errors
/// When the recording cannot be read.
pub fn stats<R: Read + Seek>(
    merged: &mut Merged<'_, R>,
    filter: &Filter,
    mut step: impl FnMut(&Merged<'_, R>),
) -> Result<Stats, Error> {
    let mut sites = Sites::new(merged.reader().map());
    let mut rows: Vec<Row> = Vec::new();
    let mut last: HashMap<Stream, (usize, u64)> = HashMap::new();
    let mut span = None;
    while let Some(event) = merged.next()? {
        step(merged);
        let Some(site) = sites.of(&event) else { continue };
        let exit = is_exit(&event.record);
        if let Some(row) = exit
            .then(|| last.remove(&event.stream))
            .flatten()
            .and_then(|(at, since)| Some((rows.get_mut(at)?, event.time_ns.saturating_sub(since))))
        {
            row.0.until_next_ns = row.0.until_next_ns.saturating_add(row.1);
        }
        rows.resize_with(rows.len().max(site + 1), Row::default);
        let Some((of, row)) = sites.get(site).zip(rows.get_mut(site)) else { continue };
        if !filter.wants(&event, Some(of)) {
            continue;
        }
        let (first, _) = span.unwrap_or((event.time_ns, 0));
        span = Some((first, event.time_ns));
        let count = match event.record.op {
            Op::String(_) => (event.data.len() / of.bytes.max(1)) as u64,
            _ => 1,
        };
        match of.direction {
            Direction::Read => row.reads += count,
            Direction::Write => row.writes += count,
        }
        if exit {
            row.exits += 1;
            last.insert(event.stream, (site, event.time_ns));
        } else {
            row.coalesced += 1;
        }
    }
    let (first_ns, last_ns) = span.unwrap_or_default();
    Ok(summed(&sites, rows, first_ns, last_ns))
}

fn summed(sites: &Sites, rows: Vec<Row>, first_ns: u64, last_ns: u64) -> Stats {
    let mut stats = Stats { first_ns, last_ns, ..Stats::default() };
    let (mut registers, mut regions) = (BTreeMap::new(), BTreeMap::new());
    for (site, row) in sites.all().iter().zip(rows).filter(|(_, row)| row.reads + row.writes > 0) {
        let (region, register) = (site.region.clone(), site.register.clone());
        registers.entry((region.clone(), register)).or_insert_with(Row::default).add(&row);
        regions.entry((region, String::new())).or_insert_with(Row::default).add(&row);
        stats.total.add(&row);
    }
    stats.total.region = "total".to_owned();
    (stats.registers, stats.regions) = (sorted(registers), sorted(regions));
    stats
}

/// Biggest first; of the same size in the order of their names.
fn sorted(rows: BTreeMap<(String, String), Row>) -> Vec<Row> {
    let named = |((region, register), row)| Row { region, register, ..row };
    let mut rows: Vec<Row> = rows.into_iter().map(named).collect();
    rows.sort_by_key(|row| std::cmp::Reverse((row.exits, row.reads + row.writes)));
    rows
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exits = self.total.exits.max(1);
        writeln!(
            f,
            "{:<28} {:>10} {:>10} {:>10} {:>10} {:>6} {:>12}",
            "", "reads", "writes", "coalesced", "exits", "share", "until next"
        )?;
        let mut row = |name: &str, row: &Row| {
            let permille = u128::from(row.exits) * 1000 / u128::from(exits);
            writeln!(
                f,
                "{:<28} {:>10} {:>10} {:>10} {:>10} {:>4}.{}% {:>10} s",
                name,
                row.reads,
                row.writes,
                row.coalesced,
                row.exits,
                permille / 10,
                permille % 10,
                crate::show::seconds(row.until_next_ns)
            )
        };
        for region in &self.regions {
            row(&region.region, region)?;
            for of in self.registers.iter().filter(|of| of.region == region.region) {
                row(&format!("  {}", of.register), of)?;
            }
        }
        row("total", &self.total)
    }
}
