//! Running and timing: repetitions of all implementations take turns, disturbed ones are thrown
//! away, and what is left is summed up by its minimum (one thread) or median (two).

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::device::{Place, Population, Register};
use crate::{ours, peers, report::Report};

/// A way to find devices, and one thread's view of it.
pub(crate) trait Bus: Sync {
    type View<'a>: Send
    where
        Self: 'a;

    fn view(&self) -> Self::View<'_>;
    fn read<const PIO: bool>(view: &mut Self::View<'_>, addr: u64, data: &mut [u8; 4]);
    fn write<const PIO: bool>(view: &mut Self::View<'_>, addr: u64, data: [u8; 4]);
}

/// A way to find devices that can change while it is used.
pub(crate) trait Edited {
    fn add_and_remove(&self, place: Place, base: u64, device: &std::sync::Arc<Register>);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pattern {
    Hot,
    Random,
}

/// One column of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) serialised: bool,
    pub(crate) threads: usize,
    pub(crate) regions: usize,
    pub(crate) pattern: Pattern,
}

pub(crate) struct Case {
    pub(crate) key: Key,
    /// Every thread's addresses.
    orders: Vec<Vec<u32>>,
}

impl Case {
    pub(crate) fn all(population: &Population) -> impl Iterator<Item = Self> + '_ {
        let patterns = [Pattern::Hot, Pattern::Random];
        let ways = [(1, false), (1, true), (2, false), (2, true)];
        ways.into_iter().flat_map(move |way| patterns.map(|pattern| (way, pattern))).map(
            |((threads, serialised), pattern)| {
                let (place, regions) = (population.place, population.devices.len());
                let share = regions / threads;
                let orders = (0..threads).map(|thread| {
                    crate::order(pattern, thread * share..(thread + 1) * share)
                        .into_iter()
                        .map(|region| u32::try_from(place.base(region as usize)).unwrap())
                        .collect()
                });
                let key = Key { place, serialised, threads, regions, pattern };
                Self { key, orders: orders.collect() }
            },
        )
    }
}

/// Accesses in one repetition: short enough to fit between two interruptions.
const ACCESSES: usize = 32_768;

type Repetition<'a> = Box<dyn Fn() -> Option<f64> + 'a>;

/// One implementation in one case.
pub(crate) struct Cell<'a> {
    pub(crate) name: &'static str,
    run: Repetition<'a>,
    threads: usize,
    samples: Vec<f64>,
}

impl<'a> Cell<'a> {
    pub(crate) fn new<B: Bus>(name: &'static str, bus: &'a B, case: &'a Case) -> Self {
        let run: Repetition<'a> = match (case.key.place, case.key.serialised) {
            (Place::Mmio, false) => Box::new(|| repetition::<B, false, false>(bus, case)),
            (Place::Mmio, true) => Box::new(|| repetition::<B, false, true>(bus, case)),
            (Place::Pio, false) => Box::new(|| repetition::<B, true, false>(bus, case)),
            (Place::Pio, true) => Box::new(|| repetition::<B, true, true>(bus, case)),
        };
        Self { name, run, threads: case.key.threads, samples: Vec::new() }
    }

    /// Nanoseconds per access.
    pub(crate) fn result(&self) -> Timing {
        let mut samples = self.samples.clone();
        samples.sort_by(f64::total_cmp);
        let at = |i: usize| samples.get(i).copied().unwrap_or(f64::NAN);
        let median = at(samples.len() / 2);
        Timing { shown: if self.threads == 1 { at(0) } else { median }, median }
    }
}

/// What a cell came to, in nanoseconds per access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// The minimum for one thread, the median for two.
    pub(crate) shown: f64,
    /// The median, to compare one thread with two.
    pub(crate) median: f64,
}

