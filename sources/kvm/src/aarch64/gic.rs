//! The vGIC (Linux `Documentation/virt/kvm/devices/arm-vgic.rst`, `arm-vgic-v3.rst`,
//! `arm-vgic-its.rst`).

use std::sync::OnceLock;

use kvm_bindings::{
    KVM_DEV_ARM_ITS_CTRL_RESET, KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR,
    KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_ITS_ADDR_TYPE,
    KVM_VGIC_V2_ADDR_TYPE_CPU, KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};

use super::attr::{command, has, set_u32, set_u64};
use super::gic_state::{self, PowerOnState, Version};
use crate::{Error, VmOptions, ioctl};

/// An interrupt controller and where it is, guest physical addresses all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// GICv2 (Arm IHI 0048), for 8 vCPUs at most.
    V2 {
        /// The distributor, 4 KiB.
        distributor: u64,
        /// The CPU interface, 8 KiB.
        cpu_interface: u64,
    },
    /// GICv3 (Arm IHI 0069).
    V3 {
        /// The distributor, 64 KiB.
        distributor: u64,
        /// The redistributors, 128 KiB for each vCPU.
        redistributors: u64,
        /// The interrupt translation service, 128 KiB, if there is to be one.
        its: Option<u64>,
    },
}

/// vCPUs a GICv2 can have.
const V2_VCPUS_MAX: u32 = 8;
/// INTIDs that are not shared: software-generated and private peripheral interrupts.
const PRIVATE: u32 = 32;
/// The most INTIDs there can be, with the special ones.
const INTIDS_MAX: u32 = 1024;

/// How many shared peripheral interrupts there are to be.
pub(super) fn spis(options: &VmOptions) -> u32 {
    options.spis.next_multiple_of(32).clamp(32, INTIDS_MAX - PRIVATE)
}

impl Gic {
    fn name(self) -> &'static str {
        match self {
            Self::V2 { .. } => "a GICv2",
            Self::V3 { its: None, .. } => "a GICv3",
            Self::V3 { its: Some(_), .. } => "a GICv3 with an ITS",
        }
    }

    /// Whether KVM has it, on this host and for so many vCPUs. Asks without making anything, as
    /// what a VM has once been given it never loses.
    fn possible(self, fd: &VmFd, vcpus: u32) -> bool {
        let known = |type_| ioctl::device_possible(fd, type_);
        match self {
            Self::V2 { .. } => {
                vcpus <= V2_VCPUS_MAX && known(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2)
            }
            Self::V3 { its, .. } => {
                known(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3)
                    && (its.is_none() || known(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS))
            }
        }
    }
}

/// A vGIC.
pub(super) struct KernelGic {
    what: Gic,
    fd: DeviceFd,
    its: Option<DeviceFd>,
    intids: u32,
    /// Once all vCPUs have been made.
    power_on: OnceLock<PowerOnState>,
}

impl KernelGic {
    /// Makes the first of these that KVM can make.
    pub(super) fn first_of(fd: &VmFd, gics: &[Gic], options: &VmOptions) -> Result<Self, Error> {
        let found = gics.iter().find(|gic| gic.possible(fd, options.vcpus));
        let Some(&what) = found else {
            let names: Vec<&str> = gics.iter().map(|gic| gic.name()).collect();
            return Err(Error::Gic { wanted: names.join(", "), vcpus: options.vcpus });
        };
        let (device, its) = match what {
            Gic::V2 { distributor, cpu_interface } => (v2(fd, distributor, cpu_interface)?, None),
            Gic::V3 { distributor, redistributors, its } => {
                let device = v3(fd, distributor, redistributors)?;
                (device, its.map(|base| create_its(fd, base)).transpose()?)
            }
        };
        let intids = spis(options) + PRIVATE;
        Ok(Self { what, fd: device, its, intids, power_on: OnceLock::new() })
    }

    pub(super) fn what(&self) -> Gic {
        self.what
    }

    /// All vCPUs are there: the controller can be built.
    pub(super) fn finish(&self, mpidrs: &[u64]) -> Result<(), Error> {
        if has(&self.fd, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0) {
            set_u32(&self.fd, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, self.intids)
                .map_err(Error::ioctl("set the number of interrupts"))?;
        }
        if has(&self.fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT) {
            command(&self.fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT)
                .map_err(Error::ioctl("build the interrupt controller"))?;
        }
        let vcpus = u32::try_from(mpidrs.len()).unwrap_or(u32::MAX);
        let version = match self.what {
            Gic::V2 { .. } => Version::V2(vcpus),
            Gic::V3 { .. } => Version::V3(mpidrs),
        };
        let state = PowerOnState::of(&self.fd, version, self.intids)?;
        // Only the first of two would count, and there is one.
        let _ = self.power_on.set(state);
        Ok(())
    }

