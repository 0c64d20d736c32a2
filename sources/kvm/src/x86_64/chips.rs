//! The PC's chips that the kernel emulates: two 8259A, the I/O APIC, the 8254.

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap, kvm_irqchip, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use trapline_device::PcInput;

use crate::routing::{Route, Routing};
use crate::{Caps, Error, Irqchip, Vm, VmOptions, ioctl};

/// Inputs of the I/O APIC.
pub(super) const IOAPIC_INPUTS: u32 = 24;

/// Does what must be done before there are vCPUs.
pub(crate) fn set_up_vm(fd: &VmFd, caps: &Caps, options: &VmOptions) -> Result<(), Error> {
    if let Some(addr) = options.identity_map_addr.filter(|_| caps.set_identity_map_addr) {
        fd.set_identity_map_address(addr).map_err(Error::ioctl("place the identity map"))?;
    }
    if caps.set_tss_addr {
        let addr = usize::try_from(options.tss_addr).unwrap_or(usize::MAX);
        fd.set_tss_address(addr).map_err(Error::ioctl("place the TSS"))?;
    }
    match options.irqchip {
        Irqchip::Kernel => create_chips(fd, caps, options.pit),
        Irqchip::Split => create_local_apics(fd, caps),
        Irqchip::None => Ok(()),
    }
}

fn create_chips(fd: &VmFd, caps: &Caps, pit: bool) -> Result<(), Error> {
    if !caps.irqchip {
        return Err(Error::Missing("interrupt controllers"));
    }
    fd.create_irq_chip().map_err(Error::ioctl("create the interrupt controllers"))?;
    if pit {
        if !caps.pit {
            return Err(Error::Missing("the interval timer"));
        }
        // The flag makes KVM answer port 0x61 too: Linux calibrates its clocks by bit 5 there,
        // which follows channel 2 of the timer, and that state is in the kernel.
        let config = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(config).map_err(Error::ioctl("create the interval timer"))?;
    }
    Ok(())
}

/// Every vCPU made from now on has a local APIC in the kernel. The first [`IOAPIC_INPUTS`] GSIs are
/// the I/O APIC's, wherever that is: KVM reports the ends of level-triggered interrupts whose
/// messages it finds there ([`crate::LocalApics`]).
fn create_local_apics(fd: &VmFd, caps: &Caps) -> Result<(), Error> {
    if !caps.split_irqchip {
        return Err(Error::Missing("local APICs without the other interrupt controllers"));
    }
    let args = [IOAPIC_INPUTS.into(), 0, 0, 0];
    let cap = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args, ..Default::default() };
    fd.enable_cap(&cap).map_err(Error::ioctl("create the local APICs"))
}

/// The interrupt inputs, wired as the board wants it. With the local APICs alone, the inputs are those
/// of the board's I/O APIC, and lead nowhere until that sends level-triggered messages.
pub(crate) fn routing(caps: &Caps, options: &VmOptions) -> Routing {
    let route = |input| match input {
        PcInput::Pic(pin @ 0..8) => Route::Pin { irqchip: KVM_IRQCHIP_PIC_MASTER, pin: pin.into() },
        PcInput::Pic(pin) => Route::Pin { irqchip: KVM_IRQCHIP_PIC_SLAVE, pin: u32::from(pin) - 8 },
        PcInput::IoApic(pin) => Route::Pin { irqchip: KVM_IRQCHIP_IOAPIC, pin: pin.into() },
    };
    let wiring: &[_] = if options.irqchip == Irqchip::Kernel { &options.wiring } else { &[] };
    let routes: Vec<_> = wiring.iter().map(|(gsi, input)| (*gsi, route(*input))).collect();
    Routing::new(caps.irq_routes, IOAPIC_INPUTS, &routes)
}

/// Connects the inputs to the chips just made.
pub(crate) fn commit_routing(vm: &Vm) -> Result<(), Error> {
    match vm.options().irqchip {
        Irqchip::Kernel => vm.routing().commit(vm.fd()),
        Irqchip::Split | Irqchip::None => Ok(()),
    }
}

impl Vm {
    /// Has these lines of the ISA bus be level triggered at the 8259s in the kernel, bit per line, and
    /// no others: what firmware does for PCI's (the edge/level control registers). Nothing without
    /// such 8259s. A reset makes all edge triggered.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn set_level_triggered(&self, lines: u16) -> Result<(), Error> {
        if self.options().irqchip != Irqchip::Kernel {
            return Ok(());
        }
        let [first, second] = lines.to_le_bytes();
        [(KVM_IRQCHIP_PIC_MASTER, first), (KVM_IRQCHIP_PIC_SLAVE, second)]
            .into_iter()
            .try_for_each(|(chip, elcr)| ioctl::set_elcr(self.fd(), chip, elcr))
            .map_err(Error::ioctl("make interrupts level triggered"))
    }
}

/// The chips as they were created.
pub(crate) struct Chips {
    irqchips: Vec<kvm_irqchip>,
    pit: Option<kvm_pit_state2>,
}

impl Chips {
    /// Keeps the present state.
    pub(crate) fn of(fd: &VmFd, options: &VmOptions) -> Result<Self, Error> {
        if options.irqchip != Irqchip::Kernel {
            return Ok(Self { irqchips: Vec::new(), pit: None });
        }
        let irqchips = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC]
            .into_iter()
            .map(|chip_id| {
                let mut chip = kvm_irqchip { chip_id, ..Default::default() };
                fd.get_irqchip(&mut chip).map(|()| chip)
            })
            .collect::<Result<_, _>>()
            .map_err(Error::ioctl("read the interrupt controllers"))?;
        let pit = if options.pit {
            Some(fd.get_pit2().map_err(Error::ioctl("read the interval timer"))?)
        } else {
            None
        };
        Ok(Self { irqchips, pit })
    }

    /// Goes back to it.
    pub(crate) fn reset(&self, fd: &VmFd) -> Result<(), Error> {
        for chip in &self.irqchips {
            fd.set_irqchip(chip).map_err(Error::ioctl("reset the interrupt controllers"))?;
        }
        self.pit.as_ref().map_or(Ok(()), |pit| {
            fd.set_pit2(pit).map_err(Error::ioctl("reset the interval timer"))
        })
    }
}
