//! Bus 0: 32 devices of 8 functions, most of them absent.

use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use trapline_device::{
    Device, Direction, EditError, Form, Regions, SaveState, Saved, Size, StateError, restore_all,
};

use crate::function::Function;
use crate::map::BarMap;
use crate::windows::BridgeWindow;

const FUNCTIONS: usize = 256;

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
    functions: RwLock<[Option<Arc<Function>>; FUNCTIONS]>,
    /// Taken before a function's own lock.
    map: Mutex<BarMap>,
}

impl Bus {
    /// An empty bus behind a host bridge with these windows, whose functions' BARs are mapped in
    /// `registry`. Bridge and registry may hold the bus in turn, so this is a weak reference to the
    /// latter where it matters.
    pub fn new(registry: Arc<dyn Regions>, windows: Vec<BridgeWindow>) -> Self {
        let functions = RwLock::new([const { None }; FUNCTIONS]);
        Self { functions, map: Mutex::new(BarMap::new(registry, windows)) }
    }

    /// Plugs a function in, and maps its BARs that are enabled.
    ///
    /// # Errors
    /// [`BusError::Occupied`] when one is there already, [`BusError::Regions`] when the registry
    /// does not take its regions.
    pub fn insert(&self, devfn: Devfn, function: Function) -> Result<(), BusError> {
        let mut map = self.map.lock();
        if self.get(devfn).is_some() {
            return Err(BusError::Occupied(devfn));
        }
        map.add(devfn, &function).map_err(BusError::Regions)?;
        if let Some(slot) = self.functions.write().get_mut(usize::from(devfn.0)) {
            *slot = Some(Arc::new(function));
        }
        map.update(&self.functions());
        Ok(())
    }

    /// Pulls a function out, and returns it. Others that had to give way to its BARs are mapped.
    pub fn remove(&self, devfn: Devfn) -> Option<Arc<Function>> {
        let mut map = self.map.lock();
        let function = self.functions.write().get_mut(usize::from(devfn.0))?.take()?;
        map.remove(devfn);
        function.unplugged();
        map.update(&self.functions());
        Some(function)
    }

    fn get(&self, devfn: Devfn) -> Option<Arc<Function>> {
        self.functions.read().get(usize::from(devfn.0))?.clone()
    }

    /// Every place that is taken, in order.
    pub fn occupied(&self) -> Vec<Devfn> {
        self.functions().into_iter().map(|(devfn, _)| devfn).collect()
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

    /// A configuration read. All ones where nobody is: the host bridge ends the transaction with
    /// a master abort (PCI 3.0, 3.2.2.3.4 and 6.1).
    pub fn config_read(&self, devfn: Devfn, offset: u16, size: Size) -> u32 {
        self.get(devfn).map_or(u32::MAX, |function| function.config_read(offset, size))
    }

    /// A configuration write. Vanishes where nobody is.
    pub fn config_write(&self, devfn: Devfn, offset: u16, size: Size, value: u32) {
        let Some(function) = self.get(devfn) else { return };
        let moved = function.config_write(offset, size, value);
        let mut map = self.map.lock();
        // What is in the way of a BAR may be the board's, which can go unnoticed.
        if moved || map.is_contended() {
            map.update(&self.functions());
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
        self.map.lock().update(&self.functions());
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
        Saved::encode(&SavedV2 { functions: functions.collect() })
    }

    /// The same functions have to be plugged in.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let SavedV2 { functions: saved } = saved.decode()?;
        let plugged = self.functions();
        let same =
            plugged.iter().map(|(devfn, _)| devfn.0).eq(saved.iter().map(|(place, _)| *place));
        StateError::check::<SavedV2>(same, "the same functions are plugged in")?;
        let functions = plugged.iter().map(|(_, function)| -> &dyn SaveState { &**function });
        restore_all(functions.zip(saved.iter().map(|(_, saved)| saved)))?;
        self.remap();
        Ok(())
    }
}
