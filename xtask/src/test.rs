//! `cargo xtask test`: everything, with a table at the end.

use std::process::Command;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::guest::{Boot, Place, Ready, Script, TIMEOUT};
use crate::scenarios::{DISPLAYED, FEWER_EXITS, RELEASE, SCENARIOS, Scenario, User};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{self, Guests, Tally, Task};
use crate::vmm::Profile;
use crate::{
    cases, check, coalescing, deb, disks, driver, filesystems, first_run, instrumented, interrupts,
    live, net, pauses, picture, pty, recordings, shares, sockets, traces, unit, vfio, viewers,
    virtio, vmm,
};

/// What `cargo xtask test` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// Run only the tests whose name contains one of these
    names: Vec<String>,
    /// List the tests instead
    #[arg(long)]
    list: bool,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }
}

/// Runs the tests; the status is 0 when none failed.
pub(crate) fn run(options: &Options) -> Result<u8> {
    let mut tasks = check::tasks();
    tasks.extend(unit::tasks());
    tasks.extend(live::tasks());
    tasks.extend(instrumented::tasks());
    tasks.retain(|task| options.wants(&task.name));
    let mut guests = guests();
    guests.retain(|test| options.wants(test.name));
    if options.list {
        let lines = tasks.iter().map(|task| (task.name.as_str(), task.about));
        for (name, about) in lines.chain(guests.iter().map(|test| (test.name, test.about))) {
            println!("{name:20} {about}");
        }
        return Ok(0);
    }
    if tasks.is_empty() && guests.is_empty() {
        bail!("No test has such a name; see cargo xtask test --list");
    }
    tasks.extend(prepared(guests));
    Ok(suite::conclude(&suite::side_by_side(&tasks)))
}

/// The tests that boot guests: those of arm64 first, and of each architecture the longest.
fn guests() -> Vec<Guests> {
    let mut guests: Vec<Guests> = cases::guests().collect();
    guests.extend(coalescing::guests());
    guests.extend(pauses::guests());
    guests.extend(virtio::guests());
    guests.extend(vfio::guests());
    guests.extend(filesystems::guests());
    guests.extend(shares::guests());
    guests.extend(sockets::guests());
    guests.extend(first_run::guests());
    guests.extend(net::guests());
    guests.extend(viewers::guests());
    guests.extend(traces::guests());
    guests.extend(recordings::guests());
    let place = Place::best(Arch::X86_64);
    guests.extend(SCENARIOS.iter().map(|scenario| Guests {
        name: scenario.name,
        about: scenario.about,
        arch: Arch::X86_64,
        run: Box::new(move |ready| play(scenario, place, ready)),
    }));
    guests.sort_by_key(|test| test.arch == Arch::X86_64);
    guests
}

/// The tasks for tests that boot guests, behind those that make what guests of one architecture need.
fn prepared(mut guests: Vec<Guests>) -> Vec<Task> {
    let (mut making, mut booting) = (Vec::new(), Vec::new());
    for arch in [Arch::Aarch64, Arch::X86_64] {
        let guests: Vec<Guests> = guests.extract_if(.., |test| test.arch == arch).collect();
        if guests.is_empty() {
            continue;
        }
        let name = format!("build-{arch}");
        let ready: Arc<OnceLock<Ready>> = Arc::default();
        booting.extend(guests.into_iter().map(|guests| boots(guests, &ready).after(&name)));
        let make = move || {
            let _ = ready.set(Ready::make(arch, Profile::Tested)?);
            Ok(Tally::of(true))
        };
        let about = "a kernel, and the static program that boots it";
        making.push(Task::new(name, about, make).alone_in("static"));
    }
    making.extend(booting);
    making
}

fn boots(guests: Guests, ready: &Arc<OnceLock<Ready>>) -> Task {
    let ready = Arc::clone(ready);
    Task::new(guests.name, guests.about, move || {
        (guests.run)(ready.get().context("kernel or trapline could not be made")?)
    })
}

