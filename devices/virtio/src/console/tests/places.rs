//! Ports that come and go.

use super::*;

impl Bench {
    /// A device with so many places for ports, whose driver is ready.
    fn places(places: usize) -> Self {
        let mut bench = Self::idle(places).start(F_MULTIPORT);
        bench.say(0, DEVICE_READY, 1);
        assert_eq!(bench.hear(), []);
        bench
    }

    fn idle(places: usize) -> Self {
        let clock = TestClock::default();
        let lines = vec![Line::default(); places];
        let device = Console::with_places(places, Arc::new(clock.clone()));
        Self::around(device, clock, lines)
    }

    /// A port comes: a console, if it has no name. Its line is the one with its number.
    fn add_port(&mut self, number: Option<usize>, name: Option<&str>) -> Result<usize, PortError> {
        let line = Line::default();
        let number = self.device.add_port(number, line.setup(name))?;
        self.lines[number] = line;
        self.settle();
        Ok(number)
    }

    fn remove_port(&self, number: usize) -> bool {
        let removed = self.device.remove_port(number);
        self.settle();
        removed
    }
}

#[test]
fn a_port_comes_to_a_driver_that_is_there_and_goes() {
    let mut bench = Bench::places(3);
    for _ in 0..3 {
        assert_eq!(bench.add_port(None, Some("agent")), Ok(1));
        assert_eq!(bench.hear(), [(1, PORT_ADD, 1, vec![])]);
        bench.say(1, PORT_READY, 1);
        assert_eq!(
            bench.hear(),
            [(1, PORT_NAME, 1, b"agent\0".to_vec()), (1, PORT_OPEN, 1, vec![])]
        );
        bench.say(1, PORT_OPEN, 1);
        bench.type_in(1, b"abc");
        bench.add(4, &[Part::Write(BUFFER, 8)]);
        assert_eq!(bench.used(4), Some(3));
        bench.send(5, BUFFER, b"def");
        assert_eq!((bench.used(5), bench.screen(1)), (Some(0), b"def".to_vec()));
        assert!(bench.remove_port(1) && !bench.remove_port(1));
        // What it says before it has heard of that is about the one that has gone.
        bench.say(1, PORT_READY, 1);
        bench.say(1, PORT_OPEN, 0);
        assert_eq!(bench.hear(), [(1, PORT_REMOVE, 1, vec![])]);
    }
    assert!(!bench.remove_port(2) && !bench.remove_port(3));
    assert_eq!(bench.hear(), []);
}

#[test]
fn a_driver_that_is_told_late_hears_of_the_old_port_before_the_new_one() {
    let mut bench = Bench::places(3);
    bench.add_port(None, Some("old")).unwrap();
    bench.hear();
    bench.say(1, PORT_READY, 1);
    bench.say(1, PORT_OPEN, 1);
    bench.hear();
    bench.remove_port(1);
    bench.add_port(None, Some("new")).unwrap();
    bench.say(1, PORT_READY, 1);
    bench.type_in(1, b"abc");
    bench.add(4, &[Part::Write(BUFFER + 0x100, 8)]);
    assert_eq!(bench.used(4), None, "nobody has opened the new one");
    assert_eq!(bench.hear(), [(1, PORT_REMOVE, 1, vec![]), (1, PORT_ADD, 1, vec![])]);
    // One that came and went unheard has never been there.
    bench.remove_port(1);
    bench.hear();
    bench.add_port(None, Some("short")).unwrap();
    bench.remove_port(1);
    assert_eq!(bench.hear(), []);
}

#[test]
fn what_waits_for_a_port_that_goes_is_given_back() {
    let mut bench = Bench::places(2);
    bench.add_port(None, Some("agent")).unwrap();
    bench.lines[1].terminal.set_room(1);
    bench.send(5, BUFFER, b"abc");
    assert_eq!(bench.used(5), None);
    bench.remove_port(1);
    assert_eq!((bench.used(5), bench.screen(1)), (Some(0), b"a".to_vec()));
    bench.add_port(None, Some("agent")).unwrap();
    bench.send(5, BUFFER, b"def");
    assert_eq!((bench.used(5), bench.screen(1)), (Some(0), b"def".to_vec()), "from its first byte");
    let backend = Arc::downgrade(&bench.device.inner.lock().ports[1].as_ref().unwrap().backend);
    bench.remove_port(1);
    assert!(backend.upgrade().is_none(), "nobody holds the back end any more");
}

