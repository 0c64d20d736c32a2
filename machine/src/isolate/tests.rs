#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use parking_lot::Mutex;
use trapline_backends::{NoQueuedWrites, PolledLoop};
use trapline_device::{CharBackend, CharDevice, Line, LineSink, Power, PowerEvent, Saved};
use trapline_remote::Ends;
use trapline_testkit::TestClock;

use super::kind::Kind;
use super::processes::Notice;
use super::proxy::{Connections, DEVICE_ROOM, Isolated, ROOM};
use super::wires::{CHARACTERS_MAX, FromDevice, ToDevice, Wires};
use crate::remote::OnDeath;

#[derive(Default)]
struct Host {
    levels: Mutex<Vec<bool>>,
    resets: Mutex<u32>,
    taken: Mutex<Vec<u8>>,
    /// How many characters more it takes.
    room: Mutex<usize>,
    typed: Mutex<Vec<u8>>,
}

struct Sink(Arc<Host>);

impl LineSink for Sink {
    fn set_level(&self, level: bool) {
        self.0.levels.lock().push(level);
    }
}

impl Power for Host {
    fn request(&self, _event: PowerEvent, _device: &'static str) {
        *self.resets.lock() += 1;
    }
}

impl CharBackend for Host {
    fn transmit(&self, data: &[u8]) -> usize {
        let mut room = self.room.lock();
        let len = data.len().min(*room);
        *room -= len;
        self.taken.lock().extend(&data[..len]);
        len
    }

    fn receive(&self, buf: &mut [u8]) -> usize {
        let mut typed = self.typed.lock();
        let len = buf.len().min(typed.len());
        buf[..len].copy_from_slice(&typed[..len]);
        typed.drain(..len);
        len
    }
}

/// A device here whose process is this test.
struct Bench {
    host: Arc<Host>,
    device: Arc<Isolated>,
    notices: Receiver<Notice>,
    theirs: Wires,
    _accesses: std::os::fd::OwnedFd,
}

impl Bench {
    fn new(kind: Kind) -> Self {
        let host = Arc::<Host>::default();
        let connections = Connections {
            lines: (0..kind.lines()).map(|_| Line::new(Sink(Arc::clone(&host)))).collect(),
            backend: host.clone(),
            power: host.clone(),
            clock: Arc::new(TestClock::default()),
            event_loop: PolledLoop::new(NoQueuedWrites).unwrap(),
        };
        let (notice, notices) = channel();
        let device = Isolated::new((0, "device", kind), connections, (notice, OnDeath::Reconnect));
        let [ours, accesses] = Wires::pair().unwrap();
        let [wires, theirs] = Wires::pair().unwrap();
        device.install(Ends::socket(ours).unwrap(), Wires::new(wires)).unwrap();
        Self { host, device, notices, theirs: Wires::new(theirs), _accesses: accesses }
    }

    fn say(&self, message: &FromDevice) {
        assert!(self.theirs.send(message).unwrap());
        self.device.hear();
    }

    fn is_gone(&self) -> bool {
        matches!(self.notices.try_recv(), Ok(Notice::Gone { .. }))
    }
}

const RTC: Kind = Kind::Rtc { below_4g: 0, above_4g: 0, cpus: 1 };

#[test]
fn a_process_that_says_what_no_device_says_is_not_listened_to_any_more() {
    let characters = |len: usize| FromDevice::Characters(vec![0; len]);
    for (kind, message) in [
        (RTC, FromDevice::Level { line: 1, high: true }),
        (RTC, FromDevice::PowerReset),
        (Kind::Uart, FromDevice::Ready { landlock: true }),
        (Kind::Uart, FromDevice::Failed("\x1b[2J".to_owned())),
        (Kind::Uart, FromDevice::Room(1)),
        (Kind::Uart, FromDevice::Room(usize::MAX)),
        (Kind::Uart, characters(CHARACTERS_MAX + 1)),
    ] {
        let bench = Bench::new(kind);
        bench.say(&FromDevice::Level { line: 0, high: true });
        bench.say(&message);
        assert!(bench.is_gone(), "{message:?}");
        // It holds no line, and nobody hears what it says next.
        assert_eq!(*bench.host.levels.lock(), [true, false], "{message:?}");
        assert!(bench.theirs.send(&FromDevice::Level { line: 0, high: true }).is_err());
        bench.device.hear();
        assert_eq!((bench.host.levels.lock().len(), *bench.host.resets.lock()), (2, 0));
        assert!(!bench.is_gone(), "it is said once");
    }
}

