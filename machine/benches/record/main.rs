//! What recording costs: `cargo xtask bench record`.
//!
//! An access by itself and a whole exit of a guest on KVM, with nothing recorded, with the last accesses
//! kept for reports, and with all of them taken by another thread; then, of the recordings in
//! `tests/recordings`, bytes an access in the file and the time of a replay.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a bench that cannot go on ends"
)]

mod access;
#[cfg(target_arch = "x86_64")]
mod exit;
mod files;
#[cfg(target_arch = "x86_64")]
#[path = "../guest/mod.rs"]
mod guest;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use trapline::{Mode, Registry};
use trapline_backends::{EpollLoop, HostClock, NoQueuedWrites};
use trapline_device::{Handler, IoCx, Size};

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recording {
    Off,
    Flight,
    All,
}

impl Recording {
    const EACH: [Self; 3] = [Self::Off, Self::Flight, Self::All];

    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Flight => "flight recorder",
            Self::All => "recording",
        }
    }
}

/// A device that does as good as nothing.
struct Register;

impl Handler for Register {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        offset
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

/// Has a registry record, until it is dropped.
struct Recorded {
    over: Arc<AtomicBool>,
    drain: Option<JoinHandle<()>>,
    _event_loop: Arc<EpollLoop>,
}

impl Recorded {
    fn start(registry: &Registry, recording: Recording) -> Self {
        let event_loop = EpollLoop::start("bench", NoQueuedWrites).unwrap();
        let clock = Arc::new(HostClock::new(&*event_loop).unwrap());
        let over = Arc::<AtomicBool>::default();
        let mode = match recording {
            Recording::Off => None,
            Recording::Flight => Some(Mode::Flight),
            Recording::All => Some(Mode::Lossless),
        };
        let started = mode.is_none_or(|mode| registry.start_recorder(clock, mode));
        assert!(started, "a registry has one recorder");
        let taken = (recording == Recording::All).then(|| registry.recorder().unwrap().clone());
        let drain = taken.map(|recorder| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                recorder.wake_when_filling(std::thread::current());
                while !over.load(Ordering::Relaxed) {
                    std::hint::black_box(recorder.take());
                    std::thread::park_timeout(Duration::from_millis(200));
                }
                recorder.give_up();
            })
        });
        Self { over, drain, _event_loop: event_loop }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(drain) = self.drain.take() {
            drain.thread().unpark();
            drain.join().unwrap();
        }
    }
}

fn goal(what: &str, met: bool) -> bool {
    println!("goal: {what}: {}", if met { "met" } else { "MISSED" });
    met
}

fn main() -> ExitCode {
    let access = access::measure();
    #[cfg(target_arch = "x86_64")]
    let exit = exit::measure();
    #[cfg(not(target_arch = "x86_64"))]
    let exit = {
        println!("SKIPPED exits: the bench's guests are x86 machine code");
        true
    };
    let files = files::measure();
    if access && exit && files { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
