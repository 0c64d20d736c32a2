//! `/dev/kvm`: opening it, and what it says it can do.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;

use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_IOEVENTFD_ANY_LENGTH, KVM_CAP_IRQ_ROUTING, KVM_CAP_IRQFD_RESAMPLE,
    KVM_CAP_SPLIT_IRQCHIP,
};
use kvm_ioctls::Cap;

use crate::Error;
use crate::ioctl::kvm_from_file;

/// Linux `include/uapi/linux/kvm.h`; the bindings name it on x86-64 only, and elsewhere KVM says no.
const KVM_CAP_PIT2: u32 = 33;

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct Kvm {
    pub(crate) fd: kvm_ioctls::Kvm,
    caps: Caps,
}

/// What this host's KVM can do, by its own account (`KVM_CHECK_EXTENSION`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Interrupt controllers in the kernel.
    pub irqchip: bool,
    /// The interval timer in the kernel (`KVM_CREATE_PIT2`).
    pub pit: bool,
    /// Only the local APICs in the kernel.
    pub split_irqchip: bool,
    /// RAM given by user space. Needed.
    pub user_memory: bool,
    /// Memory that a guest's write exits from.
    pub readonly_memory: bool,
    /// `KVM_SET_TSS_ADDR`.
    pub set_tss_addr: bool,
    /// `KVM_SET_IDENTITY_MAP_ADDR`.
    pub set_identity_map_addr: bool,
    /// `kvm_run.immediate_exit`. Needed.
    pub immediate_exit: bool,
    /// Page of the vCPU mapping that holds the ring of coalesced writes; 0: there is none.
    pub coalesced_page: u32,
    /// Coalesced zones of ports.
    pub coalesced_pio: bool,
    /// Doorbells (`KVM_IOEVENTFD`).
    pub ioeventfd: bool,
    /// Doorbells that a write of any length rings.
    pub ioeventfd_any_length: bool,
    /// Interrupts raised by event file descriptors.
    pub irqfd: bool,
    /// The same of level-triggered interrupts.
    pub irqfd_resample: bool,
    /// Entries the table of interrupt routes can have.
    pub irq_routes: u32,
    /// The local APIC's TSC deadline timer.
    pub tsc_deadline: bool,
    /// Exact single stepping.
    pub robust_singlestep: bool,
    /// Memory slots a VM can have.
    pub memory_slots: u32,
    /// vCPUs that run well.
    pub recommended_vcpus: u32,
    /// vCPUs there can be at all.
    pub max_vcpus: u32,
}

impl Kvm {
    /// Opens a KVM device, usually `/dev/kvm`, and asks it what it can do. The processor's own
    /// virtualization flags are not asked: there are hosts where KVM works without them.
    ///
    /// # Errors
    /// What is wrong with the device, and what to do about it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(|reason| match reason
                .kind()
            {
                ErrorKind::NotFound => Error::Absent(path.into()),
                ErrorKind::PermissionDenied => Error::Permission(path.into()),
                _ => Error::Open { path: path.into(), reason },
            })?;
        let fd = kvm_from_file(file);
        match fd.get_api_version() {
            version if u32::try_from(version) == Ok(KVM_API_VERSION) => {}
            found @ 0.. => return Err(Error::ApiVersion { path: path.into(), found }),
            _ => return Err(Error::NotKvm(path.into())),
        }
        let caps = Caps::probe(&fd);
        for (there, what) in
            [(caps.user_memory, "memory of user space"), (caps.immediate_exit, "an immediate exit")]
        {
            if !there {
                return Err(Error::Missing(what));
            }
        }
        Ok(Self { fd, caps })
    }

    /// What it can do.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }
}

impl Caps {
    fn probe(fd: &kvm_ioctls::Kvm) -> Self {
        let has = |cap| fd.check_extension(cap);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        // Those that kvm-ioctls has no name for, or on some architectures only.
        let has_raw = |cap: u32| fd.check_extension_raw(cap.into()) > 0;
        Self {
            irqchip: has(Cap::Irqchip),
            pit: has_raw(KVM_CAP_PIT2),
            split_irqchip: has_raw(KVM_CAP_SPLIT_IRQCHIP),
            user_memory: has(Cap::UserMemory),
            readonly_memory: has(Cap::ReadonlyMem),
            set_tss_addr: has(Cap::SetTssAddr),
            set_identity_map_addr: has(Cap::SetIdentityMapAddr),
            immediate_exit: has(Cap::ImmediateExit),
            coalesced_page: u32::try_from(fd.check_extension_int(Cap::CoalescedMmio)).unwrap_or(0),
            coalesced_pio: has(Cap::CoalescedPio),
            ioeventfd: has(Cap::Ioeventfd),
            ioeventfd_any_length: has_raw(KVM_CAP_IOEVENTFD_ANY_LENGTH),
            irqfd: has(Cap::Irqfd),
            irqfd_resample: has_raw(KVM_CAP_IRQFD_RESAMPLE),
            irq_routes: u32::try_from(fd.check_extension_raw(KVM_CAP_IRQ_ROUTING.into()))
                .unwrap_or(0),
            tsc_deadline: has(Cap::TscDeadlineTimer),
            robust_singlestep: has(Cap::X86RobustSinglestep),
            memory_slots: number(fd.get_nr_memslots()),
            recommended_vcpus: number(fd.get_nr_vcpus()),
            max_vcpus: number(fd.get_max_vcpus()),
        }
    }
}

/// Whether this processor shows hardware virtualization (VMX or SVM; on arm64 always, as KVM does not
/// exist without). For information only: a software KVM does without, but a stock Linux guest
/// appears to hang on one, which is worth a warning.
pub fn hardware_virtualization() -> bool {
    crate::arch::hardware_virtualization()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_device_is_said_in_a_sentence() {
        let absent = Kvm::open("/nonexistent/kvm").unwrap_err();
        assert!(absent.to_string().starts_with("/nonexistent/kvm does not exist: load"));
        let other = Kvm::open("/dev/null").unwrap_err();
        assert_eq!(other.to_string(), "/dev/null is not a KVM device");
        let directory = Kvm::open("/").unwrap_err();
        assert!(directory.to_string().starts_with("cannot open /: "), "{directory}");
    }
}
