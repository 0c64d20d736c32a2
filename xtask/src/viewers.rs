//! Exports of a recording, read by the programs they are for: tshark with our dissector, and Perfetto's own
//! description of its traces, from its Python package.
//!
//! Perfetto's trace processor is a program that its package fetches from the net when it is first used, which
//! not every machine can; the description is what it reads traces by.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::guest::Ready;
use crate::suite::{Guests, Tally};
use crate::{deb, paths, proc, python};

/// The recording whose exports are read.
const RECORDING: &str = "machine/tests/recordings/pc-split.trp";
/// Perfetto's package.
const PERFETTO: &str = "perfetto==0.59.1";
/// Says how many events there are, and the names of tracks.
const COUNT: &str = "
import sys
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace
trace = Trace()
trace.ParseFromString(open(sys.argv[1], 'rb').read())
print(sum(packet.HasField('track_event') for packet in trace.packet))
for packet in trace.packet:
    if packet.HasField('track_descriptor'):
        print(packet.track_descriptor.name)
";

/// As a test. It boots nothing, and needs what is built for those that do.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    std::iter::once(Guests {
        name: "trace-viewers",
        about: "tshark and Perfetto's description of traces read the exports of a recording",
        arch: Arch::host(),
        run: Box::new(|ready| {
            let folder = paths::build()?;
            wireshark(ready, &folder)?;
            perfetto(ready, &folder)?;
            Ok(Tally { passed: 2, ..Tally::default() })
        }),
    })
}

fn trapline(ready: &Ready, words: &[&str]) -> Result<String> {
    let mut command = Command::new(&ready.vmm);
    command.args(words).arg(paths::root()?.join(RECORDING));
    Ok(String::from_utf8(proc::output(&mut command)?)?)
}

fn export(ready: &Ready, format: &str, to: &Path) -> Result<()> {
    let to = to.to_string_lossy();
    trapline(ready, &["trace", "export", "--format", format, "-o", &to]).map(drop)
}

/// The reads and the writes that `trace stat` has in the line that begins so.
pub(crate) fn counted(stat: &str, begin: &str) -> Result<u64> {
    let line = stat.lines().find(|line| line.trim_start().starts_with(begin));
    let line = line.with_context(|| format!("trace stat has no line {begin}"))?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [reads, writes, ..] = numbers.as_slice() else { anyhow::bail!("no numbers in {line}") };
    Ok(reads + writes)
}

/// Each access to a register is found by the filter for its name.
fn wireshark(ready: &Ready, folder: &Path) -> Result<()> {
    let tshark = deb::program("tshark", &["tshark"])?;
    let file = folder.join("viewers.pcapng");
    export(ready, "pcapng", &file)?;
    let dissector = paths::root()?.join("trace/wireshark/trapline.lua");
    let mut command = Command::new(tshark);
    command.arg("-X").arg(format!("lua_script:{}", dissector.display())).arg("-r").arg(&file);
    command.args(["-Y", "trapline.register == \"LSR\" && trapline.region == \"serial0/uart\""]);
    command.args(["-T", "fields", "-e", "trapline.value"]);
    let shown = String::from_utf8(proc::output(&mut command)?)?;
    let shown = shown.lines().filter(|line| line.starts_with("0x")).count() as u64;
    let made = counted(&trapline(ready, &["trace", "stat", "--device", "serial0"])?, "LSR")?;
    ensure!(
        shown == made && made > 0,
        "tshark shows {shown} accesses to LSR, and {made} were made"
    );
    Ok(())
}

/// As many events as accesses, on tracks with the names of regions.
fn perfetto(ready: &Ready, folder: &Path) -> Result<()> {
    let mut command = python::with(PERFETTO)?;
    let file = folder.join("viewers.perfetto-trace");
    export(ready, "perfetto", &file)?;
    command.args(["-c", COUNT]).arg(&file);
    let told = String::from_utf8(proc::output(&mut command)?)?;
    let (events, tracks) = told.split_once('\n').unwrap_or_default();
    let made = counted(&trapline(ready, &["trace", "stat"])?, "total")?;
    let events: u64 = events.trim().parse().context("Perfetto counts nothing")?;
    ensure!(events >= made && made > 0, "Perfetto has {events} events of {made} accesses");
    ensure!(tracks.lines().any(|name| name.contains("serial0/uart")), "No track: {tracks}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_in_a_table() {
        let stat =
            "        reads writes\nserial0/uart 3 4 5\n  LSR  18414  2 0\ntotal 7 8 9 5.0%\n";
        assert_eq!(counted(stat, "LSR").unwrap(), 18416);
        assert_eq!(counted(stat, "total").unwrap(), 15);
        assert!(counted(stat, "RBR").is_err());
    }
}
