//! What the bus has of every function: resets, power states, the Interrupt Status bit, MSI-X.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use trapline_device::{
    Device, Form, Handler, Interrupt, IoCx, Msi, SaveState, Saved, Size, StateError,
};
use trapline_testkit::CX;

use crate::config::{CapabilityId, Pin};
use crate::regs;
use crate::tests::Log;
use crate::{Bar, Function, FunctionBuilder, Identity, MsixLayout, PciDevice, Slot};

/// A device with one register, and interrupts that the test fires.
struct Toy {
    interrupts: Vec<Interrupt>,
    register: Mutex<u64>,
}

impl PciDevice for Toy {
    fn bar_read(&self, _cx: &IoCx<'_>, _bar: usize, offset: u64, _size: Size) -> u64 {
        *self.register.lock() + offset
    }

    fn bar_write(&self, _cx: &IoCx<'_>, _bar: usize, _offset: u64, _size: Size, value: u64) {
        *self.register.lock() = value;
    }
}

impl Device for Toy {
    fn reset(&self) {
        *self.register.lock() = 0;
        self.interrupts.iter().for_each(|interrupt| interrupt.set_level(false));
    }
}

#[derive(Serialize, Deserialize)]
struct ToyV1(u64);

impl Form for ToyV1 {
    const NAME: &'static str = "toy";
    const VERSION: u32 = 1;
}

impl SaveState for Toy {
    fn save(&self) -> Saved {
        Saved::encode(&ToyV1(*self.register.lock()))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        *self.register.lock() = saved.decode::<ToyV1>()?.0;
        Ok(())
    }
}

const IDENTITY: Identity = Identity {
    vendor: 0x1234,
    device: 0x1111,
    revision: 0,
    class: 0xff_0000,
    subsystem_vendor: 0,
    subsystem: 0,
    pin: Some(Pin::A),
    multi_function: false,
};

/// A function, its device, and where its interrupts end.
struct Bench {
    function: Function,
    toy: Arc<Toy>,
    log: Arc<Log>,
}

