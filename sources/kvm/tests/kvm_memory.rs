//! Memory as a delivery of a window: a memory slot where KVM can have one, and the same values
//! where the registry answers from the memory itself.

#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::sync::Arc;

use support::{Asm, MMIO, MMIO_SEGMENT, Machine, Offloading, Recorder, Seen};
use trapline::{
    Delivery, DirtyLog, EditError, Memory, Region, RegionEdit, Regions, Registry, Window,
};
use trapline_guestmem::GuestMem;
use trapline_kvm::{ExitKind, Irqchip};

const PAGE: u64 = 4096;
/// Where the guest keeps what it has read.
const KEPT: u16 = 0x3000;
/// Slots of the machine's RAM, which is in two pieces.
const RAM_SLOTS: usize = 2;

/// Memory of some pages, each byte of which tells its place.
fn memory(pages: u64) -> (GuestMem, Arc<dyn Memory>) {
    let mem = GuestMem::new(&[(0, pages * PAGE)]).unwrap();
    let bytes: Vec<u8> = (0..pages * PAGE).map(tag).collect();
    mem.write(0, &bytes).unwrap();
    let piece = mem.pieces().remove(0);
    (mem, Arc::new(piece))
}

fn tag(offset: u64) -> u8 {
    (offset ^ offset >> 8).to_le_bytes()[0]
}

fn window(memory: &Arc<dyn Memory>, at: u64, offset: u64, len: u64, readonly: bool) -> Window {
    let delivery = Delivery::Memory { memory: Arc::clone(memory), offset: at, readonly };
    Window { offset, len, delivery }
}

/// Reads a dword of the device segment at each offset and keeps them one behind the other.
fn read_all(code: Asm, offsets: &[u16]) -> Asm {
    let places = (KEPT..).step_by(4);
    offsets.iter().zip(places).fold(code.mov_ds(MMIO_SEGMENT), |code, (offset, kept)| {
        code.load_eax(*offset).keep_eax(kept)
    })
}

/// Runs the guest to its end, and counts its accesses that came to the registry.
fn run(machine: &mut Machine, code: &Asm) -> u64 {
    let exits = |machine: &mut Machine| {
        let vcpus = machine.take();
        let stats = vcpus[0].counters().snapshot();
        machine.give_back(vcpus);
        stats.get(ExitKind::MmioRead) + stats.get(ExitKind::MmioWrite)
    };
    let before = exits(machine);
    machine.run_to_halt(code);
    exits(machine) - before
}

#[test]
fn a_guest_reads_and_writes_memory_without_an_exit() {
    let mut machine = Machine::new();
    let device = Recorder::new();
    let (mem, memory) = memory(8);
    let region = Region::mmio(MMIO, 8 * PAGE, "card0", "vram", device.clone());
    machine.map(region.window(window(&memory, 0, 0, 8 * PAGE, false)));
    assert_eq!(machine.vm.memory_slots(), RAM_SLOTS + 1);
    let code = read_all(Asm::new(), &[0x1234, 0x7ffc]).mov_al(0x99).store_al(0x2345);
    assert_eq!(run(&mut machine, &code), 0);
    let expected = [0x1234, 0x1235, 0x1236, 0x1237].map(tag);
    assert_eq!(machine.read::<4>(KEPT.into()), expected);
    let mut written = [0];
    mem.read(0x2345, &mut written).unwrap();
    assert_eq!((written, device.seen()), ([0x99], vec![]));
}

/// What a guest did and saw in a segment of windows that are no whole pages.
#[derive(Debug, PartialEq, Eq)]
struct Observed {
    kept: [u8; 128],
    device: Vec<Seen>,
    memory: Vec<u8>,
}

/// A region of 8 pages: read-only memory of less than a page, memory that begins and ends inside of
/// pages with two whole ones between, memory whose pages begin elsewhere, and whole read-only pages.
fn ragged(offloading: Offloading) -> (Observed, u64, usize) {
    let mut machine = Machine::built(1, Irqchip::None, offloading);
    let device = Recorder::new();
    let (mem, memory) = memory(16);
    let region = Region::mmio(MMIO, 8 * PAGE, "card0", "bar0", device.clone())
        .window(window(&memory, 0x100, 0x100, 0x200, true))
        .window(window(&memory, 0x4800, 0x800, 0x2f00, false))
        .window(window(&memory, 0x8010, 0x4000, PAGE, false))
        .window(window(&memory, 0xa000, 0x6000, PAGE, true));
    machine.map(region);
    let slots = machine.vm.memory_slots();
    let borders = [0x100, 0x300, 0x800, 0x1000, 0x3000, 0x3700, 0x4000, 0x5000, 0x6000, 0x7000];
    let around = borders.iter().flat_map(|border| [border - 4, border - 2, *border]);
    let offsets: Vec<u16> = around.collect();
    let stores = offsets.iter().fold(Asm::new().mov_ds(MMIO_SEGMENT), |code, offset| {
        code.mov_eax(0xc0de_0000 | u32::from(*offset)).store_eax(*offset)
    });
    let exits = run(&mut machine, &read_all(stores, &offsets));
    let mut all = vec![0; 16 * 4096];
    mem.read(0, &mut all).unwrap();
    let kept = machine.read(KEPT.into());
    machine.mappings.clear();
    let left = machine.vm.memory_slots();
    let kernel = offloading == Offloading::Kernel;
    assert_eq!(slots - left, if kernel { 2 } else { 0 }, "windows with a whole page");
    assert_eq!(left, RAM_SLOTS);
    (Observed { kept, device: device.seen(), memory: all }, exits, slots)
}