#[test]
fn a_process_sends_no_more_characters_than_there_is_room_for() {
    let bench = Bench::new(Kind::Uart);
    let part = FromDevice::Characters(vec![b'x'; CHARACTERS_MAX]);
    for _ in 0..ROOM / CHARACTERS_MAX {
        bench.say(&part);
    }
    assert!(!bench.is_gone());
    bench.say(&FromDevice::Characters(vec![b'x']));
    assert!(bench.is_gone());
}

#[test]
fn room_is_given_back_when_the_back_end_has_taken_half() {
    let bench = Bench::new(Kind::Uart);
    bench.say(&FromDevice::Characters(vec![b'x'; CHARACTERS_MAX]));
    *bench.host.room.lock() = ROOM / 2 - 1;
    bench.device.poll();
    assert!(bench.theirs.receive::<ToDevice>().unwrap().is_none());
    *bench.host.room.lock() = 1;
    bench.device.poll();
    let told = bench.theirs.receive().unwrap();
    assert!(matches!(told, Some(ToDevice::Room(room)) if room == ROOM / 2), "{told:?}");
    assert_eq!(bench.host.taken.lock().len(), ROOM / 2);
}

#[test]
fn a_process_is_sent_no_more_characters_than_it_has_room_for() {
    let bench = Bench::new(Kind::Uart);
    bench.host.typed.lock().extend((0..200).map(|n: u8| n));
    bench.device.poll();
    let mut got = Vec::new();
    let mut take = || {
        while let Some(message) = bench.theirs.receive().unwrap() {
            let ToDevice::Characters(characters) = message else { panic!("{message:?}") };
            got.extend(characters);
        }
        got.len()
    };
    assert_eq!(take(), DEVICE_ROOM);
    bench.say(&FromDevice::Room(10));
    assert_eq!(take(), DEVICE_ROOM + 10);
    bench.say(&FromDevice::Room(DEVICE_ROOM));
    assert_eq!(take(), 2 * DEVICE_ROOM + 10);
    assert_eq!(got, (0..138).collect::<Vec<u8>>());
}

#[test]
fn messages_wait_for_room_and_keys_are_lost_before_anything_else() {
    use trapline_display::Input;
    let bench = Bench::new(Kind::I8042);
    for _ in 0..2000 {
        bench.device.key(&[0x1c]);
    }
    bench.device.restore_soon(Saved { name: "i8042".into(), version: 2, bytes: Vec::new() });
    let (mut keys, mut states) = (0, 0);
    for _ in 0..10 {
        while let Some(message) = bench.theirs.receive::<ToDevice>().unwrap() {
            match message {
                ToDevice::Key(_) => keys += 1,
                ToDevice::State(_) => states += 1,
                other => panic!("{other:?}"),
            }
        }
        bench.device.hear();
    }
    assert!((256..2000).contains(&keys), "{keys}");
    assert_eq!(states, 1);
}

#[test]
fn a_flood_of_messages_is_taken_in_pieces() {
    let bench = Bench::new(RTC);
    let mut sent = 0;
    while bench.theirs.send(&FromDevice::Level { line: 0, high: sent % 2 == 0 }).unwrap() {
        sent += 1;
    }
    bench.device.hear();
    assert_eq!(bench.host.levels.lock().len(), sent, "a socket holds less than one go takes");
}
