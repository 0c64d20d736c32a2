//! What pokes a guest: its balloon, non-maskable interrupts, SysRq.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use trapline::Mode;
use trapline_control::Refusal;
use trapline_control::api::{Balloon, BalloonStatistics, BalloonUpdate, DebugReport, DebugRequest};
use trapline_machine::balloon::{Balloon as Device, Statistics};
use trapline_machine::debug::Standing;

use super::routes::{Guest, refusal};

/// How long a guest may take to say what its memory is like.
const PATIENCE: Duration = Duration::from_secs(1);

impl Guest {
    /// Its balloon; it may have none.
    fn device(&self) -> Result<Arc<Device>, Refusal> {
        let device = self.balloon.as_ref().and_then(Weak::upgrade);
        device.ok_or_else(|| Refusal::conflict("the guest has no balloon (run --balloon)"))
    }

    pub(super) fn balloon(&self) -> Result<Balloon, Refusal> {
        let device = self.device()?;
        let (amount_mib, actual_mib) = (device.wanted() >> 20, device.held() >> 20);
        Ok(Balloon { amount_mib, actual_mib })
    }

    pub(super) fn set_balloon(&self, update: BalloonUpdate) -> Result<(), Refusal> {
        let registry = self.control.registry();
        let recorder = registry.as_ref().and_then(|registry| registry.recorder());
        if recorder.is_some_and(|recorder| recorder.mode() == Mode::Lossless) {
            // A recording has no place for it, and would not play.
            return Err(Refusal::conflict("the guest is recorded, and its balloon stays as it is"));
        }
        self.device()?.set_held(update.amount_mib.saturating_mul(1 << 20));
        Ok(())
    }

    pub(super) fn balloon_statistics(&self) -> Result<BalloonStatistics, Refusal> {
        let device = self.device()?;
        let before = device.statistics().map(|statistics| statistics.at_ns);
        device.ask_for_statistics();
        let deadline = Instant::now() + PATIENCE;
        while device.statistics().map(|statistics| statistics.at_ns) == before
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        let statistics = device.statistics();
        let none = || Refusal::conflict("the guest says nothing of its memory");
        statistics.map(|statistics| told(&statistics)).ok_or_else(none)
    }

    /// Does what is asked, one after the other.
    pub(super) fn debug(&self, request: DebugRequest) -> Result<DebugReport, Refusal> {
        let DebugRequest { sysrq, nmi, dump } = request;
        if let Some(letter) = sysrq {
            let byte = u8::try_from(letter).ok().filter(u8::is_ascii_graphic);
            let byte = byte.ok_or_else(|| Refusal::bad_request("SysRq takes an ASCII letter"))?;
            self.console.upgrade().inspect(|console| console.send_sysrq(byte));
        }
        if nmi.is_none() && !dump {
            return Ok(DebugReport::default());
        }
        let seen = self.control.inspect(move |standing| look(standing, nmi, dump));
        Ok(DebugReport { vcpus: seen.map_err(refusal)?? })
    }
}

/// By tag (virtio 1.3, section 5.5.6.4).
fn told(statistics: &Statistics) -> BalloonStatistics {
    let value = |tag: usize| statistics.values.get(tag).copied().flatten();
    BalloonStatistics {
        swap_in: value(0),
        swap_out: value(1),
        major_faults: value(2),
        minor_faults: value(3),
        free_memory: value(4),
        total_memory: value(5),
        available_memory: value(6),
        disk_caches: value(7),
        hugetlb_allocations: value(8),
        hugetlb_failures: value(9),
    }
}

fn look(standing: &Standing<'_>, nmi: Option<u32>, dump: bool) -> Result<Vec<String>, Refusal> {
    if let Some(index) = nmi {
        let vcpu = standing.vcpus.iter().find(|vcpu| vcpu.index() == index);
        let vcpu = vcpu.ok_or_else(|| Refusal::not_found(format!("there is no vCPU {index}")))?;
        if !vcpu.nmi().map_err(Refusal::failed)? {
            return Err(Refusal::conflict(format!("vCPU {index} has not been started")));
        }
    }
    let count = if dump { standing.vcpus.len() } else { 0 };
    let indices = standing.vcpus.iter().take(count).map(|vcpu| vcpu.index());
    let reports = indices.filter_map(|index| standing.report(index, None).transpose());
    reports.map(|report| Ok(report.map_err(Refusal::failed)?.to_string())).collect()
}
