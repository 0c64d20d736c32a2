//! File systems that a guest makes on its disks and works on with fsx, and that the host's tools find
//! sound: the test has some hundred operations, `cargo xtask filesystems` ten thousand.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::cases::{part, tally};
use crate::guest::{Boot, Image, Place, Ready, Script, TIMEOUT};
use crate::session::{Show, Watch, last_lines};
use crate::suite::{self, Guests, Tally, Task};
use crate::vmm::Profile;
use crate::{disks, driver, paths, tools};

/// The test's name.
const NAME: &str = "boot-filesystems";
const ABOUT: &str =
    "guests make ext4 and btrfs on raw and qcow2 disks, fsx works on them, and the host checks";

/// Operations of fsx in the test: as many as it has time for.
const FEW: u32 = 300;

/// A file system and the format of its image. What is on it then is copied to a disk of the other
/// format.
struct Case {
    name: &'static str,
    /// Whether it is of those of the test.
    short: bool,
}

const CASES: [Case; 4] = [
    Case { name: "ext4-raw", short: false },
    Case { name: "ext4-qcow2", short: true },
    Case { name: "btrfs-raw", short: true },
    Case { name: "btrfs-qcow2", short: false },
];

/// What fsx is to do beside reading, writing, mapping and truncating.
const FSX: &str = "[weights]\nclose_open = 1\ninvalidate = 1\nfsync = 1\nfdatasync = 1\n\
                   posix_fallocate = 1\npunch_hole = 1\nsendfile = 1\ncopy_file_range = 1\n";
const FSX_VERSION: &str = "0.3.2";

/// btrfs and what it needs, in the order in which it is loaded.
const BTRFS: [&str; 7] =
    ["libcrc32c", "xor", "raid6_pq", "zstd_compress", "xxhash_generic", "blake2b_generic", "btrfs"];

/// What `cargo xtask filesystems` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// How many operations fsx makes on each file system
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    operations: u32,
    /// What chooses them
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u32,
}

/// All of them at length; the status is 0 when all is as it should be.
pub(crate) fn run(options: &Options) -> Result<u8> {
    let ready = Ready::make(Arch::X86_64, Profile::Release)?;
    let (operations, seed) = (options.operations, options.seed);
    let tasks = CASES.iter().map(|case| {
        let ready = ready.clone();
        let boot = move || boot(case.name, &[case], (operations, seed), &ready);
        Task::new(case.name, "a file system that fsx works on", boot)
    });
    Ok(suite::conclude(&suite::perform(&tasks.collect::<Vec<_>>())))
}

/// The test.
pub(crate) fn guests() -> impl Iterator<Item = Guests> {
    let short: Vec<&Case> = CASES.iter().filter(|case| case.short).collect();
    std::iter::once(Guests {
        name: NAME,
        about: ABOUT,
        arch: Arch::X86_64,
        run: Box::new(move |ready| boot(NAME, &short, (FEW, 1), ready)),
    })
}

fn boot(
    name: &str,
    cases: &[&Case],
    (operations, seed): (u32, u32),
    ready: &Ready,
) -> Result<Tally> {
    let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    let boot = Boot {
        name: name.to_owned(),
        place: Place::Nested,
        image: Image::Bzimage,
        init: "init-filesystems.sh".to_owned(),
        modules: driver::all_shipped(disks::modules().chain(BTRFS), &ready.kernel)?,
        programs: guest_programs()?,
        options: ["-c", "1", "-m", "256"].map(str::to_owned).into(),
        script: Script {
            file: Some("host-filesystems.sh"),
            variables: vec![
                ("CASES".to_owned(), names.join(" ")),
                ("OPERATIONS".to_owned(), operations.to_string()),
                ("SEED".to_owned(), seed.to_string()),
            ],
            files: vec![("TOOLS", host_tools()?)],
            ..Script::default()
        },
        watch: Watch {
            show: Show::Nothing,
            input: false,
            timeout: Some(TIMEOUT * 4 + TIMEOUT * (operations / 400)),
        },
    };
    let text = boot.run(ready)?.text;
    Ok(tally(name, cases.iter().map(|case| (case.name, case.judge(&text, operations)))))
}

/// What the guests make file systems with, and work on them.
fn guest_programs() -> Result<Vec<(String, PathBuf)>> {
    let makers: [(&str, &[&str]); 2] =
        [("mkfs.ext4", &["e2fsprogs"]), ("mkfs.btrfs", &["btrfs-progs"])];
    let rules = paths::build()?.join("fsx.toml");
    paths::write_whole(&rules, FSX.as_bytes())?;
    Ok(vec![
        ("makers.tar".to_owned(), tools::archive("makers", &makers, &[])?),
        ("fsx".to_owned(), tools::of_crate("fsx", FSX_VERSION, Arch::X86_64)?),
        ("fsx.toml".to_owned(), rules),
    ])
}

/// What the outer machine makes images with, and checks them and what is on them.
pub(crate) fn host_tools() -> Result<PathBuf> {
    let tools: [(&str, &[&str]); 3] =
        [("qemu-img", &["qemu-utils"]), ("e2fsck", &["e2fsprogs"]), ("btrfs", &["btrfs-progs"])];
    tools::archive("checkers", &tools, &[])
}

impl Case {
    fn judge(&self, transcript: &str, operations: u32) -> Result<()> {
        let Some(text) = part(transcript, self.name) else { bail!("it was not run") };
        let last = || last_lines(text);
        ensure!(text.contains("case status 0\n"), "trapline failed, last lines:\n{}", last());
        let all = format!("TRAPLINE-GUEST: fsx has made {operations} operations\n");
        for expected in [
            "All operations completed A-OK!",
            all.as_str(),
            "TRAPLINE-GUEST: what was written is there\n",
            "TRAPLINE-GUEST: the other disk has the same\n",
            "TRAPLINE-HOST: qemu-img finds no errors\n",
            "TRAPLINE-HOST: the images are the same\n",
            "TRAPLINE-HOST: the file system is sound\n",
        ] {
            let count = text.matches(expected).count();
            ensure!(count == 1, "{expected:?} occurs {count} times, last lines:\n{}", last());
        }
        for forbidden in ["WARNING", "BUG:", "I/O error", "Kernel panic"] {
            ensure!(!text.contains(forbidden), "{forbidden:?} occurs");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_wants_every_word_of_the_guests_and_the_hosts() {
        let lines = "All operations completed A-OK!\nTRAPLINE-GUEST: fsx has made 7 operations\n\
            TRAPLINE-GUEST: what was written is there\nTRAPLINE-GUEST: the other disk has the same\n\
            TRAPLINE-HOST: case status 0\nTRAPLINE-HOST: qemu-img finds no errors\n\
            TRAPLINE-HOST: the images are the same\nTRAPLINE-HOST: the file system is sound\n";
        let case = Case { name: "ext4-raw", short: true };
        let judge = |lines: &str| case.judge(&format!("TRAPLINE-HOST: case ext4-raw\n{lines}"), 7);
        judge(lines).unwrap();
        assert!(case.judge("TRAPLINE-HOST: case ext4-qcow2\n", 7).is_err());
        for line in lines.lines() {
            assert!(judge(&lines.replace(line, "")).is_err(), "without {line}");
        }
        assert!(judge(&format!("{lines}I/O error, dev vda")).is_err());
    }
}
