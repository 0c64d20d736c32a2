//! A vCPU's power-on state: kept when it is made, put back before each start.

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, Msrs, kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;

use super::local_apic::{LVT_EXT_INT, LVT_NMI, Page, reg};
use crate::{Error, Irqchip, Vm};

/// Everything a start must find as after power-on. What the host's KVM does not have is left out.
pub(crate) struct PowerOn {
    regs: kvm_regs,
    sregs: kvm_sregs,
    events: Option<kvm_vcpu_events>,
    debug: Option<kvm_debugregs>,
    xcrs: Option<kvm_xcrs>,
    lapic: Option<kvm_lapic_state>,
}

impl PowerOn {
    /// Keeps the state of a new vCPU.
    pub(crate) fn of(fd: &VcpuFd, _vm: &Vm, _index: u32) -> Result<Self, Error> {
        Ok(Self {
            regs: fd.get_regs().map_err(Error::ioctl("read the registers"))?,
            sregs: fd.get_sregs().map_err(Error::ioctl("read the segment registers"))?,
            events: fd.get_vcpu_events().ok(),
            debug: fd.get_debug_regs().ok(),
            xcrs: fd.get_xcrs().ok(),
            lapic: fd.get_lapic().ok(),
        })
    }

    /// Goes back to it, with model-specific registers, FPU and interrupt pins as firmware leaves
    /// them.
    pub(crate) fn restore(&self, fd: &VcpuFd, vm: &Vm) -> Result<(), Error> {
        fd.set_sregs(&self.sregs).map_err(Error::ioctl("set the segment registers"))?;
        set_msrs(fd);
        if vm.options().irqchip != Irqchip::None {
            let state = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
            fd.set_mp_state(state).map_err(Error::ioctl("make a vCPU runnable"))?;
            if let Some(lapic) = &self.lapic {
                fd.set_lapic(&with_pins(lapic)).map_err(Error::ioctl("set the local APIC"))?;
            }
        }
        let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
        fd.set_fpu(&fpu).map_err(Error::ioctl("set the floating-point registers"))?;
        optional("XCR0", self.xcrs.as_ref().map(|xcrs| fd.set_xcrs(xcrs)));
        optional("the debug registers", self.debug.as_ref().map(|debug| fd.set_debug_regs(debug)));
        optional("pending events", self.events.as_ref().map(|events| fd.set_vcpu_events(events)));
        fd.set_regs(&self.regs).map_err(Error::ioctl("set the registers"))
    }
}

/// Says so, for who looks for it, when KVM would not take something a guest can do without.
fn optional(what: &str, outcome: Option<Result<(), kvm_ioctls::Error>>) {
    if let Some(Err(error)) = outcome {
        tracing::debug!("KVM refused to set {what}: {error}");
    }
}

/// Register, value. Intel SDM volume 4, "Model-Specific Registers"; AMD APM volume 2, appendix A;
/// Linux `Documentation/virt/kvm/x86/msr.rst` for those at 0x4b56_4d00.
const MSRS: [(u32, u64); 19] = [
    (0x10, 0),        // IA32_TIME_STAMP_COUNTER
    (0x174, 0),       // IA32_SYSENTER_CS
    (0x175, 0),       // IA32_SYSENTER_ESP
    (0x176, 0),       // IA32_SYSENTER_EIP
    (0x1a0, 1),       // IA32_MISC_ENABLE: fast string operations
    (0x277, PAT),     // IA32_PAT
    (0x2ff, MTRR),    // IA32_MTRR_DEF_TYPE
    (0xc000_0081, 0), // STAR
    (0xc000_0082, 0), // LSTAR
    (0xc000_0083, 0), // CSTAR
    (0xc000_0084, 0), // SFMASK
    (0xc000_0102, 0), // KERNEL_GS_BASE
    (0xc000_0103, 0), // TSC_AUX
    // What KVM writes into guest memory by itself must stop before another kernel is loaded.
    (0x4b56_4d00, 0), // MSR_KVM_WALL_CLOCK_NEW
    (0x4b56_4d01, 0), // MSR_KVM_SYSTEM_TIME_NEW
    (0x4b56_4d02, 0), // MSR_KVM_ASYNC_PF_EN
    (0x4b56_4d03, 0), // MSR_KVM_STEAL_TIME
    (0x4b56_4d04, 0), // MSR_KVM_EOI_EN
    (0x12, 0),        // MSR_KVM_SYSTEM_TIME, the older number
];

/// The page attribute table as after reset.
const PAT: u64 = 0x0007_0406_0007_0406;
/// Memory is write-back, and the type registers are on.
const MTRR: u64 = 1 << 11 | 6;

/// One at a time: KVMs differ in what they know, and one they do not know ends the list.
fn set_msrs(fd: &VcpuFd) {
    for (index, data) in MSRS {
        let entry = kvm_msr_entry { index, data, ..Default::default() };
        let done = Msrs::from_entries(&[entry]).ok().and_then(|msrs| fd.set_msrs(&msrs).ok());
        if done != Some(1) {
            tracing::debug!("KVM refused to set MSR {index:#x} to {data:#x}");
        }
    }
}

/// The local APIC with pin LINT0 taking interrupts of the 8259A and LINT1 taking NMI, as firmware
/// leaves them (MultiProcessor Specification 1.4, section 3.6.2.2, "Virtual Wire Mode").
fn with_pins(power_on: &kvm_lapic_state) -> kvm_lapic_state {
    let mut page = Page(*power_on);
    page.set_word(reg::LVT_LINT0, LVT_EXT_INT);
    page.set_word(reg::LVT_LINT1, LVT_NMI);
    page.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pins_of_the_local_apic_are_as_firmware_leaves_them_and_all_else_as_it_was() {
        let mut power_on = kvm_lapic_state::default();
        power_on.regs.iter_mut().for_each(|byte| *byte = 0x55);
        let with_pins = with_pins(&power_on);
        let register = |at: usize| {
            let bytes: Vec<u8> =
                with_pins.regs[at..at + 4].iter().map(|b| b.cast_unsigned()).collect();
            u32::from_le_bytes(bytes.try_into().unwrap())
        };
        assert_eq!(register(0x350), 0x700, "LINT0: ExtINT, unmasked");
        assert_eq!(register(0x360), 0x400, "LINT1: NMI, unmasked");
        for at in (0..0x400).step_by(4).filter(|at| !matches!(at, 0x350 | 0x360)) {
            assert_eq!(register(at), 0x5555_5555, "{at:#x}");
        }
    }
}
