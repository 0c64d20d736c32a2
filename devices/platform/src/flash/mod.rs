//! NOR flash that programs itself: two x16 chips with the Intel command set, side by side on a bus
//! of 32 bits, in erase blocks of 64 KiB over both. What kvmtool has, and what EDK2 keeps its
//! variables in.
//!
//! Spec: JESD68.01 (CFI); Intel 297846 and 290667.
//!
//! ```text
//!  guest ──► Flash (lock) ──► Chip 0: bits 15:0  ─┬─ read, program, erase ──► FlashArray
//!                        └──► Chip 1: bits 31:16 ─┘                           file, memory slot
//! ```
//!
//! Each chip has a command interface of its own, as on a real bus: drivers write each command to
//! both. Programming clears bits and never sets any; erasing sets those of a block.
//!
// Deviation: operations take no time. The status register is never busy, so suspend only selects
// it.
//
// Deviation: a byte written alone reaches its chip with the other byte all ones, which programs
// nothing. x16 chips have no narrower cycle.

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

pub use self::chip::Worn;
use self::chip::{Cells, Size as ChipSize};
use self::regs::{BLOCK, BUS, CHIPS, LEN_MAX, WORD};
use self::state::SavedV1;
pub use self::state::{Chip, Phase, ReadMode, State};

/// What is in the flash, and who else looks at it. Offsets are the guest's.
pub trait FlashArray: Send + Sync {
    /// How much there is in bytes: see [`usable_len`].
    fn len_bytes(&self) -> u64;

    /// Copies what is there.
    fn read(&self, offset: u64, buf: &mut [u8]);

    /// Replaces what is there. It lasts when this returns: the guest is told so.
    ///
    /// # Errors
    /// It would not last; then everything is as before.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Worn>;

    /// Whether reads are answered with what is there, by all chips; whoever can may then answer
    /// them without asking.
    fn show(&self, _visible: bool) {}
}

/// How many bytes of an image of `len` can be used: a chip's size is a power of two. `None` where
/// there is not one block.
pub fn usable_len(len: u64) -> Option<u64> {
    let power = len.min(LEN_MAX).checked_ilog2().map(|log| 1 << log);
    power.filter(|len| *len >= BLOCK)
}

/// The flash device.
pub struct Flash {
    // Wiring.
    array: Arc<dyn FlashArray>,
    size: ChipSize,
    state: Mutex<State>,
}

impl Flash {
    /// Flash after power-on with what is in `array`.
    ///
    /// # Panics
    /// When [`usable_len`] does not leave the array's length as it is.
    pub fn new(array: Arc<dyn FlashArray>) -> Self {
        let len = array.len_bytes();
        assert!(usable_len(len) == Some(len), "flash has a power of two of blocks");
        let len_log2 = u8::try_from((len / CHIPS as u64).trailing_zeros()).unwrap_or(0);
        let blocks = u16::try_from(len / BLOCK).unwrap_or(u16::MAX);
        array.show(true);
        let size = ChipSize { len_log2, blocks };
        Self { array, size, state: Mutex::default() }
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.array.len_bytes()
    }

    /// A copy of what a snapshot keeps.
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// Shows the array while every chip does.
    fn sync(&self, state: &State) {
        self.array.show(state.chips.iter().all(|chip| chip.mode == ReadMode::Array));
    }

    /// The halfword at `offset`, a multiple of its size.
    fn read_word(&self, state: &State, offset: u64) -> u16 {
        let (addr, lane) = place(offset);
        let answer = state.chips.get(lane).and_then(|chip| chip.read(addr, self.size));
        answer.unwrap_or_else(|| {
            let mut bytes = [0; 2];
            self.array.read(offset, &mut bytes);
            u16::from_le_bytes(bytes)
        })
    }
}

/// Word address and chip of the halfword at a guest's offset.
fn place(offset: u64) -> (u32, usize) {
    let lane = usize::try_from(offset / WORD).unwrap_or(0) % CHIPS;
    (u32::try_from(offset / BUS).unwrap_or(u32::MAX), lane)
}

