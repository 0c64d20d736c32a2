//! Loopback and the modem lines, errors and their priority.

use trapline_device::CharDevice;

use super::*;

#[test]
fn interrupts_are_identified_in_order_of_priority() {
    let board = Board::set_up();
    board.outb(FCR, 0x01);
    board.outb(IER, 0x0f);
    board.uart.receive_break();
    board.outb(MCR, LOOP | OUT2);
    assert_eq!(board.inb(IIR), 0xc6);
    assert_eq!(board.inb(LSR), 0xf9);
    assert_eq!(board.inb(IIR), 0xc4);
    board.inb(DATA);
    assert_eq!(board.inb(IIR), 0xc2);
    assert_eq!(board.inb(IIR), 0xc0);
    assert_ne!(board.inb(MSR) & 0x0f, 0);
    assert_eq!(board.inb(IIR), 0xc1);
}

#[test]
fn the_line_needs_out2_and_is_quiet_in_loopback() {
    let board = Board::set_up();
    board.outb(IER, 0x02);
    assert!(board.line.level());
    board.outb(MCR, 0x03);
    assert!(!board.line.level());
    board.outb(MCR, OUT2);
    assert!(board.line.level());
    board.outb(MCR, OUT2 | LOOP);
    assert!(!board.line.level());
    assert_eq!(board.interrupt(), 0x02, "but IIR works in loopback");
}

#[test]
fn loopback_returns_characters_cut_to_the_word_length_and_sends_none() {
    let board = Board::set_up();
    board.terminal.type_in(b"typed");
    board.outb(MCR, LOOP);
    board.outb(LCR, 0x01);
    board.outb(DATA, 0xff);
    assert_eq!(board.inb(LSR), 0x61);
    assert_eq!(board.inb(DATA), 0x3f);
    board.uart.poll();
    assert_eq!(board.inb(LSR), 0x60, "SIN is disconnected");
    assert!(board.terminal.screen().is_empty());
    board.outb(MCR, 0);
    assert_eq!(board.inb(DATA), b't', "what was typed has waited");
}

#[test]
fn loopback_turns_modem_outputs_into_inputs() {
    let board = Board::set_up();
    // Bit of MCR, bit of MSR, change bit of MSR.
    for (output, input, delta) in [(0x01, 0x20, 0x02), (0x02, 0x10, 0x01), (0x08, 0x80, 0x08)] {
        board.outb(MCR, LOOP);
        board.inb(MSR);
        board.outb(MCR, LOOP | output);
        assert_eq!(board.inb(MSR), input | delta);
        assert_eq!(board.inb(MSR), input);
        board.outb(MCR, LOOP);
        assert_eq!(board.inb(MSR), delta);
    }
    board.outb(MCR, LOOP | 0x04);
    assert_eq!(board.inb(MSR), 0x40, "RI coming on is no change");
    board.outb(MCR, LOOP);
    assert_eq!(board.inb(MSR), 0x04, "RI going off is");
}

#[test]
fn modem_changes_interrupt_until_msr_is_read() {
    let board = Board::set_up();
    board.outb(IER, 0x08);
    board.outb(MCR, LOOP);
    board.outb(MCR, OUT2);
    assert!(board.line.level());
    assert_eq!(board.interrupt(), 0x00);
    assert_eq!(board.inb(MSR) & 0xf0, 0xb0, "a terminal is connected");
    assert!(!board.line.level());
}

#[test]
fn loopback_overrun_keeps_a_full_fifo_and_replaces_a_buffer() {
    let board = Board::set_up();
    board.outb(MCR, LOOP);
    board.outb(IER, 0x04);
    for byte in 0..17 {
        board.outb(DATA, byte);
    }
    assert_eq!(board.interrupt(), 0x06);
    assert_eq!(board.inb(LSR), 0x63);
    assert_eq!(board.inb(LSR), 0x61, "reading LSR clears OE");
    assert_eq!((0..16).map(|_| board.inb(DATA)).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());

    board.outb(FCR, 0);
    board.outb(DATA, b'a');
    board.outb(DATA, b'b');
    assert_eq!(board.inb(LSR), 0x63);
    assert_eq!(board.inb(DATA), b'b');
}

#[test]
fn a_break_in_loopback_is_for_nobody() {
    let board = Board::set_up();
    board.outb(MCR, LOOP);
    board.outb(LCR, 0x43);
    board.uart.receive_break();
    assert_eq!(board.inb(LSR), 0x60, "neither the port's own nor that of the line");
    board.outb(DATA, b'a');
    assert_eq!((board.inb(LSR), board.inb(DATA)), (0x61, b'a'));
}
