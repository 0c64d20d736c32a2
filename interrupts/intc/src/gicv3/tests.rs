mod frames;

use std::sync::Arc;

use gicv3_its::command::{Command, RdBase};
use gicv3_its::{CollectionId, Config, DeviceId, EventId};
use trapline_device::{
    Device, Handler, IoCx, Line, LineSink, NoRegions, Requester, SaveState, Size, StateError,
};
use trapline_guestmem::GuestMem;

use super::{Build, GicV3, Outputs};

const DOORBELL: u64 = 0x8090_0040;
const QUEUE: u64 = 0;
const DEVICES: u64 = 0x1_0000;
const COLLECTIONS: u64 = 0x2_0000;
const CONFIG: u64 = 0x3_0000;
const PENDING: u64 = 0x5_0000;
const ITT: u64 = 0x8_0000;
const VALID: u64 = 1 << 63;

/// Two processors, and a driver that has set everything up.
struct Board {
    gic: Arc<GicV3>,
    ram: GuestMem,
    its: Arc<dyn Handler>,
    distributor: Arc<dyn Handler>,
    redistributors: Arc<dyn Handler>,
    interfaces: Arc<dyn Handler>,
    next: u64,
}

fn cx() -> IoCx<'static> {
    IoCx::new(Requester::Vcpu(0), &NoRegions)
}

impl Board {
    fn bare(budget: u32) -> Self {
        Self::on(GuestMem::new(&[(0, 1 << 20)]).unwrap(), budget)
    }

    fn on(ram: GuestMem, budget: u32) -> Self {
        let build = Build { processors: 2, spis: 64, its: Config { budget, ..Config::new() } };
        let outputs =
            (0..2).map(|_| Outputs { irq: Line::unconnected(), fiq: Line::unconnected() });
        let gic = GicV3::new(&build, ram.clone(), outputs.collect()).unwrap();
        Self {
            its: gic.its(),
            distributor: gic.distributor(),
            redistributors: gic.redistributors(),
            interfaces: gic.interfaces(),
            gic,
            ram,
            next: 0,
        }
    }

    fn new() -> Self {
        let board = Self::bare(64);
        board.set_up();
        board
    }

    fn set_up(&self) {
        self.ram.write(CONFIG, &[0xa3; 64]).unwrap();
        self.distributor.write(&cx(), 0, Size::Dword, 2);
        for cpu in 0..2 {
            let frame = cpu * 0x2_0000;
            let write = |offset, size, value| {
                self.redistributors.write(&cx(), frame + offset, size, value);
            };
            write(0x70, Size::Qword, CONFIG | 15);
            write(0x78, Size::Qword, PENDING + cpu * 0x1_0000);
            write(0, Size::Dword, 1);
            self.icc_write(cpu, 0x04, 0xf0);
            self.icc_write(cpu, 0x14, 1);
        }
        self.its.write(&cx(), 0x100, Size::Qword, VALID | DEVICES | 0x200);
        self.its.write(&cx(), 0x108, Size::Qword, VALID | COLLECTIONS | 0x200);
        self.its.write(&cx(), 0x80, Size::Qword, VALID | QUEUE | 0xf);
        self.its.write(&cx(), 0, Size::Dword, 1);
    }

    fn icc_write(&self, cpu: u64, offset: u64, value: u64) {
        self.interfaces.write(&cx(), cpu * 0x1000 + offset, Size::Dword, value);
    }

    fn icc_read(&self, cpu: u64, offset: u64) -> u64 {
        self.interfaces.read(&cx(), cpu * 0x1000 + offset, Size::Dword)
    }

    fn irq(&self, cpu: usize) -> bool {
        self.gic.outputs[cpu].irq.level()
    }

    fn run(&mut self, commands: &[Command]) {
        for command in commands {
            let bytes: Vec<u8> =
                command.encode().iter().flat_map(|word| word.to_le_bytes()).collect();
            self.ram.write(QUEUE + self.next, &bytes).unwrap();
            self.next = (self.next + 32) % 0x1_0000;
        }
        self.its.write(&cx(), 0x88, Size::Dword, self.next);
    }

    fn map(&mut self, device: u32) {
        let (device, collection) = (DeviceId(device), CollectionId(1));
        let itt = ITT + u64::from(device.0) * 0x100;
        self.run(&[
            Command::Mapc { collection, target: RdBase(1), valid: true },
            Command::Mapd { device, size: 2, itt, valid: true },
            Command::Mapti { device, event: EventId(3), intid: 8195, collection },
        ]);
    }
}

#[test]
fn a_functions_message_interrupts_the_processor_of_its_collection() {
    let mut board = Board::new();
    board.map(0x18);
    let messages = board.gic.messages(DOORBELL);
    messages.sink(0x20).send(DOORBELL, 3);
    assert!(!board.irq(1), "another function's event 3 is nobody's");
    messages.sink(0x18).send(DOORBELL + 4, 3);
    messages.sink(0x18).send(0x1000, 3);
    assert!(!board.irq(1), "not to the doorbell");
    messages.sink(0x18).send(DOORBELL, 3);
    assert!(board.irq(1) && !board.irq(0));
    assert_eq!(board.icc_read(1, 0x34), 8195, "HPPIR1");
    assert_eq!(board.icc_read(1, 0x24), 8195, "IAR1");
    assert_eq!(board.icc_read(1, 0x0c), 0xa0, "RPR");
    assert!(!board.irq(1));
    assert_eq!(board.icc_read(1, 0x24), 1023);
    board.icc_write(1, 0x2c, 8195);
    assert_eq!(board.icc_read(1, 0x0c), 0xff);
    assert_eq!(board.gic.report().counters.signals, 1);
}

