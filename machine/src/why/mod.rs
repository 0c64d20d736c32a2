//! Why a guest hangs: what its vCPUs did while somebody watched, and which interrupts wait where.
//!
//! ```text
//!   look ──── the rings of recent accesses are read for a while ──── look
//!    └─ vCPUs, registers, interrupt controllers; nothing runs meanwhile ─┘
//! ```
//!
//! A machine that runs stands still for a moment at the beginning and at the end. An interrupt that
//! waits at both is one it hangs for; what is seen at one of them only was under way.

mod interrupts;
mod polls;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use trapline::{Registry, StreamId, Unclaimed};
use trapline_kvm::{Activity, Vcpu};

pub use interrupts::{Interrupt, Stage};
pub use polls::Poll;

use crate::Error;
use crate::control::Control;
use crate::debug::{FrameReport, Standing};
use crate::life::{ControlError, State};
use polls::Polls;

/// What was seen of a machine.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What the machine was doing at the end.
    pub state: State,
    /// How long it was watched; not at all, where it stands still.
    pub watched: Duration,
    /// Its vCPUs, by their indices; none, if it was not looked into.
    pub vcpus: Vec<VcpuSeen>,
    /// Interrupts that wait, at the beginning and at the end.
    pub interrupts: Vec<Interrupt>,
    /// Accesses that nobody claimed while it was watched, the most frequent first.
    pub unclaimed: Vec<(Unclaimed, u64)>,
    /// Its resets.
    pub resets: Resets,
    /// Why it was not looked into.
    pub complaint: Option<String>,
}

/// A vCPU.
#[derive(Clone, Debug)]
pub struct VcpuSeen {
    /// Its index.
    pub index: u32,
    /// What it was doing.
    pub doing: Doing,
    /// Whether it would take an interrupt.
    pub takes_interrupts: bool,
    /// Whether its local APIC's timer is going to interrupt; nothing where that is not known.
    pub timer_armed: Option<bool>,
    /// Where it is, and who called, innermost first.
    pub frames: Vec<FrameReport>,
    /// Its accesses while it was watched.
    pub accesses: u64,
    /// How long ago its last access was, if it made one.
    pub quiet: Option<Duration>,
}

/// What a vCPU does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It executes instructions.
    Runs,
    /// It waits for an interrupt.
    Halted,
    /// It waits for another vCPU to start it.
    AwaitsStart,
    /// It reads a register again and again, which says the same each time.
    Polls(Poll),
    /// It waits for a device of another process to answer this access: `ioregion/ports read`.
    Waits(String),
}

/// How a machine was reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resets {
    /// How often, in its whole life.
    pub count: u32,
    /// How long ago each of the last few was, the latest first.
    pub ago: Vec<Duration>,
    /// What the last one was by.
    pub cause: Option<String>,
}

/// How long a machine may take to stand still.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the rings are read. They have room for 3072 accesses of each vCPU meanwhile.
const PERIOD: Duration = Duration::from_millis(10);
/// How often they are read that fill up faster.
const SHORT_PERIOD: Duration = Duration::from_millis(1);
/// So many accesses of a vCPU in a period are many.
const MANY: usize = 512;

impl Control {
    /// Watches the machine for as long as `span`, and says what it does. One that stands still is looked
    /// into and not watched.
    pub fn observe(&self, span: Duration) -> Observation {
        let registry = self.registry();
        let mut polls = registry.as_ref().and_then(Polls::start);
        let before = unclaimed(registry.as_ref());
        let first = self.inspect_within(PATIENCE, Look::of);
        let stands = matches!(self.state(), State::Built | State::Paused | State::Saved);
        let start = Instant::now();
        let (watched, last) = if stands {
            (Duration::ZERO, first.clone())
        } else {
            while start.elapsed() < span {
                let most = polls.as_mut().map_or(0, Polls::round);
                std::thread::sleep(if most > MANY { SHORT_PERIOD } else { PERIOD });
            }
            (start.elapsed(), self.inspect_within(PATIENCE, Look::of))
        };
        polls.as_mut().map(Polls::round);
        let mut seen = Observation {
            state: self.state(),
            watched,
            vcpus: Vec::new(),
            interrupts: Vec::new(),
            unclaimed: since(before, registry.as_ref()),
            resets: self.resets(),
            complaint: None,
        };
        match last {
            Ok(Ok(last)) => {
                seen.add(first.ok().and_then(Result::ok), last, polls.as_ref(), registry)
            }
            Ok(Err(error)) => seen.complaint = Some(error),
            Err(error) => seen.complaint = Some(error.to_string()),
        }
        seen
    }
}

