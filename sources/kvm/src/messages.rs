//! Messages of PCI functions to the interrupt controllers in the kernel, and their vectors.
//!
//! A vector that this process triggers is one `KVM_SIGNAL_MSI`. Once somebody has asked for its
//! eventfd, it also has a GSI of its own, whose route is the message, and an irqfd while it is
//! unmasked: KVM then takes the eventfd's signals itself. While it is masked, the counter of the
//! eventfd keeps them, and KVM looks at it when the irqfd is assigned again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kvm_bindings::{KVM_MSI_VALID_DEVID, kvm_msi};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use trapline_device::{MessageVector, Msi, MsiController, MsiSink, SinkVector};

use crate::routing::{self, Route, halves};
use crate::{Vm, ioctl};

/// The interrupt controllers of a VM that take messages by `KVM_SIGNAL_MSI`: the local APICs, or an
/// ITS.
struct KernelMessages {
    vm: Arc<Vm>,
    /// Whether a message says which function sends it.
    with_device_id: bool,
}

impl Vm {
    /// Where messages go by `KVM_SIGNAL_MSI`.
    pub(crate) fn kernel_messages(
        self: &Arc<Self>,
        with_device_id: bool,
    ) -> impl MsiController + use<> {
        KernelMessages { vm: Arc::clone(self), with_device_id }
    }

    /// A vector, masked, whose messages `sink` takes. `route` says where KVM is to send the message
    /// that an eventfd stands for.
    pub(crate) fn vector(
        self: &Arc<Self>,
        sink: Arc<dyn MsiSink>,
        route: impl Fn(Msi) -> Option<Route> + Send + Sync + 'static,
    ) -> Arc<dyn MessageVector> {
        let (vm, route) = (Arc::clone(self), Box::new(route));
        let (messages, event) = (SinkVector::new(sink), Mutex::default());
        Arc::new(KernelVector { vm, route, messages, event })
    }
}

impl KernelMessages {
    fn device_id(&self, requester: u16) -> Option<u32> {
        self.with_device_id.then_some(requester.into())
    }
}

impl MsiController for KernelMessages {
    fn sink(&self, requester: u16) -> Arc<dyn MsiSink> {
        Arc::new(SignalMsi { vm: Arc::clone(&self.vm), device_id: self.device_id(requester) })
    }

    fn vector(&self, requester: u16) -> Arc<dyn MessageVector> {
        let device_id = self.device_id(requester);
        let route = move |message| Some(Route::Message { message, device_id });
        self.vm.vector(self.sink(requester), route)
    }
}

/// One function's messages by `KVM_SIGNAL_MSI`.
pub(crate) struct SignalMsi {
    pub(crate) vm: Arc<Vm>,
    pub(crate) device_id: Option<u32>,
}

impl MsiSink for SignalMsi {
    fn send(&self, address: u64, data: u32) {
        let (address_lo, address_hi) = halves(address);
        let message = kvm_msi {
            address_lo,
            address_hi,
            data,
            flags: if self.device_id.is_some() { KVM_MSI_VALID_DEVID } else { 0 },
            devid: self.device_id.unwrap_or(0),
            ..Default::default()
        };
        // KVM refuses messages that no local APIC takes or the ITS does not translate, and those
        // lead nowhere.
        let _ = self.vm.fd().signal_msi(message);
    }
}

/// A vector of a function whose interrupt controller is in the kernel.
struct KernelVector {
    vm: Arc<Vm>,
    route: Box<dyn Fn(Msi) -> Option<Route> + Send + Sync>,
    /// What this process triggers.
    messages: SinkVector,
    /// What its eventfd signals, once that was asked for. The lock is held while the route changes.
    event: Mutex<Option<Event>>,
}

/// An eventfd for the vector's life.
struct Event {
    fd: OwnedFd,
    gsi: u32,
    /// Whether KVM takes its signals.
    assigned: bool,
}

impl MessageVector for KernelVector {
    fn set_route(&self, message: Option<Msi>) {
        let mut event = self.event.lock();
        if let Err(error) = self.update(&mut event, message) {
            // What was signalled waits in the eventfd.
            routing::report(&error);
        }
        self.messages.set_route(message);
    }

    fn prepare_route(&self, message: Msi) {
        if let Some(event) = &*self.event.lock() {
            self.vm.routing().stage(event.gsi, (self.route)(message));
        }
    }

    fn trigger(&self) {
        self.messages.trigger();
    }

    fn is_pending(&self) -> bool {
        self.messages.is_pending() || self.event.lock().as_ref().is_some_and(Event::is_pending)
    }

    fn clear(&self) {
        self.messages.clear();
        if let Some(event) = &*self.event.lock() {
            event.clear();
        }
    }

    fn eventfd(&self) -> io::Result<OwnedFd> {
        let mut event = self.event.lock();
        if event.is_none() {
            *event = Some(self.new_event()?);
            self.update(&mut event, self.messages.route())?;
        }
        let event = event.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        event.fd.try_clone()
    }
}

impl KernelVector {
    fn new_event(&self) -> io::Result<Event> {
        if !self.vm.caps().irqfd {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let gsi = self.vm.routing().allocate().ok_or(io::ErrorKind::QuotaExceeded)?;
        Ok(Event { fd, gsi, assigned: false })
    }

    /// Has KVM listen to the eventfd while `message` has a route, which is there first and stays as
    /// long as KVM listens.
    fn update(&self, event: &mut Option<Event>, message: Option<Msi>) -> io::Result<()> {
        let Some(event) = event else { return Ok(()) };
        let route = message.and_then(|message| (self.route)(message));
        if let Some(route) = route {
            self.vm.routing().stage(event.gsi, Some(route));
            self.vm.routing().commit(self.vm.fd()).map_err(io::Error::other)?;
        }
        event.assign(&self.vm, route.is_some())
    }
}

impl Event {
    fn assign(&mut self, vm: &Vm, assigned: bool) -> io::Result<()> {
        if assigned != self.assigned {
            ioctl::irqfd(vm.fd(), self.fd.as_fd(), self.gsi, None, assigned)?;
            self.assigned = assigned;
        }
        Ok(())
    }

    /// Whether a signal waits for KVM to listen again. What KVM is about to take does not wait.
    fn is_pending(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        !self.assigned && ready.is_ok_and(|ready| ready > 0)
    }

    fn clear(&self) {
        if !self.assigned {
            // Nothing to read is nothing to forget.
            let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        }
    }
}

impl Drop for KernelVector {
    fn drop(&mut self) {
        let Some(mut event) = self.event.get_mut().take() else { return };
        match event.assign(&self.vm, false) {
            Ok(()) => self.vm.routing().release(event.gsi),
            // The route stays as long as KVM listens.
            Err(error) => tracing::debug!("an eventfd was not given back: {error}"),
        }
    }
}
