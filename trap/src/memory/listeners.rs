//! Listeners: who hears of the memory that the guest sees, as part of the edits that change it.

use std::sync::{Arc, Weak};

use trapline_access::{Delivery, EditError, MemoryListener, MemorySection, Space, Window};

use crate::core::Core;
use crate::region::Shared;

/// All listeners of a registry. Behind the edit lock.
#[derive(Default)]
pub(crate) struct Listeners(Vec<Arc<dyn MemoryListener>>);

/// What an edit changes about the memory that the guest sees.
#[derive(Default)]
pub(crate) struct MemoryChange {
    pub(crate) gone: Vec<MemorySection>,
    pub(crate) come: Vec<MemorySection>,
}

impl Listeners {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells a new listener of the memory there is; it hears of changes from now on.
    pub(crate) fn add(
        &mut self,
        listener: &Arc<dyn MemoryListener>,
        sections: Vec<MemorySection>,
    ) -> Result<(), EditError> {
        let all = MemoryChange { gone: Vec::new(), come: sections };
        tell(&**listener, &all)?;
        self.0.push(Arc::clone(listener));
        Ok(())
    }

    /// Takes a listener out, having told it that the memory there is goes.
    pub(crate) fn remove(
        &mut self,
        listener: &Arc<dyn MemoryListener>,
        sections: Vec<MemorySection>,
    ) {
        let before = self.0.len();
        self.0.retain(|other| !Arc::ptr_eq(other, listener));
        if self.0.len() < before {
            let none = MemoryChange { gone: sections, come: Vec::new() };
            // Nothing comes that could be refused.
            let _ = tell(&**listener, &none);
        }
    }

    /// Tells all of a change, or none: those told before one refuses are told of the opposite.
    pub(crate) fn tell(&self, change: &MemoryChange) -> Result<(), EditError> {
        if change.gone.is_empty() && change.come.is_empty() {
            return Ok(());
        }
        for (at, listener) in self.0.iter().enumerate() {
            if let Err(error) = tell(&**listener, change) {
                self.untell_first(at, change);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Tells the first `count` of the opposite of a change that is not made after all.
    fn untell_first(&self, count: usize, change: &MemoryChange) {
        let opposite = MemoryChange { gone: change.come.clone(), come: change.gone.clone() };
        for listener in self.0.iter().take(count).rev() {
            // What it had a moment ago, and refuses now, it has to do without.
            let _ = tell(&**listener, &opposite);
        }
    }
}

/// Tells one listener of a change; if it refuses a part, also of the opposite of what it was told.
fn tell(listener: &dyn MemoryListener, change: &MemoryChange) -> Result<(), EditError> {
    listener.begin();
    change.gone.iter().for_each(|section| listener.remove(section));
    let told = change.come.iter().enumerate().try_for_each(|(at, section)| {
        listener.add(section).map_err(|reason| {
            change.come.iter().take(at).rev().for_each(|section| listener.remove(section));
            for section in &change.gone {
                // See above.
                let _ = listener.add(section);
            }
            EditError::Listener { name: section.name.clone(), reason }
        })
    });
    listener.commit();
    told
}

/// The section of `window` while its region is at `base`, if it is memory.
pub(crate) fn section(region: &Shared, base: u64, window: &Window) -> Option<MemorySection> {
    let Delivery::Memory { memory, offset, readonly } = &window.delivery else { return None };
    debug_assert!(region.space == Space::Mmio, "checked when the window was made");
    Some(MemorySection {
        name: region.name.clone(),
        addr: base + window.offset,
        len: window.len,
        memory: Arc::clone(memory),
        offset: *offset,
        readonly: *readonly,
    })
}

/// Keeps a listener. Dropping it tells the listener that all memory goes.
pub(crate) struct Listening {
    pub(crate) listener: Arc<dyn MemoryListener>,
    pub(crate) core: Weak<Core>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.unlisten(&self.listener);
        }
    }
}