fn play(scenario: &Scenario, place: Place, ready: &Ready) -> Result<Tally> {
    let judged = |text: &str| {
        judge(scenario, text, &ready.kernel.release)
            .map_err(|error| error.context(format!("last lines:\n{}", last_lines(text))))
    };
    let text = match &scenario.user {
        User::Nobody(init) => boot(scenario, init, Script::default(), place, ready)?,
        User::HugePages(init, pages) => {
            let variables = vec![("PAGES".to_owned(), pages.to_string())];
            let file = Some("host-hugetlbfs.sh");
            let script = Script { file, variables, ..Script::default() };
            boot(scenario, init, script, Place::Nested, ready)?
        }
        User::Disks(init) => on_disks(scenario, init, ready)?,
        User::Records(file) => on_records(scenario, file, ready)?,
        User::Mending(init) => {
            let files = vec![("TOOLS", filesystems::host_tools()?)];
            let script = Script { file: Some("host-mending.sh"), files, ..Script::default() };
            let mut boot = prepare(scenario, init, script, Place::Nested, ready)?;
            boot.watch.timeout = Some(TIMEOUT * 3);
            finish(&boot, ready)?
        }
        User::Stopping(init) => {
            let script = Script { file: Some("host-break.sh"), ..Script::default() };
            boot(scenario, init, script, Place::Nested, ready)?
        }
        User::Isolated(init) => {
            let script = Script { file: Some("host-isolate.sh"), ..Script::default() };
            boot(scenario, init, script, Place::Nested, ready)?
        }
        User::Answering(init) => {
            let script = Script { file: Some("host-console.sh"), ..Script::default() };
            boot(scenario, init, script, Place::Nested, ready)?
        }
        User::Comparing(init) => {
            let (kernel, split) = compare(scenario, init, place, ready)?;
            judged(&kernel).context("with the kernel's controllers")?;
            split
        }
        User::Looking(init) => {
            let script = Script { file: Some("host-display.sh"), ..Script::default() };
            let text = boot(scenario, init, script, place, ready)?;
            picture::keep(scenario.name, &text)?.expect(DISPLAYED)?;
            text
        }
        User::Firmware(init) => boot(scenario, init, ovmf()?, place, ready)?,
        User::Recorded(init) => {
            let mut boot = prepare(scenario, init, recordings::tested(), Place::Nested, ready)?;
            boot.modules = recordings::modules(ready)?;
            boot.watch.timeout = Some(TIMEOUT * 4);
            let text = finish(&boot, ready)?;
            let names: Vec<_> = recordings::TESTED.iter().map(|machine| machine.name).collect();
            recordings::keep(&text, &names)?;
            recordings::compare_exits(&text)?;
            text
        }
        User::Twice(init) => {
            let script = Script { file: Some("host-coalescing.sh"), ..Script::default() };
            let text = boot(scenario, init, script, place, ready)?;
            eprintln!("{}", coalescing::compare(&text, FEWER_EXITS)?);
            text
        }
        User::Typing(steps) => type_at(scenario, steps, place, ready)?,
    };
    judged(&text)?;
    Ok(Tally::of(true))
}

/// What starts a guest with Debian's OVMF.
///
/// The interrupt handlers of OVMF write CR8, and QEMU 7.2 ends at an assertion of its own
/// (`tcg_handle_interrupt`) where an interrupt is pending for the inner guest by then, as it often is
/// where the guest's timer runs by the wall clock and the guest does not. A clock that counts
/// instructions has the next tick come after so many of them.
fn ovmf() -> Result<Script> {
    let folder = deb::unpacked("ovmf")?.join("usr/share/OVMF");
    let files = [("CODE", "OVMF_CODE_4M.fd"), ("VARS", "OVMF_VARS_4M.fd")]
        .map(|(variable, name)| (variable, folder.join(name)));
    let file = Some("host-ovmf.sh");
    Ok(Script { file, files: files.into(), counted: true, ..Script::default() })
}

/// Boots with the kernel's interrupt controllers and with ours; says what either guest printed.
fn compare(
    scenario: &Scenario,
    init: &str,
    place: Place,
    ready: &Ready,
) -> Result<(String, String)> {
    let run = |chip: &str| {
        let mut boot = prepare(scenario, init, Script::default(), place, ready)?;
        boot.name = format!("{}-{chip}", scenario.name);
        boot.options.extend(["--irqchip".to_owned(), chip.to_owned()]);
        finish(&boot, ready)
    };
    let (kernel, split) = (run("kernel")?, run("split")?);
    interrupts::compare(&kernel, &split)?;
    Ok((kernel, split))
}

/// Boots with disks, and compares what the guests saw on the raw one with what is in its image.
fn on_disks(scenario: &Scenario, init: &str, ready: &Ready) -> Result<String> {
    let files = disks::host_files(&ready.kernel)?;
    let script = Script { file: Some("host-disk.sh"), files, ..Script::default() };
    let mut boot = prepare(scenario, init, script, Place::Nested, ready)?;
    boot.watch.timeout = Some(TIMEOUT * 3);
    let text = finish(&boot, ready)?;
    disks::compare(&text)?;
    Ok(text)
}

/// Boots guests that write records, as often as the script wants.
fn on_records(scenario: &Scenario, file: &'static str, ready: &Ready) -> Result<String> {
    let kills = std::env::var("TRAPLINE_KILLS").unwrap_or_else(|_| "4".to_owned());
    let count: u32 = kills.parse().context("TRAPLINE_KILLS is no number")?;
    let variables = vec![("KILLS".to_owned(), kills), ("SEED".to_owned(), "1".to_owned())];
    let files = disks::record_images(scenario.name)?;
    let script = Script { file: Some(file), variables, files, ..Script::default() };
    let mut boot = prepare(scenario, "init-records.sh", script, Place::Nested, ready)?;
    let diskload =
        vmm::static_binary(Arch::X86_64, ready.profile, "trapline-diskload", "diskload")?;
    boot.programs.push(("diskload".to_owned(), diskload));
    boot.watch.timeout = Some(TIMEOUT * (3 + count / 2));
    finish(&boot, ready)
}

