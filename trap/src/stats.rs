//! What the guest did: counts per region, unclaimed accesses, and the table of the whole map.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;

use trapline_access::{Delivery, Direction, Forward, RegionId, RegionName, Space, Window};

use crate::counters::{Counts, Unclaimed};
use crate::edit::table::RegionInfo;
use crate::registry::Registry;

/// A picture of a registry and of everything that went through it.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Live regions in order of space and address, those without a place last.
    pub regions: Vec<RegionStats>,
    /// Regions that have been unmapped, by name.
    pub departed: BTreeMap<RegionName, Counts>,
    /// Accesses nobody claimed, and how often.
    pub unclaimed: BTreeMap<Unclaimed, u64>,
    /// Unclaimed accesses beyond those told apart.
    pub unclaimed_others: u64,
    /// Transfers of an [`crate::AddressSpace`] that were nested too deep.
    pub too_deep: u64,
}

/// One region in a [`Stats`].
#[derive(Clone, Debug)]
pub struct RegionStats {
    /// Its id.
    pub id: RegionId,
    /// Its names.
    pub name: RegionName,
    /// Its space.
    pub space: Space,
    /// Its length in bytes.
    pub len: u64,
    /// What is added to the offsets that its handler sees.
    pub device_offset: u64,
    /// Its first and last address, unless it has no place now.
    pub range: Option<(u64, u64)>,
    /// Its deliveries, and whether the source does them.
    pub deliveries: Vec<(Window, bool)>,
    /// What went through it.
    pub counts: Counts,
    /// How many observers hear of accesses to it.
    pub observers: usize,
}

impl Registry {
    /// Sums everything up. Counters of running vCPUs may lag by the access they are in.
    pub fn stats(&self) -> Stats {
        let (departed, live) = self.core().region_counts();
        let mut regions: Vec<RegionStats> = live
            .into_iter()
            .map(|info| RegionStats {
                id: RegionId(info.shared.id),
                name: info.shared.name.clone(),
                space: info.shared.space,
                len: info.shared.len,
                device_offset: info.shared.device_offset,
                range: info.range(),
                deliveries: deliveries(&info),
                counts: self.core().counter_sets.counts(&info.shared.number),
                observers: info.state.watchers.as_ref().map_or(0, |watchers| watchers.len()),
            })
            .collect();
        regions.sort_by_key(|region| {
            (region.range.is_none(), region.space, region.range, region.name.clone())
        });
        let too_deep = self.core().too_deep.load(Ordering::Relaxed);
        let mut stats = Stats { regions, departed, too_deep, ..Stats::default() };
        for handle in &*self.core().handles.lock() {
            let counts = handle.unclaimed.lock();
            stats.unclaimed_others += counts.others;
            for (key, n) in &counts.seen {
                *stats.unclaimed.entry(*key).or_default() += n;
            }
        }
        stats
    }
}

fn deliveries(info: &RegionInfo) -> Vec<(Window, bool)> {
    info.state.windows.iter().map(|placed| (placed.window.clone(), placed.by_source)).collect()
}

impl Stats {
    /// Everything that reached a region, in accesses and string elements.
    pub fn claimed(&self) -> u64 {
        let live = self.regions.iter().map(|region| region.counts.total());
        live.sum::<u64>() + self.departed.values().map(|counts| counts.total()).sum::<u64>()
    }

    /// How many accesses nobody claimed.
    pub fn unclaimed(&self) -> u64 {
        self.unclaimed.values().sum::<u64>() + self.unclaimed_others
    }

    /// Adds the counts of an earlier registry, such as the one before a reset.
    pub fn add_departed(&mut self, earlier: &Self) {
        let live = earlier.regions.iter().map(|region| (&region.name, &region.counts));
        for (name, counts) in live.chain(&earlier.departed) {
            let region = self.regions.iter_mut().find(|region| region.name == *name);
            match region {
                Some(region) => region.counts = region.counts.plus(*counts),
                None if counts.total() == 0 => {}
                None => {
                    let sum = self.departed.entry(name.clone()).or_default();
                    *sum = sum.plus(*counts);
                }
            }
        }
        for (key, n) in &earlier.unclaimed {
            *self.unclaimed.entry(*key).or_default() += n;
        }
        self.unclaimed_others += earlier.unclaimed_others;
        self.too_deep += earlier.too_deep;
    }
}

