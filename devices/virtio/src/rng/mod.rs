//! The entropy device: a queue of buffers that it fills with random bytes.
//!
//! Spec: virtio 1.3, section 5.4.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use rustix::rand::{GetRandomFlags, getrandom};
use trapline_device::{Clock, SaveState, Saved, StateError, Timer, Wake, saved_form};

use crate::features::OF_QUEUES;
use crate::{Activation, Chain, DeviceType, Link, Queue, Serving, VirtioDevice};

/// Descriptors of its queue: kvmtool's.
const QUEUE_SIZE: u16 = 128;
/// The most bytes of one request. A driver that wants more asks again.
const REQUEST_MAX: usize = 4096;
/// How many bytes a driver gets in [`PERIOD_NS`]: it can keep the host busy making them for a
/// hundredth of the time or so, and no longer.
const PERIOD_BYTES: u32 = 256 << 10;
/// 100 ms.
const PERIOD_NS: u64 = 100_000_000;

/// Where random bytes come from.
pub trait Entropy: Send + Sync {
    /// Fills `buf`.
    ///
    /// # Errors
    /// There are none at present.
    fn fill(&self, buf: &mut [u8]) -> io::Result<()>;
}

/// The host kernel's random number generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&self, buf: &mut [u8]) -> io::Result<()> {
        let mut rest = buf;
        while !rest.is_empty() {
            // Up to 256 bytes it is all or nothing; it waits only while the host itself boots.
            let filled = getrandom(&mut *rest, GetRandomFlags::empty())?;
            rest = rest.get_mut(filled..).unwrap_or_default();
        }
        Ok(())
    }
}

/// The device. It fills each buffer with at least one byte, and waits while it can not.
pub struct Rng {
    entropy: Box<dyn Entropy>,
    clock: Arc<dyn Clock>,
    timer: Box<dyn Timer>,
    link: OnceLock<Link>,
    state: Mutex<State>,
    run: Mutex<Run>,
}

/// What a snapshot keeps.
#[derive(Clone, Debug, Default)]
struct State {
    /// When the present period began.
    period_start_ns: u64,
    /// How many bytes were given away in it.
    given: u32,
}

/// What it does not.
#[derive(Default)]
struct Run {
    queue: Option<Arc<Queue>>,
    /// Bytes that nobody has got yet: what makes them has a price by the call.
    pool: Vec<u8>,
}

impl Rng {
    /// A device with this source, whose rate is bounded by `clock`.
    pub fn new(entropy: impl Entropy + 'static, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new_cyclic(|this| {
            let timer = clock.timer(Weak::<Self>::clone(this));
            let (state, run) = (Mutex::default(), Mutex::default());
            Self { entropy: Box::new(entropy), clock, timer, link: OnceLock::new(), state, run }
        })
    }

    /// How many bytes may be given away now.
    fn allowance(&self, state: &mut State) -> usize {
        let now = self.clock.now_ns();
        if now.saturating_sub(state.period_start_ns) >= PERIOD_NS {
            *state = State { period_start_ns: now, given: 0 };
        }
        PERIOD_BYTES.saturating_sub(state.given) as usize
    }

    /// Has the queue looked at again, at the end of this period or when the host may have bytes.
    fn later(&self, allowance: usize, state: &State) {
        let from = if allowance == 0 { state.period_start_ns } else { self.clock.now_ns() };
        self.timer.arm(Some(from.saturating_add(PERIOD_NS)));
    }

    /// Serves requests for as long as there are bytes for them.
    fn serve(&self, serving: &mut Serving<'_>, pool: &mut Vec<u8>) {
        let state = &mut *self.state.lock();
        loop {
            let Some(chain) = serving.pop() else { return };
            let allowance = self.allowance(state);
            let some = allowance > 0 && (!pool.is_empty() || self.refill(pool));
            if !some {
                // It could not go back without any.
                serving.put_back(chain);
                return self.later(allowance, state);
            }
            let room = usize::try_from(chain.writable_len()).unwrap_or(usize::MAX);
            let wanted = room.min(REQUEST_MAX).min(allowance);
            if pool.len() < wanted {
                // Without more it gets what there is.
                let _ = self.refill(pool);
            }
            let bytes = pool.split_off(pool.len() - wanted.min(pool.len()));
            let written = write(&chain, serving, &bytes);
            state.given = state.given.saturating_add(written);
            serving.complete(chain, written);
        }
    }

    /// Fills the pool. Whether it could.
    fn refill(&self, pool: &mut Vec<u8>) -> bool {
        let mut bytes = vec![0; REQUEST_MAX];
        let filled = self.entropy.fill(&mut bytes);
        if let Err(error) = &filled {
            tracing::debug!("the host has no random bytes: {error}");
        } else {
            *pool = bytes;
        }
        filled.is_ok()
    }
}

/// Writes what fits of `bytes` where there is RAM; how many were written.
fn write(chain: &Chain, serving: &Serving<'_>, bytes: &[u8]) -> u32 {
    let mut written = 0;
    for buffer in chain.writable() {
        let rest = bytes.get(written..).unwrap_or_default();
        let len = rest.len().min(usize::try_from(buffer.len).unwrap_or(usize::MAX));
        let part = rest.get(..len).unwrap_or_default();
        if chain.write_at(serving.mem(), written as u64, part).is_err() {
            break;
        }
        written += len;
    }
    u32::try_from(written).unwrap_or(u32::MAX)
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn features(&self) -> u64 {
        OF_QUEUES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn attach(&self, link: &Link) {
        self.link.get_or_init(|| link.clone());
    }

    fn activate(&self, activation: &Activation<'_>) {
        self.run.lock().queue = activation.queues.first().cloned();
    }

    fn process(&self, _queue: u16) {
        let Run { queue, pool } = &mut *self.run.lock();
        let Some(queue) = queue.clone() else { return };
        if let Some(mut serving) = queue.serve() {
            self.serve(&mut serving, pool);
        }
    }

    /// What was given away counts on: a reset is no way around the bound.
    fn reset(&self) {
        *self.run.lock() = Run::default();
        self.timer.arm(None);
    }
}

impl Wake for Rng {
    fn wake(&self) {
        if let Some(link) = self.link.get() {
            link.process_soon(0);
        }
    }
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let bounded = self.given <= PERIOD_BYTES;
        StateError::check::<SavedV1>(bounded, "no more is given away in a period than there is")
    }
}

saved_form! {
    /// [`State`], version 1.
    struct SavedV1 of State, "virtio-rng" version 1 {
        period_start_ns: u64,
        given: u32,
    }
}

impl SaveState for Rng {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV1::from(&*self.state.lock()))
    }

    /// Bytes that were made before are nobody's: the machine that was saved has them.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let restored = State::try_from(saved.decode::<SavedV1>()?)?;
        self.run.lock().pool.clear();
        *self.state.lock() = restored;
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        self.run.lock().pool.is_empty()
    }
}