    /// As after power-on. All vCPUs are stopped.
    pub(super) fn reset(&self) -> Result<(), Error> {
        if let Some(its) = &self.its
            && has(its, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_ITS_CTRL_RESET)
        {
            command(its, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_ITS_CTRL_RESET)
                .map_err(Error::ioctl("reset the interrupt translation service"))?;
        }
        // A controller that is not built yet is as after power-on.
        self.power_on.get().map_or(Ok(()), |state| state.restore(&self.fd))
    }
}

/// An interrupt that the vGIC has something to do with now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicInterrupt {
    /// Its INTID.
    pub intid: u32,
    /// The vCPU, of a private one.
    pub vcpu: Option<u32>,
    /// It is pending: latched, or its line is high (GICD_ISPENDR).
    pub pending: bool,
    /// It is enabled (GICD_ISENABLER).
    pub enabled: bool,
    /// It has been acknowledged and not ended (GICD_ISACTIVER).
    pub active: bool,
}

impl KernelGic {
    /// The interrupts that are pending or active, of stopped vCPUs with these MPIDRs.
    pub(super) fn interrupts(&self, mpidrs: &[u64]) -> Result<Vec<GicInterrupt>, Error> {
        let private = (0..).zip(mpidrs).map(|(vcpu, mpidr)| match self.what {
            Gic::V2 { .. } => gic_state::private_v2(vcpu),
            Gic::V3 { .. } => gic_state::private_v3(*mpidr),
        });
        let private = (0..).zip(private).map(|(vcpu, bank)| (Some(vcpu), 0, bank));
        let shared = (PRIVATE..self.intids).step_by(32);
        let shared = shared.map(|first| (None, first, gic_state::shared(first)));
        let mut all = Vec::new();
        for (vcpu, first, bank) in private.chain(shared) {
            let [pending, enabled, active] =
                bank.read(&self.fd).map_err(Error::ioctl("read the interrupt controller"))?;
            all.extend((0..32).filter(|bit| (pending | active) >> bit & 1 == 1).map(|bit| {
                let is = |word: u64| word >> bit & 1 == 1;
                let (pending, enabled, active) = (is(pending), is(enabled), is(active));
                GicInterrupt { intid: first + bit, vcpu, pending, enabled, active }
            }));
        }
        Ok(all)
    }
}

fn v2(fd: &VmFd, distributor: u64, cpu_interface: u64) -> Result<DeviceFd, Error> {
    let device = create(fd, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2)?;
    place(&device, KVM_VGIC_V2_ADDR_TYPE_CPU, cpu_interface)?;
    place(&device, KVM_VGIC_V2_ADDR_TYPE_DIST, distributor)?;
    Ok(device)
}

fn v3(fd: &VmFd, distributor: u64, redistributors: u64) -> Result<DeviceFd, Error> {
    let device = create(fd, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3)?;
    place(&device, KVM_VGIC_V3_ADDR_TYPE_REDIST, redistributors)?;
    place(&device, KVM_VGIC_V3_ADDR_TYPE_DIST, distributor)?;
    Ok(device)
}

fn create_its(fd: &VmFd, base: u64) -> Result<DeviceFd, Error> {
    let device = create(fd, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS)?;
    place(&device, KVM_VGIC_ITS_ADDR_TYPE, base)?;
    command(&device, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT)
        .map_err(Error::ioctl("build the interrupt translation service"))?;
    Ok(device)
}

fn create(fd: &VmFd, type_: u32) -> Result<DeviceFd, Error> {
    fd.create_device(&mut kvm_create_device { type_, fd: 0, flags: 0 })
        .map_err(Error::ioctl("create the interrupt controller"))
}

fn place(device: &DeviceFd, part: u32, base: u64) -> Result<(), Error> {
    set_u64(device, KVM_DEV_ARM_VGIC_GRP_ADDR, part.into(), base)
        .map_err(Error::ioctl("place the interrupt controller"))
}
