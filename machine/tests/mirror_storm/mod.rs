//! Two processors that make random accesses to serial ports and configuration space, with random
//! input: with pages of registers' values that they read by themselves, and without, which must make
//! no difference.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that can not go on fails"
)]

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use trapline::{Mapping, Region, Registry};
use trapline_device::{CharDevice, Device, Handler, IoCx, Line, Mirror, SaveState, Saved, Size};
use trapline_guestmem::GuestMem;
use trapline_kvm::{Kvm, Start, Stop, Vcpu, VcpuEvent, VcpuSet, Vm, VmOptions};
use trapline_pci::{Bus, Devfn, EcamWindow, Edu, HostBridge, Layout, Slot};
use trapline_platform::serial::{PAGE_LEN, Serial};
use trapline_testkit::realmode::Asm;
use trapline_testkit::{TestClock, TestTerminal, event_loop};

const RAM: u64 = 0xd_0000;
/// The ports' pages: one for each processor, and one for both.
const PORTS: [u16; 3] = [0, 0x1000, 0x2000];
const PORTS_SEGMENT: u16 = 0xd000;
const PORTS_BASE: u64 = 0xd_0000;
/// Configuration space, of which real mode reaches the first four devices.
const CONFIG: u64 = 0xe_0000;
/// Each processor's device on the bus: a segment, and the offset in it.
const DEVICES: [(u16, u16); 2] = [(0xe000, 0x8000), (0xf000, 0)];
/// Where each processor's program is, and the segment of what it reads.
const CODE: [u16; 2] = [0x1000, 0x8000];
const KEPT: [u16; 2] = [0x2000, 0x3000];
/// A write of `n` here types characters at the port of the processor that writes.
const KEYS: [u16; 2] = [0x60, 0x61];
/// How many accesses each processor makes in a round, at most.
const OPS: u64 = 300;
/// How often a page is polled when it is.
const POLLS: u16 = 24;
/// Line status.
const LSR: u16 = 5;

/// Somebody at the terminal of a port, who types as the guest bids.
struct Keys {
    terminal: TestTerminal,
    port: Arc<Serial>,
}

impl Handler for Keys {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, size: Size) -> u64 {
        size.ones()
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        match value & 0xff {
            0xff => self.port.receive_break(),
            value => {
                let keys: Vec<u8> = (0..value % 20).map(|n| (value * 7 + n) as u8).collect();
                self.terminal.type_in(&keys);
                self.port.poll();
            }
        }
    }
}

/// A machine with two processors.
struct Machine {
    ram: GuestMem,
    registry: Registry,
    vm: Arc<Vm>,
    vcpus: Vec<Vcpu>,
    ports: Vec<(Arc<Serial>, TestTerminal)>,
    bus: Arc<Bus>,
    mirrors: Vec<Arc<Mirror>>,
    mapped: Vec<Mapping>,
}

/// All that there is to see of a machine after a round.
#[derive(PartialEq, Eq)]
struct Seen {
    kept: Vec<Vec<u8>>,
    screens: Vec<Vec<u8>>,
    ports: Vec<Saved>,
    bus: Saved,
}

impl Machine {
    fn new(mirrored: bool) -> Self {
        let ram = GuestMem::new(&[(0, RAM)]).unwrap();
        let kvm = Kvm::open("/dev/kvm").unwrap_or_else(|e| panic!("this test needs KVM: {e}"));
        let vm = Vm::new(&kvm, &ram, VmOptions::bare(2)).unwrap();
        let registry = Registry::builder().offload(vm.offload()).build();
        let bus = Arc::new(Bus::new(Arc::new(registry.downgrade()), Vec::new()));
        let mut machine = Self {
            ram: ram.clone(),
            registry,
            vm,
            vcpus: Vec::new(),
            ports: Vec::new(),
            bus,
            mirrors: Vec::new(),
            mapped: Vec::new(),
        };
        machine.map(Region::ram(0, "memory", "ram", Arc::new(ram.pieces().remove(0))));
        for (n, base) in PORTS.into_iter().enumerate() {
            machine.add_port(n, PORTS_BASE + u64::from(base), mirrored);
        }
        machine.add_bus(mirrored);
        for index in 0..2 {
            machine.vcpus.push(Vcpu::new(&machine.vm, index, &machine.registry).unwrap());
        }
        machine
    }

    fn map(&mut self, region: Region) {
        self.mapped.push(self.registry.map(region).unwrap());
    }

    fn add_port(&mut self, n: usize, base: u64, mirrored: bool) {
        let terminal = TestTerminal::default();
        let clock = Arc::new(TestClock::default());
        let port = Serial::new(Arc::new(terminal.clone()), Line::unconnected(), clock);
        let region = Region::mmio(base, PAGE_LEN, &format!("serial{n}"), "uart", port.clone());
        let region = region.coalesce(0..1);
        if mirrored {
            self.mirrors.push(port.mirror());
            self.map(region.mirror(0..PAGE_LEN, port.mirror()));
        } else {
            self.map(region);
        }
        if let Some(keys) = KEYS.get(n) {
            let handler = Keys { terminal: terminal.clone(), port: Arc::clone(&port) };
            self.map(Region::pio(*keys, 1, &format!("keys{n}"), "keys", Arc::new(handler)));
        }
        self.ports.push((port, terminal));
    }

