//! The registry's tests as programs that watch themselves: with AddressSanitizer, with
//! ThreadSanitizer, and its protocol under loom's scheduler. Sanitizers want an unstable compiler
//! option, which `RUSTC_BOOTSTRAP` has a stable compiler take, and a run-time library that not every
//! toolchain brings.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::suite::{Tally, Task};
use crate::{paths, proc, unit};

/// Where both sanitizers' programs are built: what only the compiler runs is the same for them.
const SANITIZED: &str = "sanitized";

/// The three of them.
pub(crate) fn tasks() -> Vec<Task> {
    vec![
        Task::new("asan", "the registry's tests with AddressSanitizer", || {
            sanitized("address", "asan", &["--lib", "--tests"])
        })
        .alone_in(SANITIZED),
        Task::new("tsan", "the registry's threaded tests with ThreadSanitizer", || {
            let mut threaded = vec!["--lib"];
            let tests = [
                "stress",
                "peers",
                "forward",
                "forward_kinds",
                "watch",
                "observers",
                "removal",
                "queued_writes",
                "address_space",
            ];
            threaded.extend(tests.iter().flat_map(|test| ["--test", test]));
            sanitized("thread", "tsan", &threaded)
        })
        .alone_in(SANITIZED),
        Task::new("loom", "the registry's protocol under every interleaving", || {
            let mut command = tests("loom")?;
            command.args(["--profile", "loom", "--lib", "publish"]);
            tally(command.env("RUSTFLAGS", "--cfg loom"))
        })
        .alone_in("loom"),
    ]
}

fn sanitized(sanitizer: &str, runtime: &str, which: &[&str]) -> Result<Tally> {
    if !has_runtime(runtime)? {
        let reason = format!("{runtime}: this toolchain has no run-time library for it");
        return Ok(Tally { skipped: vec![reason], ..Tally::default() });
    }
    let mut command = tests(SANITIZED)?;
    // The standard library is not built for it; the suppressions are what that would hide.
    let flags = format!("-Zsanitizer={sanitizer} -Cunsafe-allow-abi-mismatch=sanitizer");
    let suppressions = paths::root()?.join("trap/tests/tsan.supp");
    command.args(["--target", Arch::host().target()]).args(which);
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", flags).env("PROPTEST_CASES", "8");
    command.env("TSAN_OPTIONS", format!("suppressions={}", suppressions.display()));
    tally(&mut command)
}

/// `cargo test` of the registry, built apart: other flags would have everything built anew.
fn tests(folder: &str) -> Result<Command> {
    let mut command = proc::cargo()?;
    command.args(["test", "--quiet", "--package", "trapline", "--no-fail-fast", "--target-dir"]);
    command.arg(paths::target()?.join(folder));
    Ok(command)
}

fn tally(command: &mut Command) -> Result<Tally> {
    let (passed, text) = proc::watched(command, |_| true)?;
    Ok(unit::libtest_tally(&text, passed))
}

fn has_runtime(runtime: &str) -> Result<bool> {
    let root = proc::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let root = String::from_utf8(root).context("the toolchain's folder has no readable name")?;
    let target = Arch::host().target();
    let libraries = Path::new(root.trim()).join("lib/rustlib").join(target).join("lib");
    let end = format!("_rt.{runtime}.a");
    let mut names = libraries.read_dir().into_iter().flatten().flatten();
    Ok(names.any(|name| name.file_name().to_string_lossy().ends_with(&end)))
}
