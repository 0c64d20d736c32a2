//! Messages to the kernel's local APICs, by this process and by eventfds, masked and unmasked, with
//! all interrupt controllers in the kernel and with the local APICs alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::flat::{self, LVT0, MASKED, SVR, flat, protected};
use support::{Asm, Machine, PATIENCE, Recorder, Running, until};
use trapline_device::{EoiSink, LevelRoutes, MessageVector, Msi, MsiController};
use trapline_kvm::{Irqchip, LocalApics};

/// Vectors with a handler.
const VECTORS: std::ops::Range<u8> = 0x41..0x49;
/// The function that sends. The local APICs do not ask.
const REQUESTER: u16 = 0x18;

/// An I/O APIC's registers, the select register first.
const IO_APIC: u32 = 0xfec0_0000;
/// The trigger mode bit of a redirection entry and of a message.
const LEVEL: u32 = 1 << 15;

/// A guest that listens, and what it says.
struct Guest {
    machine: Machine,
    running: Option<Running>,
    device: Arc<Recorder>,
    controller: Arc<dyn MsiController>,
}

impl Guest {
    /// The local APIC is on and does not listen to the 8259s; `setup` is stored before the guest listens.
    fn new(irqchip: Irqchip, setup: &[(u32, u32)]) -> Self {
        let mut guest = Self::stopped(irqchip);
        guest.start(setup);
        guest.hears(&[]);
        guest
    }

    fn stopped(irqchip: Irqchip) -> Self {
        let mut machine = Machine::with(1, irqchip);
        let device = Recorder::new();
        machine.ports(flat::PORT, 8, &device);
        flat::descriptors(&machine);
        VECTORS.for_each(|vector| flat::say_and_end(&machine, vector));
        let controller = machine.vm.messages();
        Self { machine, running: None, device, controller }
    }

    fn start(&mut self, setup: &[(u32, u32)]) {
        let stores = [&[(SVR, 0x1ff), (LVT0, MASKED)], setup].concat();
        let code: Asm = flat(&stores).then(&flat::idle());
        self.running = Some(self.machine.start_at(&code, &protected()));
    }

    /// A vector of its own for each number, masked.
    fn vector(&self) -> Arc<dyn MessageVector> {
        self.controller.vector(REQUESTER)
    }

    /// Waits until the guest has heard these, in this order, and nothing else.
    fn hears(&self, vectors: &[u8]) {
        until("the interrupts", || self.device.count() > vectors.len());
        let expected: Vec<u64> = [1].iter().chain(vectors).map(|byte| (*byte).into()).collect();
        assert_eq!(self.device.written(), expected);
    }

    fn stop(mut self) -> Machine {
        self.machine.give_back(self.running.take().unwrap().set.stop().unwrap());
        self.machine
    }
}

/// With both kinds of interrupt controllers.
fn with_each(test: impl Fn(Irqchip)) {
    for irqchip in [Irqchip::Kernel, Irqchip::Split] {
        println!("{irqchip:?}");
        test(irqchip);
    }
}

fn message(vector: u8) -> Option<Msi> {
    Some(Msi { address: 0xfee0_0000, data: vector.into() })
}

fn signal(event: &OwnedFd) {
    assert_eq!(rustix::io::write(event, &1_u64.to_ne_bytes()), Ok(8));
}

/// Waits for a signal and takes it.
fn take_signal(event: impl AsFd) {
    let patience = Timespec { tv_sec: PATIENCE.as_secs().try_into().unwrap(), tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&patience));
    assert_eq!(ready, Ok(1), "nobody signalled");
    assert_eq!(rustix::io::read(&event, &mut [0; 8]), Ok(8));
}

#[test]
fn every_vector_of_a_function_has_its_own_message() {
    with_each(|irqchip| {
        let guest = Guest::new(irqchip, &[]);
        let vectors: Vec<_> = VECTORS.map(|number| (number, guest.vector())).collect();
        let mut heard = Vec::new();
        for (number, vector) in &vectors {
            vector.set_route(message(*number));
        }
        for (number, vector) in vectors.iter().rev() {
            vector.trigger();
            heard.push(*number);
            guest.hears(&heard);
        }
        guest.stop();
    });
}

#[test]
fn another_thread_interrupts_the_guest_through_eventfds_alone() {
    const TIMES: usize = 200;
    with_each(|irqchip| {
        let guest = Guest::new(irqchip, &[]);
        let numbers = [0x41, 0x44, 0x47];
        let vectors = numbers.map(|_| guest.vector());
        let events = [0, 1, 2].map(|n: usize| vectors[n].eventfd().unwrap());
        vectors
            .iter()
            .zip(numbers)
            .for_each(|(vector, n)| vector.prepare_route(message(n).unwrap()));
        vectors.iter().zip(numbers).for_each(|(vector, n)| vector.set_route(message(n)));
        thread::scope(|scope| {
            scope.spawn(|| {
                for times in 1..=TIMES {
                    signal(&events[times % 3]);
                    until("the interrupt", || guest.device.count() == 1 + times);
                }
            });
        });
        let heard: Vec<u8> = (1..=TIMES).map(|times| numbers[times % 3]).collect();
        guest.hears(&heard);
        guest.stop();
    });
}

