//! What can be asked at a break, whoever asks: the console's prompt or a client of the control socket.

use trapline_machine::debug::{BreakError, Client, Listener, Stopped};
use trapline_machine::{Control, State};

/// What there is to be typed.
const HELP: &str = "
  c  go on, to the next break                  (also continue)
  s  go on to the next access of this vCPU     (also step)
  d  go on without breaks                      (also detach, Ctrl-d)
  b NAME[:REGISTER][=r|w|rw][,value=N]  stop there, too
  l  list the breaks;  n NUMBER  no longer stop at that one
  r  tell it all again;  h  this
";

/// The prompt.
pub(crate) const PROMPT: &str = "(break) ";

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// To go on.
    Continue,
    /// To go on to the next access.
    Step,
    /// To go on without breaks.
    Detach,
    /// To stop there, too.
    Break(String),
    /// To list the breaks.
    List,
    /// No longer to stop at this one.
    Remove(u64),
    /// To tell it all again.
    Report,
    /// To tell what there is to be typed.
    Help,
}

impl Command {
    /// The command on a line; an empty one is the last again, if that was to go on.
    fn parse(line: &str, last: &Self) -> Result<Self, String> {
        let line = line.trim();
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let command = match (word, rest.trim()) {
            ("", "") => last.clone(),
            ("c" | "continue", "") => Self::Continue,
            ("s" | "step", "") => Self::Step,
            ("d" | "detach", "") => Self::Detach,
            ("b" | "break", place) if !place.is_empty() => Self::Break(place.to_owned()),
            ("l" | "list", "") => Self::List,
            ("n" | "no", number) => match number.parse() {
                Ok(number) => Self::Remove(number),
                Err(_) => return Err(format!("n {number}: which break? l lists them")),
            },
            ("r" | "report", "") => Self::Report,
            ("h" | "help" | "?", "") => Self::Help,
            _ => return Err(format!("{line}: no such command; h tells those that there are")),
        };
        Ok(command)
    }
}

/// What has come of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// What there is to say: lines.
    pub(crate) text: String,
    /// The guest is to go on ([`Debugger::go_on`]).
    pub(crate) goes_on: bool,
}

impl Answer {
    fn stay(text: impl Into<String>) -> Self {
        Self { text: text.into(), goes_on: false }
    }

    fn go(text: &str) -> Self {
        Self { text: text.to_owned(), goes_on: true }
    }
}

/// One who has breaks. Dropping it takes them away, and has the guest go on if it stands still because of
/// them.
pub(crate) struct Debugger {
    control: Control,
    client: Client,
    /// Why the guest stands still, if it does because of us.
    stopped: Option<Stopped>,
    last: Command,
}

impl Debugger {
    /// One without breaks; `listener` hears of stops.
    pub(crate) fn new(control: &Control, listener: Listener) -> Self {
        let client = control.debug().client(false, listener);
        Self { control: control.clone(), client, stopped: None, last: Command::Continue }
    }

    /// Has the guest stop there.
    pub(crate) fn add(&self, place: &str) -> Result<u64, BreakError> {
        self.client.add(place)
    }

    /// The guest stopped: all there is to say of that.
    pub(crate) fn stop(&mut self, stopped: Stopped) -> String {
        let report = self.report(&stopped);
        self.stopped = Some(stopped);
        report
    }

    /// Whether it stopped, and nobody has had it go on since.
    pub(crate) fn stands(&self) -> bool {
        self.stopped.is_some() && self.control.state() == State::Paused
    }

    /// Does what was typed.
    pub(crate) fn obey(&mut self, line: &str) -> Answer {
        let command = match Command::parse(line, &self.last) {
            Ok(command) => command,
            Err(wrong) => return Answer::stay(wrong + "\n"),
        };
        if matches!(command, Command::Continue | Command::Step) {
            self.last = command.clone();
        }
        match command {
            Command::Continue | Command::Step | Command::Report if !self.stands() => {
                Answer::stay("  # The guest runs, and stops at the next break.\n")
            }
            Command::Continue => Answer::go(""),
            Command::Step => {
                let vcpu = self.stopped.as_ref().and_then(|stopped| stopped.hits.first()?.vcpu);
                match self.client.step(vcpu) {
                    Ok(()) => Answer::go(""),
                    Err(error) => Answer::stay(format!("{error}\n")),
                }
            }
            Command::Detach => {
                self.client.clear();
                Answer::go("  # The guest goes on, without breaks.\n")
            }
            Command::Break(place) => Answer::stay(match self.client.add(&place) {
                Ok(number) => format!("break {number}: {place}\n"),
                Err(error) => format!("{error}\n"),
            }),
            Command::List => Answer::stay(self.list()),
            Command::Remove(number) if self.client.remove(number) => Answer::stay(""),
            Command::Remove(number) => {
                Answer::stay(format!("n {number}: there is no such break\n"))
            }
            Command::Report => {
                let stopped = self.stopped.as_ref();
                Answer::stay(stopped.map_or_else(String::new, |stopped| self.report(stopped)))
            }
            Command::Help => Answer::stay(HELP),
        }
    }

    /// Has the guest go on, if it stands still because of us.
    pub(crate) fn go_on(&mut self) {
        if self.stopped.take().is_some() {
            // One that has ended meanwhile says so itself.
            let _ = self.control.resume();
        }
    }

    /// Forgets why the guest stood still.
    pub(crate) fn forget(&mut self) {
        self.stopped = None;
    }

    /// The breaks, a line each.
    pub(crate) fn list(&self) -> String {
        let breaks = self.client.list();
        let lines: String =
            breaks.iter().map(|(number, place)| format!("  {number}  {place}\n")).collect();
        if lines.is_empty() { "there are no breaks\n".to_owned() } else { lines }
    }

    /// All there is to say of the vCPUs that stopped.
    fn report(&self, stopped: &Stopped) -> String {
        let stopped = stopped.clone();
        let told = self.control.inspect(move |standing| standing.tell(&stopped));
        told.unwrap_or_else(|error| format!("  # {error}\n"))
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        // It may have been told of a stop that nobody has read of.
        if self.client.close() {
            // One that has ended meanwhile says so itself.
            let _ = self.control.resume();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_letter_or_a_word() {
        let parse = |line: &str| Command::parse(line, &Command::Step);
        assert_eq!(parse("c"), Ok(Command::Continue));
        assert_eq!(parse(" continue "), Ok(Command::Continue));
        assert_eq!(parse(""), Ok(Command::Step), "once more");
        assert_eq!(parse("b  serial0:LCR=w"), Ok(Command::Break("serial0:LCR=w".to_owned())));
        assert_eq!(parse("n 3"), Ok(Command::Remove(3)));
        assert_eq!(parse("n x"), Err("n x: which break? l lists them".to_owned()));
        for line in ["x", "c 1", "b", "continue now"] {
            let told = parse(line).unwrap_err();
            assert!(told.ends_with("no such command; h tells those that there are"), "{told}");
        }
    }
}
