//! The wires between the two chips, and from them to the processor: when they fall and rise.

use super::*;

/// IRQ 9 asks, the primary chip has taken IR2 by a poll and ended it: the secondary's INT is high,
/// and no edge of it waits any more.
fn cascade_taken() -> Pc {
    let pc = Pc::new();
    pc.raise(9);
    pc.out(CMD, POLL);
    assert_eq!(pc.read(CMD), 0x82);
    pc.out(CMD, EOI);
    assert!(pc.quiet());
    pc
}

#[test]
fn the_cascade_input_is_the_secondary_chips_alone() {
    let pc = cascade_taken();
    pc.pic.set_pin(2, false);
    pc.pic.set_pin(2, true);
    assert!(pc.quiet(), "nobody else has driven it");
    let pc = Pc::new();
    pc.pic.set_pin(2, true);
    pc.pic.set_pin(16, true);
    assert!(pc.quiet());
}

#[test]
fn only_a_poll_of_the_secondary_chip_drops_the_cascade() {
    let pc = cascade_taken();
    assert_eq!((pc.irr(CMD2), pc.isr(CMD2), pc.read(DATA2)), (1 << 1, 0, 0));
    pc.irr(CMD);
    pc.read(DATA);
    assert!(pc.quiet(), "reads that acknowledge nothing are no edge");
    // The secondary chip serves IRQ 9, and asks again for IRQ 8.
    pc.raise(8);
    assert!(pc.quiet());
    pc.out(CMD2, POLL);
    assert_eq!(pc.read(CMD2), 0x80);
    pc.out(CMD2, EOI);
    assert_eq!(pc.interrupt(), 0x71);
}

#[test]
fn intr_falls_in_a_poll_of_the_primary_chip_and_in_no_other_read() {
    let pc = Pc::with_icw4(UPM | AEOI, UPM | AEOI);
    pc.raise(3);
    pc.raise(4);
    pc.raise(9);
    let rises = |access: &dyn Fn()| {
        let before = pc.intr.rises();
        access();
        assert!(pc.intr.level());
        pc.intr.rises() - before
    };
    for offset in [CMD, DATA, CMD2, DATA2, ELCR, ELCR2] {
        assert_eq!(rises(&|| assert!(pc.read(offset) < 0x80)), 0, "{offset}");
    }
    pc.out(CMD, POLL);
    assert_eq!(rises(&|| assert_eq!(pc.read(CMD), 0x82)), 1);
    pc.out(CMD, POLL);
    assert_eq!(rises(&|| assert_eq!(pc.read(DATA), 0x83)), 1);
}

#[test]
fn a_slave_in_the_middle_of_its_initialization_drives_nothing() {
    let pc = Pc::new();
    pc.raise(9);
    // The primary chip's requests are frozen, so it serves the cascade nevertheless.
    pc.out(CMD, POLL);
    pc.out(CMD2, INIT);
    pc.out(DATA2, 0x70);
    pc.out(DATA2, 0x02);
    assert_eq!(pc.pic.acknowledge(), Some(0xff));
}

#[test]
fn a_reset_pair_has_the_inputs_it_had_and_its_cascade_low() {
    let pc = Pc::new();
    pc.raise(9);
    pc.pic.reset();
    pc.pic.restore(&pc.pic.save()).unwrap();
    pc.init(CMD, [INIT, 0x08, 0x04, UPM]);
    pc.init(CMD2, [INIT, 0x70, 0x02, UPM]);
    assert!(pc.quiet(), "an edge that came before the reset is forgotten");
    pc.raise(10);
    assert_eq!(pc.interrupt(), 0x72, "the cascade has risen");
    // A level is not forgotten, of either chip, nor invented.
    let pc = Pc::new();
    pc.raise(11);
    pc.pic.reset();
    pc.out(ELCR, 0xf8);
    pc.out(ELCR2, 0xde);
    pc.init(CMD, [INIT, 0x08, 0x04, UPM]);
    assert!(pc.quiet());
    pc.init(CMD2, [INIT, 0x70, 0x02, UPM]);
    assert_eq!(pc.interrupt(), 0x73);
    assert_eq!((pc.irr(CMD), pc.irr(CMD2)), (0, 1 << 3));
}

#[test]
fn icw1_leaves_the_edge_level_register_alone() {
    let pc = Pc::new();
    pc.out(ELCR, 0x28);
    pc.out(ELCR2, 0x0e);
    pc.init(CMD, [INIT, 0x08, 0x04, UPM]);
    pc.init(CMD2, [INIT, 0x70, 0x02, UPM]);
    assert_eq!((pc.read(ELCR), pc.read(ELCR2)), (0x28, 0x0e));
}

#[test]
fn the_command_port_is_named_by_what_it_reads() {
    let pc = Pc::new();
    let name = |offset| pc.pic.register(offset, Direction::Read);
    for command in [CMD, CMD2] {
        for (ocw3, command_port, data_port) in [(READ_ISR, "ISR", "IMR"), (POLL, "POLL", "POLL")] {
            pc.out(command, ocw3);
            assert_eq!((name(command), name(command + 1)), (Some(command_port), Some(data_port)));
        }
        pc.read(command);
        assert_eq!(name(command), Some("ISR"), "a poll is for one read");
        pc.out(command, READ_IRR);
        assert_eq!(name(command), Some("IRR"));
    }
}
