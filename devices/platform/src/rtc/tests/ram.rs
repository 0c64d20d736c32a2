//! What firmware finds in the CMOS RAM.

use super::*;

fn sized(below_4g: u64, above_4g: u64, cpus: u8) -> Arc<Rtc> {
    let config = CmosConfig { below_4g, above_4g, cpus };
    Rtc::new(Line::unconnected(), Arc::new(TestClock::starting_at(START)), config)
}

fn number(rtc: &Rtc, low_to_high: &[u8]) -> u64 {
    low_to_high.iter().rev().fold(0, |value, &index| {
        outb(rtc, 0, index);
        value << 8 | u64::from(inb(rtc, 1))
    })
}

#[test]
fn firmware_reads_the_memory_size_back() {
    let rtc = sized(0xd000_0000, 5 << 30, 64);
    assert_eq!(number(&rtc, &[0x15, 0x16]), 640);
    assert_eq!(number(&rtc, &[0x17, 0x18]), 0xffff, "more than the field holds");
    assert_eq!(number(&rtc, &[0x30, 0x31]), 0xffff);
    assert_eq!((number(&rtc, &[0x34, 0x35]) << 16) + (16 << 20), 0xd000_0000);
    assert_eq!(number(&rtc, &[0x5b, 0x5c, 0x5d]) << 16, 5 << 30);
    assert_eq!(number(&rtc, &[0x5f]), 63);
    // QEMU's order: hard disk, floppy, CD-ROM; floppies need a boot signature.
    assert_eq!((number(&rtc, &[0x3d]), number(&rtc, &[0x38])), (0x12, 0x30));
}

#[test]
fn small_memory_is_described_by_the_old_fields() {
    let rtc = sized(8 << 20, 0, 1);
    assert_eq!(number(&rtc, &[0x17, 0x18]), 7 * 1024);
    assert_eq!(number(&rtc, &[0x34, 0x35]), 0);
    assert_eq!(number(&rtc, &[0x5f]), 0);
    assert_eq!(number(&sized(512 << 10, 0, 0), &[0x15, 0x16]), 512);
}

#[test]
fn the_checksum_covers_the_configuration_and_follows_the_boards_changes() {
    let rtc = sized(64 << 20, 0, 1);
    let good = |rtc: &Rtc| {
        let sum: u64 = (0x10..=0x2d).map(|index| number(rtc, &[index])).sum();
        assert_eq!(number(rtc, &[0x2f, 0x2e]), sum);
        sum
    };
    let before = good(&rtc);
    rtc.set_ram(EQUIPMENT, 0x2f);
    assert_ne!(good(&rtc), before);
    rtc.set_ram(BOOT_FLAGS_2, 0x23);
    rtc.set_ram(SHUTDOWN_STATUS, 5);
    assert_eq!((rtc.ram(BOOT_FLAGS_2), rtc.ram(SHUTDOWN_STATUS)), (0x23, 5));
}

#[test]
fn the_board_cannot_touch_the_clock_through_the_ram() {
    let rtc = sized(64 << 20, 0, 1);
    let before = rtc.state();
    (0..=0x0d).chain([0x32, 0x80, 0xff]).for_each(|index| rtc.set_ram(index, 0x99));
    assert_eq!(rtc.state(), before);
}

#[test]
fn the_century_answers_at_the_ps2_index_too() {
    let pc = Pc::new();
    assert_eq!(pc.get(0x37), 0x20);
    pc.put(0x37, 0x21);
    assert_eq!(pc.get(0x32), 0x21);
}

#[test]
fn ram_keeps_what_is_written_to_it() {
    let pc = Pc::new();
    let ram: Vec<u8> = (0x0e..0x80).filter(|index| ![0x32, 0x37].contains(index)).collect();
    ram.iter().for_each(|&index| pc.put(index, !index));
    pc.rtc.reset();
    ram.iter().for_each(|&index| assert_eq!(pc.get(index), !index));
}
