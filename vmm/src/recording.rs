//! `trapline trace`: what can be learned from a recording, and made of it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use trapline_machine::deliveries::LateWrites;
use trapline_machine::qtest::BoardKind;
use trapline_machine::record::replay;
use trapline_machine::recorded_map;
use trapline_trace::diff::cost::Costs;
use trapline_trace::diff::{Run, Tokens, compare};
use trapline_trace::export::{Format, export};
use trapline_trace::import::import;
use trapline_trace::show::{self, Filter};
use trapline_trace::stat::stats;
use trapline_trace::tune::{self, Advice};
use trapline_trace::{Error, MapChange, Merged, Meta, Reader, Sites, Stream};

use crate::cli::{DiffOptions, TraceOptions, TuneOptions};
use crate::guests;
use crate::progress::Progress;
use crate::stream::{self, Patient};

/// A recording that is read.
type Recording = Reader<BufReader<File>>;

/// Does what was asked for.
///
/// # Errors
/// Why not, in a sentence.
pub fn run(options: &TraceOptions) -> anyhow::Result<ExitCode> {
    let done = match options {
        TraceOptions::Follow(options) => return guests::follow(options),
        TraceOptions::About { file } => about(file),
        TraceOptions::Show { file, filter, lines } => show(file, filter, *lines),
        TraceOptions::Stat { file, filter, json } => stat(file, filter, *json),
        TraceOptions::Export { file, format, output, filter } => {
            exported(file, *format, output.as_deref(), filter)
        }
        TraceOptions::Import { text, output, board } => imported(text.as_deref(), output, *board),
    };
    match done {
        // Whoever reads what we print has seen what he wanted.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

/// `trapline diff`: compares two recordings. The exit status is 1 when they behave differently.
///
/// # Errors
/// Why they cannot be compared, in a sentence.
pub fn diff(options: &DiffOptions) -> anyhow::Result<ExitCode> {
    let mut tokens = Tokens::default();
    let (mut runs, mut counts) = (Vec::new(), Vec::new());
    for path in &options.files {
        let mut reader = open(path)?;
        let mut progress = Progress::new("reading");
        let run = Run::read(&mut reader.merged()?, &mut tokens, steps(&mut progress));
        runs.push(run.with_context(|| path.display().to_string())?);
        let counted = stats(&mut reader.merged()?, &Filter::default(), steps(&mut progress));
        counts.push(counted.with_context(|| path.display().to_string())?);
    }
    let ([a, b], [x, y]) = (runs.as_slice(), counts.as_slice()) else {
        return Ok(ExitCode::FAILURE);
    };
    let differences = compare([a, b], &tokens);
    let mut costs = Costs::of([x, y]);
    costs.0.truncate(options.costs);
    let mut out = stdout();
    let mut said = write!(out, "{differences}");
    if !costs.0.is_empty() {
        said = said.and_then(|()| write!(out, "\n{costs}"));
    }
    match said.and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    Ok(if differences.first.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `trapline tune`: what could be delivered in another way.
///
/// # Errors
/// Why that cannot be found out, or not be written.
pub fn tune(options: &TuneOptions) -> anyhow::Result<ExitCode> {
    let path = &options.file;
    let mut reader = open(path)?;
    let mut progress = Progress::new("reading");
    let advice = tune::tune(&mut reader, steps(&mut progress));
    drop(progress);
    let mut advice = advice.with_context(|| path.display().to_string())?;
    prove(path, &mut advice, &mut reader)?;
    let mut out = stdout();
    match write!(out, "{advice}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    if let Some(output) = &options.output {
        let text = tune::deliveries(&advice, &path.display().to_string());
        let wrote = written(output)?.write_all(text.as_bytes());
        wrote.with_context(|| format!("cannot write {}", output.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Plays the recording with writes as late as they may be, each register alone and all together, and takes
/// those out of the advice of which anything else is different then.
fn prove(path: &Path, advice: &mut Advice, reader: &mut Recording) -> anyhow::Result<()> {
    if advice.late.is_empty() {
        return Ok(());
    }
    let played = |late: Vec<LateWrites>| -> Result<Option<String>, String> {
        let file = readable(path).map_err(|error| format!("{error:#}"))?;
        let options = replay::Options { late, ..replay::Options::default() };
        let verdict = replay::replay(BufReader::new(file), &options);
        let verdict = verdict.map_err(|error| error.to_string())?;
        Ok(verdict.difference.map(|difference| difference.to_string()))
    };
    match played(Vec::new()) {
        Ok(None) => {}
        Ok(Some(difference)) => {
            advice.replayed = Some(Err(format!("it is not the same as it is: {difference}")));
            return Ok(());
        }
        Err(why) => {
            advice.replayed = Some(Err(why));
            return Ok(());
        }
    }
    let all: Vec<LateWrites> = advice.late.iter().map(late_writes).collect();
    let (mut kept, mut refused) = (Vec::new(), Vec::new());
    for (number, late) in all.iter().enumerate() {
        match played(vec![late.clone()]).map_err(anyhow::Error::msg)? {
            None => kept.push(number),
            Some(difference) => refused.push((number, difference)),
        }
    }
    // The least savings are last.
    loop {
        let together = kept.iter().filter_map(|number| all.get(*number).cloned()).collect();
        let Some(difference) = played(together).map_err(anyhow::Error::msg)? else { break };
        let Some(last) = kept.pop() else { break };
        refused.push((last, format!("together with others: {difference}")));
    }
    tune::refuse(advice, refused, reader).with_context(|| path.display().to_string())?;
    advice.replayed = Some(Ok(()));
    Ok(())
}

/// The same for a board.
fn late_writes(late: &tune::Late) -> LateWrites {
    LateWrites {
        device: late.device.clone(),
        region: late.region.clone(),
        register: late.register.clone(),
        offset: late.offset,
        len: late.len,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let of = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<io::Error>();
        let ours = cause.downcast_ref::<Error>();
        io.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
            || matches!(ours, Some(Error::Io(error)) if error.kind() == ErrorKind::BrokenPipe)
    };
    error.chain().any(of)
}

/// Opens a recording, and says on standard error what is missing of it.
///
/// # Errors
/// Why it cannot be read, with its name.
pub(crate) fn open(path: &Path) -> anyhow::Result<Recording> {
    let reader = Reader::open(BufReader::new(readable(path)?));
    let reader = reader.with_context(|| path.display().to_string())?;
    if !reader.ending().complete() {
        stream::message(&format!("{}: {}\n", path.display(), reader.ending()));
    }
    Ok(reader)
}

/// Opens a file that is one.
fn readable(path: &Path) -> anyhow::Result<File> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.is_file(), file)));
    let (is_file, file) = opened.with_context(|| format!("cannot open {}", path.display()))?;
    if !is_file {
        bail!("{} is not a regular file", path.display());
    }
    Ok(file)
}

/// Standard output, for much.
fn stdout() -> BufWriter<impl Write> {
    BufWriter::with_capacity(1 << 16, Patient(rustix::stdio::stdout()))
}

/// What takes notice of how far a recording has been read.
pub(crate) fn steps<R: io::Read + io::Seek>(progress: &mut Progress) -> impl FnMut(&Merged<'_, R>) {
    let mut count = 0_u32;
    move |merged| {
        count = count.wrapping_add(1);
        if count.is_multiple_of(1024) {
            let (done, all) = merged.progress();
            progress.at(done, all);
        }
    }
}

fn about(path: &Path) -> anyhow::Result<()> {
    let mut reader = open(path)?;
    let mut out = stdout();
    describe(&mut reader, &mut out).with_context(|| path.display().to_string())?;
    out.flush()?;
    let mut progress = Progress::new("reading");
    let stats = stats(&mut reader.merged()?, &Filter::default(), steps(&mut progress));
    drop(progress);
    write!(out, "\n{}", stats.with_context(|| path.display().to_string())?)?;
    Ok(out.flush()?)
}

/// What a recording says of itself.
fn describe(reader: &mut Recording, out: &mut impl Write) -> anyhow::Result<()> {
    let streams = reader.streams()?;
    let Meta { recorder, board, architecture, arguments, vcpus, ram_bytes, .. } = reader.meta();
    let shown = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let line = |out: &mut dyn Write, name: &str, value: String| match value.trim() {
        "" => Ok(()),
        value => writeln!(out, "{name:<12} {value}"),
    };
    let words = arguments.join(" ");
    let streams: Vec<String> = streams.into_iter().map(|s: Stream| s.to_string()).collect();
    line(out, "recorder", shown(recorder))?;
    line(out, "board", shown(&format!("{board} {architecture}")))?;
    line(out, "options", shown(&words))?;
    if *vcpus > 0 {
        line(out, "machine", format!("{vcpus} vCPUs, {} MiB", ram_bytes >> 20))?;
    }
    line(out, "holds", held(reader.meta()))?;
    for unseen in &reader.meta().unseen {
        line(out, "not seen", shown(unseen))?;
    }
    line(out, "streams", streams.join(" "))?;
    line(out, "records", reader.records().to_string())?;
    line(out, "snapshots", snapshots(&reader.state_times()))?;
    Ok(line(out, "file", reader.ending().to_string())?)
}

/// So many snapshots are listed.
const SNAPSHOTS_MAX: usize = 16;

/// The times of snapshots, in seconds.
fn snapshots(times_ns: &[u64]) -> String {
    let listed = times_ns.iter().take(SNAPSHOTS_MAX).enumerate();
    let seconds = |ns: u64| std::time::Duration::from_nanos(ns).as_secs_f64();
    let mut listed: Vec<_> =
        listed.map(|(number, ns)| format!("{number} at {:.6} s", seconds(*ns))).collect();
    let more = times_ns.len().saturating_sub(SNAPSHOTS_MAX);
    if more > 0 {
        listed.push(format!("and {more} more"));
    }
    listed.join(", ")
}

/// The levels of a recording, in words.
fn held(meta: &Meta) -> String {
    use trapline_trace::Level;
    let word = |level: &Level| match level {
        Level::Accesses => "accesses",
        Level::Inputs => "inputs",
        Level::Memory => "memory that devices read",
        Level::Outputs => "outputs",
    };
    let mut words: Vec<&str> = meta.levels.iter().map(word).collect();
    if meta.exact {
        words.push("in exact order");
    }
    words.join(", ")
}

fn show(path: &Path, filter: &Filter, lines: Option<u64>) -> anyhow::Result<()> {
    let mut reader = open(path)?;
    let mut sites = Sites::new(reader.map());
    let mut merged = reader.merged()?;
    let mut progress = Progress::new("reading");
    let (mut step, mut out, mut left) = (steps(&mut progress), stdout(), lines);
    while left != Some(0) {
        let event = merged.next().with_context(|| path.display().to_string())?;
        let Some(event) = event else { break };
        step(&merged);
        let site = sites.of(&event);
        if !filter.wants(&event, site.and_then(|site| sites.get(site))) {
            continue;
        }
        if let Some(line) = show::line(&event, &sites, site) {
            writeln!(out, "{line}")?;
            left = left.map(|left| left - 1);
        }
    }
    Ok(out.flush()?)
}

fn stat(path: &Path, filter: &Filter, json: bool) -> anyhow::Result<()> {
    let mut reader = open(path)?;
    let mut progress = Progress::new("reading");
    let stats = stats(&mut reader.merged()?, filter, steps(&mut progress));
    drop(progress);
    let stats = stats.with_context(|| path.display().to_string())?;
    let mut out = stdout();
    if json {
        serde_json::to_writer_pretty(&mut out, &stats).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write!(out, "{stats}")?;
    }
    Ok(out.flush()?)
}

fn exported(
    path: &Path,
    format: Format,
    output: Option<&Path>,
    filter: &Filter,
) -> anyhow::Result<()> {
    let mut reader = open(path)?;
    let mut out: Box<dyn Write> = match output {
        Some(output) => Box::new(BufWriter::new(written(output)?)),
        None => Box::new(stdout()),
    };
    let mut progress = Progress::new("exporting");
    let mut merged = reader.merged()?;
    let summary = export(&mut merged, format, filter, &mut out, steps(&mut progress));
    drop(progress);
    let summary = summary.with_context(|| path.display().to_string())?;
    let mut left = Vec::new();
    if summary.ports > 0 {
        left.push(format!("{} accesses to ports, which the format does not have", summary.ports));
    }
    if summary.nowhere > 0 {
        left.push(format!("{} accesses to regions without an address", summary.nowhere));
    }
    if !left.is_empty() {
        stream::message(&format!("left out: {}\n", left.join("; ")));
    }
    Ok(())
}

fn written(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

fn imported(text: Option<&Path>, output: &Path, board: Option<BoardKind>) -> anyhow::Result<()> {
    let (mut from, len): (Box<dyn BufRead>, u64) = match text {
        Some(path) => {
            let file = readable(path)?;
            let len = file.metadata().map_or(0, |about| about.len());
            (Box::new(BufReader::with_capacity(1 << 16, file)), len)
        }
        None => (Box::new(BufReader::new(Patient(rustix::stdio::stdin()))), 0),
    };
    let map = board.map_or_else(|| Ok(MapChange::default()), recorded_map::of_board)?;
    let meta = Meta {
        recorder: format!("trapline {}", env!("CARGO_PKG_VERSION")),
        board: board.map(recorded_map::board_name).unwrap_or_default().to_owned(),
        ..Meta::default()
    };
    let mut progress = Progress::new("reading");
    let out = BufWriter::new(written(output)?);
    let done = import(&mut from, out, meta, map, |read| progress.at(read, len));
    drop(progress);
    let (_, done) = done.with_context(|| format!("cannot import into {}", output.display()))?;
    let name = text.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    if done.accesses == 0 {
        bail!("{name}: no kvm_pio or kvm_mmio event in it");
    }
    let mut said = format!(
        "{} accesses of {} vCPUs, {} of them to devices of the board",
        done.accesses, done.vcpus, done.claimed
    );
    if done.broken > 0 {
        said += &format!("; {} lines of kvm_pio or kvm_mmio make no sense", done.broken);
    }
    if done.lost > 0 {
        said += &format!("; the kernel lost {} events", done.lost);
    }
    stream::message(&format!("{said}\n"));
    Ok(())
}
