//! What is the same behind all registers: how a device is started, answers, interrupts, changes its
//! configuration, breaks, is reset and saved; and each device's requests.

use trapline_block::{Disk, DiskOptions, Format};
use trapline_device::{Clock, Size};
use trapline_net::Mac;
use trapline_testkit::virtio::{Part, status};
use trapline_testkit::{TestClock, TestTerminal};

use super::*;
use crate::balloon::Balloon;
use crate::blk::{Background, Blk};
use crate::console::{self, Console, PortSetup};
use crate::features::{ANY_LAYOUT, OF_QUEUES, RING_RESET, VERSION_1};
use crate::net::{Net, NetSetup};
use crate::rng::{Entropy, Rng};
use crate::toy::{Call, DEPENDENT, FEATURE, SIZES, Toy};
use crate::wire::Wire;

const BUFFER: u64 = 0x20_0000;

/// The interrupt status when the configuration has changed: a PCI function's pin says that the driver
/// should look at the queues, too.
fn changed_status(registers: Registers) -> u8 {
    if registers.interface().is_some() { 3 } else { 2 }
}

/// What a toy offers behind these registers.
fn offered(registers: Registers) -> u64 {
    let own = OF_QUEUES | FEATURE | DEPENDENT;
    match registers.are_legacy() {
        false => own | VERSION_1 | RING_RESET,
        true => (own | ANY_LAYOUT) & 0xffff_ffff,
    }
}

fn each(test: impl Fn(Registers, Behind, Arc<Toy>)) {
    for registers in Registers::ALL {
        let toy = Arc::<Toy>::default();
        test(registers, Behind::new(registers, toy.clone()), toy);
    }
}

#[test]
fn a_driver_starts_the_device_gets_answers_and_rings_without_a_call() {
    each(|registers, machine, toy| {
        let driver = machine.driver();
        assert_eq!(driver.transport.is_legacy(), registers.are_legacy());
        assert_eq!(driver.transport.status(), 0);
        let mut rings = [0, 1].map(|queue| machine.ring(&driver, queue));
        assert_eq!(rings.each_ref().map(Ring::size), SIZES, "{registers:?}");
        let features = driver.start(u64::MAX, &[&rings[0], &rings[1]]);
        assert_eq!(features, offered(registers), "{registers:?}");
        machine.settle();
        let settled = if registers.are_legacy() { 0 } else { status::FEATURES_OK };
        let ready = status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK;
        assert_eq!(driver.transport.status(), ready | settled, "{registers:?}");
        let begun = [Call::Reset, Call::Activate(features), Call::Process(0), Call::Process(1)];
        assert_eq!(toy.calls(), begun);
        for (queue, ring) in (0..).zip(&mut rings) {
            ring.set_used_event(0);
            let (head, rung) = (ring.add(&[Part::Write(BUFFER, 2)]), machine.bench.doorbells());
            driver.transport.notify(queue);
            assert_eq!(machine.bench.doorbells(), rung + 1, "{registers:?}");
            assert_eq!(toy.calls(), [], "not in the driver's access");
            machine.settle();
            assert_eq!(ring.take_used(), Some((head.into(), 2)));
            assert_eq!((machine.line.level(), driver.transport.take_interrupts()), (true, 1));
            assert_eq!((machine.line.level(), driver.transport.take_interrupts()), (false, 0));
            assert_eq!(toy.calls(), [Call::Process(queue)]);
        }
        // Where each queue has no doorbell of its own, any number can be rung for.
        if registers.are_legacy() || registers.interface().is_none() {
            [2, 0xffff].into_iter().for_each(|queue| driver.transport.notify(queue));
            machine.settle();
            assert_eq!(toy.calls(), [], "{registers:?}");
        }
    });
}

