//! How guests end: by their own doing, by ours, and by accident.

#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use support::{Asm, CODE, Machine, RAM, Recorder, Running, crash, until};
use trapline::Region;
use trapline_device::{Handler, IoCx, Size};
use trapline_kvm::{Error, Irqchip, Start, Stop, Stuck, Table, Vcpu, Vm, VmOptions};

/// What a stop may take, where the ten seconds after which a set gives up are for a device.
const A_SECOND: Duration = Duration::from_secs(1);

/// Stops within a second what `stop` has started, which says how long it took: once of five times, as a
/// busy host may keep any thread waiting for longer.
#[track_caller]
fn within_a_second(stop: impl Fn() -> Duration) {
    let took = [(); 5].map(|()| stop());
    assert!(took.iter().any(|took| *took < A_SECOND), "{took:?}");
}

/// How long it takes to stop a guest, and the vCPUs that come back.
fn stop(running: &Running) -> (Duration, Vec<Vcpu>) {
    let asked = Instant::now();
    let vcpus = running.set.stop().unwrap();
    (asked.elapsed(), vcpus)
}

#[test]
fn a_triple_fault_is_reported_with_registers_and_the_last_accesses() {
    let (mut machine, device) = (Machine::new(), Recorder::answering(&[0x60]));
    machine.ports(0x3f8, 8, &device);
    // 32-bit, without an interrupt table: out 0x3f8; in 0x3fd; out 0x80; ud2.
    let code = Asm::new()
        .bytes(&[0x66, 0xba, 0xf8, 0x03, 0xb0, 0x41, 0xee])
        .bytes(&[0x66, 0xba, 0xfd, 0x03, 0xec])
        .bytes(&[0xb0, 0x12, 0xe6, 0x80, 0x0f, 0x0b]);
    let gdt = Table { base: 0x500, limit: 0x1f };
    let start = Start::Protected { eip: CODE.into(), esp: 0x9000, eax: 0, ebx: 0, esi: 0, gdt };
    let running = machine.start_at(&code, &start);
    let stop = running.wait();
    let Stop::TripleFault(report) = stop else { panic!("no triple fault: {stop:?}") };
    assert_eq!(report.vcpu, 0);
    assert!(report.cause.starts_with("triple fault"), "{}", report.cause);
    assert_eq!(
        report.accesses,
        [
            "serial0/uart THR (pio 0x3f8) write 1 byte 0x41",
            "serial0/uart (pio 0x3fd) read 1 byte 0x60",
            "unclaimed (pio 0x80) write 1 byte 0x12",
        ]
    );
    for name in ["rip", "rsp", "r15", "cr0", "cr3", "efer", "cs", "tr", "gdt", "idt"] {
        assert!(report.registers.contains(&format!("  {name:<5} ")), "{name} is missing");
    }
    let whole = report.to_string();
    assert!(whole.starts_with("vCPU 0 stopped: triple fault"), "{whole}");
    assert!(whole.contains("last accesses, oldest first:\n  serial0/uart THR"), "{whole}");
}

#[test]
fn running_where_there_is_no_memory_is_reported() {
    let mut machine = Machine::new();
    let jump = Asm::new().bytes(&[0xea, 0x34, 0x12, 0x00, 0xd0]); // jmp 0xd000:0x1234
    let report = crash(machine.run(&jump));
    assert!(report.cause.starts_with("KVM internal error 1: it cannot emulate"), "{report}");
    assert!(report.registers.contains("rip   0000000000001234"), "{report}");
    assert!(report.registers.contains("cs    d000 base 00000000000d0000"), "{report}");
    assert_eq!(report.accesses, Vec::<String>::new());
}

#[test]
fn a_start_the_processor_cannot_enter_is_an_error_or_a_report_and_never_a_hang() {
    let gdt = Table { base: 0x500, limit: 0x1f };
    let long = |rip, cr3| Start::Long { rip, rsp: 0x9000, rsi: 0, cr3, gdt };
    // No page tables there: the first fetch faults, and there is nobody to tell.
    let mut machine = Machine::new();
    let running = machine.start_at(&Asm::new(), &long(0x1000, 0xf_0000_0000));
    let report = crash(running.wait());
    assert!(!report.cause.is_empty() && report.registers.contains("cr3"), "{report}");
    drop(running);
    // No such address at all.
    let mut vcpu_of = Machine::new();
    let mut vcpus = vcpu_of.take();
    let refused = vcpus[0].set_start(&long(0x1000, 1 << 63));
    assert!(matches!(refused, Err(Error::Ioctl { .. })), "{refused:?}");
    // And the vCPU is as good as new.
    vcpu_of.give_back(vcpus);
    vcpu_of.run_to_halt(&Asm::new());
}

#[test]
fn a_guest_that_spins_stops_within_a_second() {
    within_a_second(|| {
        let (mut machine, device) = (Machine::new(), Recorder::new());
        machine.ports(0x3f8, 8, &device);
        let running = machine.start(&Asm::new().outb(0x3f8, 1).spin());
        until("the write", || !device.seen().is_empty());
        let (took, vcpus) = stop(&running);
        assert_eq!(running.wait(), Stop::Requested);
        let registers = vcpus[0].registers();
        assert!(registers.contains("rip   0000000000001006"), "{registers}");
        assert_eq!(running.set.stop().unwrap().len(), 0, "stopping twice is no mistake");
        took
    });
}

