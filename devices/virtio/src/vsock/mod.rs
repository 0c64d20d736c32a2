//! The socket device: connections between programs of the guest and programs of the host.
//!
//! ```text
//!   transmitq ─► Header ─► connection::Connection: credit, buffer ─► VsockBackend
//!   receiveq ◄── what each connection is owed, in turns ◄── VsockBackend::events, read
//! ```
//!
//! What the guest sends waits in its connection's buffer while the host has no room; how long that is,
//! the guest is told, and one that sends more loses the connection. What the host sends stays there while the guest has no
//! room. Packets for ports that nobody has are answered by resets, for as many as wait to be fetched:
//! then packets of the guest wait, too.
//!
//! Spec: virtio 1.3, section 5.10.
//!
//! Deviations: a request to receive into that has no room for a header, or is not RAM, goes back with
//! length 0, and the queue goes on. Sockets of packets (`VIRTIO_VSOCK_F_SEQPACKET`) are not offered.

mod connection;
mod events;
mod packet;
pub mod regs;
mod run;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use trapline_device::{Readiness, SaveState, Saved, StateError, Witness, saved_form};
use trapline_guestio::Buffers;
use trapline_vsock::{CONNECTIONS_MAX, Event, VsockBackend, VsockDevice};

use crate::device::read_config;
use crate::features::OF_QUEUES;
use crate::{Activation, Chain, DeviceType, Link, Serving, VirtioDevice};
use connection::{BUFFER_LEN, Connection};
use events::{told, words};
use packet::Header;
use regs::{
    CONFIG_LEN, EVENT_TRANSPORT_RESET, EVENTS, F_STREAM, HEADER_LEN, HOST_CID, OP_CREDIT_REQUEST,
    OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW, OP_SHUTDOWN, RX, SHUTDOWN_RECEIVE,
    SHUTDOWN_SEND, TX, TYPE_STREAM,
};
use run::{Ports, Run};

/// Descriptors of each queue: Firecracker's.
const QUEUE_SIZE: u16 = 256;
/// Resets that may wait until packets of the guest do.
const RESETS_MAX: usize = 128;
/// The most data of a packet for the guest.
const DATA_MAX: usize = 64 << 10;
/// The first of the ports that the host's end of incoming connections has: Firecracker's.
const HOST_PORTS: u32 = 1 << 30;

/// The device.
pub struct Vsock {
    cid: u32,
    /// Not there of a [`Vsock::stand_in`].
    backend: Option<Arc<dyn VsockBackend>>,
    /// Who hears of what the host answers, if anybody does.
    witness: OnceLock<Arc<dyn Witness>>,
    link: OnceLock<Link>,
    run: Mutex<Run>,
}

/// What a snapshot keeps: nothing of the connections, which are lost.
#[derive(Clone, Debug, Default)]
struct State {
    /// Whether the driver was to hear of that already.
    lost: bool,
}

impl Vsock {
    /// The guest's end has this context identifier, and the host's end this back end.
    pub fn new(cid: u32, backend: Arc<dyn VsockBackend>) -> Arc<Self> {
        let this = Self::build(cid, Some(Arc::clone(&backend)));
        let device: Weak<Self> = Arc::downgrade(&this);
        backend.attach(device);
        this
    }

    /// A device without a host's end: its witness ([`Self::set_witness`]) knows what that answered.
    pub fn stand_in(cid: u32) -> Arc<Self> {
        Self::build(cid, None)
    }

    fn build(cid: u32, backend: Option<Arc<dyn VsockBackend>>) -> Arc<Self> {
        let (witness, link, run) = (OnceLock::new(), OnceLock::new(), Mutex::default());
        Arc::new(Self { cid, backend, witness, link, run })
    }

    /// The guest's context identifier.
    pub fn cid(&self) -> u32 {
        self.cid
    }

    /// Has `witness` hear of the host's answers. Called before the device is in use.
    pub fn set_witness(&self, witness: Arc<dyn Witness>) {
        let _ = self.witness.set(witness);
    }

    /// A number that the host answers.
    fn ask(&self, usual: u64, ask: impl FnOnce(&dyn VsockBackend) -> u64) -> u64 {
        let mut ask = Some(ask);
        let mut answer = || match (&self.backend, ask.take()) {
            (Some(backend), Some(ask)) => ask(&**backend),
            _ => usual,
        };
        match self.witness.get() {
            Some(witness) => witness.answer(usual, &mut answer),
            None => answer(),
        }
    }

    fn tell(&self, tell: impl FnOnce(&dyn VsockBackend)) {
        if let Some(backend) = &self.backend {
            tell(&**backend);
        }
    }

