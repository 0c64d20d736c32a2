//! Programs for other machines: archives of this machine's, with the libraries that they need, and
//! programs of crates.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::arch::Arch;
use crate::{deb, paths, proc};

/// The archive `build/NAME.tar` with these programs, each with the Debian packages that have it, their
/// libraries and further files, all where they are on this machine, for another one to unpack.
///
/// # Errors
///
/// When a program cannot be had, or the archive not be written.
pub(crate) fn archive(
    name: &str,
    programs: &[(&str, &[&str])],
    files: &[String],
) -> Result<PathBuf> {
    let mut all: BTreeSet<String> = files.iter().cloned().collect();
    for (program, packages) in programs {
        let program = deb::program(program, packages)?;
        let libraries = proc::output(Command::new("ldd").arg(&program))?;
        let libraries = String::from_utf8(libraries)?;
        let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
        all.extend(paths.map(str::to_owned));
        all.insert(program.to_string_lossy().into_owned());
    }
    let archive = paths::build()?.join(format!("{name}.tar"));
    let draft = paths::draft(&archive);
    let mut tar = Command::new("tar");
    tar.args(["--absolute-names", "--dereference", "-cf"]).arg(&draft).args(all);
    proc::output(&mut tar)?;
    std::fs::rename(&draft, &archive)?;
    Ok(archive)
}

/// A program of a crate that has its own name, static, built if that was not done yet.
///
/// # Errors
///
/// When the crate cannot be had or does not build.
pub(crate) fn of_crate(name: &str, version: &str, arch: Arch) -> Result<PathBuf> {
    let folder = paths::build()?.join("crates").join(format!("{name}-{version}-{arch}"));
    let program = folder.join("bin").join(name);
    if !program.is_file() {
        let mut cargo = proc::cargo()?;
        cargo.args(["install", "--quiet", "--locked", "--version", version, name]);
        cargo.args(["--target", arch.target()]).arg("--root").arg(&folder);
        cargo.arg("--target-dir").arg(paths::target()?.join("crates"));
        cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
        // It is to be there soon, and has little to do in a test.
        cargo
            .envs([("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"), ("CARGO_PROFILE_RELEASE_LTO", "off")]);
        eprintln!("Building {name} {version} for {arch} (static)");
        ensure!(proc::succeeds(&mut cargo)?, "The crate {name} {version} does not build");
    }
    Ok(program)
}
