//! NOR flash that programs itself: chips with the Intel command set, side by side on a bus. What
//! firmware keeps its variables in.
//!
//! Spec: JESD68.01 (CFI); Intel 297846 and 290667.
//!
//! ```text
//!  guest ──► Flash (lock) ──► Chip 0: lowest bits of the bus ─┬─ read, program, erase ──► FlashArray
//!                        └──► Chip 1: the next, if there is ──┘                    file, memory slot
//! ```
//!
//! Which chips, and how many, is a [`Part`]: kvmtool's two x16 chips for arm64 machines, or QEMU's
//! x8 chip for PCs. Each chip has a command interface of its own, as on a real bus: drivers write
//! each command to all of them. Programming clears bits and never sets any; erasing sets those of a
//! block.
//!
// Deviation: operations take no time. The status register is never busy after one, so suspend only
// selects it.
//
// Deviation: a byte written alone to a x16 chip reaches it with the other byte all ones, which
// programs nothing. Such chips have no narrower cycle.

mod chip;
pub mod regs;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{
    Device, Direction, FdtDevice, FdtNode, Handler, IoCx, Limits, Rules, SaveState, Saved, Size,
    StateError,
};

use self::chip::Cells;
pub use self::chip::Worn;
pub use self::regs::Part;
use self::state::SavedV1;
pub use self::state::{Chip, Phase, ReadMode, State};

/// What is in the flash, and who else looks at it. Offsets are the guest's.
pub trait FlashArray: Send + Sync {
    /// How much there is in bytes: see [`Part::usable_len`].
    fn len_bytes(&self) -> u64;

    /// Copies what is there.
    fn read(&self, offset: u64, buf: &mut [u8]);

    /// Replaces what is there. It outlives this program when this returns.
    ///
    /// # Errors
    /// It would not; then everything is as before.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Worn>;

    /// What has been written outlives the host when this returns. Called when a driver has done a
    /// piece of work and goes back to reading.
    ///
    /// # Errors
    /// It may not.
    fn flush(&self) -> Result<(), Worn> {
        Ok(())
    }

    /// Whether reads are answered with what is there, by all chips; whoever can may then answer
    /// them without asking.
    fn show(&self, _visible: bool) {}
}

/// The flash device.
pub struct Flash {
    // Wiring.
    part: &'static Part,
    array: Arc<dyn FlashArray>,
    state: Mutex<State>,
}

impl Flash {
    /// Flash after power-on, of these chips, with what is in `array`.
    ///
    /// # Panics
    /// When [`Part::usable_len`] does not leave the array's length as it is.
    pub fn new(part: &'static Part, array: Arc<dyn FlashArray>) -> Self {
        let len = array.len_bytes();
        assert!(part.usable_len(len) == Some(len), "flash has as many blocks as it can have");
        array.show(true);
        Self { part, array, state: Mutex::new(State::new(part)) }
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.array.len_bytes()
    }

    /// A copy of what a snapshot keeps.
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// Shows the array while every chip does. What was changed since it was last shown lasts then;
    /// if not, the status registers say so.
    fn sync(&self, state: &mut State) {
        let array = state.chips.iter().all(|chip| chip.mode == ReadMode::Array);
        if array && self.array.flush().is_err() {
            state.chips.iter_mut().for_each(|chip| chip.status.set_program_error(true));
        }
        self.array.show(array);
    }

    /// The word at `offset`, a multiple of its size.
    fn read_word(&self, state: &State, offset: u64) -> u16 {
        let (addr, lane) = place(self.part, offset);
        let chip = state.chips.get(lane);
        let answer = chip.and_then(|chip| chip.read(self.part, addr, self.array.len_bytes()));
        answer.unwrap_or_else(|| {
            let mut bytes = [0; 2];
            let len = usize::try_from(self.part.word).unwrap_or(0);
            self.array.read(offset, bytes.get_mut(..len).unwrap_or_default());
            u16::from_le_bytes(bytes)
        })
    }

    /// The offsets of the words that an access of so many bytes reaches.
    fn words(&self, offset: u64, size: Size) -> impl Iterator<Item = u64> {
        let word = usize::try_from(self.part.word).unwrap_or(1);
        (offset - offset % self.part.word..offset + size.bytes() as u64).step_by(word)
    }
}

/// Word address and chip of the word at a guest's offset.
fn place(part: &Part, offset: u64) -> (u32, usize) {
    let lane = usize::try_from(offset / part.word).unwrap_or(0) % part.chips;
    (u32::try_from(offset / part.bus()).unwrap_or(u32::MAX), lane)
}

/// One chip's share of the array.
struct Lane<'a> {
    part: &'a Part,
    array: &'a dyn FlashArray,
    lane: usize,
}

