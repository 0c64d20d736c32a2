//! Reads and writes of the distributor's frame and of the redistributors' two frames.

use super::Gic;
use super::regs::{
    Bank, CTLR_ARE, CTLR_DS, CTLR_ENABLE_GROUP0, CTLR_ENABLE_GROUP1, IIDR, IROUTER_WRITABLE,
    SGI_BASE,
};
use crate::Target;
use crate::error::bump;
use crate::host::GuestMemory;
use crate::id_registers::{Component, IdRegisters};

impl Gic {
    /// `GICD_TYPER`: 16 INTID bits, LPIs, no extended ranges.
    fn typer(&self) -> u32 {
        let lines = u32::try_from((self.spis + 32).div_ceil(32) - 1).unwrap_or(0);
        15 << 19 | 1 << 17 | (lines & 0x1f)
    }

    /// A guest's read of `size` bytes at `offset` of the distributor's frame. What no register
    /// takes reads 0 and is counted.
    pub fn read_distributor(&mut self, offset: u64, size: u32) -> u64 {
        let value = match (offset, size) {
            (0x0, 4) => Some(u64::from(self.ctlr | CTLR_ARE | CTLR_DS)),
            (0x4, 4) => Some(self.typer().into()),
            (0x8, 4) => Some(IIDR.into()),
            _ if reserved(offset, size) => Some(0),
            (0xffd0.., 4) => IdRegisters::new(Component::Distributor).read(offset).map(u64::from),
            (0x6100..0x8000, 4 | 8) if offset.is_multiple_of(size.into()) => {
                let route = self.shared.get(route_of(offset)).map_or(0, |spi| spi.route);
                Some(if size == 8 { route } else { route >> ((offset & 4) * 8) & 0xffff_ffff })
            }
            _ => bank(offset, size).map(|(bank, within)| self.shared.read(bank, within, size)),
        };
        value.unwrap_or_else(|| {
            bump(&mut self.bad_accesses);
            0
        })
    }

    /// A guest's write of `size` bytes at `offset` of the distributor's frame. What no register
    /// takes is ignored and counted.
    pub fn write_distributor(&mut self, offset: u64, size: u32, value: u64) {
        match (offset, size) {
            (0x0, 4) => {
                let groups = u32::try_from(value & 3).unwrap_or(0);
                self.ctlr = groups & (CTLR_ENABLE_GROUP0 | CTLR_ENABLE_GROUP1);
            }
            _ if reserved(offset, size) => {}
            (0x6100..0x8000, 4 | 8) if offset.is_multiple_of(size.into()) => {
                let Some(spi) = self.shared.get_mut(route_of(offset)) else { return };
                let shift = if size == 8 { 0 } else { (offset & 4) * 8 };
                let mask = if size == 8 { u64::MAX } else { 0xffff_ffff << shift };
                let whole = spi.route & !mask | value << shift & mask;
                spi.route = whole & IROUTER_WRITABLE;
            }
            _ => match bank(offset, size) {
                Some((bank, within)) => self.shared.write(bank, within, size, value),
                None => bump(&mut self.bad_accesses),
            },
        }
    }

    /// A guest's read of `size` bytes at `offset` of a redistributor's frames.
    pub fn read_redistributor(&mut self, target: Target, offset: u64, size: u32) -> u64 {
        let Some(within) = offset.checked_sub(SGI_BASE) else {
            return self.redistributors.read(target, offset, size);
        };
        let place = usize::try_from(target.0).ok().and_then(|n| self.private.get(n));
        if place.is_some() && reserved(within, size) {
            return 0;
        }
        match place.zip(bank(within, size)) {
            Some((private, (bank, within))) => private.read(bank, within, size),
            None => {
                bump(&mut self.bad_accesses);
                0
            }
        }
    }

    /// A guest's write of `size` bytes at `offset` of a redistributor's frames.
    pub fn write_redistributor(
        &mut self,
        target: Target,
        offset: u64,
        size: u32,
        value: u64,
        mem: &impl GuestMemory,
    ) {
        let Some(within) = offset.checked_sub(SGI_BASE) else {
            self.redistributors.write(target, offset, size, value, mem);
            return;
        };
        let place = usize::try_from(target.0).ok().and_then(|n| self.private.get_mut(n));
        if place.is_some() && reserved(within, size) {
            return;
        }
        match place.zip(bank(within, size)) {
            Some((private, (bank, within))) => private.write(bank, within, size, value),
            None => bump(&mut self.bad_accesses),
        }
    }
}

/// Registers that are there and do nothing with one security state and affinity routing:
/// `GICD_TYPER2`, `GICD_STATUSR`, `GICD_ITARGETSR<n>`, `GICD_IGRPMODR<n>`, `GICD_NSACR<n>`,
/// `GICD_SGIR`, `GICD_CPENDSGIR<n>` and `GICD_SPENDSGIR<n>`; and in `SGI_base` those of the same
/// names and offsets.
fn reserved(offset: u64, size: u32) -> bool {
    let bytes = matches!(offset, 0x800..0xc00 | 0xf10..0xf30);
    let words = matches!(offset, 0x00c | 0x010 | 0xd00..0xd80 | 0xe00..0xf04);
    offset.is_multiple_of(size.into()) && ((bytes && size == 1) || ((bytes || words) && size == 4))
}

/// The INTID of a `GICD_IROUTER<n>`.
fn route_of(offset: u64) -> u32 {
    u32::try_from((offset - 0x6000) / 8).unwrap_or(0)
}

/// The bank an access reaches: 32 bits, or a byte of a priority.
fn bank(offset: u64, size: u32) -> Option<(Bank, u64)> {
    let (bank, within) = Bank::at(offset)?;
    let width = size == 4 || (size == 1 && bank == Bank::Priority);
    (width && offset.is_multiple_of(size.into())).then_some((bank, within))
}
