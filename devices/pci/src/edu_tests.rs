//! The educational device, as a driver uses it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{
    Clock, Device, EventLoop, Handler, MessageVector, Msi, MsiController, MsiSink, SaveState, Size,
};
use trapline_testkit::{CX, TestClock, event_loop};

use crate::edu::{Edu, FACTORIAL_NS};
use crate::tests::{End, Log};
use crate::{Devfn, Function, Slot, regs};

fn edu() -> (Function, Arc<Log>) {
    let (edu, log, _) = edu_and_clock();
    (edu, log)
}

fn edu_and_clock() -> (Function, Arc<Log>, TestClock) {
    let (log, clock) = (Arc::<Log>::default(), TestClock::default());
    (in_slot(&log, &clock, &*event_loop()), log, clock)
}

fn in_slot(log: &Arc<Log>, clock: &TestClock, event_loop: &dyn EventLoop) -> Function {
    log.slot(1, |slot| Edu::function(slot, &as_clock(clock), event_loop).unwrap())
}

fn as_clock(clock: &TestClock) -> Arc<dyn Clock> {
    Arc::new(clock.clone())
}

impl Function {
    fn set(&self, offset: u16, value: u32) {
        self.config_write(offset, Size::Dword, value);
    }

    fn register_handler(&self) -> Arc<dyn Handler> {
        Arc::clone(&self.bars()[0][0].1.handler)
    }

    fn poke(&self, offset: u64, value: u64) {
        self.register_handler().write(&CX, offset, Size::Dword, value);
    }

    fn peek(&self, offset: u64) -> u64 {
        self.register_handler().read(&CX, offset, Size::Dword)
    }
}

#[test]
fn its_registers_answer_as_edu_rst_says() {
    let (edu, _, clock) = edu_and_clock();
    assert_eq!(edu.peek(0), 0x0100_00ed);
    edu.poke(4, 0x1234_5678);
    assert_eq!(edu.peek(4), 0xedcb_a987);
    for (n, product) in [(0, 1), (5, 120), (12, 479_001_600), (34, 0), (0xffff_ffff, 0)] {
        edu.poke(8, n);
        clock.step_ns(FACTORIAL_NS);
        assert_eq!(edu.peek(8), product, "{n}!");
    }
    assert_eq!(edu.peek(0x24), 0);
    edu.poke(0x20, 0xff);
    assert_eq!(edu.peek(0x20), 0x80);
    edu.poke(8, 3);
    clock.step_ns(FACTORIAL_NS);
    assert_eq!(edu.peek(0x24), 1, "the factorial is done");
    for nothing_to_read in [0x10, 0x60, 0x64, 0xa0] {
        assert_eq!(edu.peek(nothing_to_read), 0xffff_ffff);
    }
    assert_eq!(edu.peek(0x98), 0, "no DMA is under way");
}

#[test]
fn a_factorial_takes_its_time_and_a_reset_ends_it() {
    let (edu, log, clock) = edu_and_clock();
    edu.poke(0x20, 0x80);
    edu.poke(8, 4);
    assert_eq!((edu.peek(0x20), edu.peek(8)), (0x81, 4), "it is being computed");
    clock.step_ns(FACTORIAL_NS - 1);
    edu.poke(8, 5);
    assert_eq!((edu.peek(0x20), edu.peek(0x24)), (0x81, 0), "and no other one meanwhile");
    clock.step_ns(1);
    assert_eq!((edu.peek(0x20), edu.peek(8), edu.peek(0x24)), (0x80, 24, 1));
    assert_eq!(*log.levels.lock(), [true]);
    edu.poke(8, 5);
    edu.reset();
    assert_eq!((edu.peek(0x20), clock.next_deadline_ns()), (0, None));
    clock.step_ns(FACTORIAL_NS);
    assert_eq!((edu.peek(8), edu.peek(0x24)), (0, 0));
}

