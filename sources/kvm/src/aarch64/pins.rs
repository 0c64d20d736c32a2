//! Pins by which interrupt controllers outside the kernel reach a vCPU: there are none on arm64.

use std::io;

use kvm_ioctls::VcpuFd;

use crate::exit::RunPage;
use crate::kick::Kick;

/// No pins.
#[derive(Default)]
pub(crate) struct Pins(());

impl Pins {
    /// Before another life.
    pub(crate) fn restart(&self, _page: &RunPage) {}

    /// Before each entry.
    pub(crate) fn before_entry(
        &self,
        _fd: &VcpuFd,
        _page: &RunPage,
        _kick: &Kick,
    ) -> io::Result<()> {
        Ok(())
    }

    /// After the guest has run.
    pub(crate) fn has_run(&self) {}

    /// Whether KVM may hold an interrupt that only another entry can deliver.
    pub(crate) fn may_hold_vector(&self, _page: &RunPage) -> bool {
        false
    }

    /// After an exit that arm64 does not have.
    pub(crate) fn eoi(&self, _vector: u8) {}
}
