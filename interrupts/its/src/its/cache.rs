//! Translations remembered: plain numbers in a fixed array, void as soon as anything changed.
//!
//! There are no references and no reference counts to get wrong. An entry says of which state of
//! the ITS it is true (the generation), and any command that could change a translation makes a
//! new generation.

use alloc::boxed::Box;
use alloc::vec;

use super::Its;
use crate::error::Blocked;
use crate::host::GuestMemory;
use crate::{DeviceId, EventId, Lpi, Target};

/// How many translations a cache holds. A power of two.
const ENTRIES: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Entry {
    generation: u64,
    device: DeviceId,
    event: EventId,
    to: (Lpi, Target),
}

/// A cache of one ITS's translations, 1,024 of them, direct mapped.
///
/// It belongs to whoever signals, one per thread if there are several, so that signalling needs
/// only a shared reference to the ITS. Use it with one [`Its`] only.
#[derive(Clone, Debug)]
pub struct TranslationCache {
    entries: Box<[Option<Entry>]>,
}

impl Default for TranslationCache {
    fn default() -> Self {
        Self::new()
    }
}

impl TranslationCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self { entries: vec![None; ENTRIES].into_boxed_slice() }
    }

    /// What [`Its::translate`] says, from memory if possible.
    ///
    /// # Errors
    /// Why the signal comes to nothing. Such answers are not remembered.
    #[inline]
    pub fn translate(
        &mut self,
        its: &Its,
        mem: &impl GuestMemory,
        device: DeviceId,
        event: EventId,
    ) -> Result<(Lpi, Target), Blocked> {
        let generation = its.generation();
        // Devices have consecutive events, so those spread; the device only offsets them.
        let mixed = event.0 ^ device.0.wrapping_mul(0x9e37_79b1).rotate_left(12);
        let slot = usize::try_from(mixed).unwrap_or(0) & (ENTRIES - 1);
        let slot = self.entries.get_mut(slot);
        if let Some(Some(entry)) = slot.as_deref()
            && entry.generation == generation
            && entry.device == device
            && entry.event == event
        {
            return Ok(entry.to);
        }
        let to = its.translate(mem, device, event)?;
        if let Some(slot) = slot {
            *slot = Some(Entry { generation, device, event, to });
        }
        Ok(to)
    }
}