#[test]
fn a_processors_store_to_translater_is_no_signal() {
    let mut board = Board::new();
    board.map(0);
    board.its.write(&cx(), 0x1_0040, Size::Dword, 3);
    assert!(!board.irq(1));
    assert_eq!(board.gic.report().counters.bad_accesses, 1);
}

#[test]
fn lines_are_shared_and_private_peripheral_interrupts() {
    let board = Board::new();
    let spi = Line::new(board.gic.spi(5));
    board.distributor.write(&cx(), 0x84, Size::Dword, 1 << 5);
    board.distributor.write(&cx(), 0x104, Size::Dword, 1 << 5);
    spi.set(true);
    assert!(board.irq(0));
    assert_eq!(board.icc_read(0, 0x24), 37);
    spi.set(false);
    board.icc_write(0, 0x2c, 37);
    assert!(!board.irq(0));
    let ppi = board.gic.ppi(1, 11);
    board.redistributors.write(&cx(), 0x3_0100, Size::Dword, 1 << 27);
    ppi.set_level(true);
    assert!(!board.irq(1) && !board.gic.outputs[1].fiq.level(), "Group 0 is off");
    board.distributor.write(&cx(), 0, Size::Dword, 3);
    board.icc_write(1, 0x10, 1);
    assert!(board.gic.outputs[1].fiq.level() && !board.irq(1));
    assert_eq!(board.icc_read(1, 0x20), 27, "IAR0");
}

#[test]
fn software_generated_interrupts_and_separate_deactivation() {
    let board = Board::new();
    for cpu in 0..2 {
        board.redistributors.write(&cx(), cpu * 0x2_0000 + 0x1_0080, Size::Dword, 0xffff);
        board.redistributors.write(&cx(), cpu * 0x2_0000 + 0x1_0100, Size::Dword, 0xffff);
        board.icc_write(cpu, 0, 2);
    }
    board.interfaces.write(&cx(), 0x48, Size::Qword, 3 << 24 | 0b11);
    assert!(board.irq(0) && board.irq(1));
    assert_eq!(board.icc_read(0, 0), 0x402, "EOImode, five bits of priority");
    assert_eq!(board.icc_read(1, 0x24), 3);
    board.icc_write(1, 0x2c, 3);
    board.interfaces.write(&cx(), 0x48, Size::Qword, 3 << 24 | 0b10);
    assert!(!board.irq(1), "active until it is deactivated");
    board.icc_write(1, 0x38, 3);
    assert!(board.irq(1));
}

#[test]
fn what_one_access_does_not_finish_the_next_ones_and_the_source_do() {
    let mut board = Board::bare(4);
    board.set_up();
    board.map(0x18);
    let (device, event) = (DeviceId(0x18), EventId(3));
    let mut commands = vec![Command::Sync { target: RdBase(1) }; 20];
    commands.push(Command::Int { device, event });
    board.run(&commands);
    let read = board.gic.report().queue.0;
    assert_eq!(read, 7 * 32, "one budget");
    board.distributor.read(&cx(), 4, Size::Dword);
    assert_eq!(board.gic.report().queue.0, 11 * 32, "any access goes on");
    assert!(board.gic.work());
    while board.gic.work() {}
    assert_eq!(board.gic.report().queue, (24 * 32, 24 * 32));
    assert!(board.irq(1), "the last command's effect has arrived");
}

#[test]
fn accesses_of_no_register_are_ignored_in_every_frame() {
    let board = Board::new();
    for handler in [&board.its, &board.distributor, &board.redistributors, &board.interfaces] {
        for size in [Size::Byte, Size::Word, Size::Dword, Size::Qword] {
            for offset in [0x30, 0x38, 0xfff0, 0x1_fff8, 0xff_0000, u64::MAX - 7] {
                handler.write(&cx(), offset, size, u64::MAX);
                handler.read(&cx(), offset, size);
            }
        }
    }
    assert_eq!(board.icc_read(9, 0x24), 1023, "there is no such processor");
    assert_eq!(board.its.register(0x88, trapline_device::Direction::Read), Some("GITS_CWRITER"));
}

#[test]
fn a_snapshot_goes_on_elsewhere() {
    let mut board = Board::new();
    board.map(0x18);
    let (device, event) = (DeviceId(0x18), EventId(3));
    board.run(&[Command::Int { device, event }]);
    let saved = board.gic.save();
    let other = Board::on(board.ram.clone(), 64);
    other.gic.restore(&saved).unwrap();
    assert!(other.irq(1));
    assert_eq!(other.icc_read(1, 0x24), 8195);
    other.icc_write(1, 0x2c, 8195);
    other.gic.messages(DOORBELL).sink(0x18).send(DOORBELL, 3);
    assert_eq!(other.icc_read(1, 0x24), 8195, "it still translates");
    // Tables that were spoilt in between are refused, and nothing changes.
    board.ram.write(ITT + 0x1800 + 24, &(7u64 << 16 | 1).to_le_bytes()).unwrap();
    let fresh = Board::on(board.ram.clone(), 64);
    let refusal = fresh.gic.restore(&saved);
    assert!(matches!(refusal, Err(StateError::Inconsistent { name: "gicv3", .. })), "{refusal:?}");
    assert!(!fresh.irq(1) && !fresh.gic.report().enabled);
}

#[test]
fn reset_lets_go_of_the_processors() {
    let mut board = Board::new();
    board.map(0x18);
    board.gic.messages(DOORBELL).sink(0x18).send(DOORBELL, 3);
    assert!(board.irq(1));
    board.gic.reset();
    assert!(!board.irq(1) && !board.gic.report().enabled);
    assert_eq!(board.its.read(&cx(), 0, Size::Dword), 0x8000_0000);
}
