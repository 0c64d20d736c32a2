mod viewer;

use std::io::{Cursor, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proptest::prelude::*;
use trapline_guestmem::GuestMem;

use super::pixel::{Converter, PixelFormat};
use super::{Server, wire, zrle};
use crate::screen::Written;
use crate::{Input, Mode, NoInput, Rect, Screen};
use viewer::{Viewer, inflate, unpack};

/// How long anything may take. It is only ever used up by a failure.
const PATIENCE: Duration = Duration::from_secs(600);

/// Writes down what is typed.
#[derive(Default)]
struct Log {
    codes: Mutex<Vec<u8>>,
    moves: Mutex<Vec<(i32, i32, u8)>>,
}

impl Input for Log {
    fn key(&self, set2: &[u8]) {
        self.codes.lock().extend(set2);
    }

    fn movement(&self, dx: i32, dy: i32, buttons: u8) {
        self.moves.lock().push((dx, dy, buttons));
    }
}

struct Bench {
    frame: GuestMem,
    stride: u64,
    server: Server,
}

fn bench_with(input: Arc<dyn Input>, mode: Mode) -> Bench {
    let frame = GuestMem::new(&[(0, mode.memory_len().into())]).unwrap();
    let screen = Arc::new(Screen::new(mode, frame.clone(), Written::to(&frame)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start(listener, "the guest", screen, input).unwrap();
    Bench { frame, stride: mode.stride() as u64, server }
}

fn bench() -> Bench {
    bench_with(Arc::new(NoInput), Mode::new(200, 100).unwrap())
}

impl Bench {
    fn draw(&self, x: u64, y: u64, colour: u32) {
        self.frame.write(y * self.stride + x * 4, &colour.to_le_bytes()).unwrap();
    }

    fn viewer(&self) -> Viewer {
        Viewer::connect(self.server.address(), 8, true)
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn viewers_of_every_version_learn_the_screens_size_and_name() {
    let bench = bench();
    // 3.5 counts as 3.3, and what comes after 3.8 as 3.8.
    for minor in [3, 7, 8, 255] {
        let mut viewer = Viewer::connect(bench.server.address(), minor, true);
        assert_eq!((viewer.size, viewer.name.as_str()), ((200, 100), "the guest"));
        assert_eq!(viewer.look(false)[0].rect, Rect { x: 0, y: 0, width: 200, height: 100 });
    }
}

#[test]
fn what_is_no_viewer_is_shown_out() {
    let bench = bench();
    for greeting in ["GET / HTTP/1.1\r\n\r\n", "RFB 004.000\n", "RFB 003.xyz\n"] {
        let mut stream = TcpStream::connect(bench.server.address()).unwrap();
        stream.write_all(greeting.as_bytes()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert_eq!(said, b"RFB 003.008\n");
    }
    until("they are gone", || bench.server.viewers() == 0);
}

#[test]
fn a_security_type_we_lack_is_refused_with_a_reason() {
    let bench = bench();
    let mut stream = TcpStream::connect(bench.server.address()).unwrap();
    stream.write_all(b"RFB 003.008\n\x02").unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    assert_eq!(said[12..18], [1, 1, 0, 0, 0, 1]);
    assert!(said.ends_with(b"no such security type here"));
}

#[test]
fn the_whole_picture_comes_first_and_then_only_what_is_drawn() {
    let bench = bench();
    bench.draw(3, 2, 0xcc_66_33);
    let mut viewer = bench.viewer();
    // Even when asked for changes only.
    let first = viewer.look(true);
    assert_eq!((first.len(), first[0].pixels.len()), (1, 200 * 100));
    assert_eq!(first[0].pixels[2 * 200 + 3], [0x33, 0x66, 0xcc, 0]);
    bench.draw(199, 99, 0xff);
    let next = viewer.look(true);
    assert_eq!(next[0].rect, Rect { x: 192, y: 96, width: 8, height: 4 });
    assert_eq!(next[0].pixels.last().unwrap(), &[0xff, 0, 0, 0]);
}

#[test]
fn a_request_for_changes_waits_until_there_are_some() {
    let bench = bench();
    let mut viewer = bench.viewer();
    viewer.look(false);
    viewer.ask(true, Rect { x: 0, y: 0, width: 200, height: 100 });
    std::thread::sleep(Duration::from_millis(80));
    bench.draw(0, 0, 1);
    assert_eq!(viewer.update()[0].rect, Rect { x: 0, y: 0, width: 16, height: 16 });
}

#[test]
fn a_request_for_nothing_on_the_screen_gets_an_empty_answer() {
    let bench = bench();
    let mut viewer = bench.viewer();
    viewer.ask(false, Rect { x: 300, y: 0, width: 5, height: 5 });
    assert_eq!(viewer.update(), []);
}

#[test]
fn pixels_come_in_the_viewers_format() {
    let bench = bench();
    bench.draw(0, 0, 0xff_00_ff);
    let mut viewer = bench.viewer();
    // 16 bits, big endian, 5-6-5.
    viewer.set_format([16, 16, 1, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0], (2, 2));
    assert_eq!(viewer.look(false)[0].pixels[0], 0xf81f_u16.to_be_bytes());
    // 8 bits: blue, green, red.
    viewer.set_format([8, 8, 0, 1, 0, 7, 0, 7, 0, 3, 0, 3, 6, 0, 0, 0], (1, 1));
    assert_eq!(viewer.look(false)[0].pixels[0], [7 | 3 << 6]);
}

#[test]
fn zrle_shows_the_same_as_raw_over_many_updates() {
    let bench = bench();
    let (mut raw, mut zrle) = (bench.viewer(), bench.viewer());
    zrle.set_encodings(&[7, 16, 0, -239]);
    for round in 0..6u64 {
        for i in 0..200 {
            bench.draw(i * (round + 1) % 200, i % 100, u32::try_from(i * round * 77).unwrap());
        }
        let (a, b) = (raw.look(false), zrle.look(false));
        assert_eq!((a[0].encoding, b[0].encoding), (0, 16));
        let shown: Vec<&[u8]> = a[0].pixels.iter().map(|pixel| &pixel[..3]).collect();
        assert_eq!(b[0].pixels, shown);
    }
}

#[test]
fn keys_arrive_as_scan_codes_and_are_let_go_at_the_end() {
    let log = Arc::<Log>::default();
    let bench = bench_with(log.clone(), Mode::VESA);
    let mut viewer = bench.viewer();
    viewer.key(true, 0xffe1); // shift
    viewer.key(true, b'A'.into());
    viewer.key(false, b'A'.into());
    viewer.key(false, b'A'.into());
    viewer.key(true, 0xff52); // up
    viewer.key(true, 0x0001_0000);
    drop(viewer);
    let mut wanted = vec![0x12, 0x1c, 0xf0, 0x1c, 0xe0, 0x75, 0xf0, 0x12, 0xe0, 0xf0, 0x75];
    until("the keys are up", || log.codes.lock().len() == wanted.len());
    let mut codes = log.codes.lock().clone();
    // In which order the keys come up does not matter.
    codes[6..].sort_unstable();
    wanted[6..].sort_unstable();
    assert_eq!(codes, wanted);
}

#[test]
fn the_pointer_moves_by_as_much_as_the_viewers() {
    let log = Arc::<Log>::default();
    let bench = bench_with(log.clone(), Mode::VESA);
    let mut viewer = bench.viewer();
    viewer.pointer(0, 100, 100);
    viewer.pointer(1, 110, 95);
    viewer.pointer(0b110, 0, 95);
    viewer.say(&[&[6, 0, 0, 0, 0, 0, 0, 3][..], b"cut"].concat());
    viewer.pointer(1, 0, 95);
    drop(viewer);
    // Right is positive, up too; the buttons are left, right, middle.
    let wanted = [(0, 0, 0), (10, 5, 1), (-110, 0, 0b110), (0, 0, 1), (0, 0, 0)];
    until("the button is up", || log.moves.lock().len() == wanted.len());
    assert_eq!(*log.moves.lock(), wanted);
}

#[test]
fn a_viewer_who_does_not_read_holds_up_nobody() {
    let bench = bench_with(Arc::new(NoInput), Mode::new(2000, 1000).unwrap());
    let mut lazy = bench.viewer();
    let mut viewer = bench.viewer();
    for _ in 0..20 {
        lazy.ask(false, Rect { x: 0, y: 0, width: 2000, height: 1000 });
        std::thread::sleep(Duration::from_millis(2));
    }
    viewer.look(false);
    for i in 0..5 {
        bench.draw(i, 0, 1);
        assert_eq!(viewer.look(true).len(), 1);
    }
    let start = Instant::now();
    drop(bench);
    // Well below what a viewer may take to read.
    assert!(start.elapsed() < Duration::from_secs(25), "the end waits for nobody either");
}

/// Whether it says goodbye, goes with its answer unread, or listens on without speaking.
#[test]
fn a_viewer_who_goes_while_it_is_written_to_takes_nobody_along() {
    let bench = bench_with(Arc::new(NoInput), Mode::new(2000, 1000).unwrap());
    let mut other = bench.viewer();
    for round in 0..12 {
        let mut viewer = bench.viewer();
        viewer.ask(false, Rect { x: 0, y: 0, width: 2000, height: 1000 });
        match round % 3 {
            0 => drop(viewer),
            1 => {
                // The first bytes have come, more than a socket holds are on their way.
                viewer.stream.read_exact(&mut [0; 4]).unwrap();
                drop(viewer);
            }
            _ => {
                viewer.stream.shutdown(std::net::Shutdown::Write).unwrap();
                // What was sent before may come still, and then the end.
                let end = viewer.stream.read_to_end(&mut Vec::new()).map_err(|e| e.kind());
                assert!(matches!(end, Ok(_) | Err(ErrorKind::ConnectionReset)), "{end:?}");
            }
        }
        bench.draw(round, 0, 1);
        other.look(false);
    }
    until("they are gone", || bench.server.viewers() == 1);
}

#[test]
fn a_viewer_who_does_not_share_is_alone() {
    let bench = bench();
    let mut first = bench.viewer();
    let mut second = Viewer::connect(bench.server.address(), 8, false);
    assert!(first.is_closed());
    second.look(false);
    until("one is left", || bench.server.viewers() == 1);
}

#[test]
fn there_is_a_limit_to_viewers() {
    let bench = bench();
    let _viewers: Vec<Viewer> = (0..16).map(|_| bench.viewer()).collect();
    let mut stream = TcpStream::connect(bench.server.address()).unwrap();
    assert!(matches!(stream.read(&mut [0; 12]), Ok(0) | Err(_)));
}

#[test]
fn the_end_closes_every_connection_and_the_port() {
    let bench = bench();
    let address = bench.server.address();
    let mut viewer = bench.viewer();
    let mut greeting = TcpStream::connect(address).unwrap();
    viewer.ask(true, Rect { x: 0, y: 0, width: 9, height: 9 });
    drop(bench);
    for stream in [&mut viewer.stream, &mut greeting] {
        // A connection whose last words were not read ends with a reset.
        let end = stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
        assert!(matches!(end, Ok(_) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    }
    assert!(TcpStream::connect(address).is_err());
}

proptest! {
    #[test]
    fn a_viewer_can_say_anything(said: Vec<u8>) {
        let len = said.len() as u64;
        let mut from = Cursor::new(said);
        while wire::read(&mut from).is_ok() {}
        prop_assert!(from.position() <= len);
    }

    #[test]
    fn messages_of_known_kinds_are_read_to_their_end(
        kind in prop::sample::select(vec![(2u8, 3usize), (3, 9), (4, 7), (5, 5), (6, 7)]),
        body: [u8; 32],
    ) {
        // Lists and texts without an entry.
        let mut message = vec![kind.0];
        message.extend(&body[..kind.1]);
        match kind.0 {
            2 => message[2..4].fill(0),
            6 => message[4..8].fill(0),
            _ => {}
        }
        let mut from = Cursor::new(message);
        prop_assert!(wire::read(&mut from).is_ok());
        prop_assert_eq!(from.position(), kind.1 as u64 + 1);
        prop_assert!(wire::read(&mut from).is_err());
    }

    #[test]
    fn zrle_gives_back_any_picture(
        width in 1usize..150, height in 1usize..100, colours in 1u32..40, seed: u64,
    ) {
        let converter = Converter::new(PixelFormat::NATIVE);
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            u32::try_from(state >> 33).unwrap() % colours * 0x10101
        };
        let mut encoder = zrle::Zrle::new();
        let mut stream = flate2::Decompress::new(true);
        for _ in 0..3 {
            let pixels: Vec<u32> = (0..width * height).map(|_| next()).collect();
            let mut sent = Vec::new();
            encoder.encode(&pixels, width, &converter, &mut sent);
            let (len, packed) = sent.split_at(4);
            prop_assert_eq!(u32::from_be_bytes(len.try_into().unwrap()) as usize, packed.len());
            let back = unpack(&inflate(&mut stream, packed), width, height, 3);
            let wanted: Vec<Vec<u8>> =
                pixels.iter().map(|pixel| pixel.to_le_bytes()[..3].to_vec()).collect();
            prop_assert_eq!(back, wanted);
        }
    }
}

#[test]
fn strangers_who_talk_nonsense_after_the_handshake_are_shown_out() {
    let bench = bench();
    for nonsense in [&[0xff_u8][..], &[1], &[0, 0, 0, 0, 24, 24, 0, 1]] {
        let mut viewer = bench.viewer();
        viewer.say(nonsense);
        viewer.say(&[0; 64]);
        assert!(viewer.is_closed());
    }
    bench.viewer().look(false);
}
