//! What a kernel finds. That the routines do what they are for, a guest of the command's tests
//! shows.

use super::*;
use crate::e820::{E820Kind, MemoryMap};
use crate::kernel::tests::{Bench, LAYOUT, MIB};

/// Every kernel finds it, so any will do: a bzImage.
fn loaded() -> Bench {
    let bench = Bench::new();
    bench.load(&crate::kernel::tests::modern()).unwrap();
    bench
}

#[test]
fn the_data_area_says_what_machine_it_is() {
    let bench = loaded();
    let word = |at: u64| bench.word(0x400 + at, 2);
    assert_eq!([0, 2, 4, 6].map(word), [0x3f8, 0x2f8, 0x3e8, 0x2e8]);
    assert_eq!([8, 10, 12].map(word), [0x378, 0x278, 0]);
    assert_eq!(word(0x0e), 0x9fc0, "the segment of the extended area");
    assert_eq!(word(0x10), 0x8806, "two printers, four serial ports, a mouse, a coprocessor");
    assert_eq!(word(0x13), 639, "KiB of conventional memory");
    assert_eq!([0x1a, 0x1c, 0x80, 0x82].map(word), [0x1e, 0x1e, 0x1e, 0x3e]);
    assert_eq!(bench.word(0x496, 1), 0x10);
    assert_eq!(bench.word(0x9_fc00, 1), 1, "KiB of the extended area");
    // It is where the memory map says that conventional memory ends.
    assert_eq!(bench.map.entries()[0].end(), 0x9_fc00);
}

#[test]
fn the_equipment_word_counts_the_serial_ports_that_are_there() {
    let bios = Bios { serial: [0x3f8, 0, 0, 0], ..LAYOUT.bios };
    let area = bios.data_area();
    assert_eq!(area[..8], [0xf8, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(area[0x10..0x12], [0x06, 0x82], "one serial port");
}

#[test]
fn the_reset_vector_leads_to_a_reset() {
    let bench = loaded();
    assert_eq!(bench.bytes(0xf_fff0, 5), [0xea, 0x80, 0xf1, 0x00, 0xf0], "jmp far f000:f180");
    let cli_mov_dx_out = [0xfa, 0xba, 0xf9, 0x0c, 0xb0, 2, 0xee, 0xb0, 6, 0xee];
    assert_eq!(bench.bytes(0xf_f180, 10), cli_mov_dx_out);
    assert_eq!(bench.word(0xf_fffe, 1), 0xfc, "the model is an AT");
}

#[test]
fn all_vectors_lead_into_the_bios() {
    let bench = loaded();
    for vector in 0..256 {
        let (offset, segment) = (bench.word(4 * vector, 2), bench.word(4 * vector + 2, 2));
        assert_eq!(segment, 0xf000);
        assert!((0xf000..0xf200).contains(&offset), "{vector:#x}: {offset:#x}");
        assert_ne!(bench.word(0xf_0000 + offset, 1), 0, "{vector:#x}: an instruction is there");
    }
}

#[test]
fn a_memory_map_without_room_in_the_bios_is_refused() {
    let mut bench = Bench::new();
    let more = |map: MemoryMap, ranges: std::ops::Range<u64>| {
        ranges.fold(map, |map, at| {
            let start = (1 << 32) + at * 2 * MIB;
            map.with(start..start + MIB, E820Kind::Reserved)
        })
    };
    let ranges = bench.map.entries().len() as u64;
    bench.map = more(bench.map, 0..152 - ranges);
    LAYOUT.bios.write(&bench.mem, bench.map.entries()).unwrap();
    assert_eq!(bench.word(0xf_fff0, 1), 0xea, "what is behind the map is as it was");
    bench.map = more(bench.map, 200..201);
    let refused = LAYOUT.bios.write(&bench.mem, bench.map.entries()).unwrap_err();
    assert!(matches!(refused, Error::MemoryMapTooLong { count: 153, max: 152 }), "{refused:?}");
}
