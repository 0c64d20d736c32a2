use proptest::prelude::*;

use super::made::{BASE, Era, Made, SYMBOLS};
use super::*;
use crate::Cpu;
use crate::testing::{Ram, paged};

const ERAS: [Era; 3] = [Era::First, Era::Order, Era::Latest];

/// The table of a kernel whose image has `image` at 1 MiB and a bit.
fn find_in(image: &[u8], offset: u64) -> Option<Symbols> {
    let (mut ram, cpu) = paged(BASE, 4 << 20);
    ram.write_paged(offset, image);
    find_at(&ram, cpu)
}

fn find_at(ram: &Ram, cpu: crate::X86) -> Option<Symbols> {
    find(&Virtual::of(ram, &Cpu::X86(cpu)), BASE + 0x1234)
}

#[test]
fn the_table_of_every_era_is_found_wherever_it_is() {
    for era in ERAS {
        for relative_base in [BASE, BASE + 0x2a0_0000] {
            let made = Made { relative_base, ..Made::new(era) };
            // The second one has the row of digits across a border of what is read at once.
            let tokens = memmem::find(&made.image(), DIGITS).unwrap() as u64;
            for offset in [0x10_0008, 0x20_0000 - ((tokens + 10) & !7)] {
                let symbols = find_in(&made.image(), offset).unwrap_or_else(|| panic!("{era:?}"));
                assert_eq!(symbols.len(), made.symbols.len());
                for ((_, name), n) in SYMBOLS.iter().zip(0..) {
                    assert_eq!(symbols.address(name), Some(relative_base + 0x100 * n), "{era:?}");
                }
                let told = symbols.lookup(relative_base + 0x100 * 500 + 4).unwrap().to_string();
                assert_eq!(told, "function_500+0x4");
                let long = symbols.lookup(relative_base + 0x100 * 698).unwrap().name;
                assert_eq!(long, "x".repeat(200));
                // Data is no code: what is before it is told.
                let told = symbols.lookup(relative_base + 0x300).unwrap().to_string();
                assert_eq!(told, "uart_insert_char+0x100");
            }
        }
    }
}

#[test]
fn absolute_addresses_of_per_cpu_data_are_told_from_the_kernels() {
    for era in ERAS {
        let mut made = Made { absolute: true, ..Made::new(era) };
        made.symbols[0] = ('D', "fixed_percpu_data".to_owned());
        let symbols = find_in(&made.image(), 0x10_0000).unwrap();
        assert_eq!(symbols.address("fixed_percpu_data"), Some(0x40));
        assert_eq!(symbols.address("io_serial_in"), Some(BASE + 0x100));
    }
}

#[test]
fn a_table_that_does_not_fit_is_none() {
    for era in ERAS {
        let good = Made::new(era).image();
        let digits = memmem::find(&good, DIGITS).unwrap();
        let last_name = memmem::find(&good, b"_etext").unwrap();
        let base = memmem::rfind(&good, &BASE.to_le_bytes()).unwrap();
        for (at, value) in [(digits + 31, 0), (last_name - 2, 0x60), (base + 7, 0)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(find_in(&bad, 0x10_0000).is_none(), "{era:?} with {value} at {at}");
        }
        // One that lies is passed over for a good one.
        let (mut ram, cpu) = paged(BASE, 4 << 20);
        let mut bad = good.clone();
        bad[base + 7] = 0;
        ram.write_paged(0x10_0000, &bad);
        ram.write_paged(0x30_0000, &good);
        assert!(find_at(&ram, cpu).is_some());
    }
}

#[test]
fn a_guest_that_writes_the_row_again_and_again_is_given_up() {
    let (mut ram, cpu) = paged(BASE, 4 << 20);
    for n in 0..1000 {
        ram.write_paged(0x1000 + 32 * n, DIGITS);
    }
    ram.write_paged(0x30_0000, &Made::new(Era::Latest).image());
    assert!(find_at(&ram, cpu).is_none());
}

#[test]
fn names_that_could_begin_anywhere_are_soon_given_up() {
    // Each four bytes are two names of one token, and the number of names of all markers.
    let mut image = [1, 1, 1, 0].repeat(100_000);
    let count = u32::from_le_bytes([1, 1, 1, 0]).div_ceil(256);
    let markers = (0..count).map(|n| if n + 2 == count { 512 * n + 1 } else { 512 * n });
    image.extend(markers.flat_map(u32::to_le_bytes));
    assert_eq!(parse::names(&image, image.len()), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest makes of its table, reading it ends.
    #[test]
    fn no_damage_panics(
        era in prop::sample::select(ERAS.to_vec()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut image = Made::new(era).image();
        for (at, value) in damage {
            let at = at.index(image.len());
            image[at] = value;
        }
        let digits = memmem::find(&image, DIGITS);
        let _ = digits.and_then(|digits| parse::parse(&image, digits));
    }
}
