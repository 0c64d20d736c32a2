use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use trapline_testkit::{CX, named};

use super::regs::{PAIR_OF_X16, X8};
use super::*;

/// A file of a test's.
struct TestArray {
    bytes: Mutex<Vec<u8>>,
    shown: AtomicBool,
    worn: AtomicBool,
    /// What was written has not been flushed.
    dirty: AtomicBool,
    /// Nothing can be flushed.
    failing: AtomicBool,
}

impl TestArray {
    fn new(len: usize) -> Arc<Self> {
        let bytes = Mutex::new(vec![0xff; len]);
        let [shown, worn, dirty, failing] = Default::default();
        Arc::new(Self { bytes, shown, worn, dirty, failing })
    }
}

impl FlashArray for TestArray {
    fn len_bytes(&self) -> u64 {
        self.bytes.lock().len() as u64
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.bytes.lock()[start..start + buf.len()]);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Worn> {
        if self.worn.load(Ordering::Relaxed) {
            return Err(Worn);
        }
        let start = usize::try_from(offset).unwrap();
        self.bytes.lock()[start..start + data.len()].copy_from_slice(data);
        self.dirty.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&self) -> Result<(), Worn> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(Worn);
        }
        self.dirty.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn show(&self, visible: bool) {
        self.shown.store(visible, Ordering::Relaxed);
    }
}

const LEN: usize = 0x4_0000;

/// A driver of both chips at once, as Linux and EDK2 are.
struct Driver {
    flash: Flash,
    array: Arc<TestArray>,
}

impl Driver {
    fn new() -> Self {
        let array = TestArray::new(LEN);
        Self { flash: Flash::new(&PAIR_OF_X16, array.clone()), array }
    }

    fn write(&self, offset: u64, value: u32) {
        self.flash.write(&CX, offset, Size::Dword, value.into());
    }

    /// The same to both chips.
    fn both(&self, offset: u64, word: u16) {
        self.write(offset, u32::from(word) << 16 | u32::from(word));
    }

    fn read(&self, offset: u64) -> u32 {
        u32::try_from(self.flash.read(&CX, offset, Size::Dword)).unwrap()
    }

    fn status(&self) -> u32 {
        self.both(0, 0x70);
        let status = self.read(0x1234);
        self.both(0, 0x50);
        self.both(0, 0xff);
        status
    }

    fn program(&self, offset: u64, value: u32) {
        self.both(offset, 0x40);
        self.write(offset, value);
    }

    fn erase(&self, offset: u64) {
        self.both(offset, 0x20);
        self.both(offset, 0xd0);
    }

    fn lock(&self, offset: u64, second: u16) {
        self.both(offset, 0x60);
        self.both(offset, second);
    }

    /// The query table's byte at word address `word`, the same from both chips.
    fn query(&self, word: u64) -> u8 {
        let pair = self.read(word * PAIR_OF_X16.bus());
        assert_eq!(pair >> 16, pair & 0xffff);
        u8::try_from(pair & 0xffff).unwrap()
    }
}

const READY: u32 = 0x0080_0080;

#[test]
fn a_driver_finds_out_what_it_has() {
    let driver = Driver::new();
    driver.both(0x55 * PAIR_OF_X16.bus(), 0x98);
    assert_eq!([0x10, 0x11, 0x12].map(|word| driver.query(word)), *b"QRY");
    assert_eq!([0x13, 0x14].map(|word| driver.query(word)), [1, 0], "Intel's command set");
    let extended = u64::from(driver.query(0x15));
    assert_eq!([0, 1, 2].map(|word| driver.query(extended + word)), *b"PRI");
    assert_eq!(1 << driver.query(0x27), LEN / 2, "each chip has half of it");
    assert_eq!(driver.query(0x2a), 6, "64 bytes of write buffer");
    assert_eq!(driver.query(0x2c), 1, "all blocks are alike");
    assert_eq!(driver.query(0x2d), 3, "four of them");
    let size = u16::from_le_bytes([driver.query(0x2f), driver.query(0x30)]);
    assert_eq!(u64::from(size) * 256 * 2, PAIR_OF_X16.block);
    assert_eq!((driver.query(0), driver.query(0x40), driver.query(0xffff)), (0, 0, 0));
    driver.both(0, 0x90);
    assert_eq!((driver.read(0), driver.read(4)), (0, 0xffff_ffff));
    driver.both(0, 0xff);
    assert_eq!(driver.read(0x40), 0xffff_ffff, "the array again");
}

