//! The command and its console as a user meets them: with and without a terminal.

mod support;

use rustix::process::Signal;
use rustix::termios::{InputModes, LocalModes, OutputModes};
use support::{Pty, TRAPLINE, example, shell_status, trapline};

/// Arguments that are wrong, each with the beginning of what is said about it.
const MISTAKES: [(&[&str], &str); 8] = [
    (&["run", "--kernel", "_NO_FILE_4Uhere_"], "Fatal: Unable to open kernel _NO_FILE_4Uhere_"),
    (&["run", "-k", "/"], "Fatal: Unable to open kernel /: it is a directory"),
    (&["run", "-k", TRAPLINE, "-i", "/no/initrd"], "Fatal: Unable to open initrd /no/initrd"),
    (&["run", "-m", "0"], "Fatal: -m 0: a guest needs memory"),
    (&["run", "-c", "-1"], "Fatal: -c -1: not a number of CPUs"),
    (
        &["run", "--vsock", "3"],
        "Fatal: --vsock 3: socket=PATH is missing, by which the host's programs get to the guest",
    ),
    (&["run", "--no-such-option"], "Fatal: --no-such-option: no such option"),
    (
        &["sandbox", "-c", "1"],
        "Fatal: trapline sandbox: a script is missing, or a command behind --",
    ),
];

fn echo() -> std::path::PathBuf {
    example("echo_console")
}

#[test]
fn a_terminal_that_has_another_size_is_noticed() {
    let pty = Pty::new();
    pty.resize(80, 25);
    let mut console = pty.spawn(echo(), &[]);
    console.expect("ready\r");
    pty.resize(132, 50);
    console.expect("size Some((132, 50))");
}

#[test]
fn help_and_version_go_to_standard_output() {
    for args in [&["--help"][..], &[], &["help"]] {
        let (status, out, err) = trapline(args);
        assert_eq!((status, err.as_str()), (0, ""));
        assert!(out.contains("The most commonly used"), "{out}");
    }
    let (status, out, _) = trapline(&["version"]);
    assert_eq!((status, out.lines().count()), (0, 1));
}

#[test]
fn a_mistake_is_one_line_and_exit_status_1() {
    for (args, said) in MISTAKES {
        let (status, out, err) = trapline(args);
        assert_eq!((status, out.as_str()), (1, ""), "{args:?}");
        assert!(err.starts_with(said), "{args:?}: {err}");
        assert_eq!(err.matches('\n').count(), 1, "{err}");
    }
}

#[test]
fn a_mistake_is_one_line_on_a_terminal_too_and_leaves_it_alone() {
    let pty = Pty::new();
    let before = pty.settings();
    for (args, said) in MISTAKES {
        let backtrace = |command: &mut std::process::Command| {
            command.env("RUST_BACKTRACE", "1");
        };
        let (status, screen) = pty.spawn_with(TRAPLINE, args, backtrace).wait();
        assert_eq!(shell_status(status), 1, "{screen}");
        assert!(screen.starts_with(said), "{args:?}: {screen}");
        assert_eq!(screen.matches("\r\n").count(), 1, "{screen}");
        assert_eq!(pty.settings(), before);
    }
}

