//! The table of what a guest has done: by device and register, only what was touched, the biggest
//! first, in 80 columns.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;

use trapline::Unclaimed;
use trapline_control::api::{RegionCount, RegisterCount, Statistics, UnclaimedCount};

use crate::terminal;

/// The width of a table for who has no terminal.
const COLUMNS: usize = 80;

/// The width of a table: the terminal's, or 80.
pub fn columns() -> usize {
    terminal::size().map_or(COLUMNS, |(columns, _)| columns.into())
}

/// Accesses of one kind that nobody claimed, as the API has them.
pub fn unclaimed_count(key: &Unclaimed, count: u64) -> UnclaimedCount {
    UnclaimedCount {
        space: key.space.to_string(),
        addr: key.addr,
        len: key.len,
        direction: key.direction.to_string(),
        count,
    }
}

/// From one unit to the next.
const K: u64 = 10 * 10 * 10;

/// Columns beside the name.
const COUNTS: usize = 50;

/// A line of the table.
#[derive(Clone, Debug, Default)]
struct Row {
    name: String,
    reads: u64,
    writes: u64,
    queued: u64,
    exits: u64,
}

impl Row {
    fn size(&self) -> (u64, u64) {
        (self.exits, self.reads + self.writes)
    }

    fn less(&self, name: &str, others: &[Self]) -> Option<Self> {
        let left = |of: fn(&Self) -> u64| of(self).saturating_sub(others.iter().map(of).sum());
        let row = Self {
            name: name.to_owned(),
            reads: left(|row| row.reads),
            writes: left(|row| row.writes),
            queued: left(|row| row.queued),
            exits: left(|row| row.exits),
        };
        (row.reads + row.writes > 0).then_some(row)
    }
}

/// The table in so many columns, at least 60.
pub fn table(statistics: &Statistics, columns: usize) -> String {
    let mut text = exits(statistics, columns);
    let mut regions: Vec<(Row, Vec<Row>)> = groups(statistics);
    regions.sort_by_key(|(region, _)| (Reverse(region.size()), region.name.clone()));
    let total: u64 = regions.iter().map(|(region, _)| region.exits).sum();
    let width = columns.max(60) - COUNTS;
    let _ = writeln!(
        text,
        "{:<width$} {:>10} {:>10} {:>10} {:>10} {:>5}",
        "", "reads", "writes", "queued", "exits", "share"
    );
    for (region, registers) in &regions {
        line(&mut text, region, "", (width, total));
        for register in registers {
            line(&mut text, register, "  ", (width, total));
        }
    }
    text
}

/// Regions that were touched, each with its registers, if those are counted: the biggest first, and what
/// is in none of their counts last.
fn groups(statistics: &Statistics) -> Vec<(Row, Vec<Row>)> {
    let mut registers: BTreeMap<&str, Vec<Row>> = BTreeMap::new();
    for row in &statistics.registers {
        registers.entry(&row.region).or_default().push(of_register(row));
    }
    let mut regions: BTreeMap<&str, Row> = BTreeMap::new();
    for region in &statistics.regions {
        let row = regions.entry(&region.region).or_default();
        let add = of_region(region);
        row.name = add.name;
        row.reads += add.reads;
        row.writes += add.writes;
        row.queued += add.queued;
        row.exits += add.exits;
    }
    let unclaimed = unclaimed(statistics);
    let mut groups = Vec::new();
    for (name, region) in regions {
        let mut registers = registers.remove(name).unwrap_or_default();
        registers.sort_by_key(|row| (Reverse(row.size()), row.name.clone()));
        if !registers.is_empty() {
            // Those from before somebody counted, and those that were too fast.
            registers.extend(region.less("(not told apart)", &registers));
        }
        groups.push((region, registers));
    }
    groups.extend(unclaimed);
    groups.retain(|(region, _)| region.reads + region.writes > 0);
    groups
}

fn of_region(region: &RegionCount) -> Row {
    Row {
        name: region.region.clone(),
        reads: region.reads + region.string_reads,
        writes: region.writes + region.string_writes,
        queued: region.queued,
        exits: (region.reads + region.writes).saturating_sub(region.queued),
    }
}

fn of_register(row: &RegisterCount) -> Row {
    let name = if row.register.is_empty() { "(others)" } else { &row.register };
    let RegisterCount { reads, writes, queued, exits, .. } = *row;
    Row { name: name.to_owned(), reads, writes, queued, exits }
}

fn unclaimed(statistics: &Statistics) -> Option<(Row, Vec<Row>)> {
    let mut rows: Vec<Row> = Vec::new();
    for one in &statistics.unclaimed {
        let read = one.direction == "read";
        let (reads, writes) = if read { (one.count, 0) } else { (0, one.count) };
        let bytes = if one.len == 1 { "byte" } else { "bytes" };
        let name = format!("{} {:#x} {} {bytes}", one.space, one.addr, one.len);
        match rows.iter_mut().find(|row| row.name == name) {
            Some(row) => {
                row.reads += reads;
                row.writes += writes;
                row.exits += one.count;
            }
            None => rows.push(Row { name, reads, writes, queued: 0, exits: one.count }),
        }
    }
    let sum = |of: fn(&Row) -> u64| rows.iter().map(of).sum::<u64>();
    let all = Row {
        name: "(no device)".to_owned(),
        reads: sum(|row| row.reads),
        writes: sum(|row| row.writes),
        queued: 0,
        exits: sum(|row| row.exits),
    };
    rows.sort_by_key(|row| (Reverse(row.size()), row.name.clone()));
    (!rows.is_empty()).then_some((all, rows))
}