#[test]
fn an_access_keeps_the_name_it_was_made_under() {
    let driver = Driver::new();
    let twice = |word: u64| word << 16 | word;
    let write = |word| named(&driver.flash, 0x100, Size::Dword, Some(twice(word))).unwrap();
    let read = || named(&driver.flash, 0x100, Size::Dword, None).unwrap();
    assert_eq!(read(), "array");
    assert_eq!((write(0x70), read()), ("command", "status register"));
    assert_eq!((write(0x90), read()), ("command", "identifier codes"));
    assert_eq!((write(0x98), read()), ("command", "query"));
    assert_eq!((write(0x40), write(0x1234)), ("command", "data"));
    let buffer = [0xe8, 1, 0x5678, 0x9abc, 0xd0].map(write);
    assert_eq!(buffer, ["command", "word count", "data", "data", "confirm"]);
    assert_eq!((write(0x20), write(0xd0)), ("command", "confirm"));
    assert_eq!((write(0x60), write(0x01)), ("command", "confirm"));
    assert_eq!((write(0xff), read()), ("command", "array"));
}

proptest! {
    #[test]
    fn every_access_keeps_the_name_it_was_made_under(
        accesses in prop::collection::vec(
            (
                prop::sample::select(vec![0u64, 2, 0x100, 0x102]),
                prop::sample::select(vec![Size::Byte, Size::Word, Size::Dword]),
                prop::option::of(prop::sample::select(
                    [0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xd0, 0xe8, 0xff, 1, 3]
                        .map(|word: u64| word << 16 | word).to_vec(),
                )),
            ),
            0..50,
        ),
    ) {
        let driver = Driver::new();
        for (offset, size, value) in accesses {
            named(&driver.flash, offset, size, value.map(|value| value & size.ones()));
        }
    }
}

#[test]
fn programming_clears_bits_and_erasing_sets_those_of_a_block() {
    let driver = Driver::new();
    driver.program(0x1_0010, 0x1234_5678);
    assert_eq!(driver.read(0x1_0010), READY, "the status is read until told otherwise");
    assert_eq!(driver.status(), READY);
    assert_eq!(driver.read(0x1_0010), 0x1234_5678);
    driver.program(0x1_0010, 0xffff_00ff);
    driver.program(0x0_fffc, 0);
    driver.program(0x2_0000, 0);
    driver.both(0, 0xff);
    assert_eq!(driver.read(0x1_0010), 0x1234_0078);
    driver.erase(0x1_8000);
    assert_eq!(driver.status(), READY);
    assert_eq!(driver.read(0x1_0010), 0xffff_ffff);
    assert_eq!((driver.read(0x0_fffc), driver.read(0x2_0000)), (0, 0), "its neighbours are not");
    assert_eq!(&driver.array.bytes.lock()[0xfffc..0x1_0004], [0, 0, 0, 0, 255, 255, 255, 255]);
}

#[test]
fn a_buffer_is_programmed_in_one_go() {
    let driver = Driver::new();
    driver.both(0x100, 0xe8);
    assert_eq!(driver.read(0x100), READY, "a buffer is free");
    driver.both(0x100, 3);
    for (i, value) in [0x1111_0000, 0x2222_0001, 0x3333_0002].into_iter().enumerate() {
        driver.write(0x100 + 4 * i as u64, value);
    }
    // In any order, within what was announced.
    driver.write(0x10c, 0x4444_0003);
    driver.both(0x100, 0xd0);
    assert_eq!(driver.status(), READY);
    let words = [0x100, 0x104, 0x108, 0x10c, 0x110].map(|offset| driver.read(offset));
    assert_eq!(words, [0x1111_0000, 0x2222_0001, 0x3333_0002, 0x4444_0003, 0xffff_ffff]);
}

#[test]
fn what_is_no_sequence_of_cycles_is_an_error_and_changes_nothing() {
    let error = 0x00b0_00b0;
    let driver = Driver::new();
    driver.both(0, 0x20);
    driver.both(0, 0x20);
    assert_eq!(driver.status(), error, "an erase that is not confirmed");
    driver.both(0, 0xe8);
    driver.both(0, 32);
    assert_eq!(driver.status(), error, "more words than the buffer has");
    driver.both(0x100, 0xe8);
    driver.both(0x100, 1);
    driver.write(0x100, 0);
    driver.write(0x108, 0);
    assert_eq!(driver.status(), error, "a word outside of what was announced");
    driver.both(0x100, 0xe8);
    driver.both(0x100, 0);
    driver.write(0x100, 0);
    driver.both(0x100, 0xff);
    assert_eq!(driver.status(), error, "a buffer that is not confirmed");
    driver.lock(0, 0x2f);
    assert_eq!(driver.status(), error, "there is no lock-down");
    driver.both(0, 0xd0);
    driver.both(0, 0xb0);
    assert_eq!(driver.status(), READY, "nothing to confirm, nothing to suspend");
    assert!(driver.array.bytes.lock().iter().all(|byte| *byte == 0xff));
}

