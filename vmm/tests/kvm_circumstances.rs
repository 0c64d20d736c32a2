//! The command wherever scripts and shells start it: in the background, under other commands, with
//! streams that are closed, full or broken, and with signals ignored.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod support;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::guest::{Guest, finish, off, run};
use support::{Pty, Running, TRAPLINE, shell_status};
use trapline_testkit::realmode::{Asm, LSR_DATA_READY, UART, UART_LSR};
use trapline_testkit::skip;

/// Says something and switches itself off.
fn greeter() -> Guest {
    Guest::new(&Asm::new().print(b"hello\n").then(&off()).spin())
}

/// Says that it is there and sends back what is typed.
fn echo() -> Guest {
    let key = Asm::new().wait_for(UART_LSR, LSR_DATA_READY).inb(UART).send_al();
    Guest::new(&Asm::new().print(b"ready").forever(key))
}

/// Whether `program` is there to be run.
fn has(program: &str) -> bool {
    let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    there.is_ok_and(|output| output.status.success())
}

/// Opens a pipe as 4 whose reader has gone.
macro_rules! broken {
    () => {
        r#"mkfifo "$OUT.pipe"; exec 3<>"$OUT.pipe"; exec 4>"$OUT.pipe" 3<&-; "#
    };
}

/// Around the command `"$@"`, scripts that say what its status was, and what that is.
const CIRCUMSTANCES: [(&str, &str, i32); 29] = [
    ("in front", r#""$@""#, 0),
    ("under timeout", r#"timeout 20 "$@""#, 0),
    ("under timeout in front", r#"timeout --foreground 20 "$@""#, 0),
    ("under nohup", r#"nohup "$@" >/dev/null"#, 0),
    ("in a session of its own", r#"setsid --wait "$@""#, 0),
    ("under script", r#"script -qec "$*" /dev/null"#, 0),
    ("in the background", r#""$@" & wait $!"#, 0),
    ("in the background of job control", r#"set -m; "$@" & wait $!"#, 0),
    ("with the terminal in the background", r#"exec 3<&0; "$@" <&3 & wait $!"#, 0),
    ("before a pipe", r#"s=$({ { "$@"; echo $? >&3; } | cat >/dev/null; } 3>&1); (exit "$s")"#, 0),
    ("behind a pipe", r#"echo typed | "$@""#, 0),
    ("as an orphan", r#"(exec 3<&0; set -m; "$@" <&3 & wait $!)"#, 0),
    ("without input", r#""$@" <&-"#, 0),
    ("without output", r#""$@" >&-"#, 0),
    ("without errors", r#""$@" 2>&-"#, 0),
    ("without anything", r#""$@" <&- >&- 2>&-"#, 0),
    ("with its output full", r#""$@" >/dev/full"#, 1),
    ("with its errors full", r#""$@" 2>/dev/full"#, 0),
    ("with both full", r#""$@" >/dev/full 2>/dev/full"#, 1),
    ("with its output broken", concat!(broken!(), r#""$@" >&4 4>&-"#), 1),
    ("with its errors broken", concat!(broken!(), r#""$@" 2>&4 4>&-"#), 0),
    ("with both broken", concat!(broken!(), r#""$@" >&4 2>&4 4>&-"#), 1),
    ("with nothing to read", r#""$@" </"#, 0),
    ("with input that ends", r#""$@" </dev/null"#, 0),
    ("with input that does not end", r#""$@" </dev/zero"#, 0),
    ("with input to be written to", r#""$@" 0>/dev/null"#, 0),
    ("with files that may not grow", r#"(ulimit -f 0; "$@" >"$OUT")"#, 1),
    ("with errors that may not grow", r#"(ulimit -f 0; "$@" 2>"$OUT")"#, 0),
    (
        "with all ignored",
        r#"trap "" HUP INT QUIT TERM USR1 USR2 ALRM PIPE TSTP TTIN TTOU CONT CHLD XFSZ; "$@""#,
        0,
    ),
];

#[test]
fn it_runs_and_ends_in_every_circumstance_and_leaves_the_terminal_as_it_was() {
    for (what, script, wanted) in CIRCUMSTANCES {
        let tool =
            ["timeout", "nohup", "setsid", "script"].into_iter().find(|t| script.starts_with(t));
        if let Some(tool) = tool.filter(|tool| !has(tool)) {
            skip(&format!("kvm_circumstances {what}"), &format!("{tool} is missing"));
            continue;
        }
        let pty = Pty::new();
        let before = pty.settings();
        let guest = greeter();
        let out = guest.file("out", b"").display().to_string();
        let script = format!("OUT='{out}'; {script}; echo \"status $?.\"");
        let mut console = guest.start_script(&pty, &script);
        let status = format!("status {wanted}");
        let screen = console.expect(&status);
        console.wait();
        assert_eq!(pty.settings(), before, "{what}: {screen}");
        assert!(!screen.contains("bug"), "{what}: {screen}");
    }
}

/// Pipes that are full, and that say so or block.
#[test]
fn a_message_that_nobody_takes_does_not_end_the_run_or_hold_it_up() {
    for nonblocking in [false, true] {
        let (_reader, mut writer) = std::io::pipe().unwrap();
        let size = rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
        writer.write_all(&vec![b'x'; size]).unwrap();
        if nonblocking {
            rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        }
        let guest = greeter();
        let child = guest.command().stdout(Stdio::piped()).stderr(writer).spawn().unwrap();
        let ended = finish(child).expect_status(0);
        assert_eq!(ended.out, b"hello\n", "{nonblocking}");
    }
}

#[test]
fn help_that_cannot_be_written_is_an_error() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for args in [&["--help"][..], &["run", "--help"], &["version"]] {
        let child = Command::new(TRAPLINE).args(args).stdout(full()).stderr(Stdio::piped()).spawn();
        let ended = finish(child.unwrap()).expect_status(1);
        assert_eq!(
            ended.err, "Fatal: cannot write to standard output: No space left on device\n",
            "{args:?}"
        );
    }
}

/// The settings of the terminal do not change before it is brought to the front, and what is typed
/// goes to the shell.
#[test]
fn in_the_background_it_leaves_the_terminal_alone_until_it_is_brought_to_the_front() {
    let pty = Pty::new();
    let before = pty.settings();
    let script = r#"set -m; "$@" & read -r line; echo "read <$line>"; fg; echo "status $?.""#;
    let guest = echo();
    let mut console = guest.start_script(&pty, script);
    console.expect("ready");
    assert_eq!(pty.settings(), before);
    console.send(b"for the shell\r");
    console.expect("read <for the shell>");
    until_raw(&pty);
    console.send(b"for the guest");
    console.expect("for the guest");
    console.send(b"\x01x");
    console.expect("status 0.");
    console.wait();
    assert_eq!(pty.settings(), before);
}

#[test]
fn stopped_it_goes_on_in_the_background_and_in_front_again() {
    let pty = Pty::new();
    let before = pty.settings();
    let script = r#"set -m; "$@"; echo "stopped $?."; bg; read -r line; echo "read <$line>"; fg
        echo "status $?.""#;
    let guest = echo();
    let mut console = guest.start_script(&pty, script);
    console.expect("ready");
    until_raw(&pty);
    let group = pty.foreground();
    kill_process(group, Signal::TSTP).unwrap();
    console.expect("stopped 147.");
    assert_eq!(pty.settings(), before);
    console.send(b"for the shell\r");
    console.expect("read <for the shell>");
    until_raw(&pty);
    console.send(b"for the guest");
    console.expect("for the guest");
    kill_process(group, Signal::TERM).unwrap();
    console.expect("status 143.");
    console.wait();
    assert_eq!(pty.settings(), before);
}

#[test]
fn timeout_ends_it_in_the_background_and_in_front() {
    for script in [r#"timeout 1 "$@""#, r#"timeout --foreground 1 "$@""#] {
        let pty = Pty::new();
        let before = pty.settings();
        let guest = echo();
        let mut console = guest.start_script(&pty, &format!("{script}; echo \"status $?.\""));
        console.expect("status 124.");
        console.wait();
        assert_eq!(pty.settings(), before, "{script}");
    }
}

/// Each of these ends a process that does nothing about it.
const ENDING: [(&str, Signal); 16] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("TERM", Signal::TERM),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("ALRM", Signal::ALARM),
    ("ABRT", Signal::ABORT),
    ("TRAP", Signal::TRAP),
    ("STKFLT", Signal::STKFLT),
    ("XCPU", Signal::XCPU),
    ("VTALRM", Signal::VTALARM),
    ("PROF", Signal::PROF),
    ("IO", Signal::IO),
    ("PWR", Signal::POWER),
    ("SYS", Signal::SYS),
];

#[test]
fn a_signal_ends_the_run_unless_it_was_ignored_from_the_start() {
    for (at, (name, signal)) in ENDING.into_iter().enumerate() {
        for ignored in [false, true] {
            let pty = Pty::new();
            let before = pty.settings();
            let number = signal.as_raw();
            let trap = if ignored { format!("trap '' {number}; ") } else { String::new() };
            let guest = echo();
            let mut console = guest.start_script(&pty, &format!(r#"{trap}exec "$@""#));
            console.expect("ready");
            until_raw(&pty);
            console.signal(signal);
            let mut ends = signal;
            if ignored {
                // It is not even pending: it was thrown away when it was sent.
                assert!(mask(&console, "SigIgn") & bit(signal) != 0, "{name}");
                console.send(b"still here");
                console.expect("still here");
                ends = ENDING[(at + 1) % ENDING.len()].1;
                console.signal(ends);
            }
            let (status, screen) = console.wait();
            assert_eq!(shell_status(status), 128 + ends.as_raw(), "{name} {ignored}: {screen}");
            assert_eq!(pty.settings(), before, "{name} {ignored}");
        }
    }
}

/// Nothing of the process is left that could restore the terminal.
const KILLING: [Signal; 5] = [Signal::KILL, Signal::SEGV, Signal::BUS, Signal::ILL, Signal::FPE];

#[test]
fn the_terminal_is_given_back_when_the_process_is_killed() {
    for signal in KILLING {
        // By itself, and with the rest of its job.
        for whole_job in [false, true] {
            let pty = Pty::new();
            let before = pty.settings();
            let guest = echo();
            let script = r#"set -m; "$@"; echo "status $?."; read -r line; echo "read <$line>""#;
            let mut console = guest.start_script(&pty, script);
            console.expect("ready");
            until_raw(&pty);
            let job = pty.foreground();
            // Rust's own handler of SIGSEGV and SIGBUS takes the first that is no fault.
            support::until("it is killed", || {
                let _ = match whole_job {
                    true => rustix::process::kill_process_group(job, signal),
                    false => kill_process(job, signal),
                };
                !is_there(job)
            });
            console.expect(&format!("status {}.", 128 + signal.as_raw()));
            console.until_settings(&before);
            console.send(b"for the shell\r");
            console.expect("read <for the shell>");
            console.wait();
            assert_eq!(pty.settings(), before, "{signal:?} {whole_job}");
        }
    }
}

/// The one that waits for our death is there while the terminal is raw, and gone with us.
#[test]
fn the_process_that_guards_the_terminal_ends_with_the_run() {
    let pty = Pty::new();
    let before = pty.settings();
    let guest = echo();
    let mut console = start_ready(&guest, &pty);
    let guardian = guardian_of(console.pid());
    // Whoever ends a service ends all of its processes, and may kill what is left of it.
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::TSTP] {
        kill_process(guardian, signal).unwrap();
    }
    console.send(b"on");
    console.expect("on");
    assert_eq!(find_guardian(console.pid()), Some(guardian));
    console.signal(Signal::KILL);
    console.until_settings(&before);
    support::until("it is gone", || !is_there(guardian));
    console.wait();

    // Killed itself, it is missed the next time, which is in time.
    let mut console = start_ready(&guest, &pty);
    let first = guardian_of(console.pid());
    kill_process(first, Signal::KILL).unwrap();
    support::until("it is dead", || !is_there(first));
    console.signal(Signal::TSTP);
    console.until_state('T');
    assert_eq!(pty.settings(), before);
    console.signal(Signal::CONT);
    until_raw(&pty);
    let second = guardian_of(console.pid());
    assert_ne!(first, second);
    console.send(b"\x01x");
    console.wait();
    support::until("it is gone", || !is_there(second));
    assert_eq!(pty.settings(), before);
}

/// What was given back is somebody else's.
#[test]
fn settings_made_while_it_is_stopped_stay_when_it_is_killed() {
    let pty = Pty::new();
    let guest = echo();
    let console = start_ready(&guest, &pty);
    let guardian = guardian_of(console.pid());
    // As raw as we make it.
    let (raw, set) = (pty.termios(), pty.settings());
    console.signal(Signal::TSTP);
    console.until_state('T');
    pty.set(&raw);
    console.signal(Signal::KILL);
    console.wait();
    support::until("the guardian is gone", || !is_there(guardian));
    assert_eq!(pty.settings(), set);
}

/// The child that guards the terminal of `pid`.
fn guardian_of(pid: Pid) -> Pid {
    let mut found = None;
    support::until("there is a guardian", || {
        found = find_guardian(pid);
        found.is_some()
    });
    found.unwrap()
}

fn find_guardian(pid: Pid) -> Option<Pid> {
    let parent_and_name = |process: Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let (before, after) = stat.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let mut words = after.split_whitespace();
        let state = words.next()?;
        Some((words.next()?.parse::<i32>().ok()?, name)).filter(|_| state != "Z")
    };
    let wanted = Some((pid.as_raw_nonzero().get(), "trapline-term".to_owned()));
    support::processes().find(|process| parent_and_name(*process) == wanted)
}

/// Whether it runs: not a zombie that nobody has waited for yet, either.
fn is_there(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// A background job of a shell without job control survives Ctrl-c and Ctrl-\.
#[test]
fn the_keys_of_the_terminal_do_not_end_a_background_job() {
    let pty = Pty::new();
    let script = r#"trap 'echo interrupted' INT; trap 'echo told to quit' QUIT
        "$@" & echo "pid $!."; until read -r line; do :; done
        kill $!; wait $!; echo "status $?.""#;
    let guest = echo();
    let mut console = guest.start_script(&pty, script);
    let pid = pid_after(&mut console, "pid ");
    console.expect("ready");
    console.send(b"\x03");
    console.expect("interrupted");
    console.send(b"\x1c");
    console.expect("told to quit");
    // It is there to be signalled.
    kill_process(pid, Signal::CONT).unwrap();
    console.send(b"\r");
    console.expect("status 143.");
}

/// The second finds the terminal as the first has made it.
#[test]
fn two_machines_on_one_terminal_leave_it_as_the_first_found_it() {
    for first_ends_first in [true, false] {
        let pty = Pty::new();
        let before = pty.settings();
        let script = r#"exec 3<&0; "$@" <&3 & a=$!
            until stty -a | grep -q -- -icanon; do :; done
            "$@" <&3 & echo "first $a. second $!."; wait $a; wait $!
            read -r line; echo "read <$line>""#;
        let guest = echo();
        let mut console = guest.start_script(&pty, script);
        let seen = console.expect("second ") + &console.expect(".");
        let number = |after: &str| {
            let text = seen.split_once(after).unwrap().1;
            Pid::from_raw(text.split_once('.').unwrap().0.parse().unwrap()).unwrap()
        };
        let [first, second] = ["first ", "second "].map(number);
        for _ in seen.matches("ready").count()..2 {
            console.expect("ready");
        }
        until_raw(&pty);
        let order = if first_ends_first { [first, second] } else { [second, first] };
        for pid in order {
            kill_process(pid, Signal::TERM).unwrap();
            support::until("it has ended", || !is_there(pid));
        }
        console.send(b"for the shell\r");
        console.expect("read <for the shell>");
        console.wait();
        assert_eq!(pty.settings(), before, "{first_ends_first}");
    }
}

/// As `stty` in another window, or another machine that has ended.
#[test]
fn settings_that_somebody_else_makes_meanwhile_stay() {
    let pty = Pty::new();
    let mut others = pty.termios();
    others.special_codes[rustix::termios::SpecialCodeIndex::VERASE] = 8;
    let guest = echo();
    let console = start_ready(&guest, &pty);
    pty.set(&others);
    let set = pty.settings();
    console.signal(Signal::TERM);
    console.wait();
    assert_eq!(pty.settings(), set);
}

/// Everything goes to one file in its order.
#[test]
fn the_last_line_comes_after_the_guests_output() {
    let text: Vec<u8> = (0..400u32).flat_map(|n| format!("{n:07}\n").into_bytes()).collect();
    let program = Asm::new().print(&text).print(b"no end").then(&off()).spin();
    let guest = Guest::new(&program).with(&["--no-coalesce"]);
    for _ in 0..5 {
        let path = guest.file("both", b"");
        let file = || OwnedFd::from(std::fs::File::options().append(true).open(&path).unwrap());
        let child = guest.command().stdout(file()).stderr(file()).spawn().unwrap();
        finish(child).expect_status(0);
        let seen = std::fs::read_to_string(&path).unwrap();
        let end = "no end\n  # KVM session ended normally.\n";
        assert!(seen.ends_with(end), "{seen}");
    }
    for (level, lines) in [("info", 3), ("warning", 0), ("error", 0)] {
        let ended = greeter().with(&["--loglevel", level]).run().expect_status(0);
        assert_eq!(ended.err.lines().count(), lines, "{level}: {}", ended.err);
    }
}

/// A guest with an exit port says odd numbers only.
#[test]
fn a_failure_is_no_status_of_the_guests() {
    let failing = |options: &[&str]| finish(trapline(options)).expect_status(2).err;
    for option in ["--testdev", "--exit-port", "--test", "--exit"] {
        assert!(failing(&["run", option, "-k", "/no/such"]).starts_with("Fatal: Unable to open"));
        assert!(failing(&["run", option, "--frobnicate"]).contains("no such option"));
    }
    let crash = Asm::new().bytes(&[0xea, 0xf0, 0xff, 0xff, 0xff]);
    let ended = Guest::new(&crash).with(&["-m", "1", "--exit-port"]).run();
    assert!(ended.expect_status(2).err.contains("Fatal: the guest cannot go on"));
    let passed = Guest::new(&Asm::new().exit(0)).with(&["--exit-port", "--loglevel=error"]).run();
    assert_eq!(passed.expect_status(1).err, "");
}

fn trapline(args: &[&str]) -> std::process::Child {
    let mut command = Command::new(TRAPLINE);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Starts [`echo`] on a terminal and waits until it is there.
fn start_ready<'a>(guest: &Guest, pty: &'a Pty) -> Running<'a> {
    let mut console = guest.start_in(pty);
    console.expect("ready");
    until_raw(pty);
    console
}

/// Waits until the terminal hands over every key.
fn until_raw(pty: &Pty) {
    let line = rustix::termios::LocalModes::ICANON | rustix::termios::LocalModes::ISIG;
    support::until("the terminal is raw", || !pty.termios().local_modes.intersects(line));
}

/// The number that follows `text`, up to a full stop.
fn pid_after(console: &mut Running<'_>, text: &str) -> Pid {
    console.expect(text);
    let number = console.expect(".");
    Pid::from_raw(number.trim_end_matches('.').trim().parse().unwrap()).unwrap()
}

/// A mask of signals in `/proc/PID/status`.
fn mask(console: &Running<'_>, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", console.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap()
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

/// A test that fails must not leave its guest behind, as others would run beside it.
#[test]
fn what_a_test_has_started_goes_with_it_wherever_it_is() {
    let pty = Pty::new();
    let script = r#"trap '' HUP; (setsid sh -c 'echo "pid $$."; exec sleep 1000' &); read -r line"#;
    let mut console = pty.spawn("sh", &["-c", script]);
    let orphan = pid_after(&mut console, "pid ");
    assert!(is_there(orphan));
    drop(console);
    assert!(!is_there(orphan));
}

#[test]
fn sockets_of_devices_go_with_the_machine_whatever_bus_they_are_on() {
    for transport in ["pci", "pci-legacy", "mmio", "mmio-legacy"] {
        let folder = tempfile::tempdir().unwrap();
        let socket = |name: &str| folder.path().join(name).display().to_string();
        let port = format!("--virtio-port=name=a,socket={}", socket("port"));
        let vsock = format!("--vsock=3,socket={}", socket("vsock"));
        let is_legacy = transport.ends_with("legacy");
        let options = ["--virtio-transport", transport, &port, &vsock];
        let given = if is_legacy { &options[..3] } else { &options };
        run(&off(), given).expect_status(0);
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 0, "{transport}");
    }
}