#[test]
fn a_factorial_goes_on_where_a_snapshot_is_restored() {
    let (edu, _, clock) = edu_and_clock();
    edu.poke(0x20, 0x80);
    edu.poke(8, 4);
    clock.step_ns(FACTORIAL_NS / 2);
    let (there, log, later) = edu_and_clock();
    later.step_ns(FACTORIAL_NS / 2);
    there.restore(&edu.save()).unwrap();
    later.step_ns(FACTORIAL_NS / 2);
    assert_eq!((there.peek(0x20), there.peek(8)), (0x80, 24));
    assert_eq!(*log.levels.lock(), [true]);
}

#[test]
fn without_messages_the_pin_follows_the_status() {
    let (edu, log) = edu();
    edu.poke(0x60, 5);
    edu.poke(0x64, 1);
    assert_eq!((edu.peek(0x24), log.levels.lock().clone()), (4, vec![true]));
    edu.set(regs::COMMAND, 1 << 10);
    assert_eq!(*log.levels.lock(), [true, false], "INTx is disabled");
    edu.set(regs::COMMAND, 0);
    edu.poke(0x64, 4);
    assert_eq!(*log.levels.lock(), [true, false, true, false]);
    assert_eq!(*log.messages.lock(), []);
    assert_eq!(edu.config_read(regs::STATUS, Size::Word) & 8, 0, "nothing is left");
    edu.poke(0x60, 1);
    assert_eq!(edu.config_read(regs::STATUS, Size::Word) & 8, 8);
    edu.reset();
    assert_eq!(log.levels.lock().last(), Some(&false));
}

#[test]
fn msi_is_one_message_for_each_time_it_raises() {
    let (edu, log) = edu();
    let at = u16::try_from(edu.config_read(regs::CAPABILITIES, Size::Byte) & 0xff).unwrap();
    assert_eq!(edu.config_read(at, Size::Dword) & 0xffff_00ff, 0x0080_0005);
    assert_eq!(edu.config_read(regs::STATUS, Size::Word) & 0x10, 0x10);
    edu.set(at + 4, 0x3ff9_0043);
    edu.set(at + 8, 0x1);
    edu.set(at + 12, 0xabcd_0002);
    edu.set(at, 1 << 16);
    edu.poke(0x60, 1);
    assert_eq!(*log.messages.lock(), [], "it is no bus master");
    edu.set(regs::COMMAND, 1 << 2);
    edu.poke(0x60, 2);
    edu.poke(0x60, 0x30);
    assert_eq!(*log.messages.lock(), [Msi { address: 0x1_3ff9_0040, data: 2 }; 2]);
    assert_eq!(*log.levels.lock(), [], "and the pin rests");
}

/// Where the MSI-X capability is: behind that of MSI.
fn msix(edu: &Function) -> u16 {
    let msi = u16::try_from(edu.config_read(regs::CAPABILITIES, Size::Byte) & 0xff).unwrap();
    u16::try_from(edu.config_read(msi + 1, Size::Byte) & 0xff).unwrap()
}

#[test]
fn with_msix_the_lowest_bit_raised_names_the_vector() {
    let (edu, log) = edu();
    let at = msix(&edu);
    assert_eq!(edu.config_read(at, Size::Dword), 0x0003_0011, "four vectors, the last capability");
    assert_eq!(edu.config_read(at + 4, Size::Dword), 1);
    assert_eq!(edu.config_read(at + 8, Size::Dword), 0x801);
    edu.set(regs::COMMAND, 6);
    edu.set(at, 0x8000 << 16);
    let table = Arc::clone(&edu.bars()[1][0].1.handler);
    for vector in 0..4u64 {
        table.write(&CX, 16 * vector, Size::Dword, 0xfee0_0000);
        table.write(&CX, 16 * vector + 8, Size::Dword, 0x40 + vector);
        table.write(&CX, 16 * vector + 12, Size::Dword, 0);
    }
    for raised in [1, 2, 0xc, 8, 0x10, 0xa0] {
        edu.poke(0x60, raised);
    }
    let sent: Vec<u32> = log.messages.lock().iter().map(|message| message.data).collect();
    assert_eq!(sent, [0x40, 0x41, 0x42, 0x43, 0x40, 0x41]);
    assert_eq!(*log.levels.lock(), []);
}

