//! A device of another process, in the place where it would be on the board.
//!
//! ```text
//!   vCPU ──► registry ──► Isolated (Channel) ──► Link ──────────────► the device's process
//!                              │  after each answer                          │
//!             lines, console ◄─┴── wires: levels, characters ◄───────────────┘
//!                                  also read by the event loop
//! ```
//!
//! Whatever the device did before it answered an access it has said before it answered, so its lines and
//! its characters are where they belong when the guest goes on, as they would be of a device in this
//! process. What it does by itself the event loop hears of.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use trapline::{Answer, Channel, ChannelRef, Direction, Forwarded, Waiter};
use trapline_device::{
    CharBackend, CharDevice, Clock, Device, EventHandler, EventLoop, Handler, IoCx, Line, Power,
    PowerEvent, Readiness, Requester, Rules, SaveState, Saved, Size, StateError, Watch,
};
use trapline_display::Input;
use trapline_remote::{Death, Ends, Link, LinkOptions};

use super::kind::{Kind, Names};
use super::processes::Notice;
use super::wires::{Broken, CHARACTERS_MAX, FromDevice, ORDERS, Order, ToDevice, Wires};
use crate::remote::OnDeath;

/// How many characters of a device are taken that the back end has no room for.
pub(super) const ROOM: usize = 1024;
/// How many characters a device keeps that it has not asked for yet.
pub(super) const DEVICE_ROOM: usize = 64;
/// Most messages that are taken in one go. More than a socket holds, so all that were sent before an
/// answer are taken after it; a device that sends without end is made to wait.
const MESSAGES_MAX: usize = 512;
/// Most messages that wait for room on the way to a device. Keys beyond are lost.
const UNSENT_MAX: usize = 256;

/// See the module.
pub(crate) struct Isolated {
    name: String,
    kind: Kind,
    /// Its number among the processes.
    number: usize,
    names: Names,
    link: Arc<Link>,
    backend: Arc<dyn CharBackend>,
    power: Arc<dyn Power>,
    clock: Arc<dyn Clock>,
    event_loop: Arc<dyn EventLoop>,
    notices: Sender<Notice>,
    /// What happens when the process dies. Held while that is seen to.
    on_death: Mutex<OnDeath>,
    me: Weak<Self>,
    /// Whether it has not answered when the guest was to stand still.
    is_stalled: AtomicBool,
    /// What the device is connected to. Held while a message of it is acted on, as a device holds its
    /// own lock.
    wiring: Mutex<Wiring>,
}

struct Wiring {
    /// None while there is no process.
    wires: Option<Arc<Wires>>,
    watch: Option<Arc<dyn Watch>>,
    lines: Vec<Line>,
    /// Messages there was no room for.
    unsent: VecDeque<ToDevice>,
    /// Whether the loop waits for room.
    awaits_room: bool,
    /// Characters of the device that the back end has not taken yet.
    output: VecDeque<u8>,
    /// Room for characters that the device has not been told of yet.
    owed: usize,
    /// How many characters the device has room for.
    room: usize,
    /// What it has said when it was asked.
    state: Option<Saved>,
    restored: Option<String>,
}

/// What a device is connected to here.
pub(crate) struct Connections {
    /// Its interrupts.
    pub(crate) lines: Vec<Line>,
    /// Behind it.
    pub(crate) backend: Arc<dyn CharBackend>,
    /// Who hears that the guest wants a reset.
    pub(crate) power: Arc<dyn Power>,
    /// Machine time, which no journal knows of.
    pub(crate) clock: Arc<dyn Clock>,
    /// Who waits for what the device does by itself.
    pub(crate) event_loop: Arc<dyn EventLoop>,
}