/// Runs all cells, taking turns, until each has enough undisturbed repetitions.
pub(crate) fn measure(cells: &mut [Cell<'_>], case: &Case) {
    let (wanted, patience) = if case.key.threads == 1 { (30, 45) } else { (21, 80) };
    for _ in 0..patience {
        for cell in cells.iter_mut().filter(|cell| cell.samples.len() < wanted) {
            cell.samples.extend((cell.run)());
        }
    }
}

/// One repetition, in nanoseconds per access and thread; nothing if it was disturbed.
fn repetition<B: Bus, const PIO: bool, const SERIAL: bool>(bus: &B, case: &Case) -> Option<f64> {
    if let [order] = case.orders.as_slice() {
        return timed::<B, PIO, SERIAL>(bus, order, &AtomicUsize::new(1));
    }
    let cpus = cpus();
    let waiting = AtomicUsize::new(case.orders.len());
    let times: Vec<Option<f64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = case
            .orders
            .iter()
            .enumerate()
            .map(|(i, order)| {
                let (waiting, cpu) = (&waiting, cpus.get(i % cpus.len().max(1)));
                scope.spawn(move || {
                    pin(cpu.copied());
                    timed::<B, PIO, SERIAL>(bus, order, waiting)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sum = times.iter().copied().sum::<Option<f64>>()?;
    Some(sum / times.len() as f64)
}

fn timed<B: Bus, const PIO: bool, const SERIAL: bool>(
    bus: &B,
    order: &[u32],
    waiting: &AtomicUsize,
) -> Option<f64> {
    let mut view = bus.view();
    accesses::<B, PIO, SERIAL>(&mut view, order, ACCESSES);
    // Counted from before the threads meet: one that loses its processor between there and its
    // start leaves the other to run alone.
    let switches = involuntary_switches();
    waiting.fetch_sub(1, Ordering::AcqRel);
    while waiting.load(Ordering::Acquire) > 0 {
        std::hint::spin_loop();
    }
    let start = Instant::now();
    accesses::<B, PIO, SERIAL>(&mut view, order, ACCESSES);
    let time = start.elapsed();
    (involuntary_switches() == switches).then(|| time.as_nanos() as f64 / ACCESSES as f64)
}

/// Write to one address, read from the next, and so on. Registers hold zero, which only the
/// program's author knows: every address depends on the value read before.
#[inline(never)]
fn accesses<B: Bus, const PIO: bool, const SERIAL: bool>(
    view: &mut B::View<'_>,
    order: &[u32],
    count: usize,
) {
    let mask = order.len() - 1;
    let mut carry = 0;
    for i in (0..count).step_by(2) {
        B::write::<PIO>(view, u64::from(order[(i + carry) & mask]), (carry as u32).to_le_bytes());
        serialise::<SERIAL>();
        let mut data = [0; 4];
        B::read::<PIO>(view, u64::from(order[(i + 1 + carry) & mask]), &mut data);
        serialise::<SERIAL>();
        carry = u32::from_le_bytes(data) as usize;
    }
    black_box(carry);
}

/// Lets nothing after it start before everything before it is done.
#[inline]
fn serialise<const SERIAL: bool>() {
    if SERIAL {
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the only way to an LFENCE; the library has no unsafe")]
        // SAFETY: the instruction needs SSE2, which is part of x86-64, and touches nothing.
        unsafe {
            std::arch::x86_64::_mm_lfence();
        }
        #[cfg(not(target_arch = "x86_64"))]
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// How often this thread has lost its processor.
fn involuntary_switches() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("nonvoluntary_ctxt_switches"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The processors this process may use.
fn cpus() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        let _ = sched_setaffinity(None, &set);
    }
}

/// What it costs to add a region to a population and take it out again.
pub(crate) fn registration(population: &Population, report: &mut Report) {
    let ours = ours::Ours::new(population);
    // What a VMM has: vCPUs that are in the guest and have not looked for a while.
    let _idle: Vec<_> = (0..2).map(|_| ours.view()).collect();
    let locked = peers::VmDeviceLocked::new(population);
    let dragonball = peers::Dragonball::new(population);
    let tree = peers::LockedTree::new(population);
    let edited: [(&'static str, &dyn Edited); 5] = [
        ("trapline", &ours),
        ("trapline, remove_sync", ours.waiting()),
        ("vm-device, Arc<Mutex>", &locked),
        ("dbs-device, ArcSwap cache", &dragonball),
        ("Mutex<BTreeMap>", &tree),
    ];
    const PAIRS: u32 = 16;
    let place = population.place;
    // Below all others, where a sorted array has the most to move.
    let base = place.base(0) - place.len();
    let device = std::sync::Arc::default();
    let mut best = [Duration::MAX; 5];
    for _ in 0..60 {
        for ((_, bus), best) in edited.iter().zip(&mut best) {
            let start = Instant::now();
            for _ in 0..PAIRS {
                bus.add_and_remove(place, base, black_box(&device));
            }
            *best = start.elapsed().min(*best);
        }
    }
    for ((name, _), best) in edited.iter().zip(best) {
        let nanoseconds = best.as_nanos() as f64 / f64::from(PAIRS);
        report.add_registration(place, population.devices.len(), name, nanoseconds);
    }
}
