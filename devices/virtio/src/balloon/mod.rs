//! The memory balloon: pages that the guest does without go back to the host.
//!
//! What is in the balloon, and what the driver reports as free, is given back at once
//! ([`GuestMem::give_back`]), and comes again, zeroed, when the guest touches it. So pages that the
//! driver takes out need no work.
//!
//! Spec: virtio 1.3, section 5.5.
//!
//! Deviations: the driver need not tell before it uses a page again (`MUST_TELL_HOST` is not
//! offered), as there is nothing to do then. There is no free page hinting, which is for who sends
//! memory elsewhere.
//!
//! Queues are numbered as Linux does: one that was not negotiated has no number, so the last one can
//! be 2, 3 or 4. As there is no hinting, all of those but the statistics' are for reports.
//!
//! [`GuestMem::give_back`]: trapline_guestmem::GuestMem::give_back

mod pages;
pub mod regs;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use trapline_device::{Clock, SaveState, Saved, StateError, saved_form};
use trapline_guestmem::GuestMem;

use crate::device::read_config;
use crate::features::OF_QUEUES;
use crate::{Activation, Chain, DeviceType, Link, Queue, Serving, VirtioDevice};
use regs::{
    ACTUAL, CONFIG_LEN, F_DEFLATE_ON_OOM, F_PAGE_POISON, F_PAGE_REPORTING, F_STATS_VQ, NUM_PAGES,
    PAGE, POISON, STAT_LEN, STATS,
};

/// Descriptors of each queue: kvmtool's.
const QUEUE_SIZE: u16 = 128;
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS: u16 = 2;
/// Of all of them.
const QUEUES: usize = 5;

/// Pages of one request that are given back, and of one turn; the rest of a request stays, the rest
/// of a turn is the next one's. Linux puts 256 into one.
const TURN_PAGES: u64 = 16 << 10;
/// Reported ranges of one turn.
const TURN_RANGES: usize = 1024;

/// The device.
pub struct Balloon {
    mem: GuestMem,
    clock: Arc<dyn Clock>,
    link: OnceLock<Link>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    state: State,
    run: Run,
    statistics: Option<Statistics>,
}

/// What a snapshot keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// How many pages are to be in the balloon.
    wanted: u32,
    /// How many the driver says are.
    actual: u32,
    /// What it fills free pages with.
    poison: u32,
    /// Whether the statistics of the buffer that waits in their queue have been read.
    read: bool,
}

/// What is there while the device is in use.
#[derive(Default)]
struct Run {
    queues: Vec<Arc<Queue>>,
    features: u64,
    /// Somebody wants newer statistics.
    asked: bool,
}

/// What the guest says of its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// When it said so: machine time in nanoseconds.
    pub at_ns: u64,
    /// Values by their tags (virtio 1.3, section 5.5.6.4), as far as it has them.
    pub values: [Option<u64>; STATS],
}

impl Balloon {
    /// A balloon for this memory, which is to hold `bytes` of it at first. Statistics have the
    /// times of `clock`.
    pub fn new(mem: GuestMem, bytes: u64, clock: Arc<dyn Clock>) -> Arc<Self> {
        let inner = Mutex::default();
        let this = Self { mem, clock, link: OnceLock::new(), inner };
        this.set_held(bytes);
        Arc::new(this)
    }

    /// Has the guest put so much of its memory into the balloon, in whole pages: no more than there
    /// is. It does so as it can; see [`Self::held`].
    pub fn set_held(&self, bytes: u64) {
        let pages = bytes.min(self.mem.len()) / PAGE;
        self.inner.lock().state.wanted = u32::try_from(pages).unwrap_or(u32::MAX);
        if let Some(link) = self.link.get() {
            link.config_changed();
        }
    }

    /// Has the guest keep so much of its memory, and put the rest into the balloon.
    pub fn set_left(&self, bytes: u64) {
        self.set_held(self.mem.len().saturating_sub(bytes));
    }

    /// How much memory is to be in the balloon, in bytes.
    pub fn wanted(&self) -> u64 {
        u64::from(self.inner.lock().state.wanted) * PAGE
    }

    /// How much memory the guest says is in the balloon, in bytes.
    pub fn held(&self) -> u64 {
        (u64::from(self.inner.lock().state.actual) * PAGE).min(self.mem.len())
    }

    /// How much memory is left to the guest, as it says.
    pub fn left(&self) -> u64 {
        self.mem.len() - self.held()
    }

    /// What the guest said last of its memory, if its driver does.
    pub fn statistics(&self) -> Option<Statistics> {
        self.inner.lock().statistics.clone()
    }

    /// Asks for newer statistics. They come when the guest gives them.
    pub fn ask_for_statistics(&self) {
        self.inner.lock().run.asked = true;
        self.again(STATISTICS);
    }

    fn again(&self, queue: u16) {
        if let Some(link) = self.link.get() {
            link.process_soon(queue);
        }
    }

    fn config(state: &State) -> [u8; CONFIG_LEN as usize] {
        let mut config = [0; CONFIG_LEN as usize];
        let fields = [(NUM_PAGES, state.wanted), (ACTUAL, state.actual), (POISON, state.poison)];
        for (at, value) in fields {
            let place = config.get_mut(at..).unwrap_or_default();
            place.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
        }
        config
    }

