//! Chips in the kernel, several vCPUs, memory of several kinds, and a VM that is reset.

#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::sync::Arc;

use support::{Asm, CODE, Machine, RAM, Recorder, Seen, until};
use trapline::{Delivery, Memory, Region, Window};
use trapline_guestmem::GuestMem;
use trapline_kvm::{Irqchip, Kvm, Start, Stop, Table, VcpuSet};

/// Initializes the first 8259A with vectors from 8 and every input open.
fn open_pic(code: Asm) -> Asm {
    [(0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01), (0x21, 0x00)]
        .into_iter()
        .fold(code, |code, (port, value)| code.outb(port, value))
}

#[test]
fn the_device_is_opened_whatever_the_processor_says_of_itself() {
    // kvmtool defect B9: it looks for VMX or SVM in CPUID, and refuses hosts where KVM works.
    let kvm = Kvm::open("/dev/kvm").unwrap();
    assert!(kvm.caps().user_memory && kvm.caps().immediate_exit);
    assert!(kvm.caps().max_vcpus >= 1);
    let informs_only = trapline_kvm::hardware_virtualization();
    println!("hardware virtualization: {informs_only}, {:?}", kvm.caps());
}

#[test]
fn a_line_interrupts_the_guest() {
    let mut machine = Machine::with(1, Irqchip::Kernel);
    let device = Recorder::new();
    machine.ports(0x3f8, 8, &device);
    // Vector 0x0c (input 4 of the first 8259A): say so, end of interrupt, return.
    machine.mem.write(0x0c * 4, &[0x00, 0x11, 0x00, 0x00]).unwrap();
    let handler = Asm::new().outb(0x3f8, 0x49).outb(0x20, 0x20).bytes(&[0xcf]);
    machine.mem.write(0x1100, &handler.0).unwrap();
    let code = open_pic(Asm::new()).outb(0x3f8, 1).bytes(&[0xfb, 0xf4, 0xeb, 0xfd]); // sti; hlt; jmp
    let running = machine.start(&code);
    until("the guest's word", || device.seen().len() == 1);
    // The second is wired to the same input.
    for (times, gsi) in [4, 20, 4].into_iter().enumerate() {
        let line = machine.vm.line(gsi);
        line.set(true);
        until("the interrupt", || device.seen().len() == 2 + times);
        line.set(false);
    }
    running.set.stop().unwrap();
    assert_eq!(device.written(), [1, 0x49, 0x49, 0x49]);
}

/// Inputs from 8 on are those of the second 8259A, which asks through the first one's input 2.
#[test]
fn a_line_interrupts_the_guest_through_the_second_8259() {
    let mut machine = Machine::with(1, Irqchip::Kernel);
    let device = Recorder::new();
    machine.ports(0x3f8, 8, &device);
    // Vectors from 0x70: say which; end of interrupt to both; return.
    for (input, at) in [(12_u8, 0x1100_u16), (9, 0x1180)] {
        let [low, high] = at.to_le_bytes();
        machine.mem.write((0x68 + u64::from(input)) * 4, &[low, high, 0, 0]).unwrap();
        let handler =
            Asm::new().outb(0x3f8, input).outb(0xa0, 0x20).outb(0x20, 0x20).bytes(&[0xcf]);
        machine.mem.write(at.into(), &handler.0).unwrap();
    }
    let second = [(0xa0, 0x11), (0xa1, 0x70), (0xa1, 0x02), (0xa1, 0x01), (0xa1, 0x00)];
    let code =
        second.into_iter().fold(open_pic(Asm::new()), |code, (port, value)| code.outb(port, value));
    let running = machine.start(&code.outb(0x3f8, 1).bytes(&[0xfb, 0xf4, 0xeb, 0xfd]));
    until("the guest's word", || device.seen().len() == 1);
    for (times, gsi) in [12, 9].into_iter().enumerate() {
        let line = machine.vm.line(gsi);
        line.set(true);
        until("the interrupt", || device.seen().len() == 2 + times);
        line.set(false);
    }
    running.set.stop().unwrap();
    assert_eq!(device.written(), [1, 12, 9]);
}

