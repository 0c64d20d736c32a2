//! The guest's clocks: whether one of them ever goes back, and how far apart they are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The clocks, by the kernel's names for them.
const CLOCKS: [(&str, ClockId); 4] = [
    ("monotonic", ClockId::Monotonic),
    ("raw", ClockId::MonotonicRaw),
    ("boottime", ClockId::Boottime),
    ("realtime", ClockId::Realtime),
];

/// All clocks are read within this time, unless it never happens to be that short.
const WITHIN: Duration = Duration::from_micros(200);
/// So often it is tried.
const TRIES: u32 = 1_000;

/// Nanoseconds of a clock. None of ours is before its epoch.
fn ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    Duration::try_from(time).map_or(0, nanoseconds)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The latest reading of each clock that anybody has made.
#[derive(Default)]
pub(crate) struct Latest([AtomicU64; CLOCKS.len()]);

impl Latest {
    /// Reads every clock; says how many showed an earlier time than somebody saw before that.
    pub(crate) fn read(&self) -> u64 {
        let mut back = 0;
        for ((_, clock), latest) in CLOCKS.iter().zip(&self.0) {
            let seen = latest.load(Ordering::SeqCst);
            let now = ns(*clock);
            back += u64::from(now < seen);
            latest.fetch_max(now, Ordering::SeqCst);
        }
        back
    }
}

/// All clocks at one moment.
pub(crate) struct Moment {
    readings: [u64; CLOCKS.len()],
    /// How long it took to read them, in nanoseconds: they can be that much apart.
    within: u64,
}

impl Moment {
    /// Reads all clocks, again if something came between the readings.
    pub(crate) fn now() -> Self {
        let read = || {
            let start = ns(ClockId::Monotonic);
            let readings = CLOCKS.map(|(_, clock)| ns(clock));
            Self { readings, within: ns(ClockId::Monotonic).saturating_sub(start) }
        };
        let mut best = read();
        for _ in 0..TRIES {
            if best.within <= nanoseconds(WITHIN) {
                break;
            }
            let moment = read();
            if moment.within < best.within {
                best = moment;
            }
        }
        best
    }

    /// How far each clock has gone since `start`, in words: microseconds.
    pub(crate) fn since(&self, start: &Self) -> String {
        let times = CLOCKS.iter().zip(&self.readings).zip(&start.readings);
        let times: Vec<String> = times
            .map(|(((name, _), end), start)| {
                format!("{name} {}", end.saturating_sub(*start) / 1_000)
            })
            .collect();
        let within = (self.within + start.within) / 1_000;
        format!("{} us, read within {within} us", times.join(" "))
    }
}
