//! The parser of the qtest protocol: from a line to a command.

use std::str::SplitAsciiWhitespace;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use trapline_device::Size;

use crate::wires::Side;

/// The most bytes one command reads or writes.
pub const DATA_MAX: usize = 1 << 24;
/// The most bytes one `memset` fills.
pub const FILL_MAX: u64 = 1 << 28;
/// Of a word that is no command, this many characters are repeated in the answer.
const ECHO_MAX: usize = 40;

/// How a block of memory is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `0x` and two hexadecimal digits for every byte.
    Hex,
    /// Base 64.
    Base64,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `inb`, `inw`, `inl`.
    In {
        /// The port.
        port: u16,
        /// The access's width.
        size: Size,
    },
    /// `outb`, `outw`, `outl`.
    Out {
        /// The port.
        port: u16,
        /// The access's width.
        size: Size,
        /// Bits above the width are not used.
        value: u64,
    },
    /// `readb`, `readw`, `readl`, `readq`.
    Read {
        /// The guest physical address.
        addr: u64,
        /// The access's width.
        size: Size,
    },
    /// `writeb`, `writew`, `writel`, `writeq`.
    Write {
        /// The guest physical address.
        addr: u64,
        /// The access's width.
        size: Size,
        /// Bits above the width are not used.
        value: u64,
    },
    /// `read`, `b64read`.
    ReadBlock {
        /// The first guest physical address; the last one exists too.
        addr: u64,
        /// Bytes, at most [`DATA_MAX`].
        len: usize,
        /// How the answer is written down.
        encoding: Encoding,
    },
    /// `write`, `b64write`.
    WriteBlock {
        /// The first guest physical address; the last one exists too.
        addr: u64,
        /// At most [`DATA_MAX`] bytes.
        data: Vec<u8>,
    },
    /// `memset`.
    Fill {
        /// The first guest physical address; the last one exists too.
        addr: u64,
        /// Bytes, at most [`FILL_MAX`].
        len: u64,
        /// What each of them becomes.
        byte: u8,
    },
    /// `clock_step`: by so many nanoseconds, or to the next deadline.
    ClockStep(Option<u64>),
    /// `clock_set`: to this machine time in nanoseconds.
    ClockSet(u64),
    /// `irq_intercept_in`, `irq_intercept_out`.
    Intercept {
        /// The device's name or path.
        device: String,
        /// Which of its pins.
        side: Side,
        /// The name of a group of pins, if one was given.
        group: Option<String>,
    },
    /// `set_irq_in`.
    SetIrq {
        /// The device's name or path.
        device: String,
        /// The name of the group of pins.
        group: String,
        /// The pin.
        number: u32,
        /// Its level.
        level: bool,
    },
    /// `endianness`.
    Endianness,
    /// `info`, not QEMU's: a table about a part of the machine.
    Info(String),
}

