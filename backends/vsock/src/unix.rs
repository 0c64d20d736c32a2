//! Unix sockets as Firecracker and cloud-hypervisor have them: who connects to the socket at PATH and says
//! `CONNECT port` gets to the guest's port, and hears `OK port` of the host's end; a guest that
//! connects to a port of the host's gets to whoever listens at `PATH_port`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use trapline_device::{EventHandler, EventLoop, Notifier, Readiness, Watch};

use crate::{CONNECTIONS_MAX, Event, VsockBackend, VsockDevice};

/// The longest first line, `CONNECT 4294967295` and its end.
const LINE_MAX: usize = 32;
/// Connections that a turn lets in; the rest is the next turn's.
const TURN: usize = 16;

/// The socket at PATH, and the connections.
pub struct UnixSockets {
    path: PathBuf,
    listener: Arc<UnixListener>,
    event_loop: Arc<dyn EventLoop>,
    device: OnceLock<Weak<dyn VsockDevice>>,
    handlers: OnceLock<Handlers>,
    this: Weak<Self>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    connections: BTreeMap<u32, Connection>,
    last: u32,
    listening: bool,
    events: Vec<Event>,
    /// Those that are closed. The loop drops them, as their watches may wait for a handler.
    closed: Vec<Connection>,
}

/// What the event loop calls.
struct Handlers {
    // Dropped before what they call.
    listening: Box<dyn Watch>,
    soon: Box<dyn Notifier>,
    _accepting: Arc<Accepting>,
    _telling: Arc<Telling>,
}

struct Accepting(Weak<UnixSockets>);
struct Telling(Weak<UnixSockets>);

/// One connection's events.
struct Stirring {
    sockets: Weak<UnixSockets>,
    id: u32,
}

struct Connection {
    // Dropped before what it calls.
    watch: Box<dyn Watch>,
    stream: Arc<UnixStream>,
    /// It has not said yet where it wants to go.
    greets: bool,
    /// What it has said of that.
    line: Vec<u8>,
    interest: Readiness,
    _handler: Arc<Stirring>,
}

impl UnixSockets {
    /// Listens at this path. A socket that a killed process has left there is replaced.
    ///
    /// # Errors
    /// The host's.
    pub fn listen(path: &Path, event_loop: &Arc<dyn EventLoop>) -> io::Result<Arc<Self>> {
        let listener = Arc::new(trapline_backends::bind(path)?);
        listener.set_nonblocking(true)?;
        let this = Arc::new_cyclic(|this| Self {
            path: path.to_owned(),
            listener,
            event_loop: Arc::clone(event_loop),
            device: OnceLock::new(),
            handlers: OnceLock::new(),
            this: this.clone(),
            inner: Mutex::new(Inner { listening: true, ..Inner::default() }),
        });
        let accepting = Arc::new(Accepting(this.this.clone()));
        let telling = Arc::new(Telling(this.this.clone()));
        let handler: Weak<Accepting> = Arc::downgrade(&accepting);
        let listening = event_loop.watch(this.listener.clone(), Readiness::READ, handler)?;
        let handler: Weak<Telling> = Arc::downgrade(&telling);
        let soon = event_loop.notifier(handler);
        this.handlers.get_or_init(|| Handlers {
            listening,
            soon,
            _accepting: accepting,
            _telling: telling,
        });
        Ok(this)
    }

    /// Lets in who waits, as long as there is room.
    fn let_in(&self) {
        for _ in 0..TURN {
            let inner = &mut *self.inner.lock();
            if inner.connections.len() >= CONNECTIONS_MAX {
                return self.listen_on(inner, false);
            }
            let Ok((stream, _)) = self.listener.accept() else { return };
            // Who cannot be had is sent away.
            let _ = self.add(inner, stream, true);
        }
    }

    fn listen_on(&self, inner: &mut Inner, on: bool) {
        let interest = if on { Readiness::READ } else { Readiness::NONE };
        let changed = std::mem::replace(&mut inner.listening, on) != on;
        if changed
            && let Some(handlers) = self.handlers.get()
            && let Err(error) = handlers.listening.set_interest(interest)
        {
            tracing::debug!("{} cannot be listened on: {error}", self.path.display());
        }
    }

    fn add(&self, inner: &mut Inner, stream: UnixStream, greets: bool) -> io::Result<u32> {
        stream.set_nonblocking(true)?;
        let mut id = inner.last;
        loop {
            // 0 is none.
            id = id.wrapping_add(1).max(1);
            if !inner.connections.contains_key(&id) {
                break;
            }
        }
        inner.last = id;
        let handler = Arc::new(Stirring { sockets: self.this.clone(), id });
        let called: Weak<Stirring> = Arc::downgrade(&handler);
        let stream = Arc::new(stream);
        let interest = if greets { Readiness::READ } else { Readiness::NONE };
        let watch = self.event_loop.watch(stream.clone(), interest, called)?;
        let connection =
            Connection { watch, stream, greets, line: Vec::new(), interest, _handler: handler };
        inner.connections.insert(id, connection);
        Ok(id)
    }

