//! BARs of four PCI functions, programmed at random on a registry: at every step, what answers at
//! each address is what a naive model says.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod pci_support;

use std::sync::{Arc, Barrier};

use parking_lot::Mutex;
use pci_support::{
    BOARD_PORTS, BOARD_PORTS_LEN, BOARD_TAG, Board, BoardTag, Finish, Pair, bus, in_memory, step,
    tag, trapped,
};
use proptest::prelude::*;
use trapline::{Mapping, Region, Registry, Size, Space};
use trapline_device::{Device, Regions, SaveState, Saved, StateError};
use trapline_pci::{Bus, ConfigSpace, Devfn, FunctionBuilder, Identity, PciDevice, Slot, regs};

/// A registry with ports that are the board's own.
fn registry() -> (Registry, Mapping) {
    let registry = Registry::builder().build();
    let ports = Region::mmio(BOARD_PORTS, BOARD_PORTS_LEN, "board", "ports", Arc::new(BoardTag));
    let ports = registry.map(ports).unwrap();
    (registry, ports)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn what_answers_is_what_a_naive_model_says(
        steps in prop::collection::vec(step(), 1..40),
        memory: bool,
    ) {
        let (registry, _ports) = registry();
        let finish: Finish<'_> = if memory { &in_memory } else { &trapped };
        let bus = bus(Arc::new(registry.downgrade()), finish);
        let mut handle = registry.handle(0);
        let mut pair = Pair::new(&bus, Board::new(&registry));
        for (number, step) in steps.iter().enumerate() {
            pair.take(step);
            for (address, expected) in pair.probes() {
                let found = handle.read_value(Space::Mmio, address, Size::Dword);
                prop_assert_eq!(found, expected, "{:#x} after step {}: {:?}", address, number, step);
            }
        }
    }
}

/// The first function, with its BAR0 wanted on top of what is the board's.
fn on_top_of_the_board(bus: &Bus) {
    bus.config_write(FIRST, regs::BAR0, Size::Dword, 0x4010_0000);
    bus.config_write(FIRST, regs::COMMAND, Size::Word, 2);
}

const FIRST: Devfn = Devfn::from_bits(1 << 3);

#[test]
fn a_bar_that_was_on_top_of_the_boards_is_mapped_by_the_edit_that_makes_room() {
    let (registry, _ports) = registry();
    let mut board = Board::new(&registry);
    let bus = bus(Arc::new(registry.downgrade()), &trapped);
    let mut handle = registry.handle(0);
    let mut read = |address| handle.read_value(Space::Mmio, address, Size::Dword);
    on_top_of_the_board(&bus);
    assert_eq!(read(0x4010_8000), 0xffff_ffff, "nowhere, not half of it");
    assert_eq!(bus.config_read(FIRST, regs::BAR0, Size::Dword), 0x4010_0000, "as it was written");
    board.set(false);
    assert_eq!(read(0x4010_8000), tag(0, 0, 0x8000));
    assert_eq!(read(0x4010_0000), tag(0, 0, 0));
    assert!(!board.set(true), "it is the BAR's now");
    bus.config_write(FIRST, regs::BAR0, Size::Dword, 0xffff_ffff);
    assert!(board.set(true));
    on_top_of_the_board(&bus);
    let id = board.mapping.as_ref().unwrap().id();
    registry.place(&[(id, Some(0x4020_0000))]).unwrap();
    assert_eq!(read(0x4010_0000), tag(0, 0, 0));
    assert_eq!(read(0x4020_0000), BOARD_TAG);
}

#[test]
fn room_that_is_made_while_others_use_the_registers_is_found_by_the_last_of_them() {
    let (registry, _ports) = registry();
    let mut board = Board::new(&registry);
    let bus = bus(Arc::new(registry.downgrade()), &trapped);
    let mut handle = registry.handle(0);
    for round in 0..300 {
        assert!(board.set(true));
        on_top_of_the_board(&bus);
        let start = Barrier::new(3);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (bus, start) = (&bus, &start);
                scope.spawn(move || {
                    start.wait();
                    for line in 0..20 {
                        let function = Devfn::from_bits((1 + (thread + line) % 4) << 3);
                        bus.config_write(function, regs::INTERRUPT_LINE, Size::Byte, line.into());
                        bus.config_read(function, regs::BAR0, Size::Dword);
                        bus.save();
                    }
                });
            }
            start.wait();
            board.set(false);
        });
        let found = handle.read_value(Space::Mmio, 0x4010_0000, Size::Dword);
        assert_eq!(found, tag(0, 0, 0), "in round {round}");
        bus.config_write(FIRST, regs::BAR0, Size::Dword, 0);
    }
}

/// A device that unmaps what is the board's, while its own registers are locked.
struct Unmaps(Mutex<Option<Mapping>>);

impl PciDevice for Unmaps {
    fn config_write(&self, config: &mut ConfigSpace, offset: u16, size: Size, value: u32) {
        self.0.lock().take();
        config.write(offset, size, value);
    }
}

impl Device for Unmaps {
    fn reset(&self) {}
}

impl SaveState for Unmaps {
    fn save(&self) -> Saved {
        Saved { name: "unmaps".into(), version: 1, bytes: Vec::new() }
    }

    fn restore(&self, _saved: &Saved) -> Result<(), StateError> {
        Ok(())
    }
}

#[test]
fn a_device_may_make_room_while_it_has_its_own_registers_locked() {
    let (registry, _ports) = registry();
    let board = Mutex::new(Board::new(&registry).mapping);
    let bus = bus(Arc::new(registry.downgrade()), &trapped);
    on_top_of_the_board(&bus);
    let devfn = Devfn::from_bits(9 << 3);
    let slot = Slot { name: "unmaps", devfn, pin: None, messages: None };
    let builder = FunctionBuilder::new(slot, &Identity::default());
    bus.insert(devfn, builder.build(Arc::new(Unmaps(board)))).unwrap();
    bus.config_write(devfn, regs::INTERRUPT_LINE, Size::Byte, 1);
    let found = registry.handle(0).read_value(Space::Mmio, 0x4010_0000, Size::Dword);
    assert_eq!(found, tag(0, 0, 0));
}
