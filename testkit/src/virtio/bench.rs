//! A machine for one device: a registry, an event loop that is turned by hand, and messages that
//! are remembered.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline::{Handle, Registry};
use trapline_device::{
    Doorbell, EventHandler, EventLoop, MsiController, MsiSink, Notifier, Readiness, Regions, Size,
    Space, Watch, WatchedEventFd,
};

/// Messages that were sent, as addresses and data. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Messages(Arc<Mutex<Vec<(u64, u32)>>>);

impl Messages {
    /// Those since the last call.
    pub fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().push((address, data));
    }
}

impl MsiController for Messages {
    fn sink(&self, _requester: u16) -> Arc<dyn MsiSink> {
        Arc::new(self.clone())
    }
}

/// An event loop without descriptors: handlers are called by [`TestLoop::turn`]. Clones are the same
/// loop.
#[derive(Clone, Default)]
pub struct TestLoop(Arc<Mutex<VecDeque<Weak<dyn EventHandler>>>>);

struct TestNotifier {
    queue: TestLoop,
    handler: Weak<dyn EventHandler>,
}

impl TestLoop {
    /// Calls everybody who was notified until now, once; how many there were.
    pub fn turn(&self) -> usize {
        let called = std::mem::take(&mut *self.0.lock());
        let handlers = called.iter().filter_map(Weak::upgrade);
        handlers.for_each(|handler| handler.event(Readiness::NONE));
        called.len()
    }

    /// Turns until nobody is left.
    ///
    /// # Panics
    /// When that never happens.
    pub fn settle(&self) {
        let idle = (0..10_000).any(|_| self.turn() == 0);
        assert!(idle, "somebody notifies the loop in every turn");
    }
}

impl Notifier for TestNotifier {
    fn notify(&self) {
        let mut queue = self.queue.0.lock();
        if !queue.iter().any(|other| other.ptr_eq(&self.handler)) {
            queue.push_back(Weak::clone(&self.handler));
        }
    }
}

impl EventLoop for TestLoop {
    fn watch(
        &self,
        _fd: Arc<dyn AsFd + Send + Sync>,
        _interest: Readiness,
        _handler: Weak<dyn EventHandler>,
    ) -> io::Result<Box<dyn Watch>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn notifier(&self, handler: Weak<dyn EventHandler>) -> Box<dyn Notifier> {
        Box::new(TestNotifier { queue: self.clone(), handler })
    }

    fn doorbell(&self, handler: Weak<dyn EventHandler>) -> io::Result<Doorbell> {
        Ok(Doorbell::by_call(self, handler))
    }

    fn eventfd(&self, _handler: Weak<dyn EventHandler>) -> io::Result<WatchedEventFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A registry with whoever makes its accesses.
pub struct Bench {
    registry: Registry,
    handle: Mutex<Handle>,
    /// The loop that queues are processed on.
    pub event_loop: TestLoop,
    /// What was sent.
    pub messages: Messages,
}

impl Default for Bench {
    fn default() -> Self {
        let registry = Registry::builder().build();
        let handle = Mutex::new(registry.handle(0));
        Self { registry, handle, event_loop: TestLoop::default(), messages: Messages::default() }
    }
}

impl Bench {
    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The registry, for a bus to map regions in.
    pub fn regions(&self) -> Arc<dyn Regions> {
        Arc::new(self.registry.downgrade())
    }

    /// A guest's read.
    pub fn read(&self, space: Space, addr: u64, size: Size) -> u64 {
        self.handle.lock().read_value(space, addr, size)
    }

    /// A guest's write.
    pub fn write(&self, space: Space, addr: u64, size: Size, value: u64) {
        self.handle.lock().write_value(space, addr, size, value);
    }
}
