//! Attributes of KVM's devices and vCPUs (Linux `Documentation/virt/kvm/devices/`).

use kvm_bindings::kvm_device_attr;
use kvm_ioctls::{DeviceFd, VcpuFd};

/// What has attributes.
pub(super) trait HasAttrs {
    /// Sets the attribute.
    fn set(&self, attr: &kvm_device_attr) -> Result<(), kvm_ioctls::Error>;
    /// Whether it has it.
    fn has(&self, attr: &kvm_device_attr) -> bool;
}

impl HasAttrs for DeviceFd {
    fn set(&self, attr: &kvm_device_attr) -> Result<(), kvm_ioctls::Error> {
        self.set_device_attr(attr)
    }

    fn has(&self, attr: &kvm_device_attr) -> bool {
        self.has_device_attr(attr).is_ok()
    }
}

impl HasAttrs for VcpuFd {
    fn set(&self, attr: &kvm_device_attr) -> Result<(), kvm_ioctls::Error> {
        self.set_device_attr(attr)
    }

    fn has(&self, attr: &kvm_device_attr) -> bool {
        self.has_device_attr(attr).is_ok()
    }
}

/// Whether `device` has attribute `attr` of `group`.
pub(super) fn has(device: &impl HasAttrs, group: u32, attr: u32) -> bool {
    device.has(&kvm_device_attr { group, attr: attr.into(), ..Default::default() })
}

/// Does what an attribute without a value stands for.
pub(super) fn command(
    device: &impl HasAttrs,
    group: u32,
    attr: u32,
) -> Result<(), kvm_ioctls::Error> {
    device.set(&kvm_device_attr { group, attr: attr.into(), ..Default::default() })
}

/// Sets an attribute whose value is 32 bits.
pub(super) fn set_u32(
    device: &impl HasAttrs,
    group: u32,
    attr: u64,
    value: u32,
) -> Result<(), kvm_ioctls::Error> {
    let addr = std::ptr::from_ref(&value).expose_provenance() as u64;
    device.set(&kvm_device_attr { group, attr, addr, flags: 0 })
}

/// Sets an attribute whose value is 64 bits.
pub(super) fn set_u64(
    device: &impl HasAttrs,
    group: u32,
    attr: u64,
    value: u64,
) -> Result<(), kvm_ioctls::Error> {
    let addr = std::ptr::from_ref(&value).expose_provenance() as u64;
    device.set(&kvm_device_attr { group, attr, addr, flags: 0 })
}
