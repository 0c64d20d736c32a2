//! A processor's interface: which priorities it lets through and which are running.
//!
//! Spec: Arm IHI 0069, "Interrupt prioritization" and the `ICC_*_EL1` registers. Five bits of
//! priority, all of them group priority.

/// Running priority when nothing runs.
pub const IDLE: u8 = 0xff;

/// The state behind the `ICC_*_EL1` registers of one processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuInterface {
    /// `ICC_PMR_EL1`: only priorities above (numerically below) bits 7:3 of this are
    /// signalled.
    pub mask: u8,
    /// `ICC_IGRPEN0_EL1.Enable`.
    pub group0: bool,
    /// `ICC_IGRPEN1_EL1.Enable`.
    pub group1: bool,
    /// `ICC_CTLR_EL1.EOImode`: ending an interrupt only drops its priority.
    pub separate_deactivate: bool,
    /// `ICC_AP0R0_EL1`, `ICC_AP1R0_EL1`: bit `p / 8` for each running priority `p`.
    pub active: [u32; 2],
}

impl CpuInterface {
    /// `ICC_RPR_EL1`: the highest running priority.
    pub fn running(&self) -> u8 {
        let [group0, group1] = self.active;
        match u8::try_from((group0 | group1).trailing_zeros()) {
            Ok(bit @ 0..32) => bit << 3,
            _ => IDLE,
        }
    }

    /// Whether an interrupt of this group and priority is signalled.
    pub fn admits(&self, group1: bool, priority: u8) -> bool {
        let enabled = if group1 { self.group1 } else { self.group0 };
        enabled && priority < (self.mask & 0xf8).min(self.running())
    }

    /// An interrupt of this group and priority starts to run.
    pub fn start(&mut self, group1: bool, priority: u8) {
        if let Some(active) = self.active.get_mut(usize::from(group1)) {
            *active |= 1 << (priority >> 3);
        }
    }

    /// The highest running priority is dropped, if it is of this group; false if it is not.
    pub fn drop_priority(&mut self, group1: bool) -> bool {
        let [other0, other1] = self.active;
        let (mine, other) = if group1 { (other1, other0) } else { (other0, other1) };
        if mine == 0 || mine.trailing_zeros() > other.trailing_zeros() {
            return false;
        }
        if let Some(active) = self.active.get_mut(usize::from(group1)) {
            *active &= *active - 1;
        }
        true
    }
}
