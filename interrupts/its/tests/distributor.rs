//! The registers of the distributor and of `SGI_base`, bank by bank and width by width, and where
//! SGIs and SPIs go.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::gic::regs::{IROUTER_WRITABLE, SGI_BASE, name};
use gicv3_its::gic::{CpuInterface, Gic, GicState, IDLE, InterruptState, SPURIOUS};
use gicv3_its::redist::regs::typer;
use gicv3_its::redist::{RedistConfig, Redistributors};
use gicv3_its::{RestoreError, Target};
use support::ram::Ram;

const CPU0: Target = Target(0);
const CPU1: Target = Target(1);

/// `GICD_IROUTER<n>` of an SPI.
fn irouter(intid: u64) -> u64 {
    0x6000 + 8 * intid
}

/// A bank of the distributor, of the SPIs 32 to 63, or of `SGI_base`.
#[derive(Clone, Copy, Debug)]
enum Frame {
    Distributor,
    SgiBase,
}

impl Frame {
    /// Offset of the 32-bit register of a bank at `bank` whose fields have `bits` bits.
    fn at(self, bank: u64, bits: u64) -> u64 {
        match self {
            Self::Distributor => bank + 4 * bits,
            Self::SgiBase => SGI_BASE + bank,
        }
    }

    fn read(self, gic: &mut Gic, offset: u64, size: u32) -> u64 {
        match self {
            Self::Distributor => gic.read_distributor(offset, size),
            Self::SgiBase => gic.read_redistributor(CPU1, offset, size),
        }
    }

    fn write(self, gic: &mut Gic, offset: u64, size: u32, value: u64) {
        match self {
            Self::Distributor => gic.write_distributor(offset, size, value),
            Self::SgiBase => gic.write_redistributor(CPU1, offset, size, value, &Ram::default()),
        }
    }
}

const FRAMES: [Frame; 2] = [Frame::Distributor, Frame::SgiBase];

#[test]
fn what_one_register_sets_its_neighbour_clears_and_both_read() {
    for frame in FRAMES {
        for (set, clear) in [(0x100, 0x180), (0x200, 0x280), (0x300, 0x380)] {
            let (set, clear) = (frame.at(set, 1), frame.at(clear, 1));
            let mut gic = Gic::new(2, 64);
            for (offset, value, then) in [
                (set, 0xa000_0105, 0xa000_0105),
                (set, 0x0000_0012, 0xa000_0117),
                (clear, 0x2000_0003, 0x8000_0114),
                (clear, 0x0000_0003, 0x8000_0114),
                (set, 0, 0x8000_0114),
                (clear, 0xffff_ffff, 0),
            ] {
                frame.write(&mut gic, offset, 4, value);
                for offset in [set, clear] {
                    assert_eq!(frame.read(&mut gic, offset, 4), then, "{frame:?} {offset:#x}");
                }
            }
            assert_eq!(gic.bad_accesses, 0);
        }
    }
}

#[test]
fn groups_and_priorities_read_as_they_were_written() {
    for frame in FRAMES {
        let mut gic = Gic::new(2, 64);
        let group = frame.at(0x80, 1);
        for value in [0x8000_0001, 0x0000_1230, 0] {
            frame.write(&mut gic, group, 4, value);
            assert_eq!(frame.read(&mut gic, group, 4), value);
        }
        let priority = frame.at(0x400, 8);
        frame.write(&mut gic, priority, 4, 0xff80_4110);
        assert_eq!(frame.read(&mut gic, priority, 4), 0xf880_4010, "five bits each");
        frame.write(&mut gic, priority + 2, 1, 0x20);
        assert_eq!(frame.read(&mut gic, priority, 4), 0xf820_4010);
        assert_eq!(frame.read(&mut gic, priority + 3, 1), 0xf8);
        assert_eq!(gic.bad_accesses, 0);
    }
}