#[test]
fn numbers_are_the_first_free_ones_and_0_is_for_a_console() {
    let mut bench = Bench::places(4);
    assert_eq!(bench.add_port(Some(0), Some("a")), Err(PortError::OfConsole));
    assert_eq!(bench.add_port(Some(2), Some("a")), Ok(2));
    assert_eq!(bench.add_port(Some(2), Some("b")), Err(PortError::Taken(2)));
    let beyond = PortError::NoPlace { number: 4, places: 4 };
    assert_eq!(beyond.to_string(), "there is no port 4: the last one is 3");
    assert_eq!(bench.add_port(Some(4), None), Err(beyond));
    assert_eq!(bench.add_port(None, Some("b")), Ok(1));
    assert_eq!(bench.add_port(None, Some("c")), Ok(3));
    assert_eq!(bench.add_port(None, Some("d")), Err(PortError::Full(4)));
    assert!(!bench.device.has_console());
    assert_eq!(bench.add_port(None, None), Ok(0));
    assert!(bench.device.has_console());
    assert_eq!(bench.add_port(None, None), Err(PortError::Full(4)));
    bench.device.config_write(EMERGENCY, b"!");
    assert_eq!(bench.screen(0), b"!");
    let heard = bench.hear();
    assert!(heard.iter().map(|message| (message.0, message.1)).eq((0..4).map(|n| (n, PORT_ADD))));
    bench.say(0, PORT_READY, 1);
    assert_eq!(bench.hear(), [(0, CONSOLE_PORT, 1, vec![]), (0, PORT_OPEN, 1, vec![])]);
}

#[test]
fn a_device_of_one_place_is_for_a_console_and_knows_no_messages() {
    let mut bench = Bench::idle(1).start(0);
    assert_eq!(bench.device.features() & (F_MULTIPORT | F_SIZE), 0);
    assert_eq!(bench.device.queue_sizes().len(), 2);
    assert_eq!(bench.add_port(None, Some("a")), Err(PortError::Full(1)));
    assert_eq!(bench.add_port(None, None), Ok(0));
    bench.send(1, BUFFER, b"ab");
    assert_eq!((bench.used(1), bench.screen(0)), (Some(0), b"ab".to_vec()));
    assert!(bench.remove_port(0));
    bench.send(1, BUFFER, b"ab");
    assert_eq!(bench.used(1), Some(0), "it goes nowhere");
    let (few, most) = (Bench::places(2), Bench::idle(PORTS_MAX));
    assert_ne!(few.device.features() & F_MULTIPORT, 0);
    assert_eq!((few.device.config()[4], most.device.config()[4]), (2, 31));
    assert_eq!(most.device.queue_sizes().len(), 64);
}

#[test]
fn a_port_that_went_unnoticed_goes_when_its_driver_asks_for_it() {
    let mut bench = Bench::places(3);
    bench.add_port(None, Some("agent")).unwrap();
    bench.hear();
    bench.say(1, PORT_READY, 1);
    bench.hear();
    bench.device.reset();
    bench.remove_port(1);
    bench.queues.iter().for_each(|queue| queue.stop());
    bench.alone.start(F_MULTIPORT);
    assert_eq!(bench.hear(), []);
    bench.say(1, PORT_READY, 1);
    let saved = bench.device.save();
    assert_eq!(bench.hear(), [(1, PORT_REMOVE, 1, vec![])]);
    assert_eq!(bench.hear(), []);
    // That it is still to be told is in a snapshot.
    let mut other = Bench::idle(3);
    other.device.restore(&saved).unwrap();
    other.alone.start(F_MULTIPORT);
    assert_eq!(other.hear(), [(1, PORT_REMOVE, 1, vec![])]);
    let mut state = State::try_from(saved.decode::<SavedV2>().unwrap()).unwrap();
    state.ports[1].added = true;
    let impossible = Saved::encode(&SavedV2::from(&state));
    assert!(matches!(other.device.restore(&impossible), Err(StateError::Inconsistent { .. })));
}