    /// Shows the witness data of the guest's, or for it.
    fn show(&self, chain: &Chain, serving: &Serving<'_>, len: u64, written: bool) {
        let Some(witness) = self.witness.get() else { return };
        let buffers = if written { chain.writable() } else { chain.readable() };
        let (mut all, mut skip) = (Buffers::new(serving.mem()), HEADER_LEN as u64);
        let mut left = len;
        for buffer in buffers {
            let skipped = skip.min(buffer.len.into());
            skip -= skipped;
            let now = (u64::from(buffer.len) - skipped).min(left);
            left -= now;
            let pushed = usize::try_from(now).map(|now| all.push(buffer.addr + skipped, now));
            if !matches!(pushed, Ok(Ok(()))) {
                break;
            }
        }
        let places = all.places();
        witness.payload(places.len(), &mut |tell| places.each(tell));
    }

    /// Takes in what has happened at the host's end.
    fn take_in(&self, run: &mut Run) {
        let events = self.backend.as_ref().map(|backend| backend.events()).unwrap_or_default();
        let words = events.into_iter().flat_map(words).collect();
        let words = match self.witness.get() {
            Some(witness) => witness.arrived(words),
            None => words,
        };
        for event in told(&words) {
            match event {
                Event::Incoming { id, port } => self.comes(run, id, port),
                Event::Ready { id, ready } => {
                    let Some(ports) = run.numbers.get(&id).copied() else { continue };
                    let Some(connection) = run.connections.get_mut(&ports) else { continue };
                    connection.dry &= !ready.read;
                    if ready.write {
                        connection.stuck = false;
                        self.flush(run, ports);
                    }
                    run.queue(ports);
                }
            }
        }
    }

    /// Somebody on the host wants to reach this port of the guest's.
    fn comes(&self, run: &mut Run, id: u32, port: u32) {
        let usable = run.queues.get(usize::from(RX)).is_some_and(|queue| queue.is_live());
        if !usable || run.connections.len() >= CONNECTIONS_MAX {
            return self.tell(|backend| backend.close(id));
        }
        let ports = loop {
            let host = HOST_PORTS | run.next_port;
            run.next_port = (run.next_port + 1) % HOST_PORTS;
            if !run.connections.contains_key(&(port, host)) {
                break (port, host);
            }
        };
        run.add(ports, Connection::incoming(id));
    }

    /// Does what a packet of the guest's says.
    fn hear(&self, run: &mut Run, chain: &Chain, serving: &Serving<'_>) {
        let mut bytes = [0; HEADER_LEN];
        if chain.read_at(serving.mem(), 0, &mut bytes).is_err() {
            return;
        }
        let header = Header::of(&bytes);
        let ports = (header.src_port, header.dst_port);
        let is_ours = header.src_cid == u64::from(self.cid) && header.dst_cid == HOST_CID;
        if !is_ours || header.op == OP_RST && header.kind != TYPE_STREAM {
            return;
        }
        if header.kind != TYPE_STREAM {
            return run.resets.push_back((ports, header.kind));
        }
        match header.op {
            OP_RST => self.forget(run, ports),
            OP_REQUEST => self.connect(run, ports, &header),
            _ => {
                let known = run.connections.get_mut(&ports);
                let good = known.is_some_and(|connection| {
                    connection.hears(&header);
                    self.act(connection, &header, ports.1, (chain, serving))
                });
                if !good {
                    return self.refuse(run, ports);
                }
                self.flush(run, ports);
                run.queue(ports);
            }
        }
    }

    /// The guest wants to reach a port of the host's.
    fn connect(&self, run: &mut Run, ports: Ports, request: &Header) {
        if run.connections.contains_key(&ports) || run.connections.len() >= CONNECTIONS_MAX {
            return self.refuse(run, ports);
        }
        let connect = |backend: &dyn VsockBackend| backend.connect(ports.1).map_or(0, u64::from);
        match u32::try_from(self.ask(0, connect)) {
            Ok(id) if id != 0 => run.add(ports, Connection::outgoing(id, request)),
            _ => run.resets.push_back((ports, TYPE_STREAM)),
        }
    }

