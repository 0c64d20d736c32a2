//! Several ports, and the messages about them.

use super::*;

const FEATURES: u64 = F_MULTIPORT | F_SIZE;

impl Bench {
    /// Sends a control message.
    pub(super) fn say(&mut self, port: u32, event: u16, value: u16) {
        let bytes = [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
        self.send(3, BUFFER, &bytes);
        assert_eq!(self.used(3), Some(0));
    }

    /// Gives buffers for control messages one after the other; those that came.
    pub(super) fn hear(&mut self) -> Vec<(u32, u16, u16, Vec<u8>)> {
        let mut heard = Vec::new();
        loop {
            self.add(2, &[Part::Write(BUFFER, 64)]);
            let Some(len) = self.used(2) else { break };
            let bytes = self.bytes(BUFFER, len as usize);
            let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            heard.push((short(0).into(), short(4), short(6), bytes[8..].to_vec()));
        }
        // The buffer that waits is taken out again.
        self.empty(2);
        heard
    }

    /// A console and a port called "agent", both ready.
    fn ready() -> Self {
        let mut bench = Self::new(true, &["agent"]).start(FEATURES);
        bench.say(0, DEVICE_READY, 1);
        bench.hear();
        bench.say(0, PORT_READY, 1);
        bench.say(1, PORT_READY, 1);
        bench.hear();
        bench
    }
}

#[test]
fn ports_are_made_known_step_by_step() {
    let bench = Bench::new(true, &["agent"]);
    bench.device.resize(Size { columns: 80, rows: 25 });
    bench.lines[1].away.store(true, Ordering::Relaxed);
    let mut bench = bench.start(FEATURES);
    assert_eq!(bench.device.queue_sizes().len(), 6);
    assert_eq!(bench.hear(), [], "before it is ready a driver hears nothing");
    bench.say(0, DEVICE_READY, 1);
    assert_eq!(bench.hear(), [(0, PORT_ADD, 1, vec![]), (1, PORT_ADD, 1, vec![])]);
    bench.say(0, PORT_READY, 1);
    let size = vec![80, 0, 25, 0];
    assert_eq!(
        bench.hear(),
        [(0, CONSOLE_PORT, 1, vec![]), (0, PORT_OPEN, 1, vec![]), (0, RESIZE, 0, size)]
    );
    bench.say(1, PORT_READY, 1);
    assert_eq!(bench.hear(), [(1, PORT_NAME, 1, b"agent\0".to_vec())], "nobody is there");
    bench.lines[1].away.store(false, Ordering::Relaxed);
    bench.poll(1);
    assert_eq!(bench.hear(), [(1, PORT_OPEN, 1, vec![])]);
    for away in [true, false] {
        bench.lines[1].away.store(away, Ordering::Relaxed);
        bench.poll(1);
    }
    assert_eq!(bench.hear(), [], "as it was when the driver last heard of it");
    bench.lines[1].away.store(true, Ordering::Relaxed);
    bench.poll(1);
    assert_eq!(bench.hear(), [(1, PORT_OPEN, 0, vec![])]);
}

#[test]
fn a_resize_is_told_to_the_console_and_the_last_one_counts() {
    let mut bench = Bench::ready();
    bench.device.resize(Size { columns: 1, rows: 2 });
    bench.device.resize(Size { columns: 3, rows: 4 });
    assert_eq!(bench.hear(), [(0, RESIZE, 0, vec![3, 0, 4, 0])]);
    let mut bench = Bench::new(true, &["agent"]).start(F_MULTIPORT);
    bench.say(0, DEVICE_READY, 1);
    bench.say(0, PORT_READY, 1);
    bench.device.resize(Size { columns: 1, rows: 2 });
    assert!(bench.hear().iter().all(|message| message.1 != RESIZE), "it did not ask for it");
}

#[test]
fn a_port_is_read_from_when_the_guest_has_opened_it() {
    let mut bench = Bench::ready();
    bench.type_in(1, b"abc");
    bench.add(4, &[Part::Write(BUFFER + 0x100, 8)]);
    assert_eq!(bench.used(4), None);
    bench.say(1, PORT_OPEN, 1);
    assert_eq!((bench.used(4), bench.bytes(BUFFER + 0x100, 3)), (Some(3), b"abc".to_vec()));
    bench.send(5, BUFFER, b"def");
    assert_eq!(
        (bench.used(5), bench.screen(1), bench.screen(0)),
        (Some(0), b"def".to_vec(), vec![])
    );
    bench.say(1, PORT_OPEN, 0);
    bench.add(4, &[Part::Write(BUFFER, 8)]);
    bench.type_in(1, b"g");
    assert_eq!((bench.used(4), bench.lines[1].terminal.waiting()), (None, b"g".to_vec()));
}

#[test]
fn a_port_that_is_no_console_is_waited_for_as_long_as_it_takes() {
    let mut bench = Bench::ready();
    bench.lines[1].terminal.set_room(1);
    bench.send(5, BUFFER, b"ab");
    bench.clock.step_ns(100 * PATIENCE_NS);
    bench.settle();
    assert_eq!(bench.used(5), None);
    bench.send(1, BUFFER + 0x100, b"x");
    assert_eq!(bench.used(1), Some(0), "the console is not held up by it");
    bench.lines[1].terminal.set_room(9);
    bench.poll(1);
    assert_eq!((bench.used(5), bench.screen(1)), (Some(0), b"ab".to_vec()));
}

#[test]
fn without_a_console_the_first_port_is_nobody() {
    let mut bench = Bench::new(false, &["agent"]).start(FEATURES);
    assert_eq!(bench.device.features() & (F_SIZE | F_EMERG_WRITE), 0);
    bench.say(0, DEVICE_READY, 1);
    assert_eq!(bench.hear(), [(1, PORT_ADD, 1, vec![])]);
    bench.say(0, PORT_OPEN, 1);
    assert_eq!(bench.hear(), []);
    bench.say(0, PORT_READY, 1);
    assert_eq!(bench.hear(), [(0, PORT_REMOVE, 1, vec![])], "if the driver has one");
    bench.send(1, BUFFER, b"ab");
    assert_eq!(bench.used(1), Some(0), "it goes nowhere");
    bench.device.config_write(8, b"a");
    // A driver that knows nothing of ports has nobody to talk to.
    let mut bench = Bench::new(false, &["agent"]).start(0);
    bench.add(4, &[Part::Write(BUFFER, 8)]);
    bench.type_in(1, b"abc");
    bench.send(5, BUFFER, b"ab");
    assert_eq!((bench.used(4), bench.used(5)), (None, None));
}

#[test]
fn messages_that_make_no_sense_change_nothing() {
    let mut bench = Bench::new(true, &["agent"]).start(FEATURES);
    bench.say(1, PORT_OPEN, 1);
    assert_eq!(bench.device.save(), Bench::new(true, &["agent"]).device.save(), "not ready");
    bench.say(0, DEVICE_READY, 0);
    assert_eq!(bench.hear(), []);
    bench.say(0, DEVICE_READY, 1);
    bench.hear();
    for (port, event) in [
        (2, PORT_READY),
        (u32::MAX, PORT_READY),
        (1, PORT_ADD),
        (1, PORT_REMOVE),
        (1, CONSOLE_PORT),
        (1, RESIZE),
        (1, PORT_NAME),
        (1, 8),
        (1, u16::MAX),
        (1, PORT_OPEN),
    ] {
        let before = bench.device.save();
        bench.say(port, event, 1);
        assert_eq!(bench.device.save(), before, "{event} of {port}");
    }
    for parts in [&[Part::Read(BUFFER, 7)][..], &[Part::Read(RAM, 8)], &[Part::Write(BUFFER, 8)]] {
        bench.add(3, parts);
        assert_eq!(bench.used(3), Some(0), "{parts:?}");
    }
    assert_eq!(bench.hear(), []);
}

/// What Linux does when a suspended machine resumes: the device was reset, the ports are known.
#[test]
fn a_driver_that_goes_on_after_a_reset_need_not_ask_for_its_ports() {
    let mut bench = Bench::ready();
    bench.say(1, PORT_OPEN, 1);
    bench.device.reset();
    bench.queues.iter().for_each(|queue| queue.stop());
    bench.alone.start(FEATURES);
    bench.say(0, PORT_READY, 1);
    bench.say(1, PORT_READY, 1);
    bench.say(1, PORT_OPEN, 1);
    assert_eq!(
        bench.hear(),
        [
            (0, CONSOLE_PORT, 1, vec![]),
            (0, PORT_OPEN, 1, vec![]),
            (1, PORT_NAME, 1, b"agent\0".to_vec()),
            (1, PORT_OPEN, 1, vec![]),
        ]
    );
    bench.type_in(1, b"abc");
    bench.add(4, &[Part::Write(BUFFER, 8)]);
    assert_eq!((bench.used(4), bench.bytes(BUFFER, 3)), (Some(3), b"abc".to_vec()));
    let restored = Bench::new(true, &["agent"]);
    restored.device.restore(&bench.device.save()).unwrap();
    // One that forgot them is told of them as ever.
    bench.say(0, DEVICE_READY, 1);
    assert_eq!(bench.hear(), [(0, PORT_ADD, 1, vec![]), (1, PORT_ADD, 1, vec![])]);
}

#[test]
fn a_driver_that_never_listens_costs_nothing_and_hears_it_later() {
    let mut bench = Bench::new(true, &["agent"]).start(FEATURES);
    for _ in 0..300 {
        bench.say(0, DEVICE_READY, 1);
    }
    let small = bench.device.save().bytes.len();
    assert!(small < 64, "{small}");
    // A buffer that is too short, and one that is not RAM.
    bench.add(2, &[Part::Write(BUFFER, 7)]);
    bench.add(2, &[Part::Write(RAM, 64)]);
    assert_eq!((bench.used(2), bench.used(2)), (Some(0), Some(0)));
    assert_eq!(bench.hear().len(), 2);
}

#[test]
fn what_a_driver_knows_is_saved() {
    let mut bench = Bench::ready();
    bench.say(1, PORT_OPEN, 1);
    let saved = bench.device.save();
    let other = Bench::new(true, &["agent"]);
    other.device.restore(&saved).unwrap();
    let mut other = other.start(FEATURES);
    assert_eq!(other.hear(), [], "it is not told again");
    other.type_in(1, b"abc");
    other.add(4, &[Part::Write(BUFFER, 8)]);
    assert_eq!(other.used(4), Some(3));

    let mut state = State::try_from(saved.decode::<SavedV2>().unwrap()).unwrap();
    state.ports[1].added = false;
    let impossible = Saved::encode(&SavedV2::from(&state));
    assert!(matches!(other.device.restore(&impossible), Err(StateError::Inconsistent { .. })));
    assert_eq!(other.device.save(), saved);
}
