//! The devices of a board as a whole: added and removed, reset, saved and restored.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use trapline::{EditError, Mapping, Registry};
use trapline_device::Saved;

use super::builder::{BoardDevice, Builder, Follower, Part, Stage};
use crate::{Error, SnapshotError};

/// The devices of a board, each under a name of its own. Devices come and go while the machine
/// runs.
pub(crate) struct Devices {
    registry: Registry,
    /// What of accesses the source spares us.
    spared: Spared,
    /// In the order of their stages, and within one in the order in which they were added. No
    /// device is called with this locked.
    installed: Mutex<Vec<Installed>>,
}

/// Which accesses a board's source spares us, as far as it can and devices allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spared {
    /// Writes that can be delivered late: it queues them.
    pub(crate) writes: bool,
    /// Reads that change nothing: it answers them from pages of the registers' values.
    pub(crate) reads: bool,
}

/// One device of the board. Dropping it unmaps its regions.
struct Installed {
    name: String,
    stage: Stage,
    device: Option<Arc<dyn BoardDevice>>,
    follower: Option<Follower>,
    mappings: Vec<Mapping>,
}

/// The devices of a board that have state, by name.
pub(crate) struct SavedDevices(Vec<(String, Arc<dyn BoardDevice>)>);

impl SavedDevices {
    /// The state of each.
    pub(crate) fn save(&self) -> BTreeMap<String, Saved> {
        self.0.iter().map(|(name, device)| (name.clone(), device.save())).collect()
    }

    /// Whether those states are all that there is to them.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.0.iter().all(|(_, device)| device.is_at_rest())
    }
}

impl Devices {
    /// A board without devices.
    pub(crate) fn new(registry: Registry, spared: Spared) -> Self {
        Self { registry, spared, installed: Mutex::default() }
    }

    /// Adds everything collected in `builder`: its regions are mapped in one edit.
    ///
    /// # Errors
    /// A name that is taken, or a region that cannot be mapped. Nothing has been added then.
    pub(crate) fn add(&self, builder: Builder) -> Result<(), Error> {
        let mut installed = self.installed.lock();
        let mut names: Vec<&str> = installed.iter().map(|other| &*other.name).collect();
        for part in &builder.parts {
            if names.contains(&&*part.name) {
                return Err(Error::DeviceName(part.name.clone()));
            }
            names.push(&part.name);
        }
        installed.extend(self.map(builder.parts)?);
        installed.sort_by_key(|installed| installed.stage);
        Ok(())
    }

    fn map(&self, parts: Vec<Part>) -> Result<Vec<Installed>, EditError> {
        self.registry.edit(|edit| {
            let mut mapped = Vec::with_capacity(parts.len());
            for Part { name, stage, device, regions, follower } in parts {
                let mut mappings = Vec::with_capacity(regions.len());
                for part in regions {
                    let region = part.region();
                    let region = match part.coalesced.filter(|_| self.spared.writes) {
                        Some(offsets) => region.coalesce(offsets),
                        None => region,
                    };
                    let region = match part.mirrored.filter(|_| self.spared.reads) {
                        Some((offsets, mirror)) => region.mirror(offsets, mirror),
                        None => region,
                    };
                    let mapping = edit.map(region)?;
                    if let Some(mapped) = part.mapped {
                        mapped(mapping.id());
                    }
                    mappings.push(mapping);
                }
                mapped.push(Installed { name, stage, device, follower, mappings });
            }
            Ok(mapped)
        })
    }

    /// Removes a device with its regions, and waits until none of its handlers runs any more. Not
    /// to be called from a handler. Says whether there was such a device.
    #[cfg_attr(not(test), expect(dead_code, reason = "no bus has hot-plug yet"))]
    pub(crate) fn remove(&self, name: &str) -> bool {
        let mut installed = self.installed.lock();
        let Some(at) = installed.iter().position(|device| device.name == name) else {
            return false;
        };
        let removed = installed.remove(at);
        drop(installed);
        removed.mappings.into_iter().for_each(|mapping| self.registry.remove_sync(mapping));
        true
    }

    /// Whether there is a device of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.installed.lock().iter().any(|device| device.name == name)
    }

    /// Everything back to power-on.
    pub(crate) fn reset(&self) {
        self.with_state().iter().for_each(|(_, device)| device.reset());
        self.follow();
    }

    /// Every device's state, by its name.
    pub(crate) fn save(&self) -> BTreeMap<String, Saved> {
        self.saved().save()
    }

    /// Those that there are now, to be saved by somebody else.
    pub(crate) fn saved(&self) -> SavedDevices {
        SavedDevices(self.with_state())
    }

    /// Restores every device.
    ///
    /// # Errors
    /// The states are not those of this board's devices: nothing has been restored then. Or a
    /// device refuses its state: some have been restored then and others have not.
    pub(crate) fn restore(&self, saved: &BTreeMap<String, Saved>) -> Result<(), SnapshotError> {
        let devices = self.with_state();
        let known = |name: &String| devices.iter().any(|(device, _)| device == name);
        if let Some(unknown) = saved.keys().find(|name| !known(name)) {
            return Err(SnapshotError::Unknown(unknown.clone()));
        }
        let state = |(name, device)| match saved.get(&name) {
            Some(state) => Ok((name, device, state)),
            None => Err(SnapshotError::Missing(name)),
        };
        let states = devices.iter().cloned().map(state).collect::<Result<Vec<_>, _>>()?;
        for (device, restored, state) in states {
            let refused = |reason| SnapshotError::State { device, reason };
            restored.restore(state).map_err(refused)?;
        }
        self.follow();
        Ok(())
    }

    /// The devices that have state, in the order in which they are reset and restored.
    fn with_state(&self) -> Vec<(String, Arc<dyn BoardDevice>)> {
        let installed = self.installed.lock();
        let with_state = |installed: &Installed| {
            installed.device.clone().map(|device| (installed.name.clone(), device))
        };
        installed.iter().filter_map(with_state).collect()
    }

    /// Calls the followers.
    fn follow(&self) {
        let installed = self.installed.lock();
        let followers: Vec<_> =
            installed.iter().filter_map(|device| device.follower.clone()).collect();
        drop(installed);
        followers.iter().for_each(|follow| follow());
    }
}

#[cfg(test)]
mod tests;
