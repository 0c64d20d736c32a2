//! Every device of this crate is saved and restored in the middle of random accesses.

use std::sync::Arc;

use proptest::prelude::*;
use trapline_device::{NullBackend, Size};
use trapline_testkit::saved::{Act, Rig, Whole, check_saved};
use trapline_testkit::{TestClock, TestLine, TestPower};

use crate::acpi_pm::{AcpiPm, TimerWidth};
use crate::i8042::{I8042, NoTimer2};
use crate::legacy::dma::Dma;
use crate::legacy::{Crtc, DebugPort, Latches, PrinterPort, SystemControl};
use crate::rtc::{CmosConfig, Rtc};
use crate::serial::Serial;

/// The clock's start: the time of day matters to the RTC, and only 2026 to it.
const UTC_START_NS: u64 = 1_767_225_600_000_000_000;

fn rig(device: Arc<dyn Whole>, clock: TestClock, lines: Vec<TestLine>) -> Rig {
    Rig { device, clock, lines }
}

fn plain(device: impl Whole + 'static) -> Rig {
    rig(Arc::new(device), TestClock::default(), Vec::new())
}

/// How to make a device, its length in bytes and the width of its accesses.
type Tested = (fn() -> Rig, u64, Size);

const DEVICES: [Tested; 12] = [
    (serial, 8, Size::Byte),
    (rtc, 2, Size::Byte),
    (i8042, 8, Size::Byte),
    (acpi_pm, 12, Size::Dword),
    (|| plain(Dma::bytes()), 0x20, Size::Byte),
    (|| plain(Dma::words()), 0x20, Size::Byte),
    (|| plain(Latches::post()), 1, Size::Byte),
    (|| plain(Latches::dma_pages()), 15, Size::Byte),
    (|| plain(Crtc::default()), 2, Size::Byte),
    (|| plain(PrinterPort::default()), 3, Size::Byte),
    (|| plain(SystemControl::new(Arc::new(TestPower::default()))), 1, Size::Byte),
    (|| plain(DebugPort::new(None)), 1, Size::Dword),
];

fn serial() -> Rig {
    let (clock, line) = (TestClock::default(), TestLine::default());
    let device = Serial::new(Arc::new(NullBackend), line.line(), Arc::new(clock.clone()));
    rig(device, clock, vec![line])
}

fn rtc() -> Rig {
    let (clock, line) = (TestClock::starting_at(UTC_START_NS), TestLine::default());
    let config = CmosConfig { below_4g: 1 << 30, above_4g: 0, cpus: 1 };
    rig(Rtc::new(line.line(), Arc::new(clock.clone()), config), clock, vec![line])
}

fn i8042() -> Rig {
    let (clock, lines) = (TestClock::default(), [TestLine::default(), TestLine::default()]);
    let [keyboard, mouse] = &lines;
    let device = I8042::new(
        keyboard.line(),
        mouse.line(),
        Arc::new(TestPower::default()),
        Arc::new(clock.clone()),
        Box::new(NoTimer2),
    );
    rig(device, clock, lines.to_vec())
}

fn acpi_pm() -> Rig {
    let (clock, line) = (TestClock::default(), TestLine::default());
    let power = Arc::new(TestPower::default());
    let device = AcpiPm::new(line.line(), Arc::new(clock.clone()), power, TimerWidth::Bits24);
    rig(device, clock, vec![line])
}

/// What a guest and time can do; which device it is, and so how wide, is not known yet.
fn act() -> impl Strategy<Value = (u8, u64, u64)> {
    // Small values are commands more often than others.
    let value = prop_oneof![any::<u64>(), 0u64..0x100];
    (any::<u8>(), any::<u64>(), value)
}

/// One of these for a device of so many bytes.
fn of(len: u64, size: Size) -> impl Fn(&(u8, u64, u64)) -> Act {
    move |(what, place, value)| {
        let offset = place % len / size.bytes() as u64 * size.bytes() as u64;
        match what {
            0..=99 => Act::Read(offset, size),
            100..=244 => Act::Write(offset, size, *value),
            245..=252 => Act::Step(value % 1_100_000_000),
            _ => Act::Reset,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn every_device_goes_on_from_its_saved_state(
        before in prop::collection::vec(act(), 0..200),
        after in prop::collection::vec(act(), 0..100),
        junk in prop::collection::vec(any::<(usize, u8)>(), 0..6),
    ) {
        for (make, len, size) in DEVICES {
            let acts = |of: &dyn Fn(&(u8, u64, u64)) -> Act, list: &[_]| -> Vec<Act> {
                list.iter().map(of).collect()
            };
            let of = of(len, size);
            check_saved(&make, &acts(&of, &before), &acts(&of, &after), &junk);
        }
    }
}