impl Observation {
    fn add(
        &mut self,
        first: Option<Look>,
        last: Look,
        polls: Option<&Polls>,
        registry: Option<Registry>,
    ) {
        let recorder = registry.as_ref().and_then(|registry| registry.recorder());
        for vcpu in last.vcpus {
            let stream = StreamId::Vcpu(vcpu.index);
            let quiet = recorder.and_then(|recorder| recorder.quiet_ns(stream));
            let poll = polls.and_then(|polls| polls.poll(vcpu.index, self.watched));
            let doing = match (vcpu.waits, vcpu.activity) {
                (Some(access), _) => Doing::Waits(access),
                (None, Activity::AwaitsStart) => Doing::AwaitsStart,
                (None, activity) => match (poll, activity) {
                    (Some(poll), _) => Doing::Polls(poll),
                    (None, Activity::Halted) => Doing::Halted,
                    (None, _) => Doing::Runs,
                },
            };
            self.vcpus.push(VcpuSeen {
                index: vcpu.index,
                doing,
                takes_interrupts: vcpu.takes_interrupts,
                timer_armed: vcpu.timer_armed,
                frames: vcpu.frames,
                accesses: polls.map_or(0, |polls| polls.accesses(vcpu.index)),
                quiet: quiet.map(Duration::from_nanos),
            });
        }
        let first = first.map_or_else(Vec::new, |first| first.interrupts);
        self.interrupts =
            last.interrupts.into_iter().filter(|interrupt| first.contains(interrupt)).collect();
    }
}

fn unclaimed(registry: Option<&Registry>) -> HashMap<Unclaimed, u64> {
    registry.map_or_else(HashMap::new, |registry| registry.stats().unclaimed.into_iter().collect())
}

fn since(before: HashMap<Unclaimed, u64>, registry: Option<&Registry>) -> Vec<(Unclaimed, u64)> {
    let count = |(key, count): (Unclaimed, u64)| {
        let since = count - before.get(&key).copied().unwrap_or(0).min(count);
        (since > 0).then_some((key, since))
    };
    let mut all: Vec<_> = unclaimed(registry).into_iter().filter_map(count).collect();
    all.sort_by_key(|(key, count)| (std::cmp::Reverse(*count), key.addr));
    all
}

/// What was seen while the machine stood still.
#[derive(Clone, Debug)]
struct Look {
    vcpus: Vec<VcpuLook>,
    interrupts: Vec<Interrupt>,
}

#[derive(Clone, Debug)]
struct VcpuLook {
    index: u32,
    activity: Activity,
    waits: Option<String>,
    takes_interrupts: bool,
    timer_armed: Option<bool>,
    frames: Vec<FrameReport>,
}

impl Look {
    /// `Err` is a sentence.
    fn of(standing: &Standing<'_>) -> Result<Self, String> {
        let vcpus = standing.vcpus.iter().map(|vcpu| VcpuLook::of(standing, vcpu));
        let vcpus = vcpus.collect::<Result<_, Error>>().map_err(|error| error.to_string())?;
        let interrupts = standing.interrupts().map_err(|error| error.to_string())?;
        Ok(Self { vcpus, interrupts })
    }
}

impl VcpuLook {
    fn of(standing: &Standing<'_>, vcpu: &Vcpu) -> Result<Self, Error> {
        let processor = vcpu.processor()?;
        let cpu = crate::debug::cpu_of(&processor);
        let waits = vcpu.unfinished().map(|access| {
            let name = standing.name_at(access.space, access.addr, access.direction);
            let (space, addr, direction) = (access.space, access.addr, access.direction);
            format!("{name} ({space} {addr:#x}) {direction}")
        });
        Ok(Self {
            index: vcpu.index(),
            activity: standing.activity(vcpu)?,
            waits,
            takes_interrupts: vcpu.takes_interrupts()?,
            timer_armed: timer_armed(vcpu)?,
            frames: standing.frames(&cpu).0,
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn timer_armed(vcpu: &Vcpu) -> Result<Option<bool>, Error> {
    Ok(Some(vcpu.local_apic()?.timer_armed))
}

/// The architecture's timers are in each processor, and KVM runs them.
#[cfg(target_arch = "aarch64")]
#[expect(clippy::unnecessary_wraps, reason = "x86-64 asks KVM")]
fn timer_armed(_vcpu: &Vcpu) -> Result<Option<bool>, Error> {
    Ok(None)
}

impl Control {
    /// [`Control::inspect`], which does not wait for ever for a machine that does not stand still.
    fn inspect_within<T: Send + 'static>(
        &self,
        patience: Duration,
        look: impl FnOnce(&Standing<'_>) -> T + Send + 'static,
    ) -> Result<T, ControlError> {
        let answer = self.begin_inspection(move |standing| look(standing))?;
        answer.recv_timeout(patience).map_err(|error| self.not_inspected(error))
    }
}
