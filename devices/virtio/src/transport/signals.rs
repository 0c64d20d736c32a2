//! Notifications to the driver (used buffers, changed configuration), from whatever thread they come:
//! gathered here for the transport to make interrupts of them.

use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use trapline_device::{Doorbell, DoorbellTarget};

use super::Interrupts;
use crate::device::DeviceEvents;
use crate::queue::QueueEvents;

/// The way from queues and device to the driver, and back to the event loop.
pub(super) struct Signals {
    interrupts: Arc<dyn Interrupts>,
    doorbells: OnceLock<Vec<Doorbell>>,
    state: Mutex<SignalState>,
}

/// What a driver sees of it.
#[derive(Default)]
pub(super) struct SignalState {
    /// Whether the driver has started the device, and may be interrupted.
    running: bool,
    pub(super) needs_reset: bool,
    pub(super) generation: u8,
    /// Whether anything of the configuration was read in this generation.
    pub(super) config_read: bool,
}

impl Signals {
    pub(super) fn new(interrupts: Arc<dyn Interrupts>) -> Self {
        Self { interrupts, doorbells: OnceLock::new(), state: Mutex::default() }
    }

    /// Called once.
    pub(super) fn set_doorbells(&self, doorbells: Vec<Doorbell>) {
        self.doorbells.get_or_init(|| doorbells);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, SignalState> {
        self.state.lock()
    }

    pub(super) fn set_running(&self, running: bool) {
        self.state.lock().running = running;
    }

    /// As after power-on, but for the generation: a driver that does not notice the reset could
    /// take two configurations for one.
    pub(super) fn reset(&self) {
        let mut state = self.state.lock();
        state.running = false;
        state.needs_reset = false;
    }

    pub(super) fn restore(
        &self,
        running: bool,
        needs_reset: bool,
        generation: u8,
        config_read: bool,
    ) {
        *self.state.lock() = SignalState { running, needs_reset, generation, config_read };
    }

    /// Something of the configuration is being read.
    pub(super) fn config_read(&self) {
        self.state.lock().config_read = true;
    }

    pub(super) fn doorbell(&self, queue: u16) -> Option<DoorbellTarget> {
        self.bell(queue).map(Doorbell::target)
    }

    pub(super) fn ring(&self, queue: u16) {
        if let Some(bell) = self.bell(queue) {
            bell.ring();
        }
    }

    fn bell(&self, queue: u16) -> Option<&Doorbell> {
        self.doorbells.get()?.get(usize::from(queue))
    }
}

impl QueueEvents for Signals {
    fn used(&self, queue: u16) {
        self.interrupts.queue(queue);
    }

    fn broken(&self, _queue: u16) {
        self.needs_reset();
    }

    fn again(&self, queue: u16) {
        self.ring(queue);
    }
}

impl DeviceEvents for Signals {
    fn config_changed(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.config_read) {
            state.generation = state.generation.wrapping_add(1);
        }
        if state.running {
            self.interrupts.config();
        }
    }

    fn needs_reset(&self) {
        let mut state = self.state.lock();
        if state.running && !std::mem::replace(&mut state.needs_reset, true) {
            self.interrupts.config();
        }
    }

    fn process_soon(&self, queue: u16) {
        self.ring(queue);
    }
}
