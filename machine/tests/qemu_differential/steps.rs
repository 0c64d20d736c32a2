//! One access or wait, how it is written in `differences.toml`, and where random ones come from.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What a test does to both machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `in PORT`: a byte.
    In(u16),
    /// `out PORT VALUE`: a byte.
    Out(u16, u8),
    /// `cmos-in INDEX`: through the RTC's latch.
    CmosIn(u8),
    /// `cmos-out INDEX VALUE`: through the RTC's latch.
    CmosOut(u8, u8),
    /// `pit-count CHANNEL`: latches a count and reads both of its bytes.
    PitCount(u8),
    /// `pit-out CHANNEL`: reads back whether the output is high, and the count.
    PitOut(u8),
    /// `line IRQ LEVEL`: drives an input of the 8259s that no device drives.
    Line(u8, bool),
    /// `poll`: polls the primary 8259, and the secondary one where that is what asks.
    Poll,
    /// `wait MICROSECONDS`: for about as long.
    Wait(u32),
}

impl Step {
    pub(crate) fn duration(us: u32) -> Duration {
        Duration::from_micros(us.into())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(port) => write!(f, "in {port:#x}"),
            Self::Out(port, value) => write!(f, "out {port:#x} {value:#x}"),
            Self::CmosIn(index) => write!(f, "cmos-in {index:#x}"),
            Self::CmosOut(index, value) => write!(f, "cmos-out {index:#x} {value:#x}"),
            Self::PitCount(channel) => write!(f, "pit-count {channel}"),
            Self::PitOut(channel) => write!(f, "pit-out {channel}"),
            Self::Poll => write!(f, "poll"),
            Self::Line(irq, level) => write!(f, "line {irq} {}", u8::from(*level)),
            Self::Wait(us) => write!(f, "wait {us}"),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split(' ').collect();
        let byte = |word: &str| u8::try_from(number(word)?).map_err(|e| format!("{text}: {e}"));
        let port = |word: &str| u16::try_from(number(word)?).map_err(|e| format!("{text}: {e}"));
        Ok(match words.as_slice() {
            ["in", at] => Self::In(port(at)?),
            ["out", at, value] => Self::Out(port(at)?, byte(value)?),
            ["cmos-in", at] => Self::CmosIn(byte(at)?),
            ["cmos-out", at, value] => Self::CmosOut(byte(at)?, byte(value)?),
            ["pit-count", channel] => Self::PitCount(byte(channel)?),
            ["pit-out", channel] => Self::PitOut(byte(channel)?),
            ["poll"] => Self::Poll,
            ["line", irq, level] => Self::Line(byte(irq)?, byte(level)? != 0),
            ["wait", us] => Self::Wait(number(us)?),
            _ => return Err(format!("{text}: no such step")),
        })
    }
}

pub(crate) fn number(word: &str) -> Result<u32, String> {
    let parsed = match word.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => word.parse(),
    };
    parsed.map_err(|error| format!("{word}: {error}"))
}

/// Numbers that are the same for the same seed everywhere (SplitMix64).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u8) -> u8 {
        self.byte() % end
    }

    pub(crate) fn one_of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[usize::from(self.byte()) % choice.len()]
    }

    /// Once in `n` times.
    pub(crate) fn once_in(&mut self, n: u8) -> bool {
        self.below(n) == 0
    }
}
