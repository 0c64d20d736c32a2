//! BARs of four PCI functions, programmed at random on a registry: at every step, what answers at
//! each address is what a naive model says.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod pci_support;

use std::sync::Arc;

use pci_support::{
    BOARD, BOARD_LEN, BOARD_PORTS, BOARD_PORTS_LEN, BoardTag, Pair, bus, step, tag, trapped,
};
use proptest::prelude::*;
use trapline::{Mapping, Region, Registry, Size, Space};
use trapline_pci::{Devfn, regs};

/// A registry with what is the board's own.
fn registry() -> (Registry, Vec<Mapping>) {
    let registry = Registry::builder().build();
    let board = Region::mmio(BOARD, BOARD_LEN, "board", "memory", Arc::new(BoardTag));
    let ports = Region::mmio(BOARD_PORTS, BOARD_PORTS_LEN, "board", "ports", Arc::new(BoardTag));
    let mappings = vec![registry.map(board).unwrap(), registry.map(ports).unwrap()];
    (registry, mappings)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn what_answers_is_what_a_naive_model_says(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let (registry, _board) = registry();
        let bus = bus(Arc::new(registry.downgrade()), &trapped);
        let mut handle = registry.handle(0);
        let mut pair = Pair::new(&bus);
        for (number, step) in steps.iter().enumerate() {
            pair.take(step);
            for (address, expected) in pair.probes() {
                let found = handle.read_value(Space::Mmio, address, Size::Dword);
                prop_assert_eq!(found, expected, "{:#x} after step {}: {:?}", address, number, step);
            }
        }
    }
}

#[test]
fn a_bar_that_was_on_top_of_the_boards_is_back_at_the_next_write_once_that_is_gone() {
    let (registry, mut board) = registry();
    let bus = bus(Arc::new(registry.downgrade()), &trapped);
    let mut handle = registry.handle(0);
    let mut read = |address| handle.read_value(Space::Mmio, address, Size::Dword);
    let first = Devfn::from_bits(1 << 3);
    bus.config_write(first, regs::BAR0, Size::Dword, 0x4010_0000);
    bus.config_write(first, regs::COMMAND, Size::Word, 2);
    assert_eq!(read(0x4010_8000), 0xffff_ffff, "nowhere, not half of it");
    assert_eq!(bus.config_read(first, regs::BAR0, Size::Dword), 0x4010_0000, "as it was written");
    registry.remove_sync(board.remove(0));
    bus.config_write(first, regs::INTERRUPT_LINE, Size::Byte, 5);
    assert_eq!(read(0x4010_8000), tag(0, 0, 0x8000));
    assert_eq!(read(0x4010_0000), tag(0, 0, 0));
}
