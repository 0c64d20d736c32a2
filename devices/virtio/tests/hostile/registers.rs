//! What a driver can do with registers, over whatever transport.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use trapline_device::{Size, Space};
use trapline_testkit::virtio::{Access, QueueSetup, Transport, status};
use trapline_virtio::mmio::regs::WINDOW_LEN;

use crate::machine::Registers;
use crate::victims::{BUFFERS, Kind, RAM, Scene, VICTIM};

/// Something that a driver does with registers.
#[derive(Clone, Copy)]
pub(crate) struct Act {
    pub(crate) name: &'static str,
    /// Whether drivers of before version 1.0 can, and have the same answer.
    pub(crate) legacy: bool,
    pub(crate) run: fn(&mut Scene),
}

const fn act(name: &'static str, run: fn(&mut Scene)) -> Act {
    Act { name, legacy: true, run }
}

const fn modern(name: &'static str, run: fn(&mut Scene)) -> Act {
    Act { name, legacy: false, run }
}

const VERSION_1: u64 = 1 << 32;
const BEGUN: u8 = status::ACKNOWLEDGE | status::DRIVER;
const SETTLED: u8 = BEGUN | status::FEATURES_OK;

fn transport(scene: &Scene) -> Box<dyn Transport + '_> {
    scene.machine.transport(VICTIM)
}

/// From a reset to before features.
fn begin(scene: &Scene) -> Box<dyn Transport + '_> {
    let transport = transport(scene);
    transport.set_status(0);
    transport.set_status(BEGUN);
    transport
}

/// Where the victim's registers are: spaces, addresses and lengths.
fn areas(scene: &Scene) -> Vec<(Space, u64, u64)> {
    match scene.machine.registers.interface() {
        None => vec![(Space::Mmio, VICTIM.memory, WINDOW_LEN)],
        Some(_) => {
            vec![(Space::Mmio, VICTIM.memory, 0x2_0000), (Space::Pio, VICTIM.ports, 0x100)]
        }
    }
}

/// Starts the victim anew, with its first queue at such a place.
fn start_with(scene: &Scene, setup: QueueSetup) -> u8 {
    let transport = begin(scene);
    transport.set_driver_features(VERSION_1);
    transport.set_status(SETTLED);
    transport.enable_queue(0, &setup);
    transport.set_status(SETTLED | status::DRIVER_OK);
    scene.machine.bench.settle();
    transport.status()
}

fn place(scene: &Scene) -> QueueSetup {
    QueueSetup::from(&scene.rings[0])
}

fn refuses(scene: &mut Scene, change: fn(&mut QueueSetup)) {
    let mut setup = place(scene);
    change(&mut setup);
    assert_ne!(start_with(scene, setup) & status::NEEDS_RESET, 0);
    scene.notify(0);
}