#[test]
fn a_doorbell_before_the_start_is_heard_then_and_one_after_a_reset_is_not() {
    each(|registers, machine, toy| {
        let driver = machine.driver();
        let mut ring = machine.ring(&driver, 0);
        driver.negotiate(VERSION_1).unwrap();
        driver.transport.enable_queue(0, &(&ring).into());
        ring.add(&[Part::Write(BUFFER, 2)]);
        driver.transport.notify(0);
        machine.settle();
        assert_eq!((ring.used_index(), machine.line.level()), (0, false), "{registers:?}");
        driver.ready();
        machine.settle();
        assert_eq!((ring.used_index(), machine.line.level()), (1, true));
        toy.calls();
        driver.transport.set_status(0);
        assert_eq!((toy.calls(), machine.line.level()), (vec![Call::Reset], false));
        ring.add(&[Part::Write(BUFFER, 2)]);
        driver.transport.notify(0);
        machine.settle();
        assert_eq!((toy.calls(), ring.used_index(), machine.bench.doorbells()), (vec![], 1, 0));
    });
}

#[test]
fn a_reset_forgets_what_is_in_flight_and_everything_can_begin_again() {
    each(|registers, machine, toy| {
        let driver = machine.driver();
        for by_the_board in [false, true] {
            let mut ring = machine.ring(&driver, 0);
            driver.start(VERSION_1, &[&ring]);
            *toy.keeps.lock() = true;
            ring.add(&[Part::Write(BUFFER, 2)]);
            driver.transport.notify(0);
            machine.settle();
            let kept = toy.kept.lock().pop().unwrap();
            match by_the_board {
                true => machine.reset(),
                false => driver.transport.set_status(0),
            }
            assert!(toy.queue(0).serve().is_none(), "{registers:?}");
            *toy.keeps.lock() = false;
            // The board's reset is also that of the addresses.
            let driver = machine.driver();
            assert_eq!(driver.transport.status(), 0);
            let mut ring = machine.ring(&driver, 0);
            driver.start(VERSION_1, &[&ring]);
            toy.queue(0).serve().unwrap().complete(kept, 2);
            assert_eq!(ring.used_index(), 0, "it is nobody's");
            ring.add(&[Part::Write(BUFFER, 2)]);
            driver.transport.notify(0);
            machine.settle();
            assert_eq!(ring.used_index(), 1);
        }
    });
}

#[test]
fn a_driver_hears_of_another_configuration_once_it_is_ready() {
    each(|registers, machine, toy| {
        let driver = machine.driver();
        let ring = machine.ring(&driver, 0);
        assert_eq!(driver.transport.config_read(0, Size::Dword) & 0xffff_ffff, 0x0403_0201);
        let generation = driver.transport.generation();
        toy.set_config([9; 6]);
        assert_eq!(driver.transport.config_read(4, Size::Word) & 0xffff, 0x0909);
        let changed = driver.transport.generation() != generation;
        assert_eq!(changed, !registers.are_legacy(), "{registers:?}");
        driver.start(VERSION_1, &[&ring]);
        assert!(!machine.line.level());
        toy.set_config([8; 6]);
        assert_eq!(
            (machine.line.level(), driver.transport.take_interrupts()),
            (true, changed_status(registers))
        );
        driver.transport.config_write(1, Size::Byte, 7);
        assert_eq!(driver.transport.config_read(0, Size::Dword) & 0xffff_ffff, 0x0808_0708);
    });
}

#[test]
fn a_broken_queue_asks_for_a_reset_and_the_other_goes_on() {
    each(|registers, machine, toy| {
        let driver = machine.driver();
        let mut rings = [0, 1].map(|queue| machine.ring(&driver, queue));
        driver.start(VERSION_1, &[&rings[0], &rings[1]]);
        machine.settle();
        rings[0].offer(0xffff);
        driver.transport.notify(0);
        machine.settle();
        let needs = |status: u8| status & status::NEEDS_RESET != 0;
        assert!(needs(driver.transport.status()), "{registers:?}");
        assert_eq!(driver.transport.take_interrupts(), changed_status(registers));
        rings[1].add(&[Part::Write(BUFFER, 2)]);
        driver.transport.notify(1);
        machine.settle();
        assert_eq!((rings[1].used_index(), driver.transport.take_interrupts()), (1, 1));
        driver.reset();
        assert!(!needs(driver.transport.status()));
        drop(toy);
    });
}