#[test]
fn a_raw_terminal_hands_over_every_key_and_keeps_its_output_flags() {
    let pty = Pty::new();
    let before = pty.termios();
    let mut console = pty.spawn(echo(), &[]);
    console.expect("ready\r");
    let raw = pty.termios();
    assert!(!raw.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    assert!(!raw.input_modes.intersects(InputModes::ICRNL | InputModes::IXON));
    assert!(raw.output_modes.contains(OutputModes::OPOST));
    assert_eq!(raw.output_modes, before.output_modes);
    // Ctrl-c, Ctrl-\, Ctrl-z, Ctrl-s, Ctrl-q, Ctrl-v, Ctrl-d: keys of the guest's.
    console.send(b"<\x03\x1c\x1a\x13\x11\x16\x04\r>");
    console.expect("<\x03\x1c\x1a\x13\x11\x16\x04\r>");
}

#[test]
fn ctrl_a_x_ends_the_run_after_its_last_output_and_restores_the_terminal() {
    let pty = Pty::new();
    let before = pty.settings();
    let mut console = pty.spawn(echo(), &[]);
    console.expect("ready");
    assert_ne!(pty.settings(), before);
    console.send(b"typed\x01x");
    console.expect("typed");
    let (status, screen) = console.wait();
    assert_eq!(shell_status(status), 0);
    assert!(screen.contains("last words"), "{screen}");
    assert_eq!(pty.settings(), before);
}

#[test]
fn ctrl_a_h_s_and_p_do_something_and_the_run_goes_on() {
    let pty = Pty::new();
    let mut console = pty.spawn(echo(), &[]);
    console.expect("ready");
    console.send(b"\x01h");
    console.expect("Ctrl-a x  end the guest");
    console.send(b"\x01s");
    console.expect("statistics");
    console.send(b"\x01p");
    console.expect("paused");
    console.send(b"on\x01\x01it goes");
    console.expect("on\x01it goes");
}

#[test]
fn every_end_restores_the_terminal() {
    for (mode, said, wanted) in
        [("fail", "Fatal: the loopback failed", 1), ("panic", "Fatal: bug", 101)]
    {
        let pty = Pty::new();
        let before = pty.settings();
        let mut console = pty.spawn(echo(), &[mode]);
        console.expect("ready");
        console.send(b"!");
        console.expect(said);
        let (status, _) = console.wait();
        assert_eq!(shell_status(status), wanted, "{mode}");
        assert_eq!(pty.settings(), before, "{mode}");
    }
}

#[test]
fn signals_that_end_a_process_end_the_run_and_restore_the_terminal() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let pty = Pty::new();
        let before = pty.settings();
        let mut console = pty.spawn(echo(), &[]);
        console.expect("ready");
        console.signal(signal);
        let (status, _) = console.wait();
        assert_eq!(shell_status(status), 128 + signal.as_raw());
        assert_eq!(pty.settings(), before, "{signal:?}");
    }
}

#[test]
fn a_stopped_run_lends_the_terminal_to_the_shell() {
    let pty = Pty::new();
    let before = pty.settings();
    let mut console = pty.spawn(echo(), &[]);
    console.expect("ready");
    let raw = pty.settings();
    console.signal(Signal::TSTP);
    console.until_state('T');
    assert_eq!(pty.settings(), before);
    console.signal(Signal::CONT);
    console.until_settings(&raw);
    console.send(b"back");
    console.expect("back");
    console.send(b"\x01x");
    console.wait();
    assert_eq!(pty.settings(), before);
}

#[test]
fn a_pipe_for_output_leaves_input_raw_and_a_closed_one_ends_the_run() {
    let pty = Pty::new();
    let before = pty.settings();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let console = pty.spawn_with(echo(), &[], |command| {
        command.stdout(writer);
    });
    let mut ready = [0; 7];
    std::io::Read::read_exact(&mut reader, &mut ready).unwrap();
    assert_eq!(&ready, b"ready\r\n");
    assert_ne!(pty.settings(), before);
    drop(reader);
    let mut console = console;
    // A child that another test is just starting may have the pipe open for a moment.
    console.send_until(b"a", "Fatal: cannot write the output: Broken pipe");
    let (status, _) = console.wait();
    assert_eq!(shell_status(status), 1);
    assert_eq!(pty.settings(), before);
}

#[test]
fn commands_work_from_a_pipe_and_a_terminal_that_only_shows_stays_as_it_is() {
    let pty = Pty::new();
    let before = pty.settings();
    let (reader, mut keyboard) = std::io::pipe().unwrap();
    let mut console = pty.spawn_shown(echo(), &[], reader);
    console.expect("ready");
    assert_eq!(pty.settings(), before);
    std::io::Write::write_all(&mut keyboard, b"piped\x01x").unwrap();
    console.expect("piped");
    assert_eq!(shell_status(console.wait().0), 0);
}
