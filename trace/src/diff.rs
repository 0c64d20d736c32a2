//! Where two runs first behave differently, and which registers cost more.
//!
//! Recordings are compared region by region, as the order between devices is time's doing. What is
//! compared is the register, direction and width, and the value, unless the register's class says
//! that it cannot be the same ([`Class`]). Reads of one register with one value after another are one
//! item with a count: how often a guest polls is a matter of time, too. So is a pair that moves payload
//! and repeats, as a character and the status after it: how long a text is may depend on a time in it.
//! The shortest script of edits between the two lists of items is Myers'. Which vCPU made an access is
//! not compared: that is the guest's scheduler's choice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io::{Read, Seek};

use imara_diff::{Algorithm, Diff, Token};
use trapline_access::Direction;
use trapline_access::record::Op;

use crate::show::{Console, seconds};
use crate::{Class, Error, Merged, Site, Sites};

/// The most items that are compared, of both recordings.
const ITEMS_MAX: u64 = 64 << 20;
/// How many items are shown before a difference, and of it.
const CONTEXT: usize = 4;

/// What is different between two recordings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// The difference that comes first, if there is any.
    pub first: Option<First>,
    /// Regions that behave differently, in the order of their names.
    pub regions: Vec<RegionDifference>,
    /// Regions that are compared and have no difference.
    pub same: Vec<String>,
}

/// The first difference in behaviour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    /// The region.
    pub region: String,
    /// What each recording has there, in lines: a few items before, and those that differ.
    pub sides: [Side; 2],
}

/// One recording at the first difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Items that both recordings have, in words.
    pub before: Vec<String>,
    /// Items that only this one has there.
    pub here: Vec<String>,
    /// Time in nanoseconds, and number of the record, of the first item that differs; of where it would
    /// be if there is none.
    pub at: Option<(u64, u64)>,
    /// What the console had printed last.
    pub console: Option<String>,
}

/// How a region's accesses differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionDifference {
    /// The region.
    pub region: String,
    /// In how many places.
    pub places: usize,
    /// By register, in words: `LSR polled 12 times more in the second`.
    pub findings: Vec<String>,
}

/// A run of equal accesses of one region.
#[derive(Clone, Copy)]
struct Item {
    /// What is compared.
    token: u32,
    count: u32,
    time_ns: u64,
    number: u64,
    /// Whose it is: names in words.
    site: u32,
    /// Whether it moves payload.
    payload: bool,
    value: u64,
}

/// A recording, ready to be compared.
pub struct Run {
    regions: BTreeMap<String, Vec<Item>>,
    /// The sites, by the numbers that items have.
    sites: Vec<Site>,
    /// The console's lines, with the time each was last added to.
    console: Vec<(u64, String)>,
}

/// What tokens stand for, in both recordings.
#[derive(Default)]
pub struct Tokens {
    keys: HashMap<Key, u32>,
    known: HashMap<(u32, Option<u64>), u32>,
    classes: Vec<Class>,
    items: u64,
}

/// Region, register, direction and width.
type Key = (String, String, Direction, usize);

impl Tokens {
    /// The number of a site's key.
    fn key(&mut self, site: &Site) -> u32 {
        let key = (site.region.clone(), site.register.clone(), site.direction, site.bytes);
        let next = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
        let number = *self.keys.entry(key).or_insert(next);
        if number == next {
            self.classes.push(site.class);
        }
        number
    }

    /// The token of an access: the same for the same key and, where that can be the same, value.
    fn token(&mut self, key: u32, value: u64) -> u32 {
        let class = usize::try_from(key).ok().and_then(|key| self.classes.get(key));
        let value = (class == Some(&Class::Exact)).then_some(value);
        let next = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        *self.known.entry((key, value)).or_insert(next)
    }
}

