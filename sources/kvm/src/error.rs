//! Why KVM could not be used, in sentences a user can act on.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why KVM could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such file.
    #[error(
        "{path} does not exist: load the kernel's KVM module (modprobe kvm-intel or kvm-amd), or \
         switch virtualization on in the firmware or in the hypervisor this machine runs under",
        path = .0.display()
    )]
    Absent(
        /// What was to be opened.
        PathBuf,
    ),
    /// The file may not be opened.
    #[error(
        "no permission on {path}: {}",
        permission_advice(.0),
        path = .0.display()
    )]
    Permission(
        /// What was to be opened.
        PathBuf,
    ),
    /// The file may not be opened for another reason.
    #[error("cannot open {path}: {reason}", path = path.display())]
    Open {
        /// What was to be opened.
        path: PathBuf,
        /// The operating system's words.
        reason: io::Error,
    },
    /// The file is something else.
    #[error("{path} is not a KVM device", path = .0.display())]
    NotKvm(
        /// What was opened.
        PathBuf,
    ),
    /// A KVM of another era.
    #[error("{path} speaks version {found} of the KVM API, only version 12 is known", path = path.display())]
    ApiVersion {
        /// What was opened.
        path: PathBuf,
        /// Its version.
        found: i32,
    },
    /// This kernel's KVM lacks something there is no way around.
    #[error("the host kernel's KVM cannot do {0}: use a newer kernel")]
    Missing(
        /// What is lacking.
        &'static str,
    ),
    /// More vCPUs than the kernel admits, or none.
    #[error("{wanted} vCPUs were asked for: KVM on this host runs 1 to {max}")]
    Vcpus {
        /// How many were asked for.
        wanted: u32,
        /// The most there can be.
        max: u32,
    },
    /// None of the interrupt controllers asked for can be made.
    #[error(
        "KVM on this host cannot make {wanted} (vCPUs: {vcpus}): choose another one with --irqchip"
    )]
    Gic {
        /// Those tried, in words.
        wanted: String,
        /// How many vCPUs they were to serve.
        vcpus: u32,
    },
    /// The guest's memory ends where this host's processors cannot reach.
    #[error(
        "the guest's memory ends at an address of {needed} bits, and KVM on this host has {host}"
    )]
    AddressBits {
        /// Bits of its last address.
        needed: u32,
        /// Bits the host has.
        host: u32,
    },
    /// The host has no vectors of that length.
    #[error("this host has no SVE vectors of {bits} bits")]
    VectorLength {
        /// The length asked for.
        bits: u32,
    },
    /// The host has no room for memory that KVM writes.
    #[error(transparent)]
    Memory(#[from] trapline_guestmem::Error),
    /// Its registers are not its own before its access is complete.
    #[error("vCPU {vcpu} is in the middle of an access, which waits for somebody outside")]
    InAccess {
        /// The vCPU.
        vcpu: u32,
    },
    /// More breakpoints or watchpoints than it can have.
    #[error("the processor has no more than {max} debug registers of that kind")]
    DebugRegisters {
        /// How many it can have.
        max: usize,
    },
    /// It cannot watch that.
    #[error(
        "the processor cannot watch {len} bytes there: it is 1, 2, 4 or 8, at a multiple of that"
    )]
    Watchpoint {
        /// How many bytes were to be watched.
        len: u64,
    },
    /// The kernel refused.
    #[error("KVM refused to {what}: {reason}")]
    Ioctl {
        /// What was asked of it.
        what: &'static str,
        /// The operating system's words.
        reason: io::Error,
    },
    /// A thread could not be had.
    #[error("cannot start the thread of vCPU {vcpu}: {reason}")]
    Thread {
        /// The vCPU.
        vcpu: u32,
        /// The operating system's words.
        reason: io::Error,
    },
}

/// How to get at a device file, by who may use it now.
fn permission_advice(path: &Path) -> &'static str {
    const GROUP: u32 = 0o060;
    let group_may =
        path.metadata().map_or(true, |file| file.mode() & GROUP == GROUP && file.gid() != 0);
    if group_may {
        "add yourself to the group that owns it (usermod -aG kvm USER, then log in again)"
    } else {
        "only its owner may use it; have root give it to a group of yours (chgrp and chmod 660)"
    }
}

impl Error {
    /// For `map_err`: names what was asked of the kernel.
    pub(crate) fn ioctl(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |errno| Self::Ioctl { what, reason: errno.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn who_may_not_open_the_device_is_told_how_to() {
        let join = "(usermod -aG kvm USER";
        let give = "(chgrp and chmod 660)";
        assert!(permission_advice(Path::new("/nonexistent/kvm")).contains(join));
        let file = tempfile::NamedTempFile::new().unwrap();
        let advice = |mode, group| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(file.path(), permissions).unwrap();
            let owned = std::os::unix::fs::chown(file.path(), None, Some(group));
            owned.is_ok().then(|| permission_advice(file.path()))
        };
        let own = file.path().metadata().unwrap().gid();
        for mode in [0o600, 0o640, 0o620] {
            assert!(advice(mode, own).unwrap().contains(give), "{mode:o}");
        }
        // Only root can give a file to another group, and to root's.
        for (group, wanted) in [(36, join), (0, give)] {
            assert!(advice(0o660, group).is_none_or(|told| told.contains(wanted)), "{group}");
        }
        let error = Error::Permission(file.path().into());
        let start = format!("no permission on {}: ", file.path().display());
        assert!(error.to_string().starts_with(&start), "{error}");
    }
}
