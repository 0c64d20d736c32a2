//! The command that a guest is there for, or a shell: its user, its streams, its end.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::termios::{Winsize, tcsetwinsize};

use super::port::Port;
use crate::task::wire::{FRAME_MAX, Frame};
use crate::task::{Task, User};

/// Where programs are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A shell's statuses for what cannot be run, and for what is not there.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// A program with the task's environment, user and folder.
pub(super) fn prepared(program: &OsStr, task: &Task) -> Command {
    let User { name, uid, gid, home, shell } = &task.user;
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("TERM", "vt220")
        .envs(task.environment.iter().map(|(name, value)| (name, value)));
    command.env("PATH", PATH).env("HOME", home).env("SHELL", shell);
    command.env("USER", name).env("LOGNAME", name);
    if *uid != 0 || *gid != 0 {
        command.gid(*gid).uid(*uid);
    }
    let folder = task.folder.as_deref().map(Path::new).unwrap_or(Path::new(home));
    command.current_dir(if folder.is_dir() { folder } else { Path::new("/") });
    command
}

/// Runs the task's command with its streams on the console or the port, and tells the VMM how it has
/// ended.
///
/// # Errors
/// The port's.
pub(super) fn run(words: &[OsString], task: &Task, port: Port) -> io::Result<()> {
    let reader = port.another()?;
    let port = Arc::new(Mutex::new(port));
    Frame::Ready.write(&mut *port.lock())?;
    let status = match spawn(words, task) {
        Ok(child) => attend(child, &port, reader)?,
        Err((status, reason)) => {
            let program = words.first().cloned().unwrap_or_default();
            let text = format!("{}: {reason}\n", program.to_string_lossy());
            match task.on_console[2] {
                true => io::stderr().write_all(text.as_bytes())?,
                false => Frame::Stderr(text.into_bytes()).write(&mut *port.lock())?,
            }
            status
        }
    };
    rustix::fs::sync();
    // What was written to the console is on its way until then.
    let _ = rustix::termios::tcdrain(rustix::stdio::stdout());
    Frame::Status(status).write(&mut *port.lock())
}

/// Starts it; a script that does not say by what it is run is the shell's. Or a shell's status, and
/// why not.
fn spawn(words: &[OsString], task: &Task) -> Result<Child, (u8, String)> {
    let start = |words: &[OsString]| {
        let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let stdio = |on_console: bool| match on_console {
            true => Stdio::inherit(),
            false => Stdio::piped(),
        };
        let [input, output, error] = task.on_console;
        let mut command = prepared(program, task);
        command.args(arguments);
        command.stdin(stdio(input)).stdout(stdio(output)).stderr(stdio(error)).spawn()
    };
    let started = match start(words) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            start(&[&["/bin/sh".into()], words].concat())
        }
        started => started,
    };
    started.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => (NOT_FOUND, "not found in the guest".to_owned()),
        _ => (CANNOT_RUN, error.to_string()),
    })
}

/// Carries the streams until the command has ended and all that it has written is sent.
fn attend(mut child: Child, port: &Arc<Mutex<Port>>, reader: Port) -> io::Result<u8> {
    let output = child.stdout.take().map(OwnedFd::from);
    let error = child.stderr.take().map(OwnedFd::from);
    let input = child.stdin.take().map(OwnedFd::from);
    let closed = Arc::<Mutex<[bool; 2]>>::default();
    let mut threads = Vec::new();
    for (number, pipe) in [output, error].into_iter().enumerate() {
        let Some(pipe) = pipe else { continue };
        let (port, closed) = (Arc::clone(port), Arc::clone(&closed));
        let carry = move || carry(number, pipe, &port, &closed);
        threads.push(std::thread::Builder::new().spawn(carry)?);
    }
    let (pieces, inbox) = sync_channel(1);
    if let Some(input) = input {
        let port = Arc::clone(port);
        std::thread::Builder::new().spawn(move || feed(input, &inbox, &port))?;
    }
    let mut reader = reader;
    std::thread::Builder::new().spawn(move || listen(&mut reader, Some(&pieces), &closed))?;
    let status = wait_for(&child);
    // Whoever still has the pipes goes with the guest.
    end_others(&threads);
    for thread in threads {
        let _ = thread.join();
    }
    Ok(status)
}

