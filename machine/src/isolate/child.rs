//! The process of a device: its sockets are standard input (accesses) and standard output (all else).
//!
//! Two threads as in the VMM: one makes accesses, one is the event loop, for timers and for what comes by
//! the second socket. The device is the one that the VMM would have.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use trapline_backends::{EpollLoop, HostClock, NoQueuedWrites};
use trapline_device::{
    CharBackend, Clock, EventHandler, EventLoop, Handler, IoCx, Line, LineSink, Power, PowerEvent,
    Readiness, Rules, Saved, Size,
};
use trapline_remote::{Ends, Server};

use super::kind::{Kind, Made, Wired};
use super::proxy::DEVICE_ROOM;
use super::wires::{
    Broken, CHARACTERS_MAX, FIRST_REGISTERS, FromDevice, ORDERS, Order, ToDevice, Wires,
};
use super::{confine, host_now_ns};

/// With what arguments the program is a device's process, which [`main`] runs.
pub const ARGUMENTS: [&str; 2] = ["device", "isolated"];

/// How long the VMM may take to say what the device is.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most messages that are taken in one go.
const MESSAGES_MAX: usize = 64;

/// Is the process of a device until the VMM has gone. To be called before anything else is done.
///
/// # Errors
/// In a sentence, which the VMM has been told if it was there.
pub fn main() -> Result<(), String> {
    confine::first()
        .map_err(|error| format!("cannot give up what it was started with: {error}"))?;
    let fd = |fd: rustix::fd::BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let take = |error: rustix::io::Errno| format!("was started without its sockets: {error}");
    let accesses = fd(rustix::stdio::stdin()).map_err(take)?;
    let wires = Arc::new(Wires::new(fd(rustix::stdio::stdout()).map_err(take)?));
    let told = Arc::clone(&wires);
    std::panic::set_hook(Box::new(move |panic| {
        let _ = told.send(&FromDevice::Failed(panic.to_string()));
        std::process::exit(1);
    }));
    serve(accesses, &wires).inspect_err(|error| {
        let _ = wires.send(&FromDevice::Failed(error.clone()));
    })
}

fn serve(accesses: OwnedFd, wires: &Arc<Wires>) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    if !wires.wait(PollFlags::IN, Some(PATIENCE)) {
        return Err("nobody says what device it is".to_owned());
    }
    let Ok(Some(ToDevice::Start { kind, name, epoch_ns, room })) = wires.receive() else {
        return Err("what it is told first makes no sense".to_owned());
    };
    let landlock = confine::from_files()?;
    let event_loop = EpollLoop::start("events", NoQueuedWrites).map_err(text)?;
    let device = Device::new(kind, epoch_ns, room, wires, &event_loop).map_err(text)?;
    let handler: Weak<Device> = Arc::downgrade(&device);
    let _watch = event_loop.watch(wires.clone(), Readiness::READ, handler).map_err(text)?;
    let ends = Ends::socket(accesses).map_err(text)?;
    let mut server = Server::new();
    for first in 0..kind.len().min(FIRST_REGISTERS) {
        let registers = Arc::clone(&device.made.handler);
        let run = server.run_of_registers(first, kind.len() - first, first, registers);
        run.map_err(|error| error.to_string())?;
    }
    let orders = Arc::clone(&device);
    server.region(ORDERS, Order::ALL.len() as u64, orders).map_err(|error| error.to_string())?;
    let _ = rustix::thread::set_name(&std::ffi::CString::new(name).unwrap_or_default());
    // A thread that begins makes system calls that one that runs does not.
    let begun = Arc::new(Begun::default());
    let handler: Weak<Begun> = Arc::downgrade(&begun);
    let notifier = event_loop.notifier(handler);
    notifier.notify();
    begun.wait();
    confine::at_last()?;
    wires.send(&FromDevice::Ready { landlock }).map_err(|broken| broken.to_string())?;
    server.serve(&ends, None).map_err(|error| error.to_string())
}

/// Whether the event loop has called anybody yet.
#[derive(Default)]
struct Begun {
    has: Mutex<bool>,
    changed: Condvar,
}

impl Begun {
    fn wait(&self) {
        let mut has = self.has.lock();
        self.changed.wait_while(&mut has, |has| !*has);
    }
}

impl EventHandler for Begun {
    fn event(&self, _ready: Readiness) {
        *self.has.lock() = true;
        self.changed.notify_all();
    }
}

/// The device, and its part of the second socket.
struct Device {
    made: Made,
    wires: Arc<Wires>,
    characters: Arc<Characters>,
    event_loop: Arc<EpollLoop>,
    /// Held while messages are taken and acted on: they have an order.
    turn: Mutex<Option<Saved>>,
    _clock: Arc<HostClock>,
}

