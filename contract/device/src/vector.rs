//! One message-signalled interrupt of a function: an MSI or an MSI-X vector.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Msi, MsiSink};

/// One MSI or MSI-X vector, between a device that triggers it and the registers that say what
/// message it sends and whether it is masked (PCI 3.0, section 6.8).
///
/// Masked at first. A leaf: it calls no device, so that a device may trigger, and a bus set
/// routes, while holding their own locks.
pub trait MessageVector: Send + Sync {
    /// Unmasks with this message, or masks (`None`). What became pending while it was masked is
    /// sent at once, as one message.
    fn set_route(&self, message: Option<Msi>);

    /// [`Self::set_route`] will be called with this message shortly. Whoever unmasks several
    /// vectors says so of all of them first: the hypervisor's table is then replaced once, and not
    /// once for each.
    fn prepare_route(&self, _message: Msi) {}

    /// Sends the message, or keeps it pending while masked.
    fn trigger(&self);

    /// Whether a message waits for being unmasked: the vector's bit in the pending bit array.
    fn is_pending(&self) -> bool;

    /// Forgets a pending message.
    fn clear(&self);

    /// A descriptor of the vector's eventfd: each write to it is a [`Self::trigger`], whoever
    /// makes it. It is the same eventfd for the vector's life, masked or not.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where no hypervisor listens to one, so that an event loop has
    /// to ([`crate::Interrupt::eventfd`]); [`io::ErrorKind::QuotaExceeded`] if it listens to as many
    /// as it can; the operating system's refusal.
    fn eventfd(&self) -> io::Result<OwnedFd>;
}

/// A vector whose messages go to an [`MsiSink`].
pub struct SinkVector {
    sink: Arc<dyn MsiSink>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    message: Option<Msi>,
    pending: bool,
}

impl SinkVector {
    /// A masked vector of the function with this sink.
    pub fn new(sink: Arc<dyn MsiSink>) -> Self {
        Self { sink, state: Mutex::default() }
    }

    /// The message it is unmasked with; `None` while it is masked. A vector of a hypervisor, which is
    /// this and an eventfd besides, asks.
    pub fn route(&self) -> Option<Msi> {
        self.state.lock().message
    }
}

impl MessageVector for SinkVector {
    fn set_route(&self, message: Option<Msi>) {
        let mut state = self.state.lock();
        state.message = message;
        if let Some(Msi { address, data }) = message
            && std::mem::take(&mut state.pending)
        {
            self.sink.send(address, data);
        }
    }

    fn trigger(&self) {
        let mut state = self.state.lock();
        match state.message {
            Some(Msi { address, data }) => self.sink.send(address, data),
            None => state.pending = true,
        }
    }

    fn is_pending(&self) -> bool {
        self.state.lock().pending
    }

    fn clear(&self) {
        self.state.lock().pending = false;
    }

    fn eventfd(&self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u64, u32)>>);

    impl MsiSink for Log {
        fn send(&self, address: u64, data: u32) {
            self.0.lock().push((address, data));
        }
    }

    #[test]
    fn what_is_triggered_while_masked_is_sent_once_when_unmasked() {
        let log = Arc::new(Log::default());
        let vector = SinkVector::new(log.clone());
        vector.trigger();
        vector.trigger();
        assert!(vector.is_pending());
        vector.set_route(Some(Msi { address: 0xfee0_0000, data: 0x41 }));
        assert!(!vector.is_pending());
        assert_eq!(vector.route(), Some(Msi { address: 0xfee0_0000, data: 0x41 }));
        vector.set_route(Some(Msi { address: 0xfee0_1000, data: 0x42 }));
        vector.trigger();
        assert_eq!(*log.0.lock(), [(0xfee0_0000, 0x41), (0xfee0_1000, 0x42)]);
    }

    #[test]
    fn a_pending_message_can_be_forgotten_and_masking_sends_nothing() {
        let log = Arc::new(Log::default());
        let vector = SinkVector::new(log.clone());
        vector.trigger();
        vector.clear();
        assert!(!vector.is_pending());
        vector.set_route(Some(Msi::default()));
        vector.set_route(None);
        assert_eq!(vector.route(), None);
        assert!(log.0.lock().is_empty() && !vector.is_pending());
        assert_eq!(vector.eventfd().unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}
