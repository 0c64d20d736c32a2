//! The guest's console, its first serial port or a virtio console, on the process's standard input
//! and output.
//!
//! ```text
//!       device ─ transmit ─► OutQueue, 64 KiB ─► writer thread ─► stdout
//!      ▲  └───── receive ──◄ InQueue,  64 KiB ◄─ reader thread ◄─ stdin
//!      └───────── poll ───── both threads            └─► Ctrl-a commands ─► Requests
//! ```
//!
//! A vCPU never waits for the terminal: when nobody reads what the guest prints, the serial port's
//! transmitter stays busy, as with flow control on a real line, or the virtio console's buffers stay
//! with it, and nothing is lost. When the
//! guest does not read what is typed, standard input is left alone until it does; Ctrl-a commands
//! behind 64 KiB of unread input wait with it.

mod escape;
mod input;
mod output;
mod queue;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};
use trapline_device::{CharBackend, CharDevice, thread_builder};

use crate::request::Requests;
pub(crate) use escape::KEYS;
use queue::{InQueue, OutQueue};

/// Bytes the guest can be ahead of the terminal.
const OUT_ROOM: usize = 64 << 10;

/// Bytes the terminal can be ahead of the guest.
const IN_ROOM: usize = 64 << 10;

/// This much output is written at once, without waiting for more to go with it.
const LARGE: usize = 16 << 10;

/// Gets what is typed, byte by byte, on the thread that reads it.
pub type Diverted = Box<dyn Fn(u8) + Send>;

/// The console. Made before the machine, as its console device's back end; its threads start later,
/// when [`Console::start`] gives it a terminal.
pub struct Console {
    output: Mutex<Output>,
    /// Notified when [`Output`] changes: there is output, much output, or the end.
    changed: Condvar,
    input: Mutex<InQueue>,
    device: Mutex<Option<Weak<dyn CharDevice>>>,
    requests: Requests,
    /// Who gets what is typed instead of the guest, if somebody does.
    diverted: Mutex<Option<Diverted>>,
    /// What the guest gets for a break, if its console knows no breaks.
    break_key: Option<u8>,
    /// Wakes the reader thread: there is room, or it shall end.
    wake_reader: OwnedFd,
    end_reader: AtomicBool,
    /// Standard output is a terminal, so our messages can go between the guest's lines.
    on_terminal: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Output {
    queue: OutQueue,
    phase: Phase,
    /// Lines the guest has sent.
    lines: u64,
    /// Its last line has no end yet.
    inside_line: bool,
    /// The end of what it has sent.
    tail: VecDeque<u8>,
    /// Since when the writer is in a piece.
    writing: Option<Instant>,
}

/// So much of what the guest has sent is remembered.
const TAIL: usize = 4 << 10;

/// How the output gets on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes that wait to be written, without those being written.
    pub waiting: usize,
    /// There is no room for more: the guest waits.
    pub full: bool,
    /// How long the piece that is being written has not been taken.
    pub blocked: Option<Duration>,
}

impl Output {
    fn count_lines(&mut self, sent: &[u8]) {
        let ends = sent.iter().filter(|byte| **byte == b'\n').count();
        self.lines = self.lines.saturating_add(ends as u64);
        if let Some(last) = sent.last() {
            self.inside_line = *last != b'\n';
        }
        let kept = sent.get(sent.len().saturating_sub(TAIL)..).unwrap_or_default();
        let over = (self.tail.len() + kept.len()).saturating_sub(TAIL);
        self.tail.drain(..over);
        self.tail.extend(kept);
    }
}

/// The life of the output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Bytes are queued, and written once there is a writer.
    Open,
    /// The writer ends when it has written what is queued.
    Closing,
    /// Nobody writes any more; bytes are swallowed.
    Closed,
}