impl Device {
    fn new(
        kind: Kind,
        epoch_ns: u64,
        room: usize,
        wires: &Arc<Wires>,
        event_loop: &Arc<EpollLoop>,
    ) -> io::Result<Arc<Self>> {
        let now_ns = host_now_ns().saturating_sub(epoch_ns);
        let clock = Arc::new(HostClock::starting_at(&**event_loop, now_ns)?);
        let line = |line| Line::new(FarLine { line, wires: Arc::clone(wires) });
        let state = Mutex::new(Buffers { room, input: VecDeque::new() });
        let characters = Arc::new(Characters { wires: Arc::clone(wires), state });
        let made = kind.make(Wired {
            lines: (0..kind.lines()).map(line).collect(),
            backend: characters.clone(),
            power: Arc::new(FarPower(Arc::clone(wires))),
            clock: clock.clone() as Arc<dyn Clock>,
        });
        Ok(Arc::new(Self {
            made,
            wires: Arc::clone(wires),
            characters,
            event_loop: Arc::clone(event_loop),
            turn: Mutex::new(None),
            _clock: clock,
        }))
    }

    /// Takes what the VMM has said.
    fn hear(&self, turn: &mut Option<Saved>) {
        for _ in 0..MESSAGES_MAX {
            match self.wires.receive() {
                Ok(Some(message)) => self.act(turn, message),
                Ok(None) => return,
                Err(_) => std::process::exit(0),
            }
        }
    }

    fn act(&self, turn: &mut Option<Saved>, message: ToDevice) {
        let Made { chars, input, .. } = &self.made;
        match message {
            ToDevice::Characters(characters) => {
                self.characters.state.lock().input.extend(characters);
                chars.iter().for_each(|device| device.poll());
            }
            ToDevice::Room(count) => {
                let mut state = self.characters.state.lock();
                state.room = state.room.saturating_add(count);
                drop(state);
                chars.iter().for_each(|device| device.poll());
            }
            ToDevice::Break => chars.iter().for_each(|device| device.receive_break()),
            ToDevice::Key(set2) => input.iter().for_each(|i8042| i8042.key(&set2)),
            ToDevice::Movement { dx, dy, buttons } => {
                input.iter().for_each(|i8042| i8042.movement(dx, dy, buttons));
            }
            ToDevice::State(saved) => *turn = Some(saved),
            ToDevice::Start { .. } => {}
        }
    }

    fn obey(&self, order: Order) {
        match order {
            Order::Reset => {
                self.made.device.reset();
                self.made.chars.iter().for_each(|device| device.poll());
            }
            Order::Pause => self.event_loop.pause(),
            Order::Resume => self.event_loop.resume(),
            Order::Save => say(&self.wires, &FromDevice::State(self.made.device.save())),
            Order::Restore => {
                let mut turn = self.turn.lock();
                self.hear(&mut turn);
                let why_not = match turn.take() {
                    Some(saved) => self.made.device.restore(&saved).err().map(|e| e.to_string()),
                    None => Some("there is no state".to_owned()),
                };
                self.made.chars.iter().for_each(|device| device.poll());
                say(&self.wires, &FromDevice::Restored(why_not));
            }
        }
    }
}

impl EventHandler for Device {
    fn event(&self, _ready: Readiness) {
        self.hear(&mut self.turn.lock());
    }
}

/// The orders' registers.
impl Handler for Device {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, _size: Size, _value: u64) {
        let order = Order::ALL.into_iter().find(|order| *order as u64 == offset);
        order.into_iter().for_each(|order| self.obey(order));
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }
}

/// Sends a message, and waits for room if it has to: the VMM takes messages by itself.
fn say(wires: &Wires, message: &FromDevice) {
    loop {
        match wires.send(message) {
            Ok(true) => return,
            Ok(false) => {
                wires.wait(PollFlags::OUT, None);
            }
            Err(Broken::Closed | Broken::Nonsense | Broken::Io(_)) => std::process::exit(0),
        }
    }
}

/// An interrupt line whose other end is in the VMM.
struct FarLine {
    line: usize,
    wires: Arc<Wires>,
}

impl LineSink for FarLine {
    fn set_level(&self, level: bool) {
        say(&self.wires, &FromDevice::Level { line: self.line, high: level });
    }
}

struct FarPower(Arc<Wires>);

impl Power for FarPower {
    fn request(&self, event: PowerEvent, _device: &'static str) {
        if event == PowerEvent::Reset {
            say(&self.0, &FromDevice::PowerReset);
        }
    }
}

/// A back end that is in the VMM.
struct Characters {
    wires: Arc<Wires>,
    state: Mutex<Buffers>,
}

struct Buffers {
    /// How many characters the VMM takes.
    room: usize,
    /// What has come, and the device has not taken yet; [`DEVICE_ROOM`] at most, or the VMM lies.
    input: VecDeque<u8>,
}

impl CharBackend for Characters {
    fn transmit(&self, data: &[u8]) -> usize {
        let mut state = self.state.lock();
        let len = data.len().min(state.room).min(CHARACTERS_MAX);
        if len > 0 {
            state.room -= len;
            let characters = data.get(..len).unwrap_or_default().to_vec();
            say(&self.wires, &FromDevice::Characters(characters));
        }
        len
    }

    fn receive(&self, buf: &mut [u8]) -> usize {
        let mut state = self.state.lock();
        let len = buf.len().min(state.input.len()).min(DEVICE_ROOM);
        buf.iter_mut().zip(state.input.drain(..len)).for_each(|(to, from)| *to = from);
        if len > 0 {
            say(&self.wires, &FromDevice::Room(len));
        }
        len
    }
}
