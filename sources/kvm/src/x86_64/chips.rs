//! The PC's chips that the kernel emulates: two 8259A, the I/O APIC, the 8254.

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap, kvm_irqchip, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::VmFd;

use crate::routing::{Route, Routing};
use crate::{Caps, Error, Irqchip, Vm, VmOptions};

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

/// The interrupt inputs, connected as a PC does. Those of the ISA bus, GSI 0 to 15, go to an 8259A
/// and to the I/O APIC; the timer, GSI 0, goes to input 2 of the I/O APIC, which is what the MADT's
/// usual "interrupt source override" and the MP table's entry say. KVM's default is input 0.
///
/// With the local APICs alone, the inputs are the board's I/O APIC's, and lead nowhere until that
/// sends level-triggered messages.
pub(crate) fn routing(caps: &Caps, options: &VmOptions) -> Routing {
    let mut routes = Vec::new();
    let mut connect = |gsi, irqchip, pin| routes.push((gsi, Route::Pin { irqchip, pin }));
    let inputs = if options.irqchip == Irqchip::Kernel { 0..IOAPIC_INPUTS } else { 0..0 };
    for gsi in inputs {
        match gsi {
            // The cascade of the second 8259A: nothing can be connected there.
            2 => continue,
            0..8 => connect(gsi, KVM_IRQCHIP_PIC_MASTER, gsi),
            8..16 => connect(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8),
            _ => {}
        }
        connect(gsi, KVM_IRQCHIP_IOAPIC, if gsi == 0 { 2 } else { gsi });
    }
    Routing::new(caps.irq_routes, IOAPIC_INPUTS, &routes)
}

/// Connects the inputs to the chips just made.
pub(crate) fn commit_routing(vm: &Vm) -> Result<(), Error> {
    match vm.options().irqchip {
        Irqchip::Kernel => vm.routing().commit(vm.fd()),
        Irqchip::Split | Irqchip::None => Ok(()),
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
