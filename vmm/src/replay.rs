//! `trapline replay`: plays a recording into the same board without KVM.

use std::fmt::Write;
use std::fs::File;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::io::Errno;
use trapline_machine::record::replay::{Begun, Options, Verdict, replay};

use crate::cli::ReplayOptions;
use crate::stream;

/// Plays a recording; the status is 1 if anything was different.
///
/// # Errors
/// Why it could not be played, or the first difference.
pub fn run(options: &ReplayOptions) -> anyhow::Result<ExitCode> {
    let name = options.file.display();
    let file = File::open(&options.file).with_context(|| format!("cannot open {name}"))?;
    let (until, dump) = (options.until, options.dump.clone());
    let wanted = Options { from: options.from_snapshot, until, dump, ..Options::default() };
    let verdict = replay(file, &wanted).with_context(|| name.to_string())?;
    write(&told(&verdict))?;
    match verdict.difference {
        Some(difference) => bail!("{difference}"),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Writes to standard output. Who does not read on has seen what it wanted.
fn write(text: &str) -> anyhow::Result<()> {
    match stream::write_all(rustix::stdio::stdout(), text.as_bytes(), None) {
        Ok(()) | Err(Errno::PIPE) => Ok(()),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

/// What there is to say beside a difference.
fn told(verdict: &Verdict) -> String {
    let mut text = String::new();
    for (name, state) in &verdict.states {
        let bytes: Vec<_> = state.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (kind, version) = (&state.name, state.version);
        let _ = writeln!(text, "{name}: {kind} version {version}: {}", bytes.join(" "));
    }
    if let Some(incomplete) = &verdict.incomplete {
        let _ = writeln!(text, "the recording is {incomplete}");
    }
    for unseen in &verdict.unseen {
        let _ = writeln!(text, "not in the recording: {unseen}");
    }
    if let Some(Begun { snapshot, at_ns, record }) = verdict.begun {
        let at = Duration::from_nanos(at_ns).as_secs_f64();
        let record =
            record.map_or_else(|| "the end".to_owned(), |record| format!("record {record}"));
        let _ = writeln!(text, "began at snapshot {snapshot}, at {at:.6} s, before {record}");
    }
    let Verdict { records, accesses, reads, inputs, outputs, skipped, at_ns, .. } = verdict;
    let at = Duration::from_nanos(*at_ns).as_secs_f64();
    let _ = writeln!(
        text,
        "{records} records up to {at:.6} s: {accesses} accesses, {reads} of them reads, \
         {inputs} inputs, {outputs} outputs"
    );
    if *skipped > 0 {
        let _ =
            writeln!(text, "{skipped} accesses were to memory, or their address is not recorded");
    }
    if verdict.difference.is_none() {
        text += "no difference\n";
    }
    text
}
