//! Characters go both ways and wait where they can, and a driver hears of ports what it should.

mod places;
mod ports;

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

use trapline_guestmem::GuestMem;
use trapline_testkit::virtio::Part;
use trapline_testkit::{TestClock, TestTerminal};

use super::port::PATIENCE_NS;
use super::regs::{
    CONSOLE_PORT, DEVICE_READY, PORT_ADD, PORT_NAME, PORT_OPEN, PORT_READY, PORT_REMOVE, RESIZE,
};
use super::*;
use crate::alone::Alone;

const RAM: u64 = 0x40_0000;
const BUFFER: u64 = 0x30_0000;

/// A terminal that can be away.
#[derive(Clone, Default)]
struct Line {
    terminal: TestTerminal,
    away: Arc<AtomicBool>,
}

impl Line {
    /// A port to it: a console, if it has no name.
    fn setup(&self, name: Option<&str>) -> PortSetup {
        PortSetup {
            name: name.map(str::to_owned),
            is_console: name.is_none(),
            backend: Arc::new(self.clone()),
        }
    }
}

impl CharBackend for Line {
    fn transmit(&self, data: &[u8]) -> usize {
        self.terminal.transmit(data)
    }

    fn receive(&self, buf: &mut [u8]) -> usize {
        self.terminal.receive(buf)
    }

    fn is_connected(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }
}

/// A device with a driver's rings.
struct Bench {
    clock: TestClock,
    lines: Vec<Line>,
    alone: Alone<Console>,
}

impl Deref for Bench {
    type Target = Alone<Console>;

    fn deref(&self) -> &Alone<Console> {
        &self.alone
    }
}

impl DerefMut for Bench {
    fn deref_mut(&mut self) -> &mut Alone<Console> {
        &mut self.alone
    }
}

impl Bench {
    /// A console alone, in use.
    fn console() -> Self {
        let bench = Self::new(true, &[]);
        bench.start(F_SIZE)
    }

    /// A console, if there is one, and ports with these names, not in use yet.
    fn new(console: bool, names: &[&str]) -> Self {
        let clock = TestClock::default();
        let lines: Vec<_> = (0..=names.len()).map(|_| Line::default()).collect();
        let first = console.then(|| lines[0].setup(None));
        let others = lines[1..].iter().zip(names).map(|(line, name)| line.setup(Some(name)));
        let device = Console::new(first, others.collect(), Arc::new(clock.clone()));
        Self::around(device, clock, lines)
    }

    fn around(device: Arc<Console>, clock: TestClock, lines: Vec<Line>) -> Self {
        let alone = Alone::new(device, GuestMem::new(&[(0, RAM)]).unwrap());
        Self { clock, lines, alone }
    }

    /// Starts it with these features.
    fn start(mut self, features: u64) -> Self {
        self.alone.start(features);
        self
    }

    /// Sends text from `at`.
    fn send(&mut self, queue: u16, at: u64, text: &[u8]) {
        self.mem.write(at, text).unwrap();
        self.add(queue, &[Part::Read(at, u32::try_from(text.len()).unwrap())]);
    }

    /// Something has changed at a port's back end.
    fn poll(&self, port: usize) {
        self.device.port(port).poll();
        self.settle();
    }

    fn type_in(&self, port: usize, keys: &[u8]) {
        self.lines[port].terminal.type_in(keys);
        self.poll(port);
    }

    fn screen(&self, port: usize) -> Vec<u8> {
        self.lines[port].terminal.screen()
    }
}

#[test]
fn text_goes_out_across_its_buffers_and_comes_in_where_there_is_room() {
    let mut bench = Bench::console();
    assert_eq!(bench.device.queue_sizes(), [128, 128]);
    bench.mem.write(BUFFER, b"hello").unwrap();
    bench.add(1, &[Part::Read(BUFFER, 2), Part::Read(BUFFER + 2, 3)]);
    assert_eq!((bench.used(1), bench.screen(0)), (Some(0), b"hello".to_vec()));
    bench.type_in(0, b"abcdef");
    bench.add(0, &[Part::Write(BUFFER, 2), Part::Write(BUFFER + 0x100, 2)]);
    assert_eq!(bench.used(0), Some(4));
    assert_eq!(
        (bench.bytes(BUFFER, 2), bench.bytes(BUFFER + 0x100, 3)),
        (b"ab".to_vec(), b"cd\0".to_vec())
    );
    bench.add(0, &[Part::Write(BUFFER, 100)]);
    assert_eq!(bench.used(0), Some(2), "what there is, at once");
}

