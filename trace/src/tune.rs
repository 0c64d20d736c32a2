//! From a recording: which writes may be late, what else costs exits, and what that would save.
//!
//! A write can be queued up when nothing that the guest or anybody else sees depends on its coming at
//! once. What the guest reads later does not, as every access delivers what is queued first; what is
//! left are outputs. So a register is a candidate when it was written and no write to it moved an
//! interrupt line or sent a message in the step that it made. Bytes that were sent to a back end may
//! be late. A register whose map says that writes are prompt is none, whatever the recording has: the
//! author's word is better than what happened not to happen.
//!
//! The number of exits is counted: accesses, less writes that queue up, plus writes that find the queue
//! full.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io::{Read, Seek};

use trapline_access::Direction;
use trapline_access::record::{Op, Outcome};

use crate::show::seconds;
use crate::sites::is_exit;
use crate::{Delivered, Error, Event, Level, Merged, Reader, Site, Sites, outside};

/// How many writes KVM's queue takes: a page of them, less its head and one that stays free.
const QUEUE: u64 = 169;
/// How many values of a register are told apart.
const VALUES_MAX: usize = 256;
/// What is read less often than this is not worth a word.
const READS_WORTH: u64 = 100;

/// What could be delivered in another way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// Writes that may be late, the most savings first.
    pub late: Vec<Late>,
    /// Registers of which a word is to be said, the most accesses first.
    pub others: Vec<Other>,
    /// Exits of the recording, with the queue as it was.
    pub exits: u64,
    /// Exits with all of [`Advice::late`] queued, too.
    pub exits_then: u64,
    /// Whether the recording has the outputs that prove it.
    pub proved: bool,
    /// What a replay with the writes as late as they may be says: that nothing else was different, or why
    /// there was none. `None` while nobody has asked one.
    pub replayed: Option<Result<(), String>>,
}

/// A register whose writes may be late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// The device.
    pub device: String,
    /// Which of its regions.
    pub region: String,
    /// The register.
    pub register: String,
    /// Its offset in the region.
    pub offset: u64,
    /// Length of the writes in bytes.
    pub len: u64,
    /// How often it was written in exits.
    pub writes: u64,
    /// How many exits this alone would have saved.
    pub saves: u64,
    /// How late a write would have been at most, in nanoseconds of this recording.
    pub latest_ns: u64,
}

/// A register that cannot be queued, or whose reads cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Region and register.
    pub register: String,
    /// How many exits it costs.
    pub exits: u64,
    /// What there is to say.
    pub said: String,
}

/// What is known of a site after the first pass.
#[derive(Default)]
struct Seen {
    exits: u64,
    queued: u64,
    rang: u64,
    strings: u64,
    lines: u64,
    messages: u64,
    memory: u64,
    values: HashMap<u64, u64>,
}

impl Seen {
    fn add(&mut self, event: &Event, outcome: Outcome) {
        match outcome {
            Outcome::Coalesced => self.queued += 1,
            Outcome::Rang => self.rang += 1,
            _ => {}
        }
        self.exits += u64::from(is_exit(&event.record));
        self.strings += u64::from(matches!(event.record.op, Op::String(_)));
        if self.values.len() < VALUES_MAX || self.values.contains_key(&event.record.value) {
            *self.values.entry(event.record.value).or_default() += 1;
        }
    }

    /// The most frequent value, and how often it was.
    fn usual(&self) -> (u64, u64) {
        let most = self.values.iter().max_by_key(|(value, count)| (**count, **value));
        most.map_or((0, 0), |(value, count)| (*value, *count))
    }
}

