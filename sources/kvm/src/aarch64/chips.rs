//! The interrupt controllers the kernel emulates, and the ways into them.

use std::sync::Arc;

use kvm_bindings::{KVM_ARM_IRQ_NUM_MASK, KVM_ARM_IRQ_TYPE_SHIFT, KVM_ARM_IRQ_TYPE_SPI};
use kvm_ioctls::VmFd;
use parking_lot::Mutex;
use trapline_device::{MessageVector, Msi, MsiController, MsiSink};

use super::gic::{Gic, GicInterrupt, KernelGic, spis};
use crate::routing::{Route, Routing};
use crate::{Caps, Error, Vcpu, Vm, VmOptions};

/// INTID of the first shared peripheral interrupt (Arm IHI 0069, "INTIDs").
const FIRST_SPI: u32 = 32;

/// Pins of an interrupt controller that the table of routes can name (`KVM_IRQCHIP_NUM_PINS`, Linux
/// `arch/arm64/include/asm/kvm_host.h`).
const PINS: u32 = 988;

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
    pub(super) fn finish(&self, routing: &Routing) -> Result<(), Error> {
        let Some(mpidrs) = self.waiting.lock().take() else { return Ok(()) };
        let Some(gic) = &self.gic else { return Ok(()) };
        gic.finish(&mpidrs)?;
        routing.invalidate();
        Ok(())
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

    /// The interrupts that are pending or active in the interrupt controller, of `vcpus`, all of them
    /// stopped.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn gic_interrupts(&self, vcpus: &[Vcpu]) -> Result<Vec<GicInterrupt>, Error> {
        let Some(gic) = &self.chips().gic else { return Ok(Vec::new()) };
        let mpidrs = vcpus.iter().map(Vcpu::mpidr).collect::<Result<Vec<_>, _>>()?;
        gic.interrupts(&mpidrs)
    }

    /// Where messages of PCI functions go to an ITS, which knows them by their Requester ID. Without
    /// one they vanish.
    pub fn messages(self: &Arc<Self>) -> Arc<dyn MsiController> {
        Arc::new(self.kernel_messages(true))
    }

    /// A vector, masked, whose messages are writes of an INTID to the register of a GICv2m frame at
    /// `doorbell`. The frame is a device of the board, and takes the messages by `sink`; an eventfd
    /// raises the interrupt without it.
    pub fn frame_vector(
        self: &Arc<Self>,
        sink: Arc<dyn MsiSink>,
        doorbell: u64,
    ) -> Arc<dyn MessageVector> {
        self.vector(sink, move |Msi { address, data }| {
            let spi = data.checked_sub(FIRST_SPI)?;
            (address == doorbell).then_some(Route::Pin { irqchip: 0, pin: spi })
        })
    }
}

/// The table of routes that KVM sets up when it builds the GIC: each shared peripheral interrupt
/// leads to itself.
pub(crate) fn routing(caps: &Caps, options: &VmOptions) -> Routing {
    let spis = spis(options);
    let routes: Vec<_> =
        (0..spis.min(PINS)).map(|n| (n, Route::Pin { irqchip: 0, pin: n })).collect();
    Routing::new(caps.irq_routes, spis, &routes)
}

/// Nothing yet: KVM sets up that table itself, once all vCPUs are made.
pub(crate) fn commit_routing(_vm: &Vm) -> Result<(), Error> {
    Ok(())
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
