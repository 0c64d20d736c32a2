//! The 9P transport: a folder of the host that a guest mounts by a tag.
//!
//! A request is a message of the protocol in the bytes to read, with its reply in those to write. A
//! thread of a pool answers it (`trapline-ninep`), moving the data of reads and writes between file
//! and guest memory itself; the event loop gives it back. What was asked later may be answered
//! earlier, but for `Tflush`, which is answered after the request that it is about.
//!
//! Spec: virtio 1.3 reserves the device's number (section 5.13), and Linux' driver
//! (`net/9p/trans_virtio.c`) says what it is.

mod carried;
pub mod regs;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex};
use trapline_device::{SaveState, Saved, StateError, Witness, saved_form};
use trapline_guestio::{Buffers, Pool};
use trapline_guestmem::GuestMem;
use trapline_ninep::{Header, SavedFid, Server, Share, ShareError, ShareOptions, TAG_LEN, kind};

use crate::device::read_config;
use crate::features::OF_QUEUES;
use crate::{Activation, Buffer, Chain, DeviceType, Link, Queue, Serving, VirtioDevice};
use carried::carry;
use regs::F_MOUNT_TAG;

/// Descriptors of the queue: QEMU's and kvmtool's.
const QUEUE_SIZE: u16 = 128;

/// Who answers requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// Threads, several requests at a time.
    Threads,
    /// A turn at the queue, one after the other, so that the same accesses have the same effects at
    /// the same time. For machines without a CPU.
    InTurn,
}

/// A shared folder behind virtio.
pub struct P9 {
    /// Length and bytes of the tag.
    config: Vec<u8>,
    shared: Arc<Shared>,
    /// Gone before what its threads share.
    pool: Option<Pool>,
    /// Who hears of answers, if anybody does.
    witness: OnceLock<Arc<dyn Witness>>,
    run: Mutex<Run>,
}

/// What a thread that answers needs.
struct Shared {
    /// Not there of a [`P9::stand_in`].
    server: Option<Server>,
    link: OnceLock<Link>,
    mailbox: Mutex<Mailbox>,
    /// A request has been answered.
    arrived: Condvar,
    /// Whether what has not begun is not to begin any more.
    abandoned: AtomicBool,
}

/// Where answered requests are put.
#[derive(Default)]
struct Mailbox {
    under_way: usize,
    done: Vec<Done>,
}

/// A request that has been answered: its number, and how much was written.
struct Done {
    number: u64,
    chain: Chain,
    written: u32,
}

/// What lasts until the next reset.
#[derive(Default)]
struct Run {
    queue: Option<Arc<Queue>>,
    /// Requests are numbered as they come.
    next: u64,
    /// Those that somebody has, with the tags that the client knows them by.
    under_way: BTreeMap<u64, u16>,
    /// Those of a device without a server: when they are answered, the witness knows.
    elsewhere: BTreeMap<u64, Chain>,
    /// Requests to take one back that somebody has: which that is.
    flushes: Vec<(Vec<u64>, Chain)>,
    /// What can go back, in order.
    ready: Vec<(Chain, u32)>,
    /// What could go back when a snapshot was taken, by its head.
    again: Vec<(u16, u32)>,
}

/// What a snapshot keeps.
#[derive(Clone, Debug, Default)]
struct State {
    /// The longest message settled on, 0 without a session.
    msize: u32,
    /// Files that the client has, by number, user, path below the folder, and how they are open.
    fids: Vec<(u32, u32, Vec<u8>, Option<u32>)>,
    /// Requests that were answered and had not gone back: head, and how much was written.
    ready: Vec<(u16, u32)>,
}

impl P9 {
    /// A device that shares this folder under its tag.
    ///
    /// # Errors
    /// It cannot be shared.
    ///
    /// # Panics
    /// When the tag is empty, or longer than [`TAG_LEN`].
    pub fn new(options: &ShareOptions, answering: Answering) -> Result<Arc<Self>, ShareError> {
        let server = Server::new(Share::open(options)?);
        let pool = (answering == Answering::Threads).then(|| Pool::new("9p"));
        Ok(Self::build(&options.tag, Some(server), pool))
    }

    /// A device with this tag and no folder: its witness ([`Self::set_witness`]) knows when requests were
    /// answered.
    ///
    /// # Panics
    /// As of [`Self::new`].
    pub fn stand_in(tag: &str) -> Arc<Self> {
        Self::build(tag, None, None)
    }

    fn build(tag: &str, server: Option<Server>, pool: Option<Pool>) -> Arc<Self> {
        let tag = tag.as_bytes();
        let len =
            u16::try_from(tag.len()).ok().filter(|len| (1..=TAG_LEN).contains(&(*len).into()));
        assert!(len.is_some(), "a mount tag has 1 to {TAG_LEN} bytes");
        let config = [&len.unwrap_or_default().to_le_bytes()[..], tag].concat();
        let shared = Arc::new(Shared {
            server,
            link: OnceLock::new(),
            mailbox: Mutex::default(),
            arrived: Condvar::new(),
            abandoned: AtomicBool::new(false),
        });
        Arc::new(Self { config, shared, pool, witness: OnceLock::new(), run: Mutex::default() })
    }

