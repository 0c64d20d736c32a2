//! What there is to see of a running guest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use trapline_control::api::{RegionCount, RegisterCount, Statistics, UnclaimedCount};
use trapline_device::Space;
use trapline_machine::census::{Census, Counted, RegisterCounts};
use trapline_machine::{Control, Report};

use crate::statistics;

/// How long registers are counted for whoever may look again.
const LEASE: Duration = Duration::from_secs(10);
/// So many unclaimed accesses are told apart.
const UNCLAIMED_MAX: usize = 256;

/// Looks into a machine. Clones look into the same one and share the counts.
#[derive(Clone)]
pub struct Look {
    control: Control,
    vcpus: u32,
    since: Instant,
    census: Arc<Mutex<Option<Census>>>,
}

impl Look {
    /// Looks into the machine of `control`, which has so many vCPUs.
    pub fn new(control: &Control, vcpus: u32) -> Self {
        let census = Arc::default();
        Self { control: control.clone(), vcpus, since: Instant::now(), census }
    }

    /// Counts by register from now on until the end.
    pub fn count_registers(&self) {
        *self.census.lock() = self.census(None);
    }

    /// Everything up to now. Whoever does not ask for `registers` has them only where they are counted
    /// already.
    pub fn statistics(&self, registers: bool) -> Statistics {
        let counted = self.counted(registers);
        let report = self.control.report();
        let mut statistics = of(&report, counted);
        statistics.vcpu_count = self.vcpus;
        statistics.uptime_ns = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        statistics
    }

    /// Lets go of the counts: the machine is over.
    pub fn end(&self) {
        self.census.lock().take();
    }

    fn counted(&self, wanted: bool) -> Counted {
        let mut census = self.census.lock();
        let look = |census: &Option<Census>| census.as_ref().and_then(|one| one.look(LEASE));
        let mut counted = look(&census);
        if counted.is_none() && wanted {
            *census = self.census(Some(LEASE));
            counted = look(&census);
        }
        counted.unwrap_or_default()
    }

    fn census(&self, lease: Option<Duration>) -> Option<Census> {
        let census = Census::start(&self.control.registry()?, lease);
        census.inspect_err(|error| tracing::debug!("registers are not counted: {error}")).ok()
    }
}

fn of(report: &Report, counted: Counted) -> Statistics {
    let exits = report.exits.iter().filter(|(_, count)| *count > 0);
    let traps = &report.traps;
    let unclaimed = traps.unclaimed.iter();
    let mut unclaimed: Vec<UnclaimedCount> =
        unclaimed.map(|(key, count)| statistics::unclaimed_count(key, *count)).collect();
    unclaimed.sort_by_key(|one| std::cmp::Reverse(one.count));
    let others = unclaimed.split_off(unclaimed.len().min(UNCLAIMED_MAX));
    let live = traps.regions.iter().map(|region| {
        region_count(&region.name, Some((region.space, region.range)), region.counts)
    });
    let departed = traps.departed.iter().map(|(name, counts)| region_count(name, None, *counts));
    Statistics {
        resets: report.resets,
        exits: exits.map(|(kind, count)| (kind.name().to_owned(), count)).collect(),
        regions: live.chain(departed).collect(),
        unclaimed_others: traps.unclaimed_others + others.iter().map(|one| one.count).sum::<u64>(),
        unclaimed,
        registers: counted.registers.into_iter().map(register_count).collect(),
        registers_lost: counted.lost,
        ..Statistics::default()
    }
}

fn region_count(
    name: &trapline::RegionName,
    place: Option<(Space, Option<(u64, u64)>)>,
    counts: trapline::Counts,
) -> RegionCount {
    let range = place.and_then(|(_, range)| range);
    RegionCount {
        device: name.device.to_string(),
        region: name.to_string(),
        space: place.map(|(space, _)| space.to_string()),
        first: range.map(|(first, _)| first),
        last: range.map(|(_, last)| last),
        reads: counts.reads,
        writes: counts.writes,
        queued: counts.coalesced,
        string_reads: counts.string_reads,
        string_writes: counts.string_writes,
        refused: counts.refused,
        doorbells: counts.doorbells,
        forwarded: counts.forwarded,
    }
}

fn register_count(row: RegisterCounts) -> RegisterCount {
    RegisterCount {
        device: row.device,
        region: row.region,
        register: row.register,
        reads: row.reads,
        writes: row.writes,
        queued: row.queued,
        exits: row.exits,
        timed: row.timed,
        timed_ns: row.timed_ns,
        last_value: format!("{:#x}", row.last),
        last_written: row.last_written,
    }
}