#[test]
fn what_is_saved_goes_on_elsewhere_and_nowhere_else() {
    let saved: Vec<_> = Registers::ALL
        .into_iter()
        .map(|registers| {
            let machine = Behind::new(registers, Arc::<Toy>::default());
            let driver = machine.driver();
            let mut ring = machine.ring(&driver, 0);
            let features = driver.start(u64::MAX, &[&ring]);
            ring.set_used_event(0);
            ring.add(&[Part::Write(BUFFER, 2)]);
            driver.transport.notify(0);
            machine.settle();
            ring.add(&[Part::Write(BUFFER, 2)]);
            (registers, features, machine.save(), machine.bytes(0, 0x2_0000))
        })
        .collect();
    for (registers, features, saved, ram) in &saved {
        let toy = Arc::<Toy>::default();
        let machine = Behind::new(*registers, toy.clone());
        machine.mem.write(0, ram).unwrap();
        machine.restore(saved).unwrap();
        assert_eq!(machine.save(), *saved, "{registers:?}");
        assert_eq!(toy.calls(), [Call::Activate(*features)]);
        assert!(machine.line.level(), "{registers:?}");
        machine.settle();
        assert_eq!(toy.calls(), [Call::Process(0)], "without a notification");
    }
    for (registers, _, _, _) in &saved {
        for (other, _, saved, _) in &saved {
            let machine = Behind::new(*registers, Arc::<Toy>::default());
            let same = registers.interface() == other.interface()
                && (registers.interface().is_some() || registers == other);
            assert_eq!(machine.restore(saved).is_ok(), same, "{other:?} to {registers:?}");
        }
    }
}

/// Bytes that are not zero.
struct Ones;

impl Entropy for Ones {
    fn fill(&self, buf: &mut [u8]) -> std::io::Result<()> {
        buf.fill(1);
        Ok(())
    }
}

#[test]
fn entropy_comes() {
    for registers in Registers::ALL {
        let clock: Arc<dyn Clock> = Arc::new(TestClock::default());
        let machine = Behind::new(registers, Rng::new(Ones, clock));
        let driver = machine.driver();
        let mut ring = machine.ring(&driver, 0);
        driver.start(u64::MAX, &[&ring]);
        ring.set_used_event(0);
        ring.add(&[Part::Write(BUFFER, 5), Part::Write(BUFFER + 16, 3)]);
        driver.transport.notify(0);
        machine.settle();
        assert_eq!(ring.take_used().map(|(_, written)| written), Some(8), "{registers:?}");
        assert_eq!(machine.bytes(BUFFER, 6), [1, 1, 1, 1, 1, 0]);
        assert_eq!(driver.transport.take_interrupts(), 1);
    }
}

#[test]
fn characters_go_both_ways_and_the_terminals_size_is_told_at_the_start() {
    for registers in Registers::ALL {
        let (terminal, clock) = (TestTerminal::default(), Arc::new(TestClock::default()));
        let backend = Arc::new(terminal.clone());
        let setup = PortSetup { name: None, is_console: true, backend };
        let console = Console::new(Some(setup), Vec::new(), clock);
        let machine = Behind::new(registers, console.clone());
        let driver = machine.driver();
        let mut rings = [0, 1].map(|queue| machine.ring(&driver, queue));
        console.resize(console::Size { columns: 80, rows: 25 });
        assert!(!machine.line.level(), "{registers:?}");
        driver.start(u64::MAX, &[&rings[0], &rings[1]]);
        machine.settle();
        let size = || driver.transport.config_read(0, Size::Dword) & 0xffff_ffff;
        let told = (true, changed_status(registers));
        assert_eq!((machine.line.level(), driver.transport.take_interrupts()), told);
        assert_eq!(size(), 25 << 16 | 80);
        rings.iter_mut().for_each(|ring| ring.set_used_event(0));
        machine.mem.write(BUFFER, b"hello").unwrap();
        let head = rings[1].add(&[Part::Read(BUFFER, 5)]);
        driver.transport.notify(1);
        machine.settle();
        assert_eq!(rings[1].take_used(), Some((head.into(), 0)), "{registers:?}");
        assert_eq!((terminal.screen(), driver.transport.take_interrupts()), (b"hello".to_vec(), 1));
        let head = rings[0].add(&[Part::Write(BUFFER, 8)]);
        driver.transport.notify(0);
        terminal.type_in(b"abc");
        console.port(0).poll();
        machine.settle();
        assert_eq!(rings[0].take_used(), Some((head.into(), 3)), "{registers:?}");
        assert_eq!(machine.bytes(BUFFER, 5), *b"abclo");
        assert_eq!(driver.transport.take_interrupts(), 1);
        console.resize(console::Size { columns: 132, rows: 50 });
        assert_eq!((machine.line.level(), driver.transport.take_interrupts()), told);
        assert_eq!(size(), 50 << 16 | 132);
    }
}

