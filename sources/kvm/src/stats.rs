//! How often each vCPU left the guest, by kind.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a vCPU came back from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitKind {
    /// One `in`.
    PortRead,
    /// One `out`.
    PortWrite,
    /// Several elements of `rep ins` or `rep outs` at once.
    PortString,
    /// A load from a device address.
    MmioRead,
    /// A store to a device address.
    MmioWrite,
    /// `hlt`, where the kernel has no interrupt controller to wait with.
    Halt,
    /// A signal or a kick.
    Interrupted,
    /// The moment came at which an external interrupt can be injected.
    InterruptWindow,
    /// A level-triggered interrupt ended whose controller is not in the kernel.
    Eoi,
    /// Poweroff, reset or crash through a firmware call.
    SystemEvent,
    /// A breakpoint, a single step: for who debugs the guest.
    Debug,
    /// A triple fault.
    Shutdown,
    /// KVM gave up.
    InternalError,
    /// The processor refused to enter the guest.
    EntryFailed,
    /// Anything else.
    Other,
}

impl ExitKind {
    /// Every kind, in order of declaration.
    pub const ALL: [Self; 15] = [
        Self::PortRead,
        Self::PortWrite,
        Self::PortString,
        Self::MmioRead,
        Self::MmioWrite,
        Self::Halt,
        Self::Interrupted,
        Self::InterruptWindow,
        Self::Eoi,
        Self::SystemEvent,
        Self::Debug,
        Self::Shutdown,
        Self::InternalError,
        Self::EntryFailed,
        Self::Other,
    ];

    /// What tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortRead => "port read",
            Self::PortWrite => "port write",
            Self::PortString => "port string",
            Self::MmioRead => "mmio read",
            Self::MmioWrite => "mmio write",
            Self::Halt => "halt",
            Self::Interrupted => "interrupted",
            Self::InterruptWindow => "interrupt window",
            Self::Eoi => "end of interrupt",
            Self::SystemEvent => "system event",
            Self::Debug => "debug",
            Self::Shutdown => "shutdown",
            Self::InternalError => "internal error",
            Self::EntryFailed => "entry failed",
            Self::Other => "other",
        }
    }
}

/// The counters of one vCPU, written by its thread only, readable by everybody.
#[derive(Debug, Default)]
pub struct ExitCounters([AtomicU64; ExitKind::ALL.len()]);

impl ExitCounters {
    /// Counts one exit. Only the vCPU's own thread calls this, so a load and a store will do.
    pub(crate) fn count(&self, kind: ExitKind) {
        if let Some(counter) = self.0.get(kind as usize) {
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// The counts now.
    pub fn snapshot(&self) -> ExitStats {
        ExitStats(std::array::from_fn(|i| self.0.get(i).map_or(0, |c| c.load(Ordering::Relaxed))))
    }
}

/// Counts of exits by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitStats([u64; ExitKind::ALL.len()]);

impl ExitStats {
    /// How many exits of this kind.
    pub fn get(&self, kind: ExitKind) -> u64 {
        self.0.get(kind as usize).copied().unwrap_or(0)
    }

    /// How many exits of all kinds.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    /// Every kind with its count, in order of declaration.
    pub fn iter(&self) -> impl Iterator<Item = (ExitKind, u64)> + '_ {
        ExitKind::ALL.into_iter().map(|kind| (kind, self.get(kind)))
    }

    /// These exits and those of another vCPU.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum = sum.wrapping_add(count));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_counter() {
        let counters = ExitCounters::default();
        for (times, kind) in ExitKind::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| counters.count(kind));
        }
        let stats = counters.snapshot();
        for (times, (kind, count)) in stats.iter().enumerate() {
            assert_eq!(count, times as u64 + 1, "{}", kind.name());
        }
        assert_eq!(stats.total(), 120);
        let both = stats.plus(&stats);
        assert!(stats.iter().all(|(kind, count)| both.get(kind) == 2 * count));
        assert_eq!(both.total(), 240);
        let names: std::collections::BTreeSet<_> = ExitKind::ALL.map(ExitKind::name).into();
        assert_eq!(names.len(), ExitKind::ALL.len(), "and its own name");
    }
}
