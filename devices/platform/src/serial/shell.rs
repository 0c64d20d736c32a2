//! The UART as a device: the chip behind a lock, with a back end, an interrupt line and a clock.

use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use trapline_device::{
    CharBackend, CharDevice, Clock, Device, Direction, FdtDevice, FdtNode, Handler, IoCx, Line,
    Mirror, QUEUED_WRITES_MAX, Rules, SaveState, Saved, Size, StateError, Timer, Wake,
};

use super::regs::{CLOCK_HZ, FIFO_DEPTH};
use super::state::SavedV1;
use super::{State, Uart};

/// Bytes of registers.
pub const REGISTERS_LEN: u32 = 8;

/// Length of the page that a serial port's registers begin, where they can be [mirrored]: those past
/// the eighth are none, and read as ones.
///
/// [mirrored]: Serial::mirror
pub const PAGE_LEN: u64 = 4096;

/// Room that the backend must have for a guest to be told ahead that it can write: for all that may
/// be queued, and again for what may come while that is delivered.
const ROOM: usize = 2 * QUEUED_WRITES_MAX;

/// A serial port: eight bytes of [`Uart`] registers, with characters going to and coming from a
/// [`CharBackend`].
///
/// The backend's methods and the timer are called with the port's lock held, so that two vCPUs
/// can not swap characters. That is free of deadlock because a backend never calls
/// [`CharDevice::poll`] from inside its methods, nor while it holds a lock those take, and a timer
/// never calls [`Wake::wake`] from inside [`Timer::arm`].
pub struct Serial {
    // Wiring.
    backend: Arc<dyn CharBackend>,
    line: Line,
    clock: Arc<dyn Clock>,
    timer: Box<dyn Timer>,
    /// What reads need not come here for, if anybody asks.
    mirror: OnceLock<Arc<Mirror>>,
    port: Mutex<Port>,
}

struct Port {
    // Book-keeping.
    /// The backend took less than it was offered and has not called since.
    stalled: bool,
    /// The backend may have characters: it has called, or filled all the room it was last given.
    more: bool,
    /// The deadline the timer is set to. It may be earlier than the one wanted: re-arming waits
    /// until it fires, so that a stream of characters costs no timer calls.
    armed_ns: Option<u64>,
    uart: Uart,
}

impl Serial {
    /// A port after power-on. The backend is to call [`CharDevice::poll`] of what is returned.
    pub fn new(backend: Arc<dyn CharBackend>, line: Line, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let timer = clock.timer(me.clone());
            let port = Port { stalled: false, more: true, armed_ns: None, uart: Uart::default() };
            let mirror = OnceLock::new();
            Self { backend, line, clock, timer, mirror, port: Mutex::new(port) }
        })
    }

    /// The page of the registers, for a region in which they are as far apart as they are long and
    /// whose writes to the first one may be queued: while nothing is received and no interrupt is
    /// asked for, all of them can be read without the port's being asked.
    pub fn mirror(&self) -> Arc<Mirror> {
        let port = self.port.lock();
        let mirror = Arc::clone(self.mirror.get_or_init(Mirror::new));
        self.reflect(&port);
        mirror
    }

    /// The same registers at ports, where a region of memory has them, too: a read at a port does not
    /// make it more worth while to show a guest the page.
    pub fn at_ports(self: &Arc<Self>) -> Arc<dyn Handler> {
        Arc::new(AtPorts(Arc::clone(self)))
    }

    /// What [`FdtDevice::fdt_node`] says of any port.
    ///
    /// Spec: Linux `Documentation/devicetree/bindings/serial/8250.yaml`.
    pub fn node() -> FdtNode {
        let clock = u32::try_from(CLOCK_HZ).unwrap_or(u32::MAX);
        FdtNode::new("serial").text("compatible", "ns16550a").cells("clock-frequency", [clock])
    }

    fn answer(&self, cx: &IoCx<'_>, offset: u64) -> u64 {
        let mut port = self.port.lock();
        cx.reaches(|| port.uart.register(offset, Direction::Read));
        let value = port.uart.read(offset, &*self.clock);
        self.sync(&mut port);
        u64::from(value)
    }

    /// Derives everything outside the chip from its state: characters out, characters in, the
    /// timer, the page of its registers, the line.
    fn sync(&self, port: &mut Port) {
        self.send(port);
        self.fill(port);
        self.schedule(port);
        self.reflect(port);
        self.line.set(port.uart.interrupt());
    }

    /// Says what the guest may read by itself, if anything. Before the line moves, of which the
    /// registers tell the reason.
    fn reflect(&self, port: &Port) {
        let Some(mirror) = self.mirror.get() else { return };
        match port.uart.steady().filter(|_| self.backend.room() >= ROOM) {
            Some(registers) => mirror.vouch(0, PAGE_LEN, &registers),
            None => mirror.withdraw(0),
        }
    }

    fn send(&self, port: &mut Port) {
        while !port.stalled {
            let waiting = port.uart.to_send();
            if waiting.is_empty() {
                return;
            }
            let taken = self.backend.transmit(waiting);
            port.stalled = taken < waiting.len();
            port.uart.sent(taken);
        }
    }

    fn fill(&self, port: &mut Port) {
        while port.more && port.uart.room() > 0 {
            let mut buf = [0; FIFO_DEPTH];
            let room = port.uart.room();
            let Some(free) = buf.get_mut(..room) else { return };
            let count = self.backend.receive(free);
            port.more = count >= room;
            port.uart.receive(buf.get(..count.min(room)).unwrap_or_default(), &*self.clock);
        }
    }

    fn schedule(&self, port: &mut Port) {
        let Some(due_ns) = port.uart.timeout_ns() else { return };
        if port.armed_ns.is_some_and(|armed_ns| armed_ns <= due_ns) {
            return;
        }
        let now_ns = self.clock.now_ns();
        if due_ns <= now_ns {
            port.uart.expire(now_ns);
        } else {
            port.armed_ns = Some(due_ns);
            self.timer.arm(Some(due_ns));
        }
    }

    /// Forgets the deadline the timer is set to, and sets it to the one wanted.
    fn reschedule(&self, port: &mut Port) {
        port.armed_ns = None;
        self.timer.arm(None);
        self.schedule(port);
    }
}

