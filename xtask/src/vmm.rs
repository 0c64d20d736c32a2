//! The `trapline` binary, static so that it also runs where there is nothing but busybox.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{paths, proc};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the release binary in a target folder of its own, because its flags differ from every
/// other build's, and returns its path. `TRAPLINE_BINARY` names one to take instead: another
/// version to compare with, say.
pub(crate) fn build() -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("TRAPLINE_BINARY") {
        return Ok(PathBuf::from(binary));
    }
    let target = paths::target()?.join("static");
    let mut cargo = proc::cargo()?;
    cargo.args(["build", "--quiet", "--release", "-p", "trapline-vmm", "--target", TARGET]);
    cargo.arg("--target-dir").arg(&target);
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    eprintln!("Building trapline (release, static)");
    if !proc::succeeds(&mut cargo)? {
        bail!("trapline does not build");
    }
    Ok(target.join(TARGET).join("release").join("trapline"))
}
