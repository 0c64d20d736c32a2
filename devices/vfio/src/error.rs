//! Why a function of the host could not be assigned.

use std::io;
use std::path::PathBuf;

use crate::Address;

/// One sentence for the user each, with what mends it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host has no such function.
    #[error("PCI function {0}: this host has none there; lspci -D lists those it has")]
    NotFound(Address),
    /// Another driver has it, or none.
    #[error(
        "PCI function {address}: {} and not vfio-pci; run: trapline setup vfio {address}",
        driver_of(.driver)
    )]
    Driver {
        /// The function.
        address: Address,
        /// What drives it.
        driver: Option<String>,
    },
    /// The host does not translate its addresses.
    #[error(
        "PCI function {0}: it is behind no IOMMU; switch that on in the host's firmware{more}",
        more = IOMMU_WORDS
    )]
    NoIommu(Address),
    /// Drivers of the host have others of its group.
    #[error(
        "PCI function {address}: the IOMMU cannot tell it from {others} (group {group}), which must \
         come along; run: trapline setup vfio {members}"
    )]
    Group {
        /// The function.
        address: Address,
        /// The group's number.
        group: u32,
        /// The others that drivers have, with their drivers.
        others: String,
        /// The same, without.
        members: String,
    },
    /// The host's kernel has no VFIO.
    #[error("{}: {reason}; run: modprobe vfio-pci", path.display())]
    NoVfio {
        /// The device file.
        path: PathBuf,
        /// The operating system's words.
        reason: io::Error,
    },
    /// The user may not.
    #[error("PCI function {address}: you may not use it; run: sudo chown $USER {}", path.display())]
    Permission {
        /// The function.
        address: Address,
        /// The device file.
        path: PathBuf,
    },
    /// Somebody has it.
    #[error("PCI function {address}: another process is using its group ({})", path.display())]
    Busy {
        /// The function.
        address: Address,
        /// The device file.
        path: PathBuf,
    },
    /// It is no endpoint.
    #[error("PCI function {0}: a bridge is the host's to drive; assign what is behind it")]
    Bridge(Address),
    /// The kernel refuses.
    #[error("PCI function {address}: cannot {what}: {reason}")]
    Kernel {
        /// The function.
        address: Address,
        /// What it refuses.
        what: &'static str,
        /// The operating system's words.
        reason: io::Error,
    },
    /// It needs a pin, and its ends of interrupts are not known here.
    #[error(
        "PCI function {0}: it interrupts by its pin, which only interrupt controllers in KVM can \
         take (--irqchip kernel)"
    )]
    NoPin(Address),
    /// A BAR to be trapped that is none.
    #[error("PCI function {address}: it has no BAR {bar} to trap; it has {has}")]
    NoBar {
        /// The function.
        address: Address,
        /// The number asked for.
        bar: u8,
        /// Those there are.
        has: String,
    },
    /// Drivers cannot be changed.
    #[error("PCI function {address}: cannot write {text:?} to {}: {reason}", path.display())]
    Sysfs {
        /// The function.
        address: Address,
        /// The file.
        path: PathBuf,
        /// What was to be written.
        text: String,
        /// The operating system's words.
        reason: io::Error,
    },
    /// The host has not loaded the driver.
    #[error("the host has no vfio-pci driver; run: modprobe vfio-pci")]
    NoDriver,
    /// The driver did not take it.
    #[error("PCI function {address}: vfio-pci does not take it; the host's kernel log says why")]
    NotTaken {
        /// The function.
        address: Address,
    },
    /// A file of names that says something else.
    #[error("{}: {reason}", path.display())]
    Names {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What else switches an IOMMU on.
const IOMMU_WORDS: &str = if cfg!(target_arch = "x86_64") {
    ", and with intel_iommu=on or amd_iommu=on on its kernel's command line"
} else {
    ""
};

fn driver_of(driver: &Option<String>) -> String {
    match driver {
        Some(driver) => format!("driver {driver} has it"),
        None => "no driver has it".to_owned(),
    }
}
