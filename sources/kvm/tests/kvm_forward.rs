//! Accesses that somebody outside answers: a vCPU that waits for an answer stops, and goes on where it
//! was; and a read that is told nothing leaves the processor as it is.

#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use support::{Asm, MMIO, MMIO_SEGMENT, Machine, until};
use trapline::{
    Answer, Channel, ChannelRef, Delivery, Forward, Forwarded, NoHandler, Region, Waiter, Window,
};
use trapline_kvm::Stop;

/// The other end, which does not answer until it is told to.
#[derive(Default)]
struct Stalled {
    log: Mutex<Vec<(u64, Option<u64>)>>,
    /// Whether somebody waits for an answer.
    asked: Mutex<bool>,
    /// How many answers it may give.
    permits: Mutex<u32>,
}

impl Stalled {
    fn wait(&self, access: &Forwarded, value: Option<u64>, waiter: Option<&dyn Waiter>) -> Answer {
        if !std::mem::replace(&mut *self.asked.lock(), true) {
            self.log.lock().push((access.offset, value));
        }
        loop {
            let mut permits = self.permits.lock();
            if let Some(left) = permits.checked_sub(1) {
                *permits = left;
                *self.asked.lock() = false;
                return Answer::Done(0x40 + access.offset);
            }
            drop(permits);
            if waiter.is_some_and(Waiter::is_wanted) {
                return Answer::Interrupted;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Channel for Stalled {
    fn read(&self, access: &Forwarded, waiter: Option<&dyn Waiter>) -> Answer {
        self.wait(access, None, waiter)
    }

    fn write(&self, access: &Forwarded, value: u64, waiter: Option<&dyn Waiter>) -> Answer {
        self.wait(access, Some(value), waiter)
    }
}

fn forwarded(region: Region, forward: Forward) -> Region {
    let len = region.len;
    region.window(Window { offset: 0, len, delivery: Delivery::Forward(forward) })
}

/// In each of its accesses the vCPU is stopped twice before there is an answer: elements of strings,
/// and parts of an access that the device takes in two.
#[test]
fn a_vcpu_that_waits_for_an_answer_stops_and_goes_on_where_it_was() {
    let mut machine = Machine::new();
    let far = Arc::new(Stalled::default());
    let forward = Forward::new(ChannelRef::new(far.clone()), 1);
    let ports = Region::pio(0x3f8, 8, "d", "r", Arc::new(NoHandler));
    machine.map(forwarded(ports, forward.clone()));
    machine.map(forwarded(Region::mmio(MMIO, 0x100, "d", "m", Arc::new(NoHandler)), forward));
    machine.mem.write(0x200, b"abc").unwrap();
    let code = Asm::new().mov_eax(0).mov_dx(0x3f9).in_al().keep_eax(0x300).mov_dx(0x3fa);
    let code = code.mov_si(0x200).mov_cx(3).rep_outsb().mov_di(0x304).mov_cx(2).rep_insb();
    let code = code.mov_ds(MMIO_SEGMENT).load_eax(0x12).keep_eax(0x308).store_al(0x20).hlt();
    let mut running = machine.start(&code);
    for question in 1..=9 {
        until("the next question", || far.log.lock().len() == question);
        for _ in 0..2 {
            let vcpus = running.set.stop().unwrap();
            assert_eq!(running.wait(), Stop::Requested);
            running = Machine::start_again(vcpus);
        }
        *far.permits.lock() = 1;
    }
    assert_eq!(running.wait(), Stop::Halted);
    let string = [b'a', b'b', b'c'].map(|byte| (2, Some(u64::from(byte))));
    let mut expected = vec![(1, None)];
    expected.extend(string);
    expected.extend([(2, None), (2, None), (0x12, None), (0x14, None), (0x20, Some(0x52))]);
    assert_eq!(*far.log.lock(), expected);
    assert_eq!(machine.read(0x300), [0x41, 0, 0, 0]);
    assert_eq!(machine.read(0x304), [0x42, 0x42, 0, 0]);
    assert_eq!(machine.read(0x308), [0x52, 0, 0x54, 0]);
}

/// The other end of a window without data: counts.
#[derive(Default)]
struct Bell(Mutex<u32>);

impl Channel for Bell {
    fn read(&self, _access: &Forwarded, _waiter: Option<&dyn Waiter>) -> Answer {
        panic!("it has no data to read")
    }

    fn write(&self, access: &Forwarded, value: u64, _waiter: Option<&dyn Waiter>) -> Answer {
        assert_eq!((access.size, value), (None, 0));
        *self.0.lock() += 1;
        Answer::Done(0)
    }
}

#[test]
fn a_read_of_a_window_without_data_leaves_the_register_as_it_was() {
    let mut machine = Machine::new();
    let bell = Arc::new(Bell::default());
    let forward = Forward { no_data: true, ..Forward::new(ChannelRef::new(bell.clone()), 1) };
    machine.map(forwarded(Region::mmio(MMIO, 0x100, "d", "m", Arc::new(NoHandler)), forward));
    let code = Asm::new().mov_ds(MMIO_SEGMENT).mov_eax(0x1234_5678).load_eax(0x10).keep_eax(0x300);
    let code = code.load_al(0x10).keep_eax(0x304).store_eax(0x20).mov_eax(7).keep_eax(0x308);
    machine.run_to_halt(&code);
    assert_eq!(machine.read(0x300), 0x1234_5678_u32.to_le_bytes());
    assert_eq!(machine.read(0x304), 0x1234_5678_u32.to_le_bytes());
    assert_eq!(machine.read(0x308), 7_u32.to_le_bytes());
    assert_eq!(*bell.0.lock(), 3);
}
