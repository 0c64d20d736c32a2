//! The UART as a driver sees it.

mod loopback;
mod mirror;
mod random;

use std::sync::Arc;

use trapline_device::{CharDevice, Device, Direction, Handler, Rules, Size, Wake};
use trapline_testkit::{TestClock, TestLine, TestTerminal, inb, named, outb};

use super::Serial;

const DATA: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

const OUT2: u8 = 0x08;
const LOOP: u8 = 0x10;
const NO_INTERRUPT: u8 = 0x01;

struct Board {
    uart: Arc<Serial>,
    line: TestLine,
    clock: TestClock,
    terminal: TestTerminal,
}

impl Board {
    fn new() -> Self {
        let (line, clock, terminal) =
            (TestLine::default(), TestClock::default(), TestTerminal::default());
        let uart = Serial::new(Arc::new(terminal.clone()), line.line(), Arc::new(clock.clone()));
        Self { uart, line, clock, terminal }
    }

    /// 115200 8n1, FIFOs on with a trigger of 8, OUT2 on: as Linux sets a console up.
    fn set_up() -> Self {
        let board = Self::new();
        board.outb(LCR, 0x83);
        board.outb(DATA, 1);
        board.outb(IER, 0);
        board.outb(LCR, 0x03);
        board.outb(FCR, 0x81);
        board.outb(MCR, 0x03 | OUT2);
        board.inb(MSR);
        board
    }

    fn inb(&self, offset: u64) -> u8 {
        inb(&*self.uart, offset)
    }

    fn outb(&self, offset: u64, value: u8) {
        outb(&*self.uart, offset, value);
    }

    fn type_in(&self, keys: &[u8]) {
        self.terminal.type_in(keys);
        self.uart.poll();
    }

    fn interrupt(&self) -> u8 {
        self.inb(IIR) & 0x0f
    }
}

#[test]
fn characters_written_reach_the_terminal_at_once_and_in_order() {
    let board = Board::set_up();
    for byte in b"hello, \xff world" {
        assert_eq!(board.inb(LSR), 0x60);
        board.outb(DATA, *byte);
    }
    assert_eq!(board.terminal.screen(), b"hello, \xff world");
}

#[test]
fn a_guest_that_sets_nothing_up_can_still_print() {
    let board = Board::new();
    board.outb(DATA, b'x');
    assert_eq!(board.terminal.screen(), b"x");
}

#[test]
fn a_full_backend_keeps_characters_in_the_fifo_and_shows_it() {
    let board = Board::set_up();
    board.terminal.set_room(2);
    for byte in b"abcdef" {
        board.outb(DATA, *byte);
    }
    assert_eq!(board.terminal.screen(), b"ab");
    assert_eq!(board.inb(LSR) & 0x60, 0, "THRE and TEMT say that it is not empty");
    board.outb(IER, 0x02);
    assert!(!board.line.level());

    board.terminal.set_room(100);
    board.uart.poll();
    assert_eq!(board.terminal.screen(), b"abcdef");
    assert_eq!(board.inb(LSR) & 0x60, 0x60);
    assert!(board.line.level(), "the FIFO ran empty, which raises THRE");
}

#[test]
fn a_full_transmit_fifo_holds_sixteen_and_ignores_the_rest() {
    let board = Board::set_up();
    board.terminal.set_room(0);
    for byte in 0..20 {
        board.outb(DATA, byte);
    }
    board.terminal.set_room(100);
    board.uart.poll();
    assert_eq!(board.terminal.screen(), (0..16).collect::<Vec<u8>>());
}

#[test]
fn a_16450_holds_one_character_and_overwrites_it() {
    let board = Board::new();
    board.terminal.set_room(0);
    board.outb(DATA, b'a');
    board.outb(DATA, b'b');
    board.terminal.set_room(100);
    board.uart.poll();
    assert_eq!(board.terminal.screen(), b"b");
}

#[test]
fn enabling_the_thre_interrupt_while_empty_raises_it_and_reading_iir_answers_it() {
    let board = Board::set_up();
    assert_eq!(board.interrupt(), NO_INTERRUPT);
    for _ in 0..2 {
        board.outb(IER, 0x02);
        assert!(board.line.level());
        assert_eq!(board.inb(IIR), 0xc2);
        assert!(!board.line.level());
        assert_eq!(board.inb(IIR), 0xc1);
        board.outb(IER, 0x02);
        assert!(!board.line.level(), "it was enabled before");
        board.outb(IER, 0x00);
    }
}