fn boot(
    scenario: &Scenario,
    init: &str,
    script: Script,
    place: Place,
    ready: &Ready,
) -> Result<String> {
    finish(&prepare(scenario, init, script, place, ready)?, ready)
}

fn prepare(
    scenario: &Scenario,
    init: &str,
    script: Script,
    place: Place,
    ready: &Ready,
) -> Result<Boot> {
    let modules = match scenario.user {
        // Linux has no driver of its own for these devices.
        _ if scenario.options.contains(&"--edu") => vec![driver::module("edu", &ready.kernel)?],
        User::Firmware(_) => vec![driver::shipped("efivarfs", &ready.kernel)?],
        User::Disks(_) | User::Records(_) | User::Mending(_) => {
            driver::all_shipped(disks::modules(), &ready.kernel)?
        }
        User::Answering(_) => {
            driver::all_shipped(disks::BUS.into_iter().chain(["virtio_console"]), &ready.kernel)?
        }
        _ => Vec::new(),
    };
    let patience = match scenario.user {
        // Two lives, each through firmware.
        User::Firmware(_) => TIMEOUT * 3,
        _ => TIMEOUT,
    };
    Ok(Boot {
        name: scenario.name.to_owned(),
        place,
        image: scenario.image,
        init: init.to_owned(),
        modules,
        programs: Vec::new(),
        options: scenario.options.iter().map(|&option| option.to_owned()).collect(),
        script,
        watch: Watch { show: Show::Nothing, input: false, timeout: Some(patience) },
    })
}

fn finish(boot: &Boot, ready: &Ready) -> Result<String> {
    boot.run(ready)?.well()
}

/// The way a user goes: `cargo xtask boot` on a terminal.
fn type_at(
    scenario: &Scenario,
    steps: &[pty::Step],
    place: Place,
    ready: &Ready,
) -> Result<String> {
    let mut command = Command::new(std::env::current_exe().context("Cannot find xtask")?);
    command.args([
        "boot",
        "--arch",
        "x86_64",
        if place == Place::Direct { "--direct" } else { "--nested" },
    ]);
    command.arg("--").args(scenario.options);
    // The one that is tested, not one to be built for a user.
    command.env(vmm::variable(ready.kernel.arch), &ready.vmm);
    let done = pty::run(scenario.name, &mut command, steps, TIMEOUT)?;
    let last = last_lines(&done.text);
    ensure!(done.status.success(), "cargo xtask boot ended with {}:\n{last}", done.status);
    if place == Place::Nested {
        let intact = done.text.contains("TRAPLINE-HOST: terminal as before");
        ensure!(intact, "trapline did not restore its terminal:\n{last}");
    }
    Ok(done.text)
}

fn judge(scenario: &Scenario, text: &str, release: &str) -> Result<()> {
    let mut rest = text;
    for expected in scenario.expect {
        let expected = expected.replace(RELEASE, release);
        let Some((_, after)) = rest.split_once(&expected) else {
            bail!("{expected:?} does not occur where it should");
        };
        rest = after;
    }
    if let Some(once) = scenario.once {
        let count = text.matches(once).count();
        ensure!(count == 1, "{once:?} occurs {count} times");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Image;

    const SAMPLE: Scenario = Scenario {
        name: "sample",
        about: "",
        image: Image::Bzimage,
        options: &[],
        user: User::Nobody("none"),
        expect: &["uname {release}\n", "serial"],
        once: Some("done"),
    };

    #[test]
    fn expectations_are_checked_in_order_and_with_the_release() {
        assert!(judge(&SAMPLE, "uname 6.1\nserial\ndone\n", "6.1").is_ok());
        assert!(judge(&SAMPLE, "uname 6.10\nserial\ndone\n", "6.1").is_err());
        assert!(judge(&SAMPLE, "serial\nuname 6.1\ndone\n", "6.1").is_err());
        assert!(judge(&SAMPLE, "uname 6.1\nserial\ndone\ndone\n", "6.1").is_err());
    }

    #[test]
    fn every_scenario_has_its_init_and_a_name_of_its_own() {
        for scenario in SCENARIOS {
            if let User::Nobody(init)
            | User::Looking(init)
            | User::Disks(init)
            | User::Mending(init)
            | User::Stopping(init)
            | User::Isolated(init)
            | User::Answering(init)
            | User::Recorded(init)
            | User::Comparing(init)
            | User::Firmware(init)
            | User::Twice(init) = &scenario.user
            {
                crate::paths::guest_test(init).unwrap();
            }
            assert_eq!(SCENARIOS.iter().filter(|other| other.name == scenario.name).count(), 1);
        }
    }
}
