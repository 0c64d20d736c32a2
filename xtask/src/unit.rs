//! The workspace's own tests: nextest where it is installed, `cargo test` otherwise.
//!
//! Tests that need `/dev/kvm` are the integration tests in files named `kvm_*.rs`. Where it cannot
//! be opened they are left out and listed. A test that finds out for itself that it cannot run
//! prints `SKIPPED name: reason` and returns.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::suite::{Tally, Task};
use crate::{deb, guest, proc};

/// Which binaries need `/dev/kvm`, in nextest's filter language.
const NEEDS_KVM: &str = "binary(/^kvm_/)";

/// The binary whose thousands of cases are of milliseconds each: nextest would start a process for
/// each, which takes more than the cases do.
const MANY_CASES: &str = "hostile";

/// Unit, property and integration tests, then documentation tests.
pub(crate) fn tasks() -> Vec<Task> {
    vec![
        Task::new("unit", "unit, property and integration tests, small guests on /dev/kvm", unit)
            .alone_in("debug"),
        Task::new("doctests", "examples in the documentation", doctests).alone_in("debug"),
    ]
}

fn doctests() -> Result<Tally> {
    let mut command = proc::cargo()?;
    command.args(["test", "--quiet", "--workspace", "--doc", "--no-fail-fast"]);
    let (passed, text) = proc::watched(&mut command, |_| true)?;
    Ok(libtest_tally(&text, passed))
}

fn unit() -> Result<Tally> {
    // The differential tests compare with these, and would skip themselves by name without them.
    deb::program("qemu-system-x86_64", &["qemu-system-x86", "seabios"])?;
    deb::program("qemu-system-aarch64", &["qemu-system-arm"])?;
    // These make and judge disk images, and hold their locks.
    deb::program("qemu-img", &["qemu-utils"])?;
    deb::program("qemu-storage-daemon", &["qemu-system-common"])?;
    // The device tree compiler judges our trees.
    deb::program("dtc", &["device-tree-compiler"])?;
    let refusal = guest::kvm_refusal();
    let nextest = proc::succeeds(
        proc::cargo()?.args(["nextest", "--version"]).stdout(std::process::Stdio::null()),
    )?;
    let mut tally = if nextest { with_nextest(&refusal)? } else { with_cargo_test(&refusal)? };
    if let Some(reason) = refusal {
        let names = if nextest { kvm_tests_of_nextest()? } else { kvm_binaries()? };
        tally.skipped.extend(names.iter().map(|name| format!("{name}: {reason}")));
    }
    Ok(tally)
}

fn with_nextest(refusal: &Option<String>) -> Result<Tally> {
    let mut build = proc::cargo()?;
    build.args(["nextest", "run", "--workspace", "--no-run"]);
    if !proc::succeeds(&mut build)? {
        bail!("the tests do not build");
    }
    let mut command = proc::cargo()?;
    command.args(["nextest", "run", "--workspace", "--no-fail-fast", "--status-level", "all"]);
    // Shown output is the only way to see a test say that it skipped itself.
    command.args(["--success-output", "immediate", "--failure-output", "immediate"]);
    let mut filter = format!("not binary({MANY_CASES})");
    if refusal.is_some() {
        filter += &format!(" and not {NEEDS_KVM}");
    }
    command.args(["-E", &filter]);
    let mut hidden = false;
    let (passed, text) = proc::watched(&mut command, |line| {
        hidden = hides(line).unwrap_or(hidden);
        !hidden
    })?;
    let mut tally = nextest_tally(&text, passed);
    tally.add(many_cases()?);
    Ok(tally)
}

/// Runs [`MANY_CASES`] in one process and shows what failed. Built with the whole workspace, so that
/// the crates it stands on have the same features and are not built again.
fn many_cases() -> Result<Tally> {
    let mut command = proc::cargo()?;
    command.args(["test", "--workspace", "--no-fail-fast", "--test", MANY_CASES]);
    let (passed, text) = proc::watched(&mut command, |line| !line.ends_with(" ... ok"))?;
    Ok(libtest_tally(&text, passed))
}

/// Whether what follows this line of nextest's is of no interest: a passed test and its output.
fn hides(line: &str) -> Option<bool> {
    let line = line.trim_start();
    let status = line.contains(" [ ") && !line.starts_with("Summary");
    match (status, line.starts_with("PASS ")) {
        (true, passed) => Some(passed),
        (false, _) => (line.starts_with("Summary") || line.starts_with("────")).then_some(false),
    }
}

fn with_cargo_test(refusal: &Option<String>) -> Result<Tally> {
    let mut command = proc::cargo()?;
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if refusal.is_some() {
        command.args(["--lib", "--bins"]);
        for (name, needs_kvm) in test_targets()? {
            if !needs_kvm {
                command.args(["--test", &name]);
            }
        }
    } else {
        command.args(["--lib", "--bins", "--tests"]);
    }
    command.args(["--", "--show-output"]);
    let (passed, text) = proc::watched(&mut command, |_| true)?;
    Ok(libtest_tally(&text, passed))
}