    /// Has `witness` hear of answers. Called before the device is in use.
    pub fn set_witness(&self, witness: Arc<dyn Witness>) {
        let _ = self.witness.set(witness);
    }

    /// Begins a request.
    fn begin(&self, run: &mut Run, chain: Chain, mem: &GuestMem) {
        let mut header = [0; Header::LEN];
        let read = chain.read_at(mem, 0, &mut header);
        let Some(header) = read.ok().and_then(|()| Header::of(&header)) else {
            // Nobody has asked for anything.
            run.ready.push((chain, 0));
            return;
        };
        if header.kind == kind::TFLUSH {
            return self.flush(run, chain, mem);
        }
        let number = run.next;
        run.next += 1;
        run.under_way.insert(number, header.tag);
        if let Some(witness) = self.witness.get() {
            tell(&**witness, chain.readable(), mem);
        }
        if self.shared.server.is_none() {
            run.elsewhere.insert(number, chain);
            return;
        }
        self.shared.mailbox.lock().under_way += 1;
        // What the server reads is no part of the device.
        let (shared, mem) = (Arc::clone(&self.shared), mem.without_tap());
        let answer = move || shared.answer(number, chain, &mem);
        match &self.pool {
            Some(pool) => pool.spawn(answer),
            None => answer(),
        }
    }

    /// Answers a request to take another one back: that is not done, but waited for.
    fn flush(&self, run: &mut Run, chain: Chain, mem: &GuestMem) {
        let mut old = [0; 2];
        let read = chain.read_at(mem, Header::LEN as u64, &mut old);
        let old = read.map(|()| u16::from_le_bytes(old)).ok();
        let numbers = run.under_way.iter().filter(|(_, tag)| Some(**tag) == old);
        let numbers: Vec<u64> = numbers.map(|(number, _)| *number).collect();
        match numbers.is_empty() {
            true => {
                let written = self.answer_flush(&chain, mem);
                run.ready.push((chain, written));
            }
            false => run.flushes.push((numbers, chain)),
        }
    }

    fn answer_flush(&self, chain: &Chain, mem: &GuestMem) -> u32 {
        let carry = || match &self.shared.server {
            Some(server) => carry(server, chain, &mem.without_tap()),
            None => 0,
        };
        match self.witness.get() {
            Some(witness) => {
                let written = witness.answer(0, &mut || carry().into());
                u32::try_from(written).unwrap_or(0)
            }
            None => carry(),
        }
    }

    /// What has been answered. Without a server the witness knows that.
    fn answered(&self, run: &mut Run) -> Vec<Done> {
        let done = std::mem::take(&mut self.shared.mailbox.lock().done);
        let Some(witness) = self.witness.get() else { return done };
        let arrived = done.iter().map(|done| done.number << 32 | u64::from(done.written));
        let arrived = witness.arrived(arrived.collect());
        let elsewhere = arrived.into_iter().filter_map(|value| {
            let (number, written) = (value >> 32, u32::try_from(value & 0xffff_ffff).unwrap_or(0));
            Some(Done { number, chain: run.elsewhere.remove(&number)?, written })
        });
        let all: Vec<_> = done.into_iter().chain(elsewhere).collect();
        for Done { chain, .. } in &all {
            match &run.queue {
                Some(queue) => tell(&**witness, chain.writable(), queue.mem()),
                None => witness.payload(0, &mut |_| {}),
            }
        }
        all
    }

    /// Takes in what has been answered, and answers those who have waited for that.
    fn take_in(&self, run: &mut Run, mem: &GuestMem) {
        for Done { number, chain, written } in self.answered(run) {
            run.under_way.remove(&number);
            run.ready.push((chain, written));
            for (numbers, _) in &mut run.flushes {
                numbers.retain(|other| *other != number);
            }
            let waits = |(numbers, _): &mut (Vec<u64>, Chain)| numbers.is_empty();
            for (_, chain) in run.flushes.extract_if(.., waits) {
                let written = self.answer_flush(&chain, mem);
                run.ready.push((chain, written));
            }
        }
    }

    /// Gives back what can go back.
    fn give_back(run: &mut Run, serving: &mut Serving<'_>) {
        for (head, written) in std::mem::take(&mut run.again) {
            if let Some(chain) = serving.take_back(head) {
                let room = u32::try_from(chain.writable_len()).unwrap_or(u32::MAX);
                serving.complete(chain, written.min(room));
            }
        }
        for (chain, written) in std::mem::take(&mut run.ready) {
            serving.complete(chain, written);
        }
    }

    /// Waits for what is under way, and forgets all requests.
    fn abandon(&self, run: &mut Run) {
        self.shared.abandoned.store(true, Ordering::Relaxed);
        self.shared.settle();
        self.shared.abandoned.store(false, Ordering::Relaxed);
        self.shared.mailbox.lock().done.clear();
        *run = Run { queue: run.queue.take(), next: run.next, ..Run::default() };
    }
}

