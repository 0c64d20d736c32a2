//! The network card: frames between its driver and a back end, in pairs of queues, and a queue of
//! commands.
//!
//! ```text
//!   receiveq ◄── packet::place ◄── State::takes ◄── NetBackend::receive
//!   transmitq ─► Form::frame: header judged, buffers in place ─► NetBackend::send
//!   controlq ──► control::execute ─► State, NetBackend::set_offloads, set_pairs
//! ```
//!
//! What the back end has for the driver stays there while the driver has no buffers, but for one
//! frame; what the back end has no room for stays in the driver's request.
//!
//! Spec: virtio 1.3, section 5.1.
//!
//! Deviations: a request to receive into that has no room for a header, or is not RAM, goes back with
//! length 0, and the queue goes on.

mod announcer;
mod config;
mod control;
mod filter;
mod offloads;
mod packet;
pub mod regs;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use trapline_device::{SaveState, Saved, StateError};
use trapline_guestio::Buffers;
use trapline_net::{Abilities, HEADER_LEN, Header, Mac, NetBackend, NetCard, PACKET_MAX};

use crate::device::read_config;
use crate::features::{OF_QUEUES, VERSION_1};
use crate::{Activation, DeviceType, Link, Queue, VirtioDevice};
pub use announcer::{Announcer, Rounds};
use control::{COMMAND_MAX, Done};
use filter::{SavedV1, State};
use packet::{Form, Placed};
use regs::{
    CONFIG_LEN, ERR, F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_RX_EXTRA,
    F_CTRL_VLAN, F_CTRL_VQ, F_GUEST_ANNOUNCE, F_MAC, F_MQ, F_MRG_RXBUF, F_MTU, F_SPEED_DUPLEX,
    F_STATUS, OK,
};

/// Descriptors of a queue for frames: kvmtool's and QEMU's.
const QUEUE_SIZE: u16 = 256;
/// Of that for commands.
const CONTROL_SIZE: u16 = 64;

/// The most pairs of queues of a card.
pub const PAIRS_MAX: u16 = 16;

/// Frames that nobody wants which a turn looks at; the rest is the next turn's.
const UNWANTED_OF_A_TURN: u32 = 256;

/// What a card is, besides what its back end says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetSetup {
    /// Its address.
    pub mac: Mac,
    /// The most bytes of an IP packet, if that is not what the back end says.
    pub mtu: Option<u16>,
    /// Its speed in megabits a second, if the driver is told any.
    pub speed: Option<u32>,
}

/// What has gone through a card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounts {
    /// Frames the driver has got.
    pub received: u64,
    /// Frames for it that were lost: they did not fit into its buffers.
    pub receive_dropped: u64,
    /// Frames the back end has got.
    pub sent: u64,
    /// Frames to it that were lost: they made no sense, the back end refused them, or there was no
    /// link.
    pub send_dropped: u64,
}

/// The device.
pub struct Net {
    setup: NetSetup,
    abilities: Abilities,
    backend: Arc<dyn NetBackend>,
    link: OnceLock<Link>,
    pairs: Vec<Pair>,
    /// The features in use, 0 while nobody has started the device.
    features: AtomicU64,
    /// Whether the user has the cable plugged in.
    plugged: AtomicBool,
    state: Mutex<State>,
    control: Mutex<Option<Arc<Queue>>>,
}

#[derive(Default)]
struct Pair {
    receive: Mutex<Receive>,
    transmit: Mutex<Transmit>,
}

struct Receive {
    queue: Option<Arc<Queue>>,
    /// Whether the back end tells of frames.
    told: bool,
    /// A packet of this length waits for buffers.
    waiting: usize,
    packet: Box<[u8]>,
    received: u64,
    dropped: u64,
}

#[derive(Default)]
struct Transmit {
    queue: Option<Arc<Queue>>,
    sent: u64,
    dropped: u64,
}

impl Default for Receive {
    fn default() -> Self {
        let packet = vec![0; PACKET_MAX].into();
        Self { queue: None, told: false, waiting: 0, packet, received: 0, dropped: 0 }
    }
}

