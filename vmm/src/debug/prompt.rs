//! The prompt at a break: what stopped, where, and what to do now. Its thread asks the machine, which
//! must not wait for it.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::Context;
use trapline_device::thread_builder;
use trapline_machine::debug::{Client, Stopped};
use trapline_machine::{Control, State};

use super::line::{Line, Typed};
use crate::console::Console;

/// What there is to be typed.
const HELP: &str = "
  c  go on, to the next break                  (also continue)
  s  go on to the next access of this vCPU     (also step)
  d  go on without breaks                      (also detach, Ctrl-d)
  b NAME[:REGISTER][=r|w|rw][,value=N]  stop there, too
  l  list the breaks;  n NUMBER  no longer stop at that one
  r  tell it all again;  h  this
";
const PROMPT: &str = "(break) ";

/// What reaches the prompt's thread.
enum Told {
    Stopped(Stopped),
    Typed(u8),
    End,
}

/// The prompt of one run. Dropping it ends it.
pub struct Prompt {
    tell: Sender<Told>,
    thread: Option<JoinHandle<()>>,
    console: Arc<Console>,
}

impl Prompt {
    /// Stops the guest at `breaks`. Without a terminal nobody can be asked: what stopped is told, and
    /// the guest goes on.
    ///
    /// # Errors
    /// What is wrong with a break, or that there is no thread.
    pub fn start(
        control: &Control,
        console: &Arc<Console>,
        breaks: &[String],
    ) -> anyhow::Result<Self> {
        let (tell, told) = channel();
        let listener = tell.clone();
        let client = control.debug().client(
            false,
            Arc::new(move |stopped| {
                let _ = listener.send(Told::Stopped(stopped.clone()));
            }),
        );
        for text in breaks {
            client.add(text).context("--break")?;
        }
        let interactive = std::io::stdin().is_terminal();
        let mut state = Prompting {
            control: control.clone(),
            console: Arc::clone(console),
            client,
            interactive,
            keys: tell.clone(),
            line: Line::default(),
            stopped: None,
            last: Command::Continue,
        };
        let thread = thread_builder("break").spawn(move || state.serve(&told));
        let thread = Some(thread.context("--break")?);
        Ok(Self { tell, thread, console: Arc::clone(console) })
    }
}

impl Drop for Prompt {
    /// The machine does not run any more, so whatever is asked of it is answered.
    fn drop(&mut self) {
        self.console.divert(None);
        let _ = self.tell.send(Told::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Command {
    Continue,
    Step,
    Detach,
    Break(String),
    List,
    Remove(u64),
    Report,
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

/// The prompt's thread.
struct Prompting {
    control: Control,
    console: Arc<Console>,
    client: Client,
    interactive: bool,
    /// Where keys go while somebody is asked.
    keys: Sender<Told>,
    line: Line,
    /// Why the guest stands still, if it does because of us.
    stopped: Option<Stopped>,
    last: Command,
}

impl Prompting {
    fn serve(&mut self, told: &Receiver<Told>) {
        while let Ok(told) = told.recv() {
            match told {
                Told::End => return,
                Told::Stopped(stopped) => self.stop(stopped),
                Told::Typed(byte) => self.typed(byte),
            }
        }
    }

    fn stop(&mut self, stopped: Stopped) {
        let report = self.report(&stopped);
        self.console.message(&format!("\n{report}"));
        if !self.interactive {
            self.go_on();
            return;
        }
        self.stopped = Some(stopped);
        let keys = self.keys.clone();
        self.console.divert(Some(Box::new(move |byte| drop(keys.send(Told::Typed(byte))))));
        self.console.message(PROMPT);
    }

    /// All there is to say of the vCPUs that stopped.
    fn report(&self, stopped: &Stopped) -> String {
        let stopped = stopped.clone();
        let told = self.control.inspect(move |standing| standing.tell(&stopped));
        told.unwrap_or_else(|error| format!("  # {error}\n"))
    }

    fn typed(&mut self, byte: u8) {
        if self.stopped.is_none() {
            return;
        }
        match self.line.feed(byte) {
            Typed::Nothing => {}
            Typed::Echo(text) => self.console.message(text),
            Typed::Letter(letter) => self.console.message(letter.encode_utf8(&mut [0; 4])),
            Typed::Cancelled => self.console.message(&format!("^C\n{PROMPT}")),
            Typed::End => self.obey(Command::Detach),
            Typed::Line(line) => {
                self.console.message("\n");
                match Command::parse(&line, &self.last) {
                    Ok(command) => self.obey(command),
                    Err(wrong) => self.console.message(&format!("{wrong}\n{PROMPT}")),
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        if matches!(command, Command::Continue | Command::Step) {
            self.last = command.clone();
        }
        // Somebody else, or Ctrl-a p, may have had it go on.
        if self.control.state() != State::Paused {
            self.end_asking();
            self.console.message("  # The guest does not stand still any more.\n");
            return;
        }
        let answer = match command {
            Command::Continue => return self.go_on(),
            Command::Step => {
                let vcpu = self.stopped.as_ref().and_then(|stopped| stopped.hits.first()?.vcpu);
                match self.client.step(vcpu) {
                    Ok(()) => return self.go_on(),
                    Err(error) => format!("{error}\n"),
                }
            }
            Command::Detach => {
                self.client.clear();
                self.console.message("  # The guest goes on, without breaks.\n");
                return self.go_on();
            }
            Command::Break(place) => match self.client.add(&place) {
                Ok(number) => format!("break {number}: {place}\n"),
                Err(error) => format!("{error}\n"),
            },
            Command::List => self.list(),
            Command::Remove(number) if self.client.remove(number) => String::new(),
            Command::Remove(number) => format!("n {number}: there is no such break\n"),
            Command::Report => {
                self.stopped.as_ref().map_or_else(String::new, |stopped| self.report(stopped))
            }
            Command::Help => HELP.to_owned(),
        };
        self.console.message(&format!("{answer}{PROMPT}"));
    }

    fn list(&self) -> String {
        let breaks = self.client.list();
        let lines: String =
            breaks.iter().map(|(number, place)| format!("  {number}  {place}\n")).collect();
        if lines.is_empty() { "there are no breaks\n".to_owned() } else { lines }
    }

    fn go_on(&mut self) {
        self.end_asking();
        // One that has ended meanwhile says so itself.
        let _ = self.control.resume();
    }

    fn end_asking(&mut self) {
        self.stopped = None;
        self.line = Line::default();
        self.console.divert(None);
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
