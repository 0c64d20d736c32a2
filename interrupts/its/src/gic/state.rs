//! What a distributor, its redistributors and processor interfaces keep over a migration, besides
//! the pending tables in guest RAM.

use alloc::vec;
use alloc::vec::Vec;

use super::regs::{CTLR_ENABLE_GROUP0, CTLR_ENABLE_GROUP1, IROUTER_WRITABLE};
use super::{CpuInterface, Gic, Interrupt};
use crate::RestoreError;
use crate::host::GuestMemory;
use crate::redist::RedistributorState;

/// One SGI, PPI or SPI, as numbers of fixed width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterruptState {
    /// Bit 0 Group 1, 1 enabled, 2 latched, 3 line, 4 active, 5 edge-triggered.
    pub flags: u8,
    /// Priority, bits 7:3.
    pub priority: u8,
    /// `GICD_IROUTER<n>`; 0 for SGIs and PPIs.
    pub route: u64,
}

/// One processor's interface and its SGIs and PPIs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessorState {
    /// The redistributor's registers.
    pub redistributor: RedistributorState,
    /// INTIDs 0 to 31.
    pub private: Vec<InterruptState>,
    /// `ICC_PMR_EL1`.
    pub mask: u8,
    /// Bit 0 `ICC_IGRPEN0_EL1.Enable`, 1 `ICC_IGRPEN1_EL1.Enable`, 2 `ICC_CTLR_EL1.EOImode`.
    pub flags: u8,
    /// `ICC_AP0R0_EL1`, `ICC_AP1R0_EL1`.
    pub active: [u32; 2],
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GicState {
    /// `GICD_CTLR.EnableGrp0` and `EnableGrp1`.
    pub ctlr: u32,
    /// INTIDs 32 and up.
    pub shared: Vec<InterruptState>,
    /// In the order of their numbers.
    pub processors: Vec<ProcessorState>,
}

impl From<&Interrupt> for InterruptState {
    fn from(interrupt: &Interrupt) -> Self {
        let Interrupt { group1, enabled, latched, line, active, edge, priority, route } =
            *interrupt;
        let bits = [group1, enabled, latched, line, active, edge];
        let flags = bits.iter().rev().fold(0, |flags, bit| flags << 1 | u8::from(*bit));
        Self { flags, priority, route }
    }
}

impl InterruptState {
    fn interrupt(self, sgi: bool) -> Option<Interrupt> {
        let Self { flags, priority, route } = self;
        let bit = |n: u8| flags >> n & 1 != 0;
        let possible = flags >> 6 == 0 && priority & 7 == 0 && route & !IROUTER_WRITABLE == 0;
        let interrupt = Interrupt {
            group1: bit(0),
            enabled: bit(1),
            latched: bit(2),
            line: bit(3),
            active: bit(4),
            edge: bit(5),
            priority,
            route,
        };
        (possible && (!sgi || interrupt.edge)).then_some(interrupt)
    }
}

/// Interrupts of saved ones, the first of which has INTID `first`.
fn interrupts(states: &[InterruptState], first: usize) -> Option<Vec<Interrupt>> {
    (first..).zip(states).map(|(intid, state)| state.interrupt(intid < 16)).collect()
}

impl Gic {
    /// Writes the pending tables to guest RAM and returns everything else. A pending table that is
    /// not in RAM is a guest's mistake, and what is pending there is lost.
    pub fn save(&self, mem: &impl GuestMemory) -> GicState {
        let mut redistributors = vec![RedistributorState::default(); self.cpus.len()];
        let _lost = self.redistributors.save(mem, &mut redistributors);
        let parts = redistributors.into_iter().zip(&self.private).zip(&self.cpus);
        let processors = parts.map(|((redistributor, private), cpu)| {
            let CpuInterface { mask, group0, group1, separate_deactivate, active } = *cpu;
            let flags =
                u8::from(group0) | u8::from(group1) << 1 | u8::from(separate_deactivate) << 2;
            let private = private.iter().map(|(_, one)| one.into()).collect();
            // Five bits of the mask are implemented.
            ProcessorState { redistributor, private, mask: mask & 0xf8, flags, active }
        });
        GicState {
            ctlr: self.ctlr,
            shared: self.shared.iter().map(|(_, one)| one.into()).collect(),
            processors: processors.collect(),
        }
    }

    /// Takes a saved state over and reads the pending tables from guest RAM.
    ///
    /// # Errors
    /// A register has a value it can not have, or there are other numbers of processors or SPIs;
    /// nothing has changed then.
    pub fn restore(
        &mut self,
        state: &GicState,
        mem: &impl GuestMemory,
    ) -> Result<(), RestoreError> {
        let refused = RestoreError::Register("a distributor or processor interface register");
        let GicState { ctlr, shared, processors } = state;
        let shared = interrupts(shared, 32).filter(|list| list.len() == self.spis);
        let private: Option<Vec<Vec<Interrupt>>> =
            processors.iter().map(|one| interrupts(&one.private, 0)).collect();
        let private = private.filter(|lists| lists.iter().all(|list| list.len() == 32));
        let possible = ctlr & !(CTLR_ENABLE_GROUP0 | CTLR_ENABLE_GROUP1) == 0
            && processors.len() == self.cpus.len()
            && processors.iter().all(|one| one.mask & 7 == 0 && one.flags >> 3 == 0);
        let (Some(shared), Some(private), true) = (shared, private, possible) else {
            return Err(refused);
        };
        let redistributors: Vec<_> = processors.iter().map(|one| one.redistributor).collect();
        self.redistributors.restore(&redistributors, mem)?;
        self.ctlr = *ctlr;
        self.shared.put(shared);
        self.private.iter_mut().zip(private).for_each(|(to, from)| to.put(from));
        for (cpu, state) in self.cpus.iter_mut().zip(processors) {
            let bit = |n: u8| state.flags >> n & 1 != 0;
            *cpu = CpuInterface {
                mask: state.mask,
                group0: bit(0),
                group1: bit(1),
                separate_deactivate: bit(2),
                active: state.active,
            };
        }
        Ok(())
    }

    /// Back to the state after [`new`](Self::new). The lines are others' and stay as they are.
    pub fn reset(&mut self) {
        self.redistributors.reset();
        self.ctlr = 0;
        self.cpus.iter_mut().for_each(|cpu| *cpu = CpuInterface::default());
        self.shared.reset();
        self.private.iter_mut().for_each(|private| private.reset());
    }
}
