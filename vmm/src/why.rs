//! `trapline why` and Ctrl-a w: from what was seen of a guest to the sentence that says why it hangs.

use std::fmt::Write;
use std::time::Duration;

use rustix::fs::FileType;
use trapline_control::api::{
    Cause, CauseKind, ConsoleWhy, InstanceState, InterruptWhy, PollWhy, UnclaimedCount, VcpuDoing,
    VcpuWhy, Why,
};
use trapline_machine::State;
use trapline_machine::why::{Doing, Interrupt, Observation, Poll, Resets, Stage, VcpuSeen};

use crate::console::Console;
use crate::statistics;

/// How long a guest is watched.
pub const SPAN: Duration = Duration::from_secs(1);

/// Output that is not taken for so long is not going to be.
const BLOCKED: Duration = Duration::from_millis(500);
/// So many resets within so long are a loop.
const LOOP: (usize, Duration) = (3, Duration::from_secs(60));
/// So many unclaimed accesses are told apart.
const UNCLAIMED_MAX: usize = 16;
/// So many of the last lines are told.
const LINES_MAX: usize = 5;
/// So many callers are told.
const FRAMES_MAX: usize = 12;

/// What there is to know of a guest besides what its machine does.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Its console.
    pub console: ConsoleWhy,
    /// The images of its disks.
    pub disks: Vec<String>,
}

impl Surroundings {
    /// Those of now.
    pub fn of(console: &Console, disks: &[String]) -> Self {
        let backlog = console.backlog();
        let blocked = backlog.blocked.filter(|blocked| *blocked >= BLOCKED);
        Self {
            console: ConsoleWhy {
                to: standard_output().to_owned(),
                waiting_bytes: backlog.waiting as u64,
                full: backlog.full,
                blocked_ns: blocked.map(nanoseconds),
                last_lines: last_lines(&console.tail()),
            },
            disks: disks.to_vec(),
        }
    }
}

fn standard_output() -> &'static str {
    let stdout = rustix::stdio::stdout();
    if rustix::termios::isatty(stdout) {
        return "the terminal";
    }
    match rustix::fs::fstat(stdout).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::Fifo) => "a pipe",
        Ok(FileType::Socket) => "a socket",
        Ok(FileType::RegularFile) => "a file",
        _ => "standard output",
    }
}

/// The last lines of text, without what a terminal would take for more than that.
fn last_lines(tail: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(tail);
    let clean = |line: &str| line.chars().filter(|letter| !letter.is_control()).collect();
    let lines: Vec<String> = text.split('\n').map(clean).collect();
    let mut lines: Vec<String> =
        lines.into_iter().filter(|line: &String| !line.trim().is_empty()).collect();
    lines.split_off(lines.len().saturating_sub(LINES_MAX))
}

/// Everything that is to be said of a guest.
pub fn why(seen: &Observation, around: Surroundings) -> Why {
    let causes = causes(seen, &around);
    let unclaimed = seen.unclaimed.iter().take(UNCLAIMED_MAX);
    let unclaimed = unclaimed.map(|(key, count)| statistics::unclaimed_count(key, *count));
    Why {
        state: state(seen.state),
        watched_ns: nanoseconds(seen.watched),
        causes,
        vcpus: seen.vcpus.iter().map(vcpu).collect(),
        interrupts: seen.interrupts.iter().map(interrupt).collect(),
        unclaimed: unclaimed.collect(),
        resets: seen.resets.count,
        console: around.console,
    }
}

/// What the guest does, as the API calls it.
pub fn state(state: State) -> InstanceState {
    match state {
        State::Built => InstanceState::NotStarted,
        State::Running => InstanceState::Running,
        State::Paused | State::Saved => InstanceState::Paused,
        State::Resetting => InstanceState::Resetting,
        State::Ended => InstanceState::Ended,
    }
}

