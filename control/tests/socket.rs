//! The socket as clients have it: those of ours, and those that stall, lie, or are too many.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use trapline_control::{
    AskError, Client, Endpoint, Folder, GuestName, Method, Refusal, Routes, Server,
};

/// Far more than anything here takes.
const LONG: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Number {
    value: u64,
}

/// Doubles a number.
struct Double;
impl Endpoint for Double {
    const METHOD: Method = Method::Put;
    const PATH: &'static str = "/double";
    type Request = Number;
    type Answer = Number;
}

/// Answers when the test lets it.
struct Wait;
impl Endpoint for Wait {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/wait";
    type Request = ();
    type Answer = ();
}

/// Counts up from a number.
struct Count;
impl Endpoint for Count {
    const METHOD: Method = Method::Put;
    const PATH: &'static str = "/count";
    type Request = Number;
    type Answer = Number;
}

struct Guest {
    _parent: TempDir,
    folder: Folder,
    name: GuestName,
    server: Option<Server>,
    /// Says that a `Wait` has begun.
    begun: Receiver<()>,
    /// Lets it be answered.
    answer: SyncSender<()>,
    /// Nobody reads the lines of `Count` any more.
    counted: Arc<AtomicBool>,
    /// How often `Double` was asked.
    doubled: Arc<AtomicU64>,
}

impl Guest {
    fn start() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::at(&parent.path().join("trapline")).unwrap();
        let name = GuestName::new("one").unwrap();
        let (begin, begun) = sync_channel(1000);
        let (answer, answered) = sync_channel::<()>(1000);
        let answered = Mutex::new(answered);
        let counted = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&counted);
        let doubled = Arc::<AtomicU64>::default();
        let doubling = Arc::clone(&doubled);
        let routes = Routes::default()
            .serve::<Double>(move |number| {
                doubling.fetch_add(1, Ordering::SeqCst);
                match number.value.checked_mul(2) {
                    Some(value) => Ok(Number { value }),
                    None => Err(Refusal::conflict("that is too much")),
                }
            })
            .serve::<Wait>(move |()| {
                begin.send(()).map_err(Refusal::failed)?;
                answered.lock().recv_timeout(LONG).map_err(Refusal::failed)
            })
            .serve_lines::<Count, _>(move |from| {
                let over = Arc::clone(&over);
                Ok(move |lines: &mut trapline_control::Lines<'_>| {
                    let mut counting = || {
                        for value in from.value.. {
                            lines.json(&Number { value })?;
                            lines.wait(Duration::from_millis(1))?;
                        }
                        Ok(())
                    };
                    let result = counting();
                    over.store(true, Ordering::SeqCst);
                    result
                })
            })
            .serve_text("/text", "text/plain", || "text\n".to_owned());
        let server = Some(folder.claim(&name).unwrap().serve(routes).unwrap());
        Self { _parent: parent, folder, name, server, begun, answer, counted, doubled }
    }

    fn client(&self) -> Client {
        Client::connect(&self.folder, &self.name).unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(format!("{}.sock", self.name))
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// What comes back of some bytes, up to the end of the connection.
    fn told(&self, bytes: &[u8]) -> String {
        let mut stream = self.raw();
        // It may be closed before all is written.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut told = Vec::new();
        let _ = stream.read_to_end(&mut told);
        String::from_utf8(told).unwrap()
    }

    fn doubles(&self) {
        assert_eq!(self.client().ask::<Double>(&Number { value: 21 }).unwrap().value, 42);
    }
}

const HEAD: &str = "Host: localhost\r\nConnection: close\r\n";

#[test]
fn one_connection_has_several_requests() {
    let guest = Guest::start();
    let mut client = guest.client();
    for value in 0..10 {
        assert_eq!(client.ask::<Double>(&Number { value }).unwrap().value, 2 * value);
    }
    assert_eq!(client.text("/text").unwrap(), "text\n");
    let refused = client.ask::<Double>(&Number { value: u64::MAX }).unwrap_err();
    assert_eq!(refused.to_string(), "that is too much");
    assert!(matches!(refused, AskError::Refused { code: 409, .. }));
    // And goes on.
    assert_eq!(client.ask::<Double>(&Number { value: 4 }).unwrap().value, 8);
    assert!(matches!(client.text("/nothing"), Err(AskError::Refused { code: 404, .. })));
}

