//! The other end of the stream plays tricks.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use trapline_guestmem::GuestMem;
use trapline_testkit::event_loop;

use super::*;
use crate::PACKET_MAX;

/// A card that notes what it is told.
#[derive(Default)]
struct Card(Mutex<Vec<&'static str>>);

impl NetCard for Card {
    fn ready(&self, _pair: u16) {
        self.0.lock().push("ready");
    }

    fn room(&self, _pair: u16) {
        self.0.lock().push("room");
    }

    fn link_changed(&self) {
        self.0.lock().push("link");
    }
}

struct Scene {
    /// One turn of the event loop.
    turn: Box<dyn Fn()>,
    stream: Arc<FrameStream>,
    card: Arc<Card>,
    other: UnixStream,
    mem: GuestMem,
}

impl Scene {
    fn new() -> Self {
        let (ours, other) = UnixStream::pair().unwrap();
        let event_loop = event_loop();
        let stream = FrameStream::new(ours.into(), &*event_loop).unwrap();
        let card = Arc::<Card>::default();
        let weak: Weak<Card> = Arc::downgrade(&card);
        stream.attach(weak);
        let mem = GuestMem::new(&[(0, 0x10_0000)]).unwrap();
        let turn = Box::new(move || {
            event_loop.turn();
        });
        Self { turn, stream, card, other, mem }
    }

    fn told(&self) -> Vec<&'static str> {
        (self.turn)();
        std::mem::take(&mut *self.card.0.lock())
    }

    fn send(&self, len: usize) -> io::Result<()> {
        let mut frame = Buffers::new(&self.mem);
        frame.push(0x100, len).unwrap();
        self.stream.send(0, &Header::default(), &mut frame)
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buf = vec![0xee; PACKET_MAX];
        let len = self.stream.receive(0, &mut buf)?;
        assert_eq!(buf[..HEADER_LEN], [0; HEADER_LEN]);
        Ok(buf[HEADER_LEN..len].to_vec())
    }

    fn is_dry(&self) -> bool {
        self.receive().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

#[test]
fn frames_come_whole_however_they_are_cut() {
    let mut scene = Scene::new();
    assert!(scene.is_dry());
    scene.other.write_all(&[0, 0]).unwrap();
    assert_eq!(scene.told(), [""; 0], "nobody waits");
    scene.stream.set_receiving(0, true);
    assert_eq!(scene.told(), ["ready"]);
    assert!(scene.is_dry());
    scene.other.write_all(&[0, 3, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap();
    assert_eq!(scene.receive().unwrap(), [1, 2, 3]);
    assert_eq!(scene.receive().unwrap(), [0; 0]);
    assert!(scene.is_dry());
    scene.other.write_all(&[9]).unwrap();
    assert_eq!(scene.receive().unwrap(), [9]);
    let longest = u32::try_from(FRAME_MAX).unwrap();
    let big = [&longest.to_be_bytes()[..], &vec![7; FRAME_MAX]].concat();
    let mut other = scene.other.try_clone().unwrap();
    let writer = std::thread::spawn(move || other.write_all(&big).unwrap());
    let frame = std::iter::repeat_with(|| scene.receive()).find_map(Result::ok).unwrap();
    assert_eq!(frame, vec![7; FRAME_MAX]);
    writer.join().unwrap();
}

#[test]
fn frames_go_behind_their_length_and_wait_for_room() {
    let mut scene = Scene::new();
    scene.mem.write(0x100, &[1, 2, 3]).unwrap();
    scene.send(3).unwrap();
    let mut bytes = [0; 7];
    scene.other.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [0, 0, 0, 3, 1, 2, 3]);
    assert_eq!(scene.send(FRAME_MAX + 1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let mut sent = 0;
    while scene.send(60_000).is_ok() {
        sent += 1;
    }
    assert_eq!(scene.send(3).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(scene.told(), [""; 0], "there is no room yet");
    let mut bytes = vec![0; 60_004 * sent];
    let mut got = 0;
    let mut told = Vec::new();
    scene.other.set_nonblocking(true).unwrap();
    while got < bytes.len() {
        got += scene.other.read(&mut bytes[got..]).unwrap_or(0);
        told.extend(scene.told());
    }
    assert_eq!(told, ["room"]);
    for frame in bytes.chunks(60_004) {
        assert_eq!((&frame[..7], frame.len()), (&[0, 0, 0xea, 0x60, 1, 2, 3][..], 60_004));
    }
    scene.send(3).unwrap();
}

#[test]
fn who_has_gone_or_makes_no_sense_takes_the_link_down() {
    let scene = Scene::new();
    scene.stream.set_receiving(0, true);
    scene.other.shutdown(std::net::Shutdown::Both).unwrap();
    (scene.turn)();
    assert!(scene.stream.has_link(), "nobody has looked");
    assert!(scene.is_dry() && !scene.stream.has_link());
    assert_eq!(scene.told(), ["ready", "ready", "link"]);
    assert_eq!(scene.told(), [""; 0], "and is left alone");
    assert_eq!(scene.send(3).unwrap_err().kind(), io::ErrorKind::NotConnected);
    let mut scene = Scene::new();
    scene.other.write_all(&[0, 2, 0, 0, 1]).unwrap();
    assert!(scene.is_dry() && !scene.stream.has_link());
}