#[test]
fn spis_and_ppis_are_edges_or_levels_and_sgis_always_edges() {
    let mut gic = Gic::new(2, 64);
    for (frame, register, written, read) in [
        (Frame::Distributor, 0xc08, 0xffff_ffff, 0xaaaa_aaaa),
        (Frame::Distributor, 0xc08, 0x2000_0008, 0x2000_0008),
        (Frame::Distributor, 0xc0c, 0x0000_0002, 0x0000_0002),
        (Frame::SgiBase, SGI_BASE + 0xc00, 0, 0xaaaa_aaaa),
        (Frame::SgiBase, SGI_BASE + 0xc04, 0x8000_0002, 0x8000_0002),
    ] {
        frame.write(&mut gic, register, 4, written);
        assert_eq!(frame.read(&mut gic, register, 4), read, "{register:#x}");
    }
}

#[test]
fn a_banks_last_register_is_its_own() {
    let mut gic = Gic::new(1, 988);
    let places = [0x80, 0x100, 0x200, 0x300].map(|bank| bank + 0x78);
    for (n, place) in places.into_iter().enumerate() {
        gic.write_distributor(place, 4, 1 << n);
        assert_eq!(gic.read_distributor(place, 4), 1 << n);
    }
    // SPIs end at 1019: the last four places of the last register are nobody's.
    gic.write_distributor(0x17c, 4, 0xffff_ffff);
    assert_eq!(gic.read_distributor(0x17c, 4), 0x0fff_ffff);
    assert_eq!(gic.interrupt(CPU0, 1019).map(|spi| spi.enabled), Some(true));
    assert_eq!(gic.interrupt(CPU0, 1020), None);
    // The first 32 interrupts are not the distributor's.
    gic.write_distributor(0x100, 4, 0xffff_ffff);
    assert_eq!((gic.read_distributor(0x100, 4), gic.bad_accesses), (0, 0));
    assert_eq!(gic.interrupt(CPU0, 31).map(|ppi| ppi.enabled), Some(false));
    assert_eq!(gic.interrupt(Target(7), 31), None);
    assert_eq!(gic.interrupt(CPU0, 32).map(|spi| spi.priority), Some(0));
}

#[test]
fn routes_are_written_whole_or_in_halves() {
    let mut gic = Gic::new(2, 64);
    gic.write_distributor(irouter(40), 8, u64::MAX);
    assert_eq!(gic.read_distributor(irouter(40), 8), IROUTER_WRITABLE);
    assert_eq!(gic.read_distributor(irouter(40), 4), IROUTER_WRITABLE & 0xffff_ffff);
    assert_eq!(gic.read_distributor(irouter(40) + 4, 4), IROUTER_WRITABLE >> 32);
    gic.write_distributor(irouter(40), 4, 0x0004_0302);
    assert_eq!(gic.read_distributor(irouter(40), 8), 0xff_0004_0302);
    gic.write_distributor(irouter(40) + 4, 4, 0x5a);
    assert_eq!(gic.read_distributor(irouter(40), 8), 0x5a_0004_0302);
    gic.write_distributor(irouter(40), 4, 0x0000_0001);
    assert_eq!(gic.read_distributor(irouter(40), 8), 0x5a_0000_0001);
    assert_eq!(gic.read_distributor(irouter(41), 8), 0);
    assert_eq!(gic.interrupt(CPU0, 40).map(|spi| spi.route), Some(0x5a_0000_0001));
    // An SPI that is not there has no route, and that is no mistake.
    gic.write_distributor(irouter(200), 8, u64::MAX);
    assert_eq!((gic.read_distributor(irouter(200), 8), gic.bad_accesses), (0, 0));
    for (n, (offset, size)) in
        [(irouter(40) + 4, 8), (irouter(40) + 2, 4), (irouter(40), 2), (irouter(40), 1)]
            .into_iter()
            .enumerate()
    {
        gic.write_distributor(offset, size, 7);
        assert_eq!(gic.read_distributor(offset, size), 0);
        assert_eq!(gic.bad_accesses, 2 * (n as u64 + 1), "{size} bytes at {offset:#x}");
    }
    assert_eq!(gic.read_distributor(irouter(40), 8), 0x5a_0000_0001);
}