fn nextest_tally(text: &str, passed: bool) -> Tally {
    let summary = text.lines().find_map(|line| line.split_once("run: ")).map(|(_, counts)| counts);
    let count = |what| numbers(summary.unwrap_or_default(), what);
    finish(count("passed"), count("failed") + count("timed"), text, passed)
}

pub(crate) fn libtest_tally(text: &str, passed: bool) -> Tally {
    let results: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("test result: ")).collect();
    let sum = |what| results.iter().map(|counts| numbers(counts, what)).sum();
    let mut tally = finish(sum("passed"), sum("failed"), text, passed);
    let ignored = text.lines().filter_map(|line| line.strip_suffix(" ... ignored"));
    tally
        .skipped
        .extend(ignored.map(|line| format!("{}: ignored", line.trim_start_matches("test "))));
    tally
}

/// `N` of `N what` in a list of counts.
fn numbers(counts: &str, what: &str) -> usize {
    let words: Vec<&str> =
        counts.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let found = words.windows(2).find_map(|pair| match pair {
        [number, word] if *word == what => number.parse().ok(),
        _ => None,
    });
    found.unwrap_or_default()
}

fn finish(passed: usize, failed: usize, text: &str, success: bool) -> Tally {
    let said = text.lines().filter_map(|line| line.trim().strip_prefix("SKIPPED "));
    let skipped: Vec<String> = said.map(str::to_owned).collect();
    // A test that skips itself passed, as far as its harness knows. No test ran at all when
    // something did not build: that is a failure, too.
    let failed = if success { failed } else { failed.max(1) };
    Tally { passed: passed.saturating_sub(skipped.len()), failed, skipped }
}

fn kvm_tests_of_nextest() -> Result<Vec<String>> {
    let mut command = proc::cargo()?;
    command.args(["nextest", "list", "--workspace", "--message-format", "json", "-E", NEEDS_KVM]);
    matching_tests(&serde_json::from_slice(&proc::output(&mut command)?)?)
}

fn matching_tests(list: &Value) -> Result<Vec<String>> {
    let suites = list.get("rust-suites").and_then(Value::as_object).context("nextest's list")?;
    let mut names = Vec::new();
    for (suite, content) in suites {
        for (test, about) in
            content.get("testcases").and_then(Value::as_object).into_iter().flatten()
        {
            if about.pointer("/filter-match/status").and_then(Value::as_str) == Some("matches") {
                names.push(format!("{suite} {test}"));
            }
        }
    }
    Ok(names)
}

fn kvm_binaries() -> Result<Vec<String>> {
    let targets = test_targets()?.into_iter();
    Ok(targets.filter(|(_, needs_kvm)| *needs_kvm).map(|(name, _)| name).collect())
}

fn test_targets() -> Result<Vec<(String, bool)>> {
    let packages = crate::lint::metadata()?;
    let targets = packages.iter().flat_map(|package| &package.targets);
    let tests = targets.filter(|target| target.kind == "test");
    Ok(tests.map(|target| (target.name.clone(), target.name.starts_with("kvm_"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nextest_counts_are_read_from_its_summary() {
        let text = "   Summary [   0.5s] 11 tests run: 9 passed (1 slow), 1 failed, 1 timed out, 3 skipped";
        assert_eq!(nextest_tally(text, false), Tally { passed: 9, failed: 2, skipped: vec![] });
    }

    #[test]
    fn a_test_that_skips_itself_is_not_counted_as_passed() {
        let text = "SKIPPED rtc: no clock\n Summary [ 0.5s] 2 tests run: 2 passed, 0 skipped";
        let expected = Tally { passed: 1, failed: 0, skipped: vec!["rtc: no clock".to_owned()] };
        assert_eq!(nextest_tally(text, true), expected);
    }

    #[test]
    fn libtest_counts_are_added_up_over_binaries() {
        let text = "test result: ok. 5 passed; 0 failed; 0 ignored\n\
                    test a ... ignored\n\
                    test result: FAILED. 2 passed; 1 failed; 1 ignored";
        let tally = libtest_tally(text, false);
        assert_eq!((tally.passed, tally.failed), (7, 1));
        assert_eq!(tally.skipped, ["a: ignored"]);
    }

    #[test]
    fn tests_that_do_not_build_are_a_failure() {
        assert_eq!(nextest_tally("error: expected `;`", false).failed, 1);
    }

    #[test]
    fn skipped_kvm_tests_have_names() {
        let list = serde_json::json!({ "rust-suites": { "trapline-kvm::kvm_exits": { "testcases": {
            "outb_is_one_byte": { "filter-match": { "status": "matches" } },
            "other": { "filter-match": { "status": "mismatch", "reason": "expression" } },
        } } } });
        assert_eq!(matching_tests(&list).unwrap(), ["trapline-kvm::kvm_exits outb_is_one_byte"]);
    }

    #[test]
    fn only_passed_tests_are_hidden() {
        assert_eq!(hides("        PASS [   0.006s] (1/9) xtask a"), Some(true));
        assert_eq!(hides("        FAIL [   0.006s] (2/9) xtask b"), Some(false));
        assert_eq!(hides("     Summary [   0.5s] 11 tests run"), Some(false));
        assert_eq!(hides("    stdout of a test"), None);
    }
}
