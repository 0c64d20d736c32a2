//! A KVM that does not give back what it was given. One test only, as it looks for the VM of the
//! process.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]
#![expect(unsafe_code, reason = "an ioctl behind the source's back")]

mod support;

use std::os::fd::RawFd;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use support::{Asm, MMIO, MMIO_SEGMENT, Machine, crash, until};
use trapline::{Mirror, Region};
use trapline_device::{Handler, IoCx, Size};
use trapline_kvm::Irqchip;

const PAGE: u64 = 4096;
/// The slot of the page: RAM has two before it.
const SLOT: u32 = 2;

/// Reads as the page does, all zeroes.
struct Zeroes;

impl Handler for Zeroes {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

/// The descriptor of the only VM that this process has.
fn only_vm() -> RawFd {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let is_vm = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.to_str() == Some("anon_inode:kvm-vm"))
    };
    let vms: Vec<_> = fds.filter(is_vm).collect();
    let [vm] = vms.as_slice() else { panic!("not one VM: {vms:?}") };
    vm.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

/// Deletes a slot, so that KVM refuses to do it once more (`EINVAL`).
fn delete_slot(vm: RawFd, slot: u32) {
    /// `_IOW(KVMIO, 0x46, struct kvm_userspace_memory_region)`.
    const KVM_SET_USER_MEMORY_REGION: libc::Ioctl = 0x4020_ae46;
    let region = kvm_userspace_memory_region { slot, ..Default::default() };
    // SAFETY: KVM reads one struct; nothing is given to the guest.
    let done = unsafe { libc::ioctl(vm, KVM_SET_USER_MEMORY_REGION, &raw const region) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_page_that_kvm_does_not_take_away_from_the_guest_is_the_end_of_it() {
    let (mut machine, mirror) = (Machine::with(2, Irqchip::Kernel), Mirror::at_once());
    let region = Region::mmio(MMIO, PAGE, "serial0", "uart", Arc::new(Zeroes));
    machine.map(region.mirror(0..PAGE, Arc::clone(&mirror)));
    mirror.vouch(0, PAGE, &[0; 4096]);
    // Reads without an exit, and for good; the other vCPU waits for a start that never comes.
    let told = 0x3000;
    let code = Asm::new().mov_ds(MMIO_SEGMENT).load_al(5).mov_eax(0x55).keep_eax(told);
    let forever = code.bytes(&[0xeb, 0xfe]); // jmp here
    let running = machine.start(&forever);
    until("the guest", || machine.read::<1>(told.into()) == [0x55]);
    delete_slot(only_vm(), SLOT);
    mirror.withdraw(0);
    for _ in 0..2 {
        let report = crash(running.wait());
        let cause = "KVM refused to delete a memory slot: Invalid argument";
        assert!(report.cause.contains(cause), "{}", report.cause);
        assert!(report.cause.contains("mmio 0xd0000"), "{}", report.cause);
    }
    // And it stays so.
    machine.give_back(running.set.stop().unwrap());
    let again = machine.start(&forever);
    assert!(crash(again.wait()).cause.contains("delete a memory slot"));
}