#[test]
fn what_the_guest_does_not_read_stays_where_it_is_and_a_buffer_waits_for_text() {
    let mut bench = Bench::console();
    bench.add(0, &[Part::Write(BUFFER, 3)]);
    assert_eq!(bench.used(0), None, "nothing is given back empty");
    bench.type_in(0, b"abcdef");
    assert_eq!((bench.used(0), bench.bytes(BUFFER, 3)), (Some(3), b"abc".to_vec()));
    assert_eq!(bench.lines[0].terminal.waiting(), b"def", "at the back end");
    bench.add(0, &[Part::Write(BUFFER, 100_000)]);
    bench.type_in(0, &[b'x'; 5000]);
    assert_eq!(bench.used(0), Some(3));
    bench.add(0, &[Part::Write(BUFFER, 100_000)]);
    bench.add(0, &[Part::Write(BUFFER, 100_000)]);
    assert_eq!((bench.used(0), bench.used(0)), (Some(4096), Some(904)));
}

#[test]
fn a_console_whose_terminal_takes_nothing_waits_and_then_drops() {
    let mut bench = Bench::console();
    bench.lines[0].terminal.set_room(3);
    bench.send(1, BUFFER, b"abcdef");
    assert_eq!((bench.used(1), bench.screen(0)), (None, b"abc".to_vec()));
    bench.lines[0].terminal.set_room(100);
    bench.poll(0);
    assert_eq!((bench.used(1), bench.screen(0)), (Some(0), b"abcdef".to_vec()), "nothing is lost");

    bench.lines[0].terminal.set_room(0);
    bench.send(1, BUFFER, b"gh");
    bench.clock.step_ns(PATIENCE_NS - 1);
    bench.settle();
    assert_eq!(bench.used(1), None);
    bench.clock.step_ns(1);
    bench.settle();
    assert_eq!(bench.used(1), Some(0), "the guest goes on");
    bench.send(1, BUFFER, b"ij");
    assert_eq!(bench.used(1), Some(0), "at once");
    bench.lines[0].terminal.set_room(100);
    bench.send(1, BUFFER, b"kl");
    assert_eq!((bench.used(1), bench.screen(0)), (Some(0), b"abcdefkl".to_vec()));
    bench.lines[0].terminal.set_room(0);
    bench.send(1, BUFFER, b"mn");
    assert_eq!(bench.used(1), None, "it is waited for again");
}

#[test]
fn what_waits_is_in_a_snapshot_and_goes_on_from_there() {
    let mut bench = Bench::console();
    bench.lines[0].terminal.set_room(3);
    bench.send(1, BUFFER, b"abcdef");
    let (saved, positions) = (bench.device.save(), bench.queues[1].position().unwrap());
    assert_eq!(positions.requests, [], "the device holds no request");
    let setup = bench.device.inner.lock().ports[0].clone();
    let other = Console::new(setup, Vec::new(), Arc::new(bench.clock.clone()));
    other.restore(&saved).unwrap();
    assert_eq!(other.save(), saved);
    let many = Bench::new(true, &["a"]);
    assert!(matches!(many.device.restore(&saved), Err(StateError::Inconsistent { .. })));
    bench.lines[0].terminal.set_room(100);
    other.activate(&Activation { features: F_SIZE, queues: &bench.queues });
    other.process(1);
    assert_eq!((bench.used(1), bench.screen(0)), (Some(0), b"abcdef".to_vec()));

    // A reset forgets it, of the device or of the queue.
    for of_queue in [false, true] {
        bench.lines[0].terminal.set_room(1);
        bench.send(1, BUFFER, b"gh");
        bench.queues.iter().for_each(|queue| queue.stop());
        if of_queue {
            bench.device.stop_queue(1)
        } else {
            bench.device.reset()
        }
        bench.lines[0].terminal.set_room(100);
        bench.lines[0].terminal.clear();
        bench.alone.start(F_SIZE);
        bench.send(1, BUFFER, b"ij");
        assert_eq!(bench.screen(0), b"ij");
    }
}

