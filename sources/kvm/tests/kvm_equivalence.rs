//! A guest cannot tell who delivers its accesses, and neither can its devices: the same programs
//! run with the kernel's coalesced zones and doorbells, with a registry that does it all itself
//! because there is nobody to ask, and with one that asks in vain.
//!
//! For one vCPU everything must be the same, down to the order of accesses across all devices: KVM
//! queues writes in the order they were made, and what it does not queue comes after all it has.
//! Only a doorbell has no place in that order, as its ringing meets no device; it is counted.

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
use proptest::prelude::*;
use support::{Asm, MMIO, MMIO_SEGMENT, Machine, Offloading, Seen, eventfd, rung};
use trapline::{EventFd, Region};
use trapline_device::{Handler, IoCx, RegionId, Size};
use trapline_kvm::{ExitStats, Irqchip, Stop};

/// Where programs keep what they read, and how much.
const KEPT: u16 = 0x4000;
const KEPT_LEN: usize = 0x2000;

/// The ports: all coalesced, or with doorbells.
const PORTS: u16 = 0x3f8;
const BELLS: u16 = 0x500;
/// Writing moves the device memory to another page.
const MOVER: u16 = 0x600;
/// A zone of the device memory, and where its doorbells are.
const ZONE: std::ops::Range<u64> = 0x100..0x1c0;
const BELL_VALUE: u16 = 0x40;
const BELL_LENGTH: u16 = 0x50;
const BELL_ANY: u16 = 0x60;

