use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use super::*;
use crate::request::Request;

/// How long anything may take. It is only ever used up by a failure.
const PATIENCE: Duration = Duration::from_secs(600);

/// A serial port that sends what it is given and keeps what it gets.
struct Port {
    console: Arc<Console>,
    to_send: Mutex<Vec<u8>>,
    got: Mutex<Vec<u8>>,
    breaks: AtomicU32,
    deaf: AtomicBool,
}

impl Port {
    fn on(console: &Arc<Console>) -> Arc<Self> {
        let port = Arc::new(Self {
            console: Arc::clone(console),
            to_send: Mutex::default(),
            got: Mutex::default(),
            breaks: AtomicU32::new(0),
            deaf: AtomicBool::new(false),
        });
        let device: Arc<dyn CharDevice> = Arc::clone(&port) as _;
        console.attach(Arc::downgrade(&device));
        port
    }

    fn send(&self, data: &[u8]) {
        self.to_send.lock().extend(data);
        self.poll();
    }
}

impl CharDevice for Port {
    fn poll(&self) {
        let mut to_send = self.to_send.lock();
        let taken = self.console.transmit(&to_send);
        to_send.drain(..taken);
        drop(to_send);
        // Like a real port, one caller at a time: two would mix up the order of what they take.
        let mut got = self.got.lock();
        let mut buf = [0; 64];
        while !self.deaf.load(Ordering::Relaxed) {
            match self.console.receive(&mut buf) {
                0 => break,
                count => got.extend(&buf[..count]),
            }
        }
    }

    fn receive_break(&self) {
        self.breaks.fetch_add(1, Ordering::Relaxed);
    }
}

fn requests() -> (Requests, Arc<Mutex<Vec<Request>>>) {
    let requests = Requests::default();
    let log = Arc::new(Mutex::new(Vec::new()));
    let server_log = Arc::clone(&log);
    requests.serve(move |request| server_log.lock().push(request));
    (requests, log)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn nothing_typed() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

/// Bytes that tell when one is missing, doubled or out of place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

#[test]
fn what_the_guest_sent_is_written_before_the_end() {
    let (mut reader, writer) = io::pipe().unwrap();
    let console = Console::new(Requests::default(), None).unwrap();
    let port = Port::on(&console);
    port.send(b"before there is a terminal, ");
    console.start(Some(nothing_typed()), writer).unwrap();
    port.send(b"and after\r\n");
    assert!(console.close(PATIENCE));
    drop((console, port));
    let mut seen = String::new();
    reader.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "before there is a terminal, and after\r\n");
}

#[test]
fn a_reader_that_stalls_turns_the_guest_away_and_loses_nothing() {
    let (mut reader, writer) = io::pipe().unwrap();
    let console = Console::new(Requests::default(), None).unwrap();
    let port = Port::on(&console);
    console.start(Some(nothing_typed()), writer).unwrap();
    let sent = pattern(1 << 20);
    let start = Instant::now();
    port.send(&sent);
    assert!(start.elapsed() < PATIENCE, "the guest does not wait for the reader");
    assert!(!port.to_send.lock().is_empty(), "a pipe and two queues do not hold a mebibyte");
    let mut seen = vec![0; sent.len()];
    reader.read_exact(&mut seen).unwrap();
    assert!(seen == sent, "in order");
    assert!(console.close(PATIENCE));
}

#[test]
fn a_reader_that_never_reads_again_does_not_hold_up_the_end_for_ever() {
    let (_reader, writer) = io::pipe().unwrap();
    let console = Console::new(Requests::default(), None).unwrap();
    let port = Port::on(&console);
    console.start(Some(nothing_typed()), writer).unwrap();
    port.send(&pattern(1 << 20));
    assert!(!console.close(Duration::from_millis(50)));
}

#[test]
fn a_closed_standard_output_is_reported_once_and_swallows_the_rest() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let (requests, log) = requests();
    let console = Console::new(requests, None).unwrap();
    let port = Port::on(&console);
    console.start(Some(nothing_typed()), writer).unwrap();
    port.send(&pattern(1 << 20));
    until("the loss is reported", || !log.lock().is_empty());
    until("the guest can send again", || port.to_send.lock().is_empty());
    assert!(matches!(&log.lock()[..], [Request::OutputLost(why)] if why.contains("Broken pipe")));
    assert!(console.close(PATIENCE));
}

#[test]
fn what_is_typed_reaches_the_guest_and_commands_do_not() {
    let (typed, mut keyboard) = io::pipe().unwrap();
    let (requests, log) = requests();
    let console = Console::new(requests, None).unwrap();
    console.start(Some(typed), std::fs::File::create("/dev/null").unwrap()).unwrap();
    let port = Port::on(&console);
    keyboard.write_all(b"echo\x01\x01 hi\r\x01b\x01s\x01q\x01p\x01x").unwrap();
    until("all commands are obeyed", || log.lock().len() == 3);
    assert_eq!(*log.lock(), [Request::Statistics, Request::Pause, Request::Quit]);
    until("the text has arrived", || *port.got.lock() == b"echo\x01 hi\r");
    assert_eq!(port.breaks.load(Ordering::Relaxed), 1);
    assert!(console.close(PATIENCE));
}

#[test]
fn a_guest_that_does_not_read_holds_up_the_typist_and_loses_nothing() {
    let (typed, mut keyboard) = io::pipe().unwrap();
    let console = Console::new(Requests::default(), None).unwrap();
    let port = Port::on(&console);
    port.deaf.store(true, Ordering::Relaxed);
    console.start(Some(typed), std::fs::File::create("/dev/null").unwrap()).unwrap();
    let text: Vec<u8> = pattern(1 << 20).into_iter().map(|byte| byte | 0x80).collect();
    let sent = text.clone();
    let typist = std::thread::spawn(move || keyboard.write_all(&sent));
    until("the queue is full", || console.input.lock().room() == 0);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!typist.is_finished(), "a pipe and a queue do not hold a mebibyte");
    port.deaf.store(false, Ordering::Relaxed);
    port.poll();
    until("all of it has arrived", || port.got.lock().len() == text.len());
    assert!(*port.got.lock() == text, "in order");
    typist.join().unwrap().unwrap();
    assert!(console.close(PATIENCE));
}

#[test]
fn the_end_of_the_input_ends_nothing_else() {
    let (mut reader, writer) = io::pipe().unwrap();
    let (requests, log) = requests();
    let console = Console::new(requests, None).unwrap();
    let port = Port::on(&console);
    console.start(Some(nothing_typed()), writer).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    port.send(b"still here");
    let mut seen = [0; 10];
    reader.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"still here");
    assert!(log.lock().is_empty());
    assert!(console.close(PATIENCE));
}

#[test]
fn a_console_that_knows_no_breaks_gets_a_key_in_its_place() {
    let (reader, mut writer) = io::pipe().unwrap();
    let console = Console::new(Requests::default(), Some(0x0f)).unwrap();
    let port = Port::on(&console);
    console.start(Some(reader), nothing_typed()).unwrap();
    writer.write_all(b"a\x01bh").unwrap();
    until("the key has come", || *port.got.lock() == b"a\x0fh");
    assert_eq!(port.breaks.load(Ordering::Relaxed), 0);
    assert!(console.close(PATIENCE));
}