#[test]
fn identification_and_control_have_one_width() {
    for (spis, lines) in [(0, 0), (1, 1), (32, 1), (33, 2), (64, 2), (987, 31), (988, 31)] {
        let mut gic = Gic::new(1, spis);
        assert_eq!(gic.read_distributor(4, 4), 15 << 19 | 1 << 17 | lines, "{spis} SPIs");
    }
    let mut gic = Gic::new(2, 64);
    assert_eq!(gic.read_distributor(8, 4), 0x5400_043b);
    assert_eq!(gic.read_distributor(0xc, 4), 0, "GICD_TYPER2");
    assert_eq!(gic.bad_accesses, 0);
    let mut bad = 0;
    for (offset, size) in
        [(0, 1), (0, 8), (4, 2), (8, 8), (0x84, 1), (0x84, 8), (0x86, 4)].into_iter().chain([
            (0xc08, 1),
            (0x420, 2),
            (0x421, 4),
            (0x420, 8),
            (0x40, 4),
            (0xffd0, 8),
            (0x5000, 4),
        ])
    {
        assert_eq!(gic.read_distributor(offset, size), 0, "{size} bytes at {offset:#x}");
        gic.write_distributor(offset, size, u64::MAX);
        bad += 2;
        assert_eq!(gic.bad_accesses, bad, "{size} bytes at {offset:#x}");
        let (at, ram) = (SGI_BASE + offset, Ram::default());
        assert_eq!(gic.read_redistributor(CPU0, at, size), 0);
        gic.write_redistributor(CPU0, at, size, u64::MAX, &ram);
        bad += 2;
        assert_eq!(gic.bad_accesses, bad, "{size} bytes at {at:#x}");
    }
    assert_eq!(gic.save(&Ram::default()), Gic::new(2, 64).save(&Ram::default()));
}

/// IHI 0069 has bytes for `GICD_ITARGETSR<n>`, `GICD_CPENDSGIR<n>` and `GICD_SPENDSGIR<n>`, words
/// for all of them.
#[test]
fn registers_without_a_function_have_their_widths() {
    let mut gic = Gic::new(1, 64);
    let places = [
        (0x800, true),
        (0xbff, true),
        (0xf10, true),
        (0xf2f, true),
        (0x00c, false),
        (0x010, false),
        (0xd00, false),
        (0xd7c, false),
        (0xe00, false),
        (0xf00, false),
    ];
    for (offset, bytes) in places {
        for (at, size, good) in [
            (offset, 1, bytes),
            (offset & !3, 4, true),
            (offset & !1, 2, false),
            (offset & !7, 8, false),
            ((offset & !3) + 2, 4, false),
        ] {
            let before = gic.bad_accesses;
            assert_eq!(gic.read_distributor(at, size), 0);
            let counted = gic.bad_accesses - before;
            assert_eq!(counted, u64::from(!good), "{size} bytes at {at:#x}");
            // The redistributor's first frame is at the start, and has no such registers.
            let before = gic.bad_accesses;
            assert_eq!(gic.read_redistributor(CPU0, SGI_BASE + at, size), 0);
            let counted = gic.bad_accesses - before;
            assert_eq!(counted, u64::from(!good), "{size} bytes at {at:#x} of SGI_base");
        }
    }
}

#[test]
fn the_redistributors_own_frame_is_below_sgi_base() {
    let mut gic = Gic::new(2, 32);
    assert_eq!(gic.read_redistributor(CPU1, 0x8, 8), typer(1, 2).into_bits());
    assert_eq!(gic.read_redistributor(CPU1, 0x4, 4), 0x5400_043b);
    assert_eq!(gic.read_redistributor(CPU1, 0x14, 4), 6, "GICR_WAKER after reset");
    assert_eq!(gic.read_redistributor(Target(2), SGI_BASE + 0x80, 4), 0);
    assert_eq!(gic.bad_accesses, 1, "there is no third one");
    assert_eq!(gic.read_redistributor(Target(2), SGI_BASE + 0x800, 4), 0);
    assert_eq!(gic.bad_accesses, 2);
}

/// Four processors whose affinities differ in one level each.
fn spread() -> (Gic, [u32; 4]) {
    let affinities = [0x0102_0304, 0x0102_1304, 0x0122_0304, 0x3102_0304];
    let mut gic = Gic::new(4, 64);
    let typers = (0..4u16).zip(affinities).map(|(n, aff)| typer(n, 4).with_affinity(aff));
    gic.redistributors = Redistributors::new(RedistConfig::default(), typers);
    for cpu in 0..4 {
        gic.write_redistributor(Target(cpu), SGI_BASE + 0x80, 4, 0xffff_ffff, &Ram::default());
    }
    (gic, affinities)
}