/// Sends what comes by a pipe, until its end or until nobody reads it any more.
fn carry(number: usize, pipe: OwnedFd, port: &Mutex<Port>, closed: &Mutex<[bool; 2]>) {
    let mut pipe = fs::File::from(pipe);
    let mut buf = vec![0; FRAME_MAX];
    loop {
        let Ok(count @ 1..) = pipe.read(&mut buf) else { return };
        if closed.lock().get(number) == Some(&true) {
            return;
        }
        let bytes = buf.get(..count).unwrap_or_default().to_vec();
        let frame = if number == 0 { Frame::Stdout(bytes) } else { Frame::Stderr(bytes) };
        if frame.write(&mut *port.lock()).is_err() {
            return;
        }
    }
}

/// Obeys the VMM: input for the command, the terminal's size, ends of its streams.
pub(super) fn listen(
    port: &mut impl Read,
    input: Option<&SyncSender<Vec<u8>>>,
    closed: &Mutex<[bool; 2]>,
) {
    while let Ok(frame) = Frame::read(port) {
        match frame {
            Frame::Stdin(bytes) => {
                // The command may read no more. There is room: the VMM waits until this is taken.
                let _ = input.map(|input| input.send(bytes));
            }
            Frame::Size(columns, rows) => set_size(columns, rows),
            Frame::Closed(stream) => {
                let number = usize::from(stream).wrapping_sub(1);
                closed.lock().get_mut(number).into_iter().for_each(|closed| *closed = true);
            }
            _ => {}
        }
    }
}

/// Writes pieces of input to the command's pipe, and asks for the next each time; until the end, or until
/// nobody reads the pipe any more.
fn feed(pipe: OwnedFd, pieces: &Receiver<Vec<u8>>, port: &Mutex<impl Write>) {
    let mut pipe = fs::File::from(pipe);
    for piece in pieces.iter().take_while(|piece| !piece.is_empty()) {
        let taken = pipe.write_all(&piece).and_then(|()| Frame::Taken.write(&mut *port.lock()));
        if taken.is_err() {
            return;
        }
    }
}

/// Tells the console, and whoever runs on it, what size the terminal has.
pub(super) fn set_size(columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let _ = tcsetwinsize(rustix::stdio::stdin().as_fd(), size);
}

/// Waits for a child, and buries those whose parents have ended. Its status is as a shell has it.
pub(super) fn wait_for(child: &Child) -> u8 {
    let ours = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == ours => {
                let exited = status.exit_status();
                let status = exited.or_else(|| status.terminating_signal().map(|n| 128 + n));
                if let Some(status) = status {
                    return u8::try_from(status).unwrap_or(u8::MAX);
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return u8::MAX,
        }
    }
}

/// Ends all other processes, until nobody has a pipe that these threads read.
fn end_others(threads: &[JoinHandle<()>]) {
    while threads.iter().any(|thread| !thread.is_finished()) {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        for entry in entries {
            let number = entry.file_name().to_string_lossy().parse().ok();
            // Threads of the kernel's have no program.
            let has_program = fs::read_link(entry.path().join("exe")).is_ok();
            if let Some(pid) =
                number.filter(|number| *number != 1 && has_program).and_then(Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_output_is_heard_while_the_command_reads_no_input() {
        let mut sent = Vec::new();
        Frame::Stdin(b"a".to_vec()).write(&mut sent).unwrap();
        Frame::Closed(2).write(&mut sent).unwrap();
        let (pieces, inbox) = sync_channel(1);
        let closed = Mutex::default();
        listen(&mut &sent[..], Some(&pieces), &closed);
        assert_eq!((*closed.lock(), inbox.recv().unwrap()), ([false, true], b"a".to_vec()));
    }

    #[test]
    fn input_is_asked_for_when_the_last_is_taken_and_ends() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (pieces, inbox) = sync_channel(4);
        [&b"ab"[..], b"c", b"", b"d"].iter().for_each(|piece| pieces.send(piece.to_vec()).unwrap());
        let port = Mutex::new(Vec::new());
        feed(writer.into(), &inbox, &port);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        let said = port.into_inner();
        let mut said = &said[..];
        let frames = std::iter::from_fn(|| Frame::read(&mut said).ok()).collect::<Vec<_>>();
        assert_eq!(frames, [Frame::Taken, Frame::Taken]);
    }
}
