//! A guest's console through the serial port: out, in, and the keys that are ours.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use support::guest::{Guest, finish, run};
use support::{Owned, Pty, Running, TRAPLINE, shell_status, until};
use trapline_testkit::realmode::{Asm, LSR_DATA_READY, LSR_EMPTY, UART, UART_LSR};

/// Lines of numbers, `len` bytes, each place different from the others.
fn numbers(len: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|n: u32| format!("{n:07}\n").into_bytes());
    lines.take(len).collect()
}

/// Sends `text`, which is in the program, three times in bursts of 16, as a driver with the FIFOs on
/// does.
fn burst(text: &[u8]) -> Asm {
    assert!(text.len().is_multiple_of(16));
    let (asm, at, len) = Asm::new().mov_ds(0xf000).outb(UART + 2, 0x07).embed(text);
    let wait = Asm::new().wait_for(UART_LSR, LSR_EMPTY);
    // push cx; ...; pop cx around the string instruction's own use of CX
    let send = wait.bytes(&[0x51]).mov_cx(16).mov_dx(UART).rep_outsb().bytes(&[0x59]);
    (0..3).fold(asm, |asm, _| asm.mov_si(at).repeat(len / 16, send.clone()))
}

/// Says that it is there and sends back what is typed.
fn echo() -> Guest {
    let key = Asm::new().wait_for(UART_LSR, LSR_DATA_READY).inb(UART).send_al();
    let program = Asm::new().print(b"ready").forever(key);
    Guest::new(&program)
}

fn start_echo(pty: &Pty) -> Running<'_> {
    let guest = echo();
    let mut console = guest.start_in(pty);
    console.expect("ready");
    console
}

#[test]
fn every_byte_comes_out_with_and_without_coalescing() {
    let all: Vec<u8> = (0..=255).collect();
    for text in [b"Hello, world\r\n".to_vec(), all, numbers(10 << 10)] {
        for options in [&["--exit-port"][..], &["--exit-port", "--no-coalesce"]] {
            let ended = run(&Asm::new().print(&text).exit(0), options).expect_status(1);
            assert!(ended.out == text, "{} bytes {options:?}", ended.out.len());
        }
    }
}

/// More than a pipe and our own queue hold, so that the guest itself has to wait for the reader: nobody
/// reads before it has looked for room more often than it would have to for all of it.
#[test]
fn a_guest_faster_than_its_reader_loses_nothing() {
    let text = numbers(60 << 10);
    let program = burst(&text).print(b"end").exit(0);
    let runtime = tempfile::tempdir().unwrap();
    let guest = Guest::new(&program).with(&["--exit-port", "--name", "fast"]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&reader, 4096).unwrap();
    let mut command = guest.command();
    command.env("XDG_RUNTIME_DIR", runtime.path()).stdout(writer).stderr(Stdio::piped());
    let child: Owned = command.spawn().unwrap().into();
    drop(command);
    let would_find_room = text.len().div_ceil(16) * 3 + b"end".len();
    until("the guest has to wait", || looked(runtime.path()) > would_find_room as u64);
    let mut seen = Vec::new();
    reader.read_to_end(&mut seen).unwrap();
    finish(child).expect_status(1);
    assert!(seen == [text.repeat(3), b"end".to_vec()].concat(), "{} bytes", seen.len());
}

/// How often the only guest of this user has read its serial port's line status; 0 before there is one.
fn looked(runtime: &Path) -> u64 {
    let mut stat = Command::new(TRAPLINE);
    stat.args(["stat", "--all", "--json"]).env("XDG_RUNTIME_DIR", runtime).stdin(Stdio::null());
    let said = stat.output().map(|output| output.stdout).unwrap_or_default();
    let told: Value = serde_json::from_slice(&said).unwrap_or_default();
    let rows = told.get("registers").and_then(Value::as_array).into_iter().flatten();
    let mut lsr = rows.filter(|row| row.get("register").is_some_and(|name| name == "LSR"));
    lsr.next().and_then(|row| row.get("reads")?.as_u64()).unwrap_or(0)
}

#[test]
fn typed_text_comes_back_and_ctrl_a_x_leaves_the_terminal_as_it_was() {
    let pty = Pty::new();
    let before = pty.settings();
    let mut console = start_echo(&pty);
    assert_ne!(pty.settings(), before);
    console.send(b"typed\r\x03\x1a");
    console.expect("typed\r\x03\x1a");
    console.send(b"\x01x");
    let (status, screen) = console.wait();
    assert_eq!(shell_status(status), 0, "{screen}");
    assert!(screen.contains("# KVM session terminated."), "{screen}");
    assert_eq!(pty.settings(), before);
}