#[test]
fn what_goes_over_the_wire_is_http() {
    let guest = Guest::start();
    let told = guest.told(format!("GET /text HTTP/1.1\r\n{HEAD}\r\n").as_bytes());
    let wanted = "HTTP/1.1 200 OK\r\nServer: trapline\r\nContent-Type: text/plain\r\n\
                  Content-Length: 5\r\nConnection: close\r\n\r\ntext\n";
    assert_eq!(told, wanted);
    let told = guest.told(format!("POST /double HTTP/1.1\r\n{HEAD}\r\n").as_bytes());
    assert!(told.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{told}");
    assert!(told.contains("\r\nAllow: PUT\r\n"), "{told}");
    assert!(told.ends_with("{\"fault_message\":\"/double has no POST\"}"), "{told}");
    // Two at once, the first of HTTP/1.0 that stays.
    let two = format!(
        "GET /text HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /text HTTP/1.1\r\n{HEAD}\r\n"
    );
    assert_eq!(guest.told(two.as_bytes()).matches("\r\n\r\ntext\n").count(), 2);
    let expects =
        format!("PUT /double HTTP/1.1\r\n{HEAD}Expect: 100-continue\r\nContent-Length: 11\r\n\r\n");
    let mut stream = guest.raw();
    stream.write_all(expects.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{\"value\":3}").unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    assert!(told.ends_with("{\"value\":6}"), "{told}");
}

#[test]
fn a_request_that_lies_is_refused_and_others_are_answered() {
    let guest = Guest::start();
    let head = |field: &str| format!("PUT /double HTTP/1.1\r\n{HEAD}{field}\r\n\r\n");
    let many: String = (0..40).map(|n| format!("X-{n}: 1\r\n")).collect();
    let cases = [
        (400, "nonsense\r\n\r\n".to_owned()),
        (400, "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".to_owned()),
        (505, "GET / HTTP/2.0\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        (400, format!("GET http://localhost/text HTTP/1.1\r\n{HEAD}\r\n")),
        (400, format!("GET /text?x=1 HTTP/1.1\r\n{HEAD}\r\n")),
        (400, format!("GET /text HTTP/1.1\r\nHost: more\r\n{HEAD}\r\n")),
        (400, head("Content-Length: -1")),
        (400, head("Content-Length: 1,1")),
        (400, head("Content-Length: 3\r\nContent-Length: 4")),
        (413, head("Content-Length: 65537")),
        (413, head("Content-Length: 99999999999999999999999999")),
        (411, head("Transfer-Encoding: chunked")),
        (431, format!("GET /text HTTP/1.1\r\n{many}{HEAD}\r\n")),
        (431, format!("GET /{} HTTP/1.1\r\n", "x".repeat(9000))),
        (400, format!("{}{{", head("Content-Length: 1"))),
        (400, format!("{}\u{ff}\u{ff}", head("Content-Length: 2"))),
    ];
    for (code, request) in cases {
        let told = guest.told(request.as_bytes());
        assert!(told.starts_with(&format!("HTTP/1.1 {code} ")), "{request:?}: {told}");
        assert!(told.contains("{\"fault_message\":\""), "{told}");
        guest.doubles();
    }
    // What has no end is no request.
    assert_eq!(guest.told(b"GET / HTTP/1.1\r\n"), "");
    assert_eq!(guest.told(head("Content-Length: 5").as_bytes()), "");
    guest.doubles();
}

#[test]
fn clients_that_say_nothing_keep_nobody_else_waiting() {
    let guest = Guest::start();
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = guest.raw();
        let _ = stream.write_all(b"GET /te");
        silent.push(stream);
    }
    let asked = Instant::now();
    guest.doubles();
    assert!(asked.elapsed() < LONG);
    // Those who were there first were turned out.
    let mut byte = [0];
    assert!(matches!(silent.first_mut().unwrap().read(&mut byte), Ok(0) | Err(_)));
}

/// Whoever thinks for long before it asks hears nothing of that its place was taken meanwhile.
#[test]
fn a_client_that_was_turned_out_before_it_asked_is_answered() {
    let guest = Guest::start();
    let (mut asking, mut asked_before, mut counting) =
        (guest.client(), guest.client(), guest.client());
    assert_eq!(asked_before.ask::<Double>(&Number { value: 1 }).unwrap().value, 2);
    let mut others: Vec<_> = (0..100).map(|_| guest.raw()).collect();
    // The first of those has been turned out, and so have those who were there before.
    assert_eq!(others[0].read(&mut [0]).unwrap(), 0);
    assert_eq!(asking.ask::<Double>(&Number { value: 3 }).unwrap().value, 6);
    assert_eq!(asked_before.ask::<Double>(&Number { value: 4 }).unwrap().value, 8);
    let mut seen = Vec::new();
    let counted = counting.lines::<Count>(&Number { value: 7 }, |number| {
        seen.push(number.value);
        false
    });
    counted.unwrap();
    assert_eq!(seen, [7]);
}

/// What came just before nobody waits for it any more is answered: only what was not read may be sent
/// again.
#[test]
fn each_request_is_answered_once_however_clients_are_turned_out() {
    let guest = Guest::start();
    let path = guest.socket();
    std::thread::scope(|scope| {
        let crowd = scope.spawn(move || {
            let mut there = VecDeque::new();
            for _ in 0..500 {
                there.push_back(UnixStream::connect(&path).unwrap());
                there.drain(..there.len().saturating_sub(50));
            }
        });
        for value in 0..200 {
            let mut client = guest.client();
            assert_eq!(client.ask::<Double>(&Number { value }).unwrap().value, 2 * value);
            assert_eq!(client.ask::<Double>(&Number { value }).unwrap().value, 2 * value);
        }
        crowd.join().unwrap();
    });
    assert_eq!(guest.doubled.load(Ordering::SeqCst), 400);
}

#[test]
fn an_answer_that_takes_its_time_is_not_cut_off_by_others() {
    let guest = Guest::start();
    std::thread::scope(|scope| {
        let mut client = guest.client();
        let waiting = scope.spawn(move || client.ask::<Wait>(&()));
        guest.begun.recv_timeout(LONG).unwrap();
        let silent: Vec<_> = (0..100).map(|_| guest.raw()).collect();
        guest.doubles();
        guest.answer.send(()).unwrap();
        waiting.join().unwrap().unwrap();
        drop(silent);
    });
}

#[test]
fn more_clients_than_there_is_room_for_are_told_so() {
    let guest = Guest::start();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..32)
            .map(|_| guest.client())
            .map(|mut client| scope.spawn(move || client.ask::<Wait>(&())))
            .collect();
        (0..32).for_each(|_| guest.begun.recv_timeout(LONG).unwrap());
        let mut client = guest.client();
        let refused = client.ask::<Double>(&Number { value: 1 }).unwrap_err();
        // Whether it has sent its request by then or not.
        assert!(matches!(refused, AskError::Refused { code: 503, .. }), "{refused}");
        (0..32).for_each(|_| guest.answer.send(()).unwrap());
        waiting.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    });
    guest.doubles();
}