impl Net {
    /// A card with this back end, and as many pairs of queues as that has, up to [`PAIRS_MAX`].
    pub fn new(setup: NetSetup, backend: Arc<dyn NetBackend>) -> Arc<Self> {
        let abilities = backend.abilities();
        let pairs = abilities.pairs.clamp(1, PAIRS_MAX);
        let this = Arc::new(Self {
            state: Mutex::new(State::new(setup.mac)),
            setup,
            abilities: Abilities { pairs, ..abilities },
            backend,
            link: OnceLock::new(),
            pairs: std::iter::repeat_with(Pair::default).take(pairs.into()).collect(),
            features: AtomicU64::new(0),
            plugged: AtomicBool::new(true),
            control: Mutex::default(),
        });
        let card: Weak<Self> = Arc::downgrade(&this);
        this.backend.attach(card);
        this
    }

    /// What is behind it.
    pub fn backend(&self) -> &Arc<dyn NetBackend> {
        &self.backend
    }

    /// Plugs the cable in, or out.
    pub fn set_plugged(&self, plugged: bool) {
        if self.plugged.swap(plugged, Ordering::Relaxed) != plugged {
            self.link_changed();
        }
    }

    /// Tells the network where the card is: by a RARP packet of its own, and by asking a driver that
    /// can do more.
    pub fn announce(&self) {
        let features = self.features.load(Ordering::Relaxed);
        let mut state = self.state.lock();
        let can = features & F_GUEST_ANNOUNCE != 0;
        state.announce |= can;
        let mac = Mac(state.mac);
        drop(state);
        if can && let Some(link) = self.link.get() {
            link.config_changed();
        }
        if self.has_link() {
            self.backend.announce(mac);
        }
    }

    /// What has gone through it since it was made.
    pub fn counts(&self) -> NetCounts {
        self.pairs.iter().fold(NetCounts::default(), |mut all, pair| {
            let receive = pair.receive.lock();
            all.received += receive.received;
            all.receive_dropped += receive.dropped;
            drop(receive);
            let transmit = pair.transmit.lock();
            all.sent += transmit.sent;
            all.send_dropped += transmit.dropped;
            all
        })
    }

    fn has_link(&self) -> bool {
        self.plugged.load(Ordering::Relaxed) && self.backend.has_link()
    }

    /// Which of its queues is for commands.
    fn control_queue(&self, features: u64) -> u16 {
        if features & F_MQ != 0 { 2 * self.abilities.pairs } else { 2 }
    }

    fn form(features: u64) -> Form {
        Form::new(features & VERSION_1 != 0, features & F_MRG_RXBUF != 0)
    }

    /// Has the back end know what the driver takes.
    fn settle_offloads(&self, state: &State) {
        let features = self.features.load(Ordering::Relaxed);
        let taken = state.offloads.unwrap_or(features) & features;
        self.backend.set_offloads(offloads::received(taken));
    }

    /// Gives the driver what the back end has, while there are buffers for it.
    fn receive(&self, index: u16, features: u64) {
        let Some(pair) = self.pairs.get(usize::from(index)) else { return };
        let receive = &mut *pair.receive.lock();
        let Some(queue) = receive.queue.clone() else { return };
        let told = self.has_link() && index < self.state.lock().pairs && {
            let Some(mut serving) = queue.serve() else { return };
            let (form, mut unwanted) = (Self::form(features), 0);
            loop {
                if receive.waiting == 0 {
                    match self.fetch(index, features, receive) {
                        Fetched::Frame => {}
                        Fetched::Nothing => break true,
                        Fetched::Unwanted if unwanted < UNWANTED_OF_A_TURN => {
                            unwanted += 1;
                            continue;
                        }
                        Fetched::Unwanted => {
                            self.again(2 * index);
                            break true;
                        }
                    }
                }
                let packet = receive.packet.get(..receive.waiting).unwrap_or_default();
                match packet::place(form, &mut serving, packet) {
                    Placed::Yes => receive.received += 1,
                    Placed::TooLong => receive.dropped += 1,
                    Placed::NoRoom => break false,
                }
                receive.waiting = 0;
            }
        };
        if std::mem::replace(&mut receive.told, told) != told {
            self.backend.set_receiving(index, told);
        }
    }