fn line(text: &mut String, row: &Row, indent: &str, (width, total): (usize, u64)) {
    let name = shortened(&format!("{indent}{}", row.name), width);
    let permille = u128::from(row.exits) * u128::from(K) / u128::from(total.max(1));
    let share = if total > 0 && row.exits >= total {
        "100%".to_owned()
    } else {
        format!("{}.{}%", permille / 10, permille % 10)
    };
    let Row { reads, writes, queued, exits, .. } = row;
    let _ = writeln!(
        text,
        "{name:<width$} {:>10} {:>10} {:>10} {:>10} {share:>5}",
        count(*reads),
        count(*writes),
        count(*queued),
        count(*exits)
    );
}

/// A count in ten columns; nothing where there is nothing.
fn count(count: u64) -> String {
    if count == 0 {
        return String::new();
    }
    let (mut count, mut units) = (count, ["", "k", "M", "G", "T"].iter());
    while count >= 1_000_000_000 && units.len() > 1 {
        count /= K;
        units.next();
    }
    format!("{count}{}", units.next().unwrap_or(&""))
}

/// `name` in so many columns.
pub fn shortened(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_owned();
    }
    let head: String = name.chars().take(width.saturating_sub(1)).collect();
    format!("{head}…")
}

/// The lines before the table.
fn exits(statistics: &Statistics, columns: usize) -> String {
    let total: u64 = statistics.exits.values().sum();
    let mut kinds: Vec<_> = statistics.exits.iter().collect();
    kinds.sort_by_key(|(kind, count)| (Reverse(**count), kind.as_str()));
    let mut text = format!("exits: total {total}");
    let mut used = text.len();
    for (kind, count) in kinds {
        let word = format!("{kind} {count}");
        if used + 2 + word.len() >= columns {
            text += ",\n       ";
            used = 7 + word.len();
        } else {
            text += ", ";
            used += 2 + word.len();
        }
        text += &word;
    }
    let claimed: u64 = statistics.regions.iter().map(total_of).sum();
    let unclaimed = statistics.unclaimed.iter().map(|one| one.count).sum::<u64>();
    let unclaimed = unclaimed + statistics.unclaimed_others;
    let resets = statistics.resets;
    text += &format!("\ntraps: claimed {claimed}, unclaimed {unclaimed}, resets {resets}\n");
    text
}

fn total_of(region: &RegionCount) -> u64 {
    region.reads + region.writes + region.string_reads + region.string_writes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(region: &str, reads: u64, writes: u64, queued: u64) -> RegionCount {
        let device = region.split('/').next().unwrap().to_owned();
        RegionCount {
            device,
            region: region.to_owned(),
            reads,
            writes,
            queued,
            ..Default::default()
        }
    }

    fn register(region: &str, register: &str, reads: u64, writes: u64) -> RegisterCount {
        let (region, register) = (region.to_owned(), register.to_owned());
        RegisterCount {
            region,
            register,
            reads,
            writes,
            exits: reads + writes,
            ..Default::default()
        }
    }

    fn statistics() -> Statistics {
        let unclaimed = |direction: &str, count| UnclaimedCount {
            space: "pio".to_owned(),
            addr: 0x80,
            len: 1,
            direction: direction.to_owned(),
            count,
        };
        Statistics {
            exits: [("port read".to_owned(), 18_000), ("port write".to_owned(), 1_200)].into(),
            regions: vec![
                region("rtc/ports", 40, 60, 0),
                region("dma1/8237", 0, 0, 0),
                region("serial0/uart", 17_900, 19_100, 18_000),
                region(&format!("long/{}", "x".repeat(60)), 1, 0, 0),
            ],
            unclaimed: vec![unclaimed("write", 12), unclaimed("read", 3)],
            registers: vec![
                register("rtc/ports", "DATA", 40, 10),
                register("serial0/uart", "IER", 0, 7),
                register("serial0/uart", "LSR", 17_900, 0),
            ],
            ..Statistics::default()
        }
    }

    #[test]
    fn the_table_has_what_was_touched_and_the_biggest_first_in_80_columns() {
        let table = table(&statistics(), COLUMNS);
        let wanted = "\
exits: total 19200, port read 18000, port write 1200
traps: claimed 37101, unclaimed 15, resets 0
                                    reads     writes     queued      exits share
serial0/uart                        17900      19100      18000      19000 99.3%
  LSR                               17900                            17900 93.6%
  IER                                              7                     7  0.0%
  (not told apart)                             19093      18000       1093  5.7%
rtc/ports                              40         60                   100  0.5%
  DATA                                 40         10                    50  0.2%
  (not told apart)                                50                    50  0.2%
(no device)                             3         12                    15  0.0%
  pio 0x80 1 byte                       3         12                    15  0.0%
long/xxxxxxxxxxxxxxxxxxxxxxxx…          1                                1  0.0%
";
        assert_eq!(table, wanted);
    }

    #[test]
    fn no_line_is_longer_than_there_are_columns() {
        let mut statistics = statistics();
        statistics.exits = (0..12).map(|n| (format!("kind of exit {n}"), u64::MAX >> 8)).collect();
        statistics.regions[0].reads = 10_000_000_000_000;
        for columns in [60, 80, 132] {
            for line in table(&statistics, columns).lines() {
                assert!(line.chars().count() <= columns, "{columns}: {line}");
            }
        }
    }
}
