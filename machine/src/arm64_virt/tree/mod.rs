//! What the arm64 board tells its guest about itself: the device tree. Devices describe themselves;
//! here are their places, and everything that is no device of ours.
//!
//! Spec: Linux `Documentation/devicetree/bindings/`, by the names of `compatible`.

#[cfg(test)]
mod tests;

use std::ops::Range;

use trapline_device::{FdtNode, Size};
use trapline_intc::v2m;
use trapline_pci::regs::INTERRUPT_PIN;
use trapline_pci::{Bus, WindowKind};

use super::{Arm64Virt, layout};
use crate::Irqchip;

/// What the devices' nodes refer to.
mod phandle {
    pub(super) const GIC: u32 = 1;
    pub(super) const MSI: u32 = 2;
}

// The three cells of an interrupt (arm,gic-v3.yaml, arm,gic.yaml).
const SPI: u32 = 0;
const PPI: u32 = 1;
const LEVEL_HIGH: u32 = 4;
const LEVEL_LOW: u32 = 8;
/// GICv2: the processors a private interrupt is there for, from this bit.
const PPI_CPUS_SHIFT: u32 = 8;

/// What differs between machines with the same devices.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    /// RAM.
    pub(crate) ram: Range<u64>,
    /// The processors' affinities, as in MPIDR_EL1.
    pub(crate) affinities: &'a [u64],
    /// The interrupt controller.
    pub(crate) irqchip: Irqchip,
    /// The processors execute AArch32.
    pub(crate) aarch32: bool,
    /// They have performance monitors.
    pub(crate) pmu: bool,
    /// The timers' frequency, where the one they tell is wrong.
    pub(crate) timer_hz: Option<u32>,
    /// Seed of the kernel's address randomization.
    pub(crate) kaslr_seed: u64,
    /// The kernel's command line.
    pub(crate) bootargs: Option<&'a str>,
    /// Where the initrd is.
    pub(crate) initrd: Option<Range<u64>>,
}

impl Arm64Virt {
    /// The device tree.
    pub(crate) fn describe(&self, facts: &Facts<'_>) -> FdtNode {
        let mut root = FdtNode::new("")
            .cells("interrupt-parent", [phandle::GIC])
            .text("compatible", "linux,dummy-virt")
            .cells("#address-cells", [2])
            .cells("#size-cells", [2])
            .child(chosen(facts))
            .child(FdtNode::new("memory").text("device_type", "memory").at(facts.ram.clone()))
            .child(cpus(facts))
            .child(gic(facts))
            .child(timer(facts));
        if facts.pmu {
            root = root.child(pmu(facts));
        }
        root.children.extend(self.nodes.iter().cloned());
        root = root.child(pci(&self.pci, &self.bus));
        let console = self.nodes.first().map(|node| format!("/{}", node.name));
        root.child(psci(facts.aarch32))
            .child(FdtNode::new("aliases").text("serial0", &console.unwrap_or_default()))
    }
}

/// Adds the one interrupt a device has: a shared one, active high.
pub(super) fn interrupt(node: FdtNode, spi: u32) -> FdtNode {
    node.cells("interrupts", [SPI, spi, LEVEL_HIGH])
}

/// Adds to a host bridge's node where its functions' pins lead.
fn pci(node: &FdtNode, bus: &Bus) -> FdtNode {
    /// Of a function's address and pin, its device and its pin matter.
    const MASK: [u32; 4] = [0xf800, 0, 0, 7];
    let pin = |devfn| bus.config_read(devfn, INTERRUPT_PIN, Size::Byte) & 0xff;
    let mut pins: Vec<(u8, u32)> =
        bus.occupied().into_iter().map(|devfn| (devfn.device(), pin(devfn))).collect();
    pins.retain(|(_, pin)| *pin != 0);
    pins.dedup();
    if pins.is_empty() {
        return node.clone();
    }
    let map = pins.into_iter().flat_map(|(device, pin)| {
        let address = u32::from(device) << 11;
        let spi = layout::spi::pci(device);
        // The GIC has addresses of two cells, which say nothing.
        [address, 0, 0, pin, phandle::GIC, 0, 0, SPI, spi, LEVEL_HIGH]
    });
    node.clone().cells("interrupt-map", map).cells("interrupt-map-mask", MASK)
}

/// Adds to a host bridge's node where it is, where its BARs go, and what takes its functions'
/// messages.
pub(super) fn host_bridge(node: FdtNode, msi: bool) -> FdtNode {
    /// What kind of address a PCI address is, in bits 25:24 of its first cell, and whether it is
    /// prefetchable, in bit 30 (IEEE 1275 PCI bus binding 2.1, section 2.2.1.1).
    const fn kind(kind: WindowKind) -> u32 {
        match kind {
            WindowKind::Io => 1 << 24,
            WindowKind::Memory => 2 << 24,
            WindowKind::Prefetchable => 1 << 30 | 2 << 24,
        }
    }
    let ranges = layout::pci_windows().into_iter().flat_map(|window| {
        let pair = |long: u64| [long >> 32, long & 0xffff_ffff];
        let len = window.bus.end - window.bus.start;
        let cells = [window.bus.start, window.cpu, len].into_iter().flat_map(pair);
        std::iter::once(kind(window.kind)).chain(cells.filter_map(|cell| u32::try_from(cell).ok()))
    });
    let node = node.at(layout::PCI_ECAM).cells("ranges", ranges);
    if msi { node.cells("msi-parent", [phandle::MSI]) } else { node }
}