/// Columns are fixed so that two runs can be compared line by line.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<4} {:<29} {:<26} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8}  {:<5} delivery",
            "",
            "range",
            "device/region",
            "reads",
            "writes",
            "queued",
            "str.in",
            "str.out",
            "refused",
            "watch"
        )?;
        for region in &self.regions {
            let range = region.range.map_or_else(
                || "-".to_owned(),
                |(base, last)| match region.space {
                    Space::Pio => format!("{base:#06x}-{last:#06x}"),
                    Space::Mmio => format!("{base:#x}-{last:#x}"),
                },
            );
            let deliveries: Vec<String> =
                region.deliveries.iter().map(|(window, taken)| describe(window, *taken)).collect();
            let delivery =
                if deliveries.is_empty() { "trap".to_owned() } else { deliveries.join(", ") };
            row(f, region, &range, &delivery)?;
        }
        for (name, counts) in &self.departed {
            writeln!(f, "{:<34} {:<26} {}", "(unmapped)", name.to_string(), columns(*counts))?;
        }
        for (key, n) in &self.unclaimed {
            let Unclaimed { space, addr, len, direction } = key;
            writeln!(f, "{space:<4} {addr:#06x} unclaimed {direction} of {len}: {n}")?;
        }
        if self.unclaimed_others > 0 {
            writeln!(f, "     unclaimed elsewhere: {}", self.unclaimed_others)?;
        }
        if self.too_deep > 0 {
            writeln!(f, "     device transfers nested too deep: {}", self.too_deep)?;
        }
        Ok(())
    }
}

fn row(
    f: &mut fmt::Formatter<'_>,
    region: &RegionStats,
    range: &str,
    delivery: &str,
) -> fmt::Result {
    let (space, name) = (region.space.to_string(), region.name.to_string());
    let watch = match region.observers {
        0 => "-".to_owned(),
        observers => observers.to_string(),
    };
    let counts = columns(region.counts);
    writeln!(f, "{space:<4} {range:<29} {name:<26} {counts}  {watch:<5} {delivery}")
}

fn columns(counts: Counts) -> String {
    let Counts { reads, writes, coalesced, string_reads, string_writes, refused, .. } = counts;
    format!(
        "{reads:>9} {writes:>9} {coalesced:>9} {string_reads:>8} {string_writes:>8} {refused:>8}"
    )
}

fn describe(window: &Window, taken: bool) -> String {
    let by = if taken { "kernel" } else { "registry" };
    match &window.delivery {
        Delivery::Coalesced if window.len == 1 => format!("+{:#x} coalesced ({by})", window.offset),
        Delivery::Coalesced => {
            let last = window.offset + window.len - 1;
            format!("+{:#x}-{last:#x} coalesced ({by})", window.offset)
        }
        Delivery::Doorbell { datamatch, .. } => {
            let len = if window.len == 0 { "any".to_owned() } else { window.len.to_string() };
            let value = datamatch.map_or_else(String::new, |value| format!(" = {value:#x}"));
            format!("+{:#x} doorbell len {len}{value} ({by})", window.offset)
        }
        Delivery::Forward(Forward { user_data, posted, no_data, datamatch, .. }) => {
            let posted = if *posted { " posted" } else { "" };
            let data = if *no_data { " without data" } else { "" };
            let value = datamatch.map_or_else(String::new, |value| format!(" = {value:#x}"));
            let last = (window.len > 1).then(|| format!("-{:#x}", window.offset + window.len - 1));
            let any = if window.len == 0 { " len any" } else { "" };
            let (offset, last) = (window.offset, last.unwrap_or_default());
            format!("+{offset:#x}{last} forward{any}{value} {user_data:#x}{posted}{data} ({by})")
        }
        Delivery::Memory { readonly, .. } => {
            let readonly = if *readonly { " read-only" } else { "" };
            let last = window.offset + window.len - 1;
            format!("+{:#x}-{last:#x} memory{readonly} ({by})", window.offset)
        }
        Delivery::Mirrored { mirror } => {
            let (last, shown) = (window.offset + window.len - 1, mirror.bytes_shown());
            let times = mirror.times_shown();
            format!(
                "+{:#x}-{last:#x} mirrored, {shown:#x} now, {times} times ({by})",
                window.offset
            )
        }
    }
}

impl Unclaimed {
    /// Whether the guest read.
    pub fn is_read(&self) -> bool {
        self.direction == Direction::Read
    }
}
