//! The frames of registers, access by access.

use gicv3_its::command::{Command, RdBase};
use gicv3_its::{DeviceId, EventId};
use trapline_device::{Direction, Handler, IoCx, Limits, Rules, SaveState, Size, StateError};

use super::{Board, COLLECTIONS, DEVICES, VALID, cx};

/// `SGI_base` of a redistributor.
const SGI_BASE: u64 = 0x1_0000;

fn refusal(result: Result<(), StateError>) -> Option<&'static str> {
    match result {
        Err(StateError::Inconsistent { name: "gicv3", rule }) => Some(rule),
        _ => None,
    }
}

#[test]
fn every_processor_has_frames_of_its_own() {
    let board = Board::bare(64);
    let read = |offset, size| board.redistributors.read(&cx(), offset, size);
    // GICR_TYPER: affinity, and the processor's number; the last one says so.
    let [first, second] = [0x8, 0x2_0008].map(|offset| read(offset, Size::Qword));
    assert_eq!((first >> 32, first >> 8 & 0xffff, first >> 4 & 1), (0, 0, 0));
    assert_eq!((second >> 32, second >> 8 & 0xffff, second >> 4 & 1), (1, 1, 1));
    let enable = 0x2_0000 + SGI_BASE + 0x100;
    board.redistributors.write(&cx(), enable, Size::Dword, 1 << 20);
    assert_eq!(read(enable, Size::Dword), 1 << 20);
    assert_eq!(read(SGI_BASE + 0x100, Size::Dword), 0);
}

#[test]
fn frames_take_any_width_and_interfaces_words_and_more() {
    let board = Board::bare(64);
    let any = Rules {
        valid: Limits { min: Size::Byte, max: Size::Qword, unaligned: true },
        handled: Limits { min: Size::Byte, max: Size::Qword, unaligned: false },
    };
    for frame in [&board.its, &board.distributor, &board.redistributors] {
        assert_eq!(frame.rules(), any);
    }
    let words = Limits { min: Size::Dword, max: Size::Qword, unaligned: false };
    assert_eq!(board.interfaces.rules(), Rules { valid: words, handled: words });
}

#[test]
fn an_interfaces_register_has_one_width_at_one_offset() {
    let board = Board::new();
    let (read, write) = (Direction::Read, Direction::Write);
    let cx: IoCx<'static> = cx();
    // ICC_CTLR_EL1 is 32 bits, ICC_SGI1R_EL1 is 64.
    assert_eq!(board.interfaces.read(&cx, 0, Size::Dword), 0x400);
    assert_eq!(board.interfaces.read(&cx, 0, Size::Qword), 0);
    assert_eq!(board.interfaces.read(&cx, 2, Size::Dword), 0);
    board.redistributors.write(&cx, 0x2_0000 + SGI_BASE + 0x80, Size::Dword, 0xffff_ffff);
    board.redistributors.write(&cx, 0x2_0000 + SGI_BASE + 0x100, Size::Dword, 0xffff_ffff);
    for (offset, size) in [(0x48, Size::Dword), (0x4c, Size::Qword), (0x4c, Size::Dword)] {
        board.interfaces.write(&cx, offset, size, 5 << 24 | 0b10);
        assert!(!board.irq(1), "{size} bytes at {offset:#x}");
    }
    board.interfaces.write(&cx, 0x48, Size::Qword, 5 << 24 | 0b10);
    assert!(board.irq(1));
    for (offset, reads, writes) in [
        (0x00, Some("ICC_CTLR_EL1"), Some("ICC_CTLR_EL1")),
        (0x08, Some("ICC_BPR1_EL1"), None),
        (0x1024, Some("ICC_IAR1_EL1"), None),
        (0x102c, None, Some("ICC_EOIR1_EL1")),
        (0x1048, None, Some("ICC_SGI1R_EL1")),
        (0x100, None, None),
    ] {
        assert_eq!(board.interfaces.register(offset, read), reads, "{offset:#x}");
        assert_eq!(board.interfaces.register(offset, write), writes, "{offset:#x}");
    }
}