/// A vector with somebody at the other end of its eventfd, for which a pipe stands, and one that
/// counts what this process triggers.
struct Listened {
    signals: Mutex<Option<io::PipeWriter>>,
    triggers: Arc<Log>,
}

impl MessageVector for Listened {
    fn set_route(&self, _message: Option<Msi>) {}

    fn trigger(&self) {
        self.triggers.messages.lock().push(Msi::default());
    }

    fn is_pending(&self) -> bool {
        false
    }

    fn clear(&self) {}

    fn eventfd(&self) -> io::Result<OwnedFd> {
        let end = self.signals.lock().take();
        end.map(OwnedFd::from).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

/// The first of its vectors has an eventfd.
struct Listener {
    first: Mutex<Option<io::PipeWriter>>,
    triggers: Arc<Log>,
}

impl MsiController for Listener {
    fn sink(&self, _requester: u16) -> Arc<dyn MsiSink> {
        Arc::new(End(Arc::clone(&self.triggers)))
    }

    fn vector(&self, _requester: u16) -> Arc<dyn MessageVector> {
        let signals = Mutex::new(self.first.lock().take());
        Arc::new(Listened { signals, triggers: Arc::clone(&self.triggers) })
    }
}

/// The factorial's interrupt, by whatever the driver has enabled.
#[test]
fn a_factorial_signals_the_eventfd_of_its_message_and_raises_the_pin_without_messages() {
    let (mut signalled, writer) = io::pipe().unwrap();
    let (log, clock) = (Arc::<Log>::default(), TestClock::default());
    let first = Mutex::new(Some(writer));
    let controller = Listener { first, triggers: Arc::clone(&log) };
    let devfn = Devfn::new(1, 0).unwrap();
    let slot = Slot { name: "edu", devfn, pin: None, messages: Some(&controller) };
    let edu = Edu::function(slot, &as_clock(&clock), &*event_loop()).unwrap();
    let compute = || {
        edu.poke(8, 3);
        clock.step_ns(FACTORIAL_NS);
        assert_eq!(edu.peek(0x24), 1);
        edu.poke(0x64, 1);
    };
    edu.poke(0x20, 0x80);
    compute();
    edu.set(regs::COMMAND, 6);
    edu.set(msix(&edu), 0x8000 << 16);
    compute();
    edu.poke(0x20, 0);
    edu.poke(8, 3);
    clock.step_ns(FACTORIAL_NS);
    assert_eq!(log.messages.lock().len(), 0, "the process triggers nothing");
    edu.poke(0x60, 1);
    assert_eq!(log.messages.lock().len(), 1, "but what the guest raises");
    drop(edu);
    let mut signals = Vec::new();
    io::Read::read_to_end(&mut signalled, &mut signals).unwrap();
    assert_eq!(signals, 1u64.to_ne_bytes(), "once, while messages were in use and wanted");
}

/// Where no hypervisor takes it, as under qtest.
#[test]
fn the_event_loop_sends_the_message_of_a_factorial_that_nobody_else_does() {
    let (log, clock, event_loop) = (Arc::<Log>::default(), TestClock::default(), event_loop());
    let edu = in_slot(&log, &clock, &*event_loop);
    let compute = || {
        edu.poke(8, 3);
        clock.step_ns(FACTORIAL_NS);
    };
    edu.poke(0x20, 0x80);
    compute();
    assert!(!event_loop.turn(), "there are no messages yet");
    edu.set(regs::COMMAND, 6);
    let at = u16::try_from(edu.config_read(regs::CAPABILITIES, Size::Byte) & 0xff).unwrap();
    edu.set(at + 4, 0x3ff9_0040);
    edu.set(at, 1 << 16);
    event_loop.settle(9);
    assert_eq!(*log.messages.lock(), [], "what came before there were messages is none");
    compute();
    assert_eq!(*log.messages.lock(), [], "another thread sends it");
    event_loop.settle(9);
    assert_eq!(log.messages.lock().len(), 1);
}