    fn add_bus(&mut self, mirrored: bool) {
        let slot = |name, device| Slot {
            name,
            devfn: Devfn::new(device, 0).unwrap(),
            pin: None,
            messages: None,
        };
        let clock: Arc<dyn trapline_device::Clock> = Arc::new(TestClock::default());
        let plug = |devfn, function| self.bus.insert(devfn, function).unwrap();
        let (bridge, first, second) = (slot("bridge", 0), slot("edu0", 1), slot("edu1", 2));
        plug(bridge.devfn, HostBridge::function(bridge));
        plug(first.devfn, Edu::function(first, &clock, &*event_loop()).unwrap());
        plug(second.devfn, Edu::function(second, &clock, &*event_loop()).unwrap());
        let window = Arc::new(EcamWindow::new(Arc::clone(&self.bus), Layout::Ecam));
        let (offsets, mirror) = window.mirror().unwrap();
        let region = Region::mmio(CONFIG, offsets.end, "pci", "ecam", window);
        if mirrored {
            self.mirrors.push(Arc::clone(&mirror));
            self.map(region.mirror(offsets, mirror));
        } else {
            self.map(region);
        }
    }

    /// Runs a program on each processor to its end.
    fn run(&mut self, programs: &[Asm; 2], meanwhile: impl FnOnce(&Self)) {
        let mut vcpus = std::mem::take(&mut self.vcpus);
        for ((vcpu, program), ip) in vcpus.iter_mut().zip(programs).zip(CODE) {
            self.ram.write(ip.into(), &program.0).unwrap();
            vcpu.set_start(&Start::Real { cs: 0, ip, ds: 0, sp: 0 }).unwrap();
        }
        let (sender, events) = channel::<VcpuEvent>();
        let on_event = Arc::new(move |event| {
            let _ = sender.send(event);
        });
        let set = VcpuSet::start(vcpus, on_event).unwrap();
        meanwhile(self);
        for _ in programs {
            let event = events.recv_timeout(Duration::from_secs(120)).expect("a guest hangs");
            assert!(matches!(event.stop, Stop::Halted), "{:?}", event.stop);
        }
        self.vcpus = set.stop().unwrap();
        self.registry.drain();
    }

    fn kept(&self, processor: usize, len: usize) -> Vec<u8> {
        let mut kept = vec![0; len];
        self.ram.read(u64::from(KEPT[processor]) << 4, &mut kept).unwrap();
        kept
    }

    fn seen(&self) -> Seen {
        Seen {
            kept: (0..2).map(|n| self.kept(n, OPS as usize * 8)).collect(),
            screens: self.ports.iter().map(|(_, terminal)| terminal.screen()).collect(),
            ports: self.ports.iter().map(|(port, _)| port.save()).collect(),
            bus: self.bus.save(),
        }
    }

    fn reset(&self) {
        self.ports.iter().for_each(|(port, terminal)| {
            terminal.clear();
            port.reset();
            port.poll();
        });
        self.bus.reset();
    }

    fn times_shown(&self) -> u64 {
        self.mirrors.iter().map(|mirror| mirror.times_shown()).sum()
    }
}

/// ES points at what a processor reads.
fn begin(processor: usize) -> Asm {
    Asm::new().mov_ax(KEPT[processor]).bytes(&[0x8e, 0xc0])
}

/// A random program for a processor, which keeps all that it reads.
fn program(processor: usize, random: &mut Rng) -> Asm {
    let mut code = begin(processor);
    let mut kept = (0..).step_by(4);
    for _ in 0..random.u64(..OPS) {
        code = match random.u64(..8) {
            0 => code.outb(KEYS[processor], random.u8(..)),
            1..5 => at_port(code, processor, random, &mut kept),
            _ => at_function(code, processor, random, &mut kept),
        };
    }
    code.hlt()
}

/// A read, polling, or a write at the processor's serial port.
fn at_port(
    code: Asm,
    processor: usize,
    random: &mut Rng,
    kept: &mut impl Iterator<Item = u16>,
) -> Asm {
    let page = PORTS[processor];
    let code = code.mov_ds(PORTS_SEGMENT);
    let offsets = [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 0xff8];
    let offset = page + offsets[random.usize(..offsets.len())];
    match random.u64(..6) {
        0 | 1 => keep(read(code, offset, random), kept),
        2 => keep(code.repeat(POLLS, Asm::new().load_al(page + LSR)), kept),
        3 => keep(settle(code, page).repeat(POLLS, Asm::new().load_al(page + LSR)), kept),
        4 => code.mov_al(random.u8(..)).store_al(page),
        _ => write(code, offset, random),
    }
}