#[test]
fn every_character_sent_raises_the_thre_interrupt_anew() {
    let board = Board::set_up();
    board.outb(IER, 0x02);
    board.inb(IIR);
    board.outb(DATA, b'x');
    assert!(board.line.level());
    assert_eq!(board.interrupt(), 0x02);
    assert!(!board.line.level());
    assert_eq!(board.line.rises(), 2);
}

#[test]
fn a_handler_that_never_reads_iir_still_gets_an_edge_for_every_character() {
    let board = Board::set_up();
    board.outb(IER, 0x02);
    board.outb(DATA, b'a');
    board.outb(DATA, b'b');
    assert_eq!(board.line.rises(), 3, "each write answers the interrupt before");
    assert!(board.line.level());
}

#[test]
fn a_16450_keeps_its_last_character_when_it_has_been_read() {
    let board = Board::set_up();
    board.outb(FCR, 0);
    board.type_in(b"x");
    assert_eq!([board.inb(DATA), board.inb(DATA)], [b'x', b'x']);
    board.outb(FCR, 1);
    assert_eq!(board.inb(DATA), 0);
}

#[test]
fn reading_iir_for_another_interrupt_leaves_thre_raised() {
    let board = Board::set_up();
    board.outb(IER, 0x03);
    board.type_in(b"12345678");
    assert_eq!(board.interrupt(), 0x04);
    for _ in 0..8 {
        board.inb(DATA);
    }
    assert_eq!(board.interrupt(), 0x02);
}

#[test]
fn input_arrives_when_it_is_typed() {
    let board = Board::new();
    board.type_in(b"a");
    assert_eq!(board.inb(LSR), 0x61);
    assert_eq!(board.inb(DATA), b'a');
    assert_eq!(board.inb(LSR), 0x60);
    assert_eq!(board.inb(DATA), b'a', "an empty buffer keeps the last character");
}

#[test]
fn input_is_never_lost_however_slow_the_guest() {
    for fcr in [0x00, 0x01, 0xc1] {
        let board = Board::set_up();
        board.outb(FCR, fcr);
        let text: Vec<u8> = (0..200).collect();
        board.type_in(&text);
        let mut read = Vec::new();
        loop {
            let lsr = board.inb(LSR);
            assert_eq!(lsr & 0x9e, 0, "no overrun, no error");
            if lsr & 1 == 0 {
                break;
            }
            read.push(board.inb(DATA));
        }
        assert_eq!(read, text);
    }
}

#[test]
fn the_data_interrupt_comes_at_the_trigger_level_and_goes_below_it() {
    for (fcr, level) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14)] {
        let board = Board::set_up();
        board.outb(FCR, fcr);
        board.outb(IER, 0x01);
        board.type_in(&vec![b'x'; level - 1]);
        assert!(!board.line.level());
        board.type_in(b"y");
        assert!(board.line.level());
        assert_eq!(board.inb(IIR), 0xc4);
        board.inb(DATA);
        assert!(!board.line.level());
    }
}

#[test]
fn fewer_characters_than_the_trigger_time_out_after_four_character_times() {
    let board = Board::set_up();
    board.outb(IER, 0x01);
    board.type_in(b"ab");
    // Ten bits at 115200 baud are 86.8 microseconds.
    board.clock.step_ns(347_222);
    assert!(!board.line.level());
    board.clock.step_ns(1);
    assert!(board.line.level());
    assert_eq!(board.inb(IIR), 0xcc);

    board.inb(DATA);
    assert!(!board.line.level(), "reading a character answers it and restarts it");
    board.clock.step_ns(340_000);
    assert_eq!(board.interrupt(), NO_INTERRUPT);
    board.clock.step_ns(10_000);
    assert_eq!(board.interrupt(), 0x0c);
    board.inb(DATA);
    board.clock.step_ns(1_000_000_000);
    assert_eq!(board.interrupt(), NO_INTERRUPT, "an empty FIFO does not time out");
    assert_eq!(board.clock.next_deadline_ns(), None);
}

#[test]
fn each_new_character_restarts_the_timeout() {
    let board = Board::set_up();
    board.outb(IER, 0x01);
    for _ in 0..5 {
        board.type_in(b"x");
        board.clock.step_ns(300_000);
        assert!(!board.line.level());
    }
    board.clock.step_ns(50_000);
    assert!(board.line.level());
}