/// Why a line was not taken: what follows the word `FAIL`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The line has no word.
    #[error("Empty command")]
    Empty,
    /// The first word is no command.
    #[error("Unknown command '{0}'")]
    Unknown(String),
    /// A word is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// There are too many words.
    #[error("Too many arguments")]
    Surplus,
    /// A word should be a number.
    #[error("{0} is not a number of 64 bits")]
    Number(&'static str),
    /// Ports have 16 bits.
    #[error("There is no port above 0xffff")]
    Port,
    /// The range runs past the last address.
    #[error("The range runs past the last address")]
    PastEnd,
    /// More than one command may do.
    #[error("The size is not in {min}..={max}")]
    Size {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A block's bytes are not written down as they should be.
    #[error("The data is not {0}")]
    Data(&'static str),
}

/// Understands one line, which may end in a carriage return but has no line feed.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &str) -> Result<Command, Refusal> {
    let mut words = Words(line.split_ascii_whitespace());
    let name = words.0.next().ok_or(Refusal::Empty)?;
    let command = command(name, &mut words)?;
    if words.0.next().is_some() {
        return Err(Refusal::Surplus);
    }
    Ok(command)
}

fn command(name: &str, words: &mut Words<'_>) -> Result<Command, Refusal> {
    if let Some(command) = access(name, words) {
        return command;
    }
    Ok(match name {
        "read" => read_block(words, Encoding::Hex)?,
        "b64read" => read_block(words, Encoding::Base64)?,
        "write" => write_block(words, Encoding::Hex)?,
        "b64write" => write_block(words, Encoding::Base64)?,
        "memset" => {
            let (addr, len) = words.range(0, FILL_MAX)?;
            let [byte, ..] = words.number("the pattern")?.to_le_bytes();
            Command::Fill { addr, len, byte }
        }
        "clock_step" => {
            let step = words.0.next().map(|word| number(word, "the time"));
            Command::ClockStep(step.transpose()?)
        }
        "clock_set" => Command::ClockSet(words.number("the time")?),
        "irq_intercept_in" => intercept(words, Side::In)?,
        "irq_intercept_out" => intercept(words, Side::Out)?,
        "set_irq_in" => {
            let device = words.text("the device")?.to_owned();
            let group = words.text("the group of pins")?.to_owned();
            let number = u32::try_from(words.number("the pin")?);
            let number = number.map_err(|_| Refusal::Number("the pin"))?;
            Command::SetIrq { device, group, number, level: words.level()? }
        }
        "endianness" => Command::Endianness,
        "info" => Command::Info(words.text("the part")?.to_owned()),
        _ => return Err(Refusal::Unknown(name.chars().take(ECHO_MAX).collect())),
    })
}

/// The commands that are one access, whose last letter is its width.
fn access(name: &str, words: &mut Words<'_>) -> Option<Result<Command, Refusal>> {
    let (_, letter) = name.split_at_checked(name.len().checked_sub(1)?)?;
    let size = match letter {
        "b" => Size::Byte,
        "w" => Size::Word,
        "l" => Size::Dword,
        "q" => Size::Qword,
        _ => return None,
    };
    Some(match (name.strip_suffix(letter)?, size) {
        ("in" | "out", Size::Qword) => return None,
        ("in", _) => words.port().map(|port| Command::In { port, size }),
        ("out", _) => words
            .port()
            .and_then(|port| Ok(Command::Out { port, size, value: words.number("the value")? })),
        ("read", _) => words.address(size).map(|addr| Command::Read { addr, size }),
        ("write", _) => words
            .address(size)
            .and_then(|addr| Ok(Command::Write { addr, size, value: words.number("the value")? })),
        _ => return None,
    })
}

fn read_block(words: &mut Words<'_>, encoding: Encoding) -> Result<Command, Refusal> {
    let (addr, len) = words.block(1)?;
    Ok(Command::ReadBlock { addr, len, encoding })
}

/// Data too short for the size is made up with zeros in hexadecimal, and is all there is in base
/// 64; data too long is cut.
fn write_block(words: &mut Words<'_>, encoding: Encoding) -> Result<Command, Refusal> {
    let (addr, len) = words.block(0)?;
    let text = words.text("the data")?;
    let mut data = match encoding {
        Encoding::Hex => hex(text, len).ok_or(Refusal::Data("0x and hexadecimal digits"))?,
        Encoding::Base64 => STANDARD.decode(text).map_err(|_| Refusal::Data("base 64"))?,
    };
    data.truncate(len);
    Ok(Command::WriteBlock { addr, data })
}

/// `len` bytes out of `0x` and pairs of digits.
fn hex(text: &str, len: usize) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x").filter(|digits| !digits.is_empty())?;
    let mut data = Vec::with_capacity(len);
    for pair in digits.as_bytes().chunks_exact(2).take(len) {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'))?;
        data.push(u8::from_str_radix(pair, 16).ok()?);
    }
    data.resize(len, 0);
    Some(data)
}

fn intercept(words: &mut Words<'_>, side: Side) -> Result<Command, Refusal> {
    let device = words.text("the device")?.to_owned();
    Ok(Command::Intercept { device, side, group: words.0.next().map(str::to_owned) })
}

/// The words of a line that were not used yet.
struct Words<'a>(SplitAsciiWhitespace<'a>);