/// Finds out what could be delivered in another way. `step` is called after each record of each pass.
///
/// # Errors
/// When the recording cannot be read.
pub fn tune<R: Read + Seek>(
    reader: &mut Reader<R>,
    mut step: impl FnMut(&Merged<'_, R>),
) -> Result<Advice, Error> {
    let proved = reader.meta().levels.contains(&Level::Outputs);
    let (sites, seen) = look(&mut reader.merged()?, &mut step)?;
    let late: BTreeSet<usize> = seen
        .iter()
        .enumerate()
        .filter(|(number, seen)| sites.get(*number).is_some_and(|site| may_be_late(site, seen)))
        .map(|(number, _)| number)
        .collect();
    let (exits, _) = count(&mut reader.merged()?, &BTreeSet::new(), &mut step)?;
    let (exits_then, lateness) = count(&mut reader.merged()?, &late, &mut step)?;
    let mut advice = Advice { exits, exits_then, proved, ..Advice::default() };
    for (number, seen) in seen.iter().enumerate() {
        let Some(site) = sites.get(number) else { continue };
        if late.contains(&number) {
            let latest_ns = lateness.get(&number).copied().unwrap_or(0);
            advice.late.push(entry(&sites, site, seen, latest_ns));
        } else if let Some(said) = word(&sites, site, seen) {
            advice.others.push(Other { register: site.name(), exits: seen.exits, said });
        }
    }
    for late in &mut advice.late {
        let alone: BTreeSet<usize> = numbers(&sites, late).into_iter().collect();
        let (alone, _) = count(&mut reader.merged()?, &alone, &mut step)?;
        late.saves = exits.saturating_sub(alone);
    }
    advice.late.sort_by(|a, b| (b.saves, &a.register).cmp(&(a.saves, &b.register)));
    advice.others.sort_by(|a, b| (b.exits, &a.register).cmp(&(a.exits, &b.register)));
    Ok(advice)
}

/// Takes the registers out of which a replay says that their writes cannot be late, with what it said, by
/// their numbers in [`Advice::late`]; counts again.
///
/// # Errors
/// When the recording cannot be read.
pub fn refuse<R: Read + Seek>(
    advice: &mut Advice,
    refused: Vec<(usize, String)>,
    reader: &mut Reader<R>,
) -> Result<(), Error> {
    if refused.is_empty() {
        return Ok(());
    }
    let refused: BTreeMap<usize, String> = refused.into_iter().collect();
    for (number, late) in std::mem::take(&mut advice.late).into_iter().enumerate() {
        let Some(said) = refused.get(&number) else {
            advice.late.push(late);
            continue;
        };
        let Late { device, region, register, writes, .. } = late;
        let register = format!("{device}/{region} {register}");
        let said = format!("cannot be late, says a replay: {said}");
        advice.others.push(Other { register, exits: writes, said });
    }
    advice.others.sort_by(|a, b| (b.exits, &a.register).cmp(&(a.exits, &b.register)));
    let (sites, _) = look(&mut reader.merged()?, &mut |_| {})?;
    let left = advice.late.iter().flat_map(|late| numbers(&sites, late)).collect();
    (advice.exits_then, _) = count(&mut reader.merged()?, &left, &mut |_| {})?;
    Ok(())
}

/// The sites that an entry is of.
fn numbers(sites: &Sites, late: &Late) -> Vec<usize> {
    let is = |site: &Site| {
        site.direction == Direction::Write
            && site.device == late.device
            && site.offset == late.offset
            && site.bytes as u64 == late.len
            && site.id.is_some_and(|id| {
                sites.map().region(id).is_some_and(|region| region.region == late.region)
            })
    };
    sites.all().iter().enumerate().filter(|(_, site)| is(site)).map(|(number, _)| number).collect()
}

/// The first pass: who did what, and what came out of it.
fn look<R: Read + Seek>(
    merged: &mut Merged<'_, R>,
    step: &mut impl FnMut(&Merged<'_, R>),
) -> Result<(Sites, Vec<Seen>), Error> {
    let mut sites = Sites::of_registers(merged.reader().map());
    let mut seen: Vec<Seen> = Vec::new();
    // The accesses of the step that is being made: those of one time.
    let (mut now, mut made): (u64, Vec<usize>) = (0, Vec::new());
    while let Some(event) = merged.next()? {
        step(merged);
        if event.time_ns != now {
            made.clear();
            now = event.time_ns;
        }
        if let Some(number) = sites.of(&event) {
            seen.resize_with(seen.len().max(number + 1), Seen::default);
            let outcome = event.record.access().map_or(Outcome::Handled, |(_, _, _, of)| of);
            if let Some(seen) = seen.get_mut(number) {
                seen.add(&event, outcome);
            }
            made.push(number);
        } else if event.record.op == Op::Out {
            for number in &made {
                let Some(seen) = seen.get_mut(*number) else { continue };
                match outside::Output::of(event.record.offset) {
                    Some(outside::Output::Level) => seen.lines += 1,
                    Some(outside::Output::Message) => seen.messages += 1,
                    Some(outside::Output::Written) => seen.memory += 1,
                    Some(outside::Output::Sent) | None => {}
                }
            }
        }
    }
    Ok((sites, seen))
}

fn may_be_late(site: &Site, seen: &Seen) -> bool {
    site.direction == Direction::Write
        && site.id.is_some()
        && site.is_named()
        && !site.prompt
        && (seen.lines, seen.messages, seen.memory, seen.rang) == (0, 0, 0, 0)
        && seen.exits > seen.strings
        && seen.queued == 0
}

/// The second pass: how many exits there are when these queue up too, and how late each is at most.
fn count<R: Read + Seek>(
    merged: &mut Merged<'_, R>,
    late: &BTreeSet<usize>,
    step: &mut impl FnMut(&Merged<'_, R>),
) -> Result<(u64, BTreeMap<usize, u64>), Error> {
    let mut sites = Sites::of_registers(merged.reader().map());
    let (mut exits, mut queued) = (0, 0_u64);
    let mut waiting: BTreeMap<usize, u64> = BTreeMap::new();
    let mut lateness: BTreeMap<usize, u64> = BTreeMap::new();
    while let Some(event) = merged.next()? {
        step(merged);
        let Some(number) = sites.of(&event) else { continue };
        let single = !matches!(event.record.op, Op::String(_));
        if !is_exit(&event.record) || late.contains(&number) && single {
            queued += 1;
            // The one that fills the queue still finds room; the next one does not.
            if queued <= QUEUE || !is_exit(&event.record) {
                if late.contains(&number) {
                    waiting.entry(number).or_insert(event.time_ns);
                }
                continue;
            }
        }
        (exits, queued) = (exits + 1, 0);
        for (number, since) in std::mem::take(&mut waiting) {
            let late = lateness.entry(number).or_default();
            *late = (*late).max(event.time_ns.saturating_sub(since));
        }
    }
    // The guest is left once more, at its end.
    Ok((exits + 1, lateness))
}

fn entry(sites: &Sites, site: &Site, seen: &Seen, latest_ns: u64) -> Late {
    let region = site.id.and_then(|id| sites.map().region(id));
    Late {
        device: site.device.clone(),
        region: region.map_or_else(String::new, |region| crate::sites::clean(&region.region)),
        register: site.register.clone(),
        offset: site.offset,
        len: site.bytes as u64,
        writes: seen.exits - seen.strings,
        saves: 0,
        latest_ns,
    }
}

/// What is to be said of a register that is no candidate.
fn word(sites: &Sites, site: &Site, seen: &Seen) -> Option<String> {
    if site.direction == Direction::Read {
        let (value, count) = seen.usual();
        let constant = seen.exits >= READS_WORTH && count * 100 >= seen.exits * 99;
        let fields = match site.decode(value) {
            fields if fields.is_empty() => String::new(),
            fields => format!(" {{{fields}}}"),
        };
        return constant.then(|| {
            format!(
                "read as {value:#x}{fields} {count} of {} times: no delivery of KVM's answers reads, \
                 but a device whose pages are shown, or one that is polled less (a virtio console)",
                seen.exits
            )
        });
    }
    if seen.queued > 0 {
        return Some(format!("{} of its writes are queued already", seen.queued));
    }
    if seen.rang > 0 {
        let values = seen.values.len();
        return Some(format!(
            "a doorbell that {} writes of {values} values rang here: an eventfd of KVM's saves them",
            seen.rang
        ));
    }
    if site.prompt && seen.exits > 0 && site.id.is_some() {
        return Some("must not be late, says its map".to_owned());
    }
    if !site.is_named() && seen.exits > 0 && site.id.is_some() {
        return Some("no map says what it is".to_owned());
    }
    let outputs = [
        (seen.lines, "changes of interrupt lines"),
        (seen.messages, "messages"),
        (seen.memory, "writes to guest memory"),
    ];
    let outputs = outputs.into_iter().filter(|(count, _)| *count > 0);
    let outputs: Vec<_> = outputs.map(|(count, what)| format!("{count} {what}")).collect();
    let doorbell = site.id.and_then(|id| sites.map().region(id)).is_some_and(|region| {
        region.windows.iter().any(|window| {
            matches!(window.delivered, Delivered::Doorbell(_)) && window.offset == site.offset
        })
    });
    match outputs.as_slice() {
        [] => doorbell.then(|| "a doorbell".to_owned()),
        outputs => Some(format!("made {}", outputs.join(" and "))),
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.late.is_empty() {
            writeln!(f, "no register whose writes could be late and are not")?;
        } else {
            writeln!(
                f,
                "{:<36} {:>8} {:>8} {:>12}",
                "may be late", "writes", "saves", "at most by"
            )?;
        }
        for late in &self.late {
            let name = format!("{}/{} {}", late.device, late.region, late.register);
            let by = seconds(late.latest_ns);
            writeln!(f, "{name:<36} {:>8} {:>8} {by:>10} s", late.writes, late.saves)?;
        }
        if !self.proved {
            writeln!(
                f,
                "not proved: the recording has no outputs, only the register maps were asked"
            )?;
        }
        match &self.replayed {
            Some(Ok(())) if !self.late.is_empty() => {
                writeln!(
                    f,
                    "played with each of them late, and all: no other read, no other output"
                )?;
            }
            Some(Err(why)) => writeln!(f, "not played with them late: {why}")?,
            Some(Ok(())) | None => {}
        }
        if !self.others.is_empty() {
            writeln!(f, "\n{:<36} {:>8}", "others", "exits")?;
        }
        for Other { register, exits, said } in &self.others {
            writeln!(f, "{register:<36} {exits:>8}  {said}")?;
        }
        let (now, then) = (self.exits, self.exits_then);
        let permille = u128::from(now - then.min(now)) * 1000 / u128::from(now.max(1));
        writeln!(f, "\nexits: {now}, then {then} ({}.{} % less)", permille / 10, permille % 10)
    }
}

/// The file for `trapline run --deliveries`: TOML, with its evidence as comments.
pub fn deliveries(advice: &Advice, of: &str) -> String {
    let shown = crate::sites::clean(of);
    let mut text = format!(
        "# Writes that may be late, by `trapline tune {shown}`; for `trapline run --deliveries`.\n\
         # With all of them {} exits instead of {}.\nversion = 1\n",
        advice.exits_then, advice.exits
    );
    for late in &advice.late {
        let proof = match (&advice.replayed, advice.proved) {
            (Some(Ok(())), _) => "a replay with them late is the same",
            (_, true) => "no interrupt came of any",
            (_, false) => "not proved",
        };
        text += &format!(
            "\n# {} writes, {proof}; saves {} exits, late by {} s at most\n[[late]]\ndevice = {}\n\
             region = {}\nregister = {}\noffset = {}\nlen = {}\n",
            late.writes,
            late.saves,
            seconds(late.latest_ns),
            quoted(&late.device),
            quoted(&late.region),
            quoted(crate::sites::without_offset(&late.register)),
            late.offset,
            late.len
        );
    }
    text
}

/// A string of TOML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
