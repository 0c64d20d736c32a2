//! What every transport has: negotiation, queues, configuration space, and a device's notifications.
//!
//! A transport maps its registers to a [`Core`], and says how it interrupts ([`Interrupts`]). Locks
//! nest in one direction: the registers', the device's, a queue's, that of [`Signals`] and the
//! transport's interrupt; nothing below takes one above.

mod legacy;
mod offered;
mod signals;
mod state;

use std::io;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use trapline_device::{DoorbellTarget, EventHandler, EventLoop, Readiness, Size, StateError};
use trapline_guestmem::GuestMem;

use crate::device::DeviceEvents;
use crate::features::{RING_RESET, VERSION_1};
use crate::queue::{Queue, QueueEvents};
use crate::{Activation, DeviceType, Link, QueuePlace, VirtioDevice};
pub(crate) use legacy::{LEGACY_PAGE, legacy_place};
use offered::Offered;
pub(crate) use offered::{Interface, Interfaces};
use signals::Signals;
use state::half_of;
pub(crate) use state::{Area, CoreState, CoreV1, QueueState, State, StatusBits};

/// How a transport interrupts its driver. Leaves: they call no device.
pub(crate) trait Interrupts: Send + Sync {
    /// Buffers of this queue were used.
    fn queue(&self, queue: u16);

    /// The configuration changed, or the device needs a reset.
    fn config(&self);
}

/// What a write to a register has done to the device as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// It is in use: doorbells can be switched on.
    Started,
    /// It is as after power-on.
    Reset,
}

/// A device and what a driver has made of its registers.
pub(crate) struct Core {
    device: Arc<dyn VirtioDevice>,
    offered: Offered,
    queues: Vec<Arc<Queue>>,
    signals: Arc<Signals>,
    /// What the event loop calls, one for each queue.
    _bells: Vec<Arc<Bell>>,
    state: Mutex<State>,
}

/// Processes a queue on the event loop.
struct Bell {
    device: Arc<dyn VirtioDevice>,
    queue: Arc<Queue>,
}

impl EventHandler for Bell {
    fn event(&self, _ready: Readiness) {
        if self.queue.is_live() {
            self.device.process(self.queue.index());
        }
    }
}

impl Core {
    /// `device` behind these interfaces, with its queues in `mem`, processed on `event_loop`.
    ///
    /// # Errors
    /// The operating system has no descriptors left for the doorbells.
    pub(crate) fn new(
        device: Arc<dyn VirtioDevice>,
        interfaces: Interfaces,
        mem: &GuestMem,
        event_loop: &dyn EventLoop,
        interrupts: Arc<dyn Interrupts>,
    ) -> io::Result<Self> {
        let offered = Offered::new(device.features(), interfaces);
        let signals = Arc::new(Signals::new(interrupts));
        let sizes = device.queue_sizes();
        let events: Arc<dyn QueueEvents> = signals.clone();
        let queue = |(index, size): (u16, &u16)| {
            Arc::new(Queue::new(index, *size, mem.clone(), Arc::clone(&events)))
        };
        let queues: Vec<_> = (0..).zip(&sizes).map(queue).collect();
        let bells: Vec<_> = queues
            .iter()
            .map(|queue| Arc::new(Bell { device: Arc::clone(&device), queue: Arc::clone(queue) }))
            .collect();
        let doorbells = bells.iter().map(|bell| {
            let handler: Weak<Bell> = Arc::downgrade(bell);
            event_loop.doorbell(handler)
        });
        signals.set_doorbells(doorbells.collect::<Result<_, _>>()?);
        let transport: Arc<dyn DeviceEvents> = signals.clone();
        device.attach(&Link::new(Arc::downgrade(&transport)));
        let state = Mutex::new(State::new(&sizes));
        Ok(Self { device, offered, queues, signals, _bells: bells, state })
    }

    /// Which kind of device it is.
    pub(crate) fn device_type(&self) -> DeviceType {
        self.device.device_type()
    }

    /// The registers.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// How many queues there are.
    pub(crate) fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    /// The features the device offers at an interface: 32 of them, as selected.
    pub(crate) fn offered(&self, interface: Interface, select: u32) -> u32 {
        half_of(self.offered.at(interface), select)
    }