#[test]
fn the_timeout_follows_divisor_and_line_control() {
    let board = Board::set_up();
    board.outb(LCR, 0x80);
    board.outb(DATA, 12);
    // 5 data bits, parity, 1.5 stop bits: 8.5 bits at 9600 baud are 885.4 microseconds.
    board.outb(LCR, 0x0c);
    board.outb(IER, 0x01);
    board.type_in(b"x");
    board.clock.step_ns(3_541_000);
    assert!(!board.line.level());
    board.clock.step_ns(1_000);
    assert!(board.line.level());
}

#[test]
fn enabling_the_interrupt_after_the_timeout_has_passed_raises_it_at_once() {
    let board = Board::set_up();
    board.type_in(b"x");
    board.clock.step_ns(1_000_000_000);
    board.outb(IER, 0x01);
    assert!(board.line.level());
    assert_eq!(board.interrupt(), 0x0c);
}

#[test]
fn a_faster_rate_brings_a_running_timeout_forward() {
    let board = Board::set_up();
    board.outb(IER, 0x01);
    board.outb(LCR, 0x83);
    board.outb(DATA, 12);
    board.outb(LCR, 0x03);
    board.type_in(b"x");
    board.outb(LCR, 0x83);
    board.outb(DATA, 1);
    board.outb(LCR, 0x03);
    board.clock.step_ns(350_000);
    assert!(board.line.level());
}

#[test]
fn a_late_or_needless_wake_changes_nothing() {
    let board = Board::set_up();
    board.outb(IER, 0x01);
    board.uart.wake();
    board.type_in(b"x");
    board.uart.wake();
    assert!(!board.line.level());
    board.clock.step_ns(400_000);
    assert!(board.line.level());
    board.uart.wake();
    assert_eq!(board.line.rises(), 1);
}

#[test]
fn without_fifos_one_character_interrupts_and_nothing_times_out() {
    let board = Board::set_up();
    board.outb(FCR, 0x00);
    board.outb(IER, 0x01);
    board.type_in(b"xy");
    assert_eq!(board.inb(IIR), 0x04);
    assert_eq!(board.inb(DATA), b'x');
    assert_eq!(board.inb(DATA), b'y');
    assert_eq!(board.inb(IIR), NO_INTERRUPT);
    assert_eq!(board.clock.next_deadline_ns(), None);
}

#[test]
fn linux_finds_a_16550a_by_its_probes() {
    let board = Board::new();
    board.outb(IER, 0);
    assert_eq!(board.inb(IER), 0);
    board.outb(IER, 0xff);
    assert_eq!(board.inb(IER), 0x0f);
    board.outb(IER, 0);
    board.outb(MCR, 0x1a);
    assert_eq!(board.inb(MSR) & 0xf0, 0x90);
    board.outb(MCR, 0);
    board.outb(FCR, 0x01);
    assert_eq!(board.inb(IIR) >> 6, 3);
    board.outb(LCR, 0x80);
    board.outb(FCR, 0x21);
    assert_eq!(board.inb(IIR) & 0x20, 0, "not a 16750 with 64 byte FIFOs");
}

#[test]
fn fifo_resets_empty_one_direction_each_and_mode_changes_both() {
    let board = Board::set_up();
    board.terminal.set_room(0);
    board.outb(DATA, b'x');
    board.type_in(b"y");
    board.outb(FCR, 0x02);
    assert_eq!(board.inb(LSR), 0x60, "a mode change empties both");

    board.outb(FCR, 0x01);
    board.outb(DATA, b'x');
    board.type_in(b"y");
    board.outb(FCR, 0x03);
    assert_eq!(board.inb(LSR), 0x00);
    board.type_in(b"y");
    board.outb(FCR, 0x05);
    assert_eq!(board.inb(LSR), 0x61);
    board.outb(IER, 0x02);
    assert_eq!(board.interrupt(), 0x02);
}

#[test]
fn emptying_the_transmit_fifo_raises_the_thre_interrupt() {
    let board = Board::set_up();
    board.outb(IER, 0x02);
    board.inb(IIR);
    board.outb(FCR, 0x05);
    assert_eq!(board.interrupt(), NO_INTERRUPT, "it was empty before");
    board.terminal.set_room(0);
    board.outb(DATA, b'x');
    assert_eq!(board.interrupt(), NO_INTERRUPT);
    board.outb(FCR, 0x05);
    assert_eq!(board.interrupt(), 0x02);
    board.outb(FCR, 0x00);
    assert_eq!(board.interrupt(), 0x02, "a mode change raises it at once");
}