/// Which of the processors have an SGI pending; it is not, afterwards.
fn taken(gic: &mut Gic, intid: u32) -> Vec<u32> {
    let pending: Vec<u32> = (0..gic.redistributors.count())
        .filter(|cpu| gic.interrupt(Target(*cpu), intid).is_some_and(|sgi| sgi.latched))
        .collect();
    for cpu in &pending {
        gic.write_redistributor(Target(*cpu), SGI_BASE + 0x280, 4, 1 << intid, &Ram::default());
    }
    pending
}

/// `ICC_SGI1R_EL1` of IHI 0069: Aff3 at 55:48, RS at 47:44, Aff2 at 39:32, INTID at 27:24, Aff1 at
/// 23:16, and the target list.
#[test]
fn an_sgi_goes_to_the_cluster_named_by_all_three_levels() {
    let (mut gic, affinities) = spread();
    for (cpu, affinity) in (0..).zip(affinities) {
        let [aff3, aff2, aff1, aff0] = affinity.to_be_bytes().map(u64::from);
        let sgi = aff3 << 48 | aff2 << 32 | 9 << 24 | aff1 << 16;
        gic.send_sgi(CPU0, true, sgi | 1 << aff0);
        assert_eq!(taken(&mut gic, 9), [cpu]);
        gic.send_sgi(CPU0, true, sgi | 0xffff & !(1 << aff0));
        assert_eq!(taken(&mut gic, 9), []);
        gic.send_sgi(CPU0, true, sgi | 1 << 44 | 0xffff);
        assert_eq!(taken(&mut gic, 9), [], "the range selector names Aff0 of 16 and up");
    }
    gic.send_sgi(CPU1, true, 1 << 40 | 3 << 24);
    assert_eq!(taken(&mut gic, 3), [0, 2, 3], "all but the sender");
}

#[test]
fn a_target_list_names_sixteen_processors_of_the_range_selected() {
    let mut gic = Gic::new(3, 32);
    let typers = (0..3u16).map(|n| typer(n, 3).with_affinity(u32::from(n) * 16 + 15));
    gic.redistributors = Redistributors::new(RedistConfig::default(), typers);
    for cpu in 0..3 {
        gic.write_redistributor(Target(cpu), SGI_BASE + 0x80, 4, 0xffff_ffff, &Ram::default());
    }
    for range in 0..3 {
        gic.send_sgi(CPU0, true, u64::from(range) << 44 | 1 << 24 | 1 << 15);
        assert_eq!(taken(&mut gic, 1), [range]);
    }
    gic.send_sgi(CPU0, true, 3 << 44 | 1 << 24 | 0xffff);
    assert_eq!(taken(&mut gic, 1), []);
}

#[test]
fn an_spi_goes_to_the_processor_with_all_four_levels_of_its_route() {
    let (mut gic, affinities) = spread();
    gic.write_distributor(0, 4, 3);
    gic.write_distributor(0x84, 4, 1);
    gic.write_distributor(0x104, 4, 1);
    gic.cpus.iter_mut().for_each(|cpu| (cpu.mask, cpu.group1) = (0xff, true));
    gic.set_spi(32, true);
    let ram = Ram::default();
    let mut signalled = |route: u64| -> Vec<u32> {
        gic.write_distributor(irouter(32), 8, route);
        (0..4).filter(|cpu| gic.signalled(Target(*cpu), &ram).is_some()).collect()
    };
    for (cpu, affinity) in (0..).zip(affinities.map(u64::from)) {
        let route = (affinity >> 24) << 32 | affinity & 0xff_ffff;
        assert_eq!(signalled(route), [cpu]);
        assert_eq!(signalled(route ^ 1), []);
        assert_eq!(signalled(route | 1 << 31), [0], "any: the first");
    }
}