#[test]
fn locked_blocks_stay_as_they_are() {
    let driver = Driver::new();
    driver.lock(0x1_0000, 0x01);
    driver.both(0, 0x90);
    assert_eq!(driver.read(0x1_0000 + 2 * PAIR_OF_X16.bus()), 0x0001_0001);
    assert_eq!(driver.read(0x2_0000 + 2 * PAIR_OF_X16.bus()), 0);
    driver.program(0x1_0000, 0);
    assert_eq!(driver.status(), 0x0092_0092);
    driver.erase(0x1_0000);
    assert_eq!(driver.status(), 0x00a2_00a2);
    // From the last word before it into it.
    driver.both(0xfffc, 0xe8);
    driver.both(0xfffc, 1);
    driver.write(0xfffc, 0);
    driver.write(0x1_0000, 0);
    driver.both(0xfffc, 0xd0);
    assert_eq!(driver.status(), 0x0092_0092);
    assert!(driver.array.bytes.lock().iter().all(|byte| *byte == 0xff));
    driver.lock(0x1_0000, 0xd0);
    driver.program(0x1_0000, 0);
    assert_eq!(driver.status(), READY);
    driver.lock(0x1_0000, 0x01);
    driver.flash.reset();
    driver.program(0x1_0004, 0);
    assert_eq!(driver.status(), READY, "a reset opens the locks");
}

#[test]
fn each_half_of_the_bus_is_a_chip_of_its_own() {
    let driver = Driver::new();
    let halfword = |offset, value| driver.flash.write(&CX, offset, Size::Word, value);
    halfword(2, 0x70);
    assert_eq!(driver.read(0), 0x0080_ffff, "status from one, array from the other");
    halfword(2, 0xff);
    halfword(4, 0x40);
    halfword(4, 0xabcd);
    halfword(4, 0xff);
    assert_eq!(driver.read(4), 0xffff_abcd);
    // Bytes: the other one stays.
    driver.flash.write(&CX, 6, Size::Byte, 0x40);
    driver.flash.write(&CX, 7, Size::Byte, 0x12);
    driver.flash.write(&CX, 6, Size::Byte, 0xff);
    assert_eq!(driver.read(4), 0x12ff_abcd);
    assert_eq!(driver.flash.read(&CX, 5, Size::Byte), 0xab);
    assert_eq!(driver.flash.read(&CX, 6, Size::Word), 0x12ff);
}

#[test]
fn what_would_not_last_is_not_acknowledged() {
    let driver = Driver::new();
    driver.array.worn.store(true, Ordering::Relaxed);
    driver.program(0, 0);
    assert_eq!(driver.status(), 0x0090_0090);
    driver.erase(0);
    assert_eq!(driver.status(), 0x00a0_00a0);
    assert_eq!(driver.read(0), 0xffff_ffff);
}

#[test]
fn the_array_is_shown_while_it_is_what_is_read() {
    let driver = Driver::new();
    let shown = || driver.array.shown.load(Ordering::Relaxed);
    assert!(shown());
    driver.write(0, 0x00ff_0098);
    assert!(!shown(), "one chip answers something else");
    driver.both(0, 0xff);
    assert!(shown());
    driver.both(0, 0x70);
    driver.flash.reset();
    assert!(shown());
}

#[test]
fn lengths_are_within_limits_and_powers_of_two_where_they_have_to_be() {
    assert_eq!(PAIR_OF_X16.usable_len(0xffff), None);
    assert_eq!(PAIR_OF_X16.usable_len(0x1_0000), Some(0x1_0000));
    assert_eq!(PAIR_OF_X16.usable_len(0x3_0001), Some(0x2_0000));
    assert_eq!(PAIR_OF_X16.usable_len(u64::MAX), Some(16 << 20));
    assert_eq!(X8.usable_len(0xfff), None);
    assert_eq!(X8.usable_len(0x8_4000), Some(0x8_4000), "a multiple of a block");
    assert_eq!(X8.usable_len(0x8_4fff), Some(0x8_4000));
    assert_eq!(X8.usable_len(u64::MAX), Some(16 << 20));
}

