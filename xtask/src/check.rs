//! `cargo xtask check`: what rustfmt, clippy, rustdoc and the house lints say.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::arch::Arch;
use crate::cross::Toolchain;
use crate::lint::Package;
use crate::suite::{self, Tally, Task};
use crate::vmm::Profile;
use crate::{lint, proc, vmm};

/// Runs all of it; the status is 0 when nobody complains.
pub(crate) fn run() -> Result<u8> {
    Ok(suite::conclude(&suite::side_by_side(&tasks())))
}

/// The tasks, fastest complaint first.
pub(crate) fn tasks() -> Vec<Task> {
    let mut tasks = vec![Task::new("fmt", "cargo fmt --check", || {
        let mut command = proc::cargo()?;
        Ok(Tally::of(proc::succeeds(command.args(["fmt", "--all", "--check"]))?))
    })];
    tasks.extend(lint::tasks());
    let about = "the same for the other architecture";
    tasks.extend([
        Task::new("clippy", "cargo clippy, warnings are errors", clippy).alone_in("debug"),
        Task::new("clippy-other", about, other_clippy).alone_in("static"),
        Task::new("no-std", "the no_std crates for a machine without an operating system", no_std)
            .alone_in("debug"),
        Task::new("docs", "cargo doc, warnings are errors", docs).alone_in("debug"),
    ]);
    tasks
}

fn clippy() -> Result<Tally> {
    let mut command = proc::cargo()?;
    command.args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-Dwarnings"]);
    Ok(Tally::of(proc::succeeds(&mut command)?))
}

/// The documentation, with that of the examples: with these cargo gives other crates the features that
/// tests need, too, and what clippy has checked with them is not checked again with fewer.
fn docs() -> Result<Tally> {
    let mut command = proc::cargo()?;
    command.args(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
    command.args(["--lib", "--examples"]);
    for name in documented_programs(&lint::metadata()?) {
        command.args(["--bin", &name]);
    }
    Ok(Tally::of(proc::succeeds(command.env("RUSTDOCFLAGS", "-Dwarnings"))?))
}

/// The programs that have pages of their own, as cargo would choose them: a library of the same name
/// would have the same page.
fn documented_programs(packages: &[Package]) -> Vec<String> {
    let named = |kind| {
        let targets = packages.iter().flat_map(|package| &package.targets);
        targets.filter(move |target| target.kind == kind).map(|target| target.name.clone())
    };
    named("bin").filter(|program| !named("lib").any(|library| library == *program)).collect()
}

/// Whether the code for the architecture that is not this machine's is as clean as the rest. Tests
/// are left out: many are written in the machine code of this one. It has the folder, the profile and
/// the flags of the program for that architecture, so that what builds programs runs once for both.
fn other_clippy() -> Result<Tally> {
    let other = Arch::host().other();
    let toolchain = Toolchain::for_arch(other)?;
    let mut command = match toolchain.clippy() {
        Some(program) => proc::in_root(&program)?,
        None => proc::cargo()?,
    };
    command.args(["clippy", "--quiet", "--workspace", "--lib", "--bins"]);
    command.args(["--profile", Profile::Tested.name()]);
    vmm::made_static(&mut command, other)?;
    toolchain.apply(&mut command);
    Ok(Tally::of(proc::succeeds(command.args(["--", "-Dwarnings"]))?))
}

/// A target whose compiler has `core` and `alloc`, and no `std` to reach for by mistake.
const BARE: &str = "x86_64-unknown-none";

/// Whether the crates that say `no_std` mean it.
fn no_std() -> Result<Tally> {
    if !bare_library()? {
        // The target is the toolchain's to install, if it is rustup's.
        let added = proc::find("rustup")
            .map(|rustup| proc::output(Command::new(rustup).args(["target", "add", BARE])));
        if !matches!(added, Some(Ok(_))) || !bare_library()? {
            let reason = format!("no-std: no Rust library for {BARE} (rustup target add {BARE})");
            return Ok(Tally { passed: 0, failed: 0, skipped: vec![reason] });
        }
    }
    let mut command = proc::cargo()?;
    command.args(["check", "--quiet", "--package", "gicv3-its", "--package", "trapline-remote"]);
    command.args(["--no-default-features", "--lib", "--target", BARE]);
    Ok(Tally::of(proc::succeeds(&mut command)?))
}

fn bare_library() -> Result<bool> {
    let mut command = Command::new("rustc");
    let dir = proc::output(command.args(["--print", "target-libdir", "--target", BARE]))?;
    Ok(Path::new(String::from_utf8(dir)?.trim()).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::Target;

    #[test]
    fn a_program_whose_name_a_library_has_too_has_no_page() {
        let target = |name: &str, kind: &str| Target {
            name: name.to_owned(),
            kind: kind.to_owned(),
            root: String::new(),
        };
        let package = |targets| Package { name: String::new(), dependencies: Vec::new(), targets };
        let packages = [
            package(vec![target("trap", "lib"), target("story", "example")]),
            package(vec![target("trap", "bin"), target("tool", "bin"), target("all", "test")]),
        ];
        assert_eq!(documented_programs(&packages), ["tool"]);
    }
}
