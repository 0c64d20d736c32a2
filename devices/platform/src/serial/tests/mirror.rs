//! What a guest reads of the page of registers instead of asking.

use std::collections::VecDeque;

use parking_lot::Mutex;
use proptest::prelude::*;
use trapline_device::{CharDevice, Line, LineSink, READS_WORTH_A_SWITCH, SaveState};
use trapline_testkit::mirror::TestPages;

use super::*;

/// What a guest is shown of a port.
#[derive(Clone, Default)]
struct Page(Arc<TestPages>);

impl Page {
    fn of(board: &Board) -> Self {
        let page = Self::default();
        assert!(board.uart.mirror().attach(page.0.clone()));
        page
    }

    fn see(&self, offset: u64) -> Option<u8> {
        self.0.see(offset, Size::Byte).map(|value| u8::try_from(value).unwrap())
    }
}

fn poll(board: &Board, times: u32) {
    (0..times).for_each(|_| assert_eq!(board.inb(LSR), 0x60));
}

#[test]
fn a_guest_that_polls_is_shown_the_registers_until_something_is_received() {
    let board = Board::set_up();
    let page = Page::of(&board);
    poll(&board, READS_WORTH_A_SWITCH - 1);
    assert_eq!(page.see(LSR), None);
    poll(&board, 1);
    let seen: Vec<_> = (0..10).map(|offset| page.see(offset).unwrap()).collect();
    assert_eq!(seen, [0, 0, 0xc1, 0x03, 0x0b, 0x60, 0xb0, 0, 0xff, 0xff]);
    board.outb(DATA, b'x');
    board.outb(SCR, 0x77);
    assert_eq!(page.see(SCR), Some(0x77), "shown all the time, with what changes");
    board.outb(IER, 0x01);
    board.type_in(&[b'k'; 16]);
    assert_eq!(page.see(LSR), None);
    (0..100).for_each(|_| assert_eq!(board.inb(LSR), 0x61));
    assert_eq!(page.see(LSR), None, "reading the character takes it away");
    (0..16).for_each(|_| assert_eq!(board.inb(DATA), b'k'));
    poll(&board, READS_WORTH_A_SWITCH);
    assert_eq!(page.see(IER), Some(0x01));
}

#[test]
fn reads_at_ports_are_no_reason_to_show_the_page_and_find_the_same_registers() {
    let board = Board::set_up();
    let page = Page::of(&board);
    let ports = board.uart.at_ports();
    (0..2 * READS_WORTH_A_SWITCH).for_each(|_| assert_eq!(inb(&*ports, LSR), 0x60));
    assert_eq!(page.see(LSR), None);
    poll(&board, READS_WORTH_A_SWITCH);
    outb(&*ports, SCR, 0x5a);
    outb(&*ports, DATA, b'x');
    assert_eq!((page.see(SCR), board.inb(SCR)), (Some(0x5a), 0x5a));
    assert_eq!(board.terminal.screen(), b"x");
    board.outb(IER, 0x01);
    board.type_in(b"k");
    assert_eq!((page.see(LSR), inb(&*ports, LSR), inb(&*ports, DATA)), (None, 0x61, b'k'));
    assert_eq!(ports.register(DATA, Direction::Read), Some("RBR"));
    assert_eq!(ports.rules(), Rules::BYTES);
}

/// The line of a port, which looks at the page whenever it is raised.
struct Looking {
    page: Page,
    seen: Arc<Mutex<Vec<Option<u8>>>>,
}

impl LineSink for Looking {
    fn set_level(&self, level: bool) {
        if level {
            self.seen.lock().push(self.page.see(IIR));
        }
    }
}

#[test]
fn the_page_is_gone_before_the_line_tells_of_what_it_does_not_show() {
    let (page, seen, terminal) = (Page::default(), Arc::default(), TestTerminal::default());
    let looking = Looking { page: page.clone(), seen: Arc::clone(&seen) };
    let clock = Arc::new(TestClock::default());
    let uart = Serial::new(Arc::new(terminal.clone()), Line::new(looking), clock);
    uart.mirror().attach(page.0.clone());
    outb(&*uart, MCR, OUT2);
    inb(&*uart, MSR);
    // By a character, and by a write that enables what has waited.
    let causes: [&dyn Fn(); 2] = [
        &|| {
            outb(&*uart, IER, 0x01);
            terminal.type_in(b"k");
            uart.poll();
        },
        &|| outb(&*uart, IER, 0x02),
    ];
    for cause in causes {
        (0..READS_WORTH_A_SWITCH).for_each(|_| {
            inb(&*uart, LSR);
        });
        assert!(page.see(IIR).is_some());
        cause();
        assert_eq!(*std::mem::take(&mut *seen.lock()), [None]);
        outb(&*uart, IER, 0);
        inb(&*uart, DATA);
        seen.lock().clear();
    }
}