    /// Takes 32 of the features a driver accepts, as selected. They are frozen once it has been told
    /// that they can be had, or has started the device.
    pub(crate) fn accept(&self, interface: Interface, select: u32, value: u32) {
        let state = &mut *self.state.lock();
        if state.status & (StatusBits::FEATURES_OK | StatusBits::DRIVER_OK) != 0 {
            return;
        }
        match (interface, select) {
            // Nobody tells a legacy driver that it may not have a feature.
            (Interface::Legacy, 0) => {
                state.features = u64::from(value) & self.offered.at(interface);
            }
            (Interface::Legacy, _) => {}
            (Interface::Modern, 0) => {
                state.features = state.features & !u64::from(u32::MAX) | u64::from(value);
            }
            (Interface::Modern, 1) => {
                state.features = state.features & u64::from(u32::MAX) | u64::from(value) << 32;
            }
            (Interface::Modern, _) => state.beyond |= value != 0,
        }
    }

    /// The device status, of these registers.
    pub(crate) fn status(&self, state: &State) -> u8 {
        let needs_reset = self.signals.state().needs_reset;
        state.status | if needs_reset { StatusBits::NEEDS_RESET } else { 0 }
    }

    /// Takes a write of the device status. Bits that were set stay so until a reset, which is over
    /// when this returns.
    pub(crate) fn set_status(&self, interface: Interface, value: u8) -> Change {
        if value == 0 {
            self.reset();
            return Change::Reset;
        }
        let mut state = self.state.lock();
        let before = state.status;
        let mut status = before | value & interface.status_bits();
        let begun = |bit| status & !before & bit != 0;
        let (features_ok, driver_ok) =
            (begun(StatusBits::FEATURES_OK), begun(StatusBits::DRIVER_OK));
        if features_ok && !self.acceptable(&state) {
            status &= !StatusBits::FEATURES_OK;
        }
        if status & StatusBits::FEATURES_OK == 0 && driver_ok {
            match interface {
                Interface::Modern => status &= !StatusBits::DRIVER_OK,
                // What it may have accepted elsewhere was never judged.
                Interface::Legacy => state.features &= self.offered.at(interface),
            }
        }
        state.status = status;
        if driver_ok && status & StatusBits::DRIVER_OK != 0 {
            self.start(&state);
            drop(state);
            self.ring_all();
            return Change::Started;
        }
        Change::None
    }

    /// Whether a modern driver can have the features it has accepted.
    fn acceptable(&self, state: &State) -> bool {
        let offered = self.offered.at(Interface::Modern);
        let offered = state.features & !offered == 0 && !state.beyond;
        offered && state.features & VERSION_1 != 0 && self.device.can_have(state.features)
    }

    /// Starts the device with the queues that are enabled.
    fn start(&self, state: &State) {
        self.signals.set_running(true);
        let activation = Activation { features: state.features, queues: &self.queues };
        self.device.activate(&activation);
        for (queue, registers) in self.queues.iter().zip(&state.queues) {
            if registers.enabled {
                self.start_queue(queue, registers, state.features);
            }
        }
    }

    fn start_queue(&self, queue: &Queue, registers: &QueueState, features: u64) {
        if let Err(error) = queue.start(&registers.place(), features) {
            tracing::debug!("queue {} cannot be started: {error}", queue.index());
            self.signals.needs_reset();
        }
    }

    /// Has the selected queue enabled, as its registers say.
    pub(crate) fn enable_queue(&self) {
        let mut state = self.state.lock();
        let (running, features, index) = (state.is_running(), state.features, state.queue_select);
        let Some(registers) = state.queue_mut().filter(|queue| !queue.enabled) else { return };
        registers.enabled = true;
        let registers = registers.clone();
        // Only after a reset of the queue; before, it starts with the device.
        if let Some(queue) = self.queues.get(usize::from(index)).filter(|_| running) {
            self.start_queue(queue, &registers, features);
            drop(state);
            self.ring(index);
        }
    }

    /// Says where the selected queue is, unless it is in use.
    pub(crate) fn move_queue(&self, place: &QueuePlace) {
        let mut state = self.state.lock();
        if let Some(queue) = state.queue_mut().filter(|queue| !queue.enabled) {
            queue.descriptors = place.descriptors;
            queue.driver = place.driver;
            queue.device = place.device;
        }
    }

    /// Stops the selected queue, and waits for its requests.
    pub(crate) fn disable_queue(&self) {
        let mut state = self.state.lock();
        let index = state.queue_select;
        if let Some(registers) = state.queue_mut()
            && let Some(queue) = self.queues.get(usize::from(index))
        {
            registers.enabled = false;
            queue.stop();
            self.device.stop_queue(index);
        }
    }

    /// Resets the selected queue, its registers included, if the driver may ([`RING_RESET`]).
    pub(crate) fn reset_queue(&self) -> bool {
        let may = self.state.lock().features & RING_RESET != 0;
        if may {
            self.disable_queue();
            let mut state = self.state.lock();
            if let Some(registers) = state.queue_mut() {
                *registers = QueueState::new(registers.max_size);
            }
        }
        may
    }