#[test]
fn the_highest_of_both_groups_priorities_runs_and_is_dropped_by_its_own_end() {
    let cpu = |active| CpuInterface { active, ..CpuInterface::default() };
    assert_eq!(cpu([0, 0]).running(), IDLE);
    assert_eq!(cpu([1 << 20, 1 << 4]).running(), 4 << 3);
    assert_eq!(cpu([1 << 4, 1 << 4]).running(), 4 << 3);
    assert_eq!(cpu([1 << 31, 0]).running(), 31 << 3);
    for (active, group1, after) in [
        ([0, 0], true, None),
        ([0, 0], false, None),
        ([0, 1 << 4], false, None),
        ([1 << 4, 0], false, Some([0, 0])),
        ([1 << 4 | 1 << 9, 1 << 7], false, Some([1 << 9, 1 << 7])),
        ([1 << 4 | 1 << 9, 1 << 7], true, None),
        ([1 << 8, 1 << 7], true, Some([1 << 8, 0])),
        ([1 << 7, 1 << 7], true, Some([1 << 7, 0])),
        ([1 << 7, 1 << 7], false, Some([0, 1 << 7])),
    ] {
        let mut dropping = cpu(active);
        assert_eq!(dropping.drop_priority(group1), after.is_some(), "{active:x?}");
        assert_eq!(dropping.active, after.unwrap_or(active));
    }
}

/// Everything there is to set, set.
fn all_set() -> Gic {
    let mut gic = Gic::new(2, 64);
    gic.write_distributor(0, 4, 3);
    for frame in FRAMES {
        for bank in [0x80, 0x100, 0x200, 0x300] {
            frame.write(&mut gic, frame.at(bank, 1), 4, 0xffff_ffff);
        }
        for word in 0..8 {
            frame.write(&mut gic, frame.at(0x400, 8) + 4 * word, 4, 0x8080_8080);
        }
        for word in 0..2 {
            frame.write(&mut gic, frame.at(0xc00, 2) + 4 * word, 4, 0xffff_ffff);
        }
    }
    gic.write_distributor(irouter(40), 8, 1);
    for cpu in &mut gic.cpus {
        *cpu = CpuInterface {
            mask: 0xf8,
            group0: true,
            group1: true,
            separate_deactivate: true,
            active: [1 << 3, 1 << 5],
        };
    }
    gic
}

#[test]
fn a_reset_leaves_lines_and_nothing_else() {
    let ram = Ram::default();
    let mut gic = all_set();
    assert_ne!(gic.save(&ram), Gic::new(2, 64).save(&ram));
    gic.set_spi(45, true);
    gic.set_ppi(CPU1, 20, true);
    gic.reset();
    let mut fresh = Gic::new(2, 64);
    fresh.set_spi(45, true);
    fresh.set_ppi(CPU1, 20, true);
    assert_eq!(gic.save(&ram), fresh.save(&ram));
    assert_eq!(gic.interrupt(CPU0, 15).map(|sgi| sgi.edge), Some(true));
    assert_eq!(gic.interrupt(CPU0, 16).map(|ppi| ppi.edge), Some(false));
    assert_eq!(gic.acknowledge(CPU0, true, &ram), SPURIOUS);
}

#[test]
fn all_that_can_be_set_is_saved_and_restored() {
    let (gic, ram) = (all_set(), Ram::default());
    let state = gic.save(&ram);
    assert!(state.processors.iter().all(|one| one.flags == 0b111 && one.mask == 0xf8));
    // Group 1, enabled, latched, active, edge; no line.
    assert!(state.shared[..32].iter().all(|one| one.flags == 0b11_0111 && one.priority == 0x80));
    assert_eq!(state.shared[8].route, 1);
    let mut other = Gic::new(2, 64);
    other.restore(&state, &ram).unwrap();
    assert_eq!(other.save(&ram), state);
    assert_eq!(other.cpus, gic.cpus);
    assert_eq!(other.interrupt(CPU1, 7), gic.interrupt(CPU1, 7));
}

#[test]
fn what_no_controller_can_have_is_not_restored() {
    let ram = Ram::default();
    let state = all_set().save(&ram);
    let with = |change: fn(&mut GicState)| {
        let mut state = state.clone();
        change(&mut state);
        state
    };
    let states = [
        with(|state| state.ctlr = 4),
        with(|state| state.shared[3].flags |= 1 << 6),
        with(|state| state.shared[3].priority = 4),
        with(|state| state.shared[3].route = 1 << 24),
        with(|state| state.processors[1].private[3].flags |= 1 << 7),
        with(|state| state.processors[1].private[15].flags &= !(1 << 5)),
        with(|state| state.processors[1].private.truncate(31)),
        with(|state| state.processors[1].mask = 1),
        with(|state| state.processors[0].flags = 1 << 3),
        with(|state| state.processors.truncate(1)),
        with(|state| state.shared.push(InterruptState::default())),
    ];
    for (n, bad) in states.into_iter().enumerate() {
        let mut gic = Gic::new(2, 64);
        let before = gic.save(&ram);
        assert!(matches!(gic.restore(&bad, &ram), Err(RestoreError::Register(_))), "state {n}");
        assert_eq!(gic.save(&ram), before, "state {n}");
    }
    // A PPI may be a level, and an SGI is not.
    let level = with(|state| state.processors[1].private[16].flags &= !(1 << 5));
    assert_eq!(Gic::new(2, 64).restore(&level, &ram), Ok(()));
}