impl Run {
    /// Reads a recording. `step` is called after each record.
    ///
    /// # Errors
    /// When it cannot be read, or is too long to be compared.
    pub fn read<R: Read + Seek>(
        merged: &mut Merged<'_, R>,
        tokens: &mut Tokens,
        mut step: impl FnMut(&Merged<'_, R>),
    ) -> Result<Self, Error> {
        let mut sites = Sites::new(merged.reader().map());
        let mut run = Self { regions: BTreeMap::new(), sites: Vec::new(), console: Vec::new() };
        let (mut keys, mut console): (Vec<u32>, _) = (Vec::new(), Console::default());
        while let Some(event) = merged.next()? {
            step(merged);
            let Some(number) = sites.of(&event) else { continue };
            let Some(site) = sites.get(number) else { continue };
            if keys.len() <= number {
                keys.push(tokens.key(site));
            }
            console.see(&event, site);
            run.note(event.time_ns, &console);
            let value = match event.record.op {
                Op::String(_) => u64::from(crc32c::crc32c(&event.data)),
                _ => event.record.value,
            };
            let token = tokens.token(keys.get(number).copied().unwrap_or(0), value);
            let item = Item {
                token,
                count: 1,
                time_ns: event.time_ns,
                number: event.number,
                site: u32::try_from(number).unwrap_or(u32::MAX),
                payload: site.class == Class::Payload,
                value,
            };
            if run.add(site, item) {
                tokens.items += 1;
            }
            if tokens.items > ITEMS_MAX {
                return Err(Error::TooMany { what: "accesses to be compared", limit: ITEMS_MAX });
            }
        }
        run.sites = sites.all().to_vec();
        Ok(run)
    }

    /// Adds an item, or counts one more of the last; whether it is new.
    fn add(&mut self, site: &Site, item: Item) -> bool {
        if !self.regions.contains_key(&site.region) {
            self.regions.insert(site.region.clone(), Vec::new());
        }
        let Some(items) = self.regions.get_mut(&site.region) else { return false };
        match items.last_mut() {
            Some(last) if last.token == item.token && site.direction == Direction::Read => {
                last.count = last.count.saturating_add(1);
                false
            }
            _ => {
                items.push(item);
                fold_pair(items);
                true
            }
        }
    }

    /// Remembers what the console's line is.
    fn note(&mut self, time_ns: u64, console: &Console) {
        let Some(line) = console.last() else { return };
        match self.console.last_mut() {
            Some((since, last)) if line.starts_with(last.as_str()) => {
                if line.len() > last.len() {
                    (*since, *last) = (time_ns, line.to_owned());
                }
            }
            _ => self.console.push((time_ns, line.to_owned())),
        }
    }

    /// The console's line at a time.
    fn console_at(&self, time_ns: u64) -> Option<String> {
        let end = self.console.partition_point(|(since, _)| *since <= time_ns);
        let last = end.checked_sub(1).and_then(|last| self.console.get(last));
        last.map(|(_, line)| line.clone())
    }

    fn items(&self, region: &str) -> &[Item] {
        self.regions.get(region).map_or(&[], Vec::as_slice)
    }

    fn site(&self, item: &Item) -> Option<&Site> {
        usize::try_from(item.site).ok().and_then(|site| self.sites.get(site))
    }

    /// An item in words: `read LSR -> 0x60 (12 times)`.
    fn words(&self, item: &Item) -> String {
        let Some(site) = self.site(item) else { return String::new() };
        let arrow = if site.direction == Direction::Read { "->" } else { "<-" };
        let fields = match site.decode(item.value) {
            fields if fields.is_empty() => String::new(),
            fields => format!(" {{{fields}}}"),
        };
        let times = match item.count {
            1 => String::new(),
            count => format!(" ({count} times)"),
        };
        let (register, value) = (&site.register, item.value);
        format!("{:<5} {register} {arrow} {value:#x}{fields}{times}", site.direction)
    }
}

/// Makes one pair of the last two, if they are equal and payload is moved by them: a character and the
/// status that is read after it, again and again. How long a text is that tells a time is no difference
/// in behaviour.
fn fold_pair(items: &mut Vec<Item>) {
    let [.., a, b, c, d] = items.as_mut_slice() else { return };
    if (a.token, b.token) == (c.token, d.token) && (a.payload || b.payload) {
        a.count = a.count.saturating_add(c.count);
        b.count = b.count.saturating_add(d.count);
        items.truncate(items.len() - 2);
    }
}

/// A stretch of items that differ: where in each list.
#[derive(Clone)]
struct Hunk {
    sides: [std::ops::Range<usize>; 2],
}

/// Compares two recordings that were read with the same `tokens`.
pub fn compare(runs: [&Run; 2], tokens: &Tokens) -> Differences {
    let [a, b] = runs;
    let names: BTreeSet<&String> = a.regions.keys().chain(b.regions.keys()).collect();
    let mut differences = Differences::default();
    let mut earliest: Option<((u64, String), Hunk)> = None;
    for name in names {
        let sides = [a.items(name), b.items(name)];
        let hunks = hunks(sides, tokens);
        let findings = findings(runs, sides, &hunks);
        if hunks.is_empty() {
            if findings.is_empty() {
                differences.same.push(name.clone());
                continue;
            }
        } else if let Some(hunk) = hunks.first() {
            let begins = sides
                .iter()
                .zip(&hunk.sides)
                .filter_map(|(items, range)| items.get(range.start).map(|item| item.time_ns));
            let key = (begins.min().unwrap_or(u64::MAX), name.clone());
            if earliest.as_ref().is_none_or(|(first, _)| key < *first) {
                earliest = Some((key, hunk.clone()));
            }
        }
        let (region, places) = (name.clone(), hunks.len());
        differences.regions.push(RegionDifference { region, places, findings });
    }
    differences.first = earliest.map(|((_, region), hunk)| first(runs, region, &hunk));
    differences
}

fn hunks([a, b]: [&[Item]; 2], tokens: &Tokens) -> Vec<Hunk> {
    let of = |items: &[Item]| items.iter().map(|item| Token(item.token)).collect::<Vec<_>>();
    let count = u32::try_from(tokens.known.len()).unwrap_or(u32::MAX);
    let mut diff = Diff::default();
    diff.compute_with(Algorithm::Myers, &of(a), &of(b), count);
    let range = |range: std::ops::Range<u32>| range.start as usize..range.end as usize;
    diff.hunks().map(|hunk| Hunk { sides: [range(hunk.before), range(hunk.after)] }).collect()
}

/// What is different, by register, in words.
fn findings(runs: [&Run; 2], sides: [&[Item]; 2], hunks: &[Hunk]) -> Vec<String> {
    let mut registers: BTreeMap<String, Counts> = BTreeMap::new();
    let mut only: [BTreeMap<u32, u64>; 2] = [BTreeMap::new(), BTreeMap::new()];
    for (side, (run, items)) in runs.into_iter().zip(sides).enumerate() {
        for item in items {
            let Some(site) = run.site(item) else { continue };
            let counts =
                registers.entry(format!("{} {}", site.direction, site.register)).or_default();
            counts.add(side, u64::from(item.count), 0, site.direction);
        }
        for hunk in hunks {
            let range = hunk.sides.get(side).cloned().unwrap_or_default();
            for item in items.get(range).unwrap_or_default() {
                let Some(site) = run.site(item) else { continue };
                let name = format!("{} {}", site.direction, site.register);
                registers.entry(name).or_default().add(side, 0, 1, site.direction);
                if let Some(only) = only.get_mut(side) {
                    *only.entry(item.token).or_default() += 1;
                }
            }
        }
    }
    let [mut first, second] = only;
    if !hunks.is_empty() && first == second {
        first.clear();
        return vec!["the same accesses in another order".to_owned()];
    }
    registers.into_iter().filter_map(|(name, counts)| counts.finding(&name)).collect()
}

/// How often a register was accessed in each run, and how many items of it only one has.
#[derive(Default)]
struct Counts {
    all: [u64; 2],
    only: [u64; 2],
    polled: bool,
}

impl Counts {
    fn add(&mut self, side: usize, all: u64, only: u64, direction: Direction) {
        self.polled |= direction == Direction::Read;
        if let Some(of) = self.all.get_mut(side) {
            *of += all;
        }
        if let Some(of) = self.only.get_mut(side) {
            *of += only;
        }
    }

