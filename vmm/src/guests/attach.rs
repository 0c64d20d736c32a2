//! `trapline break` and `trapline trace --follow`: who attaches to a guest that runs.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;
use std::sync::mpsc::channel;

use anyhow::Context;
use trapline_control::api::{
    BreakLine, BreaksRequest, PutBreakLine, PutBreaks, PutTrace, TraceRequest,
};
use trapline_control::{AskError, Client, GuestName};
use trapline_device::thread_builder;

use super::{one, say, say_on};
use crate::debug::PROMPT;
use crate::stream;

/// What is wanted of `break`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakOptions {
    /// The guest.
    pub name: GuestName,
    /// Where it is to stop at first.
    pub breaks: Vec<String>,
    /// Ends after so many stops; nobody is asked then.
    pub count: Option<u64>,
}

/// What is wanted of `trace --follow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowOptions {
    /// The guest.
    pub name: GuestName,
    /// Devices, regions, `unclaimed` or `all`; nothing is all.
    pub devices: Vec<String>,
    /// Ends after so many lines.
    pub lines: Option<u64>,
}

/// Prints the guest's accesses until it ends or nobody reads on.
///
/// # Errors
/// No guest, or nothing of that name in it.
pub fn follow(options: &FollowOptions) -> anyhow::Result<ExitCode> {
    let mut guest = one(&options.name)?;
    let request = TraceRequest { devices: options.devices.clone(), lines: options.lines };
    let mut said = Ok(true);
    guest.lines::<PutTrace>(&request, |line| {
        said = say_on(&format!("{}\n", line.access));
        if line.lost > 0 {
            let lost = line.lost;
            stream::message(&format!(
                "{lost} accesses are missing here, as nobody read them in time\n"
            ));
        }
        matches!(said, Ok(true))
    })?;
    said.map(|_| ExitCode::SUCCESS)
}

/// Stops the guest at breaks, and asks what to do; where nobody can be asked, it is told what stopped,
/// and the guest goes on.
pub(super) fn breaks(options: &BreakOptions) -> anyhow::Result<()> {
    let guest = one(&options.name)?;
    let asks = options.count.is_none() && std::io::stdin().is_terminal();
    let request = BreaksRequest { breaks: options.breaks.clone(), asks };
    if asks {
        ask(guest, one(&options.name)?, request)
    } else {
        tell(guest, &request, options.count)
    }
}

/// Prints what stopped the guest, until it ends, that is enough or nobody reads on.
fn tell(mut guest: Client, request: &BreaksRequest, count: Option<u64>) -> anyhow::Result<()> {
    let mut left = count;
    let mut said = Ok(true);
    guest.lines::<PutBreaks>(request, |event| {
        if event.stopped {
            said = say_on(&format!("{}\n", event.text));
            left = left.map(|left| left - 1);
        }
        matches!(said, Ok(true)) && left != Some(0)
    })?;
    said.map(|_| ())
}

/// The prompt. Stops are told by one connection, commands go by another.
fn ask(mut guest: Client, mut commands: Client, request: BreaksRequest) -> anyhow::Result<()> {
    let (begun, number) = channel();
    let listening = thread_builder("break").spawn(move || {
        let ended = guest.lines::<PutBreaks>(&request, |event| {
            let text = if event.stopped { format!("\n{}", event.text) } else { event.text };
            let said = say(&(text + PROMPT));
            let _ = begun.send(event.session);
            said.is_ok()
        });
        let name = guest.name();
        // The other thread waits for a line, which nobody needs to type any more.
        match ended {
            Ok(()) | Err(AskError::Ended(_)) => {
                stream::message(&format!("\n  # Guest {name} has ended.\n"));
                std::process::exit(0)
            }
            Err(error) => error,
        }
    });
    let listening = listening.context("cannot listen")?;
    let Ok(session) = number.recv() else {
        let refused = listening.join();
        return Err(refused.map_or_else(|_| anyhow::anyhow!("no answer"), anyhow::Error::from));
    };
    for line in std::io::stdin().lock().lines().chain([Ok("d".to_owned())]) {
        let line = line.context("cannot read the standard input")?;
        let detaches = matches!(line.trim(), "d" | "detach");
        let answer = commands.ask::<PutBreakLine>(&BreakLine { session, line })?;
        say(&answer.text)?;
        if detaches {
            return Ok(());
        }
        if !answer.goes_on {
            say(PROMPT)?;
        }
    }
    Ok(())
}
