//! `trapline top` on a terminal, as its user sees it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod support;

use std::process::Stdio;
use std::time::Instant;

use rustix::process::{Signal, kill_process};
use support::guest::finish;
use support::{Owned, PATIENCE, Pty, Running, TRAPLINE, shell_status};
use tempfile::TempDir;
use trapline_testkit::realmode::Asm;

/// A guest with four vCPUs that does nothing else than read LSR and write SCR of the first serial port.
struct Busy {
    user: TempDir,
    child: Owned,
}

impl Busy {
    fn start() -> Self {
        let user = tempfile::tempdir().unwrap();
        let path = user.path().join("guest.rom");
        let body = Asm::new().inb(0x3fd).inb(0x3fd).outb(0x3ff, 0x5a);
        std::fs::write(&path, Asm::new().forever(body).rom()).unwrap();
        let mut command = support::command(TRAPLINE);
        command.args(["run", "--firmware", path.to_str().unwrap(), "-m", "2", "-c", "4"]);
        command.args(["--name", "busy"]).env("XDG_RUNTIME_DIR", user.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap().into();
        let busy = Self { user, child };
        support::until("the guest is there", || {
            busy.user.path().join("trapline/busy.sock").exists()
        });
        busy
    }

    fn top<'a>(&self, pty: &'a Pty, args: &[&str]) -> Running<'a> {
        let args = [&["top", "busy"], args].concat();
        pty.spawn_with(TRAPLINE, &args, |command| {
            command.env("XDG_RUNTIME_DIR", self.user.path());
            command.env("TERM", "xterm");
        })
    }

    fn stop(self) {
        let mut command = support::command(TRAPLINE);
        command.args(["stop", "-n", "busy"]).env("XDG_RUNTIME_DIR", self.user.path());
        assert!(command.status().unwrap().success());
        finish(self.child).expect_status(0);
    }
}

/// What is on the screen, once it is as wanted.
fn screen(
    top: &mut Running<'_>,
    size: (u16, u16),
    wanted: impl Fn(&[String]) -> bool,
) -> Vec<String> {
    let start = Instant::now();
    let mut parser = vt100::Parser::new(size.1.try_into().unwrap(), size.0.try_into().unwrap(), 0);
    loop {
        parser.process(&top.take());
        let rows: Vec<String> = parser.screen().rows(0, size.0).collect();
        if wanted(&rows) {
            return rows;
        }
        assert!(start.elapsed() < PATIENCE, "not so: {rows:#?}");
    }
}

fn row_of(rows: &[String], register: &str) -> Option<usize> {
    rows.iter().position(|row| row.starts_with(&format!("serial0/uart {register} ")))
}

#[test]
fn the_screen_has_registers_sorted_as_wanted_and_follows_keys() {
    let busy = Busy::start();
    let pty = Pty::new();
    pty.resize(100, 24);
    let before = pty.settings();
    let mut top = busy.top(&pty, &["--delay", "0.1"]);
    let rows = screen(&mut top, (100, 24), |rows| {
        row_of(rows, "LSR") == Some(2) && row_of(rows, "SCR").is_some()
    });
    assert!(rows[0].starts_with("busy: up 0:00:") && rows[0].contains("4 vCPUs"), "{rows:#?}");
    assert!(rows[0].ends_with("by exits"), "{rows:#?}");
    assert!(rows[1].starts_with("DEVICE/REGION REGISTER"), "{rows:#?}");
    assert!(rows[2].contains(">0x60"), "{rows:#?}");
    assert!(rows[2].contains("67%") || rows[2].contains("66%"), "{rows:#?}");
    assert!(row_of(&rows, "SCR").is_some_and(|at| rows[at].contains("<0x5a")), "{rows:#?}");
    assert!(rows[23].starts_with("q: quit"), "{rows:#?}");
    top.send(b"w");
    let rows = screen(&mut top, (100, 24), |rows| row_of(rows, "SCR") == Some(2));
    assert!(rows[0].ends_with("by writes"), "{rows:#?}");
    // Writes, time, name.
    top.send(b"ss");
    screen(&mut top, (100, 24), |rows| rows[0].ends_with("by name"));
    top.send(b"q");
    let (status, left) = top.wait();
    assert_eq!(shell_status(status), 0, "{left}");
    assert!(left.contains("\x1b[?1049l"), "the screen from before is back: {left:?}");
    assert_eq!(pty.settings(), before);
    busy.stop();
}

#[test]
fn a_small_terminal_and_one_that_changes_its_size_have_what_fits() {
    let busy = Busy::start();
    let pty = Pty::new();
    pty.resize(60, 4);
    let mut top = busy.top(&pty, &["--delay", "0.1"]);
    let rows = screen(&mut top, (60, 4), |rows| row_of(rows, "LSR") == Some(2));
    assert!(rows[3].starts_with("q: quit"), "{rows:#?}");
    pty.resize(132, 30);
    screen(&mut top, (132, 30), |rows| rows[29].starts_with("q: quit") && rows[1].len() > 100);
    top.send(b"\x03");
    assert_eq!(shell_status(top.wait().0), 0);
    busy.stop();
}

#[test]
fn every_end_gives_the_terminal_back() {
    let busy = Busy::start();
    let pty = Pty::new();
    pty.resize(80, 24);
    let before = pty.settings();
    let mut top = busy.top(&pty, &[]);
    screen(&mut top, (80, 24), |rows| row_of(rows, "LSR").is_some());
    kill_process(top.pid(), Signal::TERM).unwrap();
    let (status, left) = top.wait();
    assert_eq!((shell_status(status), pty.settings() == before), (0, true), "{left}");
    let mut top = busy.top(&pty, &[]);
    screen(&mut top, (80, 24), |rows| row_of(rows, "LSR").is_some());
    busy.stop();
    let (status, left) = top.wait();
    assert!(left.ends_with("guest busy has ended\r\n"), "{left:?}");
    assert_eq!((shell_status(status), pty.settings() == before), (0, true));
}
