//! The event loop of back ends: sockets, taps and files that become ready, and threads that have
//! something for a device.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use crate::{Doorbell, WatchedEventFd};

/// What a file descriptor is ready for, or is to be watched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There is something to read, an end or an error included.
    pub read: bool,
    /// There is room to write, or an error to be had by trying.
    pub write: bool,
}

impl Readiness {
    /// Nothing: the descriptor is left alone, whatever happens to it.
    pub const NONE: Self = Self { read: false, write: false };
    /// Reading only.
    pub const READ: Self = Self { read: true, write: false };
    /// Writing only.
    pub const WRITE: Self = Self { read: false, write: true };

    /// Whether it is [`Readiness::NONE`].
    pub const fn is_none(self) -> bool {
        !self.read && !self.write
    }
}

/// Called by an event loop, on the loop's thread.
///
/// Before each call the loop has delivered the coalesced writes of the guest, so a handler may
/// call a device, and the device interrupt the guest, without further ado.
pub trait EventHandler: Send + Sync {
    /// Something happened: the watched descriptor is `ready`, or, with [`Readiness::NONE`], the
    /// handler's [`Notifier`] was notified, its [`Doorbell`] rung or its [`WatchedEventFd`]
    /// signalled. Does a bounded piece of work and returns: it is called again for as long as the
    /// descriptor is ready, in turns with everybody else.
    fn event(&self, ready: Readiness);
}

/// One thread that waits for everything a device's back end waits for, and calls its handlers one
/// after the other. A machine without a CPU has a loop without a thread, whose handlers are called
/// between the accesses: see `trapline-backends`.
///
/// Handlers are held weakly; one that is gone is not called, and its descriptor is left alone.
/// Deadlines are a [`Clock`](crate::Clock)'s, whose timers run on the machine's loop too.
pub trait EventLoop: Send + Sync {
    /// Watches `fd` for `interest`, level-triggered, until the returned guard is dropped. A
    /// descriptor that cannot be waited for, like a regular file's, is always ready.
    ///
    /// # Errors
    /// The operating system's, when it watches no more descriptors.
    fn watch(
        &self,
        fd: Arc<dyn AsFd + Send + Sync>,
        interest: Readiness,
        handler: Weak<dyn EventHandler>,
    ) -> io::Result<Box<dyn Watch>>;

    /// Has `handler` called on the loop's thread once after each time that the returned notifier
    /// was notified, however often that was meanwhile.
    fn notifier(&self, handler: Weak<dyn EventHandler>) -> Box<dyn Notifier>;

    /// Has `handler` called on the loop's thread once after the guest has rung the returned
    /// doorbell, however often that was meanwhile. No handler runs in the guest's access, so a
    /// queue's handler may take as long as its turn allows.
    ///
    /// A loop with a thread makes an eventfd, which KVM signals by itself (ioeventfd); one without
    /// notes that it was rung. Either way it is a [`DoorbellTarget`](crate::DoorbellTarget) of a
    /// region, and dropping it ends it.
    ///
    /// # Errors
    /// The operating system's, when it has no descriptor left.
    fn doorbell(&self, handler: Weak<dyn EventHandler>) -> io::Result<Doorbell>;

    /// Has `handler` called on the loop's thread once after each time that the returned eventfd was
    /// signalled, by whoever has a descriptor of it: another process, or the kernel.
    ///
    /// # Errors
    /// As of [`EventLoop::doorbell`].
    fn eventfd(&self, handler: Weak<dyn EventHandler>) -> io::Result<WatchedEventFd>;
}

/// A watched descriptor. Dropping it ends the watch: its handler does not run any more on return,
/// unless it is the handler itself that drops it. Whoever drops it must hold no lock that the
/// handler takes.
pub trait Watch: Send + Sync {
    /// Changes what is watched for: with [`Readiness::NONE`] the descriptor is left alone, for a
    /// device that has no room for more.
    ///
    /// # Errors
    /// The operating system's, when it watches no more descriptors.
    fn set_interest(&self, interest: Readiness) -> io::Result<()>;
}

/// Has a handler called on an event loop's thread. Notifying never blocks.
pub trait Notifier: Send + Sync {
    /// The handler shall be called soon.
    fn notify(&self);
}