/// What leads back to a port that can be shown: nothing interrupts, and all is read that waits.
fn settle(code: Asm, page: u16) -> Asm {
    let quiet = [(1, 0), (3, 3), (4, 8), (2, 7)];
    let code = quiet
        .into_iter()
        .fold(code, |code, (offset, value)| code.mov_al(value).store_al(page + offset));
    // RBR, LSR, MSR
    [0, LSR, 6]
        .into_iter()
        .fold(code, |code, offset| code.repeat(POLLS, Asm::new().load_al(page + offset)))
}

/// A read of some function, polling, or a write of the processor's own.
fn at_function(
    code: Asm,
    processor: usize,
    random: &mut Rng,
    kept: &mut impl Iterator<Item = u16>,
) -> Asm {
    let (segment, own) = DEVICES[processor];
    let code = code.mov_ds(segment);
    let offsets = [0, 4, 6, 0xc, 0x10, 0x14, 0x3c, 0x40, 0x44, 0x50, 0x60, 0xa0, 0x100];
    let offset = offsets[random.usize(..offsets.len())];
    match random.u64(..5) {
        // Any page but the other processor's, which is in the other segment.
        0 | 1 => {
            let page = random.u16(..16) << 12;
            keep(read(code, page | offset, random), kept)
        }
        2 => keep(code.repeat(POLLS, Asm::new().load_eax(own | offset)), kept),
        _ => write(code, own | offset | random.u16(..4), random),
    }
}

fn read(code: Asm, offset: u16, random: &mut Rng) -> Asm {
    match random.u64(..3) {
        0 => code.mov_eax(0).load_al(offset),
        1 => code.mov_eax(0).load_ax(offset),
        _ => code.load_eax(offset),
    }
}

fn write(code: Asm, offset: u16, random: &mut Rng) -> Asm {
    let code = code.mov_eax(random.u32(..));
    match random.u64(..3) {
        0 => code.store_al(offset),
        1 => code.store_ax(offset),
        _ => code.store_eax(offset),
    }
}

fn keep(code: Asm, kept: &mut impl Iterator<Item = u16>) -> Asm {
    code.keep_eax(kept.next().unwrap())
}

/// What a storm has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) programs: u64,
    pub(crate) times_shown: u64,
}

/// Some rounds of two random programs at once, on a machine that shows pages and on one that does not.
///
/// # Panics
/// There is a difference.
pub(crate) fn compare(seed: u64, rounds: u64) -> Tally {
    let mut random = Rng::with_seed(seed);
    let (mut with, mut without) = (Machine::new(true), Machine::new(false));
    for round in 0..rounds {
        let programs = [0, 1].map(|processor| program(processor, &mut random));
        for machine in [&mut with, &mut without] {
            machine.reset();
            machine.run(&programs, |_| {});
        }
        let (seen, expected) = (with.seen(), without.seen());
        for processor in 0..2 {
            let pairs = seen.kept[processor].iter().zip(&expected.kept[processor]);
            let different = pairs.clone().position(|(seen, expected)| seen != expected);
            let read = different.map(|at| at / 4);
            assert_eq!(read, None, "seed {seed}, round {round}: read of processor {processor}");
        }
        assert!(seen == expected, "seed {seed}, round {round}: the devices differ");
    }
    Tally { programs: 2 * rounds, times_shown: with.times_shown() }
}

/// Both processors at one port: one echoes what is typed, the other prints, while somebody types.
///
/// # Panics
/// A character is lost, doubled or in the wrong place.
pub(crate) fn type_in(seed: u64, keys: u16, prints: u16) -> Tally {
    let mut random = Rng::with_seed(seed);
    let mut machine = Machine::new(true);
    let page = PORTS[2];
    // wait: mov al, [LSR]; test al, 1; jz wait; mov al, [RBR]; stosb
    let take = Asm::new()
        .load_al(page + LSR)
        .bytes(&[0xa8, 0x01, 0x74, 0xf9])
        .load_al(page)
        .bytes(&[0xaa]);
    let typed = begin(0).mov_di(0).mov_ds(PORTS_SEGMENT).repeat(keys, take).hlt();
    // mov al, cl
    let print =
        Asm::new().load_al(page + LSR).bytes(&[0x88, 0xc8]).store_al(page).load_al(page + 7);
    let printed = begin(1).mov_ds(PORTS_SEGMENT).repeat(prints, print).hlt();
    let text: Vec<u8> = (0..keys).map(|_| random.u8(..)).collect();
    let (port, terminal) = machine.ports[2].clone();
    machine.run(&[typed, printed], |_| {
        let mut rest = &text[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(1 + random.usize(..9)));
            terminal.type_in(now);
            port.poll();
            rest = later;
            thread::sleep(Duration::from_micros(random.u64(..3000)));
        }
    });
    assert!(machine.kept(0, text.len()) == text, "seed {seed}: what was typed");
    let expected: Vec<u8> = (1..=prints).rev().map(|n| n as u8).collect();
    assert!(terminal.screen() == expected, "seed {seed}: what was printed");
    Tally { programs: 2, times_shown: machine.times_shown() }
}