impl<'a> Words<'a> {
    fn text(&mut self, what: &'static str) -> Result<&'a str, Refusal> {
        self.0.next().ok_or(Refusal::Missing(what))
    }

    fn number(&mut self, what: &'static str) -> Result<u64, Refusal> {
        number(self.text(what)?, what)
    }

    fn port(&mut self) -> Result<u16, Refusal> {
        u16::try_from(self.number("the port")?).map_err(|_| Refusal::Port)
    }

    /// An address at which so many bytes exist.
    fn address(&mut self, size: Size) -> Result<u64, Refusal> {
        let addr = self.number("the address")?;
        fits(addr, size.bytes() as u64)?;
        Ok(addr)
    }

    fn range(&mut self, min: u64, max: u64) -> Result<(u64, u64), Refusal> {
        let (addr, len) = (self.number("the address")?, self.number("the size")?);
        if !(min..=max).contains(&len) {
            return Err(Refusal::Size { min, max });
        }
        fits(addr, len)?;
        Ok((addr, len))
    }

    fn block(&mut self, min: u64) -> Result<(u64, usize), Refusal> {
        let (addr, len) = self.range(min, DATA_MAX as u64)?;
        Ok((addr, usize::try_from(len).unwrap_or(DATA_MAX)))
    }

    /// A level is an integer with a sign; 0 is low.
    fn level(&mut self) -> Result<bool, Refusal> {
        let word = self.text("the level")?;
        Ok(number(word.strip_prefix('-').unwrap_or(word), "the level")? != 0)
    }
}

fn fits(addr: u64, len: u64) -> Result<(), Refusal> {
    let last = addr.checked_add(len.saturating_sub(1));
    last.map(|_| ()).ok_or(Refusal::PastEnd)
}

/// As C's `strtoull` with base 0: hexadecimal after `0x`, octal after `0`, decimal otherwise.
fn number(word: &str, what: &'static str) -> Result<u64, Refusal> {
    let lower = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
    let (digits, radix) = match lower {
        Some(digits) => (digits, 16),
        None if word.len() > 1 && word.starts_with('0') => (word, 8),
        None => (word, 10),
    };
    // The standard library takes a plus sign, which C's would only take before the prefix.
    if digits.starts_with('+') {
        return Err(Refusal::Number(what));
    }
    u64::from_str_radix(digits, radix).map_err(|_| Refusal::Number(what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(line: &str) -> String {
        parse(line).expect_err(line).to_string()
    }

    #[test]
    fn accesses_are_told_apart_by_name_and_width() {
        let (port, addr) = (0x3f8, 0xfec0_0000);
        let cases = [
            ("inb 0x3f8", Command::In { port, size: Size::Byte }),
            ("inl 1016", Command::In { port, size: Size::Dword }),
            ("outw 01770 0xffff\r", Command::Out { port, size: Size::Word, value: 0xffff }),
            ("readq 0xFEC00000", Command::Read { addr, size: Size::Qword }),
            ("writeb 0XFEC00000 7", Command::Write { addr, size: Size::Byte, value: 7 }),
        ];
        for (line, command) in cases {
            assert_eq!(parse(line), Ok(command), "{line}");
        }
    }

    #[test]
    fn blocks_are_cut_or_made_up_to_their_size() {
        let block = |line: &str| match parse(line) {
            Ok(Command::WriteBlock { data, .. }) => data,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(block("write 0x10 0x4 0x0102"), [1, 2, 0, 0]);
        assert_eq!(block("write 0x10 1 0xaabb"), [0xaa]);
        assert_eq!(block("b64write 0x10 3 AQID"), [1, 2, 3]);
        assert_eq!(block("b64write 0x10 2 AQID"), [1, 2]);
        let read = Command::ReadBlock { addr: 1, len: 5, encoding: Encoding::Base64 };
        assert_eq!(parse("b64read 1 5"), Ok(read));
    }

    #[test]
    fn interrupt_commands_name_a_device() {
        let intercept = |device: &str, side, group: Option<&str>| {
            Ok(Command::Intercept { device: device.into(), side, group: group.map(str::to_owned) })
        };
        assert_eq!(parse("irq_intercept_in ioapic"), intercept("ioapic", Side::In, None));
        assert_eq!(parse("irq_intercept_out /a/b x"), intercept("/a/b", Side::Out, Some("x")));
        let set = |number, level| {
            let (device, group) = ("ioapic".to_owned(), "unnamed-gpio-in".to_owned());
            Ok(Command::SetIrq { device, group, number, level })
        };
        assert_eq!(parse("set_irq_in ioapic unnamed-gpio-in 4 1"), set(4, true));
        assert_eq!(parse("set_irq_in ioapic unnamed-gpio-in 4 -1"), set(4, true));
        assert_eq!(parse("set_irq_in ioapic unnamed-gpio-in 5 0"), set(5, false));
    }

    #[test]
    fn what_cannot_be_done_is_refused_in_words() {
        let cases = [
            ("", "Empty command"),
            ("rtas get-time 1 2 3", "Unknown command 'rtas'"),
            ("module_load net x", "Unknown command 'module_load'"),
            ("inq 0x70", "Unknown command 'inq'"),
            ("inb", "the port is missing"),
            ("inb 0x10000", "There is no port above 0xffff"),
            ("inb 0x70 1", "Too many arguments"),
            ("outb 0x70 08", "the value is not a number of 64 bits"),
            ("outb 0x70 -1", "the value is not a number of 64 bits"),
            ("readq 0xfffffffffffffff9", "The range runs past the last address"),
            ("read 0 0", "The size is not in 1..=16777216"),
            ("read 0 0x1000001", "The size is not in 1..=16777216"),
            ("memset 0 0x10000001 0", "The size is not in 0..=268435456"),
            ("memset 0xffffffffffffffff 2 0", "The range runs past the last address"),
            ("write 0 1 ff", "The data is not 0x and hexadecimal digits"),
            ("write 0 1 0x+1", "The data is not 0x and hexadecimal digits"),
            ("write 0 1 0xg0", "The data is not 0x and hexadecimal digits"),
            ("b64write 0 1 ?", "The data is not base 64"),
        ];
        for (line, words) in cases {
            assert_eq!(refusal(line), words, "{line}");
        }
        assert!(refusal(&"x".repeat(1 << 20)).len() < 100, "the answer stays short");
    }

    #[test]
    fn the_last_bytes_of_the_address_space_can_be_named() {
        assert!(parse("readq 0xfffffffffffffff8").is_ok());
        assert!(parse("memset 0xffffffffffffffff 1 0").is_ok());
    }

    proptest! {
        #[test]
        fn no_line_panics_and_refusals_are_one_short_line(
            name in "(inb|outl|readq|writew|read|b64write|memset|clock_step|set_irq_in|.{0,9})",
            rest in "( [0-9a-fx+-]{0,20}| .{0,20}){0,5}",
        ) {
            if let Err(refusal) = parse(&format!("{name}{rest}")) {
                let text = refusal.to_string();
                prop_assert!(text.len() < 300 && !text.contains('\n'), "{text}");
            }
        }
    }
}
