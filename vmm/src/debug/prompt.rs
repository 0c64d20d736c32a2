//! The prompt at a break on the guest's own terminal: what stopped, where, and what to do now. Its thread
//! asks the machine, which must not wait for it.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::Context;
use trapline_device::thread_builder;
use trapline_machine::Control;
use trapline_machine::debug::Stopped;

use super::debugger::{Debugger, PROMPT};
use super::line::{Line, Typed};
use crate::console::Console;

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
        let debugger = Debugger::new(
            control,
            Arc::new(move |stopped| {
                let _ = listener.send(Told::Stopped(stopped.clone()));
            }),
        );
        for text in breaks {
            debugger.add(text).context("--break")?;
        }
        let interactive = std::io::stdin().is_terminal();
        let (console_of_it, keys) = (Arc::clone(console), tell.clone());
        let line = Line::default();
        let mut state = Prompting { debugger, console: console_of_it, interactive, keys, line };
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

/// The prompt's thread.
struct Prompting {
    debugger: Debugger,
    console: Arc<Console>,
    interactive: bool,
    /// Where keys go while somebody is asked.
    keys: Sender<Told>,
    line: Line,
}

impl Prompting {
    fn serve(&mut self, told: &Receiver<Told>) {
        let mut asking = false;
        while let Ok(told) = told.recv() {
            match told {
                Told::End => return,
                Told::Stopped(stopped) => asking = self.stop(stopped),
                Told::Typed(byte) if asking => asking = self.typed(byte),
                Told::Typed(_) => {}
            }
        }
    }

    /// Says what stopped; whether somebody is asked now.
    fn stop(&mut self, stopped: Stopped) -> bool {
        let report = self.debugger.stop(stopped);
        self.console.message(&format!("\n{report}"));
        if !self.interactive {
            self.debugger.go_on();
            return false;
        }
        let keys = self.keys.clone();
        self.console.divert(Some(Box::new(move |byte| drop(keys.send(Told::Typed(byte))))));
        self.console.message(PROMPT);
        true
    }

    /// Takes a key; whether somebody is still asked.
    fn typed(&mut self, byte: u8) -> bool {
        match self.line.feed(byte) {
            Typed::Nothing => {}
            Typed::Echo(text) => self.console.message(text),
            Typed::Letter(letter) => self.console.message(letter.encode_utf8(&mut [0; 4])),
            Typed::Cancelled => self.console.message(&format!("^C\n{PROMPT}")),
            Typed::End => return self.obey("d"),
            Typed::Line(line) => {
                self.console.message("\n");
                return self.obey(&line);
            }
        }
        true
    }

    fn obey(&mut self, line: &str) -> bool {
        // Somebody else, or Ctrl-a p, may have had it go on.
        if !self.debugger.stands() {
            self.debugger.forget();
            self.end_asking();
            self.console.message("  # The guest does not stand still any more.\n");
            return false;
        }
        let answer = self.debugger.obey(line);
        self.console.message(&answer.text);
        if answer.goes_on {
            self.end_asking();
            self.debugger.go_on();
        } else {
            self.console.message(PROMPT);
        }
        !answer.goes_on
    }

    fn end_asking(&mut self) {
        self.line = Line::default();
        self.console.divert(None);
    }
}
