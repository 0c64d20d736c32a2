use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use trapline::{Handler, IoCx, Mapping, Region};
use trapline_device::{Line, LineSink, Size, Timer, Wake};

use super::*;
use crate::wires::Pin;

/// A latch that raises line 4 while it is not 0, and a port that asks for the machine's end.
struct Latch {
    value: Mutex<u64>,
    line: Line,
    end: Arc<AtomicBool>,
}

impl Handler for Latch {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        *self.value.lock()
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        if offset >= 8 {
            self.end.store(true, Ordering::Relaxed);
            return;
        }
        *self.value.lock() = value;
        self.line.set(value != 0);
    }
}

/// Flips its line every microsecond.
struct Ticker {
    clock: VirtualClock,
    timer: Box<dyn Timer>,
    line: Line,
}

impl Wake for Ticker {
    fn wake(&self) {
        self.line.set(!self.line.level());
        self.timer.arm(Some(self.clock.now_ns() + 1000));
    }
}

struct Nothing;

impl LineSink for Nothing {
    fn set_level(&self, _level: bool) {}
}

struct Board {
    registry: Registry,
    ram: GuestMem,
    clock: VirtualClock,
    wires: Wires,
    end: Arc<AtomicBool>,
    ticker: Arc<Ticker>,
    _mappings: Vec<Mapping>,
}

impl Board {
    fn new() -> Self {
        let registry = Registry::builder().build();
        let (clock, wires, end) = (VirtualClock::new(0), Wires::default(), Arc::default());
        let pin = |number| Pin { device: "ioapic", side: Side::In, number };
        let line = wires.line(pin(4), Nothing);
        let latch = Arc::new(Latch { value: Mutex::default(), line, end: Arc::clone(&end) });
        let ticker = Arc::new_cyclic(|me: &std::sync::Weak<Ticker>| Ticker {
            clock: clock.clone(),
            timer: clock.timer(me.clone()),
            line: wires.line(pin(8), Nothing),
        });
        let regions = [
            Region::pio(0x100, 16, "latch", "port", latch.clone()),
            Region::mmio(0x10_0000, 0x1000, "latch", "page", latch),
        ];
        let mappings = regions.map(|region| registry.map(region).unwrap()).into();
        let ram = GuestMem::new(&[(0, 0x2000)]).unwrap();
        Self { registry, ram, clock, wires, end, ticker, _mappings: mappings }
    }

    /// What a client that sends this receives.
    fn converse(&self, lines: &str) -> (String, End) {
        let mut output = Vec::new();
        let mut session = Session::new(self);
        let end = session.run(lines.as_bytes(), &mut output).unwrap();
        (String::from_utf8(output).unwrap(), end)
    }

    #[track_caller]
    fn check(&self, dialogue: &[(&str, &str)]) {
        let lines: String = dialogue.iter().map(|(line, _)| format!("{line}\n")).collect();
        let answers: String = dialogue.iter().map(|(_, answer)| format!("{answer}\n")).collect();
        assert_eq!(self.converse(&lines).0, answers);
    }
}

impl Target for Board {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn ram(&self) -> &GuestMem {
        &self.ram
    }

    fn clock(&self) -> &VirtualClock {
        &self.clock
    }

    fn wires(&self) -> &Wires {
        &self.wires
    }

    fn info(&self, what: &str) -> Option<String> {
        (what == "board").then(|| "two\nlines\n".to_owned())
    }

    fn settle(&self) -> Option<PowerEvent> {
        self.end.swap(false, Ordering::Relaxed).then_some(PowerEvent::Exit(3))
    }
}

#[test]
fn a_table_comes_line_by_line_before_its_answer() {
    Board::new().check(&[
        ("info board", "INFO two\nINFO lines\nOK"),
        ("info its", "FAIL No such part"),
        ("info", "FAIL the part is missing"),
    ]);
}

#[test]
fn answers_have_qemus_form() {
    Board::new().check(&[
        ("outb 0x100 0x141", "OK"),
        ("inb 0x100", "OK 0x0041"),
        ("inl 0x100", "OK 0x0041"),
        ("inl 0xee00", "OK 0xffffffff"),
        ("inb 0xee00", "OK 0x00ff"),
        ("writel 0x10 0x11223344", "OK"),
        ("readq 0x10", "OK 0x0000000011223344"),
        ("readb 0x100000", "OK 0x0000000000000041"),
        ("read 0x10 0x5", "OK 0x4433221100"),
        ("b64read 0x10 3", "OK RDMi"),
        ("b64write 0x20 3 AQID", "OK"),
        ("read 0x20 3", "OK 0x010203"),
        ("memset 0x20 2 0xff", "OK"),
        ("read 0x20 3", "OK 0xffff03"),
        ("endianness", "OK little"),
        ("rtas ibm,x 0 0 0 0", "FAIL Unknown command 'rtas'"),
        ("", "FAIL Empty command"),
    ]);
}

#[test]
fn a_block_crosses_from_ram_to_nothing() {
    Board::new().check(&[
        ("write 0x1ffe 4 0x01020304", "OK"),
        ("read 0x1ffd 5", "OK 0x000102ffff"),
        ("read 0xffffffffffffffff 1", "OK 0xff"),
    ]);
}

