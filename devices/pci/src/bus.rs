//! Bus 0: 32 devices of 8 functions, most of them absent.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use trapline_device::{
    Device, Direction, EditError, EditListener, Form, Mirror, Regions, SaveState, Saved, Size,
    StateError, restore_all,
};

use crate::function::Function;
use crate::map::BarMap;
use crate::mirror::ConfigMirror;
use crate::windows::BridgeWindow;

pub(crate) const FUNCTIONS: usize = 256;

/// A device (0 to 31) and a function of it (0 to 7), as in configuration addresses: device in bits
/// 7:3, function in bits 2:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Devfn(u8);

impl Devfn {
    /// Function `function` of device `device`, if there can be one.
    pub const fn new(device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 { Some(Self(device << 3 | function)) } else { None }
    }

    /// From a configuration address, where every value names a function.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// As in a configuration address.
    pub const fn into_bits(self) -> u8 {
        self.0
    }

    /// The device, 0 to 31.
    pub const fn device(self) -> u8 {
        self.0 >> 3
    }

    /// The function, 0 to 7.
    pub const fn function(self) -> u8 {
        self.0 & 7
    }
}

impl fmt::Display for Devfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{}", self.device(), self.function())
    }
}

/// Why a function could not be put on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusError {
    /// Another function is there.
    Occupied(Devfn),
    /// Its regions were refused.
    Regions(EditError),
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Occupied(devfn) => write!(f, "PCI 00:{devfn} is taken"),
            Self::Regions(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BusError {}

/// A PCI bus: its functions, and the regions behind their BARs.
pub struct Bus {
    shared: Arc<Shared>,
}

/// What the registry tells of its edits. The order of the locks is that of the fields, then a
/// function's own, then its device's; whoever lets go of one of them looks at `retry` next.
struct Shared {
    /// Whether a BAR may have room now that it had not when it was last to be mapped.
    retry: AtomicBool,
    map: Mutex<BarMap>,
    /// Held for a moment only, and for no edit.
    functions: RwLock<[Option<Arc<Function>>; FUNCTIONS]>,
    /// Where guests can read configuration space without an access, once somebody has asked. Changed
    /// with the map locked only.
    mirror: OnceLock<ConfigMirror>,
}

impl Bus {
    /// An empty bus behind a host bridge with these windows, whose functions' BARs are mapped in
    /// `registry`. Bridge and registry may hold the bus in turn, so this is a weak reference to the
    /// latter where it matters.
    pub fn new(registry: Arc<dyn Regions>, windows: Vec<BridgeWindow>) -> Self {
        let shared = Arc::new(Shared {
            retry: AtomicBool::new(false),
            map: Mutex::new(BarMap::new(Arc::clone(&registry), windows)),
            functions: RwLock::new([const { None }; FUNCTIONS]),
            mirror: OnceLock::new(),
        });
        let listener: Weak<Shared> = Arc::downgrade(&shared);
        registry.listen_freed(listener);
        Self { shared }
    }

    /// Plugs a function in, and maps its BARs that are enabled.
    ///
    /// # Errors
    /// [`BusError::Occupied`] when one is there already, [`BusError::Regions`] when the registry
    /// does not take its regions.
    pub fn insert(&self, devfn: Devfn, function: Function) -> Result<(), BusError> {
        self.with_map(|map| {
            if self.get(devfn).is_some() {
                return Err(BusError::Occupied(devfn));
            }
            map.add(devfn, &function).map_err(BusError::Regions)?;
            let function = Arc::new(function);
            self.conceal_absent();
            if let Some(slot) = self.shared.functions.write().get_mut(usize::from(devfn.0)) {
                *slot = Some(Arc::clone(&function));
            }
            self.show(devfn, &function);
            map.update(&self.functions());
            Ok(())
        })
    }

    /// Pulls a function out, and returns it. Others that had to give way to its BARs are mapped.
    pub fn remove(&self, devfn: Devfn) -> Option<Arc<Function>> {
        self.with_map(|map| {
            let function = self.get(devfn)?;
            function.conceal();
            if let Some(slot) = self.shared.functions.write().get_mut(usize::from(devfn.0)) {
                *slot = None;
            }
            self.conceal_absent();
            self.show_absent();
            map.remove(devfn);
            function.unplugged();
            map.update(&self.functions());
            Some(function)
        })
    }

    /// What a guest can read of configuration space without an access: the functions' one after the
    /// other, each in a page.
    pub(crate) fn mirror(&self) -> Arc<Mirror> {
        self.with_map(|_| {
            let mirror = self.shared.mirror.get_or_init(ConfigMirror::default);
            mirror.conceal_absent();
            self.functions().iter().for_each(|(devfn, function)| mirror.show(*devfn, function));
            mirror.show_absent(&self.occupied());
            mirror.pages()
        })
    }

    fn show(&self, devfn: Devfn, function: &Function) {
        if let Some(mirror) = self.shared.mirror.get() {
            mirror.show(devfn, function);
            mirror.show_absent(&self.occupied());
        }
    }

    fn show_absent(&self) {
        if let Some(mirror) = self.shared.mirror.get() {
            mirror.show_absent(&self.occupied());
        }
    }

    fn conceal_absent(&self) {
        if let Some(mirror) = self.shared.mirror.get() {
            mirror.conceal_absent();
        }
    }

    fn get(&self, devfn: Devfn) -> Option<Arc<Function>> {
        self.shared.functions.read().get(usize::from(devfn.0))?.clone()
    }

    /// Every place that is taken, in order.
    pub fn occupied(&self) -> Vec<Devfn> {
        self.functions().into_iter().map(|(devfn, _)| devfn).collect()
    }

    fn functions(&self) -> Vec<(Devfn, Arc<Function>)> {
        self.shared.functions()
    }

    /// A configuration read. All ones where nobody is: the host bridge ends the transaction with
    /// a master abort (PCI 3.0, 3.2.2.3.4 and 6.1).
    pub fn config_read(&self, devfn: Devfn, offset: u16, size: Size) -> u32 {
        let Some(function) = self.get(devfn) else {
            if let Some(mirror) = self.shared.mirror.get() {
                mirror.read_absent(devfn);
            }
            return u32::MAX;
        };
        let value = function.config_read(offset, size);
        self.shared.retry_if_due();
        value
    }

    /// A configuration write. Vanishes where nobody is.
    pub fn config_write(&self, devfn: Devfn, offset: u16, size: Size, value: u32) {
        let Some(function) = self.get(devfn) else { return };
        if function.config_write(offset, size, value) {
            self.remap();
        } else {
            self.shared.retry_if_due();
        }
    }

    /// The name of the register an access would reach, if anybody is there.
    pub fn register(
        &self,
        devfn: Devfn,
        offset: u16,
        direction: Direction,
    ) -> Option<&'static str> {
        self.get(devfn)?.register(offset, direction)
    }

    fn remap(&self) {
        self.with_map(|map| map.update(&self.functions()));
    }

    fn with_map<R>(&self, change: impl FnOnce(&mut BarMap) -> R) -> R {
        let done = change(&mut self.shared.map.lock());
        self.shared.retry_if_due();
        done
    }
}