fn vcpu(seen: &VcpuSeen) -> VcpuWhy {
    let (doing, poll) = match &seen.doing {
        Doing::Runs => (VcpuDoing::Runs, None),
        Doing::Halted => (VcpuDoing::Halted, None),
        Doing::AwaitsStart => (VcpuDoing::NotStarted, None),
        Doing::Polls(poll) => (VcpuDoing::Polls, Some(poll)),
        Doing::Waits(_) => (VcpuDoing::Waits, None),
    };
    let poll = poll.map(|poll| PollWhy {
        region: poll.region.clone(),
        register: poll.register.clone(),
        place: poll.place.clone(),
        value: format!("{:#x}", poll.value),
        reads: poll.reads,
        reads_per_second: poll.rate,
        for_ns: nanoseconds(poll.lasted),
        at_least: poll.at_least,
        others: poll.others.clone(),
    });
    VcpuWhy {
        vcpu: seen.index,
        doing,
        text: does(seen),
        takes_interrupts: seen.takes_interrupts,
        frames: seen.frames.iter().take(FRAMES_MAX).map(ToString::to_string).collect(),
        accesses: seen.accesses,
        quiet_ns: seen.quiet.map(nanoseconds),
        poll,
    }
}

fn interrupt(seen: &Interrupt) -> InterruptWhy {
    InterruptWhy {
        name: seen.name.clone(),
        stage: seen.stage.name().to_owned(),
        vector: seen.vector,
        text: seen.to_string(),
    }
}

/// What a vCPU does, in words.
fn does(seen: &VcpuSeen) -> String {
    let interrupts = if seen.takes_interrupts { "on" } else { "off" };
    let what = match &seen.doing {
        Doing::Runs => "runs".to_owned(),
        Doing::Halted => "is halted".to_owned(),
        Doing::AwaitsStart => return "waits for another vCPU to start it".to_owned(),
        Doing::Polls(poll) => format!("polls {}", polled(poll)),
        Doing::Waits(access) => format!("waits for the answer to {access}"),
    };
    let last = match seen.quiet {
        Some(quiet) => format!("its last access to a device was {} ago", seconds(quiet)),
        None => "it has accessed no device".to_owned(),
    };
    format!("{what}, interrupts {interrupts}; {last}")
}

fn polled(poll: &Poll) -> String {
    match &poll.region {
        Some(region) => format!("{region} {} ({})", poll.register, poll.place),
        None => format!("{}, which no device claims", poll.place),
    }
}

/// What the guest may hang in, the likeliest first.
fn causes(seen: &Observation, around: &Surroundings) -> Vec<Cause> {
    let mut causes = Vec::new();
    if matches!(seen.state, State::Paused | State::Saved) {
        let text = "it is paused: `trapline resume` lets it go on, or Ctrl-a p, or `c` at a break";
        causes.push(cause(CauseKind::Paused, text.to_owned()));
    }
    causes.extend(boot_loop(&seen.resets));
    causes.extend(blocked(&around.console));
    causes.extend(root_disk(around));
    causes.extend(complaint(seen));
    causes.extend(stalls(seen));
    causes.extend(polls(seen, !causes.is_empty()));
    if causes.is_empty() {
        causes.extend(halts(&seen.vcpus));
        causes.extend(interrupts(seen));
    }
    if causes.is_empty() {
        causes.extend(otherwise(seen));
    }
    causes
}

fn cause(kind: CauseKind, text: String) -> Cause {
    Cause { kind, text }
}

fn boot_loop(resets: &Resets) -> Option<Cause> {
    let (many, span) = LOOP;
    let since = *resets.ago.get(many - 1).filter(|ago| **ago <= span)?;
    let by = resets.cause.as_ref().map_or_else(String::new, |cause| format!(" by {cause}"));
    let count = resets.count;
    let text = format!(
        "it boots in a loop: it was reset {count} times so far, the last {many} times within {}, the \
         last time{by}",
        seconds(since)
    );
    Some(cause(CauseKind::BootLoop, text))
}

fn blocked(console: &ConsoleWhy) -> Option<Cause> {
    let ns = console.blocked_ns?;
    let whose = match console.to.as_str() {
        "the terminal" => {
            "the terminal takes no output: it was stopped (Ctrl-s; Ctrl-q lets it go on), or what \
             shows it does not read"
        }
        "a pipe" => "standard output is a pipe that nobody reads, and it is full",
        _ => "what standard output goes to takes nothing",
    };
    let waits = if console.full {
        format!(
            "{} bytes wait, and the guest's console has no room for more",
            console.waiting_bytes
        )
    } else {
        format!("{} bytes wait behind what is being written", console.waiting_bytes)
    };
    let text = format!("{whose}, for {}; {waits}", seconds(Duration::from_nanos(ns)));
    Some(cause(CauseKind::ConsoleBlocked, text))
}

