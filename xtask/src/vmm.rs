//! The `trapline` binary, static so that it also runs where there is nothing but busybox.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::arch::Arch;
use crate::cross::Toolchain;
use crate::{paths, proc};

/// What `cargo xtask build` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// The hosts' architecture
    #[arg(long, value_enum, default_value_t = Arch::host())]
    arch: Arch,
}

/// Builds and prints where the binary is.
pub(crate) fn run(options: &Options) -> Result<u8> {
    println!("{}", build(options.arch, Profile::Release)?.display());
    Ok(0)
}

/// How static programs are compiled, by the names in Cargo.toml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As users have them: for users, for what is measured, and for what takes its time.
    Release,
    /// For tests that everyone waits for: the same, in half the compiler's time.
    Tested,
}

impl Profile {
    /// Its name, and that of its folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Tested => "tested",
        }
    }
}

/// Builds the binary in a target folder of its own, because its flags differ from every
/// other build's, and returns its path. `TRAPLINE_BINARY` names one to take instead: another
/// version to compare with, say; `TRAPLINE_BINARY_AARCH64` and `TRAPLINE_BINARY_X86_64` do so for
/// an architecture that is not this machine's.
pub(crate) fn build(arch: Arch, profile: Profile) -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os(variable(arch)) {
        return Ok(PathBuf::from(binary));
    }
    static_binary(arch, profile, "trapline-vmm", "trapline")
}

/// The environment's variable that names the binary for an architecture.
pub(crate) fn variable(arch: Arch) -> String {
    let foreign = arch != Arch::host();
    let suffix = if foreign { format!("_{arch}").to_uppercase() } else { String::new() };
    format!("TRAPLINE_BINARY{suffix}")
}

/// What the compiler is told beside the profile.
fn flags(arch: Arch) -> String {
    let mut flags = "-C target-feature=+crt-static".to_owned();
    // Where the program is in memory is decided when it starts, so every pointer in its constants is
    // in a list, of which all is read then: 195 KiB, or 4 KiB in this form (DT_RELR). The linkers
    // that are used for arm64 are older than it.
    if arch == Arch::X86_64 {
        flags += " -C link-arg=-Wl,-z,pack-relative-relocs";
    }
    flags
}

/// Has `cargo` work in the folder of static programs, with their flags.
pub(crate) fn made_static(cargo: &mut Command, arch: Arch) -> Result<()> {
    cargo.arg("--target-dir").arg(folder()?);
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", flags(arch));
    Ok(())
}

fn folder() -> Result<PathBuf> {
    Ok(paths::target()?.join("static"))
}

/// Builds the program `name` of one of our packages as [`build`] builds trapline, and returns its
/// path.
pub(crate) fn static_binary(
    arch: Arch,
    profile: Profile,
    package: &str,
    name: &str,
) -> Result<PathBuf> {
    let mut cargo = proc::cargo()?;
    cargo.args(["build", "--quiet", "--profile", profile.name(), "-p", package]);
    made_static(&mut cargo, arch)?;
    if arch != Arch::host() {
        Toolchain::for_arch(arch)?.apply(&mut cargo);
    } else {
        cargo.args(["--target", arch.target()]);
    }
    eprintln!("Building {name} for {arch} ({}, static)", profile.name());
    if !proc::succeeds(&mut cargo)? {
        bail!("{name} does not build for {arch}");
    }
    Ok(folder()?.join(arch.target()).join(profile.name()).join(name))
}
