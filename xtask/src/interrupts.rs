//! What Linux says of its interrupts, of the same guest with the controllers in the kernel and
//! with our own: it must be the same, and plausible.

use anyhow::{Context, Result, ensure};

/// Where the guest's report of its interrupts starts, and that of its warnings, and the end.
const INTERRUPTS: &str = "TRAPLINE-GUEST: file /proc/interrupts\n";
const WARNINGS: &str = "TRAPLINE-GUEST: warnings\n";
const END: &str = "TRAPLINE-GUEST: done";

/// Devices every PC has an interrupt for, and whether every boot makes some: a keyboard that
/// nobody types on need not. The 8254 is not among them, as Linux uses it no more once it knows the
/// local APIC's timer.
const DEVICES: [(&str, bool); 3] = [("ttyS0", true), ("rtc0", false), ("i8042", false)];

/// Warnings that come and go with the host's load, by how they begin once their [numbers are
/// gone](without_numbers): what a kernel (Linux 6.1) says of time when its processors are late, or
/// one of them later than another.
const OF_THE_HOST: [&str; 17] = [
    // kernel/time/hrtimer.c: timers became due for as long as others were called.
    "hrtimer: interrupt took",
    // kernel/time/clocksource.c: the watchdog read one clock later than the other. Some in lines.
    "clocksource:",
    "TSC found unstable after boot",
    // kernel/trace/trace.c: of that; three lines.
    "Unstable clock detected",
    "If you want to keep using the local clock",
    "\"trace_clock=local\"",
    "on the kernel command line",
    // arch/x86/kernel/tsc_sync.c: two processors read the counter at different times.
    "TSC synchronization",
    "Measured # cycles TSC warp",
    "TSC warped randomly",
    // arch/x86/kernel/tsc.c and apic/apic.c: a measurement took longer than it should.
    "tsc:",
    "APIC calibration not consistent with PM-Timer",
    // kernel/sched: a processor was away for long.
    "sched: RT throttling activated",
    "Scheduler frequency invariance went wobbly",
    // drivers/rtc/lib and mc146818-lib: between two readings of a register.
    "Reading current time from RTC took around",
    // drivers/input/keyboard/atkbd.c: an answer came after the 200 ms that it is waited for.
    "atkbd # Failed to deactivate keyboard",
    "atkbd # Spurious ACK",
];

/// A device that interrupts so often with the kernel's controllers does so in every boot: a keyboard that
/// its driver talks to, for one. One that does not may have a byte left over, or none.
const SEVERAL: u64 = 3;

/// More than any line needs for a boot of some seconds: one that is never answered makes a hundred
/// thousand a second.
const COUNT_MAX: u64 = 20_000;

/// The report of one guest.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    lines: Vec<Line>,
    ticks: u64,
    errors: u64,
    warnings: Vec<String>,
}

/// A line of `/proc/interrupts` that stands for an input of an interrupt controller.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    number: u32,
    count: u64,
    /// The controller and the trigger mode, as in `IO-APIC 4-edge`.
    chip: String,
    device: String,
}

/// Compares what a guest printed with the controllers in the kernel and with our own.
///
/// # Errors
///
/// What of our own is not as it should be.
pub(crate) fn compare(kernel: &str, split: &str) -> Result<()> {
    let kernel = Report::of(kernel).context("with the kernel's controllers")?;
    let split = Report::of(split).context("with our own controllers")?;
    let wiring = |report: &Report| -> Vec<String> {
        let lines = report.lines.iter();
        lines.map(|line| format!("{} {} {}", line.number, line.chip, line.device)).collect()
    };
    let (ours, theirs) = (wiring(&split), wiring(&kernel));
    ensure!(ours == theirs, "devices are at {ours:?}, and with the kernel's at {theirs:?}");
    for (device, always) in DEVICES {
        let line = split.lines.iter().find(|line| line.device == device);
        let line = line.with_context(|| format!("{device} has no interrupt"))?;
        ensure!(line.count > 0 || !always, "{device} has not interrupted once");
    }
    for (line, theirs) in split.lines.iter().zip(&kernel.lines) {
        let (device, count) = (&line.device, theirs.count);
        ensure!(
            line.count > 0 || count < SEVERAL,
            "{device} has not interrupted once, and {count} times with the kernel's"
        );
        ensure!(line.count < COUNT_MAX, "{} has interrupted {} times", line.device, line.count);
    }
    ensure!(split.ticks > 0, "the local timer has not interrupted once");
    ensure!(split.errors == 0, "{} interrupts were spurious", split.errors);
    let extra: Vec<&String> =
        split.warnings.iter().filter(|line| !kernel.warnings.contains(line)).collect();
    ensure!(extra.is_empty(), "warnings that are not there with the kernel's: {extra:#?}");
    Ok(())
}

