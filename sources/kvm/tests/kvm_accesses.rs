//! What a guest's accesses look like to a device, and its answers to the guest, byte by byte.

#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use support::{Asm, MMIO, MMIO_SEGMENT, Machine, Recorder, Seen};
use trapline_kvm::{ExitKind, Stop};

#[test]
fn ports_are_written_in_every_width() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    machine.ports(0x3f8, 8, &device);
    let code = Asm::new().outb(0x3f8, 0x41).outw(0x3fa, 0x4342).mov_dx(0x3fc);
    machine.run_to_halt(&code.mov_eax(0x4746_4544).out_eax());
    assert_eq!(
        device.seen(),
        [Seen::Write(0, 1, 0x41), Seen::Write(2, 2, 0x4342), Seen::Write(4, 4, 0x4746_4544)]
    );
}

#[test]
fn ports_are_read_in_every_width() {
    let (mut machine, device) = (Machine::new(), Recorder::answering(&[0x11, 0x2233, 0x4455_6677]));
    machine.ports(0x3f8, 8, &device);
    let keep = |code: Asm, addr| code.keep_eax(addr).mov_eax(0xffff_ffff);
    let mut code = Asm::new().mov_dx(0x3f8).mov_eax(0xffff_ffff);
    code = keep(code.in_al(), 0x100);
    code = keep(code.in_ax(), 0x104);
    code = keep(code.in_eax(), 0x108);
    machine.run_to_halt(&code);
    assert_eq!(machine.read(0x100), [0x11, 0xff, 0xff, 0xff]);
    assert_eq!(machine.read(0x104), [0x33, 0x22, 0xff, 0xff]);
    assert_eq!(machine.read(0x108), [0x77, 0x66, 0x55, 0x44]);
    assert_eq!(device.seen(), [Seen::Read(0, 1), Seen::Read(0, 2), Seen::Read(0, 4)]);
}

#[test]
fn rep_outs_delivers_each_element_in_order() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    machine.ports(0x3f8, 8, &device);
    machine.mem.write(0x200, b"trapline").unwrap();
    let code = Asm::new().mov_dx(0x3f8).mov_si(0x200);
    machine.run_to_halt(&code.clone().mov_cx(8).rep_outsb());
    let expected: Vec<Seen> = b"trapline".iter().map(|c| Seen::Write(0, 1, (*c).into())).collect();
    assert_eq!(device.seen(), expected);
    machine.run_to_halt(&code.mov_cx(4).rep_outsw());
    let words = b"trapline".chunks(2).map(|c| u16::from_le_bytes([c[0], c[1]]));
    let expected: Vec<Seen> = words.map(|word| Seen::Write(0, 2, word.into())).collect();
    assert_eq!(device.seen()[8..], expected);
}

#[test]
fn rep_ins_keeps_its_element_size() {
    let answers: Vec<u64> = (0..8).map(|i| 0x1000 + i * 0x111).collect();
    let (mut machine, device) = (Machine::new(), Recorder::answering(&answers));
    machine.ports(0x1f0, 8, &device);
    let code = Asm::new().mov_dx(0x1f0).mov_di(0x300).mov_cx(8).rep_insw();
    machine.run_to_halt(&code);
    assert_eq!(device.seen(), vec![Seen::Read(0, 2); 8], "words, not 16 bytes and not one access");
    let expected: Vec<u8> =
        answers.iter().flat_map(|v| u16::try_from(*v).unwrap().to_le_bytes()).collect();
    assert_eq!(machine.read::<16>(0x300), expected[..]);
    assert_eq!(machine.read::<2>(0x310), [0, 0], "and no further");
}

#[test]
fn a_long_rep_ins_arrives_whole() {
    let answers: Vec<u64> = (0..5000).map(|i| (i * 7) & 0xff).collect();
    let (mut machine, device) = (Machine::new(), Recorder::answering(&answers));
    machine.ports(0x1f0, 8, &device);
    machine.run_to_halt(&Asm::new().mov_dx(0x1f0).mov_di(0x3000).mov_cx(5000).rep_insb());
    let expected: Vec<u8> = answers.iter().map(|v| u8::try_from(*v).unwrap()).collect();
    assert_eq!(machine.read::<5000>(0x3000), expected[..]);
    assert_eq!(device.seen().len(), 5000);
}

#[test]
fn rep_ins_of_a_port_nobody_has_reads_all_ones() {
    let mut machine = Machine::new();
    machine.run_to_halt(&Asm::new().mov_dx(0x1f0).mov_di(0x300).mov_cx(8).rep_insw());
    assert_eq!(machine.read::<18>(0x300), [[0xff; 16].as_slice(), &[0, 0]].concat()[..]);
}

