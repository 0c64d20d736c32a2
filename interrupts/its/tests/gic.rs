//! The distributor, redistributors and processor interfaces, as drivers and processors use them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::gic::{Gic, GicState, SPURIOUS};
use gicv3_its::{Config, GuestMemory, Lpi, LpiSink, Target};
use support::ram::Ram;
use support::{Bench, CONFIG, PENDING};

const CPU0: Target = Target(0);
const CPU1: Target = Target(1);

/// Everything on: both groups, all SPIs and private interrupts in Group 1 at priority 0xa0.
fn gic() -> (Gic, Ram) {
    let (mut gic, ram) = (Gic::new(2, 64), Ram::default());
    gic.write_distributor(0, 4, 0x13);
    for n in 1..3u64 {
        gic.write_distributor(0x80 + n * 4, 4, 0xffff_ffff);
        gic.write_distributor(0x100 + n * 4, 4, 0xffff_ffff);
    }
    for target in [CPU0, CPU1] {
        gic.write_redistributor(target, 0x1_0080, 4, 0xffff_ffff, &ram);
        gic.write_redistributor(target, 0x1_0100, 4, 0xffff_ffff, &ram);
        for byte in 0..32 {
            gic.write_redistributor(target, 0x1_0400 + byte, 1, 0xa7, &ram);
        }
    }
    for intid in 32..96 {
        gic.write_distributor(0x400 + intid, 1, 0xa0);
    }
    for cpu in &mut gic.cpus {
        (cpu.mask, cpu.group0, cpu.group1) = (0xff, true, true);
    }
    (gic, ram)
}

#[test]
fn identification_says_lpis_16_bits_and_three_times_32_interrupts() {
    let mut gic = gic().0;
    assert_eq!(gic.read_distributor(4, 4), 15 << 19 | 1 << 17 | 2);
    assert_eq!(gic.read_distributor(0, 4), 0x53);
    assert_eq!(gic.read_distributor(0xffe8, 4), 0x3b);
    assert_eq!(gic.read_distributor(0xffe0, 4), 0x92);
    assert_eq!((gic.read_distributor(1, 4), gic.bad_accesses), (0, 1));
}

#[test]
fn a_level_spi_stays_pending_until_its_line_falls_and_an_edge_until_it_is_taken() {
    let (mut gic, ram) = gic();
    gic.set_spi(40, true);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 40);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), SPURIOUS, "it is active");
    gic.end(CPU0, true, 40);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 40, "the line is still high");
    gic.set_spi(40, false);
    gic.end(CPU0, true, 40);
    assert_eq!(gic.signalled(CPU0, &ram), None);
    // Interrupt 41 becomes edge-triggered.
    gic.write_distributor(0xc08, 4, 2 << 18);
    gic.set_spi(41, true);
    gic.set_spi(41, false);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 41);
    gic.end(CPU0, true, 41);
    assert_eq!(gic.signalled(CPU0, &ram), None);
}

#[test]
fn an_active_interrupt_is_not_signalled_again_until_it_is_deactivated() {
    let (mut gic, ram) = gic();
    gic.cpus[0].separate_deactivate = true;
    gic.set_spi(40, true);
    gic.set_ppi(CPU0, 27, true);
    for intid in [27, 40] {
        assert_eq!(gic.acknowledge(CPU0, true, &ram), intid);
        gic.end(CPU0, true, intid);
        assert_eq!(gic.cpus[0].running(), gicv3_its::gic::IDLE, "the priority is dropped");
    }
    assert_eq!(gic.signalled(CPU0, &ram), None, "both lines are high, both are active");
    gic.deactivate(CPU0, 40);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 40);
}

#[test]
fn an_edge_is_signalled_once_however_long_its_line_stays_high() {
    let (mut gic, ram) = gic();
    // Interrupts 41 and 42 are edge-triggered, and 43 a level.
    gic.write_distributor(0xc08, 4, 2 << 18 | 2 << 20);
    for intid in [41, 42, 43] {
        gic.set_spi(intid, true);
    }
    gic.set_spi(42, false);
    assert_eq!(gic.read_distributor(0x204, 4), 0b111 << 9, "an edge is kept, a level is there");
    for intid in [41, 42] {
        assert_eq!(gic.acknowledge(CPU0, true, &ram), intid);
        gic.end(CPU0, true, intid);
    }
    gic.set_spi(43, false);
    assert_eq!(gic.signalled(CPU0, &ram), None);
    gic.set_spi(41, true);
    assert_eq!(gic.signalled(CPU0, &ram), None, "it was high already");
    gic.set_spi(41, false);
    assert_eq!(gic.signalled(CPU0, &ram), None, "a line that falls is no edge");
    gic.set_spi(41, true);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 41);
    gic.end(CPU0, true, 41);
    // A driver takes an edge back, and a level only its device.
    gic.set_spi(42, true);
    gic.set_spi(43, true);
    gic.write_distributor(0x284, 4, 0b11 << 10);
    assert_eq!(gic.read_distributor(0x204, 4), 1 << 11);
}

