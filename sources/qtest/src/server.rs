//! One client's session: commands in, answers and interrupts out.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use trapline::{AddressSpace, Handle, Registry};
use trapline_device::{Clock, PowerEvent, Space};
use trapline_guestmem::GuestMem;

use crate::clock::{Advance, VirtualClock};
use crate::memory::{GuestRam, pages};
use crate::parse::{Command, DATA_MAX, Encoding, parse};
use crate::wires::{Side, Wires};

/// The longest line with a sense: a block in hexadecimal, and some words before it.
const LINE_MAX: u64 = 2 * DATA_MAX as u64 + 256;
/// The most devices one command wakes.
const WAKES_MAX: u32 = 1 << 22;
/// The clock counts up to here, as QEMU's does.
const TIME_MAX: u64 = i64::MAX as u64;

/// The machine a session drives.
pub trait Target {
    /// Where accesses go that are not to RAM.
    fn registry(&self) -> &Registry;

    /// The machine's RAM.
    fn ram(&self) -> &GuestMem;

    /// The machine's only clock.
    fn clock(&self) -> &VirtualClock;

    /// The pins a client can watch and drive.
    fn wires(&self) -> &Wires;

    /// A table about a part of the machine, `what` being the client's word; `None` if there is no
    /// such part.
    fn info(&self, _what: &str) -> Option<String> {
        None
    }

    /// Has back ends do what there is to do: handles the doorbells that were rung and the
    /// descriptors of the host's that are ready. Called after each command and each deadline of a
    /// step, before the client is told of interrupts.
    fn run_back_ends(&self) {}

    /// Called with no device running: resets the machine if that was asked for since the last
    /// call; returns the request that ends it, if there was one.
    fn settle(&self) -> Option<PowerEvent>;
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client has gone.
    Closed,
    /// The machine was switched off, or ended with a status.
    Machine(PowerEvent),
}

/// A machine and its way in, for one client after the other.
pub struct Session<'a, T> {
    target: &'a T,
    handle: Handle,
}

impl<'a, T: Target> Session<'a, T> {
    /// A session with `target`.
    pub fn new(target: &'a T) -> Self {
        Self { target, handle: target.registry().handle(0) }
    }

    /// Serves one client until it goes or the machine ends. The machine stays as it is; the next
    /// client finds it so, but has to ask for interrupts itself.
    ///
    /// # Errors
    /// The client cannot be read from or written to, other than by its going away.
    pub fn run(&mut self, input: impl Read, output: impl Write) -> io::Result<End> {
        let served = self.serve(input, output);
        self.target.wires().watch(None);
        match served {
            Err(error) if has_gone(&error) => Ok(End::Closed),
            served => served,
        }
    }

    fn serve(&mut self, input: impl Read, output: impl Write) -> io::Result<End> {
        let mut input = BufReader::new(input);
        let ram = Arc::new(GuestRam::new(self.target.ram()));
        let space = AddressSpace::new(self.target.registry(), ram);
        let mut client = Client { target: self.target, space, output: BufWriter::new(output) };
        loop {
            let told = match read_line(&mut input)? {
                Input::Closed => return Ok(End::Closed),
                Input::TooLong => client.say("FAIL The line is too long"),
                Input::Line(line) => client.answer(&mut self.handle, &line),
            };
            // The machine may have ended though the client does not hear of it any more.
            let end = self.target.settle();
            let told = told.and_then(|()| client.tell_changes());
            let told = told.and_then(|()| client.output.flush());
            if let Some(event) = end {
                return Ok(End::Machine(event));
            }
            told?;
        }
    }
}

/// Whether a client that is read or written to is gone, with what it was told unread perhaps.
pub(crate) fn has_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}

enum Input {
    Line(String),
    TooLong,
    Closed,
}

/// The next whole line without its end. What is not UTF-8 in it is replaced.
fn read_line(input: &mut impl BufRead) -> io::Result<Input> {
    let mut line = Vec::new();
    input.take(LINE_MAX).read_until(b'\n', &mut line)?;
    if line.pop_if(|last| *last == b'\n').is_some() {
        return Ok(Input::Line(String::from_utf8_lossy(&line).into_owned()));
    }
    if (line.len() as u64) < LINE_MAX {
        return Ok(Input::Closed);
    }
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let len = end.map_or(buffer.len(), |at| at + 1);
        if len == 0 {
            return Ok(Input::Closed);
        }
        input.consume(len);
        if end.is_some() {
            return Ok(Input::TooLong);
        }
    }
}

struct Client<'a, T, W: Write> {
    target: &'a T,
    /// RAM, and the registry where there is none.
    space: AddressSpace,
    output: BufWriter<W>,
}

