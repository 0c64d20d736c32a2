//! Performance monitors (Linux `Documentation/virt/kvm/devices/vcpu.rst`,
//! `KVM_ARM_VCPU_PMU_V3_CTRL`).

use std::fs;
use std::path::Path;

use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT, KVM_ARM_VCPU_PMU_V3_IRQ,
    KVM_ARM_VCPU_PMU_V3_SET_PMU,
};
use kvm_ioctls::VcpuFd;

use super::attr::{command, has, set_u32};
use crate::Error;

/// The performance monitors of every vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pmu {
    /// INTID of their overflow interrupt, a private peripheral interrupt.
    pub intid: u32,
}

/// Where Linux lists the sources of performance events.
const SOURCES: &str = "/sys/bus/event_source/devices";

impl Pmu {
    /// Builds them into a vCPU that may run on the host CPUs of `affinity` (all, if there are
    /// none), once the interrupt controller is there.
    pub(super) fn give_to(self, fd: &VcpuFd, affinity: &[u32]) -> Result<(), Error> {
        let refused = "build the performance monitors";
        let set = |attr: u32, value| set_u32(fd, KVM_ARM_VCPU_PMU_V3_CTRL, attr.into(), value);
        set(KVM_ARM_VCPU_PMU_V3_IRQ, self.intid).map_err(Error::ioctl(refused))?;
        if has(fd, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_SET_PMU) {
            let here = u32::try_from(rustix::thread::sched_getcpu()).unwrap_or(0);
            let cpus = if affinity.is_empty() { &[here] } else { affinity };
            match host_pmu(Path::new(SOURCES), cpus) {
                Some(number) => set(KVM_ARM_VCPU_PMU_V3_SET_PMU, number)
                    .map_err(Error::ioctl("choose the performance monitors"))?,
                // KVM then takes the first one it finds.
                None => tracing::debug!("no performance monitors for host CPUs {cpus:?}"),
            }
        }
        command(fd, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT)
            .map_err(Error::ioctl(refused))
    }
}

/// The number of the performance monitors that all these host CPUs have: on machines with CPUs of
/// several kinds, each kind has its own. Linux' numbers up to 5 are not those of processors.
fn host_pmu(sources: &Path, cpus: &[u32]) -> Option<u32> {
    const FIRST: u32 = 6;
    let of_all = |folder: &Path| {
        let list = fs::read_to_string(folder.join("cpus")).unwrap_or_default();
        cpus.iter().all(|cpu| lists(list.trim(), *cpu))
    };
    let mut folders = fs::read_dir(sources).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let folder = folders.find(|folder| of_all(folder))?;
    let number = fs::read_to_string(folder.join("type")).ok()?;
    number.trim().parse().ok().filter(|number| *number >= FIRST)
}

/// Whether a list such as `0-3,8` has `cpu`.
fn lists(list: &str, cpu: u32) -> bool {
    list.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&cpu),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitors_are_those_that_all_the_cpus_have() {
        let dir = tempfile::tempdir().unwrap();
        for (name, cpus, number) in
            [("software", "", "1"), ("big", "4-7", "9\n"), ("little", "0-3\n", "8\n")]
        {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            if !cpus.is_empty() {
                fs::write(folder.join("cpus"), cpus).unwrap();
            }
            fs::write(folder.join("type"), number).unwrap();
        }
        assert_eq!(host_pmu(dir.path(), &[0]), Some(8));
        assert_eq!(host_pmu(dir.path(), &[5, 7]), Some(9));
        assert_eq!(host_pmu(dir.path(), &[3, 4]), None);
        assert_eq!(host_pmu(Path::new("/nonexistent"), &[0]), None);
    }

    #[test]
    fn a_list_has_ranges_and_single_numbers() {
        assert!(lists("0-3,8", 2) && lists("0-3,8", 8));
        assert!(!lists("0-3,8", 4) && !lists("", 0) && !lists("x", 0));
    }
}