    /// The driver notifies a queue. Before it has started the device that means nothing: every
    /// queue is looked at then.
    pub(crate) fn ring(&self, queue: u16) {
        self.signals.ring(queue);
    }

    fn ring_all(&self) {
        (0..self.queue_count()).for_each(|queue| self.ring(queue));
    }

    /// What a doorbell of this queue is to ring.
    pub(crate) fn doorbell(&self, queue: u16) -> Option<DoorbellTarget> {
        self.signals.doorbell(queue)
    }

    /// As after power-on. When this returns nothing is in flight.
    pub(crate) fn reset(&self) {
        let mut state = self.state.lock();
        self.signals.reset();
        self.queues.iter().for_each(|queue| queue.stop());
        self.device.reset();
        state.reset();
    }

    /// What tells a driver that what it read of the configuration belongs together.
    pub(crate) fn generation(&self) -> u8 {
        self.signals.state().generation
    }

    /// Answers a read of the configuration space. Bytes past its end are all ones.
    pub(crate) fn config_read(&self, offset: u64, size: Size) -> u64 {
        self.signals.config_read();
        let mut bytes = [0xff; 8];
        let inside = self.inside(offset, size);
        if let (Ok(offset), Some(data)) = (u32::try_from(offset), bytes.get_mut(..inside))
            && inside > 0
        {
            self.device.config_read(offset, data);
        }
        u64::from_le_bytes(bytes) & size.ones()
    }

    /// Takes a write of the configuration space. Bytes past its end vanish.
    pub(crate) fn config_write(&self, offset: u64, size: Size, value: u64) {
        let inside = self.inside(offset, size);
        if let (Ok(offset), Some(data)) = (u32::try_from(offset), value.to_le_bytes().get(..inside))
            && inside > 0
        {
            self.device.config_write(offset, data);
        }
    }

    /// How many bytes of an access are inside of the configuration space.
    fn inside(&self, offset: u64, size: Size) -> usize {
        let left = u64::from(self.device.config_len()).saturating_sub(offset);
        usize::try_from(left).unwrap_or(usize::MAX).min(size.bytes())
    }

    /// What a snapshot keeps.
    pub(crate) fn save(&self) -> CoreState {
        let mut state = self.state.lock().clone();
        for (queue, registers) in self.queues.iter().zip(&mut state.queues) {
            registers.position = queue.position();
        }
        let signals = self.signals.state();
        CoreState {
            state,
            needs_reset: signals.needs_reset,
            generation: signals.generation,
            config_read: signals.config_read,
            device: self.device.save(),
        }
    }

    /// Whether a device restored from [`Core::save`] would go on as this one.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.device.is_at_rest() && self.queues.iter().all(|queue| queue.is_at_rest())
    }

    /// Whether `saved` is a state of a device of this make; the device itself is not asked.
    pub(crate) fn can_be(&self, saved: &CoreState) -> bool {
        let State { status, features, beyond, queues, .. } = &saved.state;
        let (modern, legacy) =
            (self.offered.at(Interface::Modern), self.offered.at(Interface::Legacy));
        let judged = status & StatusBits::FEATURES_OK != 0;
        let negotiated = match judged {
            true => features & VERSION_1 != 0 && features & !modern == 0 && !beyond,
            false => {
                status & StatusBits::DRIVER_OK == 0
                    || self.offered.has_legacy() && features & !legacy == 0
            }
        };
        let sizes = self.queues.iter().map(|queue| queue.max_size());
        let same = sizes.eq(queues.iter().map(|queue| queue.max_size));
        let positions = queues.iter().all(QueueState::is_possible);
        status & !StatusBits::DRIVERS == 0 && negotiated && same && positions
    }

    /// Becomes what `saved` says, if it [can](Self::can_be).
    pub(crate) fn restore(&self, saved: CoreState) -> Result<(), StateError> {
        let CoreState { state: restored, needs_reset, generation, config_read, device } = saved;
        let mut state = self.state.lock();
        self.queues.iter().for_each(|queue| queue.stop());
        self.device.restore(&device)?;
        *state = restored;
        self.signals.restore(state.is_running(), needs_reset, generation, config_read);
        let state = &mut *state;
        if state.is_running() {
            let activation = Activation { features: state.features, queues: &self.queues };
            self.device.activate(&activation);
            for (queue, registers) in self.queues.iter().zip(&mut state.queues) {
                if let Some(position) = registers.position.take() {
                    let place = registers.place();
                    // A queue that cannot go on is one that the driver had broken.
                    let _ = queue.resume(&place, state.features, &position);
                }
            }
            self.ring_all();
        }
        Ok(())
    }
}
