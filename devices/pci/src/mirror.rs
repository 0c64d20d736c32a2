//! Configuration space as pages that a guest reads without an access: one for each function that is
//! there, and for each run of places without any, where reads give ones.

use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::Mirror;

use crate::bus::{Devfn, FUNCTIONS};
use crate::ecam::PAGE_LEN;
use crate::function::Function;

/// The pages of a bus. Who changes them has the bus's map locked.
pub(crate) struct ConfigMirror {
    pages: Arc<Mirror>,
    /// Where the runs of absent functions begin, as offsets.
    absent: Mutex<Vec<u64>>,
}

impl Default for ConfigMirror {
    /// Software looks at every place of a bus that it finds, and once only.
    fn default() -> Self {
        Self { pages: Mirror::at_once(), absent: Mutex::default() }
    }
}

impl ConfigMirror {
    pub(crate) fn pages(&self) -> Arc<Mirror> {
        Arc::clone(&self.pages)
    }

    /// Shows a function that is plugged in at `devfn`.
    pub(crate) fn show(&self, devfn: Devfn, function: &Function) {
        function.show(&self.pages, offset(devfn));
    }

    /// Shows ones wherever no function is.
    pub(crate) fn show_absent(&self, occupied: &[Devfn]) {
        let mut absent = self.absent.lock();
        for (start, len) in runs(occupied) {
            self.pages.vouch(start * PAGE_LEN, len * PAGE_LEN, &[]);
            absent.push(start * PAGE_LEN);
        }
    }

    /// Ends that, for functions that come and go.
    pub(crate) fn conceal_absent(&self) {
        self.absent.lock().drain(..).for_each(|start| self.pages.forget(start));
    }

    /// A read has come to a place without a function.
    pub(crate) fn read_absent(&self, devfn: Devfn) {
        self.pages.read(offset(devfn));
    }
}

/// A function's page in a mirror of configuration space, while it is plugged in. Its lock comes after
/// all others of the function.
#[derive(Default)]
pub(crate) struct ConfigPage(Mutex<Option<(Arc<Mirror>, u64)>>);

impl ConfigPage {
    pub(crate) fn show(&self, mirror: &Arc<Mirror>, offset: u64) {
        *self.0.lock() = Some((Arc::clone(mirror), offset));
    }

    pub(crate) fn conceal(&self) {
        if let Some((mirror, offset)) = self.0.lock().take() {
            mirror.forget(offset);
        }
    }

    pub(crate) fn vouch(&self, bytes: &[u8]) {
        if let Some((mirror, offset)) = &*self.0.lock() {
            mirror.vouch(*offset, PAGE_LEN, bytes);
        }
    }

    pub(crate) fn withdraw(&self) {
        if let Some((mirror, offset)) = &*self.0.lock() {
            mirror.withdraw(*offset);
        }
    }

    pub(crate) fn read(&self, offset: u16) {
        if let Some((mirror, start)) = &*self.0.lock() {
            mirror.read(start + u64::from(offset));
        }
    }

    pub(crate) fn is_there(&self) -> bool {
        self.0.lock().is_some()
    }
}

fn offset(devfn: Devfn) -> u64 {
    u64::from(devfn.into_bits()) * PAGE_LEN
}

/// Where nobody is of the places of a bus: first place and length of each run. `occupied` is in
/// order.
fn runs(occupied: &[Devfn]) -> Vec<(u64, u64)> {
    let taken = occupied.iter().map(|devfn| u64::from(devfn.into_bits()));
    let ends = taken.clone().chain([FUNCTIONS as u64]);
    let starts = [0].into_iter().chain(taken.map(|place| place + 1));
    let runs = starts.zip(ends).map(|(start, end)| (start, end - start));
    runs.filter(|(_, len)| *len > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_absent_functions_are_what_lies_between_those_that_are_there() {
        let runs =
            |places: &[u8]| runs(&places.iter().copied().map(Devfn::from_bits).collect::<Vec<_>>());
        assert_eq!(runs(&[]), [(0, 256)]);
        assert_eq!(runs(&[0]), [(1, 255)]);
        assert_eq!(runs(&[8, 9, 16]), [(0, 8), (10, 6), (17, 239)]);
        assert_eq!(runs(&[0, 255]), [(1, 254)]);
    }
}