#[test]
fn no_page_is_shown_while_a_read_or_a_queued_character_would_change_it() {
    /// What is written first, and whether the page is shown then.
    const CASES: &[(&[(u64, u8)], bool)] = &[
        (&[], true),
        (&[(IER, 0x0d)], true),
        (&[(IER, 0x02)], false), // each character that leaves interrupts
        (&[(LCR, 0x83)], false), // the transmitter's register is the divisor's
        (&[(MCR, LOOP)], false), // it is the receiver
        (&[(LCR, 0x1b), (MCR, 0)], true),
    ];
    for (writes, shown) in CASES {
        let board = Board::set_up();
        let page = Page::of(&board);
        writes.iter().for_each(|&(offset, value)| board.outb(offset, value));
        // An interrupt that waits would be reason enough.
        board.inb(IIR);
        (0..100).for_each(|_| {
            board.inb(SCR);
        });
        assert_eq!(page.see(SCR).is_some(), *shown, "{writes:x?}");
    }
    let board = Board::new();
    let page = Page::of(&board);
    board.outb(MCR, LOOP);
    board.outb(MCR, 0);
    (0..100).for_each(|_| {
        board.inb(SCR);
    });
    assert_eq!(page.see(SCR), None, "modem inputs have changed");
    board.inb(MSR);
    (0..100).for_each(|_| {
        board.inb(SCR);
    });
    assert!(page.see(SCR).is_some());
    board.uart.receive_break();
    assert_eq!(page.see(SCR), None, "a break is received");
    board.inb(DATA);
    (0..100).for_each(|_| {
        board.inb(SCR);
    });
    assert_eq!(page.see(SCR), None, "its errors wait to be read");
    board.inb(LSR);
    (0..100).for_each(|_| {
        board.inb(SCR);
    });
    assert!(page.see(SCR).is_some());
    board.uart.reset();
    assert_eq!(page.see(LCR), Some(0), "a reset is seen");
}

/// A guest that was told that there is room may write as much as can be queued.
#[test]
fn a_page_promises_room_for_all_that_can_be_queued() {
    let board = Board::set_up();
    let page = Page::of(&board);
    let text: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
    let (mut queue, mut sent) = (VecDeque::new(), 0);
    let deliver = |queue: &mut VecDeque<u8>| {
        queue.drain(..).for_each(|byte| board.outb(DATA, byte));
    };
    board.terminal.set_room(12_000);
    while sent < text.len() {
        // Queued until the queue is full, or a read comes to the port.
        let ready = match page.see(LSR) {
            Some(lsr) => lsr,
            None => {
                deliver(&mut queue);
                board.inb(LSR)
            }
        };
        if ready & 0x20 == 0 {
            board.terminal.set_room(9_000);
            board.uart.poll();
            continue;
        }
        queue.push_back(text[sent]);
        sent += 1;
        if queue.len() == trapline_device::QUEUED_WRITES_MAX {
            deliver(&mut queue);
        }
    }
    deliver(&mut queue);
    board.terminal.set_room(usize::MAX);
    board.uart.poll();
    assert!(board.terminal.screen() == text, "every character, in order");
    assert!(board.uart.mirror().times_shown() > 0, "and not because it was never shown");
}

#[derive(Clone, Debug)]
enum Op {
    Read(u64),
    Poll(u64),
    Write(u64, u8),
    Type(Vec<u8>),
    Break,
    Step(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let write = prop_oneof![
        (0..9u64, any::<u8>()),
        // What leads back to a port that is shown.
        Just((IER, 0)),
        Just((IER, 2)),
        Just((LCR, 3)),
        Just((MCR, OUT2)),
        Just((FCR, 0x07)),
    ];
    prop_oneof![
        4 => prop_oneof![0..9u64, Just(IIR)].prop_map(Op::Read),
        4 => (0..9u64).prop_map(Op::Poll),
        4 => write.prop_map(|(at, value)| Op::Write(at, value)),
        1 => proptest::collection::vec(any::<u8>(), 0..20).prop_map(Op::Type),
        1 => Just(Op::Break),
        1 => (0..2_000_000u64).prop_map(Op::Step),
    ]
}

/// A guest whose characters are queued, and whose reads are answered by the page if it is shown.
struct Reader {
    board: Board,
    page: Option<Page>,
    queue: VecDeque<u8>,
}

impl Reader {
    fn new(mirrored: bool) -> Self {
        let board = Board::set_up();
        let page = mirrored.then(|| Page::of(&board));
        Self { board, page, queue: VecDeque::new() }
    }

    fn deliver(&mut self) {
        self.queue.drain(..).for_each(|byte| self.board.outb(DATA, byte));
    }

    fn read(&mut self, offset: u64) -> u8 {
        if let Some(seen) = self.page.as_ref().and_then(|page| page.see(offset)) {
            return seen;
        }
        self.deliver();
        self.board.inb(offset)
    }

    /// The values that are read, in order.
    fn run(&mut self, op: &Op) -> Vec<u8> {
        match op {
            Op::Read(at) => return vec![self.read(*at)],
            Op::Poll(at) => return (0..=READS_WORTH_A_SWITCH).map(|_| self.read(*at)).collect(),
            Op::Write(DATA, value) => self.queue.push_back(*value),
            Op::Write(at, value) => {
                self.deliver();
                self.board.outb(*at, *value);
            }
            // What comes from outside comes after what was queued, as on an event loop.
            Op::Type(keys) => {
                self.deliver();
                self.board.type_in(keys);
            }
            Op::Break => {
                self.deliver();
                self.board.uart.receive_break();
            }
            Op::Step(ns) => {
                self.deliver();
                self.board.clock.step_ns(*ns);
            }
        }
        Vec::new()
    }
}

proptest! {
    /// A guest cannot tell whether it is shown the page, and neither can the port.
    #[test]
    fn a_page_gives_what_the_port_would(script in proptest::collection::vec(op(), 0..80)) {
        let (mut with, mut without) = (Reader::new(true), Reader::new(false));
        for op in script {
            prop_assert_eq!(with.run(&op), without.run(&op), "{:?}", op);
            prop_assert_eq!(with.board.line.level(), without.board.line.level(), "{:?}", op);
        }
        with.deliver();
        without.deliver();
        prop_assert_eq!(with.board.uart.save(), without.board.uart.save());
        prop_assert_eq!(with.board.terminal.screen(), without.board.terminal.screen());
    }
}