#[test]
fn an_interrupt_has_five_bits_of_priority() {
    let (mut gic, ram) = gic();
    gic.write_distributor(0x400 + 40, 4, 0xffa7_a80f);
    assert_eq!(gic.read_distributor(0x400 + 40, 4), 0xf8a0_a808);
    for (priority, masks) in [(0xa0, [(0xa0, false), (0xa7, false), (0xa8, true)])] {
        gic.write_distributor(0x400 + 50, 1, priority);
        gic.set_spi(50, true);
        for (mask, signalled) in masks {
            gic.cpus[0].mask = mask;
            assert_eq!(gic.signalled(CPU0, &ram).is_some(), signalled, "{mask:#x}");
        }
    }
    // An LPI has six, of which the interface compares five.
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 50);
    gic.cpus[0].mask = 0xff;
    ram.write(CONFIG, &[0xa5, 0x9d]).unwrap();
    for (offset, size, value) in [(0x70, 8, CONFIG | 15), (0x78, 8, PENDING), (0, 4, 1)] {
        gic.write_redistributor(CPU0, offset, size, value, &ram);
    }
    gic.redistributors.sink(&ram).set_pending(CPU0, Lpi::new(8192).unwrap());
    assert_eq!(gic.signalled(CPU0, &ram), None, "0xa4 does not preempt 0xa0");
    gic.redistributors.sink(&ram).set_pending(CPU0, Lpi::new(8193).unwrap());
    assert_eq!(gic.signalled(CPU0, &ram).map(|next| next.priority), Some(0x9c));
}

#[test]
fn spis_go_where_they_are_routed() {
    let (mut gic, ram) = gic();
    gic.write_distributor(0x6000 + 8 * 50, 8, 1);
    assert_eq!(gic.read_distributor(0x6000 + 8 * 50, 8), 1);
    gic.set_spi(50, true);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), SPURIOUS);
    assert_eq!(gic.acknowledge(CPU1, true, &ram), 50);
    gic.write_distributor(0x6000 + 8 * 51, 4, 1 << 31);
    gic.set_spi(51, true);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 51, "any processor: the first");
}

#[test]
fn sgis_reach_the_processors_named_or_all_others() {
    let (mut gic, ram) = gic();
    gic.send_sgi(CPU0, true, 5 << 24 | 0b10);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), SPURIOUS);
    assert_eq!(gic.acknowledge(CPU1, true, &ram), 5);
    gic.end(CPU1, true, 5);
    gic.send_sgi(CPU1, true, 6 << 24 | 1 << 40);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 6);
    assert_eq!(gic.acknowledge(CPU1, true, &ram), SPURIOUS);
}

#[test]
fn a_higher_priority_preempts_and_an_equal_one_waits() {
    let (mut gic, ram) = gic();
    gic.set_ppi(CPU0, 27, true);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 27);
    gic.set_spi(33, true);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), SPURIOUS, "an equal priority waits");
    gic.write_distributor(0x400 + 33, 1, 0x90);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 33);
    assert_eq!(gic.cpus.first().unwrap().running(), 0x90);
    gic.end(CPU0, true, 33);
    assert_eq!(gic.cpus.first().unwrap().running(), 0xa0);
    for cpu in &mut gic.cpus {
        cpu.mask = 0x90;
    }
    gic.end(CPU0, true, 27);
    assert_eq!(gic.signalled(CPU0, &ram), None, "0x90 is not above the mask");
}

#[test]
fn groups_are_enabled_and_taken_apart() {
    let (mut gic, ram) = gic();
    gic.write_distributor(0x84, 4, 0);
    gic.set_spi(34, true);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), SPURIOUS, "it is of Group 0");
    gic.write_distributor(0, 4, 2);
    assert_eq!(gic.acknowledge(CPU0, false, &ram), SPURIOUS, "Group 0 is off");
    gic.write_distributor(0, 4, 3);
    assert_eq!(gic.acknowledge(CPU0, false, &ram), 34);
}

