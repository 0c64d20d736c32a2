//! Reads that KVM answers from a page of registers' values, and writes to the same page, which queue
//! up, ring or come to the device as ever.

#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::sync::Arc;

use parking_lot::Mutex;
use support::{Asm, MMIO, MMIO_SEGMENT, Machine, Offloading, Running, eventfd, rung, until};
use trapline::{EventFd, Mirror, Observer, READS_WORTH_A_SWITCH, Region, Watch};
use trapline_device::{Handler, IoCx, Rules, Size};
use trapline_kvm::{ExitKind, Irqchip, Stop};

const PAGE: u64 = 4096;
/// Slots of the machine's RAM, which is in two pieces.
const RAM_SLOTS: usize = 2;
/// A transmitter's register, whose writes are remembered and read as 0.
const THR: u16 = 0;
/// A line status register.
const LSR: u16 = 5;
/// Reads as it was written; while it is not 0, nothing is shown.
const BUSY: u16 = 7;
/// Where the guest keeps what it has read.
const KEPT: u16 = 0x3000;

/// Eight byte registers.
struct Port {
    mirror: Arc<Mirror>,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    registers: [u8; 8],
    sent: Vec<u8>,
    reads: u32,
}

impl Port {
    fn new(mirror: Arc<Mirror>) -> Arc<Self> {
        let state = State { registers: [0, 0, 1, 0, 0, 0x60, 0xb0, 0], ..State::default() };
        let port = Self { mirror, state: Mutex::new(state) };
        port.reflect(&port.state.lock());
        Arc::new(port)
    }

    fn reflect(&self, state: &State) {
        match state.registers[usize::from(BUSY)] {
            0 => self.mirror.vouch(0, PAGE, &state.registers),
            _ => self.mirror.withdraw(0),
        }
    }

    /// A register changes by itself.
    fn set(&self, offset: u16, value: u8) {
        let mut state = self.state.lock();
        state.registers[usize::from(offset)] = value;
        self.reflect(&state);
    }

    fn region(self: &Arc<Self>) -> Region {
        Region::mmio(MMIO, PAGE, "serial0", "uart", self.clone())
            .mirror(0..PAGE, Arc::clone(&self.mirror))
    }
}

impl Handler for Port {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        let mut state = self.state.lock();
        state.reads += 1;
        let at = usize::try_from(offset).unwrap();
        let value = state.registers.get(at).copied().unwrap_or(0xff);
        self.mirror.read(offset);
        value.into()
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        let mut state = self.state.lock();
        let [value, ..] = value.to_le_bytes();
        if offset == u64::from(THR) {
            state.sent.push(value);
        } else if let Some(register) = state.registers.get_mut(usize::try_from(offset).unwrap()) {
            *register = value;
        }
        self.reflect(&state);
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }
}

/// Runs `code` to its halt; the exits it made for reads and for writes of memory.
fn exits(machine: &mut Machine, code: &Asm) -> (u64, u64) {
    let vcpus = machine.take();
    let counters = vcpus[0].counters();
    machine.give_back(vcpus);
    let counts = || {
        let stats = counters.snapshot();
        (stats.get(ExitKind::MmioRead), stats.get(ExitKind::MmioWrite))
    };
    let before = counts();
    machine.run_to_halt(code);
    let after = counts();
    (after.0 - before.0, after.1 - before.1)
}

/// Prints `count` characters, each once the transmitter is empty.
fn print(count: u16) -> Asm {
    let wait = Asm::new().load_al(LSR).mov_al(b'x').store_al(THR);
    Asm::new().mov_ds(MMIO_SEGMENT).repeat(count, wait)
}

#[test]
fn a_guest_that_polls_makes_almost_no_exits() {
    let (mut machine, port) = (Machine::new(), Port::new(Mirror::at_once()));
    machine.map(Region::mmio(MMIO, PAGE, "serial0", "uart", port.clone()));
    let trapped = exits(&mut machine, &print(1000));
    assert_eq!(trapped, (1000, 1000));
    machine.mappings.clear();

    machine.map(port.region());
    assert_eq!(machine.vm.memory_slots(), RAM_SLOTS + 1);
    let mirrored = exits(&mut machine, &print(1000));
    assert_eq!(mirrored, (0, 1000), "writes to read-only memory come to us");
    machine.mappings.clear();

    machine.map(port.region().coalesce(0..1));
    let (reads, writes) = exits(&mut machine, &print(1000));
    assert!(reads == 0 && writes < 20, "{reads} reads, {writes} writes for 1000 characters");
    assert_eq!(port.state.lock().sent, [b'x'; 3000]);
    machine.mappings.clear();
    assert_eq!(machine.vm.memory_slots(), RAM_SLOTS);
}

#[test]
fn a_page_is_shown_after_some_reads_and_withdrawn_by_a_write() {
    let (mut machine, port) = (Machine::new(), Port::new(Mirror::new()));
    machine.map(port.region().coalesce(0..1));
    let code = Asm::new()
        .mov_ds(MMIO_SEGMENT)
        .repeat(100, Asm::new().load_al(LSR))
        .mov_al(1)
        .store_al(BUSY)
        .repeat(50, Asm::new().load_al(LSR));
    let (reads, _) = exits(&mut machine, &code);
    assert_eq!(reads, u64::from(READS_WORTH_A_SWITCH) + 50);
    assert_eq!((port.mirror.times_shown(), machine.vm.memory_slots()), (1, RAM_SLOTS));
}