impl Handler for Serial {
    fn read(&self, cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        let value = self.answer(cx, offset);
        if let Some(mirror) = self.mirror.get() {
            mirror.read(offset);
        }
        value
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        let [value, ..] = value.to_le_bytes();
        let mut port = self.port.lock();
        cx.reaches(|| port.uart.register(offset, Direction::Write));
        port.uart.write(offset, value, &*self.clock);
        // What the write has answered, before the character leaves and asks again: an interrupt
        // controller that goes by edges has to see both. What it asks for has to wait until the guest
        // can read why.
        if !port.uart.interrupt() {
            self.line.set(false);
        }
        self.sync(&mut port);
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        self.port.lock().uart.register(offset, direction)
    }
}

/// [`Serial::at_ports`].
struct AtPorts(Arc<Serial>);

impl Handler for AtPorts {
    fn read(&self, cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        self.0.answer(cx, offset)
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        self.0.write(cx, offset, size, value);
    }

    fn rules(&self) -> Rules {
        self.0.rules()
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        self.0.register(offset, direction)
    }
}

impl FdtDevice for Serial {
    fn fdt_node(&self) -> FdtNode {
        Self::node()
    }
}

impl CharDevice for Serial {
    fn poll(&self) {
        let mut port = self.port.lock();
        port.stalled = false;
        port.more = true;
        self.sync(&mut port);
    }

    fn receive_break(&self) {
        let mut port = self.port.lock();
        port.uart.receive_break(&*self.clock);
        self.sync(&mut port);
    }
}

impl Wake for Serial {
    fn wake(&self) {
        let mut port = self.port.lock();
        port.armed_ns = None;
        let now_ns = self.clock.now_ns();
        port.uart.expire(now_ns);
        self.sync(&mut port);
    }
}

impl Device for Serial {
    fn reset(&self) {
        let mut port = self.port.lock();
        port.uart = Uart::default();
        self.sync(&mut port);
    }
}

impl SaveState for Serial {
    /// Sets the timer to the deadline that is wanted now, as the restored port's will be.
    fn save(&self) -> Saved {
        let mut port = self.port.lock();
        self.reschedule(&mut port);
        Saved::encode(&SavedV1::from(port.uart.state()))
    }

    /// Leaves the backend alone: [`CharDevice::poll`] is to be called once the machine is whole.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let state = State::try_from(saved.decode::<SavedV1>()?)?;
        let moved = state.rx_moved_ns <= self.clock.now_ns();
        StateError::check::<SavedV1>(moved, "characters have moved in the past")?;
        let mut port = self.port.lock();
        let uart = Uart::from_state(state);
        *port = Port { stalled: false, more: true, armed_ns: None, uart };
        self.reschedule(&mut port);
        self.reflect(&port);
        self.line.set(port.uart.interrupt());
        Ok(())
    }
}

impl std::fmt::Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serial").field("uart", &self.port.lock().uart).finish_non_exhaustive()
    }
}
