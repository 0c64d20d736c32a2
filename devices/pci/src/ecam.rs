//! Configuration space as a memory window: the address is bus, device, function and register.

use std::ops::Range;
use std::sync::Arc;

use trapline_device::{Direction, FdtDevice, FdtNode, Handler, IoCx, Mirror, Rules, Size};

use crate::bus::{Bus, Devfn};
use crate::conf1::config_rules;

/// How many bytes of the window each function has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// 256: the compatible mechanism, 16 MiB for 256 buses. kvmtool maps it on x86.
    Cam,
    /// 4096: PCI Express' enhanced mechanism, 256 MiB for 256 buses (PCI Express Base 3.0, 7.2.2).
    Ecam,
}

impl Layout {
    /// Address bits of one function's registers.
    pub const fn shift(self) -> u32 {
        match self {
            Self::Cam => 8,
            Self::Ecam => 12,
        }
    }

    /// Bytes of the window for one bus.
    pub const fn bus_len(self) -> u64 {
        256 << self.shift()
    }
}

/// Bytes of the enhanced mechanism's window for one function.
pub(crate) const PAGE_LEN: u64 = 1 << Layout::Ecam.shift();

/// A window onto a bus's configuration space. Buses above 0 are empty.
pub struct EcamWindow {
    bus: Arc<Bus>,
    layout: Layout,
}

impl EcamWindow {
    /// A window of `layout` in front of `bus`.
    pub const fn new(bus: Arc<Bus>, layout: Layout) -> Self {
        Self { bus, layout }
    }

    /// The part of the window in which reads need not come to it, and what they give: bus 0, where each
    /// function has a page of its own.
    pub fn mirror(&self) -> Option<(Range<u64>, Arc<Mirror>)> {
        let one_page_each = self.layout == Layout::Ecam;
        one_page_each.then(|| (0..self.layout.bus_len(), self.bus.mirror()))
    }

    fn target(&self, offset: u64) -> Option<(Devfn, u16)> {
        let shift = self.layout.shift();
        let devfn = u8::try_from(offset >> shift).ok()?;
        let register = u16::try_from(offset & ((1 << shift) - 1)).ok()?;
        Some((Devfn::from_bits(devfn), register))
    }
}

impl Handler for EcamWindow {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        // The function may be unplugged later.
        cx.reaches(|| self.register(offset, Direction::Read));
        self.target(offset).map_or(u64::MAX, |(devfn, register)| {
            u64::from(self.bus.config_read(devfn, register, size))
        })
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        cx.reaches(|| self.register(offset, Direction::Write));
        let value = u32::try_from(value & Size::Dword.ones()).unwrap_or(u32::MAX);
        if let Some((devfn, register)) = self.target(offset) {
            self.bus.config_write(devfn, register, size, value);
        }
    }

    fn rules(&self) -> Rules {
        config_rules()
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        let (devfn, register) = self.target(offset)?;
        self.bus.register(devfn, register, direction)
    }
}

impl FdtDevice for EcamWindow {
    /// A host bridge that needs no driver of its own, with the one bus there is. The board adds
    /// the windows of its BARs (`ranges`) and what becomes of its interrupts.
    ///
    /// Spec: Linux `Documentation/devicetree/bindings/pci/host-generic-pci.yaml`; IEEE 1275 PCI
    /// bus binding 2.1.
    fn fdt_node(&self) -> FdtNode {
        let compatible = match self.layout {
            Layout::Cam => "pci-host-cam-generic",
            Layout::Ecam => "pci-host-ecam-generic",
        };
        FdtNode::new("pci")
            .text("device_type", "pci")
            .text("compatible", compatible)
            .cells("#address-cells", [3])
            .cells("#size-cells", [2])
            .cells("#interrupt-cells", [1])
            .cells("bus-range", [0, 0])
            .flag("dma-coherent")
    }
}
