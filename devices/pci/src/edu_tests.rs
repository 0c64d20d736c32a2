//! The educational device, as a driver uses it.

use std::sync::Arc;

use trapline_device::{Device, Handler, Msi, Size};
use trapline_testkit::CX;

use crate::edu::Edu;
use crate::tests::Log;
use crate::{Function, regs};

fn edu() -> (Function, Arc<Log>) {
    let log = Arc::<Log>::default();
    (log.slot(1, Edu::function), log)
}

impl Function {
    fn set(&self, offset: u16, value: u32) {
        self.config_write(offset, Size::Dword, value);
    }

    fn register_handler(&self) -> Arc<dyn Handler> {
        Arc::clone(&self.bars()[0][0].1.handler)
    }

    fn poke(&self, offset: u64, value: u64) {
        self.register_handler().write(&CX, offset, Size::Dword, value);
    }

    fn peek(&self, offset: u64) -> u64 {
        self.register_handler().read(&CX, offset, Size::Dword)
    }
}

#[test]
fn its_registers_answer_as_edu_rst_says() {
    let (edu, _) = edu();
    assert_eq!(edu.peek(0), 0x0100_00ed);
    edu.poke(4, 0x1234_5678);
    assert_eq!(edu.peek(4), 0xedcb_a987);
    for (n, product) in [(0, 1), (5, 120), (12, 479_001_600), (34, 0), (0xffff_ffff, 0)] {
        edu.poke(8, n);
        assert_eq!(edu.peek(8), product, "{n}!");
    }
    assert_eq!(edu.peek(0x24), 0);
    edu.poke(0x20, 0xff);
    assert_eq!(edu.peek(0x20), 0x80);
    edu.poke(8, 3);
    assert_eq!(edu.peek(0x24), 1, "the factorial is done");
    for nothing_to_read in [0x10, 0x60, 0x64, 0xa0] {
        assert_eq!(edu.peek(nothing_to_read), 0xffff_ffff);
    }
    assert_eq!(edu.peek(0x98), 0, "no DMA is under way");
}

#[test]
fn without_messages_the_pin_follows_the_status() {
    let (edu, log) = edu();
    edu.poke(0x60, 5);
    edu.poke(0x64, 1);
    assert_eq!((edu.peek(0x24), log.levels.lock().clone()), (4, vec![true]));
    edu.set(regs::COMMAND, 1 << 10);
    assert_eq!(*log.levels.lock(), [true, false], "INTx is disabled");
    edu.set(regs::COMMAND, 0);
    edu.poke(0x64, 4);
    assert_eq!(*log.levels.lock(), [true, false, true, false]);
    assert_eq!(*log.messages.lock(), []);
    assert_eq!(edu.config_read(regs::STATUS, Size::Word) & 8, 0, "nothing is left");
    edu.poke(0x60, 1);
    assert_eq!(edu.config_read(regs::STATUS, Size::Word) & 8, 8);
    edu.reset();
    assert_eq!(log.levels.lock().last(), Some(&false));
}

#[test]
fn msi_is_one_message_for_each_time_it_raises() {
    let (edu, log) = edu();
    let at = u16::try_from(edu.config_read(regs::CAPABILITIES, Size::Byte) & 0xff).unwrap();
    assert_eq!(edu.config_read(at, Size::Dword) & 0xffff_00ff, 0x0080_0005);
    assert_eq!(edu.config_read(regs::STATUS, Size::Word) & 0x10, 0x10);
    edu.set(at + 4, 0x3ff9_0043);
    edu.set(at + 8, 0x1);
    edu.set(at + 12, 0xabcd_0002);
    edu.set(at, 1 << 16);
    edu.poke(0x60, 1);
    assert_eq!(*log.messages.lock(), [], "it is no bus master");
    edu.set(regs::COMMAND, 1 << 2);
    edu.poke(0x60, 2);
    edu.poke(0x60, 0x30);
    assert_eq!(*log.messages.lock(), [Msi { address: 0x1_3ff9_0040, data: 2 }; 2]);
    assert_eq!(*log.levels.lock(), [], "and the pin rests");
}

#[test]
fn with_msix_the_lowest_bit_raised_names_the_vector() {
    let (edu, log) = edu();
    let msi = u16::try_from(edu.config_read(regs::CAPABILITIES, Size::Byte) & 0xff).unwrap();
    let at = u16::try_from(edu.config_read(msi + 1, Size::Byte) & 0xff).unwrap();
    assert_eq!(edu.config_read(at, Size::Dword), 0x0003_0011, "four vectors, the last capability");
    assert_eq!(edu.config_read(at + 4, Size::Dword), 1);
    assert_eq!(edu.config_read(at + 8, Size::Dword), 0x801);
    edu.set(regs::COMMAND, 6);
    edu.set(at, 0x8000 << 16);
    let table = Arc::clone(&edu.bars()[1][0].1.handler);
    for vector in 0..4u64 {
        table.write(&CX, 16 * vector, Size::Dword, 0xfee0_0000);
        table.write(&CX, 16 * vector + 8, Size::Dword, 0x40 + vector);
        table.write(&CX, 16 * vector + 12, Size::Dword, 0);
    }
    for raised in [1, 2, 0xc, 8, 0x10, 0xa0] {
        edu.poke(0x60, raised);
    }
    let sent: Vec<u32> = log.messages.lock().iter().map(|message| message.data).collect();
    assert_eq!(sent, [0x40, 0x41, 0x42, 0x43, 0x40, 0x41]);
    assert_eq!(*log.levels.lock(), []);
}