#[test]
fn a_guest_halted_in_the_kernel_and_one_that_waits_for_sipi_stop_within_a_second() {
    within_a_second(|| {
        let mut machine = Machine::with(3, Irqchip::Kernel);
        let device = Recorder::new();
        machine.ports(0x3f8, 8, &device);
        let running = machine.start(&Asm::new().outb(0x3f8, 1).hlt());
        until("the write", || !device.seen().is_empty());
        std::thread::sleep(Duration::from_millis(20));
        let (took, vcpus) = stop(&running);
        assert_eq!(vcpus.iter().map(|vcpu| vcpu.index()).collect::<Vec<_>>(), [0, 1, 2]);
        for _ in 0..3 {
            assert_eq!(running.wait(), Stop::Requested);
        }
        took
    });
}

#[test]
fn a_guest_that_never_stops_exiting_stops_within_a_second() {
    // again: mov cx, 0xffff; rep insb; jmp again
    let code = Asm::new().mov_dx(0x1f0).mov_cx(0xffff).mov_di(0x2000).mov_cx(0x4000).rep_insb();
    let code = code.bytes(&[0xeb, 0xf4]);
    within_a_second(|| {
        let (mut machine, device) = (Machine::new(), Recorder::new());
        machine.ports(0x1f0, 8, &device);
        let running = machine.start(&code);
        until("an access", || device.count() > 20_000);
        stop(&running).0
    });
}

/// A thread inherits its parent's signal mask.
#[test]
fn a_guest_started_by_a_thread_that_blocks_signals_stops_all_the_same() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    machine.ports(0x3f8, 8, &device);
    let running = std::thread::scope(|scope| {
        let starter = scope.spawn(|| {
            vmm_sys_util::signal::block_signal(vmm_sys_util::signal::SIGRTMIN()).unwrap();
            machine.start(&Asm::new().outb(0x3f8, 1).spin())
        });
        starter.join().unwrap()
    });
    until("the write", || !device.seen().is_empty());
    assert_eq!(running.set.stop().unwrap().len(), 1);
    assert_eq!(running.wait(), Stop::Requested);
}

#[test]
fn dropping_the_set_stops_the_guest() {
    within_a_second(|| {
        let mut machine = Machine::new();
        let running = machine.start(&Asm::new().spin());
        let asked = Instant::now();
        drop(running.set);
        let took = asked.elapsed();
        assert!(matches!(running.events.try_recv(), Ok(event) if event.stop == Stop::Requested));
        took
    });
}

/// Answers a read when told to.
struct Slow {
    entered: Mutex<Sender<()>>,
    leave: Mutex<Receiver<u64>>,
}

impl Slow {
    fn new() -> (Arc<Self>, Receiver<()>, Sender<u64>) {
        let ((entered, has_entered), (may_leave, leave)) = (channel(), channel());
        let slow = Self { entered: Mutex::new(entered), leave: Mutex::new(leave) };
        (Arc::new(slow), has_entered, may_leave)
    }
}

impl Handler for Slow {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        self.entered.lock().send(()).unwrap();
        self.leave.lock().recv().unwrap()
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

/// A stop in the middle of a read: the read is completed first, and the vCPU can be started anew.
/// (KVM hangs a guest whose registers are set while an access is half done.)
#[test]
fn a_stop_completes_the_access_under_way() {
    let mut machine = Machine::new();
    let (slow, has_entered, may_leave) = Slow::new();
    machine.map(Region::pio(0x510, 1, "slow0", "data", slow));
    let running = machine.start(&Asm::new().mov_eax(0).mov_dx(0x510).in_al().spin());
    has_entered.recv().unwrap();
    let stuck = running.set.stop_within(Duration::from_millis(100)).err();
    assert_eq!(stuck, Some(Stuck { vcpus: vec![0] }), "a device that does not return is named");
    may_leave.send(0x77).unwrap();
    let vcpus = running.set.stop().unwrap();
    let registers = vcpus[0].registers();
    assert!(registers.contains("rax   0000000000000077"), "{registers}");
    assert!(registers.contains("rip   000000000000100a"), "past the `in`: {registers}");
    machine.give_back(vcpus);
    machine.run_to_halt(&Asm::new().mov_eax(0x1234).keep_eax(0x300));
    assert_eq!(machine.read(0x300), [0x34, 0x12, 0, 0]);
}

struct Faulty;

impl Handler for Faulty {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        panic!("a defect, on purpose")
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

#[test]
fn a_device_that_panics_ends_in_a_report_and_not_in_a_silent_machine() {
    let mut machine = Machine::new();
    machine.map(Region::pio(0x510, 1, "faulty0", "data", Arc::new(Faulty)));
    let report = crash(machine.run(&Asm::new().mov_dx(0x510).in_al().hlt()));
    assert!(report.cause.contains("panicked"), "{report}");
    // The read was never answered; the vCPU starts again all the same.
    machine.run_to_halt(&Asm::new().mov_eax(0x1234).keep_eax(0x300));
    assert_eq!(machine.read(0x300), [0x34, 0x12, 0, 0]);
}

#[test]
fn too_many_vcpus_are_refused_with_the_number_there_may_be() {
    let kvm = support::kvm();
    let mem = trapline_guestmem::GuestMem::new(&[(0, RAM)]).unwrap();
    for vcpus in [0, u32::MAX] {
        let Err(refused) = Vm::new(&kvm, &mem, VmOptions::bare(vcpus)) else {
            panic!("{vcpus} vCPUs")
        };
        let told = refused.to_string();
        assert!(told.contains(&format!("1 to {}", kvm.caps().max_vcpus)), "{told}");
    }
    let most = VmOptions::bare(kvm.caps().max_vcpus);
    assert!(Vm::new(&kvm, &mem, most).is_ok());
}
