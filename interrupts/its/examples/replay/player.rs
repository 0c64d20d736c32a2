//! The recording format: one JSON object per line, executed in order.

use std::collections::HashMap;

use gicv3_its::command::{Command, Executed};
use gicv3_its::regs::CREADR_STALLED;
use gicv3_its::{DeviceId, EventId, LPI_BASE, Lpi};
use serde_json::Value;

use crate::machine::{Identity, Machine};
use crate::record::{
    Fallible, Record, bytes, cpu, integer, length, number, op, optional, place, short, text, truth,
};

/// How a replay went.
#[derive(Default)]
pub(crate) struct Report {
    /// Comparisons made.
    pub(crate) checks: u64,
    /// Comparisons that failed.
    pub(crate) differences: u64,
    /// What to say, each `LINE: text`; at most [`LINES`].
    pub(crate) lines: Vec<String>,
}

/// Somebody who watches a replay.
pub(crate) trait Observer {
    /// A new machine starts.
    fn reset(&mut self) {}
    /// A command was executed, or refused.
    fn command(&mut self, _line: u64, _command: &Command) {}
    /// A device signals.
    fn signal(&mut self, _line: u64, _device: DeviceId, _event: EventId) {}
    /// The machine's recording is over.
    fn end(&mut self, _machine: &Machine) {}
}

impl Observer for () {}

/// Offset of `GITS_CREADR`.
const CREADR: u64 = 0x90;

/// How many differences are told one by one.
const LINES: usize = 50;

/// Replays a recording.
///
/// # Errors
/// `LINE: reason` if the text is not of the format.
#[allow(dead_code, reason = "the linter watches")]
pub(crate) fn play(text: &str) -> Fallible<Report> {
    play_with(text, &mut ())
}

/// Replays a recording for somebody who watches.
///
/// # Errors
/// `LINE: reason` if the text is not of the format.
pub(crate) fn play_with(text: &str, observer: &mut dyn Observer) -> Fallible<Report> {
    let mut records = Vec::new();
    for (n, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value = serde_json::from_str(line).map_err(|error| format!("{n}: {error}"))?;
        let Value::Object(record) = value else { return Err(format!("{n}: not an object")) };
        records.push((n, record));
    }
    let starts: Vec<usize> = (0..records.len())
        .filter(|n| op(records.get(*n).map(|(_, record)| record)) == Some("meta"))
        .collect();
    let Some(first) = starts.first() else { return Err("1: no record is meta".to_owned()) };
    let (mut report, mut group) = (Report::default(), Group::default());
    for (line, record) in records.get(..*first).unwrap_or_default() {
        if !group.take(record).map_err(|error| format!("{line}: {error}"))? {
            return Err(format!("{line}: there is no machine before the first meta"));
        }
    }
    let ends = starts.iter().skip(1).copied().chain([records.len()]);
    for (start, end) in starts.iter().copied().zip(ends) {
        let section = records.get(start..end).unwrap_or_default();
        Player::section(section, &mut group, &mut report, observer)?;
    }
    Ok(report)
}

/// What a record can say about those after it, whatever machine they are about.
#[derive(Default)]
struct Group {
    /// The name of the test they belong to.
    test: String,
    /// They are executed and not checked.
    quirk: bool,
}

impl Group {
    /// Takes a record that says no more than that, or nothing; false if it is about the machine.
    fn take(&mut self, record: &Record) -> Fallible<bool> {
        match op(Some(record)).ok_or("no op")? {
            "note" => {}
            "test" => text(record, "name").unwrap_or_default().clone_into(&mut self.test),
            "quirk" => self.quirk = truth(record, "on")?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The records of a machine that is left out.
    fn skip(&mut self, records: &[(u64, Record)]) -> Fallible<()> {
        for (line, record) in records {
            self.take(record).map_err(|error| format!("{line}: {error}"))?;
        }
        Ok(())
    }
}

struct Player<'a> {
    machine: Machine,
    report: &'a mut Report,
    observer: &'a mut dyn Observer,
    line: u64,
    /// The full order of acknowledgements is recorded.
    ordered: bool,
    /// Commands are recorded, so one that is not is a difference.
    listed: bool,
    group: &'a mut Group,
}

impl<'a> Player<'a> {
    /// Replays the records from one `meta` to the next.
    fn section(
        records: &[(u64, Record)],
        group: &'a mut Group,
        report: &'a mut Report,
        observer: &'a mut dyn Observer,
    ) -> Fallible<()> {
        observer.reset();
        let Some(((line, meta), rest)) = records.split_first() else { return Ok(()) };
        let located = |error| format!("{line}: {error}");
        if optional(meta, "gic").map_err(located)? == Some(4) {
            // GICv4 is not modelled; the format says to leave such a machine out.
            report.lines.push(format!("{line}: GICv4 machine left out"));
            return group.skip(rest);
        }
        let count = optional(meta, "ncpu").map_err(located)?.unwrap_or(1);
        let count = u16::try_from(count).map_err(|_| located("ncpu out of range".to_owned()))?;
        let identity = identity(count, rest, group.quirk)?;
        if identity.its.typer.virtual_lpis() {
            report.lines.push(format!("{line}: a machine with a GICv4's TYPER left out"));
            return group.skip(rest);
        }
        let machine = Machine::new(&identity, group1(rest)).map_err(located)?;
        let mut player = Self {
            machine,
            report,
            observer,
            line: *line,
            ordered: meta.get("mode").and_then(Value::as_str) == Some("cpu"),
            listed: rest.iter().any(|(_, record)| op(Some(record)) == Some("exec")),
            group,
        };
        for (line, record) in rest {
            player.line = *line;
            player.record(record).map_err(|error| format!("{line}: {error}"))?;
        }
        player.leftover();
        player.observer.end(&player.machine);
        Ok(())
    }

