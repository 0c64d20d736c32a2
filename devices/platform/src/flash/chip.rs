//! One chip: what a write cycle does to it, and what it answers.

use super::regs::{BLOCK_LOCK_CODE, BUFFER_WORDS_MAX, CONFIRM, Command, Part, SET_LOCK, Status};
use super::state::{Chip, Phase, ReadMode};

/// The chip's memory, by word address. Both refuse when what they did would not last.
pub(super) trait Cells {
    /// Clears the bits that are clear in `words`, from word `start`.
    fn program(&mut self, start: u32, words: &[u16]) -> Result<(), Worn>;
    /// Sets all bits of the block that begins at word `start`.
    fn erase(&mut self, start: u32) -> Result<(), Worn>;
}

/// Cells that do not keep what is written to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worn;

impl Chip {
    /// A write cycle of `word` at word address `addr`.
    pub(super) fn write(&mut self, part: &Part, addr: u32, word: u16, cells: &mut impl Cells) {
        let phase = std::mem::take(&mut self.phase);
        match phase {
            Phase::Command => self.command(part, Command::of(word)),
            Phase::Program => {
                let done = self.change(part, addr, |at| cells.program(at, &[word]));
                self.conclude(done, Status::with_program_error);
            }
            Phase::Count => self.announce(part, word),
            Phase::Fill(left) => self.fill(addr, word, left),
            Phase::Confirm if word & 0xff == CONFIRM => self.program_buffer(part, cells),
            Phase::Erase if word & 0xff == CONFIRM => {
                let done = self.change(part, addr, |at| cells.erase(at - at % part.block_words()));
                self.conclude(done, Status::with_erase_error);
            }
            Phase::Lock if matches!(word & 0xff, CONFIRM | SET_LOCK) => {
                if let Some(locked) = self.locked.get_mut(block(part, addr)) {
                    *locked = part.locks && word & 0xff == SET_LOCK;
                }
                self.status.set_ready(true);
            }
            Phase::Confirm | Phase::Erase | Phase::Lock => self.no_command(),
        }
    }

    /// What a read of word address `addr` is answered with, in a device of `len` bytes; `None`: what
    /// is in the cells.
    pub(super) fn read(&self, part: &Part, addr: u32, len: u64) -> Option<u16> {
        match self.mode {
            ReadMode::Array => None,
            ReadMode::Status => Some(self.status.into_bits().into()),
            ReadMode::Query => Some(part.query(addr, len).into()),
            ReadMode::Identifiers if addr % part.block_words() == BLOCK_LOCK_CODE => {
                Some(self.is_locked(part, addr).into())
            }
            ReadMode::Identifiers => {
                let code = usize::try_from(addr).ok().and_then(|addr| part.identifiers.get(addr));
                Some(code.copied().unwrap_or(0))
            }
        }
    }

    fn command(&mut self, part: &Part, command: Command) {
        let (mode, phase) = match command {
            Command::ReadArray | Command::Unknown => (ReadMode::Array, Phase::Command),
            Command::ReadIdentifiers => (ReadMode::Identifiers, Phase::Command),
            Command::ReadQuery => (ReadMode::Query, Phase::Command),
            Command::ReadStatus | Command::Suspend => (ReadMode::Status, Phase::Command),
            Command::Program => (ReadMode::Status, Phase::Program),
            Command::WriteBuffer => {
                // A buffer is free.
                self.status.set_ready(true);
                (ReadMode::Status, Phase::Count)
            }
            Command::Erase => (ReadMode::Status, Phase::Erase),
            Command::Lock => (ReadMode::Status, Phase::Lock),
            Command::ClearStatus if part.cleared_is_busy => {
                self.status = Status::new();
                (ReadMode::Array, Phase::Command)
            }
            Command::ClearStatus => {
                self.status = Status::READY;
                return;
            }
            Command::Confirm => return,
        };
        (self.mode, self.phase) = (mode, phase);
    }

    /// Write to buffer, second cycle.
    fn announce(&mut self, part: &Part, word: u16) {
        let count = usize::from(word) + 1;
        match u16::try_from(count).ok().filter(|_| count <= part.buffer_words()) {
            Some(count) => {
                self.buffer = [u16::MAX; BUFFER_WORDS_MAX];
                (self.start, self.count) = (None, count);
                self.phase = Phase::Fill(count);
            }
            None => self.no_command(),
        }
    }

    /// A word for the buffer. The first one's address is where it begins; the others must lie
    /// within it.
    fn fill(&mut self, addr: u32, word: u16, left: u16) {
        let start = *self.start.get_or_insert(addr);
        let index = addr.checked_sub(start).filter(|index| *index < u32::from(self.count));
        let cell = index.and_then(|at| self.buffer.get_mut(usize::try_from(at).ok()?));
        match cell {
            Some(cell) => {
                *cell = word;
                self.phase = if left > 1 { Phase::Fill(left - 1) } else { Phase::Confirm };
            }
            None => self.no_command(),
        }
    }

    fn program_buffer(&mut self, part: &Part, cells: &mut impl Cells) {
        let words = self.buffer;
        let words = words.get(..usize::from(self.count)).unwrap_or_default();
        let start = self.start.unwrap_or(0);
        // A buffer that begins in one block may end in the next.
        let last = start.saturating_add(self.count.saturating_sub(1).into());
        let locked = self.is_locked(part, last);
        let program = |at| if locked { Ok(()) } else { cells.program(at, words) };
        let done = self.change(part, start, program);
        self.status.set_block_locked(self.status.block_locked() || locked);
        self.conclude(done.filter(|_| !locked), Status::with_program_error);
    }

    /// Does something to the block at `addr`, unless it is locked; `None` if nothing was done.
    fn change(
        &mut self,
        part: &Part,
        addr: u32,
        act: impl FnOnce(u32) -> Result<(), Worn>,
    ) -> Option<Result<(), Worn>> {
        if self.is_locked(part, addr) {
            self.status.set_block_locked(true);
            return None;
        }
        Some(act(addr))
    }

    fn conclude(&mut self, done: Option<Result<(), Worn>>, error: fn(Status, bool) -> Status) {
        if done != Some(Ok(())) {
            self.status = error(self.status, true);
        }
        self.status.set_ready(true);
        (self.start, self.count) = (None, 0);
    }

    /// The sequence of cycles is none the chip knows.
    fn no_command(&mut self) {
        self.status = self.status.with_program_error(true).with_erase_error(true).with_ready(true);
        (self.start, self.count) = (None, 0);
    }

    fn is_locked(&self, part: &Part, addr: u32) -> bool {
        self.locked.get(block(part, addr)).copied().unwrap_or(false)
    }
}

fn block(part: &Part, addr: u32) -> usize {
    usize::try_from(addr / part.block_words()).unwrap_or(usize::MAX)
}