#[test]
fn trigger_bits_count_only_with_the_enable_bit() {
    let board = Board::set_up();
    board.outb(FCR, 0xc0);
    board.outb(FCR, 0x01);
    board.outb(IER, 0x01);
    board.type_in(b"x");
    assert_eq!(board.inb(IIR), 0xc4, "trigger level 1, not 14");
}

#[test]
fn dlab_banks_the_first_two_registers_and_their_names() {
    let board = Board::new();
    board.outb(IER, 0x05);
    board.outb(LCR, 0x80);
    board.outb(DATA, 0x34);
    board.outb(IER, 0x12);
    assert_eq!((board.inb(DATA), board.inb(IER)), (0x34, 0x12));
    assert_eq!(board.uart.register(0, Direction::Write), Some("DLL"));
    board.outb(LCR, 0);
    assert_eq!(board.inb(IER), 0x05);
    assert_eq!(board.uart.register(0, Direction::Write), Some("THR"));
    assert_eq!(board.uart.register(0, Direction::Read), Some("RBR"));
    assert_eq!(board.uart.register(5, Direction::Write), None);
    assert!(board.terminal.screen().is_empty());
}

/// The write that switches the bank is one to LCR whichever way it switches.
#[test]
fn every_access_keeps_the_name_it_was_made_under() {
    let board = Board::new();
    let write = |offset, value| named(&*board.uart, offset, Size::Byte, Some(value));
    let read = |offset| named(&*board.uart, offset, Size::Byte, None);
    assert_eq!(
        (write(LCR, 0x80), write(0, 1), write(1, 0)),
        (Some("LCR"), Some("DLL"), Some("DLM"))
    );
    assert_eq!((write(LCR, 0), write(0, 1), read(0)), (Some("LCR"), Some("THR"), Some("RBR")));
    for value in 0..=0xff {
        (0..8).for_each(|offset| _ = (write(offset, value), read(offset)));
    }
}

#[test]
fn registers_without_bits_read_zero_there_and_status_can_not_be_written() {
    let board = Board::new();
    board.outb(MCR, 0xff);
    assert_eq!(board.inb(MCR), 0x1f);
    board.outb(MCR, 0);
    board.inb(MSR);
    board.outb(LSR, 0x1e);
    board.outb(MSR, 0xff);
    assert_eq!((board.inb(LSR), board.inb(MSR)), (0x60, 0xb0));
    board.outb(SCR, 0xa5);
    assert_eq!(board.inb(SCR), 0xa5);
    assert_eq!(board.uart.rules(), Rules::BYTES);
}

#[test]
fn reset_is_power_on_and_lets_go_of_the_line() {
    let board = Board::set_up();
    board.outb(IER, 0x02);
    assert!(board.line.level());
    board.uart.reset();
    assert!(!board.line.level());
    let all: Vec<u8> = [IER, IIR, LCR, MCR, LSR, MSR, SCR].map(|at| board.inb(at)).to_vec();
    assert_eq!(all, [0, 1, 0, 0, 0x60, 0xb0, 0]);
}

#[test]
fn a_break_is_one_zero_character_with_its_errors() {
    let board = Board::set_up();
    // Odd parity, which a spacing parity bit gets wrong.
    board.outb(LCR, 0x0b);
    board.outb(IER, 0x04);
    board.type_in(b"a");
    board.uart.receive_break();
    assert_eq!(board.interrupt(), NO_INTERRUPT, "the error is not at the top yet");
    assert_eq!(board.inb(LSR), 0xe1, "it is in the FIFO");
    assert_eq!(board.inb(DATA), b'a');
    assert!(board.line.level());
    assert_eq!(board.interrupt(), 0x06);
    assert_eq!(board.inb(LSR), 0xfd, "BI, FE, PE and the FIFO's error bit");
    assert_eq!(board.inb(LSR), 0x61);
    assert_eq!(board.inb(DATA), 0);
    assert_eq!(board.inb(LSR), 0x60);
}

#[test]
fn the_fifo_error_bit_is_for_fifo_mode_only() {
    let board = Board::new();
    board.outb(LCR, 0x03);
    board.uart.receive_break();
    assert_eq!(board.inb(LSR), 0x79);
}
