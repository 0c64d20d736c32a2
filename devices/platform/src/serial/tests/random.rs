//! Properties that hold whatever the guest does.

use proptest::prelude::*;
use trapline_device::{CharDevice, Clock};

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Read(u64),
    Write(u64, u8),
    Type(Vec<u8>),
    Room(usize),
    Step(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..9u64).prop_map(Op::Read),
        4 => (0..9u64, any::<u8>()).prop_map(|(at, value)| Op::Write(at, value)),
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Op::Type),
        1 => (0..40usize).prop_map(Op::Room),
        1 => (0..2_000_000u64).prop_map(Op::Step),
    ]
}

proptest! {
    /// Whatever a guest does: no panic, the line is what IIR, OUT2 and LOOP say, offsets past the
    /// window read all ones, and no timer runs in the past.
    #[test]
    fn any_script_keeps_line_and_registers_consistent(
        script in proptest::collection::vec(op(), 0..120),
    ) {
        let board = Board::new();
        for op in script {
            match op {
                Op::Read(8) => prop_assert_eq!(board.inb(8), 0xff),
                Op::Read(at) => { board.inb(at); }
                Op::Write(at, value) => board.outb(at, value),
                Op::Type(keys) => board.type_in(&keys),
                Op::Room(room) => { board.terminal.set_room(room); board.uart.poll(); }
                Op::Step(ns) => board.clock.step_ns(ns),
            }
            let level = board.line.level();
            let mcr = board.inb(MCR);
            let source = board.interrupt();
            prop_assert_eq!(level, source & 1 == 0 && mcr & OUT2 != 0 && mcr & LOOP == 0);
            if let Some(deadline) = board.clock.next_deadline_ns() {
                prop_assert!(deadline > board.clock.now_ns());
            }
        }
    }

    /// What is typed is read in order, and what is written appears in order, with any backend
    /// that makes room in any portions.
    #[test]
    fn a_driver_that_waits_for_thre_loses_nothing(
        text in proptest::collection::vec(any::<u8>(), 0..100),
        rooms in proptest::collection::vec(1..9usize, 1..20),
        fifo in any::<bool>(),
    ) {
        let board = Board::new();
        board.outb(FCR, u8::from(fifo));
        board.type_in(&text);
        board.terminal.set_room(0);
        let mut read = Vec::new();
        let mut rooms = rooms.iter().cycle();
        for byte in &text {
            while board.inb(LSR) & 0x20 == 0 {
                board.terminal.set_room(*rooms.next().unwrap());
                board.uart.poll();
            }
            board.outb(DATA, *byte);
            read.push(board.inb(DATA));
        }
        board.terminal.set_room(1000);
        board.uart.poll();
        prop_assert_eq!(&read, &text);
        prop_assert_eq!(board.terminal.screen(), text);
    }
}