/// What kernels and initramfs say while they wait for a root file system, or have given up: Linux
/// `init/do_mounts.c`, and initramfs-tools' `scripts/local`.
const ROOT: [&str; 6] = [
    "Waiting for root device",
    "Waiting for root file system",
    "Gave up waiting for root",
    "does not exist.  Dropping to a shell!",
    "VFS: Cannot open root device",
    "VFS: Unable to mount root fs",
];

fn root_disk(around: &Surroundings) -> Option<Cause> {
    let lines = || around.console.last_lines.iter();
    let line = lines().rev().find(|line| ROOT.iter().any(|known| line.contains(known)))?;
    let disks = match around.disks.as_slice() {
        [] => "it has no disk".to_owned(),
        disks => format!("its disks are {}", disks.join(", ")),
    };
    let text = format!("its kernel waits for its root file system: \"{}\"; {disks}", line.trim());
    Some(cause(CauseKind::RootDisk, text))
}

fn complaint(seen: &Observation) -> Option<Cause> {
    // A guest that is being reset cannot be looked into, which is no fault of its.
    let complaint = seen.complaint.as_ref().filter(|_| seen.state == State::Running)?;
    Some(cause(CauseKind::NoAnswer, complaint.clone()))
}

fn stalls(seen: &Observation) -> impl Iterator<Item = Cause> {
    seen.vcpus.iter().filter_map(|vcpu| {
        let Doing::Waits(access) = &vcpu.doing else { return None };
        let text = format!(
            "vCPU {} waits for the process of a device, which does not answer: {access}, for {} or \
             more",
            vcpu.index,
            seconds(seen.watched),
        );
        Some(cause(CauseKind::DeviceStalls, text))
    })
}

/// Who polls. Where something else is known to hold up the guest, the polls may well be for that: of a
/// console that is not read they are.
fn polls(seen: &Observation, known: bool) -> impl Iterator<Item = Cause> {
    seen.vcpus.iter().filter_map(move |vcpu| {
        let Doing::Polls(poll) = &vcpu.doing else { return None };
        if known {
            return None;
        }
        let more = if poll.at_least { " or more" } else { "" };
        let text = format!(
            "vCPU {} polls {}: {:#x} each time, {} times in {}{more}, {} times a second{}",
            vcpu.index,
            polled(poll),
            poll.value,
            poll.reads,
            seconds(poll.lasted),
            poll.rate,
            place(vcpu),
        );
        let kind = match poll.region {
            Some(_) => CauseKind::Poll,
            None => CauseKind::PollUnclaimed,
        };
        Some(cause(kind, text))
    })
}

/// The guest's own name for where a vCPU is.
fn place(vcpu: &VcpuSeen) -> String {
    let symbol = vcpu.frames.first().and_then(|frame| frame.symbol.as_ref());
    symbol.map_or_else(String::new, |symbol| format!(", in {symbol}"))
}

/// Those that are started.
fn started(vcpus: &[VcpuSeen]) -> impl Iterator<Item = &VcpuSeen> + Clone {
    vcpus.iter().filter(|vcpu| vcpu.doing != Doing::AwaitsStart)
}

fn all_halted(vcpus: &[VcpuSeen]) -> bool {
    let mut started = started(vcpus);
    started.clone().next().is_some() && started.all(|vcpu| vcpu.doing == Doing::Halted)
}

fn halts(vcpus: &[VcpuSeen]) -> Option<Cause> {
    if !all_halted(vcpus) || started(vcpus).any(|vcpu| vcpu.takes_interrupts) {
        return None;
    }
    let all = if vcpus.len() == 1 { "its vCPU is" } else { "all its vCPUs are" };
    let place = started(vcpus).next().map(place).unwrap_or_default();
    let text = format!(
        "{all} halted with interrupts off{place}: nothing but a reset or a non-maskable interrupt \
         wakes it"
    );
    Some(cause(CauseKind::InterruptsOff, text))
}