    fn record(&mut self, record: &Record) -> Fallible<()> {
        let op = op(Some(record)).ok_or("no op")?;
        if op != "exec" {
            self.leftover();
        }
        if self.group.take(record)? {
            return Ok(());
        }
        match op {
            "memset" => {
                let byte = u8::try_from(number(record, "byte")?).map_err(|_| "byte")?;
                let data = vec![byte; length(record)?];
                self.machine.memory_write(number(record, "pa")?, &data);
            }
            "memw" => {
                let data = bytes(text(record, "hex").ok_or("no hex")?)?;
                self.machine.memory_write(number(record, "pa")?, &data);
            }
            "its_w" => {
                let (offset, size) = place(record)?;
                self.machine.its_write(offset, size, number(record, "val")?);
                for executed in &self.machine.executed {
                    if let Some(command) = &executed.command {
                        self.observer.command(self.line, command);
                    }
                }
            }
            "its_r" => self.its_read(record)?,
            "exec" => self.executed(record)?,
            "gicd_w" => {
                let (offset, size) = place(record)?;
                if offset == 0 && size == 4 {
                    self.machine.group1 = number(record, "val")? & 2 != 0;
                }
            }
            "gicr_w" => {
                let (offset, size) = place(record)?;
                let value = number(record, "val")?;
                self.machine.gicr_write(cpu(record)?, offset, size, value);
            }
            "gicr_r" => self.gicr_read(record)?,
            "msi" => self.signal(record)?,
            "expect" => self.expect(record)?,
            "ack" => self.acknowledge(record)?,
            "eoi" => {
                let intid = short(record, "intid")?;
                self.machine.end(cpu(record)?, intid);
            }
            other => return Err(format!("unknown op {other}")),
        }
        Ok(())
    }

    /// Counts one comparison, unless the result is marked as specific to its origin.
    fn check(&mut self, same: bool, difference: impl FnOnce() -> String) {
        if self.group.quirk {
            return;
        }
        self.report.checks += 1;
        if !same {
            self.differ(&difference());
        }
    }

    fn differ(&mut self, difference: &str) {
        self.report.differences += 1;
        if self.report.lines.len() < LINES {
            let Self { line, group: Group { test, .. }, .. } = self;
            let at = if test.is_empty() { String::new() } else { format!("[{test}] ") };
            self.report.lines.push(format!("{line}: {at}{difference}"));
        }
    }

    fn its_read(&mut self, record: &Record) -> Fallible<()> {
        let (offset, size) = place(record)?;
        let expected = number(record, "val")?;
        let mut value = expected;
        for _ in 0..optional(record, "n")?.unwrap_or(1) {
            let one = self.machine.its_read(offset, size);
            value = if one == expected { value } else { one };
        }
        self.check(value == expected, || {
            format!("ITS {offset:#x}: read {value:#x}, recorded {expected:#x}")
        });
        Ok(())
    }

    fn gicr_read(&mut self, record: &Record) -> Fallible<()> {
        let (offset, size) = place(record)?;
        let (target, expected) = (cpu(record)?, number(record, "val")?);
        let value = self.machine.redist.read(target, offset, size);
        // Whether a processor sleeps depends on its own course, which is not recorded.
        if offset != 0x14 {
            self.check(value == expected, || {
                format!("GICR {target} {offset:#x}: read {value:#x}, recorded {expected:#x}")
            });
        }
        Ok(())
    }