#[test]
fn registers_are_named_by_what_the_chip_is_doing() {
    let driver = Driver::new();
    let name = |direction| driver.flash.register(0, direction);
    assert_eq!((name(Direction::Read), name(Direction::Write)), (Some("array"), Some("command")));
    driver.both(0, 0x40);
    assert_eq!(name(Direction::Read), Some("status register"));
    assert_eq!(name(Direction::Write), Some("data"));
}

#[test]
fn impossible_states_are_refused() {
    let driver = Driver::new();
    let mut state = State::new(&PAIR_OF_X16);
    let restore = |state: &State| driver.flash.restore(&Saved::encode(&SavedV1::from(state)));
    restore(&state).unwrap();
    state.chips[0].phase = Phase::Fill(3);
    assert!(restore(&state).is_err());
    state.chips[0] = Chip { status: regs::Status::new(), ..Chip::default() };
    assert!(restore(&state).is_err());
    state.chips[0] = Chip::default();
    state.chips[1].locked[4] = true;
    let refused = restore(&state).unwrap_err().to_string();
    assert!(refused.contains("locked blocks are there"), "there are four blocks: {refused}");
    assert_eq!(driver.flash.state(), State::new(&PAIR_OF_X16));
}

/// The PC's flash, driven by bytes. What it answers here, QEMU's answers too (`pflash_cfi01`).
struct ByteDriver {
    flash: Flash,
    array: Arc<TestArray>,
}

impl ByteDriver {
    fn new(len: usize) -> Self {
        let array = TestArray::new(len);
        Self { flash: Flash::new(&X8, array.clone()), array }
    }

    fn write(&self, offset: u64, value: u8) {
        self.flash.write(&CX, offset, Size::Byte, value.into());
    }

    fn read(&self, offset: u64) -> u8 {
        u8::try_from(self.flash.read(&CX, offset, Size::Byte)).unwrap()
    }

    /// Writes bytes to one place, one after the other.
    fn writes(&self, offset: u64, values: &[u8]) {
        values.iter().for_each(|value| self.write(offset, *value));
    }
}

#[test]
fn the_query_table_of_a_byte_wide_chip_is_qemus() {
    let driver = ByteDriver::new(0x8_4000);
    driver.write(0x55, 0x98);
    let table: Vec<u8> = (0x10..0x42).map(|word| driver.read(word)).collect();
    #[rustfmt::skip]
    let qemu = [
        b'Q', b'R', b'Y', 0x01, 0x00, 0x31, 0x00, 0x00, 0x00, 0x00, 0x00, 0x45, 0x55, 0x00, 0x00,
        0x07, 0x07, 0x0a, 0x00, 0x04, 0x04, 0x04, 0x00, 0x0e, 0x02, 0x00, 0x08, 0x00,
        0x01, 0x83, 0x00, 0x10, 0x00,
        b'P', b'R', b'I', b'1', b'0', 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0,
    ];
    assert_eq!(table, qemu);
    driver.write(0, 0x90);
    assert_eq!([0, 1, 2].map(|word| driver.read(word)), [0, 0, 0]);
}

#[test]
fn the_status_of_a_byte_wide_chip_is_busy_from_its_clearing_to_the_next_operation() {
    let driver = ByteDriver::new(0x1_0000);
    driver.write(0, 0x70);
    assert_eq!(driver.read(0), 0x80);
    driver.write(0, 0x50);
    assert_eq!(driver.read(0), 0xff, "the array");
    driver.write(0, 0x70);
    assert_eq!(driver.read(0), 0, "by which OVMF knows that it is flash");
    driver.writes(0x10, &[0x40, 0x12]);
    assert_eq!(driver.read(0), 0x80);
    driver.writes(0, &[0x50, 0xe8]);
    assert_eq!(driver.read(0), 0x80, "a buffer is free");
    driver.writes(0, &[0, 0, 0xd0, 0x50, 0x60, 0xd0, 0x70]);
    assert_eq!(driver.read(0), 0x80, "a lock bit");
    driver.writes(0, &[0x50, 0x20, 0x20]);
    assert_eq!(driver.read(0), 0xb0, "an error");
    driver.flash.reset();
    driver.write(0, 0x70);
    assert_eq!(driver.read(0), 0x80);
}

