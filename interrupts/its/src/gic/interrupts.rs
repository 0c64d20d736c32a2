//! Interrupts with a state of their own: SGIs, PPIs and SPIs.
//!
//! Spec: Arm IHI 0069, "Interrupt handling state machine".

use alloc::vec;
use alloc::vec::Vec;

use super::regs::Bank;

/// One interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupt {
    /// Group 1; else Group 0.
    pub group1: bool,
    /// It may be signalled.
    pub enabled: bool,
    /// An edge, or a write, made it pending and nobody took it yet.
    pub latched: bool,
    /// Its line is high.
    pub line: bool,
    /// Taken and not ended.
    pub active: bool,
    /// Edge-triggered; else level-sensitive.
    pub edge: bool,
    /// Bits 7:3, 0 the highest.
    pub priority: u8,
    /// `GICD_IROUTER<n>` (SPIs).
    pub route: u64,
}

impl Interrupt {
    /// Whether it is pending.
    pub const fn pending(&self) -> bool {
        self.latched || (self.line && !self.edge)
    }

    /// The line goes high or low.
    pub(crate) fn set_line(&mut self, level: bool) {
        if level && !self.line && self.edge {
            self.latched = true;
        }
        self.line = level;
    }

    /// A processor takes it.
    pub(crate) fn acknowledge(&mut self) {
        self.latched = false;
        self.active = true;
    }
}

/// Consecutive interrupts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interrupts {
    /// INTID of the first.
    first: u32,
    list: Vec<Interrupt>,
}

impl Interrupts {
    /// The SGIs and PPIs of one processor. SGIs are edge-triggered.
    pub(crate) fn private() -> Self {
        let mut list = vec![Interrupt::default(); 32];
        list.iter_mut().take(16).for_each(|sgi| sgi.edge = true);
        Self { first: 0, list }
    }

    /// `count` SPIs.
    pub(crate) fn shared(count: usize) -> Self {
        Self { first: 32, list: vec![Interrupt::default(); count] }
    }

    /// Back to reset; the lines stay.
    pub(crate) fn reset(&mut self) {
        for (intid, interrupt) in (self.first..).zip(&mut self.list) {
            let line = interrupt.line;
            *interrupt = Interrupt { line, edge: intid < 16, ..Interrupt::default() };
        }
    }

    /// Replaces all of them.
    pub(crate) fn put(&mut self, list: Vec<Interrupt>) {
        self.list = list;
    }

    fn index(&self, intid: u32) -> Option<usize> {
        usize::try_from(intid.checked_sub(self.first)?).ok()
    }

    pub(crate) fn get(&self, intid: u32) -> Option<&Interrupt> {
        self.list.get(self.index(intid)?)
    }

    pub(crate) fn get_mut(&mut self, intid: u32) -> Option<&mut Interrupt> {
        let index = self.index(intid)?;
        self.list.get_mut(index)
    }

    /// All, with their INTIDs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Interrupt)> {
        (self.first..).zip(&self.list)
    }

    /// Reads `size` bytes of a bank. Interrupts that are not here read 0.
    pub(crate) fn read(&self, bank: Bank, offset: u64, size: u32) -> u64 {
        self.fields(bank, offset, size).fold(0, |value, (intid, shift)| {
            let field = self.get(intid).map_or(0, |interrupt| field(interrupt, bank));
            value | u64::from(field) << shift
        })
    }

    /// Writes `size` bytes of a bank.
    pub(crate) fn write(&mut self, bank: Bank, offset: u64, size: u32, value: u64) {
        let mask = (1u64 << bank.bits()) - 1;
        let fields: Vec<(u32, u64)> = self.fields(bank, offset, size).collect();
        for (intid, shift) in fields {
            let bits = u8::try_from((value >> shift) & mask).unwrap_or(0);
            if let Some(interrupt) = self.get_mut(intid) {
                set_field(interrupt, bank, bits, intid < 16);
            }
        }
    }

    /// The interrupts an access of a bank covers, with the places of their fields in the value.
    fn fields(
        &self,
        bank: Bank,
        offset: u64,
        size: u32,
    ) -> impl Iterator<Item = (u32, u64)> + use<> {
        let bits = bank.bits();
        let first = u32::try_from(offset * 8 / bits).unwrap_or(u32::MAX);
        (first..).zip((0..u64::from(size) * 8).step_by(usize::try_from(bits).unwrap_or(1)))
    }
}

fn field(interrupt: &Interrupt, bank: Bank) -> u8 {
    match bank {
        Bank::Group => interrupt.group1.into(),
        Bank::SetEnable | Bank::ClearEnable => interrupt.enabled.into(),
        Bank::SetPending | Bank::ClearPending => interrupt.pending().into(),
        Bank::SetActive | Bank::ClearActive => interrupt.active.into(),
        Bank::Priority => interrupt.priority,
        Bank::Config => u8::from(interrupt.edge) << 1,
    }
}

fn set_field(interrupt: &mut Interrupt, bank: Bank, bits: u8, sgi: bool) {
    let one = bits & 1 != 0;
    match bank {
        Bank::Group => interrupt.group1 = one,
        Bank::SetEnable => interrupt.enabled |= one,
        Bank::ClearEnable => interrupt.enabled &= !one,
        Bank::SetPending => interrupt.latched |= one,
        Bank::ClearPending => interrupt.latched &= !one,
        Bank::SetActive => interrupt.active |= one,
        Bank::ClearActive => interrupt.active &= !one,
        // Five bits of priority are implemented.
        Bank::Priority => interrupt.priority = bits & 0xf8,
        Bank::Config if sgi => {}
        Bank::Config => interrupt.edge = bits & 2 != 0,
    }
}