    fn executed(&mut self, record: &Record) -> Fallible<()> {
        let name = text(record, "cmd").ok_or("no cmd")?;
        let unlisted = |executed: &Executed| match executed.command {
            Some(Command::Unknown { .. } | Command::Virtual { .. }) => true,
            Some(_) => false,
            None => true,
        };
        // A recording need not list what is no command of a GICv3.
        while self.machine.executed.front().is_some_and(|next| unlisted(next) && !named(next, name))
        {
            self.machine.executed.pop_front();
        }
        let executed = self.machine.executed.pop_front();
        let same = match executed.as_ref().and_then(|executed| executed.command) {
            Some(command) => matches(&command, record)?,
            None => false,
        };
        self.check(same, || {
            let record = Value::Object(record.clone());
            match executed {
                Some(executed) => format!("executed {executed}, recorded {record}"),
                None => format!("executed nothing, recorded {record}"),
            }
        });
        Ok(())
    }

    /// Commands executed that were not recorded.
    fn leftover(&mut self) {
        while let Some(executed) = self.machine.executed.pop_front() {
            let listed = matches!(
                executed.command,
                Some(command) if !matches!(command, Command::Unknown { .. } | Command::Virtual { .. })
            );
            if listed && self.listed && !self.group.quirk {
                self.differ(&format!("executed {executed}, recorded nothing"));
            }
        }
    }

    fn signal(&mut self, record: &Record) -> Fallible<()> {
        let size = optional(record, "size")?.unwrap_or(4);
        let size = u32::try_from(size).map_err(|_| "size")?;
        let data = u32::try_from(number(record, "data")? & 0xffff_ffff).map_err(|_| "data")?;
        let device = short(record, "devid")?;
        let event = EventId(if size == 2 { data & 0xffff } else { data });
        self.observer.signal(self.line, DeviceId(device), event);
        let result = self.machine.signal(device, size, data);
        if let Some(lpi) = optional(record, "lpi")? {
            let cpu = optional(record, "cpu")?;
            let same = match result {
                Some((to, target)) => {
                    u64::from(to.intid()) == lpi && cpu.is_none_or(|cpu| u64::from(target.0) == cpu)
                }
                // No LPI has such a number: the signal came to nothing.
                None => lpi < LPI_BASE.into(),
            };
            self.check(same, || format!("signal became {result:?}, recorded {lpi} on {cpu:?}"));
        }
        Ok(())
    }

    fn expect(&mut self, record: &Record) -> Fallible<()> {
        let target = cpu(record)?;
        let Machine { redist, ram, .. } = &self.machine;
        match text(record, "what") {
            Some("pending") => {
                let intid = short(record, "lpi")?;
                let expected = number(record, "val")? != 0;
                let pending = Lpi::new(intid).is_some_and(|lpi| redist.pending(target, lpi, ram));
                self.check(pending == expected, || {
                    format!("LPI {intid} on {target}: pending {pending}, recorded {expected}")
                });
            }
            Some("pending_set") => {
                let lpis = record.get("lpis").and_then(Value::as_array).ok_or("no lpis")?;
                let expected: Vec<u64> = lpis.iter().map(integer).collect::<Fallible<_>>()?;
                let pending = redist.all_pending(target, ram);
                let pending: Vec<u64> = pending.iter().map(|lpi| lpi.intid().into()).collect();
                self.check(pending == expected, || {
                    format!("pending on {target}: {pending:?}, recorded {expected:?}")
                });
            }
            what => return Err(format!("unknown expectation {what:?}")),
        }
        Ok(())
    }

