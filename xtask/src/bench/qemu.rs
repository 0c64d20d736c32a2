//! QEMU from Debian's package, for a guest of ours to be compared with one of its.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{deb, paths, proc};

/// What its machines `pc` and `microvm` start with, by folder.
const FIRMWARE: [(&str, &[&str]); 2] = [
    ("/usr/share/seabios", &["bios-256k.bin", "bios-microvm.bin"]),
    ("/usr/share/qemu", &["kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin", "qboot.rom"]),
];

/// An archive with QEMU, its libraries and its firmware, where Debian has them, for an outer machine
/// to unpack.
///
/// # Errors
///
/// When the package cannot be had, or the archive not be written.
pub(super) fn archive() -> Result<PathBuf> {
    let program = deb::program("qemu-system-x86_64", &["qemu-system-x86", "seabios"])?;
    let libraries = proc::output(Command::new("ldd").arg(&program))?;
    let libraries = String::from_utf8(libraries)?;
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    let archive = paths::build()?.join("qemu.tar");
    let mut tar = Command::new("tar");
    tar.args(["--absolute-names", "--dereference", "-cf"]).arg(&archive).arg(&program).args(paths);
    for (folder, files) in FIRMWARE {
        tar.args(files.iter().map(|file| format!("{folder}/{file}")));
    }
    proc::output(&mut tar)?;
    Ok(archive)
}