    /// A connection has become ready.
    fn stirs(&self, id: u32, ready: Readiness) {
        let inner = &mut *self.inner.lock();
        let Some(connection) = inner.connections.get_mut(&id) else { return };
        if connection.greets {
            match connection.greeting() {
                Ok(Some(port)) => {
                    connection.greets = false;
                    connection.watch_for(Readiness::NONE);
                    inner.events.push(Event::Incoming { id, port });
                }
                Ok(None) => return,
                Err(_) => return self.remove(inner, id),
            }
        } else {
            let was = connection.interest;
            let ready = Readiness { read: ready.read && was.read, write: ready.write && was.write };
            let left =
                Readiness { read: was.read && !ready.read, write: was.write && !ready.write };
            connection.watch_for(left);
            if ready.is_none() {
                return;
            }
            inner.events.push(Event::Ready { id, ready });
        }
        self.tell_soon();
    }

    fn remove(&self, inner: &mut Inner, id: u32) {
        if let Some(connection) = inner.connections.remove(&id) {
            connection.watch_for_nothing();
            let _ = connection.stream.shutdown(Shutdown::Both);
            inner.closed.push(connection);
            inner.events.retain(|event| event.id() != id);
            self.listen_on(inner, true);
            self.tell_soon();
        }
    }

    fn tell_soon(&self) {
        if let Some(handlers) = self.handlers.get() {
            handlers.soon.notify();
        }
    }

    /// Tells the device what has happened, and drops what is closed.
    fn tell(&self) {
        let mut inner = self.inner.lock();
        let (closed, any) = (std::mem::take(&mut inner.closed), !inner.events.is_empty());
        drop(inner);
        drop(closed);
        if any && let Some(device) = self.device.get().and_then(Weak::upgrade) {
            device.events_come();
        }
    }

    /// Where somebody listens for the guest's connections to this port.
    fn path_of(&self, port: u32) -> PathBuf {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        path.into()
    }

    fn with<T>(
        &self,
        id: u32,
        act: impl FnOnce(&mut Connection) -> io::Result<T>,
    ) -> io::Result<T> {
        let inner = &mut *self.inner.lock();
        inner.connections.get_mut(&id).ok_or(io::ErrorKind::NotConnected.into()).and_then(act)
    }
}

impl Event {
    fn id(self) -> u32 {
        match self {
            Self::Incoming { id, .. } | Self::Ready { id, .. } => id,
        }
    }
}

impl Connection {
    fn watch_for(&mut self, interest: Readiness) {
        if std::mem::replace(&mut self.interest, interest) != interest
            && let Err(error) = self.watch.set_interest(interest)
        {
            tracing::debug!("a connection cannot be watched: {error}");
        }
    }

    fn watch_for_nothing(&self) {
        let _ = self.watch.set_interest(Readiness::NONE);
    }

    /// The port of the first line, once all of that is there. What follows it stays in the socket.
    fn greeting(&mut self) -> io::Result<Option<u32>> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        let mut byte = [0];
        while self.line.len() < LINE_MAX {
            match (&*self.stream).read(&mut byte) {
                Ok(1) if byte == *b"\n" => {
                    let line = std::str::from_utf8(&self.line).ok();
                    let port = line.and_then(|line| line.strip_prefix("CONNECT "));
                    let port = port.and_then(|port| port.parse().ok());
                    return port.map(Some).ok_or_else(wrong);
                }
                Ok(1) => self.line.extend(byte),
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(wrong())
    }
}

impl VsockBackend for UnixSockets {
    fn attach(&self, device: Weak<dyn VsockDevice>) {
        self.device.get_or_init(|| device);
    }

    fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.inner.lock().events)
    }

    fn connect(&self, port: u32) -> Option<u32> {
        let inner = &mut *self.inner.lock();
        if inner.connections.len() >= CONNECTIONS_MAX {
            return None;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let socket = rustix::net::socket_with(family, kind, flags, None).ok()?;
        let at = SocketAddrUnix::new(self.path_of(port)).ok()?;
        // At once, or never: who has no room for more connections has none for this one.
        rustix::net::connect(&socket, &at).ok()?;
        self.add(inner, socket.into(), false).ok()
    }

    fn accept(&self, id: u32, host_port: u32) {
        // It fits into an empty socket; who has gone meanwhile is noticed later.
        let line = format!("OK {host_port}\n");
        let _ = self.with(id, |connection| (&*connection.stream).write_all(line.as_bytes()));
    }

    fn read(&self, id: u32, buf: &mut [u8]) -> io::Result<usize> {
        self.with(id, |connection| (&*connection.stream).read(buf))
    }

    fn write(&self, id: u32, data: &[u8]) -> io::Result<usize> {
        self.with(id, |connection| {
            let flags = SendFlags::NOSIGNAL;
            Ok(rustix::net::send(connection.stream.as_fd(), data, flags)?)
        })
    }

    fn wait_for(&self, id: u32, what: Readiness) {
        let _ = self.with(id, |connection| {
            let Readiness { read, write } = connection.interest;
            connection.watch_for(Readiness { read: read || what.read, write: write || what.write });
            Ok(())
        });
    }

    fn finish(&self, id: u32) {
        let _ = self.with(id, |connection| connection.stream.shutdown(Shutdown::Write));
    }

    fn close(&self, id: u32) {
        self.remove(&mut self.inner.lock(), id);
    }
}

impl EventHandler for Accepting {
    fn event(&self, _ready: Readiness) {
        self.0.upgrade().inspect(|sockets| sockets.let_in());
    }
}

impl EventHandler for Telling {
    fn event(&self, _ready: Readiness) {
        self.0.upgrade().inspect(|sockets| sockets.tell());
    }
}

impl EventHandler for Stirring {
    fn event(&self, ready: Readiness) {
        self.sockets.upgrade().inspect(|sockets| sockets.stirs(self.id, ready));
    }
}

impl Drop for UnixSockets {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests;