#[test]
fn bytes_are_programmed_alone_in_buffers_and_erased_in_blocks_of_4_kib() {
    let driver = ByteDriver::new(0x4000);
    driver.writes(0x1001, &[0x10, 0x5a]);
    driver.writes(0x1001, &[0x40, 0xf0]);
    driver.write(0x2000, 0xe8);
    driver.write(0x2000, 255);
    (0..256).for_each(|at| driver.write(0x2000 + at, u8::try_from(at).unwrap()));
    driver.write(0x2000, 0xd0);
    assert_eq!(driver.read(0), 0x80);
    driver.write(0, 0xff);
    assert_eq!([0x1000, 0x1001, 0x1002].map(|at| driver.read(at)), [0xff, 0x50, 0xff]);
    assert_eq!([0x20fe, 0x20ff, 0x2100].map(|at| driver.read(at)), [0xfe, 0xff, 0xff]);
    driver.writes(0x1fff, &[0x20, 0xd0, 0xff]);
    assert_eq!([0x1001, 0x2001].map(|at| driver.read(at)), [0xff, 1]);
    assert!(driver.array.bytes.lock()[0x1000..0x2000].iter().all(|byte| *byte == 0xff));
    driver.writes(0, &[0x60, 0x01]);
    driver.writes(0, &[0x40, 0x00, 0xff]);
    assert_eq!(driver.read(0), 0, "there are no lock bits");
}

#[test]
fn what_was_written_is_flushed_before_the_array_is_shown_again() {
    let driver = ByteDriver::new(0x2000);
    let dirty = || driver.array.dirty.load(Ordering::Relaxed);
    driver.writes(0, &[0x40, 0]);
    assert!(dirty(), "in the middle of a driver's work");
    driver.write(0, 0xff);
    assert!(!dirty());
    driver.array.failing.store(true, Ordering::Relaxed);
    driver.writes(1, &[0x40, 0, 0xff, 0x70]);
    assert_eq!(driver.read(0), 0x90, "it may not last");
    driver.array.failing.store(false, Ordering::Relaxed);
    driver.writes(2, &[0x40, 0]);
    driver.flash.reset();
    assert!(!dirty(), "a reset is the end of a driver's work, too");
}

#[test]
fn a_state_of_another_part_is_refused() {
    let (bytes, pair) = (ByteDriver::new(LEN), Driver::new());
    assert!(bytes.flash.restore(&pair.flash.save()).is_err());
    assert!(pair.flash.restore(&bytes.flash.save()).is_err());
    bytes.write(0, 0x50);
    let fresh = Flash::new(&X8, bytes.array.clone());
    fresh.restore(&bytes.flash.save()).unwrap();
    assert_eq!(fresh.state(), bytes.flash.state());
    let mut state = State::new(&X8);
    state.chips[0].locked[0] = true;
    assert!(fresh.restore(&Saved::encode(&SavedV1::from(&state))).is_err(), "it has no lock bits");
}

/// Bytes that drivers write, and others.
fn values() -> impl Strategy<Value = u32> {
    let command = prop::sample::select(vec![
        0xffu16, 0x90, 0x98, 0x70, 0x50, 0x40, 0x10, 0xe8, 0x20, 0x60, 0xb0, 0xd0, 0x01, 0x03,
    ]);
    prop_oneof![
        6 => command.prop_map(|word| u32::from(word) << 16 | u32::from(word)),
        1 => any::<u32>(),
    ]
}

fn accesses() -> impl Strategy<Value = Vec<(u64, u8, bool, u32)>> {
    let access = (0..LEN as u64, 0..3u8, any::<bool>(), values());
    prop::collection::vec(access, 1..200)
}

proptest! {
    /// Nothing hurts it; bits are only set by an erase; what it saves is what it goes on from.
    #[test]
    fn any_accesses_can_be_saved_and_gone_on_from(accesses in accesses(), at in 0usize..200) {
        let (one, two) = (Driver::new(), Driver::new());
        for (i, (offset, size, read, value)) in accesses.into_iter().enumerate() {
            let size = [Size::Byte, Size::Word, Size::Dword][usize::from(size)];
            let offset = offset & !(size.bytes() as u64 - 1);
            let access = |driver: &Driver| {
                if read {
                    return driver.flash.read(&CX, offset, size);
                }
                driver.flash.write(&CX, offset, size, u64::from(value) & size.ones());
                0
            };
            prop_assert_eq!(access(&one), access(&two));
            if i == at {
                let fresh = Flash::new(&PAIR_OF_X16, two.array.clone());
                fresh.restore(&one.flash.save()).unwrap();
                prop_assert_eq!(fresh.state(), one.flash.state());
                two.flash.restore(&fresh.save()).unwrap();
            }
        }
        prop_assert_eq!(one.flash.state(), two.flash.state());
        prop_assert_eq!(&*one.array.bytes.lock(), &*two.array.bytes.lock());
        let array = one.flash.state().chips.iter().all(|chip| chip.mode == ReadMode::Array);
        prop_assert_eq!(one.array.shown.load(Ordering::Relaxed), array);
    }
}
