//! The statistics of a machine that `--stat` prints: vCPU exits, and the registry's counters.

use std::fmt;

use trapline::Stats;
use trapline_kvm::ExitStats;

/// Traps by device and region, and vCPU exits by kind, over a machine's whole life.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Accesses that reached a region, and those nobody claimed.
    pub traps: Stats,
    /// Returns of all vCPUs from the guest to user space.
    pub exits: ExitStats,
    /// How often the guest was reset.
    pub resets: u32,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exits: total {}", self.exits.total())?;
        for (kind, count) in self.exits.iter().filter(|(_, count)| *count > 0) {
            write!(f, ", {} {count}", kind.name())?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "traps: claimed {}, unclaimed {}, resets {}",
            self.traps.claimed(),
            self.traps.unclaimed(),
            self.resets
        )?;
        self.traps.fmt(f)
    }
}