impl<T: Target, W: Write> Client<'_, T, W> {
    fn say(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.output, "{text}")
    }

    /// Interrupts come before the answer to the command that made them.
    fn tell_changes(&mut self) -> io::Result<()> {
        for (number, level) in self.target.wires().take_changes() {
            let verb = if level { "raise" } else { "lower" };
            writeln!(self.output, "IRQ {verb} {number}")?;
        }
        Ok(())
    }

    fn answer(&mut self, handle: &mut Handle, line: &str) -> io::Result<()> {
        let reply = match parse(line) {
            Ok(command) => self.perform(handle, command)?,
            Err(refusal) => format!("FAIL {refusal}"),
        };
        self.target.run_back_ends();
        self.tell_changes()?;
        self.say(&reply)
    }

    /// Does what a command says; returns the answer.
    fn perform(&mut self, handle: &mut Handle, command: Command) -> io::Result<String> {
        let ok = || "OK".to_owned();
        Ok(match command {
            Command::In { port, size } => {
                format!("OK {:#06x}", handle.read_value(Space::Pio, port.into(), size))
            }
            Command::Out { port, size, value } => {
                handle.write_value(Space::Pio, port.into(), size, value);
                ok()
            }
            Command::Read { addr, size } => {
                let mut data = [0; 8];
                let piece = data.get_mut(..size.bytes()).unwrap_or_default();
                self.space.guest_read(handle, addr, piece);
                format!("OK {:#018x}", u64::from_le_bytes(data))
            }
            Command::Write { addr, size, value } => {
                let data = value.to_le_bytes();
                let piece = data.get(..size.bytes()).unwrap_or_default();
                self.space.guest_write(handle, addr, piece);
                ok()
            }
            Command::ReadBlock { addr, len, encoding } => self.read_block(addr, len, encoding)?,
            Command::WriteBlock { addr, data } => {
                self.write_block(addr, data.len() as u64, |at, piece| {
                    let from = data.get(at..).unwrap_or_default();
                    piece.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                })?;
                ok()
            }
            Command::Fill { addr, len, byte } => {
                self.write_block(addr, len, |_, piece| piece.fill(byte))?;
                ok()
            }
            Command::ClockStep(step) => self.step(step)?,
            Command::ClockSet(to_ns) => self.set_clock(to_ns)?,
            Command::Intercept { device, side, group } => self.intercept(&device, side, group),
            Command::SetIrq { device, group, number, level } => {
                self.set_irq(&device, &group, number, level)
            }
            Command::Endianness => "OK little".to_owned(),
            Command::Info(what) => self.info(&what)?,
        })
    }

    fn read_block(&mut self, addr: u64, len: usize, encoding: Encoding) -> io::Result<String> {
        let mut data = vec![0; len];
        let mut rest = data.as_mut_slice();
        for (addr, len) in pages(addr, len as u64) {
            let (piece, after) = rest.split_at_mut_checked(len).unwrap_or_default();
            self.space.read(addr, piece);
            rest = after;
            self.tell_changes()?;
        }
        Ok(match encoding {
            Encoding::Hex => hex(&data),
            Encoding::Base64 => format!("OK {}", STANDARD.encode(data)),
        })
    }

    /// Writes what `fill` puts into each piece, given how far into the block it is.
    fn write_block(
        &mut self,
        addr: u64,
        len: u64,
        fill: impl Fn(usize, &mut [u8]),
    ) -> io::Result<()> {
        let (mut at, mut page) = (0, [0; 4096]);
        for (addr, len) in pages(addr, len) {
            let piece = page.get_mut(..len).unwrap_or_default();
            fill(at, piece);
            self.space.write(addr, piece);
            at += len;
            self.tell_changes()?;
        }
        Ok(())
    }

    fn step(&mut self, step: Option<u64>) -> io::Result<String> {
        let now = self.target.clock().now_ns();
        let to_ns = match step {
            Some(ns) => now.saturating_add(ns),
            None => match self.target.clock().next_deadline_ns() {
                Some(deadline) => deadline,
                None => return Ok("FAIL There is no deadline to step to".to_owned()),
            },
        };
        self.advance(to_ns.min(TIME_MAX))
    }

    fn set_clock(&mut self, to_ns: u64) -> io::Result<String> {
        let now = self.target.clock().now_ns();
        if to_ns < now || to_ns > TIME_MAX {
            return Ok(format!("FAIL {now}"));
        }
        self.advance(to_ns)
    }

    fn advance(&mut self, to_ns: u64) -> io::Result<String> {
        let clock = self.target.clock().clone();
        let (mut left, mut told) = (WAKES_MAX, Ok(()));
        let end = clock.advance(to_ns, || {
            self.target.run_back_ends();
            told = self.tell_changes();
            left -= 1;
            if told.is_ok() && left > 0 {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        told?;
        let now = clock.now_ns();
        Ok(match end {
            Advance::Done => format!("OK {now}"),
            Advance::BrokenOff => format!("FAIL {now} after {WAKES_MAX} deadlines"),
        })
    }

    /// A table, line by line before the answer.
    fn info(&mut self, what: &str) -> io::Result<String> {
        let Some(table) = self.target.info(what) else {
            return Ok("FAIL No such part".to_owned());
        };
        for line in table.lines() {
            self.say(&format!("INFO {line}"))?;
        }
        Ok("OK".to_owned())
    }

    /// As in QEMU, the first device a client asks for is the only one.
    fn intercept(&self, path: &str, side: Side, group: Option<String>) -> String {
        let wires = self.target.wires();
        let Some(device) = wires.device(path) else { return "FAIL Unknown device".to_owned() };
        if group.is_some_and(|group| group != UNNAMED_IN && group != UNNAMED_OUT)
            || !wires.has(device, side)
        {
            return "FAIL No such pins".to_owned();
        }
        match wires.watched() {
            Some(watched) if watched != (device, side) => {
                return "FAIL Another device is intercepted already".to_owned();
            }
            Some(_) => {}
            None => wires.watch(Some((device, side))),
        }
        "OK".to_owned()
    }

    fn set_irq(&self, path: &str, group: &str, number: u32, level: bool) -> String {
        let wires = self.target.wires();
        let Some(device) = wires.device(path) else { return "FAIL Unknown device".to_owned() };
        if group != UNNAMED_IN || !wires.drive(device, number, level) {
            return "FAIL No such pin".to_owned();
        }
        "OK".to_owned()
    }
}

/// What QEMU calls pins without a name.
const UNNAMED_IN: &str = "unnamed-gpio-in";
const UNNAMED_OUT: &str = "unnamed-gpio-out";

fn hex(data: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().map_or('0', char::from);
    let mut text = String::with_capacity(2 * data.len() + 5);
    text.push_str("OK 0x");
    for byte in data {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 0xf));
    }
    text
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
