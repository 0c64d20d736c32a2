//! The console device: ports that carry characters, one of which can be the guest's console.
//!
//! A port's characters go to a [`CharBackend`] and come from there when the guest has a buffer for
//! them, so nothing is queued here: what a back end does not take stays in the guest's request, and
//! what the guest does not read stays at the back end. Control messages are derived from what the
//! driver has not been told (`control.rs`).
//!
//! Spec: virtio 1.3, section 5.3.
//!
//! Ports are either there for the device's life ([`Console::new`]) or come and go
//! ([`Console::with_places`]).
//!
//! Deviations: a device with nothing but a console has no multiport; the size of its terminal is told
//! by the configuration alone, whose order of columns and rows all drivers agree on. (Linux before
//! 6.15 takes those of a control message for rows and columns.)

mod control;
mod places;
mod port;
pub mod regs;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use trapline_device::{CharBackend, CharDevice, Clock, SaveState, Saved, StateError, Timer, Wake};

use crate::device::read_config;
use crate::features::OF_QUEUES;
use crate::{Activation, DeviceType, Link, Queue, VirtioDevice};
use control::{SavedV2, State};
pub use places::PortError;
use port::{Patience, Sent};
use regs::{CONFIG_LEN, EMERGENCY, F_EMERG_WRITE, F_MULTIPORT, F_SIZE, MESSAGE_LEN};

/// Descriptors of each queue: kvmtool's.
const QUEUE_SIZE: u16 = 128;

/// The most ports of a device, the console included: as many as QEMU's has.
pub const PORTS_MAX: usize = 31;

/// A port, as its board sets it up.
#[derive(Clone)]
pub struct PortSetup {
    /// What the guest knows it by.
    pub name: Option<String>,
    /// Whether it is a console for people.
    pub is_console: bool,
    /// Who is at its other end.
    pub backend: Arc<dyn CharBackend>,
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// The device.
pub struct Console {
    /// How many places for ports there are, empty ones included.
    places: usize,
    features: u64,
    clock: Arc<dyn Clock>,
    timer: Box<dyn Timer>,
    link: OnceLock<Link>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// By number. The first is the console, if there is one: a driver without multiport takes it
    /// for that.
    ports: Vec<Option<PortSetup>>,
    state: State,
    /// The terminal's, once it is known.
    size: Option<Size>,
    run: Run,
}

impl Inner {
    /// The console, if there is one.
    fn console(&self) -> Option<&PortSetup> {
        self.ports.first()?.as_ref()
    }
}

/// What is there while the device is in use.
#[derive(Default)]
struct Run {
    queues: Vec<Arc<Queue>>,
    /// Whether the driver knows of ports.
    multiport: bool,
    /// Whether it wants the terminal's size.
    sized: bool,
    patience: Vec<Patience>,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Receive(usize),
    Transmit(usize),
    ControlReceive,
    ControlTransmit,
}

impl Role {
    fn of(queue: u16) -> Self {
        let (pair, out) = (usize::from(queue / 2), queue % 2 == 1);
        match pair {
            1 if out => Self::ControlTransmit,
            1 => Self::ControlReceive,
            _ if out => Self::Transmit(pair.saturating_sub(1)),
            _ => Self::Receive(pair.saturating_sub(1)),
        }
    }

    /// The queue from which a port's characters are read; the next one is for those it is sent.
    fn receive_queue(port: usize) -> u16 {
        let pair = if port == 0 { 0 } else { port + 1 };
        u16::try_from(2 * pair).unwrap_or(u16::MAX)
    }

    /// That of control messages to the driver.
    const CONTROL_RECEIVE: u16 = 2;
}

impl Console {
    /// A device with the console, if there is one, as its port 0, and these others from 1 on. How
    /// long the console's terminal is waited for is measured by `clock`.
    ///
    /// # Panics
    /// When there is no port, or more than [`PORTS_MAX`].
    pub fn new(
        console: Option<PortSetup>,
        others: Vec<PortSetup>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        assert!(console.is_some() || !others.is_empty(), "a console device has a port");
        let others = others.into_iter().map(Some);
        let ports: Vec<_> = std::iter::once(console).chain(others).collect();
        assert!(ports.len() <= PORTS_MAX, "a console device has at most {PORTS_MAX} ports");
        let of_console =
            ports.first().and_then(Option::as_ref).map_or(0, |_| F_SIZE | F_EMERG_WRITE);
        let multiport = if matches!(ports.as_slice(), [Some(_)]) { 0 } else { F_MULTIPORT };
        Self::build(ports, of_console | multiport, clock)
    }