fn chosen(facts: &Facts<'_>) -> FdtNode {
    let mut node = FdtNode::new("chosen");
    if let Some(bootargs) = facts.bootargs {
        node = node.text("bootargs", bootargs);
    }
    node = node.longs("kaslr-seed", [facts.kaslr_seed]).text("stdout-path", "serial0");
    if let Some(initrd) = &facts.initrd {
        node = node
            .longs("linux,initrd-start", [initrd.start])
            .longs("linux,initrd-end", [initrd.end]);
    }
    node
}

fn cpus(facts: &Facts<'_>) -> FdtNode {
    /// Affinity levels 0 to 2, which is all KVM uses: bits 23:0 of MPIDR_EL1.
    const AFFINITY: u64 = 0xff_ffff;
    let cpus = FdtNode::new("cpus").cells("#address-cells", [1]).cells("#size-cells", [0]);
    facts.affinities.iter().fold(cpus, |cpus, mpidr| {
        let reg = mpidr & AFFINITY;
        cpus.child(
            FdtNode::new(format!("cpu@{reg:x}"))
                .text("device_type", "cpu")
                .text("compatible", "arm,arm-v8")
                .text("enable-method", "psci")
                .cells("reg", u32::try_from(reg)),
        )
    })
}

fn gic(facts: &Facts<'_>) -> FdtNode {
    let cpus = u32::try_from(facts.affinities.len()).unwrap_or(u32::MAX);
    let node = FdtNode::new("intc").at(layout::GIC_DIST);
    let (node, compatible) = match facts.irqchip {
        Irqchip::Gicv2 | Irqchip::Gicv2m => (node.at(layout::GIC_CPU), "arm,cortex-a15-gic"),
        Irqchip::Gicv3 | Irqchip::Gicv3Its => (node.at(layout::gic_redist(cpus)), "arm,gic-v3"),
    };
    let node = node
        .text("compatible", compatible)
        .cells("#interrupt-cells", [3])
        .flag("interrupt-controller")
        .cells("phandle", [phandle::GIC])
        .cells("#address-cells", [2])
        .cells("#size-cells", [2]);
    let msi = match facts.irqchip {
        Irqchip::Gicv2 | Irqchip::Gicv3 => return node,
        Irqchip::Gicv2m => v2m::fdt_node().at(layout::GIC_V2M),
        Irqchip::Gicv3Its => FdtNode::new("msic")
            .text("compatible", "arm,gic-v3-its")
            .flag("msi-controller")
            .at(layout::gic_its(cpus)),
    };
    node.flag("ranges").child(msi.cells("phandle", [phandle::MSI]))
}

/// Private interrupts of the generic timer, counted from INTID 16: secure and non-secure physical,
/// virtual, hypervisor's (arm,arch_timer.yaml).
fn timer(facts: &Facts<'_>) -> FdtNode {
    let interrupts = layout::ppi::TIMERS.into_iter().flat_map(|ppi| private(facts, ppi, LEVEL_LOW));
    let node = FdtNode::new("timer")
        .texts("compatible", ["arm,armv8-timer", "arm,armv7-timer"])
        .cells("interrupts", interrupts)
        .flag("always-on");
    match facts.timer_hz {
        Some(hz) => node.cells("clock-frequency", [hz]),
        None => node,
    }
}

fn pmu(facts: &Facts<'_>) -> FdtNode {
    FdtNode::new("pmu")
        .text("compatible", "arm,armv8-pmuv3")
        .cells("interrupts", private(facts, layout::ppi::PMU, LEVEL_HIGH))
}

/// A private interrupt; a GICv2 wants to know of which processors.
fn private(facts: &Facts<'_>, ppi: u32, flags: u32) -> [u32; 3] {
    const GICV2_CPUS: usize = 8;
    let cpus = match facts.irqchip {
        Irqchip::Gicv2 | Irqchip::Gicv2m => (1 << facts.affinities.len().min(GICV2_CPUS)) - 1,
        Irqchip::Gicv3 | Irqchip::Gicv3Its => 0,
    };
    [PPI, ppi, cpus << PPI_CPUS_SHIFT | flags]
}

/// The numbers are for those who only know PSCI 0.1 (psci.yaml); the others know them.
fn psci(aarch32: bool) -> FdtNode {
    /// Bit 30 of a function's number: its arguments have 64 bits (Arm DEN0028, "Function
    /// identifiers").
    const BITS_64: u32 = 1 << 30;
    let wide = if aarch32 { 0 } else { BITS_64 };
    FdtNode::new("psci")
        .texts("compatible", ["arm,psci-1.0", "arm,psci-0.2", "arm,psci"])
        .text("method", "hvc")
        .cells("cpu_suspend", [0x8400_0001 | wide])
        .cells("cpu_off", [0x8400_0002])
        .cells("cpu_on", [0x8400_0003 | wide])
        .cells("migrate", [0x8400_0005 | wide])
}