#[test]
fn lines_come_until_the_client_has_enough() {
    let guest = Guest::start();
    let mut seen = Vec::new();
    guest
        .client()
        .lines::<Count>(&Number { value: 7 }, |number| {
            seen.push(number.value);
            seen.len() < 5
        })
        .unwrap();
    assert_eq!(seen, [7, 8, 9, 10, 11]);
    let asked = Instant::now();
    while !guest.counted.load(Ordering::SeqCst) {
        assert!(asked.elapsed() < LONG, "it counts although nobody reads");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn who_gets_lines_leaves_room_for_who_asks() {
    let guest = Guest::start();
    let request = format!("PUT /count HTTP/1.1\r\n{HEAD}Content-Length: 11\r\n\r\n{{\"value\":0}}");
    let mut first_lines = Vec::new();
    for _ in 0..20 {
        let mut stream = guest.raw();
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        first_lines.push((String::from_utf8(head.to_vec()).unwrap(), stream));
    }
    let given = first_lines.iter().filter(|(head, _)| head == "HTTP/1.1 200").count();
    let refused = first_lines.iter().filter(|(head, _)| head == "HTTP/1.1 503").count();
    assert_eq!((given, refused), (16, 4));
    guest.doubles();
}

#[test]
fn the_end_does_not_wait_for_clients_and_finishes_what_is_asked() {
    let mut guest = Guest::start();
    let mut idle = guest.raw();
    let mut lines = guest.raw();
    let request = "PUT /count HTTP/1.0\r\nContent-Length: 11\r\n\r\n{\"value\":0}";
    lines.write_all(request.as_bytes()).unwrap();
    lines.read_exact(&mut [0; 12]).unwrap();
    let server = guest.server.take().unwrap();
    std::thread::scope(|scope| {
        let mut client = guest.client();
        let waiting = scope.spawn(move || client.ask::<Wait>(&()));
        guest.begun.recv_timeout(LONG).unwrap();
        let ending = scope.spawn(|| drop(server));
        assert_eq!(idle.read(&mut [0]).unwrap(), 0);
        io::copy(&mut lines, &mut io::sink()).unwrap();
        guest.answer.send(()).unwrap();
        waiting.join().unwrap().unwrap();
        ending.join().unwrap();
    });
    assert_eq!(guest.folder.names().unwrap(), []);
    let gone = Client::connect(&guest.folder, &guest.name).unwrap_err();
    assert_eq!(gone.to_string(), "no guest called one is running");
}

#[test]
fn a_client_hears_of_the_end() {
    let mut guest = Guest::start();
    let mut client = guest.client();
    client.text("/text").unwrap();
    guest.server.take();
    assert!(client.wait_for_end(LONG));
    assert!(matches!(client.text("/text"), Err(AskError::NoGuest(_) | AskError::Ended(_))));
}