/// Interrupts that wait, unless a vCPU is busy with something else.
fn interrupts(seen: &Observation) -> Vec<Cause> {
    let listens = started(&seen.vcpus).any(|vcpu| vcpu.takes_interrupts);
    let works = seen.vcpus.iter().any(|vcpu| vcpu.doing == Doing::Runs && vcpu.accesses > 0);
    if works || !listens {
        return Vec::new();
    }
    let waiting = seen.interrupts.iter().map(|interrupt| {
        let kind = match interrupt.stage {
            Stage::Masked(_) => CauseKind::InterruptMasked,
            Stage::Lost(_) => CauseKind::InterruptLost,
            Stage::Raised { .. } => CauseKind::InterruptNotTaken,
            Stage::InService(_) => CauseKind::InterruptNotEnded,
        };
        cause(kind, interrupt.to_string())
    });
    waiting.collect()
}

/// A guest that does not hang in anything that is known.
fn otherwise(seen: &Observation) -> Vec<Cause> {
    if all_halted(&seen.vcpus) {
        let armed = started(&seen.vcpus).any(|vcpu| vcpu.timer_armed == Some(true));
        let timer = if armed { "; the timer of a local APIC is running" } else { "" };
        let text = format!(
            "it is idle: its vCPUs are halted and wait for an interrupt, and none is raised{timer}"
        );
        return vec![cause(CauseKind::Idle, text)];
    }
    let runs = started(&seen.vcpus).filter(|vcpu| vcpu.doing == Doing::Runs);
    let told = runs.map(|vcpu| {
        let (index, place) = (vcpu.index, place(vcpu));
        if vcpu.accesses > 0 {
            let count = vcpu.accesses;
            let text = format!(
                "vCPU {index} runs and does not seem to hang: it made {count} accesses in {}{place}",
                seconds(seen.watched)
            );
            return cause(CauseKind::Busy, text);
        }
        let off = if vcpu.takes_interrupts { "" } else { ", with interrupts off" };
        let quiet = vcpu.quiet.map_or_else(
            || "has accessed no device since it was started".to_owned(),
            |quiet| format!("has accessed no device for {}", seconds(quiet)),
        );
        cause(CauseKind::Spins, format!("vCPU {index} runs{off} and {quiet}{place}"))
    });
    told.collect()
}

