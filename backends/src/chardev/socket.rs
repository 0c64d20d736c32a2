//! A socket that one client at a time connects to.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use trapline_device::{
    CharBackend, CharDevice, EventHandler, EventLoop, Notifier, Readiness, Watch,
};

use super::OpenOutlet;
use super::channel::{Channel, Gone};
use crate::bind;

/// A socket. Further clients wait until the first has gone.
pub(super) struct Socket {
    path: PathBuf,
    listener: UnixListener,
    event_loop: Arc<dyn EventLoop>,
    handlers: OnceLock<Handlers>,
    device: OnceLock<Arc<dyn CharDevice>>,
    client: Mutex<Client>,
}

/// What the event loop calls.
struct Handlers {
    // Dropped before what they call.
    listening: Box<dyn Watch>,
    lost: Box<dyn Notifier>,
    talking: Arc<Talking>,
    _accepting: Arc<Accepting>,
    _losing: Arc<Losing>,
}

/// Who is connected. A client that has gone is put aside until the loop drops it: it is found to
/// have gone by the device, whose lock the loop's handlers wait for.
#[derive(Default)]
struct Client {
    channel: Option<Channel>,
    gone: Option<Channel>,
}

struct Accepting(Weak<Socket>);
struct Talking(Weak<Socket>);
struct Losing(Weak<Socket>);

impl Socket {
    pub(super) fn listen(path: &Path, event_loop: &Arc<dyn EventLoop>) -> io::Result<Arc<Self>> {
        let listener = bind(path)?;
        let this = Arc::new(Self {
            path: path.to_owned(),
            listener,
            event_loop: Arc::clone(event_loop),
            handlers: OnceLock::new(),
            device: OnceLock::new(),
            client: Mutex::default(),
        });
        this.listener.set_nonblocking(true)?;
        let weak = Arc::downgrade(&this);
        let (accepting, talking) =
            (Arc::new(Accepting(weak.clone())), Arc::new(Talking(weak.clone())));
        let losing = Arc::new(Losing(weak));
        let fd: OwnedFd = this.listener.try_clone()?.into();
        let handler: Weak<Accepting> = Arc::downgrade(&accepting);
        let listening = event_loop.watch(Arc::new(fd), Readiness::READ, handler)?;
        let handler: Weak<Losing> = Arc::downgrade(&losing);
        let lost = event_loop.notifier(handler);
        this.handlers.get_or_init(|| Handlers {
            listening,
            lost,
            talking,
            _accepting: accepting,
            _losing: losing,
        });
        Ok(this)
    }

    /// Lets the next client in, if nobody is connected.
    fn accept(&self) {
        let Some(handlers) = self.handlers.get() else { return };
        let mut client = self.client.lock();
        if client.channel.is_none() {
            // Who was there may have left again, and a shortage may pass.
            client.channel = self.listener.accept().ok().and_then(|(stream, _)| {
                let handler: Weak<Talking> = Arc::downgrade(&handlers.talking);
                Channel::new(stream.into(), &*self.event_loop, handler).ok()
            });
        }
        self.listen_for_clients(handlers, client.channel.is_none());
        drop(client);
        self.poll();
    }

    fn listen_for_clients(&self, handlers: &Handlers, on: bool) {
        let interest = if on { Readiness::READ } else { Readiness::NONE };
        if let Err(error) = handlers.listening.set_interest(interest) {
            tracing::debug!("{} cannot be listened on: {error}", self.path.display());
        }
    }

    fn poll(&self) {
        if let Some(device) = self.device.get() {
            device.poll();
        }
    }

    /// Does something with the client, who may be found to have gone.
    fn with_client<T>(&self, nobody: T, act: impl FnOnce(&Channel) -> Result<T, Gone>) -> T {
        let mut client = self.client.lock();
        let Some(channel) = &client.channel else { return nobody };
        match act(channel) {
            Ok(done) => done,
            Err(Gone) => {
                channel.rest();
                client.gone = client.channel.take();
                if let Some(handlers) = self.handlers.get() {
                    handlers.lost.notify();
                }
                nobody
            }
        }
    }
}

impl EventHandler for Accepting {
    fn event(&self, _ready: Readiness) {
        self.0.upgrade().inspect(|socket| socket.accept());
    }
}

impl EventHandler for Talking {
    fn event(&self, ready: Readiness) {
        let Some(socket) = self.0.upgrade() else { return };
        if let Some(channel) = &socket.client.lock().channel {
            channel.came(ready);
        }
        socket.poll();
    }
}

impl EventHandler for Losing {
    fn event(&self, _ready: Readiness) {
        let Some(socket) = self.0.upgrade() else { return };
        let gone = socket.client.lock().gone.take();
        drop(gone);
        // Somebody may be waiting already.
        socket.accept();
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl CharBackend for Socket {
    fn transmit(&self, data: &[u8]) -> usize {
        self.with_client(data.len(), |channel| channel.write(data))
    }

    fn receive(&self, buf: &mut [u8]) -> usize {
        self.with_client(0, |channel| channel.read(buf))
    }

    fn is_connected(&self) -> bool {
        self.client.lock().channel.is_some()
    }
}

impl OpenOutlet for Socket {
    fn attach(&self, device: Arc<dyn CharDevice>) {
        self.device.get_or_init(|| device);
    }
}