impl Isolated {
    /// A device without a process, as yet.
    pub(super) fn new(
        (number, name, kind): (usize, &str, Kind),
        connections: Connections,
        (notices, policy): (Sender<Notice>, OnDeath),
    ) -> Arc<Self> {
        let Connections { lines, backend, power, clock, event_loop } = connections;
        Arc::new_cyclic(|me: &Weak<Self>| {
            let dead = Weak::clone(me);
            let on_death = Arc::new(move |death: &Death| {
                let this = dead.upgrade().filter(|this| !this.link.is_alive());
                let has_let_go = *death == Death::Closed;
                this.inspect(|this| this.gone(has_let_go, &death.to_string()));
            });
            let link = Link::without_device(LinkOptions { on_death, ..LinkOptions::default() });
            Self {
                name: name.to_owned(),
                kind,
                number,
                names: Names::new(kind),
                link: Arc::new(link),
                backend,
                power,
                clock,
                event_loop,
                notices,
                on_death: Mutex::new(policy),
                me: me.clone(),
                is_stalled: AtomicBool::new(false),
                wiring: Mutex::new(Wiring {
                    wires: None,
                    watch: None,
                    lines,
                    unsent: VecDeque::new(),
                    awaits_room: false,
                    output: VecDeque::new(),
                    owed: 0,
                    room: 0,
                    state: None,
                    restored: None,
                }),
            }
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where accesses go.
    pub(crate) fn channel(&self) -> ChannelRef {
        match self.me.upgrade() {
            Some(this) => ChannelRef::new(this),
            None => ChannelRef::new(Arc::clone(&self.link) as _),
        }
    }

    /// The first message for a process of this device.
    pub(super) fn introduction(&self, epoch_ns: u64) -> ToDevice {
        let mut wiring = self.wiring.lock();
        wiring.owed = 0;
        let room = ROOM.saturating_sub(wiring.output.len());
        ToDevice::Start { kind: self.kind, name: self.name.clone(), epoch_ns, room }
    }

    /// When machine time began, by the host's clock.
    pub(super) fn epoch_ns(&self, host_now_ns: u64) -> u64 {
        host_now_ns.saturating_sub(self.clock.now_ns())
    }

    /// A process is there, in its power-on state.
    pub(super) fn install(&self, ends: Ends, wires: Wires) -> Result<(), std::io::Error> {
        let wires = Arc::new(wires);
        let handler: Weak<dyn EventHandler> = self.me.clone();
        let fd = Arc::clone(&wires);
        let watch = Arc::from(self.event_loop.watch(fd, Readiness::READ, handler)?);
        let mut wiring = self.wiring.lock();
        wiring.wires = Some(wires);
        wiring.watch = Some(watch);
        wiring.unsent.clear();
        wiring.awaits_room = false;
        wiring.room = DEVICE_ROOM;
        self.names.reset();
        self.link.replace(ends);
        self.exchange_characters(&mut wiring);
        Ok(())
    }

    /// The process is of no use any more: its registers read as ones, and it holds no line. If the machine
    /// is to end for that, it has been told before the guest can see.
    fn gone(&self, has_let_go: bool, why: &str) {
        let on_death = self.on_death.lock();
        let mut wiring = self.wiring.lock();
        let wires = wiring.wires.take();
        let watch = wiring.watch.take();
        wiring.lines.iter().for_each(|line| line.set(false));
        drop(wiring);
        let ends_all = *on_death == OnDeath::StopVm;
        if !ends_all {
            // Before there can be another process.
            self.link.close();
        }
        if wires.is_some() {
            let (done, seen_to) = sync_channel(1);
            let (number, why) = (self.number, why.to_owned());
            let _ = self.notices.send(Notice::Gone { number, has_let_go, why, done });
            if ends_all {
                let _ = seen_to.recv();
                self.link.close();
            }
        }
        drop(on_death);
        // Not with a lock, as it may have to wait for a handler that takes them.
        drop(watch);
    }

    /// Waits until the device has done all that the guest has asked of it, and takes what it has said. One
    /// that does not answer is not waited for long: the guest is to stand still.
    pub(crate) fn settle(&self) {
        let moment = Moment(Instant::now());
        let order = self.order(Order::Reset);
        let is_stalled = self.link.read(&order, Some(&moment)) == Answer::Interrupted;
        if is_stalled {
            // Its answer says nothing of the next time.
            self.link.forget(order.requester);
        }
        self.is_stalled.store(is_stalled, Ordering::Relaxed);
        self.hear();
    }

    /// Has the device's own time stand still, or go on. One that does not answer is left alone.
    pub(crate) fn pause(&self, is_paused: bool) {
        if !self.is_stalled.load(Ordering::Relaxed) {
            self.give(if is_paused { Order::Pause } else { Order::Resume });
        }
    }

    fn give(&self, order: Order) {
        self.link.write(&self.order(order), 0, None);
        self.hear();
    }

    fn order(&self, order: Order) -> Forwarded {
        Forwarded {
            requester: Requester::External,
            user_data: ORDERS,
            offset: order as u64,
            size: Some(Size::Byte),
            posted: false,
            more: false,
        }
    }

    /// Takes what the device has said.
    pub(super) fn hear(&self) {
        let mut wiring = self.wiring.lock();
        for _ in 0..MESSAGES_MAX {
            let Some(wires) = wiring.wires.clone() else { return };
            match wires.receive() {
                Ok(Some(message)) => {
                    if let Err(broken) = self.act(&mut wiring, message) {
                        drop(wiring);
                        return self.broken(&broken);
                    }
                }
                Ok(None) => break,
                Err(broken) => {
                    drop(wiring);
                    return self.broken(&broken);
                }
            }
        }
        self.flush(&mut wiring);
    }

    fn broken(&self, broken: &Broken) {
        self.gone(matches!(broken, Broken::Closed), &broken.to_string());
    }

    fn act(&self, wiring: &mut Wiring, message: FromDevice) -> Result<(), Broken> {
        match message {
            FromDevice::Level { line, high } => {
                wiring.lines.get(line).ok_or(Broken::Nonsense)?.set(high);
            }
            FromDevice::Characters(characters) => {
                let len = wiring.output.len() + wiring.owed + characters.len();
                if len > ROOM || characters.len() > CHARACTERS_MAX {
                    return Err(Broken::Nonsense);
                }
                wiring.output.extend(characters);
                self.exchange_characters(wiring);
            }
            FromDevice::Room(count) => {
                if count > DEVICE_ROOM.saturating_sub(wiring.room) {
                    return Err(Broken::Nonsense);
                }
                wiring.room += count;
                self.exchange_characters(wiring);
            }
            FromDevice::PowerReset if self.kind == Kind::I8042 => {
                self.power.request(PowerEvent::Reset, "the keyboard controller");
            }
            FromDevice::State(saved) => wiring.state = Some(saved),
            FromDevice::Restored(why_not) => wiring.restored = why_not,
            FromDevice::Failed(_) | FromDevice::Ready { .. } | FromDevice::PowerReset => {
                return Err(Broken::Nonsense);
            }
        }
        Ok(())
    }

    /// Gives the back end what the device has sent, and the device what the back end has.
    fn exchange_characters(&self, wiring: &mut Wiring) {
        while !wiring.output.is_empty() {
            let (front, _) = wiring.output.as_slices();
            let taken = self.backend.transmit(front).min(front.len());
            if taken == 0 {
                break;
            }
            wiring.output.drain(..taken);
            wiring.owed += taken;
        }
        // The device has the other half, unless it waits for what the back end has not taken.
        if wiring.owed >= ROOM / 2 {
            let owed = std::mem::take(&mut wiring.owed);
            self.tell(wiring, ToDevice::Room(owed));
        }
        while wiring.room > 0 && wiring.wires.is_some() {
            let mut buf = [0; DEVICE_ROOM];
            let room = wiring.room.min(DEVICE_ROOM);
            let count = self.backend.receive(buf.get_mut(..room).unwrap_or_default()).min(room);
            if count == 0 {
                break;
            }
            wiring.room -= count;
            let characters = buf.get(..count).unwrap_or_default().to_vec();
            self.tell(wiring, ToDevice::Characters(characters));
        }
    }

    /// Sends a message, or keeps it until there is room.
    fn tell(&self, wiring: &mut Wiring, message: ToDevice) {
        let loss = matches!(message, ToDevice::Key(_) | ToDevice::Movement { .. });
        if wiring.wires.is_none() || (loss && wiring.unsent.len() >= UNSENT_MAX) {
            return;
        }
        wiring.unsent.push_back(message);
        self.flush(wiring);
    }

    fn flush(&self, wiring: &mut Wiring) {
        let Some(wires) = wiring.wires.clone() else { return };
        while let Some(message) = wiring.unsent.front() {
            match wires.send(message) {
                Ok(true) => drop(wiring.unsent.pop_front()),
                Ok(false) => break,
                // The event loop finds that, too, and sees to it.
                Err(_) => wiring.unsent.clear(),
            }
        }
        let write = !wiring.unsent.is_empty();
        let changes = std::mem::replace(&mut wiring.awaits_room, write) != write;
        if let Some(watch) = wiring.watch.as_ref().filter(|_| changes) {
            // Without it the message goes out with the next one.
            let _ = watch.set_interest(Readiness { read: true, write });
        }
    }

    /// Sends the state that the device is to become.
    pub(super) fn restore_soon(&self, saved: Saved) {
        let mut wiring = self.told();
        wiring.restored = Some("it has no process".to_owned());
        self.tell(&mut wiring, ToDevice::State(saved));
    }

    fn told(&self) -> MutexGuard<'_, Wiring> {
        self.wiring.lock()
    }
}

/// Somebody who waits for a moment, from then on.
struct Moment(Instant);

impl Waiter for Moment {
    fn is_wanted(&self) -> bool {
        const MOMENT: Duration = Duration::from_millis(20);
        self.0.elapsed() > MOMENT
    }
}

impl Channel for Isolated {
    fn read(&self, access: &Forwarded, waiter: Option<&dyn Waiter>) -> Answer {
        let answer = self.link.read(access, waiter);
        self.hear();
        answer
    }

    fn write(&self, access: &Forwarded, value: u64, waiter: Option<&dyn Waiter>) -> Answer {
        self.names.write(access.user_data.wrapping_add(access.offset), value);
        let answer = self.link.write(access, value, waiter);
        if !access.posted {
            self.hear();
        }
        answer
    }

    fn forget(&self, requester: Requester) {
        self.link.forget(requester);
    }

    fn flush(&self) {
        self.link.flush();
    }
}

impl EventHandler for Isolated {
    fn event(&self, _ready: Readiness) {
        self.hear();
    }
}

/// What its registers are called. What they are is asked by the channel.
impl Handler for Isolated {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, size: Size) -> u64 {
        size.ones()
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        self.names.register(offset, direction)
    }
}

impl Device for Isolated {
    fn reset(&self) {
        self.names.reset();
        self.give(Order::Reset);
    }
}

impl SaveState for Isolated {
    /// That of a device without a process is its power-on state.
    fn save(&self) -> Saved {
        self.told().state = None;
        self.give(Order::Save);
        let saved = self.told().state.take();
        saved.unwrap_or_else(|| self.kind.power_on(&self.clock))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let name = "a device of another process";
        let failed = |reason| Err(StateError::Encoding { name, reason });
        self.restore_soon(saved.clone());
        self.give(Order::Restore);
        let why_not = self.told().restored.take();
        why_not.map_or(Ok(()), failed)
    }
}

impl CharDevice for Isolated {
    fn poll(&self) {
        self.exchange_characters(&mut self.told());
    }

    fn receive_break(&self) {
        self.tell(&mut self.told(), ToDevice::Break);
    }
}

impl Input for Isolated {
    fn key(&self, set2: &[u8]) {
        let keys = set2.iter().copied().take(CHARACTERS_MAX).collect();
        self.tell(&mut self.told(), ToDevice::Key(keys));
    }

    fn movement(&self, dx: i32, dy: i32, buttons: u8) {
        self.tell(&mut self.told(), ToDevice::Movement { dx, dy, buttons });
    }
}