#[test]
fn every_register_of_both_frames_has_its_name() {
    for (offset, distributor, sgi_base) in [
        (0x0, Some("GICD_CTLR"), None),
        (0x4, Some("GICD_TYPER"), None),
        (0x8, Some("GICD_IIDR"), None),
        (0xc, Some("GICD_TYPER2"), None),
        (0x10, None, None),
        (0x84, Some("GICD_IGROUPR"), Some("GICR_IGROUPR0")),
        (0x100, Some("GICD_ISENABLER"), Some("GICR_ISENABLER0")),
        (0x180, Some("GICD_ICENABLER"), Some("GICR_ICENABLER0")),
        (0x200, Some("GICD_ISPENDR"), Some("GICR_ISPENDR0")),
        (0x280, Some("GICD_ICPENDR"), Some("GICR_ICPENDR0")),
        (0x300, Some("GICD_ISACTIVER"), Some("GICR_ISACTIVER0")),
        (0x380, Some("GICD_ICACTIVER"), Some("GICR_ICACTIVER0")),
        (0x403, Some("GICD_IPRIORITYR"), Some("GICR_IPRIORITYR")),
        (0xc04, Some("GICD_ICFGR"), Some("GICR_ICFGR")),
        (0x60f8, None, None),
        (0x6101, Some("GICD_IROUTER"), None),
        (0x7ffc, Some("GICD_IROUTER"), None),
        (0x8000, None, None),
        (0xffd3, Some("GICD_PIDR4-7"), None),
        (0xffe0, Some("GICD_PIDR0-3"), None),
        (0xffff, Some("GICD_CIDR"), None),
    ] {
        assert_eq!(name(offset, true), distributor, "{offset:#x}");
        assert_eq!(name(offset, false), sgi_base, "{offset:#x} of SGI_base");
    }
    // Between two registers of four bytes.
    assert_eq!(name(0x3, true), Some("GICD_CTLR"));
}

#[test]
fn the_first_spi_is_taken_and_ended_as_any_other() {
    let (mut gic, ram) = (Gic::new(1, 32), Ram::default());
    gic.write_distributor(0, 4, 3);
    gic.write_distributor(0x84, 4, 1);
    gic.write_distributor(0x104, 4, 1);
    gic.cpus.iter_mut().for_each(|cpu| (cpu.mask, cpu.group1) = (0xff, true));
    gic.set_spi(32, true);
    assert_eq!(gic.acknowledge(CPU0, true, &ram), 32);
    assert_eq!(gic.interrupt(CPU0, 32).map(|spi| spi.active), Some(true));
    gic.end(CPU0, true, 32);
    assert_eq!(gic.interrupt(CPU0, 32).map(|spi| spi.active), Some(false));
}

/// Aff0 of 16 needs range selector 1, whatever bit 16 of the register, which is Aff1's, says.
#[test]
fn a_target_list_has_sixteen_bits() {
    let mut gic = Gic::new(1, 32);
    let typers = [typer(0, 1).with_affinity(0x0110)];
    gic.redistributors = Redistributors::new(RedistConfig::default(), typers);
    gic.write_redistributor(CPU0, SGI_BASE + 0x80, 4, 0xffff_ffff, &Ram::default());
    gic.send_sgi(CPU0, true, 1 << 24 | 1 << 16 | 0xffff);
    assert_eq!(taken(&mut gic, 1), []);
    gic.send_sgi(CPU0, true, 1 << 44 | 1 << 24 | 1 << 16 | 1);
    assert_eq!(taken(&mut gic, 1), [0]);
}
