//! Announcements of cards that have moved, again and again: a packet is lost now and then.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{Clock, Timer, Wake};

use super::Net;

/// How often, as QEMU's `announce-self` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounds {
    /// How often in all; 0 ends what was begun before.
    pub rounds: u32,
    /// How long it is until the second time, in nanoseconds.
    pub initial_ns: u64,
    /// How much longer it is to each time after.
    pub step_ns: u64,
    /// The longest it is.
    pub max_ns: u64,
}

impl Rounds {
    /// QEMU's, for who says nothing.
    pub const DEFAULT: Self =
        Self { rounds: 5, initial_ns: 50_000_000, step_ns: 100_000_000, max_ns: 550_000_000 };

    /// How long it is from the time with this number, counted from 0, to the next.
    fn delay_ns(&self, number: u32) -> u64 {
        let steps = self.step_ns.saturating_mul(number.into());
        self.initial_ns.saturating_add(steps).min(self.max_ns)
    }
}

/// Has cards announce themselves in rounds.
pub struct Announcer {
    clock: Arc<dyn Clock>,
    timer: Box<dyn Timer>,
    state: Mutex<Option<Under>>,
}

/// What is under way.
struct Under {
    cards: Vec<Weak<Net>>,
    rounds: Rounds,
    /// How often it was done.
    done: u32,
}

impl Announcer {
    /// One that goes by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| {
            let timer = clock.timer(this.clone());
            Self { clock, timer, state: Mutex::default() }
        })
    }

    /// Has these cards announce themselves, for the first time now, in place of what was begun before.
    pub fn start(&self, cards: Vec<Weak<Net>>, rounds: Rounds) {
        *self.state.lock() = Some(Under { cards, rounds, done: 0 });
        self.announce();
    }

    fn announce(&self) {
        let state = &mut *self.state.lock();
        let Some(under) = state.as_mut().filter(|under| under.done < under.rounds.rounds) else {
            *state = None;
            return self.timer.arm(None);
        };
        under.cards.iter().filter_map(Weak::upgrade).for_each(|card| card.announce());
        let next = self.clock.now_ns().saturating_add(under.rounds.delay_ns(under.done));
        under.done += 1;
        self.timer.arm(Some(next));
    }
}

impl Wake for Announcer {
    fn wake(&self) {
        self.announce();
    }
}
