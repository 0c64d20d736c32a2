//! Which slots of the bus have come and are to go: the registers by which ACPI's methods and the
//! machine talk about hot-plug.
//!
//! Spec: QEMU, `docs/specs/acpi_pci_hotplug.rst`.
//!
//! Deviation: there is no interrupt; whoever is told by other means that something has changed looks
//! here. Features (the index of a device) are none.

use parking_lot::Mutex;
use trapline_device::{
    Device, Direction, Handler, IoCx, Limits, Rules, SaveState, Saved, Size, StateError, saved_form,
};

use crate::regs::{HOTPLUG, HotplugReg};

/// The registers: four bytes each, a bit per slot of bus 0. Other buses have none.
#[derive(Debug, Default)]
pub struct Hotplug {
    state: Mutex<State>,
}

/// What a snapshot keeps.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Slots that have come, until they are read.
    up: u32,
    /// Slots that the machine wants back.
    down: u32,
    /// Slots whose functions can be had back at all.
    removable: u32,
    /// Slots that the guest has given back, and the machine has not yet taken.
    ejected: u32,
    /// The bus that all this is about.
    bus: u32,
}

fn bit(slot: u8) -> u32 {
    1u32.checked_shl(slot.into()).unwrap_or(0)
}

impl Hotplug {
    /// A function has been plugged into `slot`, which can be had back; `new` says whether the guest
    /// is to be told.
    pub fn plugged(&self, slot: u8, new: bool) {
        let mut state = self.state.lock();
        state.removable |= bit(slot);
        if new {
            state.up |= bit(slot);
        }
    }

    /// Asks the guest to give `slot` back.
    pub fn ask(&self, slot: u8) {
        let mut state = self.state.lock();
        state.down |= bit(slot) & state.removable;
    }

    /// Slots that the guest has given back since the last call: what is in them is to go.
    pub fn take_ejected(&self) -> Vec<u8> {
        let mut state = self.state.lock();
        let ejected = std::mem::take(&mut state.ejected);
        let State { up, down, removable, .. } = &mut *state;
        for bits in [up, down, removable] {
            *bits &= !ejected;
        }
        (0..32).filter(|slot| ejected & bit(*slot) != 0).collect()
    }
}

impl Handler for Hotplug {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let Some(row) = HOTPLUG.for_read(offset) else { return size.ones() };
        let mut state = self.state.lock();
        let here = |bits: u32| if state.bus == 0 { bits } else { 0 };
        let value = match row.reg {
            HotplugReg::Up => {
                let up = here(state.up);
                state.up &= !up;
                up
            }
            HotplugReg::Down => here(state.down),
            HotplugReg::Eject => 0,
            HotplugReg::Removable => here(state.removable),
            HotplugReg::Bus => state.bus,
        };
        value.into()
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        let value = u32::try_from(value & Size::Dword.ones()).unwrap_or(0);
        let mut state = self.state.lock();
        match HOTPLUG.for_write(offset).map(|row| row.reg) {
            Some(HotplugReg::Eject) if state.bus == 0 => state.ejected |= value & state.removable,
            Some(HotplugReg::Bus) => state.bus = value,
            _ => {}
        }
    }

    /// Dwords; what is narrower reaches no register.
    fn rules(&self) -> Rules {
        Rules { valid: Limits::only(Size::Dword), handled: Limits::only(Size::Dword) }
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        let row = match direction {
            Direction::Read => HOTPLUG.for_read(offset),
            Direction::Write => HOTPLUG.for_write(offset),
        };
        row.map(|row| row.name)
    }
}

impl Device for Hotplug {
    /// A guest that starts anew has nothing of what was asked back, so it is gone then.
    fn reset(&self) {
        let mut state = self.state.lock();
        let State { down, removable, ejected, .. } = *state;
        *state = State { removable, ejected: ejected | down, ..State::default() };
    }
}

impl State {
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "every value can be")]
    fn check(&self) -> Result<(), StateError> {
        Ok(())
    }
}

saved_form! {
    /// [`State`], version 1.
    struct HotplugV1 of State, "pci-hotplug" version 1 {
        up: u32,
        down: u32,
        removable: u32,
        ejected: u32,
        bus: u32,
    }
}

impl SaveState for Hotplug {
    fn save(&self) -> Saved {
        Saved::encode(&HotplugV1::from(&*self.state.lock()))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        *self.state.lock() = State::try_from(saved.decode::<HotplugV1>()?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use trapline_testkit::CX;

    use super::*;

    fn read(hotplug: &Hotplug, offset: u64) -> u64 {
        hotplug.read(&CX, offset, Size::Dword)
    }

    fn write(hotplug: &Hotplug, offset: u64, value: u64) {
        hotplug.write(&CX, offset, Size::Dword, value);
    }

    #[test]
    fn what_comes_is_told_once_and_what_is_to_go_until_it_has_gone() {
        let hotplug = Hotplug::default();
        hotplug.plugged(4, false);
        hotplug.plugged(6, true);
        assert_eq!((read(&hotplug, 0), read(&hotplug, 0)), (1 << 6, 0));
        assert_eq!(read(&hotplug, 12), 1 << 6 | 1 << 4);
        hotplug.ask(6);
        hotplug.ask(5);
        assert_eq!((read(&hotplug, 4), read(&hotplug, 4)), (1 << 6, 1 << 6), "5 is empty");
        write(&hotplug, 8, 1 << 6 | 1 << 5);
        assert_eq!(hotplug.take_ejected(), [6]);
        assert_eq!(hotplug.take_ejected(), []);
        assert_eq!((read(&hotplug, 4), read(&hotplug, 12)), (0, 1 << 4));
        assert_eq!(read(&hotplug, 8), 0, "no features");
    }

    #[test]
    fn other_buses_have_nothing() {
        let hotplug = Hotplug::default();
        hotplug.plugged(31, true);
        hotplug.ask(31);
        write(&hotplug, 16, 1);
        assert_eq!([0, 4, 12, 16].map(|offset| read(&hotplug, offset)), [0, 0, 0, 1]);
        write(&hotplug, 8, 1 << 31);
        assert_eq!(hotplug.take_ejected(), []);
        write(&hotplug, 16, 0);
        assert_eq!(read(&hotplug, 0), 1 << 31, "it was not told there");
    }

    #[test]
    fn a_reset_gives_back_what_was_asked_for_and_a_snapshot_keeps_it_all() {
        let hotplug = Hotplug::default();
        hotplug.plugged(3, true);
        hotplug.plugged(4, true);
        hotplug.ask(4);
        let other = Hotplug::default();
        other.restore(&hotplug.save()).unwrap();
        hotplug.reset();
        assert_eq!((read(&hotplug, 0), read(&hotplug, 12)), (0, 1 << 4 | 1 << 3));
        assert_eq!(hotplug.take_ejected(), [4]);
        assert_eq!((read(&other, 0), read(&other, 4)), (1 << 4 | 1 << 3, 1 << 4));
    }
}