#[test]
fn doorbells_ring_on_a_page_that_is_read_only() {
    let (mut machine, port) = (Machine::new(), Port::new(Mirror::at_once()));
    let bell = eventfd();
    machine.map(port.region().doorbell(2, 1, Some(9), EventFd::clone(&bell)));
    let code = Asm::new()
        .mov_ds(MMIO_SEGMENT)
        .mov_al(9)
        .store_al(2) // rings
        .mov_al(8)
        .store_al(2) // another value
        .load_al(2);
    let exits = exits(&mut machine, &code);
    assert_eq!((rung(&bell), exits), (1, (0, 1)));
    assert_eq!(port.state.lock().registers[2], 8);
}

/// Keeps what it reads at every offset, of one, two and four bytes, across the end of the registers
/// and of the page.
fn read_everywhere() -> Asm {
    let offsets = (0..12).chain([0x7fe, 0xffc, 0xffd, 0xffe, 0xfff]);
    let mut kept = KEPT..;
    offsets.fold(Asm::new().mov_ds(MMIO_SEGMENT), |code, offset| {
        let mut keep = |code: Asm| code.keep_eax(kept.by_ref().step_by(4).next().unwrap());
        let code = keep(code.mov_eax(0).load_al(offset));
        let code = keep(code.mov_eax(0).load_ax(offset));
        keep(code.load_eax(offset))
    })
}

#[test]
fn accesses_of_every_width_give_what_the_device_gives() {
    let seen = |mirror: bool, offloading| {
        let mut machine = Machine::built(1, Irqchip::None, offloading);
        let port = Port::new(Mirror::at_once());
        let region = Region::mmio(MMIO, PAGE, "serial0", "uart", port.clone());
        machine.map(if mirror { port.region() } else { region });
        let code = read_everywhere().mov_eax(0x4433_2211).store_eax(3).then(&read_everywhere());
        machine.run_to_halt(&code);
        (machine.read::<1024>(KEPT.into()), port.state.lock().registers)
    };
    let with = seen(true, Offloading::Kernel);
    assert_eq!(with, seen(false, Offloading::Kernel));
    assert_eq!(with, seen(true, Offloading::Absent), "a registry without a source");
    assert_eq!(with, seen(true, Offloading::Declining), "a source without slots");
}

/// Reads `offset` until it is `value`, then tells and goes on.
fn wait_until_read(code: Asm, offset: u16, value: u8, tell: u16) -> Asm {
    // mov al, [offset]; cmp al, value; jne back
    let load = Asm::new().load_al(offset);
    let back = u8::try_from(256 - (usize::from(load.len16()) + 4)).unwrap();
    let told = Asm::new().mov_eax(0x55).keep_eax(tell);
    code.then(&load).bytes(&[0x3c, value, 0x75, back]).then(&told)
}

#[test]
fn a_guest_sees_what_changes_while_it_polls() {
    let (mut machine, port) = (Machine::new(), Port::new(Mirror::at_once()));
    machine.map(port.region().coalesce(0..1));
    let code = wait_until_read(Asm::new().mov_ds(MMIO_SEGMENT), LSR, 0x61, 0x300);
    let code = wait_until_read(code, LSR, 0x62, 0x304);
    let code = wait_until_read(code, LSR, 0x63, 0x308).hlt();
    let running: Running = machine.start(&code);
    let told = |machine: &Machine, at| machine.read::<4>(at) == [0x55, 0, 0, 0];
    port.set(LSR, 0x61);
    until("a change within the page", || told(&machine, 0x300));
    assert_eq!(port.state.lock().reads, 0, "without an exit");
    port.set(BUSY, 1);
    port.set(LSR, 0x62);
    until("a change after the page was withdrawn", || told(&machine, 0x304));
    assert!(port.state.lock().reads > 0);
    port.set(BUSY, 0);
    until("the page again", || machine.vm.memory_slots() == RAM_SLOTS + 1);
    port.set(LSR, 0x63);
    assert_eq!(running.wait(), Stop::Halted);
    machine.give_back(running.set.stop().unwrap());
    assert_eq!(port.mirror.times_shown(), 2);
}

struct Nobody;

impl Observer for Nobody {}

#[test]
fn a_watch_sees_every_read_and_the_page_comes_back_after_it() {
    let (mut machine, port) = (Machine::new(), Port::new(Mirror::at_once()));
    machine.map(port.region());
    let watching = machine.registry.watch(Watch::new().everything(), Arc::new(Nobody)).unwrap();
    assert_eq!(machine.vm.memory_slots(), RAM_SLOTS);
    let code = Asm::new().mov_ds(MMIO_SEGMENT).repeat(100, Asm::new().load_al(LSR));
    assert_eq!(exits(&mut machine, &code), (100, 0));
    drop(watching);
    assert_eq!(exits(&mut machine, &code), (0, 0));
}

#[test]
fn pages_that_kvm_has_no_slot_for_stay_with_the_device() {
    let (mut machine, port) = (Machine::new(), Port::new(Mirror::at_once()));
    let half = Region::mmio(MMIO + 0x800, PAGE, "serial0", "uart", port.clone());
    machine.map(half.mirror(0..PAGE, Arc::clone(&port.mirror)));
    assert_eq!(machine.vm.memory_slots(), RAM_SLOTS, "no whole page");
    let code = Asm::new().mov_ds(MMIO_SEGMENT).repeat(100, Asm::new().load_al(0x800 + LSR));
    assert_eq!(exits(&mut machine, &code), (100, 0));
}
