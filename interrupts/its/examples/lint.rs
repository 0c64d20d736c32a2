//! Judges a driver by a recording of what it did.
//!
//! `lint FILE.jsonl` replays the recording and prints every finding with the command or signal it
//! is about, and the state of the ITS at the end. Ends with status 1 if there are findings.

#[path = "replay/machine.rs"]
mod machine;
#[path = "replay/player.rs"]
mod player;
#[path = "replay/ram.rs"]
mod ram;
#[path = "replay/record.rs"]
mod record;

use std::process::ExitCode;

use gicv3_its::command::Command;
use gicv3_its::lint::Linter;
use gicv3_its::{DeviceId, EventId};

/// Lines of findings printed; the rest is counted.
const LINES: u64 = 200;

#[derive(Default)]
struct Judge {
    linter: Linter,
    findings: u64,
}

impl Judge {
    fn say(&mut self, line: u64, what: &str, findings: &[gicv3_its::lint::Finding]) {
        for finding in findings {
            self.findings += 1;
            if self.findings <= LINES {
                println!("{line}: {what}: {finding}");
            }
        }
    }
}

impl player::Observer for Judge {
    fn reset(&mut self) {
        self.linter = Linter::new();
    }

    fn command(&mut self, line: u64, command: &Command) {
        let findings = self.linter.decoded(command);
        self.say(line, &command.to_string(), &findings);
    }

    fn signal(&mut self, line: u64, device: DeviceId, event: EventId) {
        let findings = self.linter.signal(device, event);
        self.say(line, &format!("signal DeviceID={device} EventID={event}"), &findings);
    }

    fn end(&mut self, machine: &machine::Machine) {
        print!("{}", machine.its.report(&machine.ram, 1 << 20));
    }
}

fn main() -> ExitCode {
    let Some(file) = std::env::args().nth(1) else {
        eprintln!("usage: lint FILE.jsonl");
        return ExitCode::from(2);
    };
    let mut judge = Judge::default();
    let result = std::fs::read_to_string(&file)
        .map_err(|error| error.to_string())
        .and_then(|text| player::play_with(&text, &mut judge));
    if let Err(error) = result {
        eprintln!("{file}:{error}");
        return ExitCode::from(2);
    }
    println!("{} findings", judge.findings);
    ExitCode::from(u8::from(judge.findings > 0))
}
