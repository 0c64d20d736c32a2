//! The local APICs in the kernel, the other interrupt controllers here: INTR and INTA, messages,
//! ends of interrupts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use support::flat::{self, LVT0, SVR, flat, gate, protected, store};
use support::{Asm, Machine, Recorder, until};
use trapline::Region;
use trapline_device::{EoiSink, ExtInt, LevelRoutes, Line, Msi, MsiSink};
use trapline_kvm::{ExitKind, Irqchip, LocalApics, VcpuSet};

/// A controller with a queue of vectors, which drives INTR as long as there is one.
struct Queue {
    intr: Line,
    vectors: Mutex<VecDeque<u8>>,
    /// Asked to stop in the middle of the next acknowledge.
    to_stop: Mutex<Weak<VcpuSet>>,
    /// Takes all requests back when the processor is about to acknowledge one.
    takes_back: AtomicBool,
}

impl Queue {
    fn request(&self, vector: u8) {
        let mut vectors = self.vectors.lock();
        vectors.push_back(vector);
        self.intr.set(true);
    }
}

impl ExtInt for Queue {
    fn pending(&self) -> bool {
        self.intr.level()
    }

    fn acknowledge(&self) -> Option<u8> {
        let mut vectors = self.vectors.lock();
        if self.takes_back.swap(false, Ordering::Relaxed) {
            vectors.clear();
        }
        let vector = vectors.pop_front();
        self.intr.set(!vectors.is_empty());
        if let Some(set) = self.to_stop.lock().upgrade() {
            set.ask_to_stop();
        }
        vector
    }
}

/// A machine whose first vCPU has such a controller, and a port that remembers.
fn machine() -> (Machine, Arc<Queue>, Arc<Recorder>) {
    let mut machine = Machine::with(1, Irqchip::Split);
    let device = Recorder::new();
    machine.ports(0x3f8, 8, &device);
    let mut vcpus = machine.take();
    let intr = Line::new(vcpus[0].intr());
    let queue = Arc::new(Queue {
        intr,
        vectors: Mutex::default(),
        to_stop: Mutex::default(),
        takes_back: AtomicBool::default(),
    });
    vcpus[0].connect_intr(queue.clone());
    machine.give_back(vcpus);
    flat::descriptors(&machine);
    // Vectors 0x20 to 0x27 say the number of their vector and return.
    for vector in 0x20..0x28_u8 {
        let at = 0x1800 + u16::from(vector) * 16;
        let entry = [at.to_le_bytes(), [0, 0]].concat();
        machine.mem.write(u64::from(vector) * 4, &entry).unwrap();
        // push ax; push dx; ...; pop dx; pop ax; iret
        let asm = Asm::new().bytes(&[0x50, 0x52]).outb(0x3f8, vector).bytes(&[0x5a, 0x58, 0xcf]);
        machine.mem.write(at.into(), &asm.0).unwrap();
    }
    (machine, queue, device)
}

/// `sti; hlt; jmp hlt`
fn idle() -> Asm {
    Asm::new().outb(0x3f8, 1).bytes(&[0xfb, 0xf4, 0xeb, 0xfd])
}

/// However requests and halts interleave, each request wakes the guest.
#[test]
fn every_request_of_another_thread_reaches_a_halted_guest() {
    let (mut machine, queue, device) = machine();
    let running = machine.start(&idle());
    until("the guest's word", || device.count() == 1);
    for times in 1..=2000 {
        queue.request(0x20);
        while device.count() < 1 + times {
            assert!(running.events.try_recv().is_err());
            std::hint::spin_loop();
        }
    }
    running.set.stop().unwrap();
    assert_eq!(device.written()[1..], [0x20; 2000]);
}

/// A device may take its request back after the vCPU was told of it: then there is no interrupt, a
/// spurious one neither, and the next request comes through.
#[test]
fn a_request_that_is_taken_back_interrupts_nobody() {
    let (mut machine, queue, device) = machine();
    let running = machine.start(&idle());
    until("the guest's word", || device.count() == 1);
    for times in 1..=20 {
        queue.takes_back.store(true, Ordering::Relaxed);
        queue.request(0x22);
        until("that it is taken back", || !queue.pending());
        queue.request(0x20);
        until("the interrupt", || device.count() == 1 + times);
    }
    running.set.stop().unwrap();
    assert_eq!(device.written()[1..], [0x20; 20]);
}

/// The same for a guest that never halts.
#[test]
fn a_busy_guest_is_interrupted() {
    let (mut machine, queue, device) = machine();
    let running = machine.start(&Asm::new().outb(0x3f8, 1).bytes(&[0xfb, 0xeb, 0xfe]));
    until("the guest's word", || device.count() == 1);
    for times in 1..=20 {
        queue.request(0x21);
        until("the interrupt", || device.count() == 1 + times);
    }
    running.set.stop().unwrap();
}