impl Console {
    /// A console without a terminal: it queues. A break is one of the serial port's, or this key.
    ///
    /// # Errors
    /// What the kernel says when it has no event file descriptor for us.
    pub fn new(requests: Requests, break_key: Option<u8>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            output: Mutex::new(Output {
                queue: OutQueue::new(OUT_ROOM),
                phase: Phase::Open,
                lines: 0,
                inside_line: false,
                tail: VecDeque::new(),
                writing: None,
            }),
            changed: Condvar::new(),
            input: Mutex::new(InQueue::new(IN_ROOM)),
            device: Mutex::new(None),
            requests,
            diverted: Mutex::new(None),
            break_key,
            wake_reader: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            end_reader: AtomicBool::new(false),
            on_terminal: AtomicBool::new(false),
            threads: Mutex::new(Vec::new()),
        }))
    }

    /// Names the device that is told when there is input or room for output.
    pub fn attach(&self, device: Weak<dyn CharDevice>) {
        *self.device.lock() = Some(device);
        // Something may have been typed before there was anybody to tell.
        self.poll_device();
    }

    /// Starts to read `stdin`, if nobody else does, and to write `stdout`. Once per console.
    ///
    /// # Errors
    /// What the kernel says when it refuses a thread.
    pub fn start<I, O>(self: &Arc<Self>, stdin: Option<I>, stdout: O) -> io::Result<()>
    where
        I: AsFd + Send + 'static,
        O: AsFd + Send + 'static,
    {
        self.on_terminal.store(rustix::termios::isatty(&stdout), Ordering::Relaxed);
        let writer = Arc::clone(self);
        let writer =
            thread_builder("console-out").spawn(move || output::write_all(&writer, &stdout))?;
        self.threads.lock().push(writer);
        let Some(stdin) = stdin else { return Ok(()) };
        let reader = Arc::clone(self);
        let reader =
            thread_builder("console-in").spawn(move || input::read_all(&reader, &stdin))?;
        self.threads.lock().push(reader);
        Ok(())
    }

    /// Shows `text`, a message of ours, in its place among the guest's output; on standard error
    /// when standard output is a file or a pipe.
    pub fn message(&self, text: &str) {
        if self.on_terminal.load(Ordering::Relaxed) {
            self.output.lock().queue.push_message(text.as_bytes());
            self.changed.notify_all();
        } else {
            crate::stream::message(text);
        }
    }

    /// Has `to` get what is typed from now on, but for Ctrl-a's commands; or the guest again.
    pub fn divert(&self, to: Option<Diverted>) {
        let before = std::mem::replace(&mut *self.diverted.lock(), to);
        drop(before);
    }

    /// How many lines the guest has sent in its whole life.
    pub fn lines(&self) -> u64 {
        self.output.lock().lines
    }

    /// Whether the guest has sent anything.
    pub fn was_used(&self) -> bool {
        let output = self.output.lock();
        output.inside_line || output.lines > 0
    }

    /// Whether the last line the guest has sent has no end yet.
    pub fn is_inside_line(&self) -> bool {
        self.output.lock().inside_line
    }

    /// How the output gets on.
    pub fn backlog(&self) -> Backlog {
        let output = self.output.lock();
        Backlog {
            waiting: output.queue.len(),
            full: output.queue.room() == 0,
            blocked: output.writing.map(|since| since.elapsed()),
        }
    }

    /// The last 4 KiB that the guest has sent.
    pub fn tail(&self) -> Vec<u8> {
        self.output.lock().tail.iter().copied().collect()
    }

    /// Reads no more and writes what the guest has sent; call it when no vCPU runs any more. Gives
    /// up after `patience` on a reader that does not read, and may be called again. Says whether
    /// everything was written.
    pub fn close(&self, patience: Duration) -> bool {
        self.end_reader.store(true, Ordering::Relaxed);
        self.wake_reader();
        let written = self.threads.lock().is_empty() || self.close_output(patience);
        if written {
            for thread in std::mem::take(&mut *self.threads.lock()) {
                let _ = thread.join();
            }
        }
        written
    }

    fn close_output(&self, patience: Duration) -> bool {
        let give_up = Instant::now() + patience;
        let mut output = self.output.lock();
        if output.phase == Phase::Open {
            output.phase = Phase::Closing;
        }
        self.changed.notify_all();
        while output.phase != Phase::Closed {
            if self.changed.wait_until(&mut output, give_up).timed_out() {
                return output.phase == Phase::Closed;
            }
        }
        true
    }

    /// Tells the device to look. Never with a lock of ours held: it calls back.
    fn poll_device(&self) {
        if let Some(device) = self.device() {
            device.poll();
        }
    }

    /// Sends the device a break. Nobody is there yet who could notice one before the start.
    fn send_break(&self) {
        if let Some(device) = self.device() {
            device.receive_break();
        }
    }

    /// Sends a break and then a key, which Linux takes as SysRq. Nothing, where the guest has not read
    /// what was typed for long.
    pub fn send_sysrq(&self, key: u8) {
        let keys = [self.break_key.unwrap_or(key), key];
        let keys = if self.break_key.is_some() { &keys[..] } else { &keys[1..] };
        if self.break_key.is_none() {
            self.send_break();
        }
        let mut input = self.input.lock();
        if input.room() >= keys.len() {
            input.push(keys);
        }
        drop(input);
        self.poll_device();
    }

    fn device(&self) -> Option<Arc<dyn CharDevice>> {
        self.device.lock().as_ref().and_then(Weak::upgrade)
    }

    fn wake_reader(&self) {
        // It fails only when the counter is full, and then the reader is awake.
        let _ = rustix::io::write(&self.wake_reader, &1u64.to_ne_bytes());
    }
}

impl CharBackend for Console {
    fn transmit(&self, data: &[u8]) -> usize {
        let mut output = self.output.lock();
        if output.phase == Phase::Closed {
            return data.len();
        }
        let before = output.queue.len();
        let taken = output.queue.push(data);
        output.count_lines(data.get(..taken).unwrap_or_default());
        let after = output.queue.len();
        drop(output);
        // The writer waits for the first byte, and then for a large piece.
        if (before == 0 && after > 0) || (before < LARGE && after >= LARGE) {
            self.changed.notify_all();
        }
        taken
    }

    fn room(&self) -> usize {
        let output = self.output.lock();
        if output.phase == Phase::Closed { usize::MAX } else { output.queue.room() }
    }

    fn receive(&self, buf: &mut [u8]) -> usize {
        let (count, room_again) = self.input.lock().pop(buf);
        if room_again {
            self.wake_reader();
        }
        count
    }
}
