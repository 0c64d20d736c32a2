//! A GICv2m frame: turns messages into shared peripheral interrupts of a GIC that takes none.
//!
//! ```text
//!   function ──message──► MsiSink of the board ─┐
//!   processor ──write──► MSI_SETSPI_NS ─────────┴─► V2m ──edge──► Line ──► SPI
//! ```
//!
//! Spec: Arm DEN0029 (SBSA) 3.0, appendix "GICv2m architecture".

pub mod regs;
#[cfg(test)]
mod tests;

use trapline_device::{Device, Direction, FdtNode, Handler, IoCx, Limits, Line, Rules, Size};

use self::regs::{IIDR, MAP, Reg, Typer};

/// A frame. It remembers nothing: an interrupt is an edge on its line, and is kept by the GIC.
pub struct V2m {
    /// INTID of the first line.
    base: u16,
    lines: Vec<Line>,
}

impl V2m {
    /// A frame that raises `lines`, of which the first is the GIC's INTID `base`.
    ///
    /// # Panics
    /// When there are INTIDs among them that are no shared peripheral interrupts (32 to 1019).
    pub fn new(base: u16, lines: Vec<Line>) -> Self {
        let end = usize::from(base) + lines.len();
        assert!(base >= 32 && end <= 1020, "a frame raises shared peripheral interrupts");
        Self { base, lines }
    }

    /// A message, or a processor's write to MSI_SETSPI_NS: raises interrupt `intid`. One that is
    /// not the frame's vanishes.
    pub fn set_spi(&self, intid: u32) {
        let index = intid.checked_sub(self.base.into()).and_then(|n| usize::try_from(n).ok());
        if let Some(line) = index.and_then(|index| self.lines.get(index)) {
            line.set(true);
            line.set(false);
        }
    }

    fn typer(&self) -> Typer {
        let count = u16::try_from(self.lines.len()).unwrap_or(u16::MAX);
        Typer::new().with_base(self.base).with_count(count)
    }
}

impl Handler for V2m {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        let value = match MAP.for_read(offset).map(|row| row.reg) {
            Some(Reg::Typer) => self.typer().into_bits(),
            Some(Reg::Iidr) => IIDR,
            Some(Reg::SetSpi) | None => 0,
        };
        value.into()
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        if let Some(Reg::SetSpi) = MAP.for_write(offset).map(|row| row.reg) {
            self.set_spi(u32::try_from(value).unwrap_or(u32::MAX));
        }
    }

    fn rules(&self) -> Rules {
        let dwords = Limits::only(Size::Dword);
        Rules { valid: dwords, handled: dwords }
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        let row = match direction {
            Direction::Read => MAP.for_read(offset),
            Direction::Write => MAP.for_write(offset),
        };
        row.map(|row| row.name)
    }
}

impl Device for V2m {
    fn reset(&self) {}
}

/// Any frame's node in a device tree, to be put below the GIC's. Which interrupts it raises, its
/// registers tell.
///
/// Spec: Linux `Documentation/devicetree/bindings/interrupt-controller/arm,gic.yaml`.
pub fn fdt_node() -> FdtNode {
    FdtNode::new("msic").text("compatible", "arm,gic-v2m-frame").flag("msi-controller")
}