    fn build(ports: Vec<Option<PortSetup>>, features: u64, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (places, features) = (ports.len(), features | OF_QUEUES);
        let state = State::new(places);
        let inner = Mutex::new(Inner { ports, state, size: None, run: Run::default() });
        Arc::new_cyclic(|this| {
            let timer = clock.timer(Weak::<Self>::clone(this));
            Self { places, features, clock, timer, link: OnceLock::new(), inner }
        })
    }

    /// Whether one of its ports is a console, and not only others.
    pub fn has_console(&self) -> bool {
        self.inner.lock().console().is_some()
    }

    /// A port for its back end to call.
    pub fn port(self: &Arc<Self>, number: usize) -> Arc<dyn CharDevice> {
        Arc::new(Port { device: Arc::downgrade(self), number })
    }

    /// The console's terminal has this size.
    pub fn resize(&self, size: Size) {
        let mut inner = self.inner.lock();
        if inner.size.replace(size) == Some(size) {
            return;
        }
        let Inner { ports, state, .. } = &mut *inner;
        state.resized(ports);
        drop(inner);
        if let Some(link) = self.link.get() {
            link.config_changed();
            if self.is_multiport() {
                link.process_soon(Role::CONTROL_RECEIVE);
            }
        }
    }

    /// Whether there is more than a console.
    fn is_multiport(&self) -> bool {
        self.features & F_MULTIPORT != 0
    }

    /// Has a port's queues looked at, as there is something new at its back end.
    fn poll(&self, port: usize) {
        let Some(link) = self.link.get() else { return };
        let queue = Role::receive_queue(port);
        link.process_soon(queue);
        link.process_soon(queue.saturating_add(1));
        if self.is_multiport() {
            link.process_soon(Role::CONTROL_RECEIVE);
        }
    }

    fn transmit(&self, inner: &mut Inner, index: usize, queue: &Queue) {
        let Inner { ports, state, run, .. } = inner;
        let (Some(setup), Some(port)) = (ports.get(index), state.ports.get_mut(index)) else {
            return;
        };
        let Some(patience) = run.patience.get_mut(index) else { return };
        let Some(mut serving) = queue.serve() else { return };
        let progress = (&mut *patience, &mut port.sent);
        let ended = port::transmit(setup.as_ref(), progress, &mut serving, self.clock.now_ns());
        drop(serving);
        match ended {
            Sent::All => {}
            Sent::More => self.again(queue.index()),
            Sent::Stalled => {
                let consoles = ports.iter().zip(&run.patience);
                let waiting = consoles
                    .filter(|(port, _)| port.as_ref().is_some_and(|port| port.is_console))
                    .filter_map(|(_, patience)| patience.deadline_ns());
                if let Some(deadline) = waiting.min() {
                    self.timer.arm(Some(deadline));
                }
            }
        }
    }

    fn again(&self, queue: u16) {
        if let Some(link) = self.link.get() {
            link.process_soon(queue);
        }
    }

    fn receive(&self, inner: &Inner, index: usize, queue: &Queue) {
        let Some(Some(setup)) = inner.ports.get(index) else { return };
        let open = inner.state.ports.get(index).is_some_and(|port| port.guest_open);
        if inner.run.multiport && !open {
            return;
        }
        if let Some(mut serving) = queue.serve() {
            port::receive(setup, &mut serving);
        }
    }

    /// Takes the driver's messages, and answers them.
    fn take_messages(&self, inner: &mut Inner, queue: &Queue) {
        let Some(mut serving) = queue.serve() else { return };
        while let Some(chain) = serving.pop() {
            let mut message = [0; MESSAGE_LEN];
            if chain.read_at(serving.mem(), 0, &mut message).is_ok() {
                inner.state.take(message, &inner.ports);
            }
            serving.complete(chain, 0);
        }
        drop(serving);
        self.tell(inner);
        // Those that were opened can be given what waits for them.
        for port in 0..self.places {
            self.again(Role::receive_queue(port));
        }
    }

    /// Tells the driver what it does not know yet, as far as it has buffers for that.
    fn tell(&self, inner: &mut Inner) {
        let Inner { ports, state, size, run } = inner;
        let size = size.filter(|_| run.sized);
        let queue = run.queues.get(usize::from(Role::CONTROL_RECEIVE));
        let Some(mut serving) = queue.and_then(|queue| queue.serve()) else { return };
        while let Some((index, message)) = state.next_message(ports, size) {
            let setup = ports.get(index).and_then(Option::as_ref);
            let Some(chain) = serving.pop() else { return };
            let bytes = message.bytes(index, setup);
            // A buffer that it does not fit into goes back empty, and the next one is tried.
            let told = chain.write_at(serving.mem(), 0, &bytes).is_ok();
            if told {
                state.told(index, message);
            }
            let written = if told { bytes.len() } else { 0 };
            serving.complete(chain, u32::try_from(written).unwrap_or(0));
        }
    }

