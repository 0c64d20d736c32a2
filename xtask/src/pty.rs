//! A person at a terminal: a program on a pseudo terminal, typed to when it says something.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::write;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};

use crate::session::{Owned, Printed, Show, Transcript, keep, last_lines};

/// When this appears (after what the step before saw), type that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// The text to wait for.
    pub(crate) seen: &'static str,
    /// The keys to type then.
    pub(crate) typed: &'static str,
}

/// Runs the program on a terminal of its own and goes through the steps. Afterwards the terminal
/// must be as it was before.
pub(crate) fn run(
    name: &str,
    command: &mut Command,
    steps: &[Step],
    timeout: Duration,
) -> Result<Transcript> {
    let (master, slave) = pair().context("Cannot make a pseudo terminal")?;
    let before = tcgetattr(&slave)?;
    for set in [Command::stdin, Command::stdout, Command::stderr] {
        set(command, Stdio::from(slave.try_clone()?));
    }
    let mut child = Owned::spawn(command)?;
    // Close the copies that `command` keeps for another spawn.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let printed = Printed::default();
    let reader = printed.fill(File::from(master.try_clone()?), Show::Nothing);
    let mut script = Script { steps, next: 0, from: 0 };
    let waited = child.wait(Some(timeout), || script.advance(&printed.text(), master.as_fd()));
    let after = tcgetattr(&slave);
    drop((child, slave));
    let _ = reader.join();
    let text = printed.text();
    keep(name, &text);
    let status = match waited {
        Ok(status) => status,
        Err(error) => bail!("{error}{}; last lines:\n{}", script.waiting(), last_lines(&text)),
    };
    script.advance(&text, master.as_fd())?;
    if script.next < steps.len() {
        bail!("it ended{}; last lines:\n{}", script.waiting(), last_lines(&text));
    }
    same_terminal(&before, &after?)?;
    Ok(Transcript { text, status })
}

fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = open(ptsname(&master, Vec::new())?, flags, Mode::empty())?;
    Ok((master, slave))
}

fn same_terminal(before: &Termios, after: &Termios) -> Result<()> {
    let sane = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
    if !after.local_modes.contains(sane) {
        bail!("the terminal was left without {:?}", sane.difference(after.local_modes));
    }
    if format!("{before:?}") != format!("{after:?}") {
        bail!("the terminal was left changed, from {before:?} to {after:?}");
    }
    Ok(())
}

struct Script<'a> {
    steps: &'a [Step],
    next: usize,
    from: usize,
}

impl Script<'_> {
    fn advance(&mut self, text: &str, master: std::os::fd::BorrowedFd<'_>) -> Result<()> {
        while let Some(step) = self.steps.get(self.next) {
            let rest = text.get(self.from..).unwrap_or_default();
            let Some(at) = rest.find(step.seen) else { return Ok(()) };
            self.from += at + step.seen.len();
            self.next += 1;
            if !step.typed.is_empty() {
                write(master, step.typed.as_bytes())?;
            }
        }
        Ok(())
    }

    fn waiting(&self) -> String {
        match self.steps.get(self.next) {
            Some(step) => format!(" while waiting for {:?}", step.seen),
            None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn typed_text_reaches_the_program_in_order() {
        let steps = [
            Step { seen: "ready", typed: "6\n" },
            Step { seen: "again", typed: "7\n" },
            Step { seen: "42", typed: "" },
        ];
        let mut command = shell("echo ready; read a; echo again; read b; echo $((a*b)); exit 3");
        let done = run("pty-test", &mut command, &steps, LONG).unwrap();
        assert_eq!(done.status.code(), Some(3));
    }

    #[test]
    fn a_line_that_never_comes_fails_by_name() {
        let steps = [Step { seen: "never", typed: "" }];
        let error =
            run("pty-test", &mut shell("echo other"), &steps, LONG).err().unwrap().to_string();
        assert!(error.contains("\"never\"") && error.contains("other"), "{error}");
    }

    #[test]
    fn a_terminal_left_raw_fails() {
        let error =
            run("pty-test", &mut shell("stty raw -echo"), &[], LONG).err().unwrap().to_string();
        assert!(error.contains("left without"), "{error}");
    }
}
