//! The target of a doorbell: an eventfd to signal, or a handler to call.

use std::fmt;
use std::sync::Arc;

use crate::{EventFd, IoCx};

/// Called when the guest rings a doorbell. The value written is not passed on: where it matters, the
/// doorbell has one (`datamatch`).
pub trait Ring: Send + Sync {
    /// The guest has rung. Called on the thread of whoever made the access, with no lock of the
    /// registry held.
    fn ring(&self, cx: &IoCx<'_>);
}

/// What a doorbell rings. Clones ring the same.
#[derive(Clone)]
pub enum DoorbellTarget {
    /// An eventfd, which the source may signal by itself (KVM: ioeventfd).
    EventFd(EventFd),
    /// A handler in this process, called by the registry.
    Handler(Arc<dyn Ring>),
}

impl DoorbellTarget {
    /// Rings.
    pub fn ring(&self, cx: &IoCx<'_>) {
        match self {
            Self::EventFd(event) => event.signal(),
            Self::Handler(handler) => handler.ring(cx),
        }
    }
}

impl From<EventFd> for DoorbellTarget {
    fn from(event: EventFd) -> Self {
        Self::EventFd(event)
    }
}

impl From<Arc<dyn Ring>> for DoorbellTarget {
    fn from(handler: Arc<dyn Ring>) -> Self {
        Self::Handler(handler)
    }
}

impl PartialEq for DoorbellTarget {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::EventFd(a), Self::EventFd(b)) => a == b,
            (Self::Handler(a), Self::Handler(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl fmt::Debug for DoorbellTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EventFd(_) => "EventFd",
            Self::Handler(_) => "Handler",
        })
    }
}