/// The deadline timer (CPUID leaf 1, ECX bit 24) is a local APIC's, so there is none without one.
#[test]
fn the_deadline_timer_is_there_with_local_apics_that_have_it() {
    for irqchip in [Irqchip::None, Irqchip::Split, Irqchip::Kernel] {
        let (mut machine, device) = (Machine::with(1, irqchip), Recorder::new());
        machine.ports(0x3f8, 8, &device);
        let code = Asm::new()
            .mov_eax(1)
            .bytes(&[0x0f, 0xa2]) // cpuid
            .bytes(&[0x66, 0x89, 0xc8, 0x66, 0xc1, 0xe8, 0x10]) // mov eax, ecx; shr eax, 16
            .mov_dx(0x3f8)
            .out_ax()
            .spin();
        let running = machine.start(&code);
        until("the guest's word", || !device.written().is_empty());
        running.set.stop().unwrap();
        let [features] = device.written()[..] else { panic!("{:?}", device.written()) };
        let wanted = irqchip != Irqchip::None && machine.vm.caps().tsc_deadline;
        assert_eq!(features & 1 << 8 != 0, wanted, "{irqchip:?}");
        assert_ne!(features & 1 << 15, 0, "a hypervisor is present");
    }
}

/// Port 0x61 follows channel 2 of the timer, so who has the timer has the port.
#[test]
fn port_61_is_the_kernels_if_the_timer_is() {
    for (irqchip, seen) in [(Irqchip::Kernel, 0), (Irqchip::None, 1)] {
        let mut machine = Machine::with(1, irqchip);
        let (port_b, port) = (Recorder::new(), Recorder::new());
        machine.map(Region::pio(0x61, 1, "i8042", "port b", port_b.clone()));
        machine.ports(0x3f8, 8, &port);
        let running = machine.start(&Asm::new().mov_dx(0x61).in_al().outb(0x3f8, 1).hlt());
        until("the end", || !port.seen().is_empty());
        running.set.stop().unwrap();
        assert_eq!(port_b.seen().len(), seen, "{irqchip:?}");
    }
}

#[test]
fn the_other_vcpus_start_when_they_are_told() {
    let mut machine = Machine::with(2, Irqchip::Kernel);
    let device = Recorder::new();
    machine.ports(0x3f8, 8, &device);
    // 32-bit: enable the local APIC, INIT and SIPI with vector 2 to all but self, say so, spin.
    let store = |addr: u32, value: u32| {
        [&[0xc7, 0x05][..], &addr.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let code = Asm::new()
        .bytes(&store(0xfee0_00f0, 0x1ff))
        .bytes(&store(0xfee0_0300, 0xc_4500))
        .bytes(&store(0xfee0_0300, 0xc_4602))
        .bytes(&[0xeb, 0xfe]);
    // Its code at 0x2000: APIC id out of CPUID leaf 1, EBX bits 31 to 24; and how many there are.
    let other = Asm::new()
        .mov_eax(1)
        .bytes(&[0x0f, 0xa2]) // cpuid
        .bytes(&[0x66, 0x89, 0xd8, 0x66, 0xc1, 0xe8, 0x10]) // mov eax, ebx; shr eax, 16
        .mov_dx(0x3f8)
        .out_ax()
        .hlt();
    machine.mem.write(0x2000, &other.0).unwrap();
    let gdt = Table { base: 0x500, limit: 0x1f };
    let start =
        Start::Protected { eip: CODE.into(), esp: 0x9000, eax: 0, ebx: 0x1234_5678, esi: 0, gdt };
    let running = machine.start_at(&code, &start);
    until("the second vCPU's word", || !device.seen().is_empty());
    running.set.stop().unwrap();
    assert_eq!(device.written(), [0x0102], "APIC id 1 of 2");
}

#[test]
fn the_protected_mode_entry_is_flat_with_its_registers() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    machine.memory(0xd000_0000, 0x1000, &device);
    // mov [0xd0000000], ebx; mov [0xd0000004], esi; smsw ax; mov [0xd0000008], eax; hlt
    let code = Asm::new()
        .bytes(&[0x89, 0x1d, 0x00, 0x00, 0x00, 0xd0, 0x89, 0x35, 0x04, 0x00, 0x00, 0xd0])
        .bytes(&[0x0f, 0x20, 0xc0, 0xa3, 0x08, 0x00, 0x00, 0xd0, 0xf4]);
    let gdt = Table { base: 0x500, limit: 0x1f };
    let start =
        Start::Protected { eip: CODE.into(), esp: 0x9000, eax: 0, ebx: 0x1234, esi: 0x5678, gdt };
    let running = machine.start_at(&code, &start);
    assert_eq!(running.wait(), Stop::Halted);
    assert_eq!(device.written(), [0x1234, 0x5678, 0x11]);
}

#[test]
fn the_long_mode_entry_makes_accesses_of_eight_bytes() {
    let (mut machine, device) = (Machine::new(), Recorder::answering(&[0x8877_6655_4433_2211]));
    machine.memory(0x8000_0000, 0x1000, &device);
    // The first 2 MiB and those at 2 GiB, identity.
    let entries = [
        (0x4000, 0x5003_u64),
        (0x5000, 0x6003),
        (0x5010, 0x7003),
        (0x6000, 0x83),
        (0x7000, 0x8000_0083),
    ];
    for (addr, entry) in entries {
        machine.mem.write(addr, &entry.to_le_bytes()).unwrap();
    }
    // mov ebx, 0x80000000; mov [rbx], rsi; mov rax, [rbx+8]; mov [rbx+16], rax; hlt
    let code = Asm::new()
        .bytes(&[0xbb, 0x00, 0x00, 0x00, 0x80, 0x48, 0x89, 0x33])
        .bytes(&[0x48, 0x8b, 0x43, 0x08, 0x48, 0x89, 0x43, 0x10, 0xf4]);
    let gdt = Table { base: 0x500, limit: 0x1f };
    let rsi = 0x0123_4567_89ab_cdef;
    let start = Start::Long { rip: CODE.into(), rsp: 0x9000, rsi, cr3: 0x4000, gdt };
    let running = machine.start_at(&code, &start);
    assert_eq!(running.wait(), Stop::Halted);
    assert_eq!(
        device.seen(),
        [Seen::Write(0, 8, rsi), Seen::Read(8, 8), Seen::Write(16, 8, 0x8877_6655_4433_2211)]
    );
}

#[test]
fn read_only_memory_runs_and_its_writes_trap() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    let rom = GuestMem::new(&[(0xf_0000, 0x1_0000)]).unwrap();
    // At f000:0100: mov ax, 0xf000; mov ds, ax; mov al, [0x200]; mov [0x204], al; hlt
    let code = Asm::new().mov_ds(0xf000).load_al(0x200).store_al(0x204).hlt();
    rom.write(0xf_0100, &code.0).unwrap();
    rom.write(0xf_0200, &[0x5c]).unwrap();
    let memory: Arc<dyn Memory> = Arc::new(rom.pieces().remove(0));
    let delivery = Delivery::Memory { memory, offset: 0, readonly: true };
    let region = Region::mmio(0xf_0000, 0x1_0000, "firmware", "rom", device.clone());
    machine.map(region.window(Window { offset: 0, len: 0x1_0000, delivery }));
    let start = Start::Real { cs: 0xf000, ip: 0x100, ds: 0, sp: 0x8000 };
    let running = machine.start_at(&Asm::new(), &start);
    assert_eq!(running.wait(), Stop::Halted);
    assert_eq!(device.seen(), [Seen::Write(0x204, 1, 0x5c)]);
    let mut unchanged = [0xff];
    rom.read(0xf_0204, &mut unchanged).unwrap();
    assert_eq!(unchanged, [0]);
}