    /// Does what a packet of a connection says. Whether it keeps to the rules.
    fn act(
        &self,
        connection: &mut Connection,
        header: &Header,
        host_port: u32,
        (chain, serving): (&Chain, &Serving<'_>),
    ) -> bool {
        match header.op {
            OP_RESPONSE => {
                let was_asked = std::mem::take(&mut connection.asked);
                if was_asked {
                    self.tell(|backend| backend.accept(connection.id, host_port));
                }
                was_asked
            }
            _ if connection.asked => false,
            OP_RW => {
                let end = HEADER_LEN as u64 + u64::from(header.len);
                let possible = header.len <= BUFFER_LEN && end <= chain.readable_len();
                if !possible || connection.guest_done & SHUTDOWN_SEND != 0 {
                    return false;
                }
                let mut data = vec![0; usize::try_from(header.len).unwrap_or(0)];
                let mem = serving.mem().without_tap();
                let read = chain.read_at(&mem, HEADER_LEN as u64, &mut data);
                self.show(chain, serving, header.len.into(), false);
                read.is_ok() && connection.takes(&data)
            }
            OP_CREDIT_UPDATE => true,
            OP_CREDIT_REQUEST => {
                connection.is_asked_for_credit();
                true
            }
            OP_SHUTDOWN => {
                connection.guest_done |= header.flags & (SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
                true
            }
            _ => false,
        }
    }

    /// Gives the host what waits for it, as far as it has room, and ends what is over.
    fn flush(&self, run: &mut Run, ports: Ports) {
        let Some(connection) = run.connections.get_mut(&ports) else { return };
        let id = connection.id;
        while !connection.stuck && !connection.buffer.is_empty() {
            let all = connection.buffer.len();
            let write = |backend: &dyn VsockBackend| match backend.write(id, &connection.buffer) {
                Ok(len) => len as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => BROKEN,
            };
            let written = self.ask(all as u64, write);
            if written == BROKEN {
                return self.refuse(run, ports);
            }
            let written = usize::try_from(written).unwrap_or(0);
            connection.gives(written);
            connection.stuck = written < all;
            if connection.stuck {
                self.tell(|backend| backend.wait_for(id, Readiness::WRITE));
            }
        }
        if connection.is_over() {
            return self.refuse(run, ports);
        }
        let ended = connection.guest_done & SHUTDOWN_SEND != 0 && connection.buffer.is_empty();
        if ended && !std::mem::replace(&mut connection.finished, true) {
            self.tell(|backend| backend.finish(id));
        }
    }

    /// There is no such connection, or no longer: the guest is told.
    fn refuse(&self, run: &mut Run, ports: Ports) {
        self.forget(run, ports);
        run.resets.push_back((ports, TYPE_STREAM));
    }

    fn forget(&self, run: &mut Run, ports: Ports) {
        if let Some(connection) = run.connections.remove(&ports) {
            run.numbers.remove(&connection.id);
            run.turns.retain(|other| *other != ports);
            self.tell(|backend| backend.close(connection.id));
        }
    }

    /// Forgets all connections.
    fn forget_all(&self, run: &mut Run) {
        for id in std::mem::take(&mut run.numbers).into_keys() {
            self.tell(|backend| backend.close(id));
        }
        let next_port = run.next_port;
        *run = Run { next_port, ..Run::default() };
    }

    /// Takes packets of the guest's, unless too many answers wait to be fetched.
    fn transmit(&self, run: &mut Run) {
        let Some(queue) = run.queues.get(usize::from(TX)).cloned() else { return };
        let Some(mut serving) = queue.serve() else { return };
        while run.resets.len() < RESETS_MAX {
            let Some(chain) = serving.pop() else { return };
            self.hear(run, &chain, &serving);
            serving.complete(chain, 0);
        }
    }

    /// Gives the guest what it is owed, while there are buffers for it.
    fn receive(&self, run: &mut Run) {
        let Some(queue) = run.queues.get(usize::from(RX)).cloned() else { return };
        let Some(mut serving) = queue.serve() else { return };
        while let Some(ports) = run.next_owed() {
            let Some(chain) = serving.pop() else { return };
            if chain.writable_len() < HEADER_LEN as u64 {
                serving.complete(chain, 0);
                continue;
            }
            match self.packet(run, ports, &chain, &serving) {
                Some((header, len)) => {
                    let written = chain.write_at(serving.mem(), 0, &header.bytes()).is_ok();
                    let len = u32::try_from(HEADER_LEN).unwrap_or(0) + len;
                    serving.complete(chain, if written { len } else { 0 });
                }
                None => serving.put_back(chain),
            }
        }
    }

    /// The next packet for the guest, whose data is in place, and how much that is.
    fn packet(
        &self,
        run: &mut Run,
        ports: Option<Ports>,
        chain: &Chain,
        serving: &Serving<'_>,
    ) -> Option<(Header, u32)> {
        let Some(ports) = ports else {
            let (ports, kind) = run.resets.pop_front()?;
            return Some((Header { op: OP_RST, kind, ..self.header(ports) }, 0));
        };
        let connection = run.connections.get_mut(&ports)?;
        let mut header = self.header(ports);
        if let Some((op, flags)) = connection.next_packet() {
            (header.op, header.flags) = (op, flags);
        } else {
            let room = chain.writable_len() - HEADER_LEN as u64;
            let most = room.min(connection.credit().into());
            let most = usize::try_from(most).unwrap_or(DATA_MAX).min(DATA_MAX);
            header.len = self.fetch(connection, most, chain, serving)?;
            header.op = OP_RW;
        }
        (header.buf_alloc, header.fwd_cnt) = connection.tells();
        connection.sends(header.len);
        Some((header, header.len))
    }

    /// Reads what the host has sent into the chain. `None` if there is nothing, or its end.
    fn fetch(
        &self,
        connection: &mut Connection,
        most: usize,
        chain: &Chain,
        serving: &Serving<'_>,
    ) -> Option<u32> {
        let id = connection.id;
        let mut data = vec![0; most];
        let read = |backend: &dyn VsockBackend| match backend.read(id, &mut data) {
            Ok(len) => len as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => NOTHING,
            // Who is gone sends no more; what the guest sends it is refused.
            Err(_) => 0,
        };
        match self.ask(NOTHING, read) {
            NOTHING => {
                connection.dry = true;
                self.tell(|backend| backend.wait_for(id, Readiness::READ));
                None
            }
            0 => {
                connection.ends();
                None
            }
            len => {
                let len = usize::try_from(len).unwrap_or(0).min(most);
                let data = data.get(..len).unwrap_or_default();
                let mem = serving.mem().without_tap();
                // What is not RAM is the driver's loss.
                let _ = chain.write_at(&mem, HEADER_LEN as u64, data);
                self.show(chain, serving, len as u64, true);
                u32::try_from(len).ok()
            }
        }
    }

    fn header(&self, (guest, host): Ports) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.cid.into(),
            src_port: host,
            dst_port: guest,
            kind: TYPE_STREAM,
            ..Header::default()
        }
    }

