//! `cargo xtask bench vfio`: what a guest pays for a register and an interrupt of a PCI function of the
//! host, beside the same assignment by QEMU in the same run.
//!
//! All guests run one after the other in one emulated machine with an IOMMU and one processor, whose
//! clock counts instructions. The guests' clock is the same one: so the time that a guest sees pass is the
//! number of instructions that it, KVM, the VMM and the kernel below them have needed.

use anyhow::{Context, Result, ensure};

use super::{grouped, verdict};
use crate::arch::Arch;
use crate::driver;
use crate::guest::{Ready, TIMEOUT};
use crate::kernel;
use crate::nested::NestedRun;
use crate::session::{Show, Watch, last_lines};
use crate::vmm::Profile;
use crate::{initrd, qemu, vfio};

/// The guests' memory.
const MEMORY_MIB: &str = "192";
/// What `host-bench-vfio.sh` puts before a line that says how far it is.
const PROGRESS: &str = "TRAPLINE-PROGRESS: ";

/// What is measured of one thing that a guest does.
struct Row {
    what: &'static str,
    /// How the function's registers reach the guest.
    way: &'static str,
    /// Its name in what the guest's driver says (`guest-tests/edu`).
    name: &'static str,
    goal: Goal,
}

/// What is wanted of a figure, against QEMU's.
#[derive(Clone, Copy)]
enum Goal {
    None,
    NoMore,
    Less,
}

#[rustfmt::skip]
const ROWS: [Row; 8] = [
    Row { what: "mapped register: read", way: "mapped", name: "register read", goal: Goal::NoMore },
    Row { what: "mapped register: write", way: "mapped", name: "register write", goal: Goal::NoMore },
    Row { what: "trapped register: read", way: "trapped", name: "register read", goal: Goal::Less },
    Row { what: "trapped register: write", way: "trapped", name: "register write", goal: Goal::Less },
    Row { what: "MSI: until its handler runs", way: "mapped", name: "MSI handler", goal: Goal::Less },
    Row { what: "MSI: until it has returned", way: "mapped", name: "MSI return", goal: Goal::None },
    Row { what: "INTA#: until its handler runs", way: "mapped", name: "INTA# handler", goal: Goal::Less },
    Row { what: "INTA#: until it has returned", way: "mapped", name: "INTA# return", goal: Goal::Less },
];

/// Measures, and prints a table.
pub(super) fn run() -> Result<u8> {
    let ready = Ready::make(Arch::X86_64, Profile::Release)?;
    let kernel = kernel::debian_machine(Arch::X86_64)?;
    let edu = driver::module("edu", &kernel)?;
    let initrd = initrd::guest(kernel.arch, "init-bench-vfio.sh", &[edu], &[])?;
    let files = [
        ("guest/kernel", kernel.image.clone()),
        ("guest/initrd", initrd),
        ("guest/qemu", qemu::archive()?),
    ];
    let variables = [
        ("MEMORY", MEMORY_MIB),
        ("KERNEL", "/guest/kernel"),
        ("INITRD", "/guest/initrd"),
        ("QEMU", "/guest/qemu"),
    ];
    let args = ["run", "-k", "/guest/kernel", "-i", "/guest/initrd", "-c", "1", "-m", MEMORY_MIB];
    eprintln!("Assigning a function to guests of trapline and of QEMU");
    let run = NestedRun {
        name: format!("bench-{}", std::process::id()),
        hardware: vfio::behind_iommu(Arch::X86_64, ["-device", "edu"].map(str::to_owned)),
        kernel,
        gic: 3,
        vmm: ready.vmm,
        args: args.map(str::to_owned).into(),
        variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        files: files.map(|(name, file)| (name.to_owned(), file)).into(),
        script: "host-bench-vfio.sh".to_owned(),
        smp: 1,
        counted: true,
        watch: Watch { show: Show::Progress(PROGRESS), input: false, timeout: Some(TIMEOUT * 20) },
    };
    let text = run.run()?.well()?;
    print!("{}", report(&text).with_context(|| format!("last lines:\n{}", last_lines(&text)))?);
    Ok(0)
}

/// A figure that the guest of one VMM has said, the last one if it was started several times.
fn figure(text: &str, vmm: &str, row: &Row) -> Result<u64> {
    let start = format!("{vmm}-{}: EDU: measured {} ", row.way, row.name);
    let found = text.lines().filter_map(|line| line.trim().strip_prefix(&start)).next_back();
    let found = found.with_context(|| format!("{} was not measured with {vmm}", row.what))?;
    let count = found.trim().parse().with_context(|| format!("{found:?} is no count"))?;
    // A count of nothing would meet every goal.
    ensure!(count > 0, "{} counted nothing with {vmm}", row.what);
    Ok(count)
}

fn report(text: &str) -> Result<String> {
    let mut table =
        format!("{:40} {:>9} {:>9} {:>7}\n", "instructions", "trapline", "QEMU", "ratio");
    let mut verdicts = String::new();
    for row in &ROWS {
        let [ours, theirs] = [figure(text, "trapline", row)?, figure(text, "qemu", row)?];
        let hundredths = (ours * 100 + theirs / 2) / theirs;
        table += &format!(
            "{:40} {:>9} {:>9} {:>4}.{:02}\n",
            row.what,
            grouped(ours),
            grouped(theirs),
            hundredths / 100,
            hundredths % 100
        );
        verdicts += &match row.goal {
            Goal::None => String::new(),
            Goal::NoMore => verdict(&format!("{}: no more than QEMU", row.what), ours <= theirs),
            Goal::Less => verdict(&format!("{}: ahead of QEMU", row.what), ours < theirs),
        };
    }
    Ok(format!("{table}\n{verdicts}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(vmm: &str, figure: u64) -> String {
        let line = |row: &Row| format!("{vmm}-{}: EDU: measured {} {figure}\n", row.way, row.name);
        ROWS.iter().map(line).collect()
    }

    #[test]
    fn goals_are_judged_at_their_limits() {
        let equal = report(&(output("trapline", 100) + &output("qemu", 100))).unwrap();
        let has = |table: &str, line: &str| assert!(table.contains(line), "{line}:\n{table}");
        has(&equal, "mapped register: read                          100       100    1.00\n");
        has(&equal, "goal: mapped register: read: no more than QEMU: met");
        has(&equal, "goal: trapped register: read: ahead of QEMU: MISSED");
        let less = report(&(output("trapline", 99) + &output("qemu", 100))).unwrap();
        has(&less, "goal: trapped register: read: ahead of QEMU: met");
        let more = report(&(output("trapline", 101) + &output("qemu", 100))).unwrap();
        has(&more, "goal: mapped register: read: no more than QEMU: MISSED");
    }

    #[test]
    fn what_was_not_measured_is_an_error_and_the_last_figure_counts() {
        let ours = output("trapline", 5);
        assert!(report(&ours).is_err());
        assert!(report(&(ours.clone() + &output("qemu", 0))).is_err());
        let twice = output("qemu", 0) + &output("qemu", 5);
        assert!(report(&(ours + &twice)).is_ok());
    }
}
