//! The kernel's traces of guests, imported: of ours, which is recorded at the same time and must have made
//! the same accesses, and of QEMU's, which has nothing of ours.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::arch::Arch;
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT, patience};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{Guests, Tally};
use crate::viewers::counted;
use crate::{paths, qemu};

/// QEMU's machines whose guests are traced, with options.
const QEMUS: &str = "pc microvm,pit=on,pic=on,rtc=on,isa-serial=on";

/// Where a kernel's trace is of, and what it is to have.
struct Traced {
    name: &'static str,
    about: &'static str,
    arch: Arch,
    board: &'static str,
    options: &'static [&'static str],
    /// Whether guests of QEMU are traced, too.
    qemu: bool,
    /// Devices whose accesses all come to the VMM.
    devices: &'static [&'static str],
}

const TRACED: &[Traced] = &[
    Traced {
        name: "trace-import",
        about: "the kernel's traces of our guest and of QEMU's are imported, shown and compared",
        arch: Arch::X86_64,
        board: "x86-pc",
        options: &["-m", "128", "-c", "1", "--irqchip", "split", "-p", "quiet"],
        qemu: true,
        devices: &["serial0", "rtc", "pci"],
    },
    Traced {
        name: "trace-import-arm64",
        about: "the same of our guest on arm64",
        arch: Arch::Aarch64,
        board: "arm64-virt",
        options: &["-m", "128", "-c", "1", "--irqchip=gicv3-its", "-p", "quiet"],
        qemu: false,
        devices: &["serial0", "pci"],
    },
];

/// As tests.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    TRACED.iter().map(|traced| Guests {
        name: traced.name,
        about: traced.about,
        arch: traced.arch,
        run: Box::new(move |ready| run(traced, ready)),
    })
}

fn run(traced: &Traced, ready: &Ready) -> Result<Tally> {
    let variables = [("BOARD", traced.board), ("QEMUS", if traced.qemu { QEMUS } else { "" })];
    let files = if traced.qemu { vec![("QEMU", qemu::archive()?)] } else { Vec::new() };
    let boot = Boot {
        name: traced.name.to_owned(),
        place: Place::Nested,
        image: Image::Bzimage,
        init: "init-record.sh".to_owned(),
        modules: Vec::new(),
        programs: Vec::new(),
        options: traced.options.iter().map(|&word| word.to_owned()).collect(),
        script: Script {
            file: Some("host-traces.sh"),
            variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            files,
            ..Script::default()
        },
        watch: Watch {
            show: Show::Nothing,
            input: false,
            timeout: Some(patience(traced.arch) + TIMEOUT * 3),
        },
    };
    let outcome = boot.run(ready)?;
    let judged = judge(traced, &outcome.text);
    judged.with_context(|| format!("last lines:\n{}", last_lines(&outcome.text)))?;
    outcome.well()?;
    Ok(Tally::of(true))
}

/// What is between two lines of the script's.
fn part<'a>(text: &'a str, begin: &str) -> Result<&'a str> {
    let line = format!("TRAPLINE-HOST: {begin}\n");
    let (_, rest) = text.split_once(&line).with_context(|| format!("There is no {begin}"))?;
    Ok(rest.split("TRAPLINE-HOST: ").next().unwrap_or_default())
}

fn judge(traced: &Traced, text: &str) -> Result<()> {
    let text = text.replace("\r\n", "\n");
    keep(traced, &text, "own")?;
    let (imported, recorded) = (part(&text, "stat of own")?, part(&text, "stat of the recording")?);
    for device in traced.devices {
        let of = |stat: &str| -> Result<u64> {
            let lines = stat.lines().filter(|line| line.starts_with(&format!("{device}/")));
            lines.map(|line| counted(line, device)).sum()
        };
        let (traced, made) = (of(imported)?, of(recorded)?);
        ensure!(traced == made && made > 0, "{device}: {traced} accesses traced, {made} recorded");
    }
    if traced.qemu {
        for machine in QEMUS.split(' ') {
            let name = machine.split(',').next().unwrap_or_default();
            keep(traced, &text, name)?;
            let stat = part(&text, &format!("stat of {name}"))?;
            ensure!(counted(stat, "THR")? > 100, "no console of {name}: {stat}");
            let shown = part(&text, &format!("show of {name}"))?;
            ensure!(shown.contains("serial0/uart LCR"), "nothing to be seen of {name}: {shown}");
            let differs = part(&text, &format!("how {name} differs"))?;
            ensure!(differs.contains("first difference"), "{name} is ours: {differs}");
        }
    }
    Ok(())
}

/// Keeps a trace, compressed, in `build/recordings`.
fn keep(traced: &Traced, text: &str, name: &str) -> Result<()> {
    let folder = paths::build()?.join("recordings");
    std::fs::create_dir_all(&folder)?;
    let encoded: String = part(text, &format!("trace of {name}"))?.split_whitespace().collect();
    let bytes = BASE64_STANDARD.decode(encoded).context("A trace is damaged")?;
    paths::write_whole(&folder.join(format!("{}-{name}.txt.gz", traced.name)), &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_where_the_next_begins() {
        let text = "x\nTRAPLINE-HOST: stat of own\na\nb\nTRAPLINE-HOST: show of own\nc\n";
        assert_eq!(part(text, "stat of own").unwrap(), "a\nb\n");
        assert!(part(text, "stat of pc").is_err());
    }
}
