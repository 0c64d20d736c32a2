//! The kernel's traces of guests, imported: of ours, which is recorded at the same time and must have made
//! the same accesses, and of QEMU's, which has nothing of ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::arch::Arch;
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT, patience};
use crate::initrd::Archive;
use crate::session::{Show, Watch, last_lines};
use crate::suite::{Guests, Tally};
use crate::viewers::counted;
use crate::{deb, paths, proc};

/// QEMU's machines whose guests are traced, with options.
const QEMUS: &str = "pc microvm,pit=on,pic=on,rtc=on,isa-serial=on";
/// What QEMU loads into them, and the packages that have it.
const FIRMWARE: [(&str, &[&str]); 3] = [
    ("seabios", &["bios-256k.bin", "bios-microvm.bin"]),
    ("qemu-system-data", &["linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin"]),
    ("qemu-system-x86", &["qboot.rom"]),
];

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
    let files = if traced.qemu { vec![("QEMU", qemu()?)] } else { Vec::new() };
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

/// QEMU, its libraries and what it loads, in an archive.
fn qemu() -> Result<PathBuf> {
    let program = deb::program("qemu-system-x86_64", &["qemu-system-x86", "seabios"])?;
    let mut archive = Archive::new()?;
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("Cannot read {}", path.display()))
    };
    archive.file("bin/qemu-system-x86_64", 0o755, &read(&program)?)?;
    let needed = proc::output(Command::new("ldd").arg(&program))?;
    for path in libraries(&String::from_utf8(needed)?) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("lib/{name}"), 0o755, &read(&path)?)?;
        // Where programs have the path of the one that loads them.
        if name.starts_with("ld-linux") {
            archive.file(&format!("lib64/{name}"), 0o755, &read(&path)?)?;
        }
    }
    for (package, names) in FIRMWARE {
        for name in names {
            archive.file(
                &format!("usr/share/qemu/{name}"),
                0o644,
                &read(&data(package, name)?)?,
            )?;
        }
    }
    let path = paths::build()?.join("qemu.cpio");
    paths::write_whole(&path, &archive.finish()?)?;
    Ok(path)
}

/// A file that QEMU loads, of this system or of the package.
fn data(package: &str, name: &str) -> Result<PathBuf> {
    let folders = ["usr/share/qemu", "usr/share/seabios"];
    let below = |root: &Path| {
        let mut all = folders.iter().map(|folder| root.join(folder).join(name));
        all.find(|path| path.is_file())
    };
    if let Some(path) = below(Path::new("/")) {
        return Ok(path);
    }
    below(&deb::unpacked(package)?).with_context(|| format!("The package {package} has no {name}"))
}

/// The libraries that ldd lists.
fn libraries(said: &str) -> Vec<PathBuf> {
    let path =
        |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    said.lines().filter_map(path).collect()
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
    fn libraries_are_where_ldd_says() {
        let said = "\tlinux-vdso.so.1 (0x1)\n\tlibz.so.1 => /lib/libz.so.1 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let all = libraries(said);
        assert_eq!(all, ["/lib/libz.so.1", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from));
    }

    #[test]
    fn parts_end_where_the_next_begins() {
        let text = "x\nTRAPLINE-HOST: stat of own\na\nb\nTRAPLINE-HOST: show of own\nc\n";
        assert_eq!(part(text, "stat of own").unwrap(), "a\nb\n");
        assert!(part(text, "stat of pc").is_err());
    }
}
