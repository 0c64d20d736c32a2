//! The block device: a disk image behind virtqueues.
//!
//! A request is parsed (`request.rs`), given to the disk's queue (`trapline-block`), and answered
//! when that is done with it, at once or later. Everything one turn completes is one decision
//! whether to notify the driver.
//!
//! Spec: virtio 1.3, section 5.2.
//!
//! Requests for zones and those for SCSI are answered as unsupported, as are those for what the host
//! cannot do.

mod config;
mod lane;
pub mod regs;
mod request;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use trapline_block::{Disk, Engine, Error};
use trapline_device::{Clock, EventLoop, SaveState, Saved, StateError, Witness, saved_form};

use crate::device::read_config;
use crate::features::OF_QUEUES;
use crate::{Activation, DeviceType, Link, VirtioDevice};
use lane::Lane;
use regs::{
    F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_GEOMETRY, F_MQ, F_RO, F_SECURE_ERASE,
    F_SEG_MAX, F_TOPOLOGY, F_WRITE_ZEROES, WRITEBACK,
};
use request::Rules;

/// Descriptors of a queue: kvmtool's and QEMU's.
const QUEUE_SIZE: u16 = 256;

/// No driver has accepted or refused any feature yet.
const UNDECIDED: u64 = u64::MAX;

/// Who takes in what the host completes later.
#[derive(Clone, Copy)]
pub enum Background<'a> {
    /// This event loop, when it is there.
    Loop(&'a dyn EventLoop),
    /// Nobody: a turn at a queue waits for all of it, so that the same accesses have the same
    /// effects at the same time. For machines without a CPU.
    Awaited,
}

/// A disk behind virtio.
pub struct Blk {
    disk: Arc<Disk>,
    lanes: Vec<Arc<Lane>>,
    link: Arc<OnceLock<Link>>,
    /// What the driver has accepted; [`UNDECIDED`] while the device is not in use.
    features: AtomicU64,
    state: Mutex<State>,
}

/// What a snapshot keeps.
#[derive(Clone, Debug)]
struct State {
    /// Whether the driver has chosen a write-back cache.
    writeback: bool,
    /// The requests of each queue that had not been answered, by their heads.
    heads: Vec<Vec<u16>>,
}

impl Blk {
    /// A device for this disk. Limits of the disk are kept by `clock`.
    ///
    /// # Errors
    /// The host has no descriptors to spare.
    pub fn new(
        disk: &Arc<Disk>,
        clock: &Arc<dyn Clock>,
        background: Background<'_>,
    ) -> io::Result<Arc<Self>> {
        Self::with_engine(disk, Engine::default(), clock, background)
    }

