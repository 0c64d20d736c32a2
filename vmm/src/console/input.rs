//! The console's reader thread: from standard input to the guest's console device.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::Console;
use super::escape::{self, Escape, Key};
use crate::request::Request;
use crate::terminal::{Shield, may_read};

/// How often a process in the background looks whether it has been brought to the front.
const LOOK: Duration = Duration::from_millis(200);

/// Reads the console's input from `stdin` until the console is closed or the input has an end.
/// The guest does not notice an end: its terminal is one where nobody types any more.
pub(super) fn read_all(console: &Console, stdin: &impl AsFd) {
    let mut escape = Escape::default();
    let mut buf = [0; 4096];
    // Were the foreground lost between looking and reading, the read would stop the process.
    let _shield = Shield::against(Signal::TTIN);
    loop {
        let room = console.input.lock().room();
        let ours = may_read(stdin);
        let ready = wait(console, stdin, ours && room > 0, (!ours).then_some(LOOK));
        if console.end_reader.load(Ordering::Relaxed) {
            return;
        }
        if !ready || !may_read(stdin) {
            continue;
        }
        // An escape is longer than what it sends, so what is read fits.
        let most = room.min(buf.len());
        let Some(space) = buf.get_mut(..most) else { continue };
        match rustix::io::read(stdin, space) {
            Ok(0) => return,
            Ok(count) => take(console, &mut escape, buf.get(..count).unwrap_or_default()),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::IO) if !may_read(stdin) => {}
            Err(error) => {
                // The terminal has gone away; if that matters, SIGHUP says so.
                tracing::debug!("nothing more to read from standard input: {error}");
                return;
            }
        }
    }
}

/// Waits until there is something to read, if `reading`, or until woken, or for as long as
/// `timeout`; says whether there is.
fn wait(console: &Console, stdin: &impl AsFd, reading: bool, timeout: Option<Duration>) -> bool {
    let mut fds =
        [PollFd::new(&console.wake_reader, PollFlags::IN), PollFd::new(stdin, PollFlags::IN)];
    let watched = if reading { &mut fds[..] } else { &mut fds[..1] };
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    if poll(watched, timeout.as_ref()).is_err() {
        return false;
    }
    let [wake, input] = &fds;
    if !wake.revents().is_empty() {
        let _ = rustix::io::read(&console.wake_reader, &mut [0; 8]);
    }
    reading && !input.revents().is_empty()
}

fn take(console: &Console, escape: &mut Escape, typed: &[u8]) {
    let mut sent = Vec::with_capacity(typed.len());
    for byte in typed {
        match escape.feed(*byte) {
            Key::Guest(byte) => sent.push(byte),
            Key::Nothing => {}
            command => {
                // What was typed before a command arrives before it is obeyed.
                hand_over(console, &mut sent);
                obey(console, command);
            }
        }
    }
    hand_over(console, &mut sent);
}

fn hand_over(console: &Console, sent: &mut Vec<u8>) {
    if let Some(diverted) = &*console.diverted.lock() {
        sent.drain(..).for_each(diverted);
        return;
    }
    if !sent.is_empty() {
        console.input.lock().push(sent);
        sent.clear();
        console.poll_device();
    }
}

fn obey(console: &Console, command: Key) {
    match command {
        Key::Help => console.message(escape::KEYS),
        Key::Quit => console.requests.make(Request::Quit),
        // The key is shorter than what was typed for it, so there is room.
        Key::Break => match console.break_key {
            Some(key) => hand_over(console, &mut vec![key]),
            None => console.send_break(),
        },
        Key::Pause => console.requests.make(Request::Pause),
        Key::Statistics => console.requests.make(Request::Statistics),
        Key::Why => console.requests.make(Request::Why),
        Key::Guest(_) | Key::Nothing => {}
    }
}