    /// Takes pages into the balloon.
    fn inflate(&self, serving: &mut Serving<'_>) {
        let mut left = TURN_PAGES;
        while left > 0 {
            let Some(chain) = serving.pop() else { return };
            left = left.saturating_sub(pages::take(&chain, &self.mem, TURN_PAGES));
            serving.complete(chain, 0);
        }
        self.again(INFLATE);
    }

    /// Gives pages back that the driver says are free, each before the request is. What they are
    /// filled with has to be there when they are used again, and zeroes are.
    fn report(&self, index: u16, poisoned: bool, serving: &mut Serving<'_>) {
        let mut left = TURN_RANGES;
        while left > 0 {
            let Some(chain) = serving.pop() else { return };
            left = left.saturating_sub(chain.writable().len().max(1));
            let ranges = chain.writable().iter().filter(|_| !poisoned);
            for range in ranges {
                pages::range(&self.mem, range.addr, range.len.into());
            }
            serving.complete(chain, 0);
        }
        self.again(index);
    }

    /// Reads the statistics in the buffer that waits, which goes back when newer ones are wanted.
    fn read_statistics(&self, inner: &mut Inner, serving: &mut Serving<'_>) {
        while let Some(chain) = serving.pop() {
            if !std::mem::replace(&mut inner.state.read, true) {
                let values = values(&chain, serving);
                inner.statistics = Some(Statistics { at_ns: self.clock.now_ns(), values });
            }
            if !std::mem::take(&mut inner.run.asked) {
                return serving.put_back(chain);
            }
            inner.state.read = false;
            serving.complete(chain, 0);
        }
    }
}

/// The statistics in a request: the last of each kind, up to one of each.
fn values(chain: &Chain, serving: &Serving<'_>) -> [Option<u64>; STATS] {
    let (mut values, mut stat) = ([None; STATS], [0; STAT_LEN]);
    for n in 0..STATS {
        if chain.read_at(serving.mem(), (n * STAT_LEN) as u64, &mut stat).is_err() {
            break;
        }
        let [low, high, value @ ..] = stat;
        if let Some(place) = values.get_mut(usize::from(u16::from_le_bytes([low, high]))) {
            *place = Some(u64::from_le_bytes(value));
        }
    }
    values
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn features(&self) -> u64 {
        OF_QUEUES | F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_POISON | F_PAGE_REPORTING
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn config_len(&self) -> u32 {
        CONFIG_LEN
    }

    fn config_read(&self, offset: u32, data: &mut [u8]) {
        read_config(&Self::config(&self.inner.lock().state), offset, data);
    }

    fn config_write(&self, offset: u32, data: &[u8]) {
        let state = &mut self.inner.lock().state;
        let mut config = Self::config(state);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let place = config.get_mut(offset..).unwrap_or_default();
        place.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        let field = |at| {
            let bytes = config.get(at..).and_then(|rest| rest.first_chunk::<4>());
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        (state.actual, state.poison) = (field(ACTUAL), field(POISON));
    }

    fn attach(&self, link: &Link) {
        self.link.get_or_init(|| link.clone());
    }

    fn activate(&self, activation: &Activation<'_>) {
        let (queues, features) = (activation.queues.to_vec(), activation.features);
        self.inner.lock().run = Run { queues, features, asked: false };
    }

    fn process(&self, queue: u16) {
        let inner = &mut *self.inner.lock();
        let Some(served) = inner.run.queues.get(usize::from(queue)).cloned() else { return };
        let has = |feature| inner.run.features & feature != 0;
        let poisoned = has(F_PAGE_POISON) && inner.state.poison != 0;
        let Some(mut serving) = served.serve() else { return };
        match queue {
            INFLATE => self.inflate(&mut serving),
            DEFLATE => {
                while let Some(chain) = serving.pop() {
                    serving.complete(chain, 0);
                }
            }
            STATISTICS if has(F_STATS_VQ) => self.read_statistics(inner, &mut serving),
            _ if has(F_PAGE_REPORTING) => self.report(queue, poisoned, &mut serving),
            _ => {}
        }
    }

    fn stop_queue(&self, queue: u16) {
        if queue == STATISTICS {
            self.inner.lock().state.read = false;
        }
    }

    /// How much is wanted stays: that is the host's.
    fn reset(&self) {
        let inner = &mut *self.inner.lock();
        let state = State { wanted: inner.state.wanted, ..State::default() };
        *inner = Inner { state, ..Inner::default() };
    }
}

saved_form! {
    /// [`State`], version 1.
    struct SavedV1 of State, "virtio-balloon" version 1 unchecked {
        wanted: u32,
        actual: u32,
        poison: u32,
        read: bool,
    }
}

impl SaveState for Balloon {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV1::from(&self.inner.lock().state))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let state = State::try_from(saved.decode::<SavedV1>()?)?;
        *self.inner.lock() = Inner { state, ..Inner::default() };
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        !self.inner.lock().run.asked
    }
}
