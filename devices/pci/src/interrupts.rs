//! A function's interrupts: its pin, its messages, and which of them its registers let through.

use std::sync::Arc;

use trapline_device::{Interrupt, InterruptMode, Line, MsiSink, SinkVector, Size};

use crate::config::ConfigSpace;
use crate::function::Slot;
use crate::msi::MsiCapability;
use crate::msix::{Gate, Vectors};
use crate::regs::{MSIX_CONTROL, MSIX_ENABLE, MSIX_FUNCTION_MASK};

/// What the registers are asked about.
pub(crate) struct Interrupts {
    pub(crate) msi: Option<MsiCapability>,
    /// Offset of the MSI-X capability.
    pub(crate) msix: Option<u16>,
    pub(crate) vectors: Arc<Vectors>,
    /// What the device holds of the pin, alone or besides a message.
    pins: Vec<Interrupt>,
    /// What it holds of messages alone.
    messages: Vec<Interrupt>,
    pin: Line,
}

/// Messages where no interrupt controller takes any.
struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _address: u64, _data: u32) {}
}

impl Interrupts {
    /// The interrupts of the function in `slot`, with `vectors` messages.
    pub(crate) fn new(slot: &Slot<'_>, vectors: u16) -> Self {
        let requester = slot.devfn.into_bits().into();
        let vector = |_| match slot.messages {
            Some(controller) => controller.vector(requester),
            None => Arc::new(SinkVector::new(Arc::new(Nowhere))),
        };
        let vectors = Arc::new(Vectors::new((0..vectors).map(vector).collect()));
        let pin = slot.pin.as_ref().map_or_else(Line::unconnected, Line::share);
        Self { msi: None, msix: None, vectors, pins: Vec::new(), messages: Vec::new(), pin }
    }

    /// A handle on the pin.
    pub(crate) fn pin(&mut self) -> Interrupt {
        let pin = Interrupt::pin(self.pin.share());
        self.pins.push(pin.clone());
        pin
    }

    /// A handle on message `number`, and nothing else.
    ///
    /// # Panics
    /// When there is no such message.
    pub(crate) fn message(&mut self, number: usize) -> Interrupt {
        let vector = self.vectors.vector(number);
        let vector = vector.unwrap_or_else(|| panic!("the function has no message {number}"));
        let message = Interrupt::message(Arc::clone(vector));
        self.messages.push(message.clone());
        message
    }

    /// A handle on message `number`, or on the pin while no messages are in use.
    pub(crate) fn either(&mut self, number: usize) -> Interrupt {
        match self.vectors.vector(number) {
            Some(vector) => {
                let either = Interrupt::either(self.pin.share(), Arc::clone(vector));
                self.pins.push(either.clone());
                either
            }
            None => self.pin(),
        }
    }

    /// Whether the function wants to interrupt by its pin, whether it may or not.
    pub(crate) fn pin_pending(&self, config: &ConfigSpace) -> bool {
        self.gate(config, true) == Gate::Closed && self.pins.iter().any(Interrupt::level)
    }

    /// Has `observer` called whenever [`Interrupts::pin_pending`] may change without anybody's writing
    /// a register; see [`Interrupt::observe_level`].
    pub(crate) fn observe_pins(&self, observer: &Arc<dyn Fn() + Send + Sync>) {
        for pin in &self.pins {
            let observer = Arc::clone(observer);
            pin.observe_level(move || observer());
        }
    }

    /// Lets through what the registers say; nothing of a function that is not `awake`.
    pub(crate) fn sync(&self, config: &ConfigSpace, awake: bool) {
        let gate = self.gate(config, awake);
        let command = config.command();
        let mode = match gate {
            _ if !awake => InterruptMode::Disabled,
            // A message is a write to memory. Without a table there is nothing to keep it in.
            Gate::Single(None) => InterruptMode::Disabled,
            Gate::Single(_) | Gate::Table { .. } => InterruptMode::Message,
            Gate::Closed if command.interrupt_disable() => InterruptMode::Disabled,
            Gate::Closed => InterruptMode::Pin,
        };
        self.vectors.set_gate(gate);
        self.pins.iter().for_each(|interrupt| interrupt.set_mode(mode));
        let mode = match mode {
            InterruptMode::Message => InterruptMode::Message,
            InterruptMode::Pin | InterruptMode::Disabled => InterruptMode::Disabled,
        };
        self.messages.iter().for_each(|interrupt| interrupt.set_mode(mode));
    }

    fn gate(&self, config: &ConfigSpace, awake: bool) -> Gate {
        let control = self.msix.map_or(0, |at| config.read(at + MSIX_CONTROL, Size::Word));
        if control & u32::from(MSIX_ENABLE) != 0 {
            let masked = control & u32::from(MSIX_FUNCTION_MASK) != 0;
            return Gate::Table { masked: masked || !awake || !config.command().master() };
        }
        let message = self.msi.and_then(|msi| msi.message(config));
        let may = awake && config.command().master();
        message.map_or(Gate::Closed, |message| Gate::Single(may.then_some(message)))
    }
}
