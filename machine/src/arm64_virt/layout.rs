//! Where everything of the arm64 board is. The only place with guest addresses and interrupt
//! numbers; the map is kvmtool's (with the UARTs and the RTC at 16 MiB), so that guests and scripts
//! made for it fit.

use std::ops::Range;

use trapline_device::Space;
use trapline_pci::{BridgeWindow, WindowKind};

/// PCI's I/O space, port 0 at the first byte: the last 64 KiB of what kvmtool leaves empty below the
/// UARTs. Guests learn of it from the device tree (kvmtool's is at 0, where port numbers happen to
/// be addresses).
pub(crate) const PCI_IO: Range<u64> = 0xff_0000..0x100_0000;

/// The UARTs, 4 KiB apart.
pub(crate) const SERIAL: [u64; 4] = [0x100_0000, 0x100_1000, 0x100_2000, 0x100_3000];
/// Index and data register of the real-time clock.
pub(crate) const RTC: u64 = 0x101_0000;

/// Where the kernel tells a guest how much of its time was taken (Arm DEN0057, stolen time).
pub(crate) const PV_TIME: Range<u64> = 0x102_0000..0x103_0000;
/// CFI flash, at most this much.
pub(crate) const FLASH: Range<u64> = 0x200_0000..0x300_0000;

/// Virtio devices' registers, a window for each.
pub(crate) const VIRTIO: u64 = 0x300_0000;
const VIRTIO_LEN: u64 = 0x200;

/// The windows of virtio devices, with the SPI of each.
pub(crate) fn virtio_slots() -> impl Iterator<Item = (Range<u64>, u32)> {
    let starts = (0..).map(|n| VIRTIO + n * VIRTIO_LEN);
    starts.map(|start| start..start + VIRTIO_LEN).zip(spi::VIRTIO)
}

/// The GIC's distributor, of every GIC. Everything else of a GIC is below it.
pub(crate) const GIC_DIST: Range<u64> = 0x3fff_0000..0x4000_0000;
/// GICv2: the CPU interface.
pub(crate) const GIC_CPU: Range<u64> = 0x3ffd_0000..GIC_DIST.start;
/// GICv2m: the message frame.
pub(crate) const GIC_V2M: Range<u64> = 0x3ffc_f000..GIC_CPU.start;
/// GICv3: one redistributor, two frames of 64 KiB.
const GIC_REDIST_LEN: u64 = 0x2_0000;
/// GICv3: the ITS, two frames of 64 KiB.
const GIC_ITS_LEN: u64 = 0x2_0000;

/// GICv3: the redistributors of `cpus` processors, in order.
pub(crate) const fn gic_redist(cpus: u32) -> Range<u64> {
    GIC_DIST.start - cpus as u64 * GIC_REDIST_LEN..GIC_DIST.start
}

/// GICv3: the ITS of a machine with `cpus` processors.
pub(crate) const fn gic_its(cpus: u32) -> Range<u64> {
    let end = gic_redist(cpus).start;
    end - GIC_ITS_LEN..end
}

/// GICv3: one processor's interface, for a client that plays the processors. Not kvmtool's.
const GIC_INTERFACE_LEN: u64 = 0x1000;

/// GICv3: the processors' interfaces, which only such clients find there.
pub(crate) const fn gic_interfaces(cpus: u32) -> Range<u64> {
    let end = gic_its(cpus).start;
    end - cpus as u64 * GIC_INTERFACE_LEN..end
}

/// Configuration space, 4 KiB a function (ECAM). Room for 256 buses, of which there is one.
pub(crate) const PCI_ECAM: Range<u64> = 0x4000_0000..0x5000_0000;

/// Memory BARs.
pub(crate) const PCI_MEMORY: Range<u64> = PCI_ECAM.end..RAM;

/// What the PCI host bridge passes on: ports, and memory at the processors' own addresses.
pub(crate) fn pci_windows() -> [BridgeWindow; 2] {
    let ports = 0..PCI_IO.end - PCI_IO.start;
    [
        BridgeWindow { kind: WindowKind::Io, bus: ports, space: Space::Mmio, cpu: PCI_IO.start },
        BridgeWindow::identity(WindowKind::Memory, PCI_MEMORY),
    ]
}

/// RAM begins here unless the user says otherwise.
pub(crate) const RAM: u64 = 0x8000_0000;

/// Private peripheral interrupts, counted from 0.
pub(crate) mod ppi {
    /// INTID of the first (Arm IHI 0069, "INTIDs").
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "of a board on KVM"))]
    pub(crate) const FIRST_INTID: u32 = 16;
    /// The generic timer's: secure and non-secure physical, virtual, hypervisor's.
    pub(crate) const TIMERS: [u32; 4] = [13, 14, 11, 10];
    /// The performance monitors'.
    pub(crate) const PMU: u32 = 7;
}

/// What an interrupt is of, for people, in parentheses; nothing, where that is nobody's or a message.
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "of a board on KVM"))]
pub(crate) fn devices_of(intid: u32) -> String {
    let Some(spi) = intid.checked_sub(spi::FIRST_INTID) else {
        let timer = ppi::TIMERS.iter().any(|ppi| ppi::FIRST_INTID + ppi == intid);
        return if timer { " (a timer)".to_owned() } else { String::new() };
    };
    let serial = spi::SERIAL.iter().position(|serial| *serial == spi);
    match serial {
        Some(n) => format!(" (serial{n})"),
        None if (spi::pci(0)..spi::pci(32)).contains(&spi) => {
            format!(" (PCI device {})", spi - spi::pci(0))
        }
        None if spi::VIRTIO.contains(&spi) => {
            format!(" (virtio window {})", spi - spi::VIRTIO.start)
        }
        None => String::new(),
    }
}

/// Shared peripheral interrupts, counted from 0.
pub(crate) mod spi {
    use std::ops::Range;

    /// INTID of the first (Arm IHI 0069, "INTIDs").
    pub(crate) const FIRST_INTID: u32 = 32;
    /// One for each UART.
    pub(crate) const SERIAL: [u32; 4] = [0, 1, 2, 3];
    /// The pins of device 0 on PCI's bus 0; each further device has the next one.
    const PCI: u32 = 4;

    /// The pins of a device on PCI's bus 0.
    pub(crate) const fn pci(device: u8) -> u32 {
        PCI + device as u32
    }

    /// One for each virtio device with a window of registers: those between the devices' of PCI and
    /// messages'.
    pub(crate) const VIRTIO: Range<u32> = PCI + 32..V2M;

    /// The first of those that GICv2m raises on messages.
    pub(crate) const V2M: u32 = 64;
    /// How many GICv2m has.
    pub(crate) const V2M_COUNT: u32 = 64;
    /// How many there are at all: the GIC has 160 INTIDs with those of the processors.
    pub(crate) const COUNT: u32 = V2M + V2M_COUNT;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_known_by_its_intid() {
        let known = [(27, " (a timer)"), (31, ""), (32, " (serial0)"), (35, " (serial3)")];
        let on_buses =
            [(36, " (PCI device 0)"), (67, " (PCI device 31)"), (68, " (virtio window 0)")];
        for (intid, devices) in known.into_iter().chain(on_buses).chain([(96, "")]) {
            assert_eq!(devices_of(intid), devices, "{intid}");
        }
    }
}