impl EditListener for Shared {
    fn freed(&self) {
        self.retry.store(true, Ordering::SeqCst);
        self.retry_if_due();
    }
}

impl Shared {
    /// Maps BARs that had no room before, if there may be some now. What another thread has locked,
    /// or this one, is left to it: it comes here as soon as it has let go.
    fn retry_if_due(&self) {
        // Either whoever has let go of a lock sees that a retry is due, or whoever said so finds the
        // lock free.
        fence(Ordering::SeqCst);
        while self.retry.load(Ordering::SeqCst) {
            if !self.try_retry() {
                return;
            }
        }
    }

    /// Whether nobody had anything locked that this needs.
    fn try_retry(&self) -> bool {
        let Some(mut map) = self.map.try_lock() else { return false };
        let functions = self.functions();
        let contended = map.is_contended();
        if contended && !map.try_read_registers(&functions) {
            return false;
        }
        // Edits from here on are another reason to try.
        self.retry.store(false, Ordering::SeqCst);
        if contended {
            map.place_all();
        }
        true
    }

    /// Every function with its place, in order. As of now: the bus is not locked afterwards.
    fn functions(&self) -> Vec<(Devfn, Arc<Function>)> {
        let slots = self.functions.read().clone();
        (0..=u8::MAX)
            .map(Devfn)
            .zip(slots)
            .filter_map(|(devfn, slot)| Some((devfn, slot?)))
            .collect()
    }
}

impl Device for Bus {
    fn reset(&self) {
        self.functions().iter().for_each(|(_, function)| function.reset());
        self.remap();
    }
}

/// The functions' states, each with its place, in order. Version 2: the configuration space of
/// each is in it, and no longer in the device's.
#[derive(Debug, Serialize, Deserialize)]
struct SavedV2 {
    functions: Vec<(u8, Saved)>,
}

impl Form for SavedV2 {
    const NAME: &'static str = "pci-bus";
    const VERSION: u32 = 2;
}

impl SaveState for Bus {
    fn save(&self) -> Saved {
        let functions = self.functions();
        let functions = functions.iter().map(|(Devfn(place), function)| (*place, function.save()));
        let saved = Saved::encode(&SavedV2 { functions: functions.collect() });
        self.shared.retry_if_due();
        saved
    }

    /// The same functions have to be plugged in.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let SavedV2 { functions: saved } = saved.decode()?;
        let plugged = self.functions();
        let same =
            plugged.iter().map(|(devfn, _)| devfn.0).eq(saved.iter().map(|(place, _)| *place));
        StateError::check::<SavedV2>(same, "the same functions are plugged in")?;
        let functions = plugged.iter().map(|(_, function)| -> &dyn SaveState { &**function });
        let restored = restore_all(functions.zip(saved.iter().map(|(_, saved)| saved)));
        self.remap();
        restored
    }

    fn is_at_rest(&self) -> bool {
        self.functions().iter().all(|(_, function)| function.is_at_rest())
    }
}
