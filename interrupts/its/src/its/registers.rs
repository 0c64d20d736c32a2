//! Reads and writes of the ITS's two register frames.

use super::{Its, Progress};
use crate::config::Sticky;
use crate::error::bump;
use crate::host::{GuestMemory, LpiSink};
use crate::regs::{
    BASER_READ_ONLY, Baser, CBASER_WRITABLE, CONTROL_FRAME, CREADR_STALLED, CTLR_ENABLED,
    CTLR_QUIESCENT, CWRITER_RETRY, Cbaser, KIND_COLLECTION, MAP, Reg, TRANSLATER,
};

/// Memory attributes KVM lets stick: inner shareable; inner write-back; outer as inner.
const KVM_SHAREABLE: u8 = 1;
const KVM_INNER_CACHE: u8 = 5;

impl Its {
    /// A guest's read of `size` bytes at `offset` of the frames. Widths and alignments no
    /// register takes, and offsets without a register, read 0 and are counted.
    ///
    /// Reading `CREADR` or `CTLR` first executes a slice of the queue, if commands are left.
    pub fn read(
        &mut self,
        offset: u64,
        size: u32,
        mem: &impl GuestMemory,
        sink: &mut impl LpiSink,
    ) -> u64 {
        let Some(reg) = register(offset, size) else {
            self.bad_access();
            return 0;
        };
        if matches!(reg, Reg::Ctlr | Reg::Creadr) {
            let _left = self.process(mem, sink, self.core.config.budget);
        }
        part(self.value(reg, offset), offset, size)
    }

    /// What a read would return now. Changes nothing.
    pub fn peek(&self, offset: u64, size: u32) -> u64 {
        register(offset, size).map_or(0, |reg| part(self.value(reg, offset), offset, size))
    }