/// Shows the witness what is in these buffers, as far as they are RAM.
fn tell(witness: &dyn Witness, buffers: &[Buffer], mem: &GuestMem) {
    let mut all = Buffers::new(mem);
    for Buffer { addr, len } in buffers {
        let len = usize::try_from(*len).unwrap_or(usize::MAX);
        if all.push(*addr, len).is_err() {
            break;
        }
    }
    let places = all.places();
    witness.payload(places.len(), &mut |tell| places.each(tell));
}

impl Shared {
    /// Answers a request, and puts it where the event loop finds it.
    fn answer(&self, number: u64, chain: Chain, mem: &GuestMem) {
        let abandoned = self.abandoned.load(Ordering::Relaxed);
        let server = self.server.as_ref().filter(|_| !abandoned);
        let written = server.map_or(0, |server| carry(server, &chain, mem));
        let mut mailbox = self.mailbox.lock();
        mailbox.under_way -= 1;
        mailbox.done.push(Done { number, chain, written });
        // Whoever is first has them all fetched.
        let first = mailbox.done.len() == 1;
        drop(mailbox);
        self.arrived.notify_all();
        if first && let Some(link) = self.link.get() {
            link.process_soon(0);
        }
    }

    /// Waits until nobody has a request: nothing is read from or written to guest memory then.
    fn settle(&self) {
        let mut mailbox = self.mailbox.lock();
        while mailbox.under_way > 0 {
            self.arrived.wait(&mut mailbox);
        }
    }
}

impl VirtioDevice for P9 {
    fn device_type(&self) -> DeviceType {
        DeviceType::P9
    }

    fn features(&self) -> u64 {
        OF_QUEUES | F_MOUNT_TAG
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn config_len(&self) -> u32 {
        u32::try_from(self.config.len()).unwrap_or(0)
    }

    fn config_read(&self, offset: u32, data: &mut [u8]) {
        read_config(&self.config, offset, data);
    }

    fn attach(&self, link: &Link) {
        self.shared.link.get_or_init(|| link.clone());
    }

    fn activate(&self, activation: &Activation<'_>) {
        self.run.lock().queue = activation.queues.first().cloned();
    }

    fn process(&self, _queue: u16) {
        let run = &mut *self.run.lock();
        let Some(queue) = run.queue.clone() else { return };
        let Some(mut serving) = queue.serve() else { return };
        self.take_in(run, queue.mem());
        Self::give_back(run, &mut serving);
        while let Some(chain) = serving.pop() {
            self.begin(run, chain, queue.mem());
        }
        // What was answered at once.
        self.take_in(run, queue.mem());
        Self::give_back(run, &mut serving);
    }

    fn stop_queue(&self, _queue: u16) {
        self.abandon(&mut self.run.lock());
    }

    fn reset(&self) {
        let run = &mut *self.run.lock();
        self.abandon(run);
        run.queue = None;
        if let Some(server) = &self.shared.server {
            server.reset();
        }
    }
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let bounded = self.ready.iter().all(|(head, _)| *head < QUEUE_SIZE);
        StateError::check::<SavedV1>(bounded, "a request's head is in its queue")
    }
}

saved_form! {
    /// [`State`], version 1.
    struct SavedV1 of State, "virtio-9p" version 1 {
        msize: u32,
        fids: Vec<(u32, u32, Vec<u8>, Option<u32>)>,
        ready: Vec<(u16, u32)>,
    }
}

impl SaveState for P9 {
    /// What is under way is waited for, as nobody can make it undone: its reply is in guest memory, and
    /// goes back when the machine goes on, here or from the snapshot.
    fn save(&self) -> Saved {
        let run = &mut *self.run.lock();
        self.shared.settle();
        if let Some(queue) = run.queue.clone() {
            self.take_in(run, queue.mem());
        }
        let ready = run.ready.iter().map(|(chain, written)| (chain.head(), *written));
        let ready = run.again.iter().copied().chain(ready).collect();
        let (msize, fids) = self.shared.server.as_ref().map(Server::save).unwrap_or_default();
        let fids = fids.into_iter().map(|fid| (fid.fid, fid.uid, fid.path, fid.open)).collect();
        Saved::encode(&SavedV1::from(&State { msize, fids, ready }))
    }

    /// The client has its files again as far as they are where they were.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let restored = State::try_from(saved.decode::<SavedV1>()?)?;
        let run = &mut *self.run.lock();
        self.abandon(run);
        run.queue = None;
        run.again = restored.ready;
        let fids = restored.fids.into_iter();
        let fids = fids.map(|(fid, uid, path, open)| SavedFid { fid, uid, path, open });
        if let Some(server) = &self.shared.server {
            server.restore(restored.msize, fids);
        }
        Ok(())
    }

    /// Requests are numbered from the driver's start on, and the client's files are open in this process.
    fn is_at_rest(&self) -> bool {
        self.run.lock().next == 0
    }
}