#[test]
fn windows_that_are_no_whole_pages_are_the_same_with_and_without_slots() {
    let (with, few, _) = ragged(Offloading::Kernel);
    let (without, many, _) = ragged(Offloading::Absent);
    assert_eq!(with, without);
    let (declined, as_many, _) = ragged(Offloading::Declining);
    assert_eq!((without, many), (declined, as_many));
    assert!(few < many, "{few} and {many} exits");
}

#[test]
fn a_window_of_memory_in_the_way_of_another_region_is_an_error_that_names_both() {
    let mut machine = Machine::new();
    let (_, memory) = memory(8);
    machine.map(Region::ram(MMIO, "card0", "vram", memory));
    let device = Recorder::new();
    let region = |base| Region::mmio(base, 0x10, "card1", "regs", device.clone());
    let refused = machine.registry.map(region(MMIO + 0x7ff8)).unwrap_err().to_string();
    let expected = "card1/regs at mmio 0xd7ff8..=0xd8007 overlaps card0/vram at \
                    0xd0000..=0xd7fff";
    assert_eq!(refused, expected);
    let refused = machine.registry.map(region(0x1000)).unwrap_err().to_string();
    assert_eq!(refused, "card1/regs at mmio 0x1000..=0x100f overlaps memory/ram at 0x0..=0x7fff");
    assert_eq!(machine.vm.memory_slots(), RAM_SLOTS + 1);
}

#[test]
fn memory_moves_swaps_and_leaves_with_what_was_written_in_it() {
    let mut machine = Machine::new();
    let device = Recorder::new();
    machine.memory(MMIO + 0x8000, 0x4000, &device);
    let [(_, one), (_, two)] = [memory(4), memory(4)];
    two.write(0, &[0x22; 8]);
    machine.map(Region::ram(MMIO, "card0", "one", one));
    machine.map(Region::ram(MMIO + 0x4000, "card0", "two", two));
    let [regs, one, two] = [0, 1, 2].map(|at: usize| machine.mappings[at].id());
    let place = |moves: &[_]| machine.registry.place(moves);
    place(&[(one, Some(MMIO + 0x4000)), (two, Some(MMIO))]).unwrap();
    let registry = machine.registry.clone();
    let code = read_all(Asm::new(), &[0, 0x4001]).mov_al(0x77).store_al(0x4003);
    assert_eq!(run(&mut machine, &code), 0);
    let kept = machine.read::<8>(KEPT.into());
    assert_eq!(kept, [0x22, 0x22, 0x22, 0x22, tag(1), tag(2), tag(3), tag(4)]);
    // Memory and trapped registers change places.
    registry.place(&[(one, Some(MMIO + 0x8000)), (regs, Some(MMIO + 0x4000))]).unwrap();
    let code = read_all(Asm::new(), &[0x8000]).mov_al(0x78).store_al(0x4003);
    assert_eq!(run(&mut machine, &code), 1);
    assert_eq!(machine.read::<4>(KEPT.into()), [tag(0), tag(1), tag(2), 0x77]);
    assert_eq!(device.seen(), [Seen::Write(3, 1, 0x78)]);
    registry.place(&[(one, None), (two, None)]).unwrap();
    assert_eq!(machine.vm.memory_slots(), RAM_SLOTS);
    let nobody = read_all(Asm::new(), &[0, 0x8000]);
    assert_eq!(run(&mut machine, &nobody), 2);
    assert_eq!(machine.read::<8>(KEPT.into()), [0xff; 8]);
}

#[test]
fn an_edit_that_fails_leaves_the_slots_as_they_were() {
    let mut machine = Machine::new();
    let [(_, one), (_, two)] = [memory(4), memory(4)];
    machine.map(Region::ram(MMIO, "card0", "one", Arc::clone(&one)));
    let id = machine.mappings[0].id();
    // KVM refuses a doorbell that it has already, from another registry.
    let bell = support::eventfd();
    let ring = Region::mmio(MMIO + 0x9000, 0x10, "card1", "bell", Recorder::new());
    let ring = ring.doorbell(0, 4, Some(1), bell.clone());
    let other = Registry::builder().offload(machine.vm.offload()).build();
    let _taken = other.map(ring.clone()).unwrap();
    let edits = vec![
        RegionEdit::Place(id, Some(MMIO + 0x4000)),
        RegionEdit::Map(Region::ram(MMIO, "card0", "two", two)),
        RegionEdit::Map(ring),
    ];
    let refused = Regions::edit(&machine.registry, edits).unwrap_err();
    assert!(matches!(refused, EditError::Offload { .. }), "{refused}");
    assert_eq!(machine.vm.memory_slots(), RAM_SLOTS + 1);
    assert_eq!(run(&mut machine, &read_all(Asm::new(), &[0, 0x4000])), 1);
    let kept = machine.read::<8>(KEPT.into());
    assert_eq!(kept, [tag(0), tag(1), tag(2), tag(3), 0xff, 0xff, 0xff, 0xff]);
}