/// One chip's share of the array.
struct Lane<'a> {
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
        let offset = u64::from(start) * BUS;
        let room = usize::try_from(self.array.len_bytes().saturating_sub(offset)).unwrap_or(0);
        let bus = usize::try_from(BUS).unwrap_or(0);
        let mut bytes = vec![0; (count * bus).min(room)];
        self.array.read(offset, &mut bytes);
        let words = bytes.chunks_exact_mut(2).skip(self.lane).step_by(CHIPS);
        for (i, word) in words.enumerate() {
            if let [low, high] = word {
                [*low, *high] = new(i, u16::from_le_bytes([*low, *high])).to_le_bytes();
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
        let count = usize::try_from(regs::BLOCK_WORDS).unwrap_or(0);
        self.change(start, count, |_, _| u16::MAX)
    }
}

impl Handler for Flash {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let state = self.state.lock();
        cx.reaches(|| register(&state, offset, Direction::Read));
        match size {
            Size::Byte => {
                let word = self.read_word(&state, offset & !1);
                let [low, high] = word.to_le_bytes();
                if offset & 1 == 0 { low.into() } else { high.into() }
            }
            Size::Word => self.read_word(&state, offset).into(),
            Size::Dword | Size::Qword => {
                let [low, high] = [0, WORD].map(|lane| self.read_word(&state, offset + lane));
                u64::from(high) << 16 | u64::from(low)
            }
        }
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let [a, b, c, d, ..] = value.to_le_bytes();
        let words = match size {
            Size::Byte if offset & 1 == 0 => [Some([a, 0xff]), None],
            Size::Byte => [Some([0xff, a]), None],
            Size::Word => [Some([a, b]), None],
            Size::Dword | Size::Qword => [Some([a, b]), Some([c, d])],
        };
        let state = &mut *self.state.lock();
        cx.reaches(|| register(state, offset, Direction::Write));
        for (at, bytes) in [offset & !1, offset + WORD].into_iter().zip(words) {
            let (addr, lane) = place(at);
            if let (Some(bytes), Some(chip)) = (bytes, state.chips.get_mut(lane)) {
                let mut cells = Lane { array: &*self.array, lane };
                chip.write(addr, u16::from_le_bytes(bytes), &mut cells);
            }
        }
        self.sync(state);
    }

    fn rules(&self) -> Rules {
        let handled = Limits { min: Size::Byte, max: Size::Dword, unaligned: false };
        Rules { valid: Limits::ANY, handled }
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        register(&self.state.lock(), offset, direction)
    }
}

/// What an access at `offset` reaches, by what the chip is doing.
fn register(state: &State, offset: u64, direction: Direction) -> Option<&'static str> {
    let (_, lane) = place(offset);
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
        *state = State::default();
        self.sync(&state);
    }
}

impl SaveState for Flash {
    /// What is in the array is saved with its file.
    fn save(&self) -> Saved {
        Saved::encode(&SavedV1::from(&*self.state.lock()))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let new = State::try_from(saved.decode::<SavedV1>()?)?;
        let blocks = usize::from(self.size.blocks);
        let within = new.chips.iter().all(|chip| !chip.locked.iter().skip(blocks).any(|bit| *bit));
        StateError::check::<SavedV1>(within, "locked blocks are there")?;
        let mut state = self.state.lock();
        *state = new;
        self.sync(&state);
        Ok(())
    }
}

impl FdtDevice for Flash {
    /// Spec: Linux `Documentation/devicetree/bindings/mtd/mtd-physmap.yaml`.
    fn fdt_node(&self) -> FdtNode {
        let width = u32::try_from(BUS).unwrap_or(0);
        FdtNode::new("flash")
            .text("compatible", "cfi-flash")
            .text("label", "System-firmware")
            .cells("bank-width", [width])
    }
}