/// All of it as text.
pub fn text(name: &str, why: &Why) -> String {
    let mut text = String::new();
    let watched = match Duration::from_nanos(why.watched_ns) {
        Duration::ZERO => "it was looked into as it stands".to_owned(),
        watched => format!("it was watched for {}", seconds(watched)),
    };
    let _ = writeln!(text, "guest {name}: {watched}");
    for cause in &why.causes {
        let _ = writeln!(text, "  * {}", cause.text);
    }
    for vcpu in &why.vcpus {
        let _ = writeln!(text, "vCPU {} {}", vcpu.vcpu, vcpu.text);
        for (n, frame) in vcpu.frames.iter().enumerate() {
            let _ = writeln!(text, "  #{n:<2} {frame}");
        }
        for other in vcpu.poll.iter().flat_map(|poll| &poll.others) {
            let _ = writeln!(text, "  besides: {other}");
        }
    }
    section(&mut text, "interrupts that wait:", why.interrupts.iter().map(|one| one.text.clone()));
    let unclaimed = why.unclaimed.iter().map(|one| {
        let UnclaimedCount { space, addr, len, direction, count } = one;
        format!("{space} {addr:#x} {direction} of {len}: {count} times")
    });
    section(&mut text, "accesses that no device claimed meanwhile:", unclaimed);
    let lines = why.console.last_lines.iter().cloned();
    section(&mut text, "the last lines of its console:", lines);
    text
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        let _ = writeln!(text, "{title}");
        lines.for_each(|line| text.push_str(&format!("  {line}\n")));
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Observation {
        Observation {
            state: State::Running,
            watched: SPAN,
            vcpus: vec![halted(true)],
            interrupts: Vec::new(),
            unclaimed: Vec::new(),
            resets: Resets::default(),
            complaint: None,
        }
    }

    fn halted(takes_interrupts: bool) -> VcpuSeen {
        VcpuSeen {
            index: 0,
            doing: Doing::Halted,
            takes_interrupts,
            timer_armed: Some(false),
            frames: Vec::new(),
            accesses: 0,
            quiet: Some(Duration::from_secs(3)),
        }
    }

    fn kinds(seen: &Observation, around: Surroundings) -> Vec<CauseKind> {
        why(seen, around).causes.iter().map(|cause| cause.kind).collect()
    }

    fn printed(lines: &[&str]) -> Surroundings {
        let last_lines = lines.iter().map(|line| line.to_string()).collect();
        let console = ConsoleWhy { last_lines, ..ConsoleWhy::default() };
        Surroundings { console, disks: Vec::new() }
    }

    #[test]
    fn a_guest_that_waits_for_nothing_that_is_raised_is_idle() {
        assert_eq!(kinds(&seen(), Surroundings::default()), [CauseKind::Idle]);
        let mut two = seen();
        two.vcpus.push(VcpuSeen { index: 1, doing: Doing::AwaitsStart, ..halted(false) });
        assert_eq!(kinds(&two, Surroundings::default()), [CauseKind::Idle]);
        two.vcpus[0].takes_interrupts = false;
        assert_eq!(kinds(&two, Surroundings::default()), [CauseKind::InterruptsOff]);
    }

    #[test]
    fn an_interrupt_counts_unless_somebody_is_busy_or_nobody_listens() {
        let masked = Stage::Masked(vec!["the GIC".to_owned()]);
        let interrupt = Interrupt { name: "IRQ 4".to_owned(), stage: masked, vector: None };
        let mut seen = Observation { interrupts: vec![interrupt], ..seen() };
        assert_eq!(kinds(&seen, Surroundings::default()), [CauseKind::InterruptMasked]);
        seen.vcpus[0].takes_interrupts = false;
        assert_eq!(kinds(&seen, Surroundings::default()), [CauseKind::InterruptsOff]);
        seen.vcpus[0] = VcpuSeen { doing: Doing::Runs, accesses: 9, ..halted(true) };
        assert_eq!(kinds(&seen, Surroundings::default()), [CauseKind::Busy]);
        seen.vcpus[0].accesses = 0;
        assert_eq!(kinds(&seen, Surroundings::default()), [CauseKind::InterruptMasked]);
        seen.interrupts.clear();
        assert_eq!(kinds(&seen, Surroundings::default()), [CauseKind::Spins]);
    }

    #[test]
    fn what_the_kernel_says_of_its_root_disk_is_believed_while_it_is_the_last_it_says() {
        let says = |lines: &[&str]| kinds(&seen(), printed(lines));
        let waiting = "[    1.9] Waiting for root device /dev/vda...";
        assert_eq!(says(&[waiting]), [CauseKind::RootDisk]);
        assert_eq!(says(&["Begin: Waiting for root file system ... "]), [CauseKind::RootDisk]);
        let alert = "ALERT!  /dev/vda1 does not exist.  Dropping to a shell!";
        assert_eq!(says(&[alert, "(initramfs) "]), [CauseKind::RootDisk]);
        assert_eq!(says(&["login: "]), [CauseKind::Idle]);
        let tail = format!("{waiting}\r\n{}", "line\n".repeat(LINES_MAX));
        assert_eq!(last_lines(tail.as_bytes()), ["line"; LINES_MAX], "it went on");
        let told = why(&seen(), printed(&[waiting])).causes[0].text.clone();
        let wanted = "its kernel waits for its root file system: \"[    1.9] Waiting for root device \
                      /dev/vda...\"; it has no disk";
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_loop_is_several_resets_in_a_short_time() {
        let ago = |seconds: &[u64]| Observation {
            resets: Resets {
                count: 12,
                ago: seconds.iter().map(|ago| Duration::from_secs(*ago)).collect(),
                cause: Some("a triple fault".to_owned()),
            },
            ..seen()
        };
        let looping = why(&ago(&[1, 3, 5, 7]), Surroundings::default());
        assert_eq!(looping.causes[0].kind, CauseKind::BootLoop);
        let wanted = "it boots in a loop: it was reset 12 times so far, the last 3 times within 5.0 s, \
                      the last time by a triple fault";
        assert_eq!(looping.causes[0].text, wanted);
        assert_eq!(kinds(&ago(&[1, 3]), Surroundings::default()), [CauseKind::Idle]);
        assert_eq!(kinds(&ago(&[1, 3, 300]), Surroundings::default()), [CauseKind::Idle]);
    }

    #[test]
    fn text_of_the_guest_does_nothing_to_a_terminal() {
        assert_eq!(last_lines(b"a\x1b[2Jb\r\n\n \xff\n"), ["a[2Jb", " \u{fffd}"]);
    }
}
