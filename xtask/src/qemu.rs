//! QEMU from Debian's package, for a guest of ours to be compared with one of its.

use std::path::PathBuf;

use anyhow::Result;

use crate::tools;

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
pub(crate) fn archive() -> Result<PathBuf> {
    let firmware = FIRMWARE
        .iter()
        .flat_map(|(folder, files)| files.iter().map(move |file| format!("{folder}/{file}")));
    let program = ("qemu-system-x86_64", ["qemu-system-x86", "seabios"].as_slice());
    tools::archive("qemu", &[program], &firmware.collect::<Vec<_>>())
}