    /// Tells the driver that all connections are lost, if it has not heard and listens.
    fn tell_of_loss(&self, run: &mut Run) {
        let Some(queue) = run.queues.get(usize::from(EVENTS)).cloned() else { return };
        let Some(mut serving) = queue.serve() else { return };
        while let Some(chain) = serving.pop() {
            if !run.lost {
                return serving.put_back(chain);
            }
            let told =
                chain.write_at(serving.mem(), 0, &EVENT_TRANSPORT_RESET.to_le_bytes()).is_ok();
            run.lost = !told;
            serving.complete(chain, if told { 4 } else { 0 });
        }
    }
}

/// What a back end answers in place of a length.
const BROKEN: u64 = u64::MAX;
const NOTHING: u64 = u64::MAX;

impl VsockDevice for Vsock {
    fn events_come(&self) {
        if let Some(link) = self.link.get() {
            link.process_soon(RX);
        }
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn features(&self) -> u64 {
        OF_QUEUES | F_STREAM
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    fn config_len(&self) -> u32 {
        CONFIG_LEN
    }

    fn config_read(&self, offset: u32, data: &mut [u8]) {
        read_config(&u64::from(self.cid).to_le_bytes(), offset, data);
    }

    fn attach(&self, link: &Link) {
        self.link.get_or_init(|| link.clone());
    }

    fn activate(&self, activation: &Activation<'_>) {
        self.run.lock().queues = activation.queues.to_vec();
    }

    fn process(&self, _queue: u16) {
        let run = &mut *self.run.lock();
        self.tell_of_loss(run);
        self.take_in(run);
        loop {
            // Packets wait for answers to be fetched, and answers make room for packets.
            self.transmit(run);
            let full = run.resets.len() >= RESETS_MAX;
            self.receive(run);
            if !full || run.resets.len() >= RESETS_MAX {
                break;
            }
        }
    }

    fn reset(&self) {
        self.forget_all(&mut self.run.lock());
    }
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        Ok(())
    }
}

saved_form! {
    /// [`State`], version 1.
    struct SavedV1 of State, "virtio-vsock" version 1 {
        lost: bool,
    }
}

impl SaveState for Vsock {
    fn save(&self) -> Saved {
        let run = self.run.lock();
        Saved::encode(&SavedV1::from(&State { lost: run.lost }))
    }

    /// Who was connected to the machine that was saved is not connected to this one: the driver is told.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        State::try_from(saved.decode::<SavedV1>()?)?;
        let run = &mut *self.run.lock();
        self.forget_all(run);
        run.lost = true;
        Ok(())
    }

    /// A restored device tells its driver that connections are lost.
    fn is_at_rest(&self) -> bool {
        false
    }
}
