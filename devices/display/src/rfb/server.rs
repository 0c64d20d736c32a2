//! The server: listens, and keeps the list of viewers.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::sockopt;
use trapline_device::thread_builder;

use super::client::Viewer;
use super::handshake::greet;
use crate::{Input, Screen};

/// More viewers are turned away.
const VIEWERS_MAX: usize = 16;
/// How long a viewer may take for each step of the handshake.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// How long a viewer may leave what it was sent lying about.
const READING_TIME: Duration = Duration::from_secs(30);
/// A viewer of whom nothing was heard for so long is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(30);
/// How often it is asked, and how long after another.
const QUESTIONS: (u32, Duration) = (3, Duration::from_secs(10));
/// How long to wait when the system has no connection to give, for want of descriptors say.
const SHORTAGE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A running server. Dropping it ends every connection and waits for its threads.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    name: String,
    screen: Arc<Screen>,
    input: Arc<dyn Input>,
    viewers: Mutex<Viewers>,
    wake: OwnedFd,
}

#[derive(Default)]
struct Viewers {
    list: Vec<(Arc<Viewer>, JoinHandle<()>)>,
    closed: bool,
}

impl Server {
    /// Serves `screen` to whoever connects to `listener`. `name` is what viewers put in their
    /// title.
    ///
    /// # Errors
    /// The system has no thread or descriptor to spare.
    pub fn start(
        listener: TcpListener,
        name: &str,
        screen: Arc<Screen>,
        input: Arc<dyn Input>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let viewers = Mutex::default();
        let shared = Arc::new(Shared { name: name.to_owned(), screen, input, viewers, wake });
        let inside = Arc::clone(&shared);
        let thread = thread_builder("vnc").spawn(move || inside.listen(&listener))?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many viewers there are.
    pub fn viewers(&self) -> usize {
        let viewers = self.shared.viewers.lock();
        viewers.list.iter().filter(|(_, thread)| !thread.is_finished()).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let list = {
            let mut viewers = self.shared.viewers.lock();
            viewers.closed = true;
            std::mem::take(&mut viewers.list)
        };
        // It fails only when the counter is full, and then the listener is awake.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        list.iter().for_each(|(viewer, _)| viewer.end());
        // A thread that has panicked has said so.
        for thread in list.into_iter().map(|(_, thread)| thread).chain(self.thread.take()) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn listen(self: &Arc<Self>, listener: &TcpListener) {
        while self.wait(&[PollFd::new(listener, PollFlags::IN)], None) {
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.wait(&[], Some(&SHORTAGE));
                }
            }
        }
    }

    /// Waits for one of `these`, or for the end; false is the end.
    fn wait(&self, these: &[PollFd<'_>], timeout: Option<&Timespec>) -> bool {
        let mut fds = these.to_vec();
        fds.push(PollFd::new(&self.wake, PollFlags::IN));
        // An interrupted wait is one for nothing.
        let _ = poll(&mut fds, timeout);
        !self.viewers.lock().closed
    }

    fn admit(self: &Arc<Self>, stream: TcpStream) {
        let mut viewers = self.viewers.lock();
        viewers.list.retain(|(_, thread)| !thread.is_finished());
        if viewers.closed || viewers.list.len() >= VIEWERS_MAX {
            return;
        }
        let viewer = Arc::new(Viewer::new(stream));
        let (shared, inside) = (Arc::clone(self), Arc::clone(&viewer));
        let thread = thread_builder("vnc-in").spawn(move || shared.serve(&inside));
        // Without a thread the connection is closed, as with too many viewers.
        if let Ok(thread) = thread {
            viewers.list.push((viewer, thread));
        }
    }

    /// A viewer's life.
    fn serve(self: &Arc<Self>, viewer: &Arc<Viewer>) {
        if self.greet(viewer).is_err() {
            return viewer.end();
        }
        let (screen, inside) = (Arc::clone(&self.screen), Arc::clone(viewer));
        let writer = thread_builder("vnc-out").spawn(move || inside.write_all(&screen));
        let Ok(writer) = writer else { return viewer.end() };
        viewer.read_all(Arc::clone(&self.input));
        let _ = writer.join();
    }

    fn greet(&self, viewer: &Arc<Viewer>) -> io::Result<()> {
        let mut stream = viewer.stream();
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(READING_TIME))?;
        notice_absence(stream)?;
        stream.set_read_timeout(Some(GREETING_TIME))?;
        let greeting = greet(&mut stream, self.screen.mode(), &self.name)?;
        stream.set_read_timeout(None)?;
        if !greeting.shared {
            let viewers = self.viewers.lock();
            let others = viewers.list.iter().filter(|(other, _)| !Arc::ptr_eq(other, viewer));
            others.for_each(|(other, _)| other.end());
        }
        Ok(())
    }
}

/// Ends the connection of a viewer whose host is gone without a word, asleep or unplugged: nobody
/// else would, and it would keep its place among the viewers for good.
fn notice_absence(stream: &TcpStream) -> io::Result<()> {
    let (questions, interval) = QUESTIONS;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, questions)?;
    // Of what was sent the viewer's host has to say that it has come.
    let most = SILENCE + interval * questions;
    let most = u32::try_from(most.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(stream, most)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TCP does the rest.
    #[test]
    fn a_viewer_whose_host_is_gone_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _viewer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        notice_absence(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), SILENCE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), QUESTIONS.1);
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), QUESTIONS.0);
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 60_000);
    }
}
