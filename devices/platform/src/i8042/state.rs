//! Everything a snapshot of the controller, its keyboard and its mouse keeps.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use trapline_device::{StateError, saved_form};

use super::regs::{CommandByte, OutputPort, PortB, command, keyboard, mouse, ps2};
use super::set3::KeySet;

/// A byte in the output buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The byte.
    pub byte: u8,
    /// Whether it counts as the auxiliary device's.
    pub aux: bool,
    /// Whether it is the controller's answer to a command.
    pub answer: bool,
}

/// What status bits 7:4 show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Poll {
    /// The status.
    #[default]
    Off,
    /// Input port bits 3:0.
    Low,
    /// Input port bits 7:4.
    High,
}

/// The controller with both devices.
#[derive(Clone, Debug)]
pub struct State {
    /// Byte 0 of the RAM.
    pub command_byte: CommandByte,
    /// The status register's system flag: what the command byte last said, or 1 since a self-test.
    pub system: bool,
    /// The RAM. Byte 0 is not used.
    pub ram: [u8; 32],
    /// The output buffer; keeps its byte after it was read.
    pub output: Output,
    /// Whether the output buffer holds a byte that was not read yet.
    pub output_full: bool,
    /// A device's byte that an answer took the output buffer from. It goes back there next.
    pub displaced: Option<Output>,
    /// A command that waits for its argument.
    pub pending: Option<u8>,
    /// Whether the last write was a command.
    pub last_was_command: bool,
    /// What status bits 7:4 show.
    pub poll: Poll,
    /// The output port, but for its interrupt bits.
    pub output_port: OutputPort,
    /// A break prefix was swallowed by the translation.
    pub translating_break: bool,
    /// Port B's written bits.
    pub port_b: PortB,
    /// The keyboard.
    pub keyboard: Keyboard,
    /// The mouse.
    pub mouse: Mouse,
}

impl Default for State {
    fn default() -> Self {
        Self {
            command_byte: CommandByte::POWER_ON,
            system: CommandByte::POWER_ON.system(),
            ram: [0; 32],
            output: Output::default(),
            output_full: false,
            displaced: None,
            pending: None,
            last_was_command: true,
            poll: Poll::Off,
            output_port: OutputPort::new(),
            translating_break: false,
            port_b: PortB::new(),
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }
}

/// The scan codes a keyboard sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScanSet {
    /// Set 1: the PC's and PC/XT's.
    One = 1,
    /// Set 2: the AT's.
    Two = 2,
    /// Set 3: the 3270 PC's, one byte for every key.
    Three = 3,
}

/// The keyboard. `default()` is power-on, after its self-test.
#[derive(Clone, Debug)]
pub struct Keyboard {
    /// Scan codes not sent yet, at most [`keyboard::BUFFER_LEN`] and an overrun code.
    pub codes: VecDeque<u8>,
    /// Answers to the last command not sent yet, at most three. They go first.
    pub answers: VecDeque<u8>,
    /// The last byte sent.
    pub last: u8,
    /// A command that waits for its argument.
    pub pending: Option<u8>,
    /// Whether keys are scanned.
    pub enabled: bool,
    /// The scan code set in use.
    pub set: ScanSet,
    /// LEDs: bit 0 scroll lock, 1 num lock, 2 caps lock.
    pub leds: u8,
    /// Typematic rate and delay, as set.
    pub rate: u8,
    /// The key that repeats: the last one pressed, while it is held.
    pub repeat: Option<Repeat>,
    /// The keys that repeat in set 3.
    pub typematic: KeySet,
    /// The keys that send break codes in set 3.
    pub breaks: KeySet,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self {
            codes: VecDeque::with_capacity(keyboard::BUFFER_LEN + 1),
            answers: VecDeque::with_capacity(4),
            last: 0,
            pending: None,
            enabled: true,
            set: ScanSet::Two,
            leds: 0,
            rate: keyboard::DEFAULT_RATE,
            repeat: None,
            typematic: KeySet::DEFAULT_TYPEMATIC,
            breaks: KeySet::DEFAULT_BREAKS,
        }
    }
}

/// A key that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// Its code in set 2, behind the prefix 0xe0 or not.
    pub code: u8,
    /// Whether the prefix is there.
    pub extended: bool,
    /// When it is sent next, in machine time.
    pub at_ns: u64,
}

/// The mouse. `default()` is power-on, after its self-test.
#[derive(Clone, Debug)]
pub struct Mouse {
    /// Bytes not sent yet: answers to the last command or one report, at most four.
    pub out: VecDeque<u8>,
    /// The last answer or report without its acknowledgement, for a resend.
    pub last: VecDeque<u8>,
    /// A command that waits for its argument.
    pub pending: Option<u8>,
    /// The last byte from the system was not valid.
    pub erred: bool,
    /// Whether stream mode reports.
    pub enabled: bool,
    /// Remote mode.
    pub remote: bool,
    /// Wrap mode.
    pub wrap: bool,
    /// Scaling 2:1.
    pub scaling_2: bool,
    /// Resolution, 0 to 3.
    pub resolution: u8,
    /// Sample rate in reports/s.
    pub rate: u8,
    /// Buttons held: bit 0 left, 1 right, 2 middle.
    pub buttons: u8,
    /// Buttons as last reported.
    pub reported_buttons: u8,
    /// Movement not reported yet, right positive.
    pub x: Counter,
    /// Movement not reported yet, up positive.
    pub y: Counter,
}

