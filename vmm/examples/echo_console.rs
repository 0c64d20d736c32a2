//! A console without a guest: what is typed comes back, as from a terminal whose line is looped.
//!
//! For the tests of the terminal, which need a process of its own, and for trying keys by hand.
//! The first argument is how it ends by itself: `fail` and `panic` do so when `!` is typed.

use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};

use anyhow::bail;
use trapline_device::{CharBackend, CharDevice};
use trapline_vmm::cli::LogLevel;
use trapline_vmm::console::Console;
use trapline_vmm::request::{Request, Requests};
use trapline_vmm::session::Session;
use trapline_vmm::task::Streams;
use trapline_vmm::{logging, signals, terminal};

enum Event {
    Asked(Request),
    Bang,
}

struct Loopback {
    console: Arc<Console>,
    events: Sender<Event>,
}

impl CharDevice for Loopback {
    fn poll(&self) {
        let mut buf = [0; 64];
        loop {
            let count = self.console.receive(&mut buf);
            let Some(typed) = buf.get(..count).filter(|typed| !typed.is_empty()) else { return };
            self.console.transmit(typed);
            if typed.contains(&b'!') {
                let _ = self.events.send(Event::Bang);
            }
        }
    }

    fn receive_break(&self) {}
}

fn main() -> ExitCode {
    terminal::restore_on_panic();
    logging::start(LogLevel::Info);
    let mode = std::env::args().nth(1).unwrap_or_default();
    run(&mode).unwrap_or_else(|error| logging::fatal(&error))
}

fn run(mode: &str) -> anyhow::Result<ExitCode> {
    let requests = Requests::default();
    let console = Console::new(requests.clone(), None)?;
    let (events, inbox) = channel();
    let port = Arc::new(Loopback { console: Arc::clone(&console), events: events.clone() });
    let device: Weak<Loopback> = Arc::downgrade(&port);
    console.attach(device);
    let session = Session::start(&console, &requests, Streams::default())?;
    requests.serve(move |request| {
        let _ = events.send(Event::Asked(request));
    });
    console.transmit(b"ready\r\n");
    for event in inbox {
        match event {
            Event::Bang if mode == "fail" => bail!("the loopback failed"),
            Event::Bang if mode == "panic" => panic!("the loopback panicked"),
            Event::Bang => {}
            Event::Asked(Request::Pause) => console.message("\n  paused\n"),
            Event::Asked(Request::Statistics) => console.message("\n  statistics\n"),
            Event::Asked(Request::Why) => console.message("\n  why\n"),
            Event::Asked(Request::Resized) => {
                console.message(&format!("\n  size {:?}\n", terminal::size()));
            }
            Event::Asked(Request::Quit) => {
                console.transmit(b"last words\r\n");
                session.finish(|| true);
                return Ok(ExitCode::SUCCESS);
            }
            Event::Asked(Request::CommandEnded(status)) => return Ok(ExitCode::from(status)),
            Event::Asked(Request::OutputLost(why)) => bail!("cannot write the output: {why}"),
            Event::Asked(Request::Signal(number)) => {
                session.finish(|| true);
                signals::end_by(number);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
