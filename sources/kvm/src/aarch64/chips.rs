//! The interrupt controllers the kernel emulates, and the ways into them.

use std::sync::Arc;

use kvm_bindings::{
    KVM_ARM_IRQ_NUM_MASK, KVM_ARM_IRQ_TYPE_SHIFT, KVM_ARM_IRQ_TYPE_SPI, KVM_MSI_VALID_DEVID,
    kvm_msi,
};
use kvm_ioctls::VmFd;
use parking_lot::Mutex;
use trapline_device::MsiSink;

use super::gic::{Gic, KernelGic};
use crate::{Error, Vm, VmOptions};

/// INTID of the first shared peripheral interrupt (Arm IHI 0069, "INTIDs").
const FIRST_SPI: u32 = 32;

/// KVM's number of shared peripheral interrupt `n` (`KVM_IRQ_LINE`).
pub(super) fn spi(n: u32) -> u32 {
    KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT
        | n.saturating_add(FIRST_SPI).min(KVM_ARM_IRQ_NUM_MASK)
}

/// The chips of a VM.
pub(crate) struct Chips {
    gic: Option<KernelGic>,
    /// Affinities of the vCPUs made so far, in order of their indices; `None` once the first has
    /// been started.
    waiting: Mutex<Option<Vec<u64>>>,
}

impl Chips {
    /// Makes the first interrupt controller of the options that KVM can make.
    pub(super) fn new(fd: &VmFd, options: &VmOptions) -> Result<Self, Error> {
        let gic = match options.gics.as_slice() {
            [] => None,
            gics => Some(KernelGic::first_of(fd, gics, options)?),
        };
        Ok(Self { gic, waiting: Mutex::new(Some(Vec::new())) })
    }

    /// A vCPU with this MPIDR has been made.
    pub(super) fn add_vcpu(&self, mpidr: u64) {
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.push(mpidr);
        }
    }

    /// All vCPUs have been made. Does nothing when called again.
    pub(super) fn finish(&self) -> Result<(), Error> {
        let Some(mpidrs) = self.waiting.lock().take() else { return Ok(()) };
        self.gic.as_ref().map_or(Ok(()), |gic| gic.finish(&mpidrs))
    }

    /// Everything as after power-on.
    pub(crate) fn reset(&self, _fd: &VmFd) -> Result<(), Error> {
        self.gic.as_ref().map_or(Ok(()), KernelGic::reset)
    }
}

impl Vm {
    /// The interrupt controller that was made, one of [`VmOptions::gics`].
    pub fn gic(&self) -> Option<Gic> {
        self.chips().gic.as_ref().map(KernelGic::what)
    }

    /// Where messages of the device with this identity at the ITS go: whoever writes to the ITS'
    /// GITS_TRANSLATER. Without an ITS they vanish. A GICv2m frame is a device of the board and
    /// needs nothing of this.
    pub fn its_messages(self: &Arc<Self>, device_id: u32) -> Arc<dyn MsiSink> {
        Arc::new(ItsMessages { vm: Arc::clone(self), device_id })
    }
}

/// One device's messages to the ITS.
struct ItsMessages {
    vm: Arc<Vm>,
    device_id: u32,
}

impl MsiSink for ItsMessages {
    fn send(&self, address: u64, data: u32) {
        let [low, high] = [address & u64::from(u32::MAX), address >> 32];
        let message = kvm_msi {
            address_lo: u32::try_from(low).unwrap_or(0),
            address_hi: u32::try_from(high).unwrap_or(0),
            data,
            flags: KVM_MSI_VALID_DEVID,
            devid: self.device_id,
            ..Default::default()
        };
        // A message the ITS does not translate is dropped there too.
        let _ = self.vm.fd().signal_msi(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_peripheral_interrupts_are_counted_from_intid_32() {
        assert_eq!(spi(0), 0x0100_0020);
        assert_eq!(spi(987), 0x0100_03fb);
        assert_eq!(spi(u32::MAX), 0x0100_ffff);
    }
}