    /// [`Self::new`] with a choice of who does what has to wait.
    ///
    /// # Errors
    /// As of [`Self::new`].
    pub fn with_engine(
        disk: &Arc<Disk>,
        engine: Engine,
        clock: &Arc<dyn Clock>,
        background: Background<'_>,
    ) -> io::Result<Arc<Self>> {
        let queues = disk.options().queues;
        let link = Arc::<OnceLock<Link>>::default();
        let lane = |index| Lane::new((index, QUEUE_SIZE), (disk, engine), clock, Arc::clone(&link));
        let lanes = (0..queues).map(lane).collect::<io::Result<Vec<_>>>()?;
        let state = Mutex::new(State { writeback: true, heads: Vec::new() });
        let features = AtomicU64::new(UNDECIDED);
        let this = Arc::new(Self { disk: Arc::clone(disk), lanes, link, features, state });
        for lane in &this.lanes {
            let device: Weak<Self> = Arc::downgrade(&this);
            lane.watch(device, background)?;
        }
        Ok(this)
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Has the `witness` of each queue, by its number, hear of what the disk does. Called before the device
    /// is in use.
    pub fn set_witness(&self, witness: impl Fn(usize) -> Arc<dyn Witness>) {
        let lanes = self.lanes.iter().enumerate();
        lanes.for_each(|(number, lane)| lane.set_witness(witness(number)));
    }

    /// Gives the disk another size, and tells the driver.
    ///
    /// # Errors
    /// The image cannot have that size.
    pub fn resize(&self, bytes: u64) -> Result<(), Error> {
        self.disk.resize(bytes)?;
        self.tell();
        Ok(())
    }

    /// Takes over the size that the image has been given by others, and tells the driver if it is
    /// another one. Says whether it is.
    ///
    /// # Errors
    /// The host's.
    pub fn look_again(&self) -> io::Result<bool> {
        let changed = self.disk.look_again()?;
        if changed {
            self.tell();
        }
        Ok(changed)
    }

    /// Makes the requests again that failed and stopped the machine.
    pub fn retry(&self) {
        self.disk.goes_on();
        self.lanes.iter().for_each(|lane| lane.retry());
    }

    fn tell(&self) {
        if let Some(link) = self.link.get() {
            link.config_changed();
        }
    }

    fn config(&self) -> config::Bytes {
        config::of(&self.disk, (self.disk.options().queues, QUEUE_SIZE), self.is_writeback())
    }

    /// Whether there is a write-back cache: what is written is durable only after a flush (5.2.5.2).
    fn is_writeback(&self) -> bool {
        let features = self.features.load(Ordering::Relaxed);
        match features & F_CONFIG_WCE != 0 {
            true => self.state.lock().writeback,
            false => features & F_FLUSH != 0,
        }
    }

    fn rules(&self) -> Rules<'_> {
        let features = self.features.load(Ordering::Relaxed);
        Rules { disk: &self.disk, features, durable: !self.is_writeback() }
    }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        let mut features = OF_QUEUES | F_SEG_MAX | F_GEOMETRY | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY;
        features |= match self.disk.is_writable() {
            true => F_CONFIG_WCE | F_WRITE_ZEROES,
            false => F_RO,
        };
        if self.disk.can_discard() {
            features |= F_DISCARD;
        }
        if self.disk.can_erase() {
            features |= F_SECURE_ERASE;
        }
        if self.lanes.len() > 1 {
            features |= F_MQ;
        }
        features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.lanes.len()]
    }

    fn config_len(&self) -> u32 {
        config::len(&self.disk)
    }

    fn config_read(&self, offset: u32, data: &mut [u8]) {
        read_config(&self.config(), offset, data);
    }

    fn config_write(&self, offset: u32, data: &[u8]) {
        let at = WRITEBACK.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
        let value = at.and_then(|at| data.get(at));
        if let Some(value @ (0 | 1)) = value
            && self.disk.is_writable()
        {
            self.state.lock().writeback = *value == 1;
        }
    }

    fn attach(&self, link: &Link) {
        self.link.get_or_init(|| link.clone());
    }

    fn activate(&self, activation: &Activation<'_>) {
        self.features.store(activation.features, Ordering::Relaxed);
        // Nobody could make anything durable that was not so at once (5.2.6.2).
        if activation.has(F_CONFIG_WCE) && !activation.has(F_FLUSH) {
            self.state.lock().writeback = false;
        }
        for (lane, queue) in self.lanes.iter().zip(activation.queues) {
            lane.start(queue);
        }
    }

    fn process(&self, queue: u16) {
        if let Some(lane) = self.lanes.get(usize::from(queue)) {
            lane.process(self.rules());
        }
    }

    fn stop_queue(&self, queue: u16) {
        if let Some(lane) = self.lanes.get(usize::from(queue)) {
            lane.abandon();
        }
    }

    fn reset(&self) {
        self.lanes.iter().for_each(|lane| lane.abandon());
        self.features.store(UNDECIDED, Ordering::Relaxed);
        *self.state.lock() = State { writeback: true, heads: Vec::new() };
    }
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let bounded = self.heads.iter().flatten().all(|head| *head < QUEUE_SIZE);
        StateError::check::<SavedV1>(bounded, "a request's head is in its queue")
    }
}

saved_form! {
    /// [`State`], version 1.
    struct SavedV1 of State, "virtio-blk" version 1 {
        writeback: bool,
        heads: Vec<Vec<u16>>,
    }
}

impl SaveState for Blk {
    /// What is under way is waited for, so that guest memory stands still, and not answered: the
    /// queues are as they are. Whoever goes on from the snapshot makes those requests again, and so
    /// does nobody who just goes on.
    fn save(&self) -> Saved {
        let heads = self.lanes.iter().map(|lane| lane.settle()).collect();
        let state = State { heads, ..self.state.lock().clone() };
        Saved::encode(&SavedV1::from(&state))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let mut restored = State::try_from(saved.decode::<SavedV1>()?)?;
        self.features.store(UNDECIDED, Ordering::Relaxed);
        let mut heads = std::mem::take(&mut restored.heads).into_iter();
        for lane in &self.lanes {
            lane.abandon();
            lane.make_again(heads.next().unwrap_or_default());
        }
        *self.state.lock() = restored;
        Ok(())
    }

    /// How much of its limits is used up is not saved.
    fn is_at_rest(&self) -> bool {
        let limits = self.disk.options().limits;
        limits.iops.or(limits.bps).is_none() && self.lanes.iter().all(|lane| lane.is_at_rest())
    }
}
