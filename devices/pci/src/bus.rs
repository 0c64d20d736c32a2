//! Bus 0: 32 devices of 8 functions, most of them absent.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use trapline_device::{
    Device, Direction, Form, IoCx, SaveState, Saved, Size, StateError, restore_all,
};

use crate::regs::HEADER;

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

/// One PCI function as its bus sees it. Accesses are bytes, words or dwords at a multiple of their
/// size.
pub trait Function: Device + SaveState {
    /// Answers a read of configuration space. `offset` is below 4096; a conventional function has
    /// 256 bytes, and answers all ones above.
    fn config_read(&self, cx: &IoCx<'_>, offset: u16, size: Size) -> u32;

    /// Takes a write of configuration space.
    fn config_write(&self, cx: &IoCx<'_>, offset: u16, size: Size, value: u32);

    /// The name of a register past the header, for traces.
    fn config_register(&self, _offset: u16) -> Option<&'static str> {
        None
    }
}

/// Why a function could not be put on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusError {
    /// Another function is there.
    Occupied(Devfn),
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Occupied(devfn) => write!(f, "PCI 00:{devfn} is taken"),
        }
    }
}

impl std::error::Error for BusError {}

/// A PCI bus. Accesses hold no lock while a function runs, so a function may plug and unplug.
pub struct Bus {
    functions: RwLock<[Option<Arc<dyn Function>>; FUNCTIONS]>,
}

impl Default for Bus {
    fn default() -> Self {
        Self { functions: RwLock::new([const { None }; FUNCTIONS]) }
    }
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plugs a function in.
    ///
    /// # Errors
    /// [`BusError::Occupied`] when one is there already.
    pub fn insert(&self, devfn: Devfn, function: Arc<dyn Function>) -> Result<(), BusError> {
        match self.functions.write().get_mut(usize::from(devfn.0)) {
            Some(slot @ None) => *slot = Some(function),
            Some(Some(_)) | None => return Err(BusError::Occupied(devfn)),
        }
        Ok(())
    }

    /// Pulls a function out, and returns it.
    pub fn remove(&self, devfn: Devfn) -> Option<Arc<dyn Function>> {
        self.functions.write().get_mut(usize::from(devfn.0))?.take()
    }

    /// The function at `devfn`.
    pub fn get(&self, devfn: Devfn) -> Option<Arc<dyn Function>> {
        self.functions.read().get(usize::from(devfn.0))?.clone()
    }

    /// Every place that is taken, in order.
    pub fn occupied(&self) -> Vec<Devfn> {
        self.plugged().map(|(devfn, _)| devfn).collect()
    }

    /// Every function with its place, in order. As of now: the bus is not locked meanwhile.
    fn plugged(&self) -> impl Iterator<Item = (Devfn, Arc<dyn Function>)> + use<> {
        let slots = self.functions.read().clone();
        (0..=u8::MAX).map(Devfn).zip(slots).filter_map(|(devfn, slot)| Some((devfn, slot?)))
    }

    /// A configuration read. All ones where nobody is: the host bridge ends the transaction with
    /// a master abort (PCI 3.0, 3.2.2.3.4 and 6.1).
    pub fn config_read(&self, cx: &IoCx<'_>, devfn: Devfn, offset: u16, size: Size) -> u32 {
        self.get(devfn).map_or(u32::MAX, |function| function.config_read(cx, offset, size))
    }

    /// A configuration write. Vanishes where nobody is.
    pub fn config_write(&self, cx: &IoCx<'_>, devfn: Devfn, offset: u16, size: Size, value: u32) {
        if let Some(function) = self.get(devfn) {
            function.config_write(cx, offset, size, value);
        }
    }

    /// The name of the register an access would reach, if anybody is there.
    pub fn register(
        &self,
        devfn: Devfn,
        offset: u16,
        direction: Direction,
    ) -> Option<&'static str> {
        let function = self.get(devfn)?;
        let row = match direction {
            Direction::Read => HEADER.for_read(u64::from(offset)),
            Direction::Write => HEADER.for_write(u64::from(offset)),
        };
        row.map(|row| row.name).or_else(|| function.config_register(offset))
    }
}

impl Device for Bus {
    fn reset(&self) {
        self.plugged().for_each(|(_, function)| function.reset());
    }
}

/// The functions' states, each with its place, in order. Version 1.
#[derive(Debug, Serialize, Deserialize)]
struct SavedV1 {
    functions: Vec<(u8, Saved)>,
}

impl Form for SavedV1 {
    const NAME: &'static str = "pci-bus";
    const VERSION: u32 = 1;
}

impl SaveState for Bus {
    fn save(&self) -> Saved {
        let functions = self.plugged().map(|(Devfn(place), function)| (place, function.save()));
        Saved::encode(&SavedV1 { functions: functions.collect() })
    }

    /// The same functions have to be plugged in.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let SavedV1 { functions: saved } = saved.decode()?;
        let plugged: Vec<_> = self.plugged().collect();
        let same =
            plugged.iter().map(|(devfn, _)| devfn.0).eq(saved.iter().map(|(place, _)| *place));
        StateError::check::<SavedV1>(same, "the same functions are plugged in")?;
        let functions = plugged.iter().map(|(_, function)| -> &dyn SaveState { &**function });
        restore_all(functions.zip(saved.iter().map(|(_, saved)| saved)))
    }
}