impl Bench {
    /// A function with as many interrupts as vectors, and MSI besides.
    fn with(vectors: u16, start: fn(Slot<'_>) -> FunctionBuilder<'_>) -> Self {
        let log = Arc::<Log>::default();
        let (function, toy) = log.slot(5, |slot| {
            let bar = Bar::Mem64 { len: 0x1_0000, prefetchable: false };
            let mut builder = start(slot).bar(2, bar).msi();
            builder = builder.msix(MsixLayout::in_bar(2, vectors));
            let interrupts = (0..usize::from(vectors)).map(|n| builder.interrupt(n)).collect();
            let toy = Arc::new(Toy { interrupts, register: Mutex::default() });
            (builder.build(toy.clone()), toy)
        });
        Self { function, toy, log }
    }

    fn new(vectors: u16) -> Self {
        Self::with(vectors, |slot| FunctionBuilder::new(slot, &IDENTITY))
    }

    fn read(&self, offset: u16, size: Size) -> u32 {
        self.function.config_read(offset, size) & u32::try_from(size.ones()).unwrap()
    }

    fn write(&self, offset: u16, size: Size, value: u32) -> bool {
        self.function.config_write(offset, size, value)
    }

    fn capability(&self, id: CapabilityId) -> u16 {
        let mut at = u16::try_from(self.read(regs::CAPABILITIES, Size::Byte)).unwrap();
        while self.read(at, Size::Byte) != u32::from(id.0) {
            assert_ne!(at, 0, "no capability {id:?}");
            at = u16::try_from(self.read(at + 1, Size::Byte)).unwrap();
        }
        at
    }

    /// The region of the BAR that is called so.
    fn region(&self, name: &str) -> (u64, Arc<dyn Handler>, u64) {
        let pieces = self.function.bars().iter().flatten();
        let mut named = pieces.filter(|(_, region)| &*region.name.region == name);
        let (offset, region) = named.next().unwrap();
        (*offset, Arc::clone(&region.handler), region.len)
    }

    fn table(&self, offset: u64) -> u64 {
        self.region("msix-table").1.read(&CX, offset, Size::Dword)
    }

    fn set_table(&self, offset: u64, value: u64) {
        self.region("msix-table").1.write(&CX, offset, Size::Dword, value);
    }

    fn pending(&self, offset: u64) -> u64 {
        self.region("msix-pba").1.read(&CX, offset, Size::Dword)
    }

    /// Enabled, unmasked, bus master; the entries are masked.
    fn enable_msix(&self) -> u16 {
        let at = self.capability(CapabilityId::MSIX);
        self.write(regs::COMMAND, Size::Word, 6);
        self.write(at + 2, Size::Word, 0x8000);
        at
    }

    fn fill(&self, vector: u64) {
        self.set_table(16 * vector, 0xfee0_0000 | vector << 12);
        self.set_table(16 * vector + 8, 0x40 + vector);
    }

    fn sent(&self) -> Vec<Msi> {
        std::mem::take(&mut self.log.messages.lock())
    }

    fn levels(&self) -> Vec<bool> {
        std::mem::take(&mut self.log.levels.lock())
    }
}

fn message(vector: u32) -> Msi {
    Msi { address: 0xfee0_0000 | u64::from(vector) << 12, data: 0x40 + vector }
}

#[test]
fn the_table_and_the_pending_bits_are_regions_and_the_device_has_the_rest_of_the_bar() {
    let bench = Bench::new(65);
    let at = bench.capability(CapabilityId::MSIX);
    assert_eq!(bench.read(at + 2, Size::Word), 64, "65 vectors, disabled, not masked");
    assert_eq!(bench.read(at + 4, Size::Dword), 2, "the table, at the start of BAR2");
    assert_eq!(bench.read(at + 8, Size::Dword), 0x410 | 2);
    let (table, _, len) = bench.region("msix-table");
    assert_eq!((table, len), (0, 65 * 16));
    let (pending, _, len) = bench.region("msix-pba");
    assert_eq!((pending, len), (65 * 16, 16), "two qwords");
    let (rest, _, len) = bench.region("bar2");
    assert_eq!((rest, len), (0x420, 0x1_0000 - 0x420));
    let pieces = bench.function.bars()[2].iter();
    let mut ends = pieces.map(|(offset, region)| (*offset, offset + region.len));
    assert!(ends.clone().zip(ends.by_ref().skip(1)).all(|((_, end), (start, _))| end == start));
}

#[test]
fn a_table_is_all_masked_after_a_reset() {
    let bench = Bench::new(3);
    for vector in 0..3 {
        let entry: Vec<u64> = (0..4).map(|dword| bench.table(16 * vector + 4 * dword)).collect();
        assert_eq!(entry, [0, 0, 0, 1]);
    }
    let at = bench.enable_msix();
    bench.set_table(0, 0xffff_ffff);
    bench.set_table(4, 0xffff_ffff);
    bench.set_table(8, 0xffff_ffff);
    bench.set_table(12, 0xffff_fffe);
    assert_eq!(
        (bench.table(0), bench.table(4), bench.table(8)),
        (0xffff_fffc, 0xffff_ffff, 0xffff_ffff)
    );
    assert_eq!(bench.table(12), 0, "one bit of control");
    bench.toy.interrupts[1].trigger();
    assert_eq!(bench.pending(0), 2);
    bench.function.reset();
    assert_eq!((bench.table(0), bench.table(8), bench.table(12)), (0, 0, 1));
    assert_eq!(bench.pending(0), 0);
    assert_eq!(bench.read(at + 2, Size::Word), 2);
    assert_eq!(bench.sent(), []);
}

#[test]
fn what_is_masked_is_pending_and_sent_once_when_it_is_unmasked() {
    let bench = Bench::new(40);
    let at = bench.enable_msix();
    (0..40).for_each(|vector| bench.fill(vector));
    for vector in [33usize, 33, 2] {
        bench.toy.interrupts[vector].trigger();
    }
    assert_eq!((bench.pending(0), bench.pending(4)), (4, 2));
    assert_eq!(bench.sent(), []);
    bench.set_table(16 * 33 + 12, 0);
    assert_eq!(bench.sent(), [message(33)]);
    assert_eq!((bench.pending(0), bench.pending(4)), (4, 0));
    // Masked as a whole; the vector's own bit changes nothing then.
    bench.write(at + 2, Size::Word, 0xc000);
    bench.set_table(16 * 2 + 12, 0);
    bench.toy.interrupts[33].trigger();
    assert_eq!((bench.pending(0), bench.pending(4), bench.sent()), (4, 2, vec![]));
    bench.write(at + 2, Size::Word, 0x8000);
    assert_eq!(bench.sent(), [message(2), message(33)]);
    assert_eq!((bench.pending(0), bench.pending(4)), (0, 0));
    // A message that is changed meanwhile is sent as it is then.
    bench.set_table(16 * 2 + 12, 1);
    bench.toy.interrupts[2].trigger();
    bench.set_table(16 * 2 + 8, 0x99);
    bench.set_table(16 * 2 + 12, 0);
    assert_eq!(bench.sent(), [Msi { data: 0x99, ..message(2) }]);
    // The guest cannot write pending bits.
    bench.region("msix-pba").1.write(&CX, 0, Size::Dword, 0xffff_ffff);
    assert_eq!((bench.pending(0), bench.sent()), (0, vec![]));
}

#[test]
fn a_message_needs_its_enable_and_bus_mastering() {
    let bench = Bench::new(2);
    let at = bench.enable_msix();
    bench.fill(1);
    bench.set_table(16 + 12, 0);
    bench.write(regs::COMMAND, Size::Word, 2);
    bench.toy.interrupts[1].trigger();
    assert_eq!((bench.pending(0), bench.sent()), (2, vec![]), "it is no bus master");
    bench.write(regs::COMMAND, Size::Word, 6);
    assert_eq!((bench.pending(0), bench.sent()), (0, vec![message(1)]));
    assert_eq!(bench.levels(), [], "the pin rests");
    bench.write(at + 2, Size::Word, 0);
    bench.toy.interrupts[1].set_level(true);
    assert_eq!((bench.sent(), bench.levels()), (vec![], vec![true]), "disabled, it is the pin");
    bench.write(at + 2, Size::Word, 0x8000);
    assert_eq!((bench.sent(), bench.levels()), (vec![], vec![false]));
}

#[test]
fn msi_sends_one_message_for_every_interrupt_and_msix_comes_first() {
    let bench = Bench::new(4);
    let (msi, msix) = (bench.capability(CapabilityId::MSI), bench.capability(CapabilityId::MSIX));
    bench.write(regs::COMMAND, Size::Word, 6);
    bench.write(msi + 4, Size::Dword, 0xfee0_7003);
    bench.write(msi + 12, Size::Word, 0x55);
    bench.write(msi + 2, Size::Word, 1);
    for vector in [0usize, 3] {
        bench.toy.interrupts[vector].trigger();
    }
    assert_eq!(bench.sent(), [Msi { address: 0xfee0_7000, data: 0x55 }; 2]);
    bench.write(regs::COMMAND, Size::Word, 2);
    bench.toy.interrupts[0].trigger();
    bench.write(regs::COMMAND, Size::Word, 6);
    assert_eq!(bench.sent(), [], "nothing keeps a message of MSI");
    bench.fill(3);
    bench.set_table(16 * 3 + 12, 0);
    bench.write(msix + 2, Size::Word, 0x8000);
    bench.toy.interrupts[0].trigger();
    bench.toy.interrupts[3].trigger();
    assert_eq!((bench.sent(), bench.pending(0)), (vec![message(3)], 1));
    // Pending bits are the table's: the one message does not send them.
    bench.write(msix + 2, Size::Word, 0);
    assert_eq!((bench.sent(), bench.pending(0)), (vec![], 0));
}

#[test]
fn layouts_that_cannot_be_are_refused() {
    let make = |layout: MsixLayout| {
        std::panic::catch_unwind(move || {
            Arc::<Log>::default().slot(1, |slot| {
                let toy = Arc::new(Toy { interrupts: Vec::new(), register: Mutex::default() });
                FunctionBuilder::new(slot, &IDENTITY)
                    .bar(0, Bar::Io { len: 0x100 })
                    .bar(1, Bar::Mem32 { len: 0x1_0000, prefetchable: false })
                    .msix(layout)
                    .build(toy)
            });
        })
    };
    let good = MsixLayout::in_bar(1, 2048);
    assert!(make(good).is_ok());
    for bad in [
        MsixLayout { vectors: 0, ..good },
        MsixLayout { vectors: 2049, ..good },
        MsixLayout { table_bar: 0, ..good },
        MsixLayout { pba_bar: 2, ..good },
        MsixLayout { pba: 0x7ff8, ..good },
        MsixLayout { pba: 0x8004, ..good },
        MsixLayout { pba: 0xff08, ..good },
        MsixLayout { table: 0x8008, pba: 0, ..good },
    ] {
        assert!(make(bad).is_err(), "{bad:?}");
    }
    let last = MsixLayout { pba: 0xff00, ..good };
    assert!(make(last).is_ok());
}

#[test]
fn interrupt_status_follows_the_device_also_while_the_pin_is_disabled() {
    let bench = Bench::new(2);
    let status = || bench.read(regs::STATUS, Size::Word) >> 3 & 1;
    assert_eq!(status(), 0);
    bench.toy.interrupts[1].set_level(true);
    assert_eq!((status(), bench.levels()), (1, vec![true]));
    assert_eq!(bench.read(regs::COMMAND, Size::Dword) >> 19 & 1, 1, "in every width");
    assert_eq!(bench.read(regs::STATUS, Size::Byte) >> 3 & 1, 1);
    assert_eq!(bench.read(regs::STATUS + 1, Size::Byte), 0);
    bench.write(regs::COMMAND, Size::Word, 0x400);
    assert_eq!((status(), bench.levels()), (1, vec![false]));
    bench.write(regs::STATUS, Size::Word, 8);
    assert_eq!(status(), 1, "read only");
    bench.write(regs::COMMAND, Size::Word, 0);
    assert_eq!(bench.levels(), [true]);
    bench.toy.interrupts[1].set_level(false);
    assert_eq!((status(), bench.levels()), (0, vec![false]));
    bench.enable_msix();
    bench.toy.interrupts[0].set_level(true);
    assert_eq!((status(), bench.levels()), (0, vec![]), "messages are no INTx");
}

#[test]
fn a_function_level_reset_is_one_of_everything_the_function_has() {
    let express: fn(Slot<'_>) -> FunctionBuilder<'_> =
        |slot| FunctionBuilder::express(slot, &IDENTITY);
    let conventional: fn(Slot<'_>) -> FunctionBuilder<'_> =
        |slot| FunctionBuilder::new(slot, &IDENTITY).function_level_reset();
    for (start, id, control, bit) in [
        (express, CapabilityId::EXPRESS, 8, 0x8000),
        (conventional, CapabilityId::ADVANCED_FEATURES, 4, 1),
    ] {
        let bench = Bench::with(2, start);
        let at = bench.capability(id) + control;
        let before = bench.read(at, Size::Word);
        bench.enable_msix();
        bench.write(regs::BAR0 + 8, Size::Dword, 0xd000_0000);
        bench.write(regs::INTERRUPT_LINE, Size::Byte, 11);
        bench.fill(0);
        bench.toy.interrupts[0].trigger();
        bench.toy.bar_write(&CX, 2, 0, Size::Dword, 77);
        assert!(bench.function.windows()[2].is_some());
        assert!(bench.write(at, Size::Word, before | bit), "the BAR is gone");
        assert_eq!(bench.function.windows(), [None; 7]);
        assert_eq!(bench.read(at, Size::Word), before, "reads 0");
        assert_eq!(bench.read(regs::COMMAND, Size::Word), 0);
        assert_eq!(bench.read(regs::BAR0 + 8, Size::Dword), 4);
        assert_eq!(bench.read(regs::INTERRUPT_LINE, Size::Byte), 0);
        assert_eq!((bench.table(8), bench.table(12), bench.pending(0)), (0, 1, 0));
        assert_eq!(bench.toy.bar_read(&CX, 2, 0, Size::Dword), 0);
        assert_eq!(bench.sent(), []);
    }
}

#[test]
fn d3hot_is_deaf_and_is_left_through_a_reset() {
    let bench = Bench::with(1, |slot| FunctionBuilder::new(slot, &IDENTITY).power_management());
    let control = bench.capability(CapabilityId::POWER_MANAGEMENT) + 4;
    bench.enable_msix();
    bench.fill(0);
    bench.set_table(12, 0);
    bench.write(regs::BAR0 + 8, Size::Dword, 0xd000_0000);
    bench.toy.bar_write(&CX, 2, 0, Size::Dword, 77);
    for absent in [1, 2] {
        assert!(!bench.write(control, Size::Word, absent));
        assert_eq!(bench.read(control, Size::Word), 0, "there is no D{absent}");
    }
    assert!(bench.write(control, Size::Word, 3), "the BAR is gone");
    assert_eq!((bench.read(control, Size::Word), bench.function.windows()), (3, [None; 7]));
    bench.toy.interrupts[0].trigger();
    assert_eq!(bench.sent(), []);
    bench.write(control, Size::Word, 1);
    assert_eq!(bench.read(control, Size::Word), 3);
    assert_eq!(bench.read(regs::BAR0 + 8, Size::Dword), 0xd000_0004, "registers are kept");
    assert_eq!(bench.toy.bar_read(&CX, 2, 0, Size::Dword), 77);
    bench.write(control, Size::Word, 0);
    assert_eq!(bench.read(regs::BAR0 + 8, Size::Dword), 4);
    assert_eq!((bench.table(12), bench.toy.bar_read(&CX, 2, 0, Size::Dword)), (1, 0));
}

#[test]
fn an_express_function_has_4096_bytes_and_a_conventional_one_256() {
    let express = Bench::with(1, |slot| {
        let mut builder = FunctionBuilder::express(slot, &IDENTITY);
        builder.config().add_extended_capability(3, 1, &[1, 2, 3, 4, 5, 6, 7, 8]);
        builder
    });
    assert_eq!(express.read(0x100, Size::Dword), 0x0001_0003);
    assert_eq!(express.read(0x108, Size::Word), 0x0605);
    let at = express.capability(CapabilityId::EXPRESS);
    assert_eq!(express.read(at + 2, Size::Word), 0x92, "integrated in the root complex");
    assert_eq!(express.read(at + 4, Size::Dword) >> 28 & 1, 1, "function-level reset");
    assert_eq!(Bench::new(1).read(0x100, Size::Dword), 0xffff_ffff);
}

#[test]
fn a_snapshot_brings_the_table_what_is_pending_and_the_device_back() {
    let bench = Bench::new(40);
    bench.enable_msix();
    bench.write(regs::BAR0 + 8, Size::Dword, 0xd000_0000);
    (0..40).for_each(|vector| bench.fill(vector));
    bench.set_table(16 * 39 + 12, 0);
    bench.toy.interrupts[33].trigger();
    bench.toy.bar_write(&CX, 2, 0, Size::Dword, 77);
    let saved = bench.function.save();

    let copy = Bench::new(40);
    copy.function.restore(&saved).unwrap();
    assert_eq!(copy.function.save(), saved);
    assert_eq!((copy.pending(0), copy.pending(4), copy.sent()), (0, 2, vec![]));
    assert_eq!(copy.function.windows(), bench.function.windows());
    assert_eq!(copy.toy.bar_read(&CX, 2, 0, Size::Dword), 77);
    copy.toy.interrupts[39].trigger();
    copy.set_table(16 * 33 + 12, 0);
    assert_eq!(copy.sent(), [message(39), message(33)]);

    let other = Bench::new(39);
    let before = other.function.save();
    assert!(matches!(other.function.restore(&saved), Err(StateError::Inconsistent { .. })));
    assert_eq!(other.function.save(), before);
}
