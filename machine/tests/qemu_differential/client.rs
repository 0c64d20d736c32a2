//! A qtest client: a line out, interrupts and an answer in.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// One interrupt line's change.
pub(crate) type Change = (u32, bool);

pub(crate) struct Client {
    input: BufReader<UnixStream>,
    output: UnixStream,
    changes: Vec<Change>,
    table: Vec<String>,
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let input = BufReader::new(stream.try_clone().unwrap());
        Self { input, output: stream, changes: Vec::new(), table: Vec::new() }
    }

    /// Sends a command that must succeed; what follows `OK`.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.output.write_all(format!("{command}\n").as_bytes()).unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.input.read_line(&mut line).unwrap(), 0, "{command}: no answer");
            let line = line.trim_end();
            match line.split_once(' ').unwrap_or((line, "")) {
                ("OK", rest) => return rest.to_owned(),
                ("IRQ", change) => {
                    let (verb, number) = change.split_once(' ').unwrap();
                    self.changes.push((number.parse().unwrap(), verb == "raise"));
                }
                ("INFO", text) => self.table.push(text.to_owned()),
                _ => panic!("{command}: {line}"),
            }
        }
    }

    /// Sends a command whose answer is a hexadecimal number.
    pub(crate) fn number(&mut self, command: &str) -> u64 {
        let answer = self.ask(command);
        u64::from_str_radix(answer.trim_start_matches("0x"), 16).unwrap()
    }

    /// Asks for a table; its lines.
    #[allow(dead_code, reason = "QEMU has none")]
    pub(crate) fn table(&mut self, part: &str) -> Vec<String> {
        self.ask(&format!("info {part}"));
        std::mem::take(&mut self.table)
    }

    /// The interrupts that came with the answers since the last call.
    #[allow(dead_code, reason = "not every device has any")]
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }
}