/// A reset makes vCPU and chips what they were at power-on, and the same VM lives again.
#[test]
fn a_second_life_begins_like_the_first() {
    let mut machine = Machine::with(1, Irqchip::Kernel);
    let device = Recorder::new();
    machine.ports(0x3f8, 8, &device);
    // Say both interrupt masks, the status of the timer, CR0's low half and EBX; change all; spin.
    let say = |asm: Asm, port| {
        asm.mov_dx(port).bytes(&[0xec, 0x30, 0xe4]).mov_dx(0x3f8).out_ax() // in al, dx; xor ah, ah
    };
    let code = say(say(Asm::new(), 0x21), 0xa1);
    let code = say(code.outb(0x43, 0xe2), 0x40) // read-back of the status of counter 0
        .bytes(&[0x0f, 0x01, 0xe0]) // smsw ax
        .out_ax()
        .bytes(&[0x89, 0xd8]) // mov ax, bx
        .out_ax()
        .outb(0x43, 0x34)
        .outb(0x40, 0xa9)
        .outb(0x40, 0x04)
        .outb(0x21, 0xa5)
        .outb(0xa1, 0x5a)
        .bytes(&[0x0f, 0x06, 0xbb, 0x99, 0x99]) // clts; mov bx, 0x9999
        .outb(0x3f8, 0xee)
        .spin();
    let mut lives = Vec::new();
    for life in 1..=3 {
        let running = machine.start(&code);
        until("the last word", || device.written().len() == life * 6);
        let vcpus = running.set.stop().unwrap();
        machine.vm.reset().unwrap();
        machine.give_back(vcpus);
        lives.push(device.written()[(life - 1) * 6..].to_vec());
    }
    assert_eq!(lives[0], lives[1]);
    assert_eq!(lives[0], lives[2]);
    assert_ne!(lives[0][..2], [0xa5, 0x5a]);
    assert_ne!(lives[0][2] & 0x3f, 0x34, "the mode of the timer");
}