impl Lane<'_> {
    /// Changes `count` words from `start`.
    fn change(
        &self,
        start: u32,
        count: usize,
        new: impl Fn(usize, u16) -> u16,
    ) -> Result<(), Worn> {
        let (word, bus) = (self.part.word, self.part.bus());
        let [word, bus] = [word, bus].map(|bytes| usize::try_from(bytes).unwrap_or(1));
        let offset = u64::from(start) * self.part.bus();
        let room = usize::try_from(self.array.len_bytes().saturating_sub(offset)).unwrap_or(0);
        let mut bytes = vec![0; (count * bus).min(room)];
        self.array.read(offset, &mut bytes);
        let words = bytes.chunks_exact_mut(word).skip(self.lane).step_by(self.part.chips);
        for (i, cell) in words.enumerate() {
            match cell {
                [low] => [*low, _] = new(i, (*low).into()).to_le_bytes(),
                [low, high] => {
                    [*low, *high] = new(i, u16::from_le_bytes([*low, *high])).to_le_bytes();
                }
                _ => {}
            }
        }
        self.array.write(offset, &bytes)
    }
}

impl Cells for Lane<'_> {
    fn program(&mut self, start: u32, words: &[u16]) -> Result<(), Worn> {
        self.change(start, words.len(), |i, old| old & words.get(i).unwrap_or(&u16::MAX))
    }

    fn erase(&mut self, start: u32) -> Result<(), Worn> {
        let count = usize::try_from(self.part.block_words()).unwrap_or(0);
        self.change(start, count, |_, _| u16::MAX)
    }
}

impl Handler for Flash {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let state = self.state.lock();
        cx.reaches(|| register(self.part, &state, offset, Direction::Read));
        let first = offset - offset % self.part.word;
        let all = self
            .words(offset, size)
            .fold(0, |all, at| all | u64::from(self.read_word(&state, at)) << (8 * (at - first)));
        all >> (8 * (offset - first)) & size.ones()
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let state = &mut *self.state.lock();
        cx.reaches(|| register(self.part, state, offset, Direction::Write));
        let first = offset - offset % self.part.word;
        let shift = 8 * (offset - first);
        let bus = (value & size.ones()) << shift | !(size.ones() << shift);
        for at in self.words(offset, size) {
            let [low, high, ..] = (bus >> (8 * (at - first))).to_le_bytes();
            let high = if self.part.word == 1 { 0 } else { high };
            let (addr, lane) = place(self.part, at);
            if let Some(chip) = state.chips.get_mut(lane) {
                let mut cells = Lane { part: self.part, array: &*self.array, lane };
                chip.write(self.part, addr, u16::from_le_bytes([low, high]), &mut cells);
            }
        }
        self.sync(state);
    }

    fn rules(&self) -> Rules {
        let max = if self.part.bus() == 1 { Size::Byte } else { Size::Dword };
        let handled = Limits { min: Size::Byte, max, unaligned: false };
        Rules { valid: Limits::ANY, handled }
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        register(self.part, &self.state.lock(), offset, direction)
    }
}

/// What an access at `offset` reaches, by what the chip is doing.
fn register(part: &Part, state: &State, offset: u64, direction: Direction) -> Option<&'static str> {
    let (_, lane) = place(part, offset);
    let chip = state.chips.get(lane)?;
    Some(match (direction, chip.phase, chip.mode) {
        (Direction::Write, Phase::Command, _) => "command",
        (Direction::Write, Phase::Program | Phase::Fill(_), _) => "data",
        (Direction::Write, Phase::Count, _) => "word count",
        (Direction::Write, Phase::Confirm | Phase::Erase | Phase::Lock, _) => "confirm",
        (Direction::Read, _, ReadMode::Array) => "array",
        (Direction::Read, _, ReadMode::Status) => "status register",
        (Direction::Read, _, ReadMode::Identifiers) => "identifier codes",
        (Direction::Read, _, ReadMode::Query) => "query",
    })
}

impl Device for Flash {
    /// What is in the array stays; lock bits are volatile.
    fn reset(&self) {
        let mut state = self.state.lock();
        *state = State::new(self.part);
        self.sync(&mut state);
    }
}

impl SaveState for Flash {
    /// What is in the array is saved with its file.
    fn save(&self) -> Saved {
        Saved::encode(&SavedV1::from(&*self.state.lock()))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let new = State::try_from(saved.decode::<SavedV1>()?)?;
        let check = StateError::check::<SavedV1>;
        check(new.chips.len() == self.part.chips, "there are as many chips")?;
        let blocks = usize::try_from(self.len_bytes() / self.part.block).unwrap_or(usize::MAX);
        let blocks = if self.part.locks { blocks } else { 0 };
        let within = new.chips.iter().all(|chip| !chip.locked.iter().skip(blocks).any(|bit| *bit));
        check(within, "locked blocks are there")?;
        let words = self.part.buffer_words();
        let fits = new.chips.iter().all(|chip| usize::from(chip.count) <= words);
        check(fits, "the write buffer holds what is to be programmed")?;
        let ready = new.chips.iter().all(|chip| chip.status.ready() || self.part.cleared_is_busy);
        check(ready, "a chip is ready after each access")?;
        let mut state = self.state.lock();
        *state = new;
        self.sync(&mut state);
        Ok(())
    }
}

impl FdtDevice for Flash {
    /// Spec: Linux `Documentation/devicetree/bindings/mtd/mtd-physmap.yaml`.
    fn fdt_node(&self) -> FdtNode {
        let width = u32::try_from(self.part.bus()).unwrap_or(0);
        FdtNode::new("flash")
            .text("compatible", "cfi-flash")
            .text("label", "System-firmware")
            .cells("bank-width", [width])
    }
}