    /// Gets the next packet from the back end.
    fn fetch(&self, index: u16, features: u64, receive: &mut Receive) -> Fetched {
        let len = match self.backend.receive(index, &mut receive.packet) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fetched::Nothing,
            Err(error) => {
                tracing::debug!("a frame is lost: {error}");
                receive.dropped += 1;
                return Fetched::Unwanted;
            }
        };
        let frame = receive.packet.get(HEADER_LEN..len).unwrap_or_default();
        if !self.state.lock().takes(frame, features & F_CTRL_VLAN != 0) {
            return Fetched::Unwanted;
        }
        receive.waiting = len;
        Fetched::Frame
    }

    /// Takes what the driver sends, while the back end has room for it.
    fn transmit(&self, index: u16, features: u64) {
        let Some(pair) = self.pairs.get(usize::from(index)) else { return };
        let transmit = &mut *pair.transmit.lock();
        let Some(queue) = transmit.queue.clone() else { return };
        let Some(mut serving) = queue.serve() else { return };
        let (form, taken) = (Self::form(features), offloads::sent(features));
        let has_link = self.has_link();
        while let Some(chain) = serving.pop() {
            let frame = form.frame(&chain, serving.mem(), taken).filter(|_| has_link);
            let sent = frame.map(|(header, mut frame)| self.send(index, &header, &mut frame));
            match sent {
                Some(Ok(())) => transmit.sent += 1,
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return serving.put_back(chain);
                }
                Some(Err(_)) | None => transmit.dropped += 1,
            }
            serving.complete(chain, 0);
        }
    }

    fn send(&self, index: u16, header: &Header, frame: &mut Buffers) -> io::Result<()> {
        self.backend.send(index, header, frame)
    }

    /// Does what commands say, and answers each.
    fn take_commands(&self, features: u64) {
        let control = self.control.lock();
        let Some(queue) = control.clone() else { return };
        let Some(mut serving) = queue.serve() else { return };
        while let Some(chain) = serving.pop() {
            let len = usize::try_from(chain.readable_len()).unwrap_or(usize::MAX);
            let mut command = vec![0; len.min(COMMAND_MAX)];
            let read = chain.read_at(serving.mem(), 0, &mut command);
            let done = match read {
                Ok(()) => self.execute(features, &command),
                Err(_) => Err(control::Wrong),
            };
            let answer = if done.is_ok() { OK } else { ERR };
            let told = chain.write_at(serving.mem(), 0, &[answer]).is_ok();
            serving.complete(chain, told.into());
        }
    }

    fn execute(&self, features: u64, command: &[u8]) -> Result<(), control::Wrong> {
        let mut state = self.state.lock();
        match control::execute(&mut state, (features, self.abilities.pairs), command)? {
            Done::Filter => {}
            Done::Offloads => self.settle_offloads(&state),
            Done::Pairs => {
                let pairs = state.pairs;
                self.backend.set_pairs(pairs);
                drop(state);
                self.look_again();
            }
        }
        Ok(())
    }

    fn again(&self, queue: u16) {
        if let Some(link) = self.link.get() {
            link.process_soon(queue);
        }
    }

    /// Has all queues for frames looked at.
    fn look_again(&self) {
        (0..2 * self.abilities.pairs).for_each(|queue| self.again(queue));
    }
}

/// What the back end had.
enum Fetched {
    /// A packet, which waits.
    Frame,
    /// Nothing.
    Nothing,
    /// One that is not for the driver, or was lost.
    Unwanted,
}

