//! How a virtio function interrupts: by its pin and the interrupt status, or by the vectors that a
//! driver has given its queues.

use parking_lot::Mutex;
use trapline_device::{Interrupt, InterruptMode, saved_form};
use trapline_pci::FunctionBuilder;

use super::regs::{ISR_CONFIG, ISR_QUEUE, NO_VECTOR};
use crate::transport::Interrupts;

/// The pin, the vectors, and which is for what.
pub(super) struct PciInterrupts {
    messages: Vec<Interrupt>,
    pin: Interrupt,
    state: Mutex<Vectors>,
}

/// What the driver sees of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vectors {
    pub(super) isr: u8,
    /// The vector of configuration changes, and those of the queues.
    pub(super) config: u16,
    pub(super) queues: Vec<u16>,
}

saved_form! {
    /// [`Vectors`], in the transport's version 1.
    pub(super) struct VectorsV1 of Vectors {
        isr: u8,
        config: u16,
        queues: Vec<u16> => list,
    }
}

impl Vectors {
    pub(super) fn new(queues: usize) -> Self {
        Self { isr: 0, config: NO_VECTOR, queues: vec![NO_VECTOR; queues] }
    }
}

impl PciInterrupts {
    /// The interrupts of a function that is being built, with `vectors` messages, of a device with
    /// `queues` queues.
    pub(super) fn new(builder: &mut FunctionBuilder<'_>, vectors: u16, queues: usize) -> Self {
        let messages = (0..usize::from(vectors)).map(|vector| builder.message(vector));
        let messages = messages.collect();
        Self { messages, pin: builder.pin(), state: Mutex::new(Vectors::new(queues)) }
    }

    /// Whether it interrupts by messages: MSI-X is enabled.
    pub(super) fn are_messages(&self) -> bool {
        self.pin.mode() == InterruptMode::Message
    }

    /// Reads the interrupt status, which clears it, and lowers the pin.
    pub(super) fn take_isr(&self) -> u8 {
        let mut state = self.state.lock();
        self.pin.set_level(false);
        std::mem::take(&mut state.isr)
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.state.lock().config
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        self.state.lock().config = self.existing(vector);
    }

    /// The vector of a queue; that of one there is not is none.
    pub(super) fn queue_vector(&self, queue: u16) -> u16 {
        let state = self.state.lock();
        state.queues.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR)
    }

    pub(super) fn set_queue_vector(&self, queue: u16, vector: u16) {
        let vector = self.existing(vector);
        if let Some(own) = self.state.lock().queues.get_mut(usize::from(queue)) {
            *own = vector;
        }
    }

    /// A vector that there is, or none.
    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.messages.len() { vector } else { NO_VECTOR }
    }

    /// Nothing has happened, and nothing has a vector.
    pub(super) fn reset(&self) {
        let mut state = self.state.lock();
        *state = Vectors::new(state.queues.len());
        self.pin.set_level(false);
    }

    pub(super) fn save(&self) -> Vectors {
        self.state.lock().clone()
    }

    /// Whether this function can have these vectors.
    pub(super) fn can_be(&self, saved: &Vectors) -> bool {
        let Vectors { isr, config, queues } = saved;
        let exist = |vector: &u16| self.existing(*vector) == *vector;
        let same = queues.len() == self.state.lock().queues.len();
        isr & !(ISR_QUEUE | ISR_CONFIG) == 0 && exist(config) && queues.iter().all(exist) && same
    }

    pub(super) fn restore(&self, saved: Vectors) {
        let mut state = self.state.lock();
        self.pin.set_level(saved.isr != 0);
        *state = saved;
    }

    fn send(&self, vector: u16) {
        if let Some(message) = self.messages.get(usize::from(vector)) {
            message.trigger();
        }
    }
}

impl Interrupts for PciInterrupts {
    /// With MSI-X enabled nothing is in the interrupt status about queues (4.1.4.5.1).
    fn queue(&self, queue: u16) {
        let mut state = self.state.lock();
        if self.are_messages() {
            self.send(state.queues.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR));
        } else {
            state.isr |= ISR_QUEUE;
            self.pin.set_level(true);
        }
    }

    /// That the configuration has changed is in the interrupt status in any case (4.1.4.5.1).
    ///
    /// By the pin, drivers are told to look at the queues as well: QEMU does so, and its own tests
    /// (qos-test, `resize`) wait for it.
    fn config(&self) {
        let mut state = self.state.lock();
        state.isr |= ISR_CONFIG;
        if self.are_messages() {
            self.pin.set_level(true);
            self.send(state.config);
        } else {
            state.isr |= ISR_QUEUE;
            self.pin.set_level(true);
        }
    }
}