/// By this process and by the eventfd, before and after the eventfd is asked for.
#[test]
fn what_comes_while_a_vector_is_masked_is_delivered_once_when_it_is_unmasked() {
    with_each(|irqchip| {
        let guest = Guest::new(irqchip, &[]);
        let vector = guest.vector();
        vector.trigger();
        vector.trigger();
        assert!(vector.is_pending());
        vector.set_route(message(0x41));
        assert!(!vector.is_pending());
        guest.hears(&[0x41]);

        let event = vector.eventfd().unwrap();
        signal(&event);
        guest.hears(&[0x41, 0x41]);
        vector.set_route(None);
        assert!(!vector.is_pending());
        signal(&event);
        signal(&event);
        assert!(vector.is_pending());
        vector.set_route(message(0x42));
        guest.hears(&[0x41, 0x41, 0x42]);
        until("KVM's look at the eventfd", || !vector.is_pending());
        // What was pending was one message: the next is another vector's.
        vector.set_route(message(0x43));
        signal(&event);
        guest.hears(&[0x41, 0x41, 0x42, 0x43]);
        guest.stop();
    });
}

#[test]
fn a_pending_message_can_be_forgotten() {
    with_each(|irqchip| {
        let guest = Guest::new(irqchip, &[]);
        let vector = guest.vector();
        let event = vector.eventfd().unwrap();
        for by_eventfd in [false, true] {
            if by_eventfd {
                signal(&event);
            } else {
                vector.trigger();
            }
            assert!(vector.is_pending());
            vector.clear();
            assert!(!vector.is_pending());
        }
        vector.set_route(message(0x41));
        vector.set_route(message(0x42));
        vector.trigger();
        guest.hears(&[0x42]);
        guest.stop();
    });
}

#[test]
fn an_eventfd_is_the_same_for_the_vectors_life_whatever_it_is_routed_to() {
    with_each(|irqchip| {
        let guest = Guest::new(irqchip, &[]);
        let (moved, other) = (guest.vector(), guest.vector());
        let (event, others) = (moved.eventfd().unwrap(), other.eventfd().unwrap());
        other.set_route(message(0x48));
        let mut heard = Vec::new();
        for number in 0x41..0x46 {
            moved.set_route(message(number));
            for (event, number) in [(&event, number), (&others, 0x48)] {
                signal(event);
                heard.push(number);
                guest.hears(&heard);
            }
        }
        // Asked for again, it is a descriptor of the same one.
        signal(&moved.eventfd().unwrap());
        heard.push(0x45);
        guest.hears(&heard);
        guest.stop();
    });
}

#[test]
fn a_vector_that_goes_takes_its_eventfd_along_and_leaves_the_others() {
    with_each(|irqchip| {
        let guest = Guest::new(irqchip, &[]);
        let (gone, stays) = (guest.vector(), guest.vector());
        let events = [gone.eventfd().unwrap(), stays.eventfd().unwrap()];
        gone.set_route(message(0x41));
        stays.set_route(message(0x42));
        drop(gone);
        signal(&events[0]);
        signal(&events[1]);
        guest.hears(&[0x42]);
        let next = guest.vector();
        let event = next.eventfd().unwrap();
        next.set_route(message(0x43));
        signal(&event);
        guest.hears(&[0x42, 0x43]);
        signal(&events[1]);
        guest.hears(&[0x42, 0x43, 0x42]);
        guest.stop();
    });
}

/// Stores that have input `pin` of the I/O APIC send `entry`, to the first processor.
fn redirect(pin: u32, entry: u32) -> [(u32, u32); 2] {
    [(IO_APIC, 0x10 + 2 * pin), (IO_APIC + 0x10, entry)]
}

/// The kernel's I/O APIC has its inputs in the table of routes.
#[test]
fn the_routes_of_inputs_stay_when_messages_get_theirs() {
    let guest = Guest::new(Irqchip::Kernel, &redirect(4, 0x44));
    let line = guest.machine.vm.line(4);
    let pulse = || {
        line.set(true);
        line.set(false);
    };
    pulse();
    guest.hears(&[0x44]);
    let vector = guest.vector();
    let event = vector.eventfd().unwrap();
    vector.set_route(message(0x41));
    pulse();
    guest.hears(&[0x44, 0x44]);
    signal(&event);
    guest.hears(&[0x44, 0x44, 0x41]);
    drop(vector);
    pulse();
    guest.hears(&[0x44, 0x44, 0x41, 0x44]);
    guest.stop();
}

