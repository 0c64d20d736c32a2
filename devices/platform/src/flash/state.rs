//! What a snapshot of the flash keeps. What is in the array is the file's business.

use serde::{Deserialize, Serialize};
use trapline_device::{Form, StateError};

use super::regs::{BUFFER_WORDS_MAX, CHIPS_MAX, LOCKS_MAX, Part, Status};

/// What reads are answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadMode {
    /// The contents.
    #[default]
    Array,
    /// The status register.
    Status,
    /// Identifier codes.
    Identifiers,
    /// The query table.
    Query,
}

/// What the next write is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// A command.
    #[default]
    Command,
    /// The word to be programmed.
    Program,
    /// The number of words in the write buffer, less one.
    Count,
    /// A word for the write buffer; so many are to come.
    Fill(u16),
    /// The confirmation of the write buffer.
    Confirm,
    /// The confirmation of an erase.
    Erase,
    /// What becomes of a lock bit.
    Lock,
}

/// One chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chip {
    /// What reads are answered with.
    pub mode: ReadMode,
    /// What the next write is.
    pub phase: Phase,
    /// The status register.
    pub status: Status,
    /// Each block's lock bit. None is set at power-on.
    pub locked: [bool; LOCKS_MAX],
    /// The write buffer; all ones where nothing was written.
    pub buffer: [u16; BUFFER_WORDS_MAX],
    /// The word the buffer begins at, once the first word is in it.
    pub start: Option<u32>,
    /// Words the buffer is to be programmed with, from `start`.
    pub count: u16,
}

impl Default for Chip {
    fn default() -> Self {
        Self {
            mode: ReadMode::Array,
            phase: Phase::Command,
            status: Status::READY,
            locked: [false; LOCKS_MAX],
            buffer: [u16::MAX; BUFFER_WORDS_MAX],
            start: None,
            count: 0,
        }
    }
}

/// All chips.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The chip on the lowest bits of the bus, then the next.
    pub chips: Vec<Chip>,
}

impl State {
    /// After power-on.
    pub fn new(part: &Part) -> Self {
        Self { chips: vec![Chip::default(); part.chips] }
    }
}

/// [`State`], version 1.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedV1 {
    chips: Vec<ChipV1>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ChipV1 {
    mode: ReadMode,
    phase: Phase,
    status: u8,
    /// The numbers of those that are set, in ascending order.
    locked: Vec<u8>,
    buffer: Vec<u16>,
    start: Option<u32>,
    count: u16,
}

impl Form for SavedV1 {
    const NAME: &'static str = "cfi-flash";
    const VERSION: u32 = 1;
}

impl From<&State> for SavedV1 {
    fn from(state: &State) -> Self {
        let State { chips } = state;
        Self { chips: chips.iter().map(ChipV1::from).collect() }
    }
}

impl From<&Chip> for ChipV1 {
    fn from(chip: &Chip) -> Self {
        let Chip { mode, phase, status, locked, buffer, start, count } = chip;
        let locked = (0..=u8::MAX).zip(locked).filter(|(_, locked)| **locked);
        Self {
            mode: *mode,
            phase: *phase,
            status: status.into_bits(),
            locked: locked.map(|(block, _)| block).collect(),
            buffer: buffer.to_vec(),
            start: *start,
            count: *count,
        }
    }
}

impl TryFrom<SavedV1> for State {
    type Error = StateError;

    /// Refuses states no sequence of accesses leads to.
    fn try_from(saved: SavedV1) -> Result<Self, StateError> {
        let SavedV1 { chips } = saved;
        StateError::check::<SavedV1>(chips.len() <= CHIPS_MAX, "chips are side by side")?;
        Ok(Self { chips: chips.into_iter().map(ChipV1::into_chip).collect::<Result<_, _>>()? })
    }
}

impl ChipV1 {
    fn into_chip(self) -> Result<Chip, StateError> {
        let Self { mode, phase, status, locked, buffer, start, count } = self;
        let check = StateError::check::<SavedV1>;
        check(status & Status::RESERVED == 0, "reserved bits of the status register are 0")?;
        let status = Status::from_bits(status);
        check(locked.is_sorted_by(|a, b| a < b), "each locked block is named once")?;
        check(
            usize::from(count) <= BUFFER_WORDS_MAX,
            "the write buffer holds what is to be programmed",
        )?;
        let whole = buffer.len() == BUFFER_WORDS_MAX;
        check(whole, "the write buffer has all its words")?;
        let mut words = [u16::MAX; BUFFER_WORDS_MAX];
        words.iter_mut().zip(buffer).for_each(|(to, word)| *to = word);
        let filling = match phase {
            Phase::Fill(left) => (1..=count).contains(&left),
            Phase::Confirm => count > 0 && start.is_some(),
            _ => true,
        };
        check(filling, "the write buffer waits for as many words as were announced")?;
        let buffering = matches!(phase, Phase::Fill(_) | Phase::Confirm);
        check(buffering || (start.is_none() && count == 0), "the write buffer is in use or empty")?;
        let mut bits = [false; LOCKS_MAX];
        for block in locked {
            if let Some(bit) = bits.get_mut(usize::from(block)) {
                *bit = true;
            }
        }
        Ok(Chip { mode, phase, status, locked: bits, buffer: words, start, count })
    }
}