/// All accesses to all devices, in order; reads answer with a sum over everything before them, so
/// a write that comes late shows in the guest.
#[derive(Default)]
struct Log(Mutex<Vec<(&'static str, Seen)>>);

struct Device(&'static str, Arc<Log>);

impl Log {
    fn sum(log: &[(&'static str, Seen)]) -> u64 {
        log.iter().fold(0xcbf2_9ce4_8422_2325, |sum, (name, seen)| {
            let (offset, value) = match seen {
                Seen::Read(offset, _) => (*offset, 0x55),
                Seen::Write(offset, size, value) => (*offset ^ ((*size as u64) << 32), *value),
            };
            let sum = (sum ^ value ^ name.len() as u64).wrapping_mul(0x0100_0000_01b3);
            (sum ^ offset).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

impl Handler for Device {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let mut log = self.1.0.lock();
        let value = Log::sum(&log);
        log.push((self.0, Seen::Read(offset, size.bytes())));
        value
    }
    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        self.1.0.lock().push((self.0, Seen::Write(offset, size.bytes(), value)));
    }
}

/// Moves a region from inside a handler, as a write to a BAR does.
struct Mover(RegionId);

impl Handler for Mover {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }
    fn write(&self, cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        // Page 8 and up is nowhere.
        let base = (value & 0xf < 8).then_some(MMIO + (value & 0xf) * 0x1000);
        cx.regions().place(&[(self.0, base)]).unwrap();
    }
}

/// What can be observed.
#[derive(Debug, PartialEq, Eq)]
struct Observed {
    accesses: Vec<(&'static str, Seen)>,
    rung: [u64; 5],
    kept: Vec<u8>,
}

fn observe(code: &Asm, offloading: Offloading) -> (Observed, ExitStats) {
    let mut machine = Machine::built(1, Irqchip::None, offloading);
    let log = Arc::new(Log::default());
    let device = |name| Arc::new(Device(name, Arc::clone(&log)));
    let bells: [EventFd; 5] = std::array::from_fn(|_| eventfd());
    machine.map(Region::pio(PORTS, 8, "d", "ports", device("ports")).coalesce(0..8));
    machine.map(
        Region::pio(BELLS, 8, "d", "bells", device("port bells"))
            .doorbell(0, 1, Some(0x41), bells[0].clone())
            .doorbell(4, 0, None, bells[1].clone()),
    );
    machine.map(
        Region::mmio(MMIO, 0x1000, "d", "memory", device("memory"))
            .coalesce(ZONE)
            .coalesce(0x300..0x304)
            .doorbell(BELL_VALUE.into(), 2, Some(7), bells[2].clone())
            .doorbell(BELL_LENGTH.into(), 4, None, bells[3].clone())
            .doorbell(BELL_ANY.into(), 0, None, bells[4].clone()),
    );
    let mover = Mover(machine.mappings[2].id());
    machine.map(Region::pio(MOVER, 1, "d", "mover", Arc::new(mover)));
    let running = machine.start(&code.clone().hlt());
    assert_eq!(running.wait(), Stop::Halted);
    running.set.stop().unwrap();
    let kept = machine.read::<KEPT_LEN>(KEPT.into()).to_vec();
    let accesses = std::mem::take(&mut *log.0.lock());
    let rung = bells.each_ref().map(rung);
    (Observed { accesses, rung, kept }, running.set.stats()[0])
}

/// Runs `code` in the three ways: what was observed, and the exits with and without the kernel.
fn same_for_all(code: &Asm) -> (Observed, u64, u64) {
    let (with, few) = observe(code, Offloading::Kernel);
    let (without, many) = observe(code, Offloading::Absent);
    let (declined, as_many) = observe(code, Offloading::Declining);
    assert_eq!(with, without);
    assert_eq!(without, declined);
    assert_eq!(many, as_many, "asking in vain is not asking");
    (with, few.total(), many.total())
}

#[test]
fn writes_that_queue_and_accesses_that_do_not_keep_their_order() {
    let mut code = Asm::new().mov_ds(MMIO_SEGMENT);
    for i in 0..20_u8 {
        let at = KEPT + u16::from(i) * 16;
        code = code
            .outb(PORTS, i)
            .mov_eax(0x1000_0000 + u32::from(i))
            .store_eax(0x100)
            .outw(PORTS + 2, 0x4100 + u16::from(i))
            .store_al(0x200) // outside the zone
            .load_eax(0x104) // a read of the zone, which does not queue
            .keep_eax(at)
            .outb(PORTS + 7, i)
            .mov_dx(PORTS)
            .in_eax()
            .keep_eax(at + 4);
    }
    let (observed, few, many) = same_for_all(&code);
    assert_eq!(observed.accesses.len(), 20 * 7);
    assert_eq!((few, many), (20 * 3 + 1, 20 * 7 + 1));
}

#[test]
fn a_ring_that_overflows_loses_and_reorders_nothing() {
    // Two kinds of zone in turn, 1500 writes each, all different: CX counts.
    let body = Asm::new().bytes(&[0x89, 0xc8]).out_ax().store_ax(0x100);
    let code = Asm::new().mov_ds(MMIO_SEGMENT).mov_dx(PORTS).repeat(1500, body).in_eax();
    let (observed, few, many) = same_for_all(&code.keep_eax(KEPT));
    assert_eq!(observed.accesses.len(), 3001);
    assert_eq!(many, 3002);
    assert!(few < 100, "{few} exits");
}

#[test]
fn strings_to_a_zone_are_the_same_elements() {
    let code = Asm::new().mov_dx(PORTS).mov_si(0x1000);
    let code = code.mov_cx(300).rep_outsb().mov_cx(40).rep_outsw();
    let (observed, few, many) =
        same_for_all(&code.mov_di(KEPT).mov_cx(600).rep_insb().mov_cx(9).rep_insw());
    assert_eq!(observed.accesses.len(), 300 + 40 + 600 + 9);
    assert!(few < many, "{few} and {many} exits");
}

#[test]
fn accesses_across_the_borders_of_a_zone_are_the_same() {
    let mut code = Asm::new().mov_eax(0x4433_2211).keep_eax(0x3000).keep_eax(0x3004);
    code = code.load_mm0(0x3000).mov_ds(MMIO_SEGMENT);
    for border in [ZONE.start, ZONE.end, 0x300, 0x304, 0x1000] {
        for before in 0..9 {
            let at = u16::try_from(border - before).unwrap();
            code = code.store_al(at).store_ax(at).store_eax(at).store_mm0(at);
        }
    }
    for port in PORTS - 3..PORTS + 9 {
        code = code.mov_dx(port).out_al().out_ax().out_eax();
    }
    let (_, few, many) = same_for_all(&code.load_eax(0).keep_eax(KEPT));
    assert!(few < many, "{few} and {many} exits");
}

#[test]
fn doorbells_ring_as_often_and_the_rest_reaches_the_device() {
    let mut code = Asm::new().mov_eax(7).keep_eax(0x3000).load_mm0(0x3000);
    code = code.mov_ds(MMIO_SEGMENT);
    for bell in [BELL_VALUE, BELL_LENGTH, BELL_ANY] {
        for value in [7, 8, 0x1_0007, 0xffff_ffff] {
            for at in bell - 2..bell + 3 {
                code = code.mov_eax(value).store_al(at).store_ax(at).store_eax(at);
            }
        }
        code = code.store_mm0(bell).load_eax(bell).keep_eax(KEPT + bell * 4);
    }
    for port in BELLS..BELLS + 8 {
        for value in [0x41, 0x141, 0x42] {
            code = code.mov_dx(port).mov_eax(value).out_al().out_ax().out_eax();
        }
    }
    code = code.mov_si(0x1000).mov_dx(BELLS + 4).mov_cx(50).rep_outsb();
    let (observed, few, many) = same_for_all(&code);
    // The value at its length; any value at its length; any length, by strings too.
    let [port_value, port_any, value, length, any] = observed.rung;
    assert_eq!((port_value, port_any), (2, 9 + 50));
    assert_eq!((value, length, any), (2, 4, 12 + 1));
    assert!(few < many, "{few} and {many} exits");
}

#[test]
fn a_region_that_its_guest_moves_has_what_was_written_before() {
    let mut code = Asm::new().mov_ds(MMIO_SEGMENT);
    let mut at = KEPT;
    for page in [3_u8, 0, 8, 5, 5, 0] {
        for base in [0_u16, 0x3000, 0x5000] {
            code = code.mov_eax(u32::from(page) << 16 | u32::from(base)).store_eax(base + 0x100);
            code = code.store_ax(base + BELL_LENGTH).store_eax(base + BELL_LENGTH);
        }
        code = code.outb(MOVER, page);
        for base in [0_u16, 0x3000, 0x5000] {
            code = code.store_eax(base + 0x180).load_eax(base + 0x100).keep_eax(at);
            at += 4;
        }
    }
    let (observed, few, many) = same_for_all(&code);
    assert!(observed.rung[3] > 0 && observed.kept.windows(4).any(|word| word == [0xff; 4]));
    assert!(few < many, "{few} and {many} exits");
}

/// One access of a random program.
#[derive(Clone, Debug)]
enum Op {
    Out(u16, u8, u32),
    In(u16, u8),
    Store(u16, u8, u32),
    Load(u16, u8),
    Move(u8),
}

impl Op {
    fn assemble(&self, code: Asm, keep: u16) -> Asm {
        match *self {
            Self::Out(port, size, value) => match (code.mov_dx(port).mov_eax(value), size) {
                (code, 0) => code.out_al(),
                (code, 1) => code.out_ax(),
                (code, _) => code.out_eax(),
            },
            Self::In(port, size) => match (code.mov_dx(port).mov_eax(0), size) {
                (code, 0) => code.in_al().keep_eax(keep),
                (code, 1) => code.in_ax().keep_eax(keep),
                (code, _) => code.in_eax().keep_eax(keep),
            },
            Self::Store(at, size, value) => match (code.mov_eax(value), size) {
                (code, 0) => code.store_al(at),
                (code, 1) => code.store_ax(at),
                (code, 2) => code.store_eax(at),
                (code, _) => code.store_mm0(at),
            },
            Self::Load(at, size) => match (code.mov_eax(0), size) {
                (code, 0) => code.load_al(at).keep_eax(keep),
                (code, 1) => code.load_ax(at).keep_eax(keep),
                (code, 2) => code.load_eax(at).keep_eax(keep),
                (code, _) => code.load_mm0(at).keep_mm0(keep),
            },
            Self::Move(page) => code.outb(MOVER, page),
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let port = prop_oneof![PORTS - 2..PORTS + 9, BELLS - 1..BELLS + 8];
    let bell = prop_oneof![Just(BELL_VALUE), Just(BELL_LENGTH), Just(BELL_ANY)];
    let at = prop_oneof![
        4 => 0xfc_u16..0x104,
        2 => 0x1b8_u16..0x1c4,
        1 => 0x2fe_u16..0x306,
        4 => bell,
        1 => 0xffc_u16..0x1004,
        1 => 0x1100_u16..0x1110,
    ];
    let value = prop_oneof![Just(7), Just(0x41), any::<u32>()];
    prop_oneof![
        6 => (port.clone(), 0..3_u8, value.clone()).prop_map(|(p, s, v)| Op::Out(p, s, v)),
        1 => (port, 0..3_u8).prop_map(|(p, s)| Op::In(p, s)),
        8 => (at.clone(), 0..4_u8, value).prop_map(|(a, s, v)| Op::Store(a, s, v)),
        1 => (at, 0..4_u8).prop_map(|(a, s)| Op::Load(a, s)),
        1 => prop_oneof![Just(0_u8), Just(1), Just(9)].prop_map(Op::Move),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_program_tells_them_apart(ops in prop::collection::vec(op(), 1..400)) {
        let start = Asm::new().load_mm0(0x1000).mov_ds(MMIO_SEGMENT);
        let code = ops.iter().zip((KEPT..).step_by(8)).fold(start, |c, (op, at)| op.assemble(c, at));
        same_for_all(&code);
    }
}