#[test]
fn a_long_paste_comes_back_whole() {
    let pty = Pty::new();
    let mut console = start_echo(&pty);
    let text = String::from_utf8(numbers(2048)).unwrap().replace('\n', "|");
    console.send(text.as_bytes());
    assert_eq!(console.expect(&text), text);
}

#[test]
fn ctrl_a_shows_help_and_statistics_and_sends_itself_and_the_guest_goes_on() {
    let pty = Pty::new();
    let mut console = start_echo(&pty);
    console.send(b"\x01h");
    console.expect("Ctrl-a x  end the guest");
    console.send(b"ab\x01s");
    let shown = console.expect(" share");
    assert!(shown.contains("exits: total ") && shown.contains("resets 0"), "{shown}");
    console.expect("serial0/uart");
    console.send(b"<\x01a\x01\x01>");
    console.expect("<\x01\x01>");
    console.send(b"\x01qquit");
    console.expect("quit");
}

#[test]
fn ctrl_a_p_pauses_the_guest_which_hears_later_what_was_typed_meanwhile() {
    let pty = Pty::new();
    let before = pty.settings();
    let mut console = start_echo(&pty);
    console.send(b"\x01p");
    console.expect("# The guest is paused; Ctrl-a p lets it go on.");
    console.send(b"meanwhile!\x01s");
    let shown = console.expect(" share");
    assert!(!shown.contains("meanwhile"), "a paused guest said something: {shown}");
    console.send(b"\x01p");
    // The guest may have said some of it by the time that we say that it goes on.
    let heard = console.expect("!").replace("\r\n  # The guest goes on.\r\n", "");
    assert!(heard.ends_with("meanwhile!"), "{heard}");
    console.send(b"\x01p");
    console.expect("# The guest is paused");
    console.send(b"\x01x");
    let (status, screen) = console.wait();
    assert_eq!(shell_status(status), 0, "{screen}");
    assert!(screen.contains("# The guest was paused 2 times, for "), "{screen}");
    assert!(screen.contains("# KVM session terminated."), "{screen}");
    assert_eq!(pty.settings(), before);
}

#[test]
fn a_signal_ends_the_run_with_its_number_and_restores_the_terminal() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let pty = Pty::new();
        let before = pty.settings();
        let console = start_echo(&pty);
        console.signal(signal);
        let (status, screen) = console.wait();
        assert_eq!(shell_status(status), 128 + signal.as_raw(), "{screen}");
        assert_eq!(pty.settings(), before, "{signal:?}");
    }
}

/// A guest that never exits to us is stopped like any other.
#[test]
fn a_signal_ends_a_guest_that_spins() {
    let pty = Pty::new();
    let before = pty.settings();
    let guest = Guest::new(&Asm::new().print(b"ready").spin());
    let mut console = guest.start_in(&pty);
    console.expect("ready");
    console.signal(Signal::TERM);
    let (status, screen) = console.wait();
    assert_eq!(shell_status(status), 143, "{screen}");
    assert_eq!(pty.settings(), before);
}

/// As `trapline run ... | head -1`.
#[test]
fn a_reader_that_goes_away_ends_the_run_with_a_sentence() {
    let line = Asm::new().mov_al(b'y').send_al().mov_al(b'\n').send_al();
    let guest = Guest::new(&Asm::new().forever(line)).with(&["--loglevel", "warning"]);
    let mut child = guest.start();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "y\n");
    let ended = finish(child).expect_status(1);
    let said = ended.err.trim();
    assert_eq!(said, "Fatal: cannot write the guest's output: Broken pipe");
}

/// With nobody to type, and an end of the input, the guest just runs.
#[test]
fn an_input_that_ends_does_not_end_the_guest() {
    let guest = echo();
    let mut child = guest.start();
    let mut ready = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let stat = format!("/proc/{}/stat", child.id());
    until("the guest has run for a while", || {
        let text = std::fs::read_to_string(&stat).unwrap();
        let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
        // User and system time, in ticks.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap() > 20
    });
    assert!(child.try_wait().unwrap().is_none());
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    finish(child).expect_status(143);
}
