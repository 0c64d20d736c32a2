//! BARs against a registry that remembers, and the host bridge's windows.

use std::sync::Arc;

use trapline_device::{Clock, Device, SaveState, Size, Space};
use trapline_testkit::{TestClock, event_loop};

use crate::config::BarWindow;
use crate::edu::Edu;
use crate::tests::{Log, Places, windows};
use crate::windows::translate;
use crate::{BridgeWindow, Bus, Devfn, WindowKind, regs};

fn at(device: u8) -> Devfn {
    Devfn::new(device, 0).unwrap()
}

/// Two educational devices at 00:01.0 and 00:02.0: their regions are 0 to 2 (registers, MSI-X table,
/// pending bits and what is around them) and so on.
fn bus() -> (Bus, Arc<Places>) {
    let places = Arc::<Places>::default();
    let bus = Bus::new(places.clone(), windows());
    let clock: Arc<dyn Clock> = Arc::new(TestClock::default());
    for device in [1, 2] {
        let edu = Arc::<Log>::default()
            .slot(device, |slot| Edu::function(slot, &clock, &*event_loop()).unwrap());
        bus.insert(at(device), edu).unwrap();
    }
    places.moves.lock().clear();
    (bus, places)
}

impl Places {
    /// What was moved since, in one edit at most.
    fn moved(&self) -> Vec<(u64, Option<u64>)> {
        let edits = std::mem::take(&mut *self.edits.lock());
        let moves = std::mem::take(&mut *self.moves.lock());
        assert!(edits <= 1, "{edits} edits: {moves:?}");
        moves.into_iter().map(|(id, base)| (id.0, base)).collect()
    }
}

#[test]
fn a_bus_that_goes_takes_its_regions_with_it() {
    let (bus, places) = bus();
    drop(bus);
    assert_eq!(*places.gone.lock(), (0..10).collect::<Vec<_>>());
}

#[test]
fn every_write_is_one_edit_of_what_has_to_move() {
    let (bus, places) = bus();
    *places.edits.lock() = 0;
    bus.config_write(at(1), regs::BAR0, Size::Dword, 0xd000_0000);
    assert_eq!(places.moved(), [], "memory is not enabled");
    bus.config_write(at(1), regs::COMMAND, Size::Word, 2);
    assert_eq!(places.moved(), [(0, Some(0xd000_0000))], "BAR1 is below the window");
    bus.config_write(at(1), regs::BAR0 + 4, Size::Dword, 0xd020_0000);
    let table = [(1, Some(0xd020_0000)), (2, Some(0xd020_0040))];
    let pending = [(3, Some(0xd020_0800)), (4, Some(0xd020_0808))];
    assert_eq!(places.moved(), [table, pending].concat());
    bus.config_write(at(1), regs::COMMAND, Size::Word, 6);
    assert_eq!(places.moved(), []);
    bus.config_write(at(1), regs::BAR0, Size::Dword, 0xffff_ffff);
    assert_eq!(places.moved(), [(0, None)], "sized while it is enabled");
    bus.config_write(at(1), regs::BAR0, Size::Dword, 0xd000_0000);
    assert_eq!(places.moved(), [(0, Some(0xd000_0000))]);
    bus.reset();
    assert_eq!(places.moved().len(), 5);
}

#[test]
fn the_first_of_two_wins_and_the_other_is_back_when_there_is_room() {
    let (bus, places) = bus();
    for device in [2, 1] {
        bus.config_write(at(device), regs::BAR0, Size::Dword, 0xd000_0000);
        bus.config_write(at(device), regs::COMMAND, Size::Word, 2);
    }
    *places.edits.lock() = 1;
    assert_eq!(places.moved(), [(5, Some(0xd000_0000)), (0, Some(0xd000_0000)), (5, None)]);
    bus.config_write(at(1), regs::BAR0, Size::Dword, 0xd010_0000);
    assert_eq!(places.moved(), [(0, Some(0xd010_0000)), (5, Some(0xd000_0000))]);
    // They swap: one goes on top of the other, which then moves away.
    bus.config_write(at(2), regs::BAR0, Size::Dword, 0xd010_0000);
    assert_eq!(places.moved(), [(5, None)]);
    bus.config_write(at(1), regs::BAR0, Size::Dword, 0xd000_0000);
    assert_eq!(places.moved(), [(0, Some(0xd000_0000)), (5, Some(0xd010_0000))]);
    let saved = bus.save();
    bus.reset();
    assert_eq!(places.moved(), [(0, None), (5, None)]);
    bus.restore(&saved).unwrap();
    assert_eq!(places.moved(), [(0, Some(0xd000_0000)), (5, Some(0xd010_0000))]);
    assert!(bus.remove(at(1)).is_some());
}

#[test]
fn a_bar_answers_in_one_window_or_nowhere() {
    let io =
        BridgeWindow { kind: WindowKind::Io, bus: 0..0x1_0000, space: Space::Mmio, cpu: 0xff_0000 };
    let windows = [vec![io], windows()[1..].to_vec()].concat();
    let io = |base, len| translate(&windows, &BarWindow { space: Space::Pio, base, len });
    assert_eq!(io(0, 4), Some((Space::Mmio, 0xff_0000)));
    assert_eq!(io(0xff00, 0x100), Some((Space::Mmio, 0xff_ff00)));
    assert_eq!(io(0x1_0000, 4), None);
    let memory = |base, len| translate(&windows, &BarWindow { space: Space::Mmio, base, len });
    assert_eq!(memory(0x4000_0000, 0x1000), Some((Space::Mmio, 0x4000_0000)));
    assert_eq!(memory(0x3fff_f000, 0x2000), None, "half of it");
    assert_eq!(memory(0xfebf_f000, 0x1000), Some((Space::Mmio, 0xfebf_f000)));
    assert_eq!(memory(0xfebf_f000, 0x2000), None, "straddles the end");
    assert_eq!(memory(0x1_0000_0000, 1 << 32), Some((Space::Mmio, 0x1_0000_0000)));
    assert_eq!(memory(u64::MAX - 0xfff, 0x1000), None);
    assert_eq!(memory(0, 0x1000), None);
}