    /// The register an access of `offset` would reach, for traces.
    pub fn register_name(offset: u64) -> Option<&'static str> {
        if offset & !3 == TRANSLATER {
            return Some("GITS_TRANSLATER");
        }
        MAP.for_read(offset).map(|row| row.name)
    }

    fn value(&self, reg: Reg, offset: u64) -> u64 {
        match reg {
            Reg::Ctlr => {
                // Quiescent says that nothing is under way once Enabled is 0. Clearing Enabled
                // stops the queue between two commands, so nothing ever is. While Enabled is 1
                // the bit is UNKNOWN up to GICv4.0 and 0 from GICv4.1 on.
                let ctlr = if self.core.enabled { CTLR_ENABLED } else { CTLR_QUIESCENT };
                ctlr.into()
            }
            Reg::Iidr => self.core.config.iidr.into(),
            Reg::Typer => self.core.config.typer.into_bits(),
            Reg::Raz => 0,
            Reg::Cbaser => self.queue.base().into_bits(),
            Reg::Cwriter => self.queue.write().into(),
            Reg::Creadr => {
                let stalled = if self.queue.stalled() { CREADR_STALLED } else { 0 };
                u64::from(self.queue.read()) | stalled
            }
            Reg::Baser(n) => self.core.basers.get(n).copied().unwrap_or_default().into_bits(),
            Reg::Id => self.core.config.ids.read(offset & !3).unwrap_or(0).into(),
        }
    }

    /// A guest's write of `size` bytes at `offset` of the frames. Widths and alignments no
    /// register takes, and offsets without a register, are ignored and counted. 32-bit writes
    /// reach one half of a 64-bit register.
    pub fn write(
        &mut self,
        offset: u64,
        size: u32,
        value: u64,
        mem: &impl GuestMemory,
        sink: &mut impl LpiSink,
    ) -> Progress {
        let Some(reg) = register(offset, size) else {
            self.bad_access();
            return self.process(mem, sink, 0);
        };
        let whole = merge(self.value(reg, offset), offset, size, value);
        let budget = match reg {
            Reg::Ctlr => self.write_ctlr(whole & u64::from(CTLR_ENABLED) != 0, mem, sink),
            Reg::Cbaser => self.write_cbaser(whole),
            Reg::Cwriter => self.write_cwriter(whole),
            Reg::Baser(n) => self.write_baser(n, whole),
            Reg::Iidr | Reg::Typer | Reg::Raz | Reg::Creadr | Reg::Id => 0,
        };
        self.process(mem, sink, budget)
    }

    /// Each write returns the budget of commands that may be executed now.
    fn write_ctlr(&mut self, enable: bool, mem: &impl GuestMemory, sink: &impl LpiSink) -> u32 {
        if enable == self.core.enabled {
            return 0;
        }
        if enable {
            // The architecture calls it UNPREDICTABLE to enable without tables or queue. The bit
            // stays 0, so that the driver sees it.
            if !(self.core.tables_valid() && self.queue.base().valid()) {
                bump(&mut self.core.counters.bad_enables);
                return 0;
            }
            self.queue.retry();
            self.core.load_collections(mem, sink.targets());
        } else {
            self.core.unload_collections(mem);
        }
        self.core.enabled = enable;
        self.core.changed();
        self.core.config.budget
    }

    fn write_cbaser(&mut self, value: u64) -> u32 {
        if self.core.enabled {
            return 0;
        }
        let mut cbaser = Cbaser::from_bits(value & CBASER_WRITABLE);
        if self.core.config.sticky == Sticky::Kvm {
            cbaser = cbaser
                .with_page(cbaser.page() & !0xf)
                .with_shareability(sane_shareability(cbaser.shareability()))
                .with_inner_cache(sane_inner(cbaser.inner_cache()))
                .with_outer_cache(sane_outer(cbaser.outer_cache()));
        }
        self.queue.set_base(cbaser);
        0
    }

    fn write_cwriter(&mut self, value: u64) -> u32 {
        if value & CWRITER_RETRY != 0 {
            self.queue.retry();
        }
        if !self.queue.announce(value) {
            bump(&mut self.core.counters.bad_cwriter);
        }
        self.core.config.budget
    }

    fn write_baser(&mut self, n: usize, value: u64) -> u32 {
        let enabled = self.core.enabled;
        let kvm = self.core.config.sticky == Sticky::Kvm;
        let Some(baser) = self.core.basers.get_mut(n).filter(|baser| baser.kind() != 0) else {
            return 0;
        };
        if enabled {
            return 0;
        }
        let value = (value & !BASER_READ_ONLY) | (baser.into_bits() & BASER_READ_ONLY);
        *baser = Baser::from_bits(value);
        if kvm {
            *baser = baser
                .with_page_size(2)
                .with_shareability(sane_shareability(baser.shareability()))
                .with_inner_cache(sane_inner(baser.inner_cache()))
                .with_outer_cache(sane_outer(baser.outer_cache()));
            if baser.kind() == KIND_COLLECTION {
                baser.set_indirect(false);
            }
        }
        self.core.changed();
        0
    }
}

/// The register an access reaches, if its width and alignment are good.
fn register(offset: u64, size: u32) -> Option<Reg> {
    if offset >= CONTROL_FRAME || !matches!(size, 4 | 8) || !offset.is_multiple_of(size.into()) {
        return None;
    }
    let row = MAP.for_read(offset)?;
    (size <= row.width).then_some(row.reg)
}

/// The part of a register an access of `size` at `offset` sees.
fn part(value: u64, offset: u64, size: u32) -> u64 {
    if size == 8 {
        return value;
    }
    // A register of 8 bytes is aligned to 8, one of 4 bytes may have offset bit 2 set.
    let wide = MAP.for_read(offset).is_some_and(|row| row.width == 8);
    let shift = if wide { (offset & 4) * 8 } else { 0 };
    (value >> shift) & 0xffff_ffff
}

/// The register's value after a write of `size` at `offset`.
fn merge(old: u64, offset: u64, size: u32, value: u64) -> u64 {
    if size == 8 {
        return value;
    }
    let wide = MAP.for_read(offset).is_some_and(|row| row.width == 8);
    let shift = if wide { (offset & 4) * 8 } else { 0 };
    (old & !(0xffff_ffff << shift)) | ((value & 0xffff_ffff) << shift)
}

fn sane_shareability(field: u8) -> u8 {
    if field == 2 { KVM_SHAREABLE } else { field }
}

fn sane_inner(field: u8) -> u8 {
    if field <= 1 { KVM_INNER_CACHE } else { field }
}

fn sane_outer(field: u8) -> u8 {
    if field <= 1 { field } else { 0 }
}
