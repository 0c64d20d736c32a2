//! The guest's end: a thread that waits for clients, and one for each that is there.
//!
//! An idle guest costs nothing: the first thread sleeps in `accept`, and there are no others.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::api::Fault;
use crate::endpoint::{Answer, JSON, Lines, Method, Refusal, Routes, Status, WriteLines};
use crate::folder::Entry;
use crate::http::{self, Connection, Head, Request};

/// Clients at a time. A new one takes the place of one that has been waited for the longest.
const CLIENTS_MAX: usize = 32;
/// Clients that get lines at a time, whose place nobody takes.
const LINES_MAX: usize = CLIENTS_MAX / 2;
/// How long a client may be silent before its first request.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client may be silent between requests.
const IDLE_PATIENCE: Duration = Duration::from_secs(60);
/// How long a request may take from its first byte to its last.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client may take to read an answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may take to read a line.
const LINE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the end waits for what is being answered.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a thread's stack.
const STACK_LEN: usize = 512 << 10;

/// Answers a guest's clients until it is dropped. On return from that the name is free, and nothing
/// that was asked is under way, unless it has not returned for two seconds.
///
/// A request has a head of 8 KiB with 32 fields and a body of 64 KiB at most, and 5 s to come whole; at
/// most 32 clients are there at a time. Where one more comes, the one that has been waited for the
/// longest has to go; those whose request is being answered stay.
#[derive(Debug)]
#[must_use = "dropping it ends it"]
pub struct Server {
    entry: Option<Entry>,
    listener: Arc<OwnedFd>,
    clients: Arc<Clients>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(listener: Arc<OwnedFd>, entry: Entry, routes: Routes) -> io::Result<Self> {
        let clients =
            Arc::new(Clients { routes, table: Mutex::default(), changed: Condvar::new() });
        let (accepting, admitting) = (Arc::clone(&listener), Arc::clone(&clients));
        let thread = Builder::new().name("control".into()).stack_size(STACK_LEN);
        let thread = thread.spawn(move || accept(&accepting, &admitting))?;
        Ok(Self { entry: Some(entry), listener, clients, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.clients.table.lock().closing = true;
        // Nobody new from here on.
        self.entry.take();
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.clients.end();
    }
}

fn accept(listener: &OwnedFd, clients: &Arc<Clients>) {
    let user = rustix::process::geteuid();
    loop {
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => {
                // The folder and the socket keep others out, unless they were changed.
                let peer = rustix::net::sockopt::socket_peercred(&socket);
                if peer.is_ok_and(|peer| peer.uid == user) {
                    clients.admit(&UnixStream::from(socket));
                }
            }
            Err(Errno::INTR | Errno::CONNABORTED | Errno::AGAIN) => {}
            // The listener was shut down.
            Err(Errno::INVAL) => return,
            Err(error) => {
                tracing::debug!("no client for now: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Who is there, and what they get.
struct Clients {
    routes: Routes,
    table: Mutex<Table>,
    /// Notified when a client goes or is being answered.
    changed: Condvar,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Table {
    next: u64,
    there: BTreeMap<u64, Client>,
    closing: bool,
}

struct Client {
    stream: UnixStream,
    phase: Phase,
    since: Instant,
}

/// What a client's thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It waits for the client.
    Reading,
    /// It does what was asked, and says so.
    Answering,
    /// It gives lines.
    Lines,
}

impl Clients {
    /// Begins to answer a client, if there is room.
    fn admit(self: &Arc<Self>, stream: &UnixStream) {
        if let Err(error) = self.try_admit(stream) {
            tracing::debug!("a client of the control socket is turned away: {error}");
            let refusal = Refusal::new(Status::Busy, "too many clients");
            let _ = stream.set_nonblocking(true);
            let mut stream = stream;
            let _ = stream.write(&refused(&refusal, &[], false));
        }
    }

    fn try_admit(self: &Arc<Self>, stream: &UnixStream) -> io::Result<()> {
        let (known, own) = (stream.try_clone()?, stream.try_clone()?);
        let mut table = self.table.lock();
        if table.there.len() >= CLIENTS_MAX {
            if !table.turn_one_out() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let deadline = Instant::now() + FIRST_PATIENCE;
            while table.there.len() >= CLIENTS_MAX {
                if self.changed.wait_until(&mut table, deadline).timed_out() {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
            }
        }
        let id = table.next;
        table.next += 1;
        let client = Client { stream: known, phase: Phase::Reading, since: Instant::now() };
        table.there.insert(id, client);
        drop(table);
        let place = Place { clients: Arc::clone(self), id };
        let thread = Builder::new().name("control-client".into()).stack_size(STACK_LEN);
        thread.spawn(move || place.converse(&mut Connection::new(own)))?;
        Ok(())
    }

    /// Ends all conversations; what is being answered may be finished.
    fn end(&self) {
        let deadline = Instant::now() + END_PATIENCE;
        let mut table = self.table.lock();
        table.closing = true;
        while !table.there.is_empty() {
            for client in table.there.values() {
                if client.phase != Phase::Answering {
                    let _ = client.stream.shutdown(Shutdown::Both);
                }
            }
            if self.changed.wait_until(&mut table, deadline).timed_out() {
                tracing::debug!("{} clients of the control socket do not end", table.there.len());
                return;
            }
        }
    }
}

impl Table {
    /// Ends the conversation with the client that has been waited for the longest, if one is. What it has
    /// asked by now is still answered.
    fn turn_one_out(&self) -> bool {
        let waited = self.there.values().filter(|client| client.phase == Phase::Reading);
        let longest = waited.min_by_key(|client| client.since);
        longest.inspect(|client| drop(client.stream.shutdown(Shutdown::Read))).is_some()
    }

    fn giving_lines(&self) -> usize {
        self.there.values().filter(|client| client.phase == Phase::Lines).count()
    }
}

/// A client's place among the others, until it is dropped.
struct Place {
    clients: Arc<Clients>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.table.lock().there.remove(&self.id);
        self.clients.changed.notify_all();
    }
}

impl Place {
    /// Says what the thread is doing now; whether it is to go on.
    fn enter(&self, phase: Phase) -> bool {
        let mut table = self.clients.table.lock();
        let closing = table.closing;
        if let Some(client) = table.there.get_mut(&self.id) {
            client.phase = phase;
            client.since = Instant::now();
        }
        drop(table);
        self.clients.changed.notify_all();
        !closing
    }

    /// Says that the thread gives lines now, if there is room for one more that does.
    fn enter_lines(&self) -> bool {
        let mut table = self.clients.table.lock();
        let room = !table.closing && table.giving_lines() < LINES_MAX;
        if let Some(client) = table.there.get_mut(&self.id).filter(|_| room) {
            client.phase = Phase::Lines;
        }
        room
    }

    /// Answers one request after the other.
    fn converse(&self, connection: &mut Connection) {
        let mut patience = FIRST_PATIENCE;
        loop {
            let goes_on = match connection.request(patience, REQUEST_PATIENCE) {
                Ok(request) => {
                    self.enter(Phase::Answering);
                    self.answer(connection, &request).unwrap_or(false)
                }
                Err(http::Fault::Refused(refusal)) => {
                    let message = refused(&refusal, &[], false);
                    let _ = connection.write(&message, Instant::now() + LINE_PATIENCE);
                    false
                }
                Err(http::Fault::Closed | http::Fault::Io(_)) => false,
            };
            if !goes_on || !self.enter(Phase::Reading) {
                let _ = connection.stream().shutdown(Shutdown::Write);
                return;
            }
            patience = IDLE_PATIENCE;
        }
    }

    /// Answers a request; whether the connection is for another one.
    fn answer(&self, connection: &Connection, request: &Request) -> io::Result<bool> {
        let Request { method, path, body, keep_alive, .. } = request;
        let deadline = || Instant::now() + ANSWER_PATIENCE;
        let mut head = Head {
            code: 200,
            media_type: None,
            len: Some(0),
            keep_alive: *keep_alive,
            chunked: false,
            allow: &[],
        };
        match self.clients.routes.answer(method, path, body) {
            Ok(Answer::Done) => {
                head.code = 204;
                connection.write(&head.bytes(), deadline())?;
            }
            Ok(Answer::Body(media_type, body)) => {
                (head.media_type, head.len) = (Some(media_type), Some(body.len()));
                let mut message = head.bytes();
                message.extend_from_slice(&body);
                connection.write(&message, deadline())?;
            }
            Ok(Answer::Lines(write)) => {
                if self.enter_lines() {
                    self.give_lines(connection, request, head, write)?;
                    return Ok(false);
                }
                let refusal = Refusal::new(Status::Busy, "too many clients get lines");
                connection.write(&refused(&refusal, &[], *keep_alive), deadline())?;
            }
            Err((refusal, allow)) => {
                connection.write(&refused(&refusal, &allow, *keep_alive), deadline())?;
            }
        }
        Ok(*keep_alive)
    }

    fn give_lines(
        &self,
        connection: &Connection,
        request: &Request,
        head: Head<'_>,
        write: WriteLines,
    ) -> io::Result<()> {
        let chunked = request.chunks;
        let media_type = Some("application/x-ndjson");
        let head = Head { media_type, len: None, chunked, keep_alive: false, ..head };
        let mut to = Chunks { connection, chunked };
        connection.write(&head.bytes(), Instant::now() + LINE_PATIENCE)?;
        write(&mut Lines(&mut to))?;
        let end = if chunked { &b"0\r\n\r\n"[..] } else { &[] };
        connection.write(end, Instant::now() + LINE_PATIENCE)
    }
}

/// Where lines go.
pub(crate) struct Chunks<'a> {
    connection: &'a Connection,
    chunked: bool,
}

impl Chunks<'_> {
    pub(crate) fn send(&mut self, line: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + LINE_PATIENCE;
        if !self.chunked {
            return self.connection.write(line, deadline);
        }
        let mut chunk = format!("{:x}\r\n", line.len()).into_bytes();
        chunk.extend_from_slice(line);
        chunk.extend_from_slice(b"\r\n");
        self.connection.write(&chunk, deadline)
    }

    /// Waits so long, or until there is nobody to read.
    pub(crate) fn wait(&self, at_most: Duration) -> io::Result<()> {
        let mut fds = [PollFd::new(self.connection.stream(), PollFlags::RDHUP)];
        match poll(&mut fds, Timespec::try_from(at_most).ok().as_ref()) {
            Ok(0) | Err(Errno::INTR) => Ok(()),
            Ok(_) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// An answer that says why there is none.
fn refused(refusal: &Refusal, allow: &[Method], keep_alive: bool) -> Vec<u8> {
    let fault = Fault { fault_message: refusal.reason.clone() };
    let body = serde_json::to_vec(&fault).unwrap_or_default();
    let code = refusal.status.code();
    let (media_type, len) = (Some(JSON), Some(body.len()));
    let head = Head { code, media_type, len, keep_alive, chunked: false, allow };
    let mut message = head.bytes();
    message.extend_from_slice(&body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far more than anything here takes.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_client_that_has_to_go_is_answered_what_it_has_asked() {
        let (here, there) = UnixStream::pair().unwrap();
        let client = Connection::new(there);
        let message = http::request(Method::Get, "/text", &[]);
        client.write(&message, Instant::now() + LONG).unwrap();
        let known = Client {
            stream: here.try_clone().unwrap(),
            phase: Phase::Reading,
            since: Instant::now(),
        };
        let table = Table { next: 1, there: [(0, known)].into(), closing: false };
        assert!(table.turn_one_out());
        let mut server = Connection::new(here);
        assert_eq!(server.request(LONG, LONG).unwrap().path, "/text");
        server.write(b"HTTP/1.1 204 No Content\r\n\r\n", Instant::now() + LONG).unwrap();
        assert!(matches!(server.request(LONG, LONG), Err(http::Fault::Closed)));
        assert!(client.write(&message, Instant::now() + LONG).is_err());
    }
}