    fn acknowledge(&mut self, record: &Record) -> Fallible<()> {
        let (target, intid) = (cpu(record)?, short(record, "intid")?);
        if self.ordered {
            let taken = self.machine.acknowledge(target);
            self.check(taken == intid, || {
                format!("{target} acknowledged {taken}, recorded {intid}")
            });
        } else if intid == 1023 {
            let next = self.machine.redist.next(target, &self.machine.ram);
            let none = next.is_none() || !self.machine.group1;
            self.check(none, || format!("{target} has {next:?}, recorded none"));
        } else {
            let taken = self.machine.take(target, intid) && self.machine.group1;
            self.check(taken, || format!("{intid} was not pending and enabled on {target}"));
        }
        Ok(())
    }
}

fn named(executed: &Executed, name: &str) -> bool {
    executed.command.is_some_and(|command| command.name().eq_ignore_ascii_case(name))
}

/// Whether a command is the recorded one, in the fields that were recorded.
fn matches(command: &Command, record: &Record) -> Fallible<bool> {
    let name = text(record, "cmd").ok_or("no cmd")?;
    if !command.name().eq_ignore_ascii_case(name) {
        return Ok(false);
    }
    let fields = fields(command);
    for (key, value) in record.iter().filter(|(key, _)| !matches!(key.as_str(), "op" | "cmd")) {
        let Some(ours) = fields.get(key.to_ascii_lowercase().as_str()) else { continue };
        if *ours != integer(value)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A command's fields under the format's names, in lower case.
fn fields(command: &Command) -> HashMap<&'static str, u64> {
    let ids = |device: DeviceId, event: EventId| {
        vec![("deviceid", u64::from(device.0)), ("eventid", u64::from(event.0))]
    };
    let list = match *command {
        Command::Mapd { device, size, itt, valid } => vec![
            ("deviceid", device.0.into()),
            ("size", size.into()),
            ("itt_addr", itt >> 8),
            ("v", valid.into()),
        ],
        Command::Mapc { collection, target, valid } => {
            vec![("icid", collection.0.into()), ("rdbase", target.0), ("v", valid.into())]
        }
        Command::Mapti { device, event, intid, collection } => {
            [ids(device, event), vec![("pintid", intid.into()), ("icid", collection.0.into())]]
                .concat()
        }
        Command::Mapi { device, event, collection } => {
            [ids(device, event), vec![("pintid", event.0.into()), ("icid", collection.0.into())]]
                .concat()
        }
        Command::Movi { device, event, collection } => {
            [ids(device, event), vec![("icid", collection.0.into())]].concat()
        }
        Command::Discard { device, event }
        | Command::Int { device, event }
        | Command::Clear { device, event }
        | Command::Inv { device, event } => ids(device, event),
        Command::Movall { from, to } => vec![
            ("rdbase", from.0),
            ("rdbase1", from.0),
            ("rdbase2", to.0),
            ("rd1", from.0),
            ("rd2", to.0),
        ],
        Command::Invall { collection } => vec![("icid", collection.0.into())],
        Command::Sync { target } => vec![("rdbase", target.0)],
        Command::Virtual { opcode, .. } | Command::Unknown { opcode } => {
            vec![("opcode", opcode.into())]
        }
    };
    list.into_iter().collect()
}

/// The identity a section's reads show: the first read of each register, before it is written.
/// `quirk` is whether they begin in the midst of what is specific to their origin.
fn identity(count: u16, records: &[(u64, Record)], mut quirk: bool) -> Fallible<Identity> {
    let mut identity = Identity::new(count);
    let mut seen = std::collections::HashSet::new();
    for (line, record) in records {
        let located = |error| format!("{line}: {error}");
        if op(Some(record)) == Some("quirk") {
            quirk = truth(record, "on").map_err(located)?;
        }
        let (its, write) = match op(Some(record)) {
            Some("its_r") => (true, false),
            Some("its_w") => (true, true),
            Some("gicr_r") => (false, false),
            _ => continue,
        };
        let (offset, size) = place(record).map_err(located)?;
        let cpu = if its { 0 } else { short(record, "cpu").map_err(located)? };
        let halves = if size == 8 { vec![offset, offset + 4] } else { vec![offset] };
        let fresh = halves.iter().all(|half| !seen.contains(&(its, cpu, *half)));
        let good = matches!(size, 4 | 8) && offset % u64::from(size) == 0;
        // Only reset values of BASER are identity; other registers can not be written at all.
        let fixed = !(0x100..0x140).contains(&offset);
        if good && (!write || !fixed) {
            seen.extend(halves.into_iter().map(|half| (its, cpu, half)));
        }
        if !good || write || wide32(its, offset, size) {
            continue;
        }
        let value = number(record, "val").map_err(located)?;
        if its && offset == CREADR && value & CREADR_STALLED != 0 && !quirk {
            identity.stalls();
        }
        if !fresh {
            continue;
        }
        if its {
            identity.its_read(offset, size, value);
        } else {
            identity.gicr_read(cpu, offset, size, value);
        }
    }
    Ok(identity)
}

/// Whether a read is wider than its register and says nothing.
fn wide32(its: bool, offset: u64, size: u32) -> bool {
    size == 8 && (!(0x8..0xffd0).contains(&offset) || (!its && offset == 0x10))
}

/// Whether Group 1 is on from the start: `GICD_CTLR` is recorded, or it is on all the time.
fn group1(records: &[(u64, Record)]) -> bool {
    for (_, record) in records {
        match op(Some(record)) {
            Some("gicd_w") => return false,
            Some("ack") if record.get("intid").and_then(Value::as_u64) != Some(1023) => {
                return true;
            }
            _ => {}
        }
    }
    true
}
