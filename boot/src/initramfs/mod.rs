//! The initramfs for a guest that was given none: our init with what it needs, which is drivers and a
//! list of what to do, or a shell of the host's where there will be no other root file system.
//!
//! With it, `trapline run` alone ends at a prompt, without a disk, without root's rights, and
//! without starting any program of the host's: libraries are found by reading ELF headers.

mod archive;
mod closure;
mod loaded;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use archive::Archive;

use crate::error::Error;

/// What to make it from.
#[derive(Clone, Copy, Debug)]
pub struct InitramfsRequest<'a> {
    /// An ELF program that is to be `/init`.
    pub init: &'a Path,
    /// Where the host's files are; `/` but in tests.
    pub host: &'a Path,
    /// Whether there is to be a shell.
    pub shell: bool,
    /// Programs of the host's to take along, with their libraries, each at its own path; what cannot
    /// be taken along is left out.
    pub programs: &'a [PathBuf],
    /// Further files.
    pub files: &'a [File],
}

/// A file of an initramfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path in the guest, without the leading slash.
    pub path: String,
    /// Its permissions.
    pub mode: u32,
    /// What is in it.
    pub contents: Vec<u8>,
}

/// What is in it, for messages and for the init program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The shell, if the host has one we could take along.
    pub shell: Option<Shell>,
    /// How many files, libraries included.
    pub files: usize,
}

/// The shell in an initramfs; always reached as `/bin/sh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shell {
    /// Where the host has it.
    pub host_path: PathBuf,
    /// Whether it is busybox, which is then at `/bin/busybox` and brings its own tools.
    pub busybox: bool,
    /// Whether it needs no libraries.
    pub is_static: bool,
}

/// Where distributions put busybox, the static ones' own names first.
const BUSYBOX: &[&str] = &[
    "bin/busybox.static",
    "usr/lib/busybox/busybox-static",
    "bin/busybox-static",
    "usr/bin/busybox-static",
    "bin/busybox",
    "usr/bin/busybox",
    "sbin/busybox",
    "usr/sbin/busybox",
];

/// Shells without tools of their own.
const SHELLS: &[&str] = &["bin/sh", "bin/bash"];

/// Directories a Linux userland expects to find.
const DIRECTORIES: &[&str] =
    &["bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr"];

/// Makes an uncompressed newc archive. The same files make the same bytes.
///
/// # Errors
/// The init program cannot be read, is no ELF file, or needs a library that is not there. A shell
/// that cannot be taken along is passed over instead.
pub fn build(request: &InitramfsRequest<'_>) -> Result<(Vec<u8>, Contents), Error> {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory)?;
    }
    // The kernel opens /dev/console for init before anything can be mounted.
    archive.device("dev/console", 0o600, (5, 1))?;
    archive.device("dev/null", 0o666, (1, 3))?;

    let needs = closure::of(request.host, request.init)?;
    archive.contents("init", 0o755, &loaded::part(request.init)?)?;
    for file in &needs.files {
        archive.file(&file.guest, &file.host)?;
    }
    for File { path, mode, contents } in request.files {
        archive.contents(path, *mode, contents)?;
    }
    request
        .programs
        .iter()
        .try_for_each(|program| take_along(&mut archive, request.host, program))?;
    let shell = request.shell.then(|| find_shell(request.host)).flatten();
    if let Some((shell, needs)) = &shell {
        let name = if shell.busybox { "bin/busybox" } else { "bin/sh" };
        archive.file(name, &shell.host_path)?;
        if shell.busybox {
            archive.symlink("bin/sh", "busybox")?;
        }
        for file in &needs.files {
            archive.file(&file.guest, &file.host)?;
        }
    }
    let files = archive.files();
    let shell = shell.map(|(shell, _)| shell);
    Ok((archive.finish()?, Contents { shell, files }))
}

/// A program at its own path; what is no ELF file, or lacks a library, stays where it is.
fn take_along(archive: &mut Archive, host: &Path, program: &Path) -> Result<(), Error> {
    let Ok(below) = program.strip_prefix("/") else { return Ok(()) };
    let (Some(guest), path) = (below.to_str(), host.join(below)) else { return Ok(()) };
    let Ok(needs) = closure::of(host, &path) else { return Ok(()) };
    archive.file(guest, &path)?;
    needs.files.iter().try_for_each(|file| archive.file(&file.guest, &file.host))
}

/// A static busybox, else any busybox, else a plain shell. What is no ELF file, or lacks a
/// library, is no candidate.
fn find_shell(host: &Path) -> Option<(Shell, closure::Needs)> {
    let candidate = |name: &&str, busybox| {
        let host_path = host.join(name);
        let needs = closure::of(host, &host_path).ok()?;
        let is_static = needs.files.is_empty();
        Some((Shell { host_path, busybox, is_static }, needs))
    };
    let busyboxes = || BUSYBOX.iter().filter_map(|name| candidate(name, true));
    let shells = || SHELLS.iter().filter_map(|name| candidate(name, false));
    busyboxes()
        .find(|(shell, _)| shell.is_static)
        .or_else(|| busyboxes().next())
        .or_else(|| shells().next())
}
