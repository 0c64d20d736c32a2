//! A function's interrupts on their way from the host's kernel to the guest: which of pin, MSI and
//! MSI-X the host has switched on, and the eventfds in between.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{EventFd, EventLoop, Interrupt};
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
};

use crate::hardware::{Hardware, Irq, IrqAction};

/// A level-triggered input of the guest's interrupt controllers that eventfds drive, so that a pin of
/// the host gets there and its end gets back without this process (KVM's irqfds with resampling).
pub trait ResampledPin: Send + Sync {
    /// Signalled, it asserts the input.
    fn assert(&self) -> BorrowedFd<'_>;
    /// Signalled when the guest has ended the interrupt, and the input is no longer asserted.
    fn ended(&self) -> BorrowedFd<'_>;
}

/// Connects the input that the function's pin leads to; dropping what it returns disconnects it.
pub type PinConnector = Arc<dyn Fn() -> io::Result<Box<dyn ResampledPin>> + Send + Sync>;

/// What a function's registers have switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Nothing,
    Pin,
    Msi,
    /// How many vectors of it, [`Interrupts::use_vectors`] says.
    Msix,
}

/// What the host has switched on.
enum Current {
    Nothing,
    Pin {
        _input: Box<dyn ResampledPin>,
    },
    Msi,
    Msix,
    /// The host has refused. Asked again when the registers want something else.
    Refused(Wanted),
}

/// See the module.
pub(crate) struct Interrupts {
    name: Arc<str>,
    hardware: Arc<dyn Hardware>,
    pin: Option<PinConnector>,
    /// What the bus masks and routes, of which the first is MSI's, too.
    messages: Vec<Interrupt>,
    event_loop: Arc<dyn EventLoop>,
    state: Mutex<State>,
}

struct State {
    current: Current,
    /// Of the first messages, from when they were first wanted.
    events: Vec<EventFd>,
    /// How many MSI-X vectors the host has switched on.
    vectors: usize,
    said: bool,
}

impl Interrupts {
    pub(crate) fn new(
        name: &str,
        hardware: Arc<dyn Hardware>,
        (pin, messages): (Option<PinConnector>, Vec<Interrupt>),
        event_loop: Arc<dyn EventLoop>,
    ) -> Self {
        let state =
            State { current: Current::Nothing, events: Vec::new(), vectors: 0, said: false };
        let (name, state) = (name.into(), Mutex::new(state));
        Self { name, hardware, pin, messages, event_loop, state }
    }

    /// Switches to what the registers say.
    pub(crate) fn want(&self, wanted: Wanted) {
        let state = &mut *self.state.lock();
        let same = match &state.current {
            Current::Nothing => wanted == Wanted::Nothing,
            Current::Pin { .. } => wanted == Wanted::Pin,
            Current::Msi => wanted == Wanted::Msi,
            Current::Msix => wanted == Wanted::Msix,
            Current::Refused(before) => wanted == *before,
        };
        if same {
            return;
        }
        self.leave(state);
        let entered = match wanted {
            Wanted::Nothing => Ok(Current::Nothing),
            Wanted::Pin => self.enter_pin(),
            Wanted::Msi => self.trigger(state, VFIO_PCI_MSI_IRQ_INDEX, 1).map(|()| Current::Msi),
            // Those that the table lets through are switched on when it does.
            Wanted::Msix => Ok(Current::Msix),
        };
        state.current = entered.unwrap_or_else(|error| {
            self.report(state, &error);
            Current::Refused(wanted)
        });
    }

    /// The MSI-X table lets vectors below `count` through.
    pub(crate) fn use_vectors(&self, count: usize) {
        let state = &mut *self.state.lock();
        if !matches!(state.current, Current::Msix) || count <= state.vectors {
            return;
        }
        let before = std::mem::take(&mut state.vectors);
        // Before Linux 6.5 the number of vectors can only be changed by switching them all off.
        if before > 0 {
            let _ = self.off(VFIO_PCI_MSIX_IRQ_INDEX);
        }
        match self.trigger(state, VFIO_PCI_MSIX_IRQ_INDEX, count) {
            Ok(()) => state.vectors = count,
            Err(error) => {
                self.report(state, &error);
                // Those there were are better than none.
                if before > 0 && self.trigger(state, VFIO_PCI_MSIX_IRQ_INDEX, before).is_ok() {
                    state.vectors = before;
                }
            }
        }
        // Whatever came while they were off: drivers find nothing to do, or what they would have
        // missed.
        state.events.iter().take(before).for_each(EventFd::signal);
    }

    /// Everything off, as after a reset.
    pub(crate) fn reset(&self) {
        let state = &mut *self.state.lock();
        self.leave(state);
        state.current = Current::Nothing;
        for event in &state.events {
            event.take();
        }
    }

    fn leave(&self, state: &mut State) {
        state.vectors = 0;
        let left = match std::mem::replace(&mut state.current, Current::Nothing) {
            Current::Nothing | Current::Refused(_) => Ok(()),
            Current::Msi => self.off(VFIO_PCI_MSI_IRQ_INDEX),
            Current::Msix => self.off(VFIO_PCI_MSIX_IRQ_INDEX),
            Current::Pin { .. } => {
                let index = VFIO_PCI_INTX_IRQ_INDEX;
                let unmask = Irq { index, action: IrqAction::UnmaskBy(None) };
                let unmasked = self.hardware.set_irqs(&unmask);
                unmasked.and(self.off(index))
            }
        };
        if let Err(error) = left {
            tracing::debug!("{}: interrupts stay on: {error}", self.name);
        }
    }

    fn off(&self, index: u32) -> io::Result<()> {
        self.hardware.set_irqs(&Irq { index, action: IrqAction::Off })
    }

    /// Connects the pin: the guest's end first, so that nothing is signalled to nobody.
    fn enter_pin(&self) -> io::Result<Current> {
        let Some(connect) = &self.pin else { return Ok(Current::Nothing) };
        let input = connect()?;
        let index = VFIO_PCI_INTX_IRQ_INDEX;
        let trigger = Irq { index, action: IrqAction::Trigger(vec![input.assert()]) };
        self.hardware.set_irqs(&trigger)?;
        let unmask = Irq { index, action: IrqAction::UnmaskBy(Some(input.ended())) };
        self.hardware.set_irqs(&unmask).inspect_err(|_| {
            // The refusal is what there is to say.
            let _ = self.off(index);
        })?;
        Ok(Current::Pin { _input: input })
    }

    /// Has the host signal the eventfds of the first `count` messages.
    fn trigger(&self, state: &mut State, index: u32, count: usize) -> io::Result<()> {
        for message in self.messages.iter().take(count).skip(state.events.len()) {
            state.events.push(message.eventfd(&*self.event_loop)?);
        }
        let events = state.events.iter().take(count).map(AsFd::as_fd).collect();
        self.hardware.set_irqs(&Irq { index, action: IrqAction::Trigger(events) })
    }

    /// Says once that the guest gets no interrupts: it may try again and again.
    fn report(&self, state: &mut State, error: &io::Error) {
        if !std::mem::replace(&mut state.said, true) {
            tracing::error!("{}: the guest gets no interrupts of it: {error}", self.name);
        }
    }
}