#[test]
fn device_memory_is_accessed_in_every_width() {
    let answers = [0x11, 0x2233, 0x4455_6677, 0x8899_aabb_ccdd_eeff];
    let (mut machine, device) = (Machine::new(), Recorder::answering(&answers));
    machine.memory(MMIO, 0x1000, &device);
    machine.mem.write(0x200, &0x0123_4567_89ab_cdef_u64.to_le_bytes()).unwrap();
    let code = Asm::new()
        .load_mm0(0x200)
        .mov_ds(MMIO_SEGMENT)
        .mov_eax(0xa3a2_a1a0)
        .store_al(0x10)
        .store_ax(0x20)
        .store_eax(0x30)
        .store_mm0(0x40)
        .mov_eax(0)
        .load_al(0x10)
        .keep_eax(0x300)
        .load_ax(0x20)
        .keep_eax(0x304)
        .load_eax(0x30)
        .keep_eax(0x308)
        .load_mm0(0x40)
        .keep_mm0(0x310);
    machine.run_to_halt(&code);
    assert_eq!(
        device.seen(),
        [
            Seen::Write(0x10, 1, 0xa0),
            Seen::Write(0x20, 2, 0xa1a0),
            Seen::Write(0x30, 4, 0xa3a2_a1a0),
            Seen::Write(0x40, 8, 0x0123_4567_89ab_cdef),
            Seen::Read(0x10, 1),
            Seen::Read(0x20, 2),
            Seen::Read(0x30, 4),
            Seen::Read(0x40, 8),
        ]
    );
    assert_eq!(machine.read(0x300), [0x11, 0, 0, 0]);
    assert_eq!(machine.read(0x304), [0x33, 0x22, 0, 0]);
    assert_eq!(machine.read(0x308), [0x77, 0x66, 0x55, 0x44]);
    assert_eq!(machine.read(0x310), 0x8899_aabb_ccdd_eeff_u64.to_le_bytes());
}

#[test]
fn an_access_across_two_regions_reaches_both() {
    let (mut machine, low, high) =
        (Machine::new(), Recorder::answering(&[0xbbaa]), Recorder::answering(&[0xddcc]));
    machine.memory(MMIO, 0x12, &low);
    machine.memory(MMIO + 0x12, 0x10, &high);
    let code = Asm::new()
        .mov_ds(MMIO_SEGMENT)
        .mov_eax(0x4433_2211)
        .store_eax(0x10)
        .load_eax(0x10)
        .keep_eax(0x300);
    machine.run_to_halt(&code);
    assert_eq!(low.seen(), [Seen::Write(0x10, 2, 0x2211), Seen::Read(0x10, 2)]);
    assert_eq!(high.seen(), [Seen::Write(0, 2, 0x4433), Seen::Read(0, 2)]);
    assert_eq!(machine.read(0x300), [0xaa, 0xbb, 0xcc, 0xdd]);
}

#[test]
fn an_access_past_the_end_of_a_region_is_all_ones_there() {
    let (mut machine, device) = (Machine::new(), Recorder::answering(&[0x34, 0x12]));
    machine.memory(MMIO, 0x12, &device);
    machine.ports(0x3f8, 1, &device);
    let code = Asm::new()
        .mov_ds(MMIO_SEGMENT)
        .load_eax(0x11)
        .keep_eax(0x300)
        .mov_dx(0x3f8)
        .in_eax()
        .keep_eax(0x304);
    machine.run_to_halt(&code);
    assert_eq!(machine.read(0x300), [0x34, 0xff, 0xff, 0xff]);
    assert_eq!(machine.read(0x304), [0x12, 0xff, 0xff, 0xff]);
    assert_eq!(device.seen(), [Seen::Read(0x11, 1), Seen::Read(0, 1)]);
}

/// kvmtool defect B1: a read nobody answers returned what the previous access left in the buffer.
#[test]
fn an_unclaimed_read_after_a_write_is_all_ones() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    machine.memory(MMIO, 0x10, &device);
    machine.ports(0x3f8, 1, &device);
    let code = Asm::new()
        .mov_ds(MMIO_SEGMENT)
        .mov_eax(0x6666_6666)
        .store_eax(0)
        .load_eax(0x800)
        .keep_eax(0x300)
        .outb(0x3f8, 0x66)
        .mov_dx(0x500)
        .in_eax()
        .keep_eax(0x304)
        .mov_eax(0)
        .in_al()
        .keep_eax(0x308);
    machine.run_to_halt(&code);
    assert_eq!(machine.read(0x300), [0xff; 4]);
    assert_eq!(machine.read(0x304), [0xff; 4]);
    assert_eq!(machine.read(0x308), [0xff, 0, 0, 0]);
}

#[test]
fn exits_are_counted_by_kind() {
    let (mut machine, device) = (Machine::new(), Recorder::new());
    machine.ports(0x3f8, 8, &device);
    let code = Asm::new()
        .repeat(10, Asm::new().outb(0x3f8, 0x41))
        .mov_dx(0x3f8)
        .in_al()
        .mov_ds(MMIO_SEGMENT)
        .store_al(0)
        .load_al(0)
        .load_al(1)
        .hlt();
    let running = machine.start(&code);
    assert_eq!(running.wait(), Stop::Halted);
    let vcpus = running.set.stop().unwrap();
    let stats = running.set.stats()[0];
    assert_eq!(stats.get(ExitKind::PortWrite), 10);
    assert_eq!(stats.get(ExitKind::PortRead), 1);
    assert_eq!(stats.get(ExitKind::MmioWrite), 1);
    assert_eq!(stats.get(ExitKind::MmioRead), 2);
    assert_eq!(stats.get(ExitKind::Halt), 1);
    assert_eq!(vcpus[0].counters().snapshot(), stats);
}