impl VirtioDevice for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        let offloads = offloads::offered(&self.abilities);
        let mut features = OF_QUEUES | offloads | F_MAC | F_STATUS | F_MRG_RXBUF;
        features |= F_CTRL_VQ | F_CTRL_RX | F_CTRL_RX_EXTRA | F_CTRL_VLAN | F_CTRL_MAC_ADDR;
        features |= F_GUEST_ANNOUNCE;
        let more = [
            (self.abilities.pairs > 1, F_MQ),
            (offloads & offloads::OF_GUEST != 0, F_CTRL_GUEST_OFFLOADS),
            (self.mtu().is_some(), F_MTU),
            (self.setup.speed.is_some(), F_SPEED_DUPLEX),
        ];
        more.iter().filter(|(has, _)| *has).fold(features, |all, (_, feature)| all | feature)
    }

    fn can_have(&self, features: u64) -> bool {
        let by_commands = F_CTRL_RX
            | F_CTRL_RX_EXTRA
            | F_CTRL_VLAN
            | F_CTRL_MAC_ADDR
            | F_GUEST_ANNOUNCE
            | F_MQ
            | F_CTRL_GUEST_OFFLOADS;
        let commands = features & by_commands == 0 || features & F_CTRL_VQ != 0;
        commands && offloads::are_whole(features)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; 2 * self.pairs.len()];
        sizes.push(CONTROL_SIZE);
        sizes
    }

    fn config_len(&self) -> u32 {
        CONFIG_LEN
    }

    fn config_read(&self, offset: u32, data: &mut [u8]) {
        read_config(&self.config(), offset, data);
    }

    /// A driver from before version 1.0 gives the card an address here.
    fn config_write(&self, offset: u32, data: &[u8]) {
        if self.features.load(Ordering::Relaxed) & VERSION_1 != 0 {
            return;
        }
        let mut state = self.state.lock();
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in state.mac.iter_mut().skip(at).zip(data) {
            *to = *from;
        }
    }

    fn attach(&self, link: &Link) {
        self.link.get_or_init(|| link.clone());
    }

    fn activate(&self, activation: &Activation<'_>) {
        let features = activation.features;
        self.features.store(features, Ordering::Relaxed);
        for (pair, queues) in self.pairs.iter().zip(activation.queues.chunks(2)) {
            if let [receive, transmit] = queues {
                pair.receive.lock().queue = Some(Arc::clone(receive));
                pair.transmit.lock().queue = Some(Arc::clone(transmit));
            }
        }
        let control = activation.queues.get(usize::from(self.control_queue(features)));
        *self.control.lock() = control.filter(|_| features & F_CTRL_VQ != 0).cloned();
        let state = self.state.lock();
        self.settle_offloads(&state);
        self.backend.set_pairs(state.pairs);
    }

    fn process(&self, queue: u16) {
        let features = self.features.load(Ordering::Relaxed);
        if queue == self.control_queue(features) {
            return self.take_commands(features);
        }
        match queue % 2 {
            0 => self.receive(queue / 2, features),
            _ if queue / 2 < self.state.lock().pairs => self.transmit(queue / 2, features),
            _ => {}
        }
    }

    fn stop_queue(&self, queue: u16) {
        if let (0, Some(pair)) = (queue % 2, self.pairs.get(usize::from(queue / 2))) {
            self.rest(queue / 2, &mut pair.receive.lock());
        }
    }

    fn reset(&self) {
        self.forget_driver();
        let mut state = self.state.lock();
        *state = State::new(self.setup.mac);
        self.settle_offloads(&state);
        self.backend.set_pairs(1);
    }
}

impl Net {
    /// The queues that a driver has set up and the features it has taken are gone.
    fn forget_driver(&self) {
        for (index, pair) in (0..).zip(&self.pairs) {
            let mut receive = pair.receive.lock();
            receive.queue = None;
            self.rest(index, &mut receive);
            pair.transmit.lock().queue = None;
        }
        *self.control.lock() = None;
        self.features.store(0, Ordering::Relaxed);
    }

    /// Nobody receives on this pair.
    fn rest(&self, index: u16, receive: &mut Receive) {
        receive.waiting = 0;
        if std::mem::take(&mut receive.told) {
            self.backend.set_receiving(index, false);
        }
    }

    fn mtu(&self) -> Option<u16> {
        self.setup.mtu.or(self.abilities.mtu)
    }

    fn config(&self) -> [u8; CONFIG_LEN as usize] {
        let state = self.state.lock();
        config::Config {
            mac: state.mac,
            has_link: self.has_link(),
            announce: state.announce,
            pairs: self.abilities.pairs,
            mtu: self.mtu(),
            speed: self.setup.speed,
        }
        .bytes()
    }
}

impl NetCard for Net {
    fn ready(&self, pair: u16) {
        self.receive(pair, self.features.load(Ordering::Relaxed));
    }

    fn room(&self, pair: u16) {
        self.transmit(pair, self.features.load(Ordering::Relaxed));
    }

    fn link_changed(&self) {
        if let Some(link) = self.link.get() {
            link.config_changed();
        }
        self.look_again();
    }
}

impl SaveState for Net {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV1::from(&*self.state.lock()))
    }

    /// A frame that waited for buffers is lost, as on any wire.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let restored = State::try_from(saved.decode::<SavedV1>()?)?;
        let possible = restored.pairs <= self.abilities.pairs;
        StateError::check::<SavedV1>(possible, "a card has as many queues as it was made with")?;
        self.forget_driver();
        *self.state.lock() = restored;
        Ok(())
    }

    /// What a driver has posted, and what waits for it, is looked at anew.
    fn is_at_rest(&self) -> bool {
        self.features.load(Ordering::Relaxed) == 0
    }
}
