//! The VMM's end of the port: a command's streams, its status, the terminal's size.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use trapline_device::thread_builder;
use trapline_machine::{Connected, Outlet, PortOptions};

use super::PORT;
use super::wire::{FRAME_MAX, Frame};
use crate::request::{Request, Requests};
use crate::stream::{self, Patient};

/// Which of our standard streams are a command's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Whether there is a command.
    pub command: bool,
    /// Which are terminals, and so the guest's console.
    pub on_console: [bool; 3],
}

impl Streams {
    /// Those of this process for a command.
    pub fn of_command() -> Self {
        let terminal = |fd| rustix::termios::isatty(fd);
        let on_console = [
            terminal(rustix::stdio::stdin()),
            terminal(rustix::stdio::stdout()),
            terminal(rustix::stdio::stderr()),
        ];
        Self { command: true, on_console }
    }

    /// Whether what is typed is for the console.
    pub fn types(&self) -> bool {
        !self.command || self.on_console[0]
    }

    /// Whether the console is shown on standard output, and not on standard error.
    pub fn shows(&self) -> bool {
        !self.command || self.on_console[1]
    }
}

/// The VMM's end.
pub struct Errand {
    inner: Arc<Inner>,
}

struct Inner {
    stream: UnixStream,
    streams: Streams,
    ready: Arc<AtomicBool>,
    to_send: Mutex<ToSend>,
    changed: Condvar,
}

/// What waits to be sent. The guest may read as late as it likes.
#[derive(Default)]
struct ToSend {
    size: Option<(u16, u16)>,
    closed: Vec<u8>,
    /// The next piece of standard input; nothing is its end.
    input: Option<Vec<u8>>,
    /// The guest has the last piece, and the command has not.
    on_its_way: bool,
    end: bool,
}

impl Errand {
    /// A port for a machine, and what is behind it.
    ///
    /// # Errors
    /// The host's.
    pub fn new(streams: Streams) -> io::Result<(Self, PortOptions)> {
        let (end, stream) = Connected::pair()?;
        let inner = Inner {
            stream,
            streams,
            ready: Arc::default(),
            to_send: Mutex::default(),
            changed: Condvar::new(),
        };
        let port = PortOptions { name: PORT.to_owned(), outlet: Outlet::Connected(end) };
        Ok((Self { inner: Arc::new(inner) }, port))
    }

    /// Begins to carry what there is; a command's end becomes a request.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub fn start(&self, requests: Requests) -> io::Result<()> {
        let inner = Arc::clone(&self.inner);
        thread_builder("port-out").spawn(move || inner.send())?;
        let inner = Arc::clone(&self.inner);
        thread_builder("port-in").spawn(move || {
            inner.receive(rustix::stdio::stdout(), rustix::stdio::stderr(), &requests);
        })?;
        if self.inner.streams.command && !self.inner.streams.on_console[0] {
            let inner = Arc::clone(&self.inner);
            thread_builder("stdin").spawn(move || inner.read_input())?;
        }
        Ok(())
    }

    /// The terminal has this size now.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.inner.to_send.lock().size = Some((columns, rows));
        self.inner.changed.notify_all();
    }

    /// Whether init has begun what it is to run.
    pub fn readiness(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.inner.ready)
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.inner.to_send.lock().end = true;
        self.inner.changed.notify_all();
        let _ = self.inner.stream.shutdown(Shutdown::Both);
    }
}

impl Inner {
    fn send(&self) {
        while let Some(frame) = self.next() {
            if frame.write(&mut &self.stream).is_err() {
                return;
            }
        }
    }

    /// What to send next; sizes and ends of streams overtake input.
    fn next(&self) -> Option<Frame> {
        let mut to_send = self.to_send.lock();
        loop {
            if to_send.end {
                return None;
            }
            let size = to_send.size.take().map(|(columns, rows)| Frame::Size(columns, rows));
            let frame = size.or_else(|| to_send.closed.pop().map(Frame::Closed));
            if frame.is_some() {
                return frame;
            }
            if !to_send.on_its_way
                && let Some(piece) = to_send.input.take()
            {
                to_send.on_its_way = true;
                self.changed.notify_all();
                return Some(Frame::Stdin(piece));
            }
            self.changed.wait(&mut to_send);
        }
    }

    /// Our standard input is the command's.
    fn read_input(&self) {
        let mut buf = vec![0; FRAME_MAX];
        loop {
            // What cannot be read has ended.
            let count = io::Read::read(&mut Patient(rustix::stdio::stdin()), &mut buf).unwrap_or(0);
            let mut to_send = self.to_send.lock();
            while to_send.input.is_some() && !to_send.end {
                self.changed.wait(&mut to_send);
            }
            to_send.input = buf.get(..count).map(<[u8]>::to_vec);
            self.changed.notify_all();
            if count == 0 || to_send.end {
                return;
            }
        }
    }

