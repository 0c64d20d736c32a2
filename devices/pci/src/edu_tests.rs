//! The educational device, as a driver uses it.

use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{
    Device, EditError, Handler, IoCx, Line, LineSink, Msi, MsiSink, RegionEdit, RegionId, Regions,
    Requester, Size,
};

use crate::edu::Edu;
use crate::{Function, regs};

#[derive(Default)]
struct Log {
    messages: Mutex<Vec<Msi>>,
    levels: Mutex<Vec<bool>>,
    places: Mutex<Vec<Option<u64>>>,
}

struct End(Arc<Log>);

impl LineSink for End {
    fn set_level(&self, level: bool) {
        self.0.levels.lock().push(level);
    }
}

impl MsiSink for Log {
    fn send(&self, address: u64, data: u32) {
        self.messages.lock().push(Msi { address, data });
    }
}

impl Regions for Log {
    fn edit(&self, _edits: Vec<RegionEdit>) -> Result<Vec<RegionId>, EditError> {
        panic!("a function only places its regions")
    }

    fn place(&self, moves: &[(RegionId, Option<u64>)]) -> Result<(), EditError> {
        self.places.lock().extend(moves.iter().map(|(_, base)| *base));
        match moves.iter().find(|(_, base)| *base == Some(0xf000_0000)) {
            Some(&(id, _)) => Err(EditError::Unknown(id)),
            None => Ok(()),
        }
    }
}

fn edu() -> (Edu, Arc<Log>) {
    let log = Arc::<Log>::default();
    let edu = Edu::new(Line::new(End(Arc::clone(&log))), Some(log.clone()));
    edu.connect(RegionId(1));
    (edu, log)
}

impl Edu {
    fn set(&self, log: &Log, offset: u16, value: u32) {
        self.config_write(&IoCx::new(Requester::Vcpu(0), log), offset, Size::Dword, value);
    }

    fn poke(&self, log: &Log, offset: u64, value: u64) {
        Handler::write(self, &IoCx::new(Requester::Vcpu(0), log), offset, Size::Dword, value);
    }

    fn peek(&self, log: &Log, offset: u64) -> u64 {
        Handler::read(self, &IoCx::new(Requester::Vcpu(0), log), offset, Size::Dword)
    }
}

#[test]
fn its_registers_answer_as_edu_rst_says() {
    let (edu, log) = edu();
    assert_eq!(edu.peek(&log, 0), 0x0100_00ed);
    edu.poke(&log, 4, 0x1234_5678);
    assert_eq!(edu.peek(&log, 4), 0xedcb_a987);
    for (n, product) in [(0, 1), (5, 120), (12, 479_001_600), (34, 0), (0xffff_ffff, 0)] {
        edu.poke(&log, 8, n);
        assert_eq!(edu.peek(&log, 8), product, "{n}!");
    }
    assert_eq!(edu.peek(&log, 0x24), 0);
    edu.poke(&log, 0x20, 0xff);
    assert_eq!(edu.peek(&log, 0x20), 0x80);
    edu.poke(&log, 8, 3);
    assert_eq!(edu.peek(&log, 0x24), 1, "the factorial is done");
    for nothing_to_read in [0x10, 0x60, 0x64, 0xa0] {
        assert_eq!(edu.peek(&log, nothing_to_read), 0xffff_ffff);
    }
    assert_eq!(edu.peek(&log, 0x98), 0, "no DMA is under way");
}

#[test]
fn without_messages_the_pin_follows_the_status() {
    let (edu, log) = edu();
    edu.poke(&log, 0x60, 5);
    edu.poke(&log, 0x64, 1);
    assert_eq!((edu.peek(&log, 0x24), log.levels.lock().clone()), (4, vec![true]));
    edu.set(&log, regs::COMMAND, 1 << 10);
    assert_eq!(*log.levels.lock(), [true, false], "INTx is disabled");
    edu.set(&log, regs::COMMAND, 0);
    edu.poke(&log, 0x64, 4);
    assert_eq!(*log.levels.lock(), [true, false, true, false]);
    assert_eq!(*log.messages.lock(), []);
}

#[test]
fn messages_need_their_enable_and_bus_mastering() {
    let (edu, log) = edu();
    let cx = IoCx::new(Requester::Vcpu(0), &*log);
    let at = u16::try_from(edu.config_read(&cx, regs::CAPABILITIES, Size::Byte)).unwrap();
    assert_eq!(edu.config_read(&cx, at, Size::Dword), 0x0080_0005);
    assert_eq!(edu.config_read(&cx, regs::STATUS, Size::Word) & 0x10, 0x10);
    edu.set(&log, at + 4, 0x3ff9_0043);
    edu.set(&log, at + 8, 0x1);
    edu.set(&log, at + 12, 0xabcd_0002);
    edu.set(&log, at, 1 << 16);
    edu.poke(&log, 0x60, 1);
    assert_eq!(*log.messages.lock(), [], "it is no bus master");
    edu.set(&log, regs::COMMAND, 1 << 2);
    edu.poke(&log, 0x60, 2);
    assert_eq!(*log.messages.lock(), [Msi { address: 0x1_3ff9_0040, data: 2 }]);
    assert_eq!(*log.levels.lock(), [], "and the pin rests");
}

#[test]
fn the_registers_are_where_the_bar_says() {
    let (edu, log) = edu();
    edu.set(&log, regs::BAR0, 0x5000_0000);
    edu.set(&log, regs::COMMAND, 2);
    edu.set(&log, regs::BAR0, 0xf000_0000);
    assert_eq!(
        *log.places.lock(),
        [Some(0x5000_0000), Some(0xf000_0000), None],
        "on top of something else it is nowhere"
    );
    edu.reset();
    assert_eq!(edu.place(), Some((RegionId(1), None)));
}