    fn config(&self) -> [u8; CONFIG_LEN as usize] {
        let Size { columns, rows } = self.inner.lock().size.unwrap_or_default();
        let ports = u32::try_from(self.places).unwrap_or(u32::MAX);
        let mut config = [0; CONFIG_LEN as usize];
        let fields = [&columns.to_le_bytes()[..], &rows.to_le_bytes(), &ports.to_le_bytes()];
        let bytes = fields.iter().copied().flatten();
        config.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        config
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let pairs = if self.is_multiport() { self.places + 1 } else { 1 };
        vec![QUEUE_SIZE; 2 * pairs]
    }

    fn config_len(&self) -> u32 {
        CONFIG_LEN
    }

    fn config_read(&self, offset: u32, data: &mut [u8]) {
        read_config(&self.config(), offset, data);
    }

    fn config_write(&self, offset: u32, data: &[u8]) {
        let at = EMERGENCY.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
        let character = at.and_then(|at| data.get(at));
        // Among other output, not in the middle of a piece of it.
        let inner = self.inner.lock();
        if let (Some(character), Some(console)) = (character, inner.console()) {
            // What there is no room for is lost: nobody waits here.
            let _taken = console.backend.transmit(&[*character]);
        }
    }

    fn attach(&self, link: &Link) {
        self.link.get_or_init(|| link.clone());
    }

    fn activate(&self, activation: &Activation<'_>) {
        let (multiport, sized) = (activation.has(F_MULTIPORT), activation.has(F_SIZE));
        let queues = activation.queues.to_vec();
        let patience = vec![Patience::default(); self.places];
        let mut inner = self.inner.lock();
        inner.run = Run { queues, multiport, sized, patience };
        let has_size = inner.size.is_some();
        drop(inner);
        // A driver that knows no control messages is told of the size as of a change: Linux reads it
        // from the configuration at no other time, and keeps the interrupt until it has the port.
        if sized
            && !multiport
            && has_size
            && let Some(link) = self.link.get()
        {
            link.config_changed();
        }
    }

    fn process(&self, queue: u16) {
        let inner = &mut *self.inner.lock();
        let Some(served) = inner.run.queues.get(usize::from(queue)).cloned() else { return };
        match Role::of(queue) {
            Role::Receive(0) => self.receive(inner, 0, &served),
            Role::Transmit(0) => self.transmit(inner, 0, &served),
            // Without multiport there are no others.
            _ if !inner.run.multiport => {}
            Role::Receive(port) => self.receive(inner, port, &served),
            Role::Transmit(port) => self.transmit(inner, port, &served),
            Role::ControlReceive => self.tell(inner),
            Role::ControlTransmit => self.take_messages(inner, &served),
        }
    }

    /// What was sent of a request is sent: whoever comes next begins with another one.
    fn stop_queue(&self, queue: u16) {
        if let Role::Transmit(port) = Role::of(queue)
            && let Some(port) = self.inner.lock().state.ports.get_mut(port)
        {
            port.sent = 0;
        }
    }

    fn reset(&self) {
        let mut inner = self.inner.lock();
        inner.run = Run::default();
        inner.state = State::new(self.places);
        self.timer.arm(None);
    }
}

impl Wake for Console {
    fn wake(&self) {
        for number in 0..self.places {
            self.again(Role::receive_queue(number).saturating_add(1));
        }
    }
}

/// See [`Console::port`].
struct Port {
    device: Weak<Console>,
    number: usize,
}

impl CharDevice for Port {
    fn poll(&self) {
        if let Some(device) = self.device.upgrade() {
            device.poll(self.number);
        }
    }

    /// There is no such thing on a virtio port.
    fn receive_break(&self) {}
}

impl SaveState for Console {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV2::from(&self.inner.lock().state))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let restored = State::try_from(saved.decode::<SavedV2>()?)?;
        let same = restored.ports.len() == self.places;
        StateError::check::<SavedV2>(same, "a device has as many ports as it was made with")?;
        let mut inner = self.inner.lock();
        inner.run = Run::default();
        inner.state = restored;
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        let run = &self.inner.lock().run;
        run.patience.iter().all(|patience| patience.deadline_ns().is_none())
    }
}