impl Report {
    fn of(text: &str) -> Result<Self> {
        let (_, text) = text.split_once(INTERRUPTS).context("there is no report of interrupts")?;
        let (interrupts, text) = text.split_once(WARNINGS).context("there are no warnings")?;
        let (warnings, _) = text.split_once(END).context("the report does not end")?;
        let mut rows = interrupts.lines();
        let cpus = rows.next().context("the report is empty")?.split_whitespace().count();
        let rows: Vec<Vec<&str>> = rows.map(|row| row.split_whitespace().collect()).collect();
        let named = |name: &str| {
            let rows = rows.iter().filter(|row| row.first() == Some(&name));
            rows.map(|row| count(row, cpus)).sum::<u64>()
        };
        Ok(Self {
            lines: rows.iter().filter_map(|row| Line::of(row, cpus)).collect(),
            ticks: named("LOC:"),
            errors: named("ERR:") + named("MIS:") + named("SPU:"),
            warnings: warnings
                .lines()
                .map(without_numbers)
                .filter(|line| is_of_guest(line))
                .collect(),
        })
    }
}

impl Line {
    fn of(row: &[&str], cpus: usize) -> Option<Self> {
        let number = row.first()?.strip_suffix(':')?.parse().ok()?;
        let (device, chip) = row.get(1 + cpus..)?.split_last()?;
        let device = (*device).to_owned();
        Some(Self { number, count: count(row, cpus), chip: chip.join(" "), device })
    }
}

/// The sum over all processors.
fn count(row: &[&str], cpus: usize) -> u64 {
    row.iter().skip(1).take(cpus).filter_map(|count| count.parse::<u64>().ok()).sum()
}

fn is_of_guest(line: &str) -> bool {
    !OF_THE_HOST.iter().any(|text| line.starts_with(text))
}

/// Whether a word of a message is a number or an address.
fn is_number(word: &str) -> bool {
    word.contains(|c: char| c.is_ascii_digit()) || word.chars().all(|c| c.is_ascii_hexdigit())
}

/// Without the time, and with numbers and addresses made the same, as they differ from boot to boot.
fn without_numbers(line: &str) -> String {
    let (_, text) = line.split_once("] ").unwrap_or(("", line));
    let words = text.split_whitespace();
    let words = words.map(|word| if is_number(word) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(timer: u64, serial: &str, errors: u64, warnings: &str) -> String {
        format!(
            "noise\nTRAPLINE-GUEST: file /proc/interrupts\n           CPU0       CPU1\n  \
             0:  {timer}  7  IO-APIC   2-edge      timer\n  \
             1:  9  0  IO-APIC   1-edge      i8042\n  \
             4:  0  250  {serial}  ttyS0\n  8:  0  1  IO-APIC   8-edge      rtc0\n\
             NMI:  0  0  Non-maskable interrupts\nLOC: 999999 999999  Local timer interrupts\n\
             ERR:  {errors}\nMIS:  0\nTRAPLINE-GUEST: warnings\n{warnings}TRAPLINE-GUEST: done\n"
        )
    }

    fn complaint(split: &str) -> String {
        let kernel = boot(30, "IO-APIC 4-edge", 0, "<4>[    1.25] no NUMA at 0x7f\n");
        compare(&kernel, split).err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn the_same_devices_at_the_same_inputs_are_fine() {
        assert_eq!(complaint(&boot(55, "IO-APIC 4-edge", 0, "")), "");
        let same = "<4>[   10.75] no NUMA at 0x99f\n";
        assert_eq!(complaint(&boot(55, "IO-APIC 4-edge", 0, same)), "");
    }

    #[test]
    fn what_a_late_host_makes_a_kernel_say_is_no_fault_of_the_controllers() {
        let of_the_host = "<4>[    2.125] hrtimer: interrupt took 14226896 ns\n\
             <4>[    2.5] clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc-early' \
             as unstable because the skew is too large:\n\
             <4>[    2.5] clocksource:                       'acpi_pm' wd_nsec: 503454 wd_now: 3\n\
             <4>[    2.75] atkbd serio0: Failed to deactivate keyboard on isa0060/serio0\n\
             <4>[    3.0] Measured 7262 cycles TSC warp between CPUs, turning off TSC clock.\n\
             <4>[    3.5] Unstable clock detected, switching default tracing clock to \"global\"\n\
             <4>[    3.5] If you want to keep using the local clock, then add:\n\
             <4>[    3.5]   \"trace_clock=local\"\n<4>[    3.5] on the kernel command line\n";
        assert_eq!(complaint(&boot(55, "IO-APIC 4-edge", 0, of_the_host)), "");
    }

    #[test]
    fn whatever_is_not_as_with_the_kernel_is_said() {
        let said = complaint(&boot(30, "XT-PIC", 0, ""));
        assert!(said.starts_with("devices are at") && said.contains("4 XT-PIC ttyS0"), "{said}");
        let said = complaint(&boot(1, "IO-APIC 4-edge", 0, "").replace("1:  9", "1:  0"));
        assert_eq!(said, "i8042 has not interrupted once, and 9 times with the kernel's");
        let said = complaint(&boot(99_999, "IO-APIC 4-edge", 0, ""));
        assert_eq!(said, "timer has interrupted 100006 times");
        let said = complaint(&boot(1, "IO-APIC 4-edge", 3, ""));
        assert_eq!(said, "3 interrupts were spurious");
        let said = complaint(&boot(1, "IO-APIC 4-edge", 0, "<4>[ 1.0] irq 4: nobody cared\n"));
        assert!(said.contains("irq # nobody cared"), "{said}");
        assert!(complaint("nothing").contains("there is no report of interrupts"));
    }
}