#[test]
fn a_request_of_many_bytes_takes_many_turns() {
    let mut bench = Bench::console();
    let parts = [Part::Read(BUFFER, 0x4_0000); 4];
    bench.rings[1].add(&parts);
    bench.device.process(1);
    assert_eq!(bench.screen(0).len(), 0x1_0000, "one turn");
    assert_eq!(*bench.events.queues.lock(), [1]);
    bench.settle();
    assert_eq!((bench.screen(0).len(), bench.used(1)), (0x10_0000, Some(0)));
}

#[test]
fn a_driver_without_ports_is_told_of_the_size_when_it_starts_and_no_more() {
    let mut bench = Bench::console();
    let configs = |bench: &Bench| std::mem::take(&mut *bench.events.configs.lock());
    assert_eq!(configs(&bench), 0, "there is no terminal yet");
    bench.device.resize(Size { columns: 80, rows: 25 });
    assert_eq!(configs(&bench), 1, "it is another one");
    bench.device.process(0);
    assert_eq!(configs(&bench), 0);
    for (features, told) in [(F_SIZE, 1), (0, 0), (F_SIZE | F_MULTIPORT, 0)] {
        bench.reset();
        bench.alone.start(features);
        assert_eq!(configs(&bench), told, "{features:#x}");
        bench.device.process(0);
        assert_eq!(configs(&bench), 0);
    }
}

#[test]
fn the_size_of_the_terminal_and_a_character_in_an_emergency() {
    let bench = Bench::new(true, &[]);
    let config = || {
        let mut config = [0; 12];
        bench.device.config_read(0, &mut config);
        config
    };
    assert_eq!(config(), [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    bench.device.resize(Size { columns: 132, rows: 0x0102 });
    assert_eq!(config(), [132, 0, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
    bench.device.resize(Size { columns: 132, rows: 0x0102 });
    assert_eq!(*bench.events.configs.lock(), 1, "once for each change");
    let mut part = [0; 2];
    bench.device.config_read(2, &mut part);
    assert_eq!(part, [2, 1]);
    // Before a driver has even looked at it, at any width.
    bench.device.config_write(8, b"a\0\0\0");
    bench.device.config_write(8, b"b");
    bench.device.config_write(4, b"....c...");
    bench.device.config_write(0, b"....");
    bench.device.config_write(9, b"d");
    assert_eq!(bench.screen(0), b"abc");
    assert_eq!(config()[..4], [132, 0, 2, 1], "nothing else can be written");
    bench.lines[0].terminal.set_room(0);
    bench.device.config_write(8, b"e\0\0\0");
    assert_eq!(bench.screen(0), b"abc");
}

#[test]
fn buffers_that_are_not_what_they_should_be_go_back_and_nothing_typed_is_lost() {
    let mut bench = Bench::console();
    bench.type_in(0, b"abc");
    for parts in [
        &[Part::Read(BUFFER, 8)][..],
        &[Part::Write(BUFFER, 0)],
        &[Part::Write(RAM, 8)],
        &[Part::Write(RAM - 4, 8)],
        &[Part::Write(u64::MAX, 8)],
    ] {
        bench.add(0, parts);
        assert_eq!(bench.used(0), Some(0), "{parts:?}");
    }
    assert_eq!(bench.lines[0].terminal.waiting(), b"abc");
    for parts in [&[Part::Write(BUFFER, 8)][..], &[Part::Read(RAM, 8)], &[Part::Read(u64::MAX, 1)]]
    {
        bench.add(1, parts);
        assert_eq!(bench.used(1), Some(0), "{parts:?}");
    }
    assert_eq!(bench.screen(0), b"");
}