/// Several requests at once are taken in order, each when the guest listens again.
#[test]
fn requests_queue_up_while_the_guest_does_not_listen() {
    let (mut machine, queue, device) = machine();
    let gate = Recorder::answering(&[0; 50]);
    machine.map(Region::pio(0x3f0, 1, "gate", "gate", gate.clone()));
    for vector in [0x23, 0x22, 0x27] {
        queue.request(vector);
    }
    // Interrupts are off until the gate opens.
    let code = Asm::new().wait_for(0x3f0, 0x02).then(&idle());
    let running = machine.start(&code);
    until("the interrupts", || device.count() == 4);
    running.set.stop().unwrap();
    assert_eq!(device.written(), [1, 0x23, 0x22, 0x27]);
    assert_eq!(gate.count(), 51);
    let windows = running.set.stats()[0].get(ExitKind::InterruptWindow);
    assert!(windows >= 1, "KVM says when the guest listens");
}

/// INTR is for the local APIC to decide about: with LVT0 masked it is not heard, and nothing spins.
#[test]
fn a_masked_lvt0_keeps_intr_waiting() {
    let (mut machine, queue, device) = machine();
    queue.request(0x24);
    // Protected mode, a gate for vector 0x24: `mov al, 0x24; mov dx, 0x3f8; out dx, al; cli; hlt`.
    let handler = [0xb0, 0x24, 0x66, 0xba, 0xf8, 0x03, 0xee, 0xfa, 0xf4];
    machine.mem.write(0x2000, &handler).unwrap();
    gate(&machine, 0x24, 0x2000);
    // LVT0 masked; interrupts on; look at the gate; LVT0 as it was.
    let waiting = Recorder::answering(&[0; 50]);
    machine.map(Region::pio(0x3f0, 1, "gate", "gate", waiting.clone()));
    let code = flat(&[(SVR, 0x1ff), (LVT0, 0x1_0700)])
        .bytes(&[0xfb, 0x66, 0xba, 0xf0, 0x03, 0xec, 0xa8, 0x02, 0x74, 0xfb])
        .bytes(&[0xb0, 0x01, 0x66, 0xba, 0xf8, 0x03, 0xee])
        .then(&store(LVT0, 0x700))
        .bytes(&[0xeb, 0xfe]);
    let running = machine.start_at(&code, &protected());
    until("the interrupt", || device.count() == 2);
    running.set.stop().unwrap();
    assert_eq!(device.written(), [1, 0x24]);
    let exits = running.set.stats()[0];
    assert!(exits.total() < 200, "{exits:?}");
}

/// Hears of ends.
#[derive(Default)]
struct Ends(Mutex<Vec<u8>>);

impl EoiSink for Ends {
    fn eoi(&self, vector: u8) {
        self.0.lock().push(vector);
    }
}

const LEVEL: u32 = 1 << 15 | 1 << 14;

/// Messages reach the local APICs they name; the ends of those are reported that are level
/// triggered and were announced.
#[test]
fn messages_arrive_and_announced_ends_come_back() {
    let (mut machine, _queue, device) = machine();
    let local = LocalApics::new(&machine.vm);
    let ends = Arc::new(Ends::default());
    let mut vcpus = machine.take();
    vcpus[0].connect_eoi(ends.clone());
    machine.give_back(vcpus);
    for vector in [0x41_u8, 0x42, 0x43] {
        flat::say_and_end(&machine, vector);
    }
    let code = flat(&[(SVR, 0x1ff)])
        .bytes(&[0xb0, 0x01, 0x66, 0xba, 0xf8, 0x03, 0xee])
        .bytes(&[0xfb, 0xf4, 0xeb, 0xfd]);
    let running = machine.start_at(&code, &protected());
    until("the guest's word", || device.count() == 1);
    let address = 0xfee0_0000;
    let announced = Msi { address, data: LEVEL | 0x42 };
    local.set_level_route(3, Some(announced));
    let send = |data: u32, count| {
        local.send(address, data);
        until("the interrupt", || device.count() == count);
    };
    send(0x41, 2);
    send(announced.data, 3);
    until("its end", || *ends.0.lock() == [0x42]);
    send(LEVEL | 0x43, 4);
    local.set_level_route(3, None);
    send(announced.data, 5);
    // To a processor that is not there.
    local.send(0xfee0_7000, 0x41);
    running.set.stop().unwrap();
    assert_eq!(device.written(), [1, 0x41, 0x42, 0x43, 0x42]);
    assert_eq!(*ends.0.lock(), [0x42]);
    assert_eq!(running.set.stats()[0].get(ExitKind::Eoi), 1);
}

/// KVM cannot be made to forget a vector. One that it was given on the way to a stop is the first
/// life's, and not the second one's.
#[test]
fn a_second_life_begins_without_interrupts() {
    let (mut machine, queue, device) = machine();
    let running = machine.start(&idle());
    until("the guest's word", || device.count() == 1);
    let set = Arc::new(running.set);
    *queue.to_stop.lock() = Arc::downgrade(&set);
    queue.request(0x20);
    while !queue.vectors.lock().is_empty() {}
    machine.give_back(set.stop().unwrap());
    assert_eq!(device.written(), [1, 0x20], "taken before the stop");
    machine.vm.reset().unwrap();
    // Listens for a while.
    let quiet = Asm::new().outb(0x3f8, 2).bytes(&[0xfb]).repeat(200, Asm::new().bytes(&[0x90]));
    let running = machine.start(&quiet.bytes(&[0xfa]).outb(0x3f8, 3).spin());
    until("the end", || device.written().last() == Some(&3));
    assert_eq!(device.written(), [1, 0x20, 2, 3]);
    machine.give_back(running.set.stop().unwrap());
}