#[test]
fn an_access_across_the_end_of_ram_is_ram_as_far_as_that_goes() {
    let board = Board::new();
    board.check(&[
        ("write 0x1ffe 4 0x01020304", "OK"),
        ("readl 0x1ffe", "OK 0x00000000ffff0201"),
        ("readw 0x1fff", "OK 0x000000000000ff02"),
        ("writel 0x1ffd 0xaabbccdd", "OK"),
        ("read 0x1ffc 6", "OK 0x00ddccbbffff"),
        ("writeq 0x1fff 0x1122334455667788", "OK"),
        ("readb 0x1fff", "OK 0x0000000000000088"),
    ]);
    // What is not RAM is one access, as a processor makes it.
    let stats = board.registry.stats();
    let lens: Vec<_> = stats.unclaimed.keys().map(|key| (key.addr, key.len)).collect();
    assert!(lens.contains(&(0x2000, 7)), "{lens:?}");
    assert!(lens.iter().all(|(addr, _)| *addr == 0x2000), "{lens:?}");
}

#[test]
fn a_block_is_moved_in_the_widths_a_device_takes() {
    // The latch reads the same everywhere, and takes eight bytes at most.
    Board::new().check(&[
        ("writeq 0x100000 0x0807060504030201", "OK"),
        ("read 0x100000 0x10", "OK 0x01020304050607080102030405060708"),
        ("read 0x100004 0xc", "OK 0x010203040102030405060708"),
    ]);
}

#[test]
fn interrupts_are_told_before_the_answer_and_only_when_asked_for() {
    Board::new().check(&[
        ("outb 0x100 1", "OK"),
        ("irq_intercept_in ioapic", "OK"),
        ("outb 0x100 0", "IRQ lower 4\nOK"),
        ("outw 0x100 1", "IRQ raise 4\nOK"),
        ("irq_intercept_in /machine/unattached/ioapic[0]", "OK"),
        ("irq_intercept_out ioapic", "FAIL No such pins"),
        ("irq_intercept_in ide", "FAIL Unknown device"),
    ]);
}

#[test]
fn a_client_is_one_more_holder_of_a_line() {
    Board::new().check(&[
        ("irq_intercept_in ioapic", "OK"),
        ("set_irq_in ioapic unnamed-gpio-in 4 1", "IRQ raise 4\nOK"),
        ("outb 0x100 1", "OK"),
        ("set_irq_in ioapic unnamed-gpio-in 4 0", "OK"),
        ("outb 0x100 0", "IRQ lower 4\nOK"),
        ("set_irq_in ioapic unnamed-gpio-in 5 1", "FAIL No such pin"),
        ("set_irq_in ioapic other 4 1", "FAIL No such pin"),
    ]);
}

#[test]
fn time_passes_in_steps_to_deadlines() {
    let board = Board::new();
    board.check(&[("clock_step", "FAIL There is no deadline to step to")]);
    board.ticker.timer.arm(Some(500));
    board.check(&[
        ("irq_intercept_in ioapic", "OK"),
        ("clock_step", "IRQ raise 8\nOK 500"),
        ("clock_step 999", "OK 1499"),
        ("clock_set 2500", "IRQ lower 8\nIRQ raise 8\nOK 2500"),
        ("clock_set 2499", "FAIL 2500"),
    ]);
}

#[test]
fn a_step_over_too_many_deadlines_ends_early() {
    let board = Board::new();
    board.ticker.timer.arm(Some(1000));
    board.check(&[("clock_step 0x7fffffffffffffff", "FAIL 4194304000 after 4194304 deadlines")]);
}

#[test]
fn the_next_client_finds_the_machine_but_not_the_intercepts() {
    let board = Board::new();
    board.check(&[("irq_intercept_in ioapic", "OK"), ("outb 0x100 7", "IRQ raise 4\nOK")]);
    board.check(&[("inb 0x100", "OK 0x0007"), ("outb 0x100 0", "OK")]);
}

#[test]
fn the_machines_end_is_answered_and_ends_the_session() {
    let (text, end) = Board::new().converse("outb 0x108 1\ninb 0x100\n");
    assert_eq!((text.as_str(), end), ("OK\n", End::Machine(PowerEvent::Exit(3))));
}

#[test]
fn a_line_without_an_end_is_no_command_and_an_endless_one_is_refused() {
    let board = Board::new();
    assert_eq!(board.converse("inb 0x100"), (String::new(), End::Closed));
    let long = "x".repeat(2 * DATA_MAX + 5000) + "\ninb 0x100\n";
    assert_eq!(board.converse(&long).0, "FAIL The line is too long\nOK 0x0000\n");
}

/// A client that has gone, with no, an unread, or a broken-off answer.
struct Gone(io::ErrorKind);

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(self.0.into())
    }
}

#[test]
fn a_client_that_goes_before_its_answer_leaves_the_machine_to_the_next() {
    let board = Board::new();
    let mut session = Session::new(&board);
    for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset] {
        let commands = "irq_intercept_in ioapic\nirq_intercept_in ioapic\n".as_bytes();
        assert_eq!(session.run(commands, Gone(kind)).unwrap(), End::Closed);
        // The next is told of no interrupt it has not asked for.
        let mut output = Vec::new();
        session.run("outb 0x100 1\noutb 0x100 0\n".as_bytes(), &mut output).unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), "OK\nOK\n");
    }
    let full = session.run("outb 0x100 1\n".as_bytes(), Gone(io::ErrorKind::StorageFull));
    assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_machine_that_ends_ends_though_its_client_does_not_hear_of_it() {
    let board = Board::new();
    let mut session = Session::new(&board);
    let end = session.run("outb 0x108 1\n".as_bytes(), Gone(io::ErrorKind::BrokenPipe));
    assert!(matches!(end.unwrap(), End::Machine(_)));
}
