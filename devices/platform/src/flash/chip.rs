//! One chip: what a write cycle does to it, and what it answers.

use super::regs::{
    BLOCK_LOCK_CODE, BLOCK_WORDS, BUFFER_WORDS, CONFIRM, Command, IDENTIFIERS, SET_LOCK, Status,
    query,
};
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

/// How large the chip is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) len_log2: u8,
    pub(super) blocks: u16,
}

impl Chip {
    /// A write cycle of `word` at word address `addr`.
    pub(super) fn write(&mut self, addr: u32, word: u16, cells: &mut impl Cells) {
        let phase = std::mem::take(&mut self.phase);
        match phase {
            Phase::Command => self.command(Command::of(word)),
            Phase::Program => {
                let done = self.change(addr, |at| cells.program(at, &[word]));
                self.conclude(done, Status::with_program_error);
            }
            Phase::Count => self.announce(word),
            Phase::Fill(left) => self.fill(addr, word, left),
            Phase::Confirm if word & 0xff == CONFIRM => self.program_buffer(cells),
            Phase::Erase if word & 0xff == CONFIRM => {
                let done = self.change(addr, |at| cells.erase(at - at % BLOCK_WORDS));
                self.conclude(done, Status::with_erase_error);
            }
            Phase::Lock if matches!(word & 0xff, CONFIRM | SET_LOCK) => {
                if let Some(locked) = self.locked.get_mut(block(addr)) {
                    *locked = word & 0xff == SET_LOCK;
                }
            }
            Phase::Confirm | Phase::Erase | Phase::Lock => self.no_command(),
        }
    }

    /// What a read of word address `addr` is answered with; `None`: what is in the cells.
    pub(super) fn read(&self, addr: u32, size: Size) -> Option<u16> {
        match self.mode {
            ReadMode::Array => None,
            ReadMode::Status => Some(self.status.into_bits().into()),
            ReadMode::Query => Some(query(addr, size.len_log2, size.blocks).into()),
            ReadMode::Identifiers if addr % BLOCK_WORDS == BLOCK_LOCK_CODE => {
                Some(self.is_locked(addr).into())
            }
            ReadMode::Identifiers => {
                let code = usize::try_from(addr).ok().and_then(|addr| IDENTIFIERS.get(addr));
                Some(code.copied().unwrap_or(0))
            }
        }
    }

    fn command(&mut self, command: Command) {
        let (mode, phase) = match command {
            Command::ReadArray | Command::Unknown => (ReadMode::Array, Phase::Command),
            Command::ReadIdentifiers => (ReadMode::Identifiers, Phase::Command),
            Command::ReadQuery => (ReadMode::Query, Phase::Command),
            Command::ReadStatus | Command::Suspend => (ReadMode::Status, Phase::Command),
            Command::Program => (ReadMode::Status, Phase::Program),
            Command::WriteBuffer => (ReadMode::Status, Phase::Count),
            Command::Erase => (ReadMode::Status, Phase::Erase),
            Command::Lock => (ReadMode::Status, Phase::Lock),
            Command::ClearStatus => {
                self.status = Status::READY;
                return;
            }
            Command::Confirm => return,
        };
        (self.mode, self.phase) = (mode, phase);
    }

    /// Write to buffer, second cycle.
    fn announce(&mut self, word: u16) {
        let count = usize::from(word) + 1;
        match u8::try_from(count).ok().filter(|_| count <= BUFFER_WORDS) {
            Some(count) => {
                self.buffer = [u16::MAX; BUFFER_WORDS];
                (self.start, self.count) = (None, count);
                self.phase = Phase::Fill(count);
            }
            None => self.no_command(),
        }
    }

    /// A word for the buffer. The first one's address is where it begins; the others must lie
    /// within it.
    fn fill(&mut self, addr: u32, word: u16, left: u8) {
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

    fn program_buffer(&mut self, cells: &mut impl Cells) {
        let words = self.buffer;
        let words = words.get(..usize::from(self.count)).unwrap_or_default();
        let start = self.start.unwrap_or(0);
        // A buffer that begins in one block may end in the next.
        let last = start.saturating_add(self.count.saturating_sub(1).into());
        let locked = self.is_locked(last);
        let done = self.change(start, |at| if locked { Ok(()) } else { cells.program(at, words) });
        self.status.set_block_locked(self.status.block_locked() || locked);
        self.conclude(done.filter(|_| !locked), Status::with_program_error);
    }

    /// Does something to the block at `addr`, unless it is locked; `None` if nothing was done.
    fn change(
        &mut self,
        addr: u32,
        act: impl FnOnce(u32) -> Result<(), Worn>,
    ) -> Option<Result<(), Worn>> {
        if self.is_locked(addr) {
            self.status.set_block_locked(true);
            return None;
        }
        Some(act(addr))
    }

    fn conclude(&mut self, done: Option<Result<(), Worn>>, error: fn(Status, bool) -> Status) {
        if done != Some(Ok(())) {
            self.status = error(self.status, true);
        }
        (self.start, self.count) = (None, 0);
    }

    /// The sequence of cycles is none the chip knows.
    fn no_command(&mut self) {
        self.status = self.status.with_program_error(true).with_erase_error(true);
        (self.start, self.count) = (None, 0);
    }

    fn is_locked(&self, addr: u32) -> bool {
        self.locked.get(block(addr)).copied().unwrap_or(false)
    }
}

fn block(addr: u32) -> usize {
    usize::try_from(addr / BLOCK_WORDS).unwrap_or(usize::MAX)
}