#[test]
fn pages_go_into_the_balloon_and_both_sides_say_how_many() {
    for registers in Registers::ALL {
        let clock = Arc::new(TestClock::default());
        let (machine, balloon) =
            Behind::with(registers, |mem| Balloon::new(mem.clone(), 0x3000, clock));
        let driver = machine.driver();
        let mut rings = [0, 1, 2, 3].map(|queue| machine.ring(&driver, queue));
        driver.start(u64::MAX, &rings.each_ref());
        machine.settle();
        let wanted = || driver.transport.config_read(0, Size::Dword) & 0xffff_ffff;
        assert_eq!(wanted(), 3, "{registers:?}");
        let full = |page: u64| machine.bytes(page * 0x1000, 1) == [0xaa];
        let mut ask = |queue: u16, parts: &[Part]| {
            rings[usize::from(queue)].add(parts);
            driver.transport.notify(queue);
            machine.settle();
            rings[usize::from(queue)].take_used().is_some()
        };
        (0x300..0x303).for_each(|page| machine.mem.write(page * 0x1000, &[0xaa]).unwrap());
        machine.mem.write(BUFFER, &0x300_u32.to_le_bytes()).unwrap();
        assert!(ask(0, &[Part::Read(BUFFER, 4)]) && ask(1, &[Part::Read(BUFFER, 4)]));
        assert!(ask(3, &[Part::Write(0x30_1000, 0x1000)]), "reported as free");
        assert_eq!([0x300, 0x301, 0x302].map(full), [false, false, true], "{registers:?}");
        driver.transport.config_write(4, Size::Dword, 2);
        assert_eq!(balloon.held(), 0x2000);
        machine.mem.write(BUFFER, &[4, 0, 7, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert!(!ask(2, &[Part::Read(BUFFER, 10)]), "it waits");
        assert_eq!(balloon.statistics().unwrap().values[4], Some(7));
        driver.transport.take_interrupts();
        balloon.set_held(0x5000);
        assert_eq!(
            (machine.line.level(), driver.transport.take_interrupts()),
            (true, changed_status(registers))
        );
        assert_eq!(wanted(), 5);
    }
}

#[test]
fn a_disk_is_written_flushed_read_named_and_resized() {
    for registers in Registers::ALL {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        std::fs::write(&path, [0; 1 << 16]).unwrap();
        let serial = Some("serial".to_owned());
        let options = DiskOptions { format: Some(Format::Raw), serial, ..DiskOptions::new(&path) };
        let disk = Disk::open(&options).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(TestClock::default());
        let blk = Blk::new(&disk, &clock, Background::Awaited).unwrap();
        let machine = Behind::new(registers, blk.clone());
        let driver = machine.driver();
        let mut ring = machine.ring(&driver, 0);
        assert_eq!(driver.transport.config_read(0, Size::Qword), 128, "{registers:?}");
        driver.start(u64::MAX, &[&ring]);
        let mut ask = |kind: u32, sector: u64, parts: &[Part]| {
            let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
            machine.mem.write(BUFFER, &header).unwrap();
            machine.mem.write(BUFFER + 16, &[0xee]).unwrap();
            let parts = [&[Part::Read(BUFFER, 16)], parts, &[Part::Write(BUFFER + 16, 1)]].concat();
            ring.add(&parts);
            driver.transport.notify(0);
            machine.settle();
            assert!(ring.take_used().is_some(), "{registers:?}");
            machine.bytes(BUFFER + 16, 1)[0]
        };
        let (there, back) = (BUFFER + 0x1000, BUFFER + 0x2000);
        machine.mem.write(there, &[0x5a; 1024]).unwrap();
        assert_eq!(ask(1, 3, &[Part::Read(there, 1024)]), 0);
        assert_eq!(ask(4, 0, &[]), 0);
        assert_eq!(ask(0, 4, &[Part::Write(back, 512)]), 0);
        assert_eq!(machine.bytes(back, 512), [0x5a; 512]);
        assert_eq!(std::fs::read(&path).unwrap()[3 * 512..5 * 512], [0x5a; 1024]);
        assert_eq!(ask(8, 0, &[Part::Write(back, 20)]), 0);
        assert_eq!(machine.bytes(back, 7), *b"serial\0");
        assert_eq!(ask(0, 128, &[Part::Write(back, 512)]), 1, "past the end");
        driver.transport.take_interrupts();
        blk.resize(1 << 17).unwrap();
        assert_eq!(
            (machine.line.level(), driver.transport.take_interrupts()),
            (true, changed_status(registers))
        );
        assert_eq!(driver.transport.config_read(0, Size::Qword), 256);
        assert_eq!(ask(0, 128, &[Part::Write(back, 512)]), 0);
    }
}

#[test]
fn frames_go_both_ways_a_command_is_answered_and_a_link_goes() {
    for registers in Registers::ALL {
        let (wire, mac) = (Wire::able(1), Mac([2, 0, 0, 0, 0, 7]));
        let net = Net::new(NetSetup { mac, mtu: None, speed: Some(1000) }, wire.clone());
        let machine = Behind::new(registers, net.clone());
        let driver = machine.driver();
        let mut rings = [0, 1, 2].map(|queue| machine.ring(&driver, queue));
        assert_eq!(driver.transport.config_read(0, Size::Dword) & 0xffff_ffff, 2, "{registers:?}");
        driver.start(u64::MAX, &rings.each_ref());
        machine.settle();
        rings.iter_mut().for_each(|ring| ring.set_used_event(0));
        driver.transport.take_interrupts();
        machine.mem.write(BUFFER, &[0; 12]).unwrap();
        machine.mem.write(BUFFER + 12, b"out").unwrap();
        let head = rings[1].add(&[Part::Read(BUFFER, 15)]);
        driver.transport.notify(1);
        machine.settle();
        assert_eq!(rings[1].take_used(), Some((head.into(), 0)), "{registers:?}");
        assert_eq!(wire.take_sent()[0].2, b"out");
        assert_eq!(driver.transport.take_interrupts(), 1);
        let head = rings[0].add(&[Part::Write(BUFFER, 64)]);
        driver.transport.notify(0);
        machine.settle();
        wire.comes(b"in, from the wire");
        assert_eq!(rings[0].take_used(), Some((head.into(), 29)), "{registers:?}");
        assert_eq!((machine.line.level(), driver.transport.take_interrupts()), (true, 1));
        assert_eq!(machine.bytes(BUFFER + 12, 17), *b"in, from the wire");
        machine.mem.write(BUFFER, &[0, 0, 0, 0xee]).unwrap();
        rings[2].add(&[Part::Read(BUFFER, 3), Part::Write(BUFFER + 3, 1)]);
        driver.transport.notify(2);
        machine.settle();
        assert_eq!((rings[2].used_index(), machine.bytes(BUFFER + 3, 1)), (1, vec![0]));
        driver.transport.take_interrupts();
        net.set_plugged(false);
        let told = (true, changed_status(registers));
        assert_eq!((machine.line.level(), driver.transport.take_interrupts()), told);
        assert_eq!(driver.transport.config_read(6, Size::Word) & 0xffff, 0);
    }
}