/// A movement counter of the mouse: nine bits, which stay at the end that they have reached (AUX,
/// "Data Report").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// The movement, in counts.
    pub counts: i16,
    /// Whether there was more.
    pub overflow: bool,
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            out: VecDeque::with_capacity(4),
            last: VecDeque::with_capacity(4),
            pending: None,
            erred: false,
            enabled: false,
            remote: false,
            wrap: false,
            scaling_2: false,
            resolution: mouse::DEFAULT_RESOLUTION,
            rate: mouse::DEFAULT_RATE,
            buttons: 0,
            reported_buttons: 0,
            x: Counter::default(),
            y: Counter::default(),
        }
    }
}

saved_form! {
    /// [`State`], version 2: the mouse's counters have nine bits and an overflow.
    pub(super) struct SavedV2 of State, "i8042" version 2 {
        command_byte: u8,
        system: bool,
        ram: [u8; 32],
        output: OutputV1,
        output_full: bool,
        displaced: Option<OutputV1> => each,
        pending: Option<u8>,
        last_was_command: bool,
        poll: Poll,
        output_port: u8,
        translating_break: bool,
        port_b: u8,
        keyboard: KeyboardV1,
        mouse: MouseV2,
    }
}

saved_form! {
    struct OutputV1 of Output {
        byte: u8,
        aux: bool,
        answer: bool,
    }
}

saved_form! {
    struct KeyboardV1 of Keyboard {
        codes: Vec<u8>,
        answers: Vec<u8>,
        last: u8,
        pending: Option<u8>,
        enabled: bool,
        set: ScanSet,
        leds: u8,
        rate: u8,
        repeat: Option<RepeatV1> => each,
        typematic: [u64; 4],
        breaks: [u64; 4],
    }
}

saved_form! {
    struct RepeatV1 of Repeat {
        code: u8,
        extended: bool,
        at_ns: u64,
    }
}

saved_form! {
    struct MouseV2 of Mouse {
        out: Vec<u8>,
        last: Vec<u8>,
        pending: Option<u8>,
        erred: bool,
        enabled: bool,
        remote: bool,
        wrap: bool,
        scaling_2: bool,
        resolution: u8,
        rate: u8,
        buttons: u8,
        reported_buttons: u8,
        x: CounterV2,
        y: CounterV2,
    }
}

saved_form! {
    struct CounterV2 of Counter {
        counts: i16,
        overflow: bool,
    }
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let Self { command_byte, output_port, port_b, .. } = *self;
        let check = StateError::check::<SavedV2>;
        let byte = CommandByte::from_guest(command_byte.into_bits()) == command_byte;
        check(byte, "bit 7 of the command byte is 0")?;
        let [unused, ..] = self.ram;
        check(unused == 0, "byte 0 of the RAM is the command byte")?;
        let answered = self.output_full && self.output.answer;
        let displaced = self.displaced.is_none_or(|output| answered && !output.answer);
        check(displaced, "a device's byte waits behind an answer")?;
        let waits = self.pending.is_none_or(command::has_argument);
        check(waits, "a command that waits for its argument has one")?;
        let polls = self.poll != Poll::Off;
        let after_command = self.last_was_command || (self.pending.is_none() && !polls);
        check(after_command, "data ends a command and a poll")?;
        check(!polls || self.pending.is_none(), "a poll has no argument")?;
        let port = output_port.run() && !output_port.irq1() && !output_port.irq12();
        check(port, "the output port runs the processor and has no interrupt bits of its own")?;
        let translates = command_byte.translate() || !self.translating_break;
        check(translates, "only the translation swallows prefixes")?;
        let written = PortB::from_guest(port_b.into_bits()).into_bits() == port_b.into_bits();
        check(written, "four bits of port B are kept")?;
        self.keyboard.check()?;
        self.mouse.check()
    }
}

impl Keyboard {
    fn check(&self) -> Result<(), StateError> {
        let check = StateError::check::<SavedV2>;
        check(
            self.codes.len() <= keyboard::BUFFER_LEN + 1,
            "the keyboard's buffer has its length",
        )?;
        check(self.answers.len() <= keyboard::ANSWER_MAX, "an answer is three bytes at most")?;
        let waits = self.pending.is_none_or(keyboard::has_argument);
        check(waits, "a keyboard command that waits for its argument has one")?;
        check(self.repeat.is_none() || self.enabled, "a disabled keyboard repeats no key")?;
        check(self.leds & !0x07 == 0, "there are three LEDs")?;
        check(self.rate & 0x80 == 0, "rate and delay are seven bits")
    }
}

impl Mouse {
    fn check(&self) -> Result<(), StateError> {
        let check = StateError::check::<SavedV2>;
        check(self.out.len() <= mouse::OUT_MAX, "the mouse sends four bytes at most")?;
        check(self.last.len() < mouse::OUT_MAX, "a report is three bytes")?;
        let waits =
            self.pending.is_none_or(|byte| matches!(byte, mouse::SET_RESOLUTION | ps2::SET_RATE));
        check(waits, "a mouse command that waits for its argument has one")?;
        check(self.resolution <= 3, "there are four resolutions")?;
        check(mouse::RATES.contains(&self.rate), "the rate is one of seven")?;
        check((self.buttons | self.reported_buttons) & !0x07 == 0, "there are three buttons")?;
        let counts = mouse::COUNTS_MIN..=mouse::COUNTS_MAX;
        let fits = [self.x, self.y].iter().all(|counter| counts.contains(&counter.counts));
        check(fits, "the mouse's counters have nine bits")
    }
}