    /// What the guest sends. One that sends what is no frame is not listened to any more.
    fn receive(&self, stdout: impl AsFd, stderr: impl AsFd, requests: &Requests) {
        let (mut stdout, mut stderr) = (Some(stdout), Some(stderr));
        loop {
            match Frame::read(&mut &self.stream) {
                Ok(Frame::Ready) => self.ready.store(true, Ordering::Relaxed),
                Ok(Frame::Taken) => {
                    self.to_send.lock().on_its_way = false;
                    self.changed.notify_all();
                }
                Ok(Frame::Stdout(bytes)) if self.streams.command => {
                    stdout = stdout.filter(|to| self.show(1, to, &bytes, requests));
                }
                Ok(Frame::Stderr(bytes)) if self.streams.command => {
                    stderr = stderr.filter(|to| self.show(2, to, &bytes, requests));
                }
                Ok(Frame::Status(status)) if self.streams.command => {
                    return requests.make(Request::CommandEnded(status));
                }
                Ok(_) => {}
                Err(error) => {
                    return tracing::debug!("the guest's init has said its last: {error}");
                }
            }
        }
    }

    /// Writes what the command has written; says whether there can be more. If nobody reads it any more,
    /// nobody reads the command's pipe, either.
    fn show(&self, number: u8, to: impl AsFd, bytes: &[u8], requests: &Requests) -> bool {
        let written = stream::write_all(to, bytes, None);
        match written {
            Ok(()) => {}
            Err(Errno::PIPE) => {
                self.to_send.lock().closed.push(number);
                self.changed.notify_all();
            }
            Err(error) => requests.make(Request::OutputLost(error.to_string())),
        }
        written.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::channel;

    use super::*;

    /// Our end for a command whose standard input is nobody's, and the guest's.
    fn ends() -> (Inner, UnixStream) {
        let (stream, guest) = UnixStream::pair().unwrap();
        let inner = Inner {
            stream,
            streams: Streams { command: true, on_console: [true, false, false] },
            ready: Arc::default(),
            to_send: Mutex::default(),
            changed: Condvar::new(),
        };
        (inner, guest)
    }

    /// A command's errand, the guest's end, and what is asked for.
    fn errand() -> (Errand, UnixStream, std::sync::mpsc::Receiver<Request>) {
        let (inner, guest) = ends();
        let errand = Errand { inner: Arc::new(inner) };
        let (requests, (asked, inbox)) = (Requests::default(), channel());
        requests.serve(move |request| drop(asked.send(request)));
        errand.start(requests).unwrap();
        (errand, guest, inbox)
    }

    #[test]
    fn the_size_goes_to_the_guest_and_a_status_comes_once() {
        let (errand, mut guest, inbox) = errand();
        errand.resize(80, 25);
        assert_eq!(Frame::read(&mut guest).unwrap(), Frame::Size(80, 25));
        Frame::Ready.write(&mut guest).unwrap();
        Frame::Status(7).write(&mut guest).unwrap();
        assert_eq!(inbox.recv().unwrap(), Request::CommandEnded(7));
        assert!(errand.readiness().load(Ordering::Relaxed));
        let _ = Frame::Status(8).write(&mut guest);
        drop(errand);
        assert!(Frame::read(&mut guest).is_err(), "nothing is left of it");
        assert!(inbox.recv().is_err());
    }

    #[test]
    fn a_guest_that_sends_no_frames_is_not_listened_to() {
        let (errand, mut guest, inbox) = errand();
        guest.write_all(&[0x84, 0xff, 0xff, 0xff, 0xff, 7]).unwrap();
        let _ = Frame::Status(7).write(&mut guest);
        drop(errand);
        assert!(inbox.recv().is_err());
    }

    #[test]
    fn what_nobody_reads_any_more_the_guest_is_told() {
        let (errand, mut guest, _inbox) = errand();
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        assert!(!errand.inner.show(1, &writer, b"x", &Requests::default()));
        assert_eq!(Frame::read(&mut guest).unwrap(), Frame::Closed(1));
    }

    #[test]
    fn a_guest_that_goes_on_writing_what_nobody_reads_is_told_once() {
        let (inner, mut guest) = ends();
        for _ in 0..100 {
            Frame::Stdout(vec![b'x']).write(&mut guest).unwrap();
            Frame::Stderr(vec![b'e']).write(&mut guest).unwrap();
        }
        Frame::Status(0).write(&mut guest).unwrap();
        let ((reader, stdout), (mut errors, stderr)) = (io::pipe().unwrap(), io::pipe().unwrap());
        drop(reader);
        inner.receive(stdout, stderr, &Requests::default());
        assert_eq!(inner.to_send.lock().closed, [1]);
        let mut text = String::new();
        io::Read::read_to_string(&mut errors, &mut text).unwrap();
        assert_eq!(text, "e".repeat(100));
    }

    #[test]
    fn nothing_waits_behind_input_that_the_command_does_not_read() {
        let (errand, mut guest, _inbox) = errand();
        let give = |piece: &[u8]| {
            errand.inner.to_send.lock().input = Some(piece.to_vec());
            errand.inner.changed.notify_all();
        };
        give(b"first");
        assert_eq!(Frame::read(&mut guest).unwrap(), Frame::Stdin(b"first".to_vec()));
        give(b"second");
        guest.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        assert!(Frame::read(&mut guest).is_err(), "the first is on its way");
        guest.set_read_timeout(None).unwrap();
        errand.inner.to_send.lock().closed.push(2);
        errand.inner.changed.notify_all();
        assert_eq!(Frame::read(&mut guest).unwrap(), Frame::Closed(2));
        Frame::Taken.write(&mut guest).unwrap();
        assert_eq!(Frame::read(&mut guest).unwrap(), Frame::Stdin(b"second".to_vec()));
    }
}