/// Hears of ends.
#[derive(Default)]
struct Ends(Mutex<Vec<u8>>);

impl EoiSink for Ends {
    fn eoi(&self, vector: u8) {
        self.0.lock().push(vector);
    }
}

/// The board's I/O APIC announces its level-triggered messages in the same table.
#[test]
fn announced_ends_and_eventfds_leave_each_others_routes() {
    let mut guest = Guest::stopped(Irqchip::Split);
    let ends = Arc::new(Ends::default());
    let mut vcpus = guest.machine.take();
    vcpus[0].connect_eoi(ends.clone());
    guest.machine.give_back(vcpus);
    guest.start(&[]);
    guest.hears(&[]);
    let local = LocalApics::new(&guest.machine.vm);
    let level = |vector: u32| Msi { address: 0xfee0_0000, data: LEVEL | 1 << 14 | vector };
    let vector = guest.vector();
    let event = vector.eventfd().unwrap();
    vector.set_route(message(0x41));
    local.set_level_route(3, Some(level(0x42)));
    signal(&event);
    guest.hears(&[0x41]);
    // Messages that are announced end with an exit, which comes after the word.
    vector.set_route(message(0x43));
    trapline_device::MsiSink::send(&*local, 0xfee0_0000, level(0x42).data);
    guest.hears(&[0x41, 0x42]);
    until("its end", || *ends.0.lock() == [0x42]);
    local.set_level_route(3, None);
    signal(&event);
    guest.hears(&[0x41, 0x42, 0x43]);
    // The I/O APIC has 24 pins; the GSI of that number is the vector's.
    for pin in 24..=25 {
        local.set_level_route(pin, Some(level(0x44)));
    }
    signal(&event);
    guest.hears(&[0x41, 0x42, 0x43, 0x43]);
    guest.stop();
}

#[test]
fn an_eventfd_asserts_a_level_triggered_input_until_the_guest_ends_it() {
    let guest = Guest::new(Irqchip::Kernel, &redirect(5, LEVEL | 0x45));
    let input = guest.machine.vm.resampled_input(5).unwrap();
    let assert = input.assert().try_clone_to_owned().unwrap();
    let mut heard = Vec::new();
    for _ in 0..3 {
        signal(&assert);
        heard.push(0x45);
        guest.hears(&heard);
        take_signal(input.ended());
    }
    // It is let go of after each end, so that nothing comes by itself.
    let vector = guest.vector();
    vector.set_route(message(0x41));
    vector.trigger();
    heard.push(0x41);
    guest.hears(&heard);
    drop(input);
    signal(&assert);
    vector.trigger();
    heard.push(0x41);
    guest.hears(&heard);
    guest.stop();
}

#[test]
fn only_the_kernels_own_interrupt_controllers_have_inputs_to_assert() {
    let guest = Guest::stopped(Irqchip::Split);
    let refused = guest.machine.vm.resampled_input(5).err().unwrap().to_string();
    assert!(refused.contains("level-triggered interrupts of event file descriptors"), "{refused}");
}

/// A reset of the board masks every vector; the eventfd of a back end stays as it is.
#[test]
fn an_eventfd_outlives_the_guest() {
    with_each(|irqchip| {
        let mut guest = Guest::new(irqchip, &[]);
        let vector = guest.vector();
        let event = vector.eventfd().unwrap();
        vector.set_route(message(0x41));
        signal(&event);
        guest.hears(&[0x41]);
        let vcpus = guest.running.take().unwrap().set.stop().unwrap();
        guest.machine.give_back(vcpus);
        vector.set_route(None);
        signal(&event);
        guest.machine.vm.reset().unwrap();
        guest.start(&[]);
        until("the second life", || guest.device.count() == 3);
        vector.set_route(message(0x42));
        until("the interrupt", || guest.device.count() == 4);
        assert_eq!(guest.device.written(), [1, 0x41, 1, 0x42]);
        guest.stop();
    });
}

/// The 8259s' edge/level control registers, as the guest reads them.
#[test]
fn lines_can_be_level_triggered_before_the_guest_starts_and_a_reset_makes_them_edges() {
    let mut machine = Machine::with(1, Irqchip::Kernel);
    let device = Recorder::new();
    machine.ports(flat::PORT, 8, &device);
    let say = |port| Asm::new().inb(port).mov_dx(flat::PORT).out_al();
    let code = say(0x4d0).then(&say(0x4d1)).spin();
    for expected in [[0x20, 0x4e], [0, 0]] {
        let before = device.count();
        if expected[0] != 0 {
            // 0, 1, 2, 8 and 13 are always edges.
            machine.vm.set_level_triggered(0x4e20 | 0x2107).unwrap();
        }
        let running = machine.start(&code);
        until("the guest's words", || device.count() == before + 2);
        machine.give_back(running.set.stop().unwrap());
        assert_eq!(device.written()[before..], expected);
        machine.vm.reset().unwrap();
    }
}
