//! The least a VMM can do: `KVM_RUN`, a look at the reason, an answer in place.

#![expect(unsafe_code, reason = "the loop that has nothing around the system call and its page")]

use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use kvm_bindings::{
    KVM_EXIT_HLT, KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MMIO, kvm_regs, kvm_sregs,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use trapline_guestmem::GuestMem;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl_io_nr;

use crate::cases::{ANSWER, Case, MARK, Offloaded, PORT, REGISTER};
use crate::support::{CODE, MMIO, RAM};
use crate::{Contender, Pass};

ioctl_io_nr!(KVM_RUN, kvm_bindings::KVMIO, 0x80);

pub(crate) struct Bare {
    vcpu: VcpuFd,
    regs: kvm_regs,
    sregs: kvm_sregs,
    queues: bool,
    _vm: VmFd,
    _bells: Vec<EventFd>,
    _mem: GuestMem,
}

/// The device and the marks, in line.
#[derive(Default)]
struct Seen {
    sum: u64,
    marks: Vec<Instant>,
    exits: u64,
}

impl Bare {
    pub(crate) fn new(case: &Case) -> Self {
        let kvm = Kvm::new().unwrap();
        let vm = kvm.create_vm().unwrap();
        vm.set_tss_address(0xfffb_d000).unwrap();
        let mem = memory(&vm);
        mem.write(CODE.into(), &case.code.clone().hlt().0).unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        vcpu.set_cpuid2(&kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES).unwrap())
            .unwrap();
        let mut bells = Vec::new();
        let (port, register) = (u64::from(PORT), MMIO + u64::from(REGISTER));
        match case.offloaded {
            Offloaded::Nothing => {}
            Offloaded::Coalesced => {
                vcpu.map_coalesced_mmio_ring().unwrap();
                vm.register_coalesced_mmio(IoEventAddress::Pio(port), 1).unwrap();
                vm.register_coalesced_mmio(IoEventAddress::Mmio(register), 4).unwrap();
            }
            Offloaded::Doorbell => {
                bells.extend((0..2).map(|_| EventFd::new(libc::EFD_NONBLOCK).unwrap()));
                vm.register_ioevent(&bells[0], &IoEventAddress::Pio(port), NoDatamatch).unwrap();
                vm.register_ioevent(&bells[1], &IoEventAddress::Mmio(register), NoDatamatch)
                    .unwrap();
            }
        }
        let regs = kvm_regs { rip: CODE.into(), rflags: 2, rsp: 0xf000, ..Default::default() };
        let mut sregs = vcpu.get_sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        Self {
            vcpu,
            regs,
            sregs,
            queues: case.offloaded == Offloaded::Coalesced,
            _vm: vm,
            _bells: bells,
            _mem: mem,
        }
    }

    /// The loop that is measured.
    fn run(&mut self) -> Seen {
        let mut seen = Seen::default();
        loop {
            // SAFETY: the file is a vCPU's, and KVM_RUN takes no argument but 0. It writes guest RAM
            // and the vCPU's page, into which there is no reference now.
            let done = unsafe { libc::ioctl(self.vcpu.as_raw_fd(), KVM_RUN(), 0) };
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
            seen.exits += 1;
            if self.queues {
                while let Some(write) = self.vcpu.coalesced_mmio_read().unwrap() {
                    seen.write(&write.data[..write.len as usize]);
                }
            }
            match self.vcpu.get_kvm_run().exit_reason {
                KVM_EXIT_IO => self.io(&mut seen),
                KVM_EXIT_MMIO => self.mmio(&mut seen),
                KVM_EXIT_HLT => return seen,
                reason => panic!("exit reason {reason}"),
            }
        }
    }

    fn io(&mut self, seen: &mut Seen) {
        let run = self.vcpu.get_kvm_run();
        // SAFETY: the exit reason says that this is the union's valid member.
        let io = unsafe { run.__bindgen_anon_1.io };
        let size = usize::from(io.size);
        let len = size * io.count as usize;
        let offset = usize::try_from(io.data_offset).unwrap();
        // SAFETY: KVM puts the data into the mapping behind kvm_run, at this offset from its
        // start; nothing else refers to it while the guest does not run.
        let data = unsafe {
            let start = std::ptr::from_mut(run).cast::<u8>().add(offset);
            std::slice::from_raw_parts_mut(start, len)
        };
        if io.port == MARK {
            seen.marks.push(Instant::now());
        } else if u32::from(io.direction) == KVM_EXIT_IO_OUT {
            data.chunks(size).for_each(|element| seen.write(element));
        } else {
            data.chunks_mut(size).for_each(read);
        }
    }

    fn mmio(&mut self, seen: &mut Seen) {
        let run = self.vcpu.get_kvm_run();
        // SAFETY: the exit reason says that this is the union's valid member.
        let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
        let data = &mut mmio.data[..mmio.len as usize];
        if mmio.is_write != 0 { seen.write(data) } else { read(data) }
    }
}

impl Seen {
    fn write(&mut self, data: &[u8]) {
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        self.sum = self.sum.wrapping_add(u64::from_le_bytes(value));
    }
}

fn read(data: &mut [u8]) {
    data.copy_from_slice(&ANSWER.to_le_bytes()[..data.len()]);
}

/// RAM below 640 KiB but for the page that the tests want for a device.
fn memory(vm: &VmFd) -> GuestMem {
    let mem = GuestMem::new(&[(0, 0x8000), (0x9000, RAM - 0x9000)]).unwrap();
    for (slot, region) in (0..).zip(mem.regions()) {
        let argument = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.guest_addr,
            memory_size: region.len,
            userspace_addr: region.host_addr,
        };
        // SAFETY: the mapping holds nothing but guest memory, and Bare keeps it as long as the
        // vCPU that can write to it.
        unsafe { vm.set_user_memory_region(argument).unwrap() };
    }
    mem
}

impl Contender for Bare {
    fn pass(&mut self) -> Pass {
        self.vcpu.set_sregs(&self.sregs).unwrap();
        self.vcpu.set_regs(&self.regs).unwrap();
        let seen = std::thread::scope(|scope| scope.spawn(|| self.run()).join().unwrap());
        let [begin, end] = seen.marks[..] else { panic!("{} marks", seen.marks.len()) };
        Pass { time: end - begin, exits: seen.exits, sum: seen.sum }
    }
}
