//! Level-triggered interrupt inputs that an eventfd asserts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use crate::{Error, Vm, ioctl};

/// An input of the interrupt controllers in the kernel, asserted by an eventfd until the guest has
/// ended the interrupt (`KVM_IRQFD_FLAG_RESAMPLE`, Linux `Documentation/virt/kvm/api.rst`, 4.75).
/// KVM then lets go of it and signals another eventfd, and whoever still wants the interrupt
/// asserts it again.
///
/// It is one more holder of the input: wired-OR with the holders of [`Vm::line`]. Dropping it lets
/// go.
pub struct ResampledInput {
    vm: Arc<Vm>,
    gsi: u32,
    assert: OwnedFd,
    ended: OwnedFd,
}

impl Vm {
    /// Whether [`Self::resampled_input`] can be had of this input.
    pub fn can_resample(&self, gsi: u32) -> bool {
        self.caps().irqfd_resample && self.options().input(gsi).is_some()
    }

    /// Has an eventfd assert input `gsi`, as [`Vm::line`] counts them. On arm64 the vCPUs must have
    /// been made and one of them started.
    ///
    /// # Errors
    /// There is no such input in the kernel, as with [`Self::line`]'s unconnected ones; KVM's
    /// refusal.
    pub fn resampled_input(self: &Arc<Self>, gsi: u32) -> Result<ResampledInput, Error> {
        if !self.can_resample(gsi) {
            return Err(Error::Missing("level-triggered interrupts of event file descriptors"));
        }
        let what = "connect an eventfd to an interrupt input";
        let failed = |reason: io::Error| Error::Ioctl { what, reason };
        let event = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let assert = event().map_err(|errno| failed(errno.into()))?;
        let ended = event().map_err(|errno| failed(errno.into()))?;
        self.routing().commit(self.fd())?;
        ioctl::irqfd(self.fd(), assert.as_fd(), gsi, Some(ended.as_fd()), true).map_err(failed)?;
        Ok(ResampledInput { vm: Arc::clone(self), gsi, assert, ended })
    }
}

impl ResampledInput {
    /// The eventfd that asserts the input.
    pub fn assert(&self) -> BorrowedFd<'_> {
        self.assert.as_fd()
    }

    /// The eventfd that KVM signals when it has let go of the input.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl Drop for ResampledInput {
    fn drop(&mut self) {
        // KVM lets go of the input with it.
        let given_back = ioctl::irqfd(self.vm.fd(), self.assert.as_fd(), self.gsi, None, false);
        if let Err(error) = given_back {
            tracing::debug!("an eventfd was not given back: {error}");
        }
    }
}
