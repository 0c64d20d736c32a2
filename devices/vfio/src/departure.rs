//! The end of an assignment that the guest has not asked for: the host wants the function back, or it
//! has failed.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use trapline_device::{EventHandler, EventLoop, Readiness, WatchedEventFd};
use vfio_bindings::bindings::vfio::{VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX};

use crate::hardware::{Hardware, Irq, IrqAction};

/// Why a function goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The host wants it back: somebody takes it from vfio-pci, or out of the machine.
    Requested,
    /// It has reported an error that it cannot go on after.
    Failed,
}

/// Called on the event loop's thread when a function goes, perhaps more than once. It takes the
/// function off the bus.
pub type OnDeparture = Arc<dyn Fn(Departure) + Send + Sync>;

/// The two eventfds by which the kernel says so.
pub(crate) struct Watches {
    hardware: Arc<dyn Hardware>,
    watched: Vec<(u32, WatchedEventFd)>,
    _callers: Vec<Arc<Caller>>,
}

struct Caller {
    what: Departure,
    on: OnDeparture,
}

impl EventHandler for Caller {
    fn event(&self, _: Readiness) {
        (self.on)(self.what);
    }
}

impl Watches {
    /// Has `on` hear of what of both the kernel can say of this function.
    pub(crate) fn new(
        hardware: &Arc<dyn Hardware>,
        on: &OnDeparture,
        event_loop: &dyn EventLoop,
    ) -> io::Result<Self> {
        let (hardware, mut watched, mut callers) = (Arc::clone(hardware), Vec::new(), Vec::new());
        let kinds = [
            (VFIO_PCI_REQ_IRQ_INDEX, Departure::Requested),
            (VFIO_PCI_ERR_IRQ_INDEX, Departure::Failed),
        ];
        for (index, what) in kinds {
            if hardware.irqs(index).unwrap_or(0) == 0 {
                continue;
            }
            let caller = Arc::new(Caller { what, on: Arc::clone(on) });
            let handler: Weak<Caller> = Arc::downgrade(&caller);
            let event = event_loop.eventfd(handler)?;
            let trigger = IrqAction::Trigger(vec![event.event().as_fd()]);
            hardware.set_irqs(&Irq { index, action: trigger })?;
            watched.push((index, event));
            callers.push(caller);
        }
        Ok(Self { hardware, watched, _callers: callers })
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        for (index, _) in &self.watched {
            // The kernel forgets with the device what it does not now.
            let _ = self.hardware.set_irqs(&Irq { index: *index, action: IrqAction::Off });
        }
    }
}
