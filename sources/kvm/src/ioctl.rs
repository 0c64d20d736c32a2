//! The ioctls that kvm-ioctls has no safe or no sufficient call for.

#![expect(unsafe_code, reason = "makes system calls that take pointers")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};

use kvm_bindings::{
    KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE, KVMIO, kvm_ioeventfd,
    kvm_ioeventfd_flag_nr_datamatch, kvm_ioeventfd_flag_nr_deassign, kvm_ioeventfd_flag_nr_pio,
    kvm_irqfd, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use trapline_device::Space;
use trapline_guestmem::{Piece, RamRegion};
use vmm_sys_util::{
    ioctl::{ioctl, ioctl_with_ref},
    ioctl_io_nr, ioctl_iow_nr,
};

ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);
#[cfg(target_arch = "x86_64")]
ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_bindings::kvm_interrupt);
ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);
ioctl_iow_nr!(KVM_IRQFD, KVMIO, 0x76, kvm_irqfd);

/// Lets the vCPU run until it exits. What it exited for is in its `kvm_run`.
pub(crate) fn run(vcpu: &VcpuFd) -> io::Result<()> {
    // SAFETY: the file is a vCPU's, and KVM_RUN takes no argument. It writes guest RAM, which the
    // VM keeps mapped, and the pages mapped from the vCPU, which are reached through atomics.
    match unsafe { ioctl(vcpu, KVM_RUN()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Hands the vector of an external interrupt to a vCPU, which takes it as soon as it can.
#[cfg(target_arch = "x86_64")]
pub(crate) fn interrupt(vcpu: &VcpuFd, vector: u8) -> io::Result<()> {
    let argument = kvm_bindings::kvm_interrupt { irq: vector.into() };
    // SAFETY: the file is a vCPU's, and the kernel only reads the argument.
    match unsafe { ioctl_with_ref(vcpu, KVM_INTERRUPT(), &argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has these inputs of an 8259A in the kernel be level triggered, bit per input, and no others, as a
/// write to its edge/level control register does.
#[cfg(target_arch = "x86_64")]
pub(crate) fn set_elcr(vm: &VmFd, chip_id: u32, elcr: u8) -> Result<(), kvm_ioctls::Error> {
    let mut state = pic(vm, chip_id)?;
    state.elcr = elcr & state.elcr_mask;
    let mut chip = kvm_bindings::kvm_irqchip { chip_id, ..Default::default() };
    chip.chip.pic = state;
    vm.set_irqchip(&chip)
}

/// The state of an 8259A in the kernel.
#[cfg(target_arch = "x86_64")]
pub(crate) fn pic(
    vm: &VmFd,
    chip_id: u32,
) -> Result<kvm_bindings::kvm_pic_state, kvm_ioctls::Error> {
    let mut chip = kvm_bindings::kvm_irqchip { chip_id, ..Default::default() };
    vm.get_irqchip(&mut chip)?;
    // SAFETY: of a union of chips, KVM has filled in the one that was named, an 8259A; all of its
    // fields are bytes.
    Ok(unsafe { chip.chip.pic })
}

/// The inputs of the I/O APIC in the kernel that ask for an interrupt, and its redirection table.
#[cfg(target_arch = "x86_64")]
pub(crate) fn ioapic(vm: &VmFd, chip_id: u32) -> Result<(u32, Vec<u64>), kvm_ioctls::Error> {
    let mut chip = kvm_bindings::kvm_irqchip { chip_id, ..Default::default() };
    vm.get_irqchip(&mut chip)?;
    // SAFETY: of a union of chips, KVM has filled in the one that was named, the I/O APIC; all of its
    // fields are integers.
    let state = unsafe { chip.chip.ioapic };
    // SAFETY: of a union of the same 64 bits as a number and as fields, which have no invalid values.
    let entries = state.redirtbl.iter().map(|entry| unsafe { entry.bits });
    Ok((state.irr, entries.collect()))
}

/// Wraps an open file as `/dev/kvm`. Whether it is one shows in its answers.
pub(crate) fn kvm_from_file(file: File) -> Kvm {
    // SAFETY: the descriptor is open and owned, and goes over to the Kvm. On a file that is not
    // /dev/kvm ioctls fail, they do not misbehave: KVM_GET_API_VERSION is asked first.
    unsafe { Kvm::from_raw_fd(file.into_raw_fd()) }
}

/// A doorbell as `KVM_IOEVENTFD` knows it.
pub(crate) struct Doorbell<'a> {
    /// The bus.
    pub(crate) space: Space,
    /// The address written to.
    pub(crate) addr: u64,
    /// Length of the write in bytes, 0 for any.
    pub(crate) len: u32,
    /// Only for writes of this value.
    pub(crate) datamatch: Option<u64>,
    /// What to signal.
    pub(crate) event: BorrowedFd<'a>,
}

/// Puts a doorbell into the kernel, or takes it out.
pub(crate) fn ioeventfd(vm: &VmFd, bell: &Doorbell<'_>, assign: bool) -> io::Result<()> {
    let flag = |on: bool, nr: u32| if on { 1 << nr } else { 0 };
    let argument = kvm_ioeventfd {
        datamatch: bell.datamatch.unwrap_or(0),
        addr: bell.addr,
        len: bell.len,
        fd: bell.event.as_raw_fd(),
        flags: flag(bell.datamatch.is_some(), kvm_ioeventfd_flag_nr_datamatch)
            | flag(bell.space == Space::Pio, kvm_ioeventfd_flag_nr_pio)
            | flag(!assign, kvm_ioeventfd_flag_nr_deassign),
        ..Default::default()
    };
    // SAFETY: the file is a VM's, and the kernel only reads the argument.
    match unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD(), &argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has KVM raise interrupt `gsi` for each signal of `event`, or no longer. With `resample`, the
/// interrupt stays asserted until the guest has ended it, of which `resample` is told.
pub(crate) fn irqfd(
    vm: &VmFd,
    event: BorrowedFd<'_>,
    gsi: u32,
    resample: Option<BorrowedFd<'_>>,
    assign: bool,
) -> io::Result<()> {
    let descriptor = |fd: BorrowedFd<'_>| fd.as_raw_fd().cast_unsigned();
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let argument = kvm_irqfd {
        fd: descriptor(event),
        gsi,
        flags: flag(!assign, KVM_IRQFD_FLAG_DEASSIGN)
            | flag(resample.is_some(), KVM_IRQFD_FLAG_RESAMPLE),
        resamplefd: resample.map_or(0, descriptor),
        ..Default::default()
    };
    // SAFETY: the file is a VM's, and the kernel only reads the argument. It takes references of its
    // own to the events.
    match unsafe { ioctl_with_ref(vm, KVM_IRQFD(), &argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the guest see the bytes `at` of `piece` at guest physical address `guest`, through slot
/// `number` with these flags. All three are multiples of the host's page. The caller keeps the piece
/// mapped until the slot is deleted and no vCPU can run any more, whichever comes first.
pub(crate) fn set_slot(
    vm: &VmFd,
    number: u32,
    flags: u32,
    guest: u64,
    piece: &Piece,
    at: Range<u64>,
) -> Result<(), kvm_ioctls::Error> {
    let RamRegion { host_addr, len, .. } = piece.region();
    if at.start > at.end || at.end > len {
        return Err(kvm_ioctls::Error::new(libc::EINVAL));
    }
    let argument = kvm_userspace_memory_region {
        slot: number,
        flags,
        guest_phys_addr: guest,
        memory_size: at.end - at.start,
        userspace_addr: host_addr + at.start,
    };
    // SAFETY: the addresses are in a live mapping, as a piece is, which holds nothing but guest
    // memory; the caller keeps it for as long as the guest could reach it.
    unsafe { vm.set_user_memory_region(argument) }
}

/// Has the bytes `at` of `piece` reach memory, for a guest that reads them past the caches. KVM does so
/// itself when it maps a page; x86 has one view of memory for everybody.
pub(crate) fn clean_cache(piece: &Piece, at: Range<u64>) {
    #[cfg(target_arch = "aarch64")]
    {
        /// No cache has shorter lines (Arm ARM, CTR_EL0.DminLine is at least 4 words).
        const LINE: u64 = 16;
        let RamRegion { host_addr, len, .. } = piece.region();
        let (start, end) = (host_addr + at.start.min(len), host_addr + at.end.min(len));
        let mut line = start & !(LINE - 1);
        while line < end {
            // SAFETY: the line is in a live mapping, and cleaning it changes nothing of what is in
            // memory as this process sees it. Linux lets programs do that (SCTLR_EL1.UCI).
            unsafe { std::arch::asm!("dc cvac, {}", in(reg) line, options(nostack)) };
            line += LINE;
        }
        // SAFETY: a barrier.
        unsafe { std::arch::asm!("dsb sy", options(nostack)) };
    }
    #[cfg(not(target_arch = "aarch64"))]
    let _ = (piece, at);
}

/// Deletes a slot: afterwards no vCPU uses it any more.
pub(crate) fn delete_slot(vm: &VmFd, number: u32) -> Result<(), kvm_ioctls::Error> {
    // One of no length is a deleted one.
    let argument = kvm_userspace_memory_region { slot: number, ..Default::default() };
    // SAFETY: nothing is given to the guest.
    unsafe { vm.set_user_memory_region(argument) }
}

/// Tells KVM's VFIO device of a group.
pub(crate) fn add_vfio_group(
    device: &kvm_ioctls::DeviceFd,
    group: BorrowedFd<'_>,
) -> io::Result<()> {
    use kvm_bindings::{KVM_DEV_VFIO_GROUP, KVM_DEV_VFIO_GROUP_ADD, kvm_device_attr};
    let fd = group.as_raw_fd();
    let argument = kvm_device_attr {
        group: KVM_DEV_VFIO_GROUP,
        attr: KVM_DEV_VFIO_GROUP_ADD.into(),
        addr: std::ptr::from_ref(&fd).expose_provenance() as u64,
        flags: 0,
    };
    Ok(device.set_device_attr(&argument)?)
}

/// Reads an attribute of a device that is a register of 32 or of 64 bits.
#[cfg(target_arch = "aarch64")]
pub(crate) fn device_attr(
    device: &kvm_ioctls::DeviceFd,
    group: u32,
    attr: u64,
) -> Result<u64, kvm_ioctls::Error> {
    let mut value = 0_u64;
    let addr = std::ptr::from_mut(&mut value).expose_provenance() as u64;
    let mut argument = kvm_bindings::kvm_device_attr { group, attr, addr, flags: 0 };
    // SAFETY: the address is that of a live value of 64 bits, the most that a register has; the
    // groups asked for here have nothing but registers.
    unsafe { device.get_device_attr(&mut argument)? };
    Ok(value)
}

/// Whether the VM could be given a device of this type. Makes none; kvm-ioctls takes the answer for
/// a descriptor, which it is not.
#[cfg(target_arch = "aarch64")]
pub(crate) fn device_possible(vm: &VmFd, type_: u32) -> bool {
    use kvm_bindings::{KVM_CREATE_DEVICE_TEST, kvm_create_device};
    use vmm_sys_util::{ioctl::ioctl_with_mut_ref, ioctl_iowr_nr};

    ioctl_iowr_nr!(KVM_CREATE_DEVICE, KVMIO, 0xe0, kvm_create_device);
    let mut argument = kvm_create_device { type_, fd: 0, flags: KVM_CREATE_DEVICE_TEST };
    // SAFETY: the file is a VM's, and the kernel reads and writes no more than the argument.
    unsafe { ioctl_with_mut_ref(vm, KVM_CREATE_DEVICE(), &mut argument) == 0 }
}