#[test]
fn an_interface_keeps_the_bits_it_has() {
    let board = Board::bare(64);
    for (offset, values) in [
        (0x00, [(0, 0x400), (2, 0x402), (!2, 0x400)]),
        (0x04, [(7, 0), (0xff, 0xf8), (0x1a5, 0xa0)]),
        (0x10, [(0, 0), (1, 1), (!1, 0)]),
        (0x14, [(0, 0), (1, 1), (!1, 0)]),
        // Read-only: ICC_BPR1_EL1, ICC_RPR_EL1 with nothing running, ICC_AP1R0_EL1.
        (0x08, [(0, 3), (7, 3), (1, 3)]),
        (0x0c, [(0, 0xff), (7, 0xff), (1, 0xff)]),
        (0x54, [(0, 0), (7, 0), (1, 0)]),
    ] {
        for (written, read) in values {
            board.icc_write(1, offset, written & 0xffff_ffff);
            assert_eq!(board.icc_read(1, offset), read, "{written:#x} at {offset:#x}");
        }
    }
}

#[test]
fn registers_are_named_in_every_frame() {
    let board = Board::bare(64);
    let name = |frame: &dyn Handler, offset| frame.register(offset, Direction::Read);
    assert_eq!(name(&*board.distributor, 0x4), Some("GICD_TYPER"));
    assert_eq!(name(&*board.distributor, 0x10), None);
    for processor in [0, 0x2_0000] {
        assert_eq!(name(&*board.redistributors, processor + 0x78), Some("GICR_PENDBASER"));
        let enable = processor + SGI_BASE + 0x100;
        assert_eq!(name(&*board.redistributors, enable), Some("GICR_ISENABLER0"));
        assert_eq!(name(&*board.redistributors, processor + SGI_BASE), None);
    }
    assert_eq!(name(&*board.its, 0x1_0040), Some("GITS_TRANSLATER"));
}

#[test]
fn a_snapshot_that_is_refused_says_what_is_wrong() {
    let board = Board::new();
    let good = board.gic.save();
    // The first number is GICD_CTLR.
    let mut bad = good.clone();
    bad.bytes[0] = 0x7f;
    assert_eq!(refusal(board.gic.restore(&bad)), Some("every register has a possible value"));
    // Tables where the next guest has no RAM.
    board.its.write(&cx(), 0, Size::Dword, 0);
    board.its.write(&cx(), 0x100, Size::Qword, VALID | DEVICES | 0x200);
    board.its.write(&cx(), 0x108, Size::Qword, VALID | COLLECTIONS | 0x200);
    board.its.write(&cx(), 0, Size::Dword, 1);
    let saved = board.gic.save();
    let ram = trapline_guestmem::GuestMem::new(&[(0, 0x1_0000)]).unwrap();
    let smaller = Board::on(ram, 64);
    assert_eq!(refusal(smaller.gic.restore(&saved)), Some("the ITS's tables are in guest RAM"));
}

#[test]
fn what_was_not_finished_at_a_snapshot_is_finished_after_it() {
    let mut board = Board::bare(4);
    board.set_up();
    board.map(0x18);
    let (device, event) = (DeviceId(0x18), EventId(3));
    let mut commands = vec![Command::Sync { target: RdBase(1) }; 20];
    commands.push(Command::Int { device, event });
    board.run(&commands);
    let saved = board.gic.save();
    let other = Board::on(board.ram.clone(), 4);
    other.gic.restore(&saved).unwrap();
    assert_ne!(other.gic.report().queue.0, 24 * 32);
    assert!(other.gic.work());
    while other.gic.work() {}
    assert_eq!(other.gic.report().queue, (24 * 32, 24 * 32));
    assert!(other.irq(1));
    let read = other.gic.report().queue.0;
    other.gic.restore(&other.gic.save()).unwrap();
    assert!(!other.gic.work());
    assert_eq!(other.gic.report().queue.0, read);
}