    fn finding(&self, name: &str) -> Option<String> {
        const SIDES: [&str; 2] = ["first", "second"];
        let [a, b] = self.all;
        let (more, side) = if b > a { (b - a, SIDES[1]) } else { (a - b, SIDES[0]) };
        match (a, b, self.only) {
            (0, _, _) => Some(format!("{name}: {b} times in the second, never in the first")),
            (_, 0, _) => Some(format!("{name}: {a} times in the first, never in the second")),
            (_, _, [0, 0]) if more == 0 => None,
            (_, _, [0, 0]) if self.polled => {
                Some(format!("{name}: polled {more} times more in the {side}"))
            }
            (_, _, [x, y]) if more == 0 => {
                Some(format!("{name}: as often, {} times with another value or place", x.max(y)))
            }
            _ => Some(format!("{name}: {more} times more in the {side} ({a} and {b})")),
        }
    }
}

fn first(runs: [&Run; 2], region: String, hunk: &Hunk) -> First {
    let side = |side: usize| {
        let (Some(run), Some(range)) = (runs.get(side), hunk.sides.get(side)) else {
            return Side::default();
        };
        let items = run.items(&region);
        let before = items.get(range.start.saturating_sub(CONTEXT)..range.start);
        let here = items.get(range.start..range.end.min(range.start + CONTEXT));
        let at = items.get(range.start).or(items.last());
        Side {
            before: before.unwrap_or_default().iter().map(|item| run.words(item)).collect(),
            here: here.unwrap_or_default().iter().map(|item| run.words(item)).collect(),
            at: at.map(|item| (item.time_ns, item.number)),
            console: at.and_then(|item| run.console_at(item.time_ns)),
        }
    };
    First { sides: [side(0), side(1)], region }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.regions.is_empty() {
            return writeln!(f, "no difference in {} regions", self.same.len());
        }
        if let Some(first) = &self.first {
            write!(f, "{first}")?;
        }
        for region in &self.regions {
            let places = match region.places {
                0 => "the same accesses, polled more or less often".to_owned(),
                1 => "in one place".to_owned(),
                places => format!("in {places} places"),
            };
            writeln!(f, "{}: {places}", region.region)?;
            for finding in &region.findings {
                writeln!(f, "    {finding}")?;
            }
        }
        if !self.same.is_empty() {
            writeln!(f, "the same: {}", self.same.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the first difference is at {}", self.region)?;
        for (name, side) in ["first", "second"].into_iter().zip(&self.sides) {
            let at = side.at.map_or_else(
                || " has no access of it".to_owned(),
                |(time_ns, number)| format!(", {} s, record {number}", seconds(time_ns)),
            );
            writeln!(f, "  {name}{at}")?;
            if let Some(console) = &side.console {
                writeln!(f, "    console: {console}")?;
            }
            for line in &side.before {
                writeln!(f, "      {line}")?;
            }
            if side.here.is_empty() {
                writeln!(f, "    > nothing here")?;
            }
            for line in &side.here {
                writeln!(f, "    > {line}")?;
            }
        }
        Ok(())
    }
}

/// What the registers cost in both runs.
pub mod cost {
    use std::collections::BTreeMap;
    use std::fmt;

    use crate::show::seconds;
    use crate::stat::{Row, Stats};

    /// The cost of one register in both runs.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Cost {
        /// `serial0 LSR`.
        pub register: String,
        /// Exits of the first and of the second.
        pub exits: [u64; 2],
        /// Time to the next access, in nanoseconds, of the first and of the second.
        pub until_next_ns: [u64; 2],
    }

    impl Cost {
        /// By how much the two differ: time, and then exits.
        fn difference(&self) -> (u64, u64) {
            let ([a, b], [t, u]) = (self.exits, self.until_next_ns);
            (t.abs_diff(u), a.abs_diff(b))
        }
    }

    /// The costs of all registers, the biggest difference first.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Costs(pub Vec<Cost>);

    impl Costs {
        /// Of the counts of two recordings.
        pub fn of(stats: [&Stats; 2]) -> Self {
            let mut costs: BTreeMap<String, Cost> = BTreeMap::new();
            for (side, stats) in stats.into_iter().enumerate() {
                for row in &stats.registers {
                    let Row { region, register, exits, until_next_ns, .. } = row;
                    let name = format!("{region} {register}");
                    let cost = costs.entry(name.clone()).or_default();
                    cost.register = name;
                    if let Some(of) = cost.exits.get_mut(side) {
                        *of += exits;
                    }
                    if let Some(of) = cost.until_next_ns.get_mut(side) {
                        *of += until_next_ns;
                    }
                }
            }
            let mut costs: Vec<Cost> = costs.into_values().collect();
            costs.retain(|cost| cost.exits != [0, 0]);
            costs.sort_by_key(|cost| std::cmp::Reverse(cost.difference()));
            Self(costs)
        }
    }

    impl fmt::Display for Costs {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let (exits, next) = ("exits", "until next");
            writeln!(f, "{:<32} {exits:>10} {:>10} {next:>13} {:>13}", "costs", "", "")?;
            for Cost { register, exits: [a, b], until_next_ns: [t, u] } in &self.0 {
                let (t, u) = (seconds(*t), seconds(*u));
                writeln!(f, "{register:<32} {a:>10} {b:>10} {t:>11} s {u:>11} s")?;
            }
            Ok(())
        }
    }
}
