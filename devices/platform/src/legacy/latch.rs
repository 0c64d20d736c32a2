//! Bytes that are remembered and read back: the POST code port, the delay port, the DMA page
//! registers.
//!
//! Spec: IBM Personal System/2 and Personal Computer BIOS Interface Technical Reference (1991),
//! "Port definitions" (0x80 manufacturing test, 0x81 to 0x8f DMA page registers); TI SN74LS612
//! data sheet for the page register file of the PC/AT, of which port 0x80 is entry 0.

use std::sync::atomic::{AtomicU8, Ordering};

use trapline_device::{
    Device, Direction, Form, Handler, IoCx, Rules, SaveState, Saved, Size, StateError, saved_form,
};

use super::regs::{DELAY_NAMES, PAGE_NAMES, POST_NAMES};

/// A row of byte latches. Power-on value 0.
///
/// No channel of the DMA controllers here moves data, so the page registers extend nobody's
/// address; writing port 0x80 or 0xed is how a guest waits for the length of a bus cycle, which
/// a trap exceeds by far.
#[derive(Debug)]
pub struct Latches {
    latches: Box<[AtomicU8]>,
    names: &'static [&'static str],
}

impl Latches {
    /// Port 0x80: the last POST code.
    pub fn post() -> Self {
        Self::named(&POST_NAMES)
    }

    /// Port 0xed: nothing but a place to write to for the sake of waiting.
    pub fn delay() -> Self {
        Self::named(&DELAY_NAMES)
    }

    /// Ports 0x81 to 0x8f: address bits 16 to 23 of the DMA channels, and the spare entries of
    /// the register file.
    pub fn dma_pages() -> Self {
        Self::named(&PAGE_NAMES)
    }

    /// Number of ports.
    pub fn len(&self) -> usize {
        self.latches.len()
    }

    /// Whether there are none; there always are.
    pub fn is_empty(&self) -> bool {
        self.latches.is_empty()
    }

    /// What the latch at `offset` holds, for a report that wants the last POST code.
    pub fn value(&self, offset: usize) -> Option<u8> {
        self.latches.get(offset).map(|latch| latch.load(Ordering::Relaxed))
    }

    fn named(names: &'static [&'static str]) -> Self {
        Self { latches: names.iter().map(|_| AtomicU8::new(0)).collect(), names }
    }
}

impl Handler for Latches {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let value = usize::try_from(offset).ok().and_then(|offset| self.value(offset));
        value.map_or(size.ones(), u64::from)
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        if let Some(latch) = usize::try_from(offset).ok().and_then(|at| self.latches.get(at)) {
            latch.store(super::low_byte(value), Ordering::Relaxed);
        }
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, offset: u64, _direction: Direction) -> Option<&'static str> {
        usize::try_from(offset).ok().and_then(|offset| self.names.get(offset)).copied()
    }
}

impl Device for Latches {
    fn reset(&self) {
        for latch in &self.latches {
            latch.store(0, Ordering::Relaxed);
        }
    }
}

/// What a snapshot keeps.
#[derive(Clone)]
struct State {
    latches: Vec<u8>,
}

saved_form! {
    /// [`State`], version 1.
    struct SavedV1 of State {
        latches: Vec<u8>,
    }
}

impl Form for SavedV1 {
    const NAME: &'static str = "latches";
    const VERSION: u32 = 1;
}

impl SaveState for Latches {
    fn save(&self) -> Saved {
        let latches = self.latches.iter().map(|latch| latch.load(Ordering::Relaxed)).collect();
        Saved::encode(&SavedV1::from(State { latches }))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let State { latches } = State::from(saved.decode::<SavedV1>()?);
        let as_many = latches.len() == self.latches.len();
        StateError::check::<SavedV1>(as_many, "there are as many latches as ports")?;
        for (latch, value) in self.latches.iter().zip(latches) {
            latch.store(value, Ordering::Relaxed);
        }
        Ok(())
    }
}
