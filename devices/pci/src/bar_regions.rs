//! The regions behind a BAR, for a device that changes how a part of it is delivered.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{EditError, RegionEdit, RegionId, Regions, Window};

/// The regions behind a BAR of a function, once that is on a bus: a device switches doorbells on and
/// off by them while it runs. Clones are the same BAR's.
#[derive(Clone, Default)]
pub struct BarRegions(Arc<Mutex<Option<Mapped>>>);

/// Where they are registered.
#[derive(Clone)]
struct Mapped {
    registry: Arc<dyn Regions>,
    /// With their offsets in the BAR.
    pieces: Vec<(Range<u64>, RegionId)>,
}

impl BarRegions {
    /// Ends the deliveries `remove` and adds those of `add`, all in one edit of the registry, which
    /// keeps them wherever the BAR moves. Windows' offsets are ones in the BAR.
    ///
    /// # Errors
    /// As of [`Regions::edit`]; [`EditError::NoRegistry`] while the function is on no bus, and where
    /// the BAR has no region of the function's own.
    pub fn change(&self, remove: Vec<Window>, add: Vec<Window>) -> Result<(), EditError> {
        let mapped = self.0.lock().clone().ok_or(EditError::NoRegistry)?;
        let place = |window: Window| {
            let piece = mapped.pieces.iter().find(|(range, _)| range.contains(&window.offset));
            let (range, id) = piece.ok_or(EditError::NoRegistry)?;
            Ok((*id, Window { offset: window.offset - range.start, ..window }))
        };
        let remove = remove
            .into_iter()
            .map(|window| place(window).map(|(id, window)| RegionEdit::RemoveWindow(id, window)));
        let add = add
            .into_iter()
            .map(|window| place(window).map(|(id, window)| RegionEdit::AddWindow(id, window)));
        let edits = remove.chain(add).collect::<Result<Vec<_>, EditError>>()?;
        mapped.registry.edit(edits).map(drop)
    }

    pub(crate) fn appear(&self, registry: Arc<dyn Regions>, pieces: Vec<(Range<u64>, RegionId)>) {
        *self.0.lock() = Some(Mapped { registry, pieces });
    }

    pub(crate) fn vanish(&self) {
        *self.0.lock() = None;
    }
}
