//! Which target each collection has: the one table kept on the host while the ITS is enabled.

use alloc::vec::Vec;

use crate::{CollectionId, Target};

/// No command has named the collection.
const ABSENT: u32 = u32::MAX;
/// An event was put in it, but it has no target (MAPTI before MAPC is legal).
const UNMAPPED: u32 = u32::MAX - 1;

/// How many collection numbers there are.
const COUNT: usize = 1 << 16;

/// Targets by collection number. At most 65,536 numbers of 4 bytes, whatever the guest does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collections {
    slots: Vec<u32>,
}

impl Collections {
    /// The target of a mapped collection.
    pub(crate) fn target(&self, collection: CollectionId) -> Option<Target> {
        match self.slots.get(usize::from(collection.0)) {
            None | Some(&(ABSENT | UNMAPPED)) => None,
            Some(&target) => Some(Target(target)),
        }
    }

    /// Whether the collection has a place in the table.
    pub(crate) fn knows(&self, collection: CollectionId) -> bool {
        self.slots.get(usize::from(collection.0)).is_some_and(|slot| *slot != ABSENT)
    }

    /// MAPC: sets or takes the target. What was named once stays known, as events may name it.
    pub(crate) fn map(&mut self, collection: CollectionId, target: Option<Target>) {
        if target.is_none() && !self.knows(collection) {
            return;
        }
        *self.slot(collection) = target.map_or(UNMAPPED, |target| target.0);
    }

    /// An event was put in the collection.
    pub(crate) fn note(&mut self, collection: CollectionId) {
        let slot = self.slot(collection);
        if *slot == ABSENT {
            *slot = UNMAPPED;
        }
    }

    fn slot(&mut self, collection: CollectionId) -> &mut u32 {
        let index = usize::from(collection.0);
        if self.slots.len() <= index {
            // Twice as much each time, so that a guest that names them one by one costs no more
            // than one that names the last one first.
            let wanted = (self.slots.len() * 2).min(COUNT).max(index + 1);
            self.slots.reserve_exact(wanted - self.slots.len());
            self.slots.resize(index + 1, ABSENT);
        }
        self.slots.get_mut(index).unwrap_or_else(|| unreachable!("the slot was just made"))
    }

    /// All known collections in ascending order, with their targets.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (CollectionId, Option<Target>)> {
        let known = (0..=u16::MAX).zip(&self.slots).filter(|(_, slot)| **slot != ABSENT);
        known.map(|(id, slot)| (CollectionId(id), (*slot != UNMAPPED).then_some(Target(*slot))))
    }
}
