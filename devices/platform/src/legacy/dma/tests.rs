//! The DMA controller as a driver programs it.

use proptest::prelude::*;
use trapline_device::{Device, Direction, Handler};
use trapline_testkit::{inb, outb};

use super::Dma;

#[test]
fn addresses_and_counts_go_through_the_byte_pointer_low_byte_first() {
    let dma = Dma::bytes();
    outb(&dma, 0xc, 0);
    for port in 0..8 {
        outb(&dma, port, 0x34);
        outb(&dma, port, 0x12);
    }
    for port in 0..8 {
        assert_eq!((inb(&dma, port), inb(&dma, port)), (0x34, 0x12));
    }
}

#[test]
fn the_pointer_is_shared_and_clearing_it_starts_at_the_low_byte() {
    let dma = Dma::bytes();
    outb(&dma, 2, 0x11);
    outb(&dma, 3, 0x22);
    outb(&dma, 0xc, 0xff);
    assert_eq!((inb(&dma, 2), inb(&dma, 2)), (0x11, 0));
    assert_eq!((inb(&dma, 3), inb(&dma, 3)), (0, 0x22));
    inb(&dma, 2);
    outb(&dma, 0xc, 0);
    assert_eq!(inb(&dma, 2), 0x11);
}

#[test]
fn software_requests_show_in_status_until_master_clear() {
    let dma = Dma::bytes();
    outb(&dma, 9, 0x06);
    outb(&dma, 9, 0x04);
    outb(&dma, 9, 0x00);
    assert_eq!(inb(&dma, 8), 0x40);
    outb(&dma, 0xd, 0);
    assert_eq!(inb(&dma, 8), 0);
}

#[test]
fn masks_are_set_together_or_one_by_one_and_all_after_a_clear() {
    let dma = Dma::bytes();
    let mask = || dma.0.lock().chip.state.mask;
    assert_eq!(mask(), 0x0f);
    outb(&dma, 0xa, 0x02);
    assert_eq!(mask(), 0x0b);
    outb(&dma, 0xe, 0);
    assert_eq!(mask(), 0);
    outb(&dma, 0xa, 0x07);
    assert_eq!(mask(), 0x08);
    outb(&dma, 0xf, 0xf5);
    assert_eq!(mask(), 0x05);
    outb(&dma, 0xd, 0);
    assert_eq!(mask(), 0x0f);
}

#[test]
fn master_clear_keeps_addresses_and_modes_and_resets_the_pointer() {
    let dma = Dma::bytes();
    outb(&dma, 0xb, 0x45);
    outb(&dma, 0x8, 0x10);
    outb(&dma, 0x0, 0x99);
    outb(&dma, 0xd, 0);
    assert_eq!(inb(&dma, 0), 0x99, "the pointer is at the low byte again");
    let state = dma.0.lock().chip.state.clone();
    assert_eq!((state.channels[1].mode, state.command), (0x44, 0));
    dma.reset();
    assert_eq!(dma.0.lock().chip.state, super::State::default());
}

#[test]
fn illegal_and_write_only_codes_read_all_ones() {
    let dma = Dma::bytes();
    outb(&dma, 0xb, 0);
    assert!([0x9, 0xa, 0xb, 0xc, 0xe, 0xf].iter().all(|&port| inb(&dma, port) == 0xff));
    assert_eq!(inb(&dma, 0xd), 0);
}

#[test]
fn the_second_controller_sits_at_every_other_port_and_the_first_appears_twice() {
    let words = Dma::words();
    outb(&words, 0x4, 0x5a);
    outb(&words, 0x18, 0);
    assert_eq!(inb(&words, 0x4), 0x5a);
    assert_eq!(words.register(0x1a, Direction::Write), Some("MCLR"));
    let bytes = Dma::bytes();
    outb(&bytes, 0x12, 0x77);
    outb(&bytes, 0xc, 0);
    assert_eq!(inb(&bytes, 0x02), 0x77);
    assert_eq!(bytes.register(0x08, Direction::Read), Some("STATUS"));
}

proptest! {
    /// No panic, and after clearing the pointer a channel reads back what was last written.
    #[test]
    fn any_script_leaves_a_controller_that_can_be_programmed(
        script in proptest::collection::vec((0..40u64, any::<u8>(), any::<bool>()), 0..100),
        value in any::<[u8; 2]>(),
    ) {
        let dma = Dma::bytes();
        for (offset, byte, write) in script {
            if write { outb(&dma, offset, byte) } else { inb(&dma, offset); }
        }
        outb(&dma, 0xc, 0);
        value.iter().for_each(|&byte| outb(&dma, 6, byte));
        prop_assert_eq!([inb(&dma, 6), inb(&dma, 6)], value);
    }
}