#[test]
fn lpis_compete_with_other_interrupts() {
    let (mut gic, ram) = gic();
    ram.write(CONFIG, &[0x81]).unwrap();
    for (offset, size, value) in [(0x70, 8, CONFIG | 15), (0x78, 8, PENDING), (0, 4, 1)] {
        gic.write_redistributor(CPU0, offset, size, value, &ram);
    }
    gic.set_spi(35, true);
    gic.redistributors.sink(&ram).set_pending(CPU0, Lpi::new(8192).unwrap());
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 8192, "of the higher priority");
    gic.end(CPU0, true, 8192);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 35);
    let unused = Bench::reset(Config::new());
    assert!(!unused.its.enabled());
}

#[test]
fn any_access_of_any_frame_is_harmless() {
    let (mut gic, ram) = gic();
    for offset in 0..0x2_0100u64 {
        for size in [1, 2, 4, 8] {
            gic.write_distributor(offset, size, u64::MAX);
            gic.write_redistributor(CPU1, offset, size, u64::MAX, &ram);
            gic.read_distributor(offset, size);
            gic.read_redistributor(CPU1, offset, size);
        }
    }
    gic.set_spi(5000, true);
    gic.set_ppi(Target(9), 20, true);
    gic.end(Target(9), true, 20);
    assert_eq!(gic.acknowledge(Target(9), true, &ram), SPURIOUS);
}

#[test]
fn an_sgi_is_sent_through_the_register_of_its_group() {
    let (mut gic, ram) = gic();
    gic.write_redistributor(CPU1, 0x1_0080, 4, !(1 << 5), &ram);
    gic.send_sgi(CPU0, true, 5 << 24 | 0b10);
    assert_eq!(gic.signalled(CPU1, &ram), None, "it is of Group 0");
    gic.send_sgi(CPU0, false, 5 << 24 | 0b10);
    assert_eq!(gic.acknowledge(CPU1, true, &ram), SPURIOUS);
    assert_eq!(gic.acknowledge(CPU1, false, &ram), 5);
}

#[test]
fn registers_without_a_function_here_read_zero_and_are_no_mistake() {
    let (mut gic, ram) = gic();
    for offset in [0xc, 0x10, 0x820, 0xd00, 0xe08, 0xf00, 0xf10] {
        gic.write_distributor(offset, 4, u64::MAX);
        gic.write_redistributor(CPU0, 0x1_0000 + offset, 4, u64::MAX, &ram);
        assert_eq!(gic.read_distributor(offset, 4), 0);
        assert_eq!(gic.read_redistributor(CPU0, 0x1_0000 + offset, 4), 0);
    }
    assert_eq!(gic.bad_accesses, 0);
}

#[test]
fn what_was_saved_goes_on_elsewhere_as_if_nothing_had_happened() {
    let (mut gic, ram) = gic();
    for (offset, size, value) in [(0x70, 8, CONFIG | 15), (0x78, 8, PENDING), (0, 4, 1)] {
        gic.write_redistributor(CPU0, offset, size, value, &ram);
    }
    ram.write(CONFIG, &[0x81]).unwrap();
    gic.write_distributor(0x6000 + 8 * 50, 8, 1);
    gic.write_distributor(0xc08, 4, 2 << 18);
    gic.set_spi(40, true);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 40);
    gic.set_spi(41, true);
    gic.set_spi(41, false);
    gic.set_spi(50, true);
    gic.send_sgi(CPU1, true, 6 << 24 | 0b1);
    gic.redistributors.sink(&ram).set_pending(CPU0, Lpi::new(8192).unwrap());
    let state = gic.save(&ram);
    let mut other = Gic::new(2, 64);
    other.restore(&state, &ram).unwrap();
    assert_eq!(other.save(&ram), state);
    for gic in [&mut gic, &mut other] {
        assert_eq!(gic.acknowledge(CPU0, true, &ram), 8192, "it preempts");
        gic.end(CPU0, true, 8192);
        gic.set_spi(40, false);
        gic.end(CPU0, true, 40);
        assert_eq!(gic.acknowledge(CPU0, true, &ram), 6);
        gic.end(CPU0, true, 6);
        assert_eq!(gic.acknowledge(CPU0, true, &ram), 41);
        assert_eq!(gic.acknowledge(CPU1, true, &ram), 50);
    }
    for (n, bad) in [
        GicState { ctlr: 4, ..state.clone() },
        GicState { shared: state.shared[1..].to_vec(), ..state.clone() },
        GicState { processors: state.processors[1..].to_vec(), ..state.clone() },
    ]
    .into_iter()
    .enumerate()
    {
        let before = other.save(&ram);
        assert!(other.restore(&bad, &ram).is_err(), "state {n}");
        assert_eq!(other.save(&ram), before, "state {n}");
    }
    other.reset();
    assert!(other.interrupt(CPU0, 50).unwrap().line, "a line is not the controller's");
    assert_eq!(other.signalled(CPU0, &ram), None);
}
