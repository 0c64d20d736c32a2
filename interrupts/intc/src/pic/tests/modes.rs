//! The modes PCs seldom use.

use super::*;

fn poll(pc: &Pc, command: u64) -> u8 {
    pc.out(command, POLL);
    pc.read(command)
}

#[test]
fn a_specific_eoi_ends_the_level_it_names() {
    let pc = Pc::new();
    pc.raise(4);
    pc.interrupt();
    pc.raise(1);
    pc.interrupt();
    pc.out(CMD, SPECIFIC_EOI | 4);
    assert_eq!(pc.isr(CMD), 1 << 1);
}

#[test]
fn rotation_on_a_non_specific_eoi_makes_the_served_input_the_last() {
    let pc = Pc::new();
    pc.raise(4);
    pc.interrupt();
    pc.out(CMD, ROTATE_EOI);
    pc.raise(3);
    pc.raise(5);
    assert_eq!(pc.interrupt(), 0x0d);
    assert!(pc.quiet());
    pc.out(CMD, EOI);
    assert_eq!(pc.interrupt(), 0x0b);
}

#[test]
fn rotation_without_anything_in_service_does_nothing() {
    let pc = Pc::new();
    pc.out(CMD, ROTATE_EOI);
    pc.raise(7);
    pc.raise(0);
    assert_eq!(pc.interrupt(), 0x08);
}

#[test]
fn rotation_on_a_specific_eoi_and_set_priority_name_the_last_input() {
    let pc = Pc::new();
    pc.raise(6);
    pc.interrupt();
    pc.out(CMD, ROTATE_SPECIFIC_EOI | 6);
    assert_eq!(pc.isr(CMD), 0);
    pc.raise(0);
    pc.raise(7);
    assert_eq!(pc.interrupt(), 0x0f);
    pc.out(CMD, EOI);
    pc.out(CMD, SET_PRIORITY | 7);
    pc.raise(1);
    assert_eq!(pc.interrupt(), 0x08);
}

#[test]
fn automatic_eoi_leaves_nothing_in_service() {
    let pc = Pc::with_icw4(UPM | AEOI, UPM | AEOI);
    pc.raise(8);
    pc.raise(9);
    assert_eq!(pc.interrupt(), 0x70);
    assert_eq!((pc.isr(CMD), pc.isr(CMD2)), (0, 0));
    assert_eq!(pc.interrupt(), 0x71, "the cascade falls and rises in between");
    assert!(pc.quiet());
}

#[test]
fn intr_falls_in_every_acknowledge() {
    let pc = Pc::with_icw4(UPM | AEOI, UPM);
    pc.raise(3);
    pc.raise(4);
    let before = pc.intr.rises();
    pc.interrupt();
    assert_eq!(pc.intr.rises(), before + 1, "an edge for an I/O APIC pin");
}

#[test]
fn automatic_eoi_rotates_while_told_to() {
    let pc = Pc::with_icw4(UPM | AEOI, UPM);
    pc.out(CMD, ROTATE_AEOI);
    let both = || {
        for irq in [4, 5] {
            pc.lower(irq);
            pc.raise(irq);
        }
    };
    both();
    assert_eq!(pc.interrupt(), 0x0c);
    both();
    assert_eq!(pc.interrupt(), 0x0d, "IRQ 4 is the last now");
    both();
    pc.out(CMD, 0x00);
    assert_eq!(pc.interrupt(), 0x0c);
    both();
    assert_eq!(pc.interrupt(), 0x0c, "IRQ 5 stays the last");
}

#[test]
fn special_mask_mode_lets_less_urgent_inputs_through() {
    let pc = Pc::new();
    pc.raise(3);
    pc.interrupt();
    pc.raise(6);
    assert!(pc.quiet());
    pc.out(DATA, 1 << 3);
    assert!(pc.quiet(), "a mask alone does not");
    pc.out(CMD, SPECIAL_MASK);
    assert_eq!(pc.interrupt(), 0x0e);
    pc.out(CMD, EOI);
    assert_eq!(pc.isr(CMD), 1 << 3);
    pc.out(CMD, EOI);
    assert_eq!(pc.isr(CMD), 1 << 3, "a non-specific EOI does not see masked inputs");
    pc.out(CMD, SPECIFIC_EOI | 3);
    assert_eq!(pc.isr(CMD), 0);
}

#[test]
fn special_fully_nested_mode_lets_a_slave_interrupt_itself() {
    for (icw4, nested) in [(UPM, false), (UPM | SFNM, true)] {
        let pc = Pc::with_icw4(icw4, UPM);
        pc.raise(12);
        pc.interrupt();
        pc.raise(3);
        assert!(pc.quiet(), "inputs below the cascade wait in any case");
        pc.raise(8);
        assert_eq!(pc.pic.pending(), nested);
        if nested {
            assert_eq!(pc.interrupt(), 0x70);
        }
    }
}

#[test]
fn a_poll_is_an_acknowledge() {
    let pc = Pc::new();
    assert_eq!(poll(&pc, CMD), 0);
    pc.raise(5);
    assert_eq!(poll(&pc, CMD), 0x85);
    assert!(pc.quiet());
    assert_eq!(pc.isr(CMD), 1 << 5);
    assert_eq!(poll(&pc, CMD), 0, "it is in service already");
    pc.raise(8);
    pc.out(CMD2, POLL);
    assert_eq!(pc.read(DATA2), 0x80, "either port takes the poll word");
    assert_eq!(pc.read(DATA2), 0, "the next read is of the mask again");
    assert!(pc.quiet(), "the cascade has dropped its request");
}

#[test]
fn requests_are_frozen_between_the_poll_command_and_the_read() {
    let pc = Pc::new();
    pc.raise(5);
    pc.out(CMD, POLL);
    pc.raise(1);
    pc.lower(5);
    assert_eq!(pc.read(CMD), 0x85);
    assert_eq!(poll(&pc, CMD), 0x81);
}

#[test]
fn in_single_mode_the_cascade_is_an_input_like_others() {
    let pc = Pc::new();
    for (offset, value) in [(CMD, INIT | 0x02), (DATA, 0x40), (DATA, UPM)] {
        pc.out(offset, value);
    }
    pc.out(DATA, 0xfb);
    assert_eq!(pc.read(DATA), 0xfb, "no ICW3 was awaited");
    pc.raise(8);
    assert_eq!(pc.interrupt(), 0x42);
    assert_eq!(pc.isr(CMD2), 0);
}

#[test]
fn without_icw4_the_chip_is_in_mcs_80_mode() {
    let pc = Pc::new();
    for (offset, value) in [(CMD, 0xb4), (DATA, 0x12), (DATA, 0x04)] {
        pc.out(offset, value);
    }
    pc.raise(3);
    assert_eq!(pc.interrupt(), 0xac, "the low byte of call address 0x12ac: interval 4");
    for (offset, value) in [(CMD, 0xb0), (DATA, 0x12), (DATA, 0x04)] {
        pc.out(offset, value);
    }
    pc.raise(4);
    assert_eq!(pc.interrupt(), 0xa0, "interval 8");
}

#[test]
fn a_slave_answers_to_its_own_address_only() {
    let pc = Pc::new();
    pc.init(CMD2, [INIT, 0x70, 0x05, UPM]);
    pc.raise(8);
    assert_eq!(pc.interrupt(), 0xff, "nobody drives the bus");
    assert_eq!((pc.isr(CMD), pc.isr(CMD2)), (1 << 2, 0));
}
