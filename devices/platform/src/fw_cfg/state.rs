//! What a snapshot keeps of the device.

use serde::{Deserialize, Serialize};
use trapline_device::{Form, StateError};

use super::chip::{Chip, item_key};

/// What the device remembers besides its items. `Default` is the state at power-on: the signature
/// is selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The selector register.
    pub selector: u16,
    /// Bytes of the selected item that have been read; at most its size.
    pub offset: usize,
    /// What has been written of the DMA address register's upper half.
    pub dma_high: u32,
}

/// Version 1: [`State`], and the items a guest can change. The others are the board's.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedV1 {
    selector: u16,
    offset: u32,
    dma_high: u32,
    written: Vec<(u16, Vec<u8>)>,
}

impl Form for SavedV1 {
    const NAME: &'static str = "fw_cfg";
    const VERSION: u32 = 1;
}

impl From<&Chip> for SavedV1 {
    fn from(chip: &Chip) -> Self {
        let State { selector, offset, dma_high } = chip.state;
        let writable = chip.items.iter().filter(|(_, item)| item.writable);
        let written = writable.map(|(key, item)| (*key, item.bytes.clone())).collect();
        Self { selector, offset: u32::try_from(offset).unwrap_or(u32::MAX), dma_high, written }
    }
}

impl SavedV1 {
    /// Makes `chip`, with the same items, what this says.
    pub(super) fn apply(self, chip: &mut Chip) -> Result<(), StateError> {
        let Self { selector, offset, dma_high, written } = self;
        let item = chip.items.get(&item_key(selector));
        let len = item.map_or(0, |item| item.bytes.len());
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        StateError::check::<Self>(offset <= len, "the offset is inside the selected item")?;
        let writable = chip.items.iter().filter(|(_, item)| item.writable);
        let shape = writable.map(|(key, item)| (*key, item.bytes.len()));
        let same = shape.eq(written.iter().map(|(key, bytes)| (*key, bytes.len())));
        StateError::check::<Self>(same, "the board has the same items for the guest to write")?;
        for (key, bytes) in written {
            if let Some(item) = chip.items.get_mut(&key) {
                item.bytes = bytes;
            }
        }
        chip.state = State { selector, offset, dma_high };
        Ok(())
    }
}