/// Model-specific registers, the floating-point unit and the debug registers, too.
#[test]
fn a_second_life_begins_with_registers_of_power_on() {
    for irqchip in [Irqchip::None, Irqchip::Kernel] {
        let mut machine = Machine::with(1, irqchip);
        let device = Recorder::new();
        machine.ports(0x3f8, 8, &device);
        let ecx = |msr: u32| [&[0x66, 0xb9][..], &msr.to_le_bytes()].concat();
        // Say IA32_SYSENTER_CS, the low half of IA32_PAT, that of IA32_MTRR_DEF_TYPE, the control
        // word of the FPU, DR0.
        let say = |asm: Asm| asm.mov_dx(0x3f8).out_ax();
        let msr = |asm: Asm, msr| say(asm.bytes(&ecx(msr)).bytes(&[0x0f, 0x32])); // rdmsr
        let code = [0x174, 0x277, 0x2ff].into_iter().fold(Asm::new(), msr);
        let code = say(code.bytes(&[0xd9, 0x3e, 0x00, 0x03]).load_ax(0x300)); // fnstcw [0x300]
        let code = say(code.bytes(&[0x0f, 0x21, 0xc0])); // mov eax, dr0
        // Change the first and the last.
        let code = code
            .bytes(&ecx(0x174))
            .mov_eax(0x1234)
            .bytes(&[0x66, 0x31, 0xd2, 0x0f, 0x30]) // xor edx, edx; wrmsr
            .bytes(&[0x0f, 0x23, 0xc0]) // mov dr0, eax
            .outb(0x3f8, 0xee)
            .spin();
        for life in 1..=2 {
            let running = machine.start(&code);
            until("the last word", || device.written().len() == life * 6);
            let vcpus = running.set.stop().unwrap();
            machine.give_back(vcpus);
            let said = device.written()[(life - 1) * 6..].to_vec();
            assert_eq!(said, [0, 0x0406, 0x0806, 0x037f, 0, 0xee], "{irqchip:?}, life {life}");
        }
    }
}

/// The guest and this process go on reading and writing a page that KVM has forgotten.
#[test]
fn pages_that_kvm_forgets_stay_what_they_are() {
    let mut machine = Machine::new();
    machine.mem.write(0x3000, &[0x5a]).unwrap();
    let device = Recorder::new();
    machine.ports(0x3f8, 8, &device);
    let code = Asm::new().load_al(0x3000).mov_dx(0x3f8).bytes(&[0xee]).store_al(0x3001);
    for addr in [0x3000, 0x3fff, 0x1000, RAM, u64::MAX] {
        machine.vm.flush_page(addr);
        machine.run_to_halt(&code);
    }
    assert_eq!(device.written(), [0x5a; 5]);
    assert_eq!(machine.read(0x3000), [0x5a, 0x5a]);
}

/// Linux `Documentation/virt/kvm/x86/msr.rst`: the flags are 29 bytes into the structure that the guest
/// has given to KVM.
#[test]
fn a_guest_with_a_kvmclock_is_told_of_a_pause_and_of_no_other_stop() {
    const SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    const TIME: u64 = 0x3000;
    const STOPPED: u8 = 1 << 1;
    let (mut machine, device) = (Machine::with(1, Irqchip::Kernel), Recorder::new());
    machine.ports(0x3f8, 8, &device);
    let code = Asm::new()
        .bytes(&[&[0x66, 0xb9][..], &SYSTEM_TIME_NEW.to_le_bytes()].concat()) // mov ecx, ...
        .mov_eax(0x3001)
        .bytes(&[0x66, 0x31, 0xd2, 0x0f, 0x30]) // xor edx, edx; wrmsr
        .outb(0x3f8, 1)
        .forever(Asm::new().wait_for(0x3fd, 0x02).outb(0x3f8, 2));
    let running = machine.start(&code);
    until("the guest's word", || !device.written().is_empty());
    let mut vcpus = running.set.stop().unwrap();
    let flags = |machine: &Machine| machine.read::<1>(TIME + 29)[0];
    let go_on = |vcpus| {
        let said = device.written().len();
        let set = VcpuSet::start(vcpus, Arc::new(|_| {})).unwrap();
        until("that it goes on", || device.written().len() > said + 1);
        set.stop().unwrap()
    };
    vcpus = go_on(vcpus);
    assert_eq!(flags(&machine) & STOPPED, 0);
    vcpus[0].tell_of_pause();
    go_on(vcpus);
    assert_eq!(flags(&machine) & STOPPED, STOPPED);
}