pub(crate) const ACTS: &[Act] = &[
    act("queues-that-are-not-there-are-not-notified", |scene| {
        let count = u16::try_from(scene.rings.len()).unwrap();
        [count, count + 1, 0x7fff, u16::MAX].into_iter().for_each(|queue| scene.notify(queue));
        assert_eq!(scene.status() & status::NEEDS_RESET, 0);
    }),
    act("notifications-before-the-driver-is-ready", |scene| {
        let transport = begin(scene);
        (0..64).for_each(|queue| transport.notify(queue));
        scene.machine.bench.settle();
        assert_eq!(transport.status(), BEGUN);
    }),
    act("notifications-after-a-reset", |scene| {
        let ring = &mut scene.rings[0];
        let before = ring.used_index();
        ring.add(&[trapline_testkit::virtio::Part::Write(BUFFERS, 8)]);
        let transport = transport(scene);
        transport.set_status(0);
        transport.notify(0);
        scene.machine.bench.settle();
        assert_eq!(scene.rings[0].used_index(), before, "nothing is published");
    }),
    act("a-storm-of-notifications", |scene| {
        for _ in 0..1000 {
            transport(scene).notify(0);
        }
        scene.machine.bench.settle();
        assert_eq!(scene.status() & status::NEEDS_RESET, 0);
    }),
    act("a-storm-of-resets", |scene| {
        for _ in 0..50 {
            scene.start(VERSION_1);
            transport(scene).set_status(0);
        }
        assert_eq!(scene.status(), 0);
    }),
    act("ready-twice", |scene| {
        let transport = transport(scene);
        let before = transport.status();
        transport.set_status(before);
        scene.machine.bench.settle();
        assert_eq!(transport.status(), before);
    }),
    act("failed-until-a-reset", |scene| {
        let transport = transport(scene);
        transport.set_status(transport.status() | status::FAILED);
        assert_ne!(transport.status() & status::FAILED, 0);
    }),
    act("bits-of-the-status-are-not-taken-back", |scene| {
        let transport = transport(scene);
        let before = transport.status();
        transport.set_status(status::ACKNOWLEDGE);
        assert_eq!(transport.status(), before);
    }),
    act("needs-reset-is-not-the-drivers", |scene| {
        let transport = transport(scene);
        transport.set_status(transport.status() | status::NEEDS_RESET | 0x30);
        assert_eq!(transport.status() & (status::NEEDS_RESET | 0x30), 0);
    }),
    modern("features-that-are-not-offered", |scene| {
        let transport = begin(scene);
        let offered = transport.device_features();
        for bit in (0..64).map(|bit| 1 << bit).filter(|bit| offered & bit == 0) {
            transport.set_driver_features(VERSION_1 | bit);
            transport.set_status(SETTLED);
            assert_eq!(transport.status(), BEGUN, "{bit:#x}");
        }
    }),
    modern("no-version-1", |scene| {
        let transport = begin(scene);
        transport.set_driver_features(transport.device_features() & !VERSION_1);
        transport.set_status(SETTLED);
        assert_eq!(transport.status(), BEGUN);
    }),
    modern("features-that-change-when-they-are-settled", |scene| {
        let transport = begin(scene);
        transport.set_driver_features(VERSION_1);
        transport.set_status(SETTLED);
        transport.set_driver_features(u64::MAX);
        transport.set_status(SETTLED | status::DRIVER_OK);
        assert_eq!(transport.status(), SETTLED | status::DRIVER_OK);
    }),
    modern("ready-without-features", |scene| {
        let transport = begin(scene);
        transport.set_status(BEGUN | status::DRIVER_OK);
        assert_eq!(transport.status(), BEGUN);
    }),
    act("the-same-features-after-a-reset", |scene| {
        let before = transport(scene).device_features();
        transport(scene).set_status(0);
        assert_eq!(transport(scene).device_features(), before);
    }),
    act("a-queue-that-is-not-ram", |scene| {
        let mut setup = place(scene);
        (setup.descriptors, setup.driver, setup.device) = (RAM, RAM + 0x1000, RAM + 0x2000);
        assert_ne!(start_with(scene, setup) & status::NEEDS_RESET, 0);
    }),
    modern("descriptors-not-ram", |scene| refuses(scene, |setup| setup.descriptors = RAM)),
    modern("descriptors-past-the-end", |scene| {
        refuses(scene, |setup| setup.descriptors = RAM - 16)
    }),
    modern("descriptors-wrap", |scene| refuses(scene, |setup| setup.descriptors = !15)),
    modern("descriptors-unaligned", |scene| refuses(scene, |setup| setup.descriptors += 8)),
    modern("driver-area-not-ram", |scene| refuses(scene, |setup| setup.driver = RAM)),
    modern("driver-area-past-the-end", |scene| refuses(scene, |setup| setup.driver = RAM - 4)),
    modern("driver-area-wraps", |scene| refuses(scene, |setup| setup.driver = !1)),
    modern("driver-area-unaligned", |scene| refuses(scene, |setup| setup.driver += 1)),
    modern("driver-area-nowhere", |scene| refuses(scene, |setup| setup.driver = 0)),
    modern("device-area-not-ram", |scene| refuses(scene, |setup| setup.device = RAM)),
    modern("device-area-past-the-end", |scene| refuses(scene, |setup| setup.device = RAM - 4)),
    modern("device-area-wraps", |scene| refuses(scene, |setup| setup.device = !3)),
    modern("device-area-unaligned", |scene| refuses(scene, |setup| setup.device += 2)),
    modern("areas-on-each-other", |scene| {
        let mut setup = place(scene);
        setup.driver = setup.descriptors;
        setup.device = setup.descriptors;
        start_with(scene, setup);
        scene.notify(0);
    }),
    modern("sizes-that-are-none", |scene| {
        let most = transport(scene).queue_size_max(0);
        for size in [0, 3, most - 1, most * 2, 0x8000, u16::MAX] {
            let mut setup = place(scene);
            setup.size = size;
            let told = start_with(scene, setup);
            assert_eq!(told & status::NEEDS_RESET, 0, "{size} is ignored");
        }
    }),
    act("a-queue-that-is-set-up-while-it-is-used", |scene| {
        let mut setup = place(scene);
        setup.descriptors = BUFFERS;
        if !scene.machine.registers.are_legacy() {
            transport(scene).enable_queue(0, &setup);
            scene.machine.bench.settle();
            assert_eq!(scene.status() & status::NEEDS_RESET, 0);
            let parts = [trapline_testkit::virtio::Part::Read(BUFFERS, 0)];
            let kept = scene.kind.keeps(0);
            assert!(kept || scene.request(0, &parts).is_some(), "it is where it was");
        }
    }),
    act("queues-that-are-not-there", |scene| {
        let transport = transport(scene);
        let count = u16::try_from(scene.rings.len()).unwrap();
        for queue in [count, 0x1000, u16::MAX] {
            assert_eq!(transport.queue_size_max(queue), 0);
            transport.enable_queue(queue, &QueueSetup::from(&scene.rings[0]));
        }
        assert_eq!(transport.status() & status::NEEDS_RESET, 0);
    }),
    act("the-configuration-to-its-end-and-past-it", |scene| {
        let transport = transport(scene);
        for offset in (0..0x100).step_by(1) {
            for size in [Size::Byte, Size::Word, Size::Dword] {
                if offset % size.bytes() as u64 == 0 {
                    let _ = transport.config_read(offset, size);
                }
            }
        }
        assert_eq!(transport.config_read(0xfc, Size::Dword) & 0xffff_ffff, 0xffff_ffff);
    }),
    act("a-configuration-that-is-written-all-over", |scene| {
        let transport = transport(scene);
        for value in [0, u64::MAX, 0x5a5a_5a5a_5a5a_5a5a] {
            for offset in 0..0x100 {
                transport.config_write(offset, Size::Byte, value & 0xff);
            }
            for offset in (0..0x100).step_by(4) {
                transport.config_write(offset, Size::Dword, value & 0xffff_ffff);
            }
        }
        scene.machine.bench.settle();
        assert_eq!(transport.status() & status::NEEDS_RESET, 0);
    }),
    act("registers-at-random", |scene| {
        let areas = areas(scene);
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let area = (0..areas.len(), any::<u16>(), 0u8..3, any::<bool>(), any::<u32>());
        let access = proptest::collection::vec(area, 2000);
        let accesses = access.new_tree(&mut runner).unwrap().current();
        for (area, offset, size, write, value) in accesses {
            let (space, base, len) = areas[area];
            let size = [Size::Byte, Size::Word, Size::Dword][usize::from(size)];
            // Most of the interesting registers are at the beginning of a page.
            let offset = u64::from(offset) % len.min(0x5000);
            let offset = if value & 1 == 0 { offset & !0xf00 } else { offset };
            if write {
                scene.machine.write(space, base + offset, size, u64::from(value) & size.ones());
            } else {
                let _ = scene.machine.read(space, base + offset, size);
            }
        }
        scene.machine.bench.settle();
    }),
];

/// Does it, and sees what comes of it.
pub(crate) fn run(registers: Registers, kind: Kind, act: &Act) {
    let mut scene = Scene::new(registers, kind, crate::OF_DEVICES);
    (act.run)(&mut scene);
    scene.check();
}