#[test]
fn slots_are_used_again_and_none_is_left_behind() {
    let machine = Machine::new();
    let (_, memory) = memory(4);
    for _ in 0..100 {
        let region = Region::ram(MMIO, "card0", "vram", Arc::clone(&memory));
        let one = machine.registry.map(region).unwrap();
        let region = Region::rom(MMIO + 0x4000, "card0", "rom", Arc::clone(&memory));
        let two = machine.registry.map(region).unwrap();
        assert_eq!(machine.vm.memory_slots(), RAM_SLOTS + 2);
        drop((one, two));
        assert_eq!(machine.vm.memory_slots(), RAM_SLOTS);
    }
    assert_eq!(Arc::strong_count(&memory), 1, "nobody keeps it mapped");
}

/// Pages in a log, by number.
fn pages(log: &dyn DirtyLog) -> Vec<u64> {
    log.take().pages().map(|start| start / PAGE).collect()
}

/// Writes a byte at an offset of the device segment.
fn store(offset: u16) -> Asm {
    Asm::new().mov_ds(MMIO_SEGMENT).mov_al(0x42).store_al(offset)
}

/// What a log tells of the same writes, by guest and device, whoever has the memory.
fn logged(offloading: Offloading) -> Vec<Vec<u64>> {
    let mut machine = Machine::built(1, Irqchip::None, offloading);
    let (mem, memory) = memory(8);
    // The first and the last page are in no slot as a whole.
    let window = window(&memory, 0x800, 0x800, 6 * PAGE + 0xc00, false);
    let region = Region::mmio(MMIO, 8 * PAGE, "card0", "vram", Recorder::new());
    machine.map(region.window(window));
    machine.run_to_halt(&store(0x1000));
    let log = machine.registry.log_dirty(Arc::clone(&memory)).unwrap();
    let mut told = vec![pages(&*log)];
    machine.run_to_halt(&store(0x2345).then(&store(0x7000)).then(&store(0x800)));
    told.push(pages(&*log));
    machine.run_to_halt(&store(0x2345));
    mem.write(0x4ff8, &[1; 16]).unwrap();
    let second = machine.registry.log_dirty(Arc::clone(&memory)).unwrap();
    machine.run_to_halt(&store(0x3000));
    told.extend([pages(&*log), pages(&*second), pages(&*log)]);
    drop(log);
    machine.run_to_halt(&store(0x6fff));
    told.push(pages(&*second));
    told
}

#[test]
fn a_log_names_the_pages_that_guest_and_devices_wrote_with_and_without_slots() {
    let with = logged(Offloading::Kernel);
    let expected: [&[u64]; 6] = [&[], &[0, 2, 7], &[2, 3, 4, 5], &[3], &[], &[6]];
    assert_eq!(with, expected);
    assert_eq!(logged(Offloading::Absent), expected);
    assert_eq!(logged(Offloading::Declining), expected);
}

#[test]
fn memory_that_is_logged_loses_nothing_when_it_moves() {
    let mut machine = Machine::new();
    let (_, memory) = memory(4);
    let log = machine.registry.log_dirty(Arc::clone(&memory)).unwrap();
    machine.map(Region::ram(MMIO, "card0", "vram", Arc::clone(&memory)));
    assert_eq!(pages(&*log), [0; 0]);
    machine.run_to_halt(&store(0x1000));
    let id = machine.mappings[0].id();
    machine.registry.place(&[(id, Some(MMIO + 0x8000))]).unwrap();
    assert_eq!(pages(&*log), [0, 1, 2, 3], "what KVM knew went with the slot");
    machine.run_to_halt(&store(0xa000));
    assert_eq!(pages(&*log), [2], "and the new one has a log");
    drop(log);
    machine.run_to_halt(&store(0xa000));
    let log = machine.registry.log_dirty(memory).unwrap();
    assert_eq!(pages(&*log), [0; 0]);
}

/// A whole life of a slot with a log: another one of the same number knows nothing of it.
#[test]
fn a_second_memory_in_the_same_slot_starts_clean() {
    let mut machine = Machine::new();
    for _ in 0..3 {
        let (_, memory) = memory(4);
        let log = machine.registry.log_dirty(Arc::clone(&memory)).unwrap();
        machine.map(Region::ram(MMIO, "card0", "vram", memory));
        assert_eq!(pages(&*log), [0; 0]);
        machine.run_to_halt(&store(0x1000));
        assert_eq!(pages(&*log), [1]);
        machine.mappings.clear();
    }
    assert_eq!(machine.vm.memory_slots(), RAM_SLOTS);
}
