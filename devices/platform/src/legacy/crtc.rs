//! The CRT controller's index and data ports, 0x3d4 and 0x3d5.
//!
//! Spec: Motorola MC6845 data sheet, table "Internal register assignment". There is no display
//! behind it: what is written is remembered, and nothing is drawn.

use parking_lot::Mutex;
use trapline_device::{
    Direction, Handler, IoCx, Rules, Size, StateError, device_state, saved_form,
};

use super::regs::{CRT, CRT_FILE, CRT_INDEX_MASK, CRT_MASKS, Crt};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    index: u8,
    file: [u8; CRT_MASKS.len()],
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let check = StateError::check::<SavedV1>;
        check(self.index & !CRT_INDEX_MASK == 0, "the address register has five bits")?;
        let fits = self.file.iter().zip(CRT_MASKS).all(|(register, mask)| register & !mask == 0);
        check(fits, "registers hold the bits they have")
    }
}

saved_form! {
    /// [`State`], version 1.
    struct SavedV1 of State, "mc6845" version 1 {
        index: u8,
        file: [u8; CRT_MASKS.len()],
    }
}

/// A 6845 without a screen, two bytes: index and data. Power-on value of every register 0.
///
/// Deviation: on the MC6845 only R14 to R17 can be read. Here the index and R0 to R13 read back
/// too, as on the controllers (EGA, VGA) that today's drivers know.
#[derive(Debug, Default)]
pub struct Crtc(Mutex<State>);

impl Crtc {
    /// The name of the register that an access at `offset` reaches while the address register has `index`.
    pub fn register_of(index: u8, offset: u64, direction: Direction) -> Option<&'static str> {
        let row = CRT.for_read(offset)?;
        let index = (index & CRT_INDEX_MASK).into();
        let selected = match (row.reg, direction) {
            (Crt::Index, _) => None,
            (Crt::Data, Direction::Read) => CRT_FILE.for_read(index),
            (Crt::Data, Direction::Write) => CRT_FILE.for_write(index),
        };
        Some(selected.map_or(row.name, |selected| selected.name))
    }
}

impl Handler for Crtc {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let state = self.0.lock();
        cx.reaches(|| Self::register_of(state.index, offset, Direction::Read));
        match CRT.for_read(offset).map(|row| row.reg) {
            Some(Crt::Index) => u64::from(state.index),
            Some(Crt::Data) => {
                state.file.get(usize::from(state.index)).copied().map_or(0, u64::from)
            }
            None => size.ones(),
        }
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        let value = super::low_byte(value);
        let mut state = self.0.lock();
        cx.reaches(|| Self::register_of(state.index, offset, Direction::Write));
        let index = usize::from(state.index);
        match CRT.for_write(offset).map(|row| row.reg) {
            Some(Crt::Index) => state.index = value & CRT_INDEX_MASK,
            Some(Crt::Data) => {
                if let (Some(register), Some(mask)) =
                    (state.file.get_mut(index), CRT_MASKS.get(index))
                {
                    *register = value & mask;
                }
            }
            None => {}
        }
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        Self::register_of(self.0.lock().index, offset, direction)
    }
}

device_state!(Crtc, SavedV1, 0);
