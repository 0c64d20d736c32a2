//! A board with KVM's processors.

use std::sync::Arc;

use trapline_kvm::{Start, Vcpu, Vm, VmOptions};

#[cfg(target_arch = "aarch64")]
pub(crate) use crate::arm64_virt::VirtOnKvm as Host;
use crate::board::{Board, Wiring};
use crate::why::Interrupt;
#[cfg(target_arch = "x86_64")]
pub(crate) use crate::x86_pc::PcOnKvm as Host;
use crate::{Config, Error};

/// A board on KVM: how its VM is made, and the software its processors start with. KVM runs the
/// host's own kind of processor, so each host has one such board.
pub(crate) trait HostBoard: Sized {
    /// Where the vCPUs but the first start.
    const SECONDARY: Start;

    /// Where the guest's RAM is: guest address and length in bytes of each piece.
    fn ram_ranges(config: &Config) -> Result<Vec<(u64, u64)>, Error>;

    /// How KVM is to make the VM.
    fn vm_options(config: &Config) -> Result<VmOptions, Error>;

    /// Builds the board.
    fn new(vm: &Arc<Vm>, wiring: Wiring, config: &Config) -> Result<Self, Error>;

    /// The board.
    fn board(&self) -> &dyn Board;

    /// What its interrupt controllers are called on the command line.
    fn irqchip(&self) -> &'static str;

    /// Wires up what had to wait for the vCPUs. Called once.
    fn connect(&mut self, vcpus: &mut [Vcpu]) -> Result<(), Error>;

    /// The interrupts that have been raised and not served, of the VM of the board, whose vCPUs are
    /// stopped.
    fn interrupts(&self, vm: &Vm, vcpus: &[Vcpu]) -> Result<Vec<Interrupt>, Error>;

    /// Puts the guest's software into memory, over whatever an earlier run left there, and says
    /// where the first vCPU starts. `again`: not for the first time.
    fn load(&self, config: &Config, again: bool) -> Result<Start, Error>;
}
