#![expect(
    clippy::cast_possible_truncation,
    reason = "reads are narrower than the value they return"
)]

use proptest::prelude::*;
use trapline_device::{Size, Space};

use super::*;
use crate::regs::CAPABILITIES;

/// A network card with an I/O BAR, one of 32 bits and one of 64.
fn network_card() -> ConfigSpace {
    ConfigSpace::new(&Identity {
        vendor: 0x1af4,
        device: 0x1041,
        revision: 1,
        class: 0x02_0000,
        subsystem_vendor: 0x1af4,
        subsystem: 0x0040,
        pin: Some(Pin::A),
        multi_function: true,
    })
    .with_bar(0, Bar::Io { len: 0x100 })
    .with_bar(1, Bar::Mem32 { len: 0x1000, prefetchable: false })
    .with_bar(2, Bar::Mem64 { len: 1 << 33, prefetchable: true })
}

#[test]
fn bars_tell_their_size_and_answer_only_when_enabled() {
    let mut card = network_card();
    for bar in 0..6u16 {
        card.write(0x10 + 4 * bar, Size::Dword, u32::MAX);
    }
    let read = |card: &ConfigSpace, bar: u16| card.read(0x10 + 4 * bar, Size::Dword);
    assert_eq!(read(&card, 0), 0xffff_ff01);
    assert_eq!(read(&card, 1), 0xffff_f000);
    assert_eq!((read(&card, 2), read(&card, 3)), (0x0000_000c, 0xffff_fffe));
    assert_eq!((read(&card, 4), read(&card, 5)), (0, 0));
    assert_eq!(card.windows(), [None; 7]);

    card.write(0x10, Size::Dword, 0x6234);
    card.write(0x14, Size::Dword, 0xd200_0000);
    card.write(0x18, Size::Dword, 0);
    card.write(0x1c, Size::Dword, 0x12);
    card.write(0x04, Size::Word, 0x0001);
    let io = BarWindow { space: Space::Pio, base: 0x6200, len: 0x100 };
    assert_eq!(card.windows(), [Some(io), None, None, None, None, None, None]);
    card.write(0x04, Size::Byte, 0x02);
    let mem32 = BarWindow { space: Space::Mmio, base: 0xd200_0000, len: 0x1000 };
    let mem64 = BarWindow { space: Space::Mmio, base: 0x12_0000_0000, len: 1 << 33 };
    assert_eq!(card.windows(), [None, Some(mem32), Some(mem64), None, None, None, None]);
    card.reset();
    assert_eq!(card.windows(), [None; 7]);
}

#[test]
fn the_smallest_io_bar_sits_on_any_multiple_of_four_ports() {
    let mut space = ConfigSpace::new(&Identity::default()).with_bar(5, Bar::Io { len: 4 });
    space.write(0x24, Size::Dword, 0xffff_ffff);
    assert_eq!(space.read(0x24, Size::Dword), 0xffff_fffd);
    space.write(0x24, Size::Dword, 0x620f);
    space.write(COMMAND, Size::Word, 1);
    let window = BarWindow { space: Space::Pio, base: 0x620c, len: 4 };
    assert_eq!(space.windows()[5], Some(window));
}

#[test]
fn an_expansion_rom_answers_when_it_and_memory_are_enabled() {
    let mut card = network_card().with_rom(0x1_0000);
    card.write(EXPANSION_ROM, Size::Dword, 0xffff_fffe);
    assert_eq!(card.read(EXPANSION_ROM, Size::Dword), 0xffff_0000, "64 KiB, disabled");
    card.write(EXPANSION_ROM, Size::Dword, 0xd300_0001);
    assert_eq!(card.windows()[ROM_BAR], None, "memory is disabled");
    card.write(COMMAND, Size::Word, 2);
    let window = BarWindow { space: Space::Mmio, base: 0xd300_0000, len: 0x1_0000 };
    assert_eq!(card.windows()[ROM_BAR], Some(window));
    card.write(EXPANSION_ROM, Size::Dword, 0xd300_0000);
    assert_eq!(card.windows()[ROM_BAR], None);
    assert_eq!(network_card().read(EXPANSION_ROM, Size::Dword), 0, "no ROM, no register");
    let mut none = network_card();
    none.write(EXPANSION_ROM, Size::Dword, u32::MAX);
    assert_eq!(none.read(EXPANSION_ROM, Size::Dword), 0);
}

fn refused(make: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    std::panic::catch_unwind(make).is_err()
}

#[test]
fn bars_that_cannot_be_are_refused() {
    let with = |index, bar| {
        refused(move || {
            let _ = network_card().with_bar(index, bar);
        })
    };
    assert!(with(3, Bar::Io { len: 8 }), "the upper half of BAR2");
    assert!(with(5, Bar::Mem64 { len: 16, prefetchable: false }), "no BAR6");
    assert!(with(4, Bar::Io { len: 512 }));
    assert!(with(4, Bar::Mem32 { len: 24, prefetchable: false }));
    assert!(!with(4, Bar::Mem64 { len: 16, prefetchable: false }));
    assert!(refused(|| drop(network_card().with_rom(0x400))));
    assert!(refused(|| drop(network_card().with_rom(0x1800))));
}

#[test]
fn status_errors_are_cleared_by_ones_and_the_header_is_read_only() {
    let mut card = network_card();
    card.update(STATUS, &0xf910u16.to_le_bytes());
    card.write(STATUS, Size::Word, 0x8010);
    assert_eq!(card.read(STATUS, Size::Word), 0x7910);
    card.write(COMMAND, Size::Dword, 0xffff_ffff);
    assert_eq!(card.read(COMMAND, Size::Dword), 0x0010_0547);
    let before = card.read(0, Size::Dword);
    card.write(0, Size::Dword, 0xdead_beef);
    assert_eq!(card.read(0, Size::Dword), before);
    assert_eq!(card.read(HEADER_TYPE, Size::Byte), 0x80);
    assert_eq!(card.read(0x100, Size::Dword), u32::MAX);
}

#[test]
fn capabilities_are_a_list_in_the_order_they_were_added() {
    let mut card = network_card();
    assert_eq!(card.read(STATUS, Size::Word) & 0x10, 0);
    assert_eq!(card.read(CAPABILITIES, Size::Byte), 0);
    let first = card.add_capability(CapabilityId::VENDOR, &[1, 2, 3]);
    let second = card.add_capability_at(0x80, CapabilityId(0x42), &[0; 6]);
    let third = card.add_capability(CapabilityId::MSIX, &[0; 10]);
    assert_eq!((first, second, third), (0x40, 0x80, 0x48), "at the next multiple of 4");
    assert_eq!(card.read(STATUS, Size::Word) & 0x10, 0x10);
    assert_eq!(card.read(CAPABILITIES, Size::Byte), 0x40);
    assert_eq!(card.read(0x40, Size::Dword), 0x0201_8009, "its number, the next one, its body");
    assert_eq!(card.read(0x80, Size::Word), 0x4842);
    assert_eq!(card.read(0x48, Size::Word), 0x0011, "the last one");
    let list: Vec<u16> = card.capabilities().map(|(at, _)| at).collect();
    assert_eq!(list, [0x40, 0x80, 0x48]);
    assert_eq!(card.capability(CapabilityId::MSIX), Some(0x48));
    assert_eq!(card.capability(CapabilityId::MSI), None);
    card.write(0x40, Size::Dword, u32::MAX);
    assert_eq!(card.read(0x40, Size::Dword), 0x0201_8009, "read only");
    card.reset();
    assert_eq!(card.read(0x48, Size::Word), 0x0011);
}

#[test]
fn capabilities_stay_within_256_bytes_and_apart() {
    let mut card = network_card();
    card.add_capability(CapabilityId::VENDOR, &[0; 0xb6]);
    let last = card.add_capability(CapabilityId::VENDOR, &[0; 6]);
    assert_eq!(last, 0xf8, "up to the last byte");
    let none = card.clone();
    assert!(refused(move || {
        none.clone().add_capability(CapabilityId::VENDOR, &[]);
    }));
    for (at, len) in [(0x3cu16, 2), (0x40, 0), (0x42, 2), (0xfc, 3), (0xfe, 0), (0x100, 0)] {
        let refused = refused(move || {
            network_card().add_capability_at(at, CapabilityId::VENDOR, &vec![0; len]);
        });
        assert_eq!(refused, at != 0x40, "{at:#x}");
    }
    assert!(refused(|| {
        let mut card = network_card();
        card.add_capability_at(0x50, CapabilityId::VENDOR, &[0; 10]);
        card.add_capability_at(0x58, CapabilityId::VENDOR, &[0; 2]);
    }));
}

#[test]
fn extended_capabilities_start_at_0x100_and_end_at_4096() {
    let express = || ConfigSpace::extended(&Identity::default());
    let mut space = express();
    assert_eq!(space.read(0x100, Size::Dword), 0, "none");
    assert_eq!(space.read(0xffc, Size::Dword), 0);
    assert_eq!(space.read(0xffe, Size::Dword), 0xffff_0000, "past the end");
    let first = space.add_extended_capability(0x0003, 1, &[0xaa; 8]);
    let second = space.add_extended_capability(0x000b, 2, &[0xbb; 0xe00]);
    assert_eq!((first, second), (0x100, 0x10c));
    assert_eq!(space.read(0x100, Size::Dword), 0x10c1_0003);
    assert_eq!(space.read(0x10c, Size::Dword), 0x0002_000b);
    assert_eq!(space.read(0x104, Size::Dword), 0xaaaa_aaaa);
    let list: Vec<_> = space.extended_capabilities().collect();
    assert_eq!(list, [(0x100, 3), (0x10c, 0xb)]);
    space.write(0x104, Size::Dword, 0);
    assert_eq!(space.read(0x104, Size::Dword), 0xaaaa_aaaa);
    let room = 0x1000 - 0x10c - 4 - 0xe00 - 4;
    let full = |more: usize| {
        let mut space = space.clone();
        refused(move || {
            let _ = space.add_extended_capability(1, 1, &vec![0; more]);
        })
    };
    assert!(!full(room) && full(room + 1));
    assert!(refused(move || {
        express().add_extended_capability(1, 16, &[]);
    }));
    let conventional = refused(|| {
        network_card().add_extended_capability(1, 1, &[]);
    });
    assert!(conventional, "256 bytes");
}

#[test]
fn a_state_is_of_the_same_make_and_length() {
    let (card, long) = (network_card(), ConfigSpace::extended(&Identity::default()));
    assert!(card.can_be(&card.state()) && long.can_be(&long.state()));
    assert!(!card.can_be(&long.state()) && !long.can_be(&card.state()));
    let mut other = card.state();
    other.bytes[0] ^= 1;
    assert!(!card.can_be(&other));
}

const MEMORY: Bar = Bar::Mem32 { len: 0x1000, prefetchable: false };

fn space() -> ConfigSpace {
    ConfigSpace::new(&Identity::default())
}

/// What a byte at 0xc0 is after a write of ones and one of zeros, from 0xff on.
fn after_writes(mut space: ConfigSpace) -> (u32, u32) {
    space.update(0xc0, &[0x5a]);
    space.write(0xc0, Size::Byte, 0xff);
    let ones = space.read(0xc0, Size::Byte);
    space.update(0xc0, &[0x5a]);
    space.write(0xc0, Size::Byte, 0);
    (ones, space.read(0xc0, Size::Byte))
}

#[test]
fn what_a_guest_may_do_with_a_bit_is_what_was_said_last() {
    let mut last = space();
    assert_eq!(after_writes(last.clone()), (0x5a, 0x5a), "nothing");
    last.allow_clear(0xc0, &[0xfc]);
    assert_eq!(after_writes(last.clone()), (0x02, 0x5a));
    last.allow_clear(0xc0, &[0x3c]);
    assert_eq!(after_writes(last.clone()), (0x02, 0x5a), "said twice");
    last.allow(0xc0, &[0x0f]);
    assert_eq!(after_writes(last.clone()), (0x0f, 0x50));
    last.allow(0xc0, &[0x03]);
    assert_eq!(after_writes(last.clone()), (0x0f, 0x50));
    last.allow_clear(0xc0, &[0x01]);
    assert_eq!(after_writes(last.clone()), (0x0e, 0x50));
    last.forbid(0xc0, &[0x18]);
    assert_eq!(after_writes(last.clone()), (0x1e, 0x58));
    last.forbid(0xc0, &[0x18]);
    assert_eq!(after_writes(last), (0x1e, 0x58));
}

#[test]
fn a_state_may_differ_in_what_the_guest_or_the_function_changes() {
    let mut card = space();
    card.allow(0xc0, &[0x03]);
    card.allow_clear(0xc0, &[0x04]);
    card.allow_update(0xc0, &[0x0b]);
    card.allow_update(0xc0, &[0x18]);
    for bit in 0..8 {
        let mut state = card.state();
        state.bytes[0xc0] ^= 1 << bit;
        assert_eq!(card.can_be(&state), bit < 5, "bit {bit}");
    }
}

#[test]
fn registers_past_the_end_cannot_be_set() {
    let refused = |change: fn(&mut ConfigSpace, u16)| {
        [0xfe, 0xff, 0x100].map(|offset| {
            let change = move || change(&mut space(), offset);
            std::panic::catch_unwind(change).is_err()
        })
    };
    let changes: [fn(&mut ConfigSpace, u16); 5] = [
        |space, at| space.set(at, &[0; 2]),
        |space, at| space.allow(at, &[0; 2]),
        |space, at| space.allow_clear(at, &[0; 2]),
        |space, at| space.forbid(at, &[0; 2]),
        |space, at| space.allow_update(at, &[0; 2]),
    ];
    for change in changes {
        assert_eq!(refused(change), [false, true, true]);
    }
}

#[test]
fn a_rom_is_no_bar() {
    let with_rom = space().with_bar(0, MEMORY).with_rom(0x800);
    assert_eq!(with_rom.bar(0), Some(MEMORY));
    assert_eq!(with_rom.bar(5), None);
    assert_eq!(with_rom.bar(ROM_BAR), Some(Bar::Mem32 { len: 0x800, prefetchable: true }));
    assert_eq!(space().bar(ROM_BAR), None);
    for (len, possible) in [
        (0x400, false),
        (0x800, true),
        (0x100_0000, true),
        (0x200_0000, false),
        (0x1800, false),
        (0, false),
    ] {
        let made = std::panic::catch_unwind(|| drop(space().with_rom(len)));
        assert_eq!(made.is_ok(), possible, "{len:#x}");
    }
}

#[test]
fn extended_capabilities_are_linked_one_after_the_other() {
    let mut long = ConfigSpace::extended(&Identity::default());
    assert_eq!(long.extended_capabilities().count(), 0);
    let places: Vec<u16> = [1, 2, 3].map(|id| long.add_extended_capability(id, 2, &[0; 8])).into();
    assert_eq!(places, [0x100, 0x10c, 0x118]);
    let headers = [0x100, 0x10c, 0x118].map(|at| long.read(at, Size::Dword));
    assert_eq!(headers, [0x10c2_0001, 0x1182_0002, 0x0002_0003]);
    let list: Vec<_> = long.extended_capabilities().collect();
    assert_eq!(list, [(0x100, 1), (0x10c, 2), (0x118, 3)]);
    // Two lists that do not meet: the one of 256 bytes ends before.
    assert_eq!(long.add_capability(CapabilityId::VENDOR, &[0; 2]), 0x40);
    assert_eq!(long.add_capability_at(0x48, CapabilityId::VENDOR, &[0; 2]), 0x48);
    assert_eq!(long.add_capability(CapabilityId::VENDOR, &[0; 2]), 0x44, "right between them");
    assert_eq!(long.capabilities().map(|(at, _)| at).collect::<Vec<_>>(), [0x40, 0x48, 0x44]);
}

#[test]
fn memory_of_64_bits_takes_two_registers_wherever_it_is() {
    let mem64 = Bar::Mem64 { len: 0x1000, prefetchable: false };
    for at in 0..5 {
        for other in 0..6 {
            let made = std::panic::catch_unwind(|| {
                drop(space().with_bar(at, mem64).with_bar(other, MEMORY))
            });
            assert_eq!(made.is_ok(), !(at..at + 2).contains(&other), "{other} beside {at}");
        }
    }
}

fn size() -> impl Strategy<Value = Size> {
    prop_oneof![Just(Size::Byte), Just(Size::Word), Just(Size::Dword)]
}

/// One bit, the naive way.
#[derive(Clone, Copy, Debug)]
enum Bit {
    Fixed,
    Writable,
    ClearedByOne,
}

fn bit() -> impl Strategy<Value = Bit> {
    prop_oneof![Just(Bit::Fixed), Just(Bit::Writable), Just(Bit::ClearedByOne)]
}

proptest! {
    #[test]
    fn masks_do_what_a_bit_by_bit_model_does(
        bits in prop::collection::vec((bit(), any::<bool>()), 8 * 64),
        script in prop::collection::vec((0x40u16..0x88, size(), any::<u32>()), 1..64),
    ) {
        let mut space = ConfigSpace::new(&Identity::default());
        let mut model = vec![(Bit::Fixed, false); 8 * 256];
        for (i, &(kind, value)) in bits.iter().enumerate() {
            let at = 8 * 0x40 + i;
            model[at] = (kind, value);
            let (byte, mask) = ((at / 8) as u16, [1 << (at % 8)]);
            match kind {
                Bit::Fixed => {}
                Bit::Writable => space.allow(byte, &mask),
                Bit::ClearedByOne => space.allow_clear(byte, &mask),
            }
            let old = space.read(byte, Size::Byte) as u8;
            space.set(byte, &[old | if value { mask[0] } else { 0 }]);
        }
        for (offset, size, value) in script {
            space.write(offset, size, value);
            for i in 0..size.bits() as usize {
                let (kind, held) = &mut model[8 * usize::from(offset) + i];
                let new = value >> i & 1 == 1;
                *held = match kind {
                    Bit::Fixed => *held,
                    Bit::Writable => new,
                    Bit::ClearedByOne => *held && !new,
                };
            }
            for byte in 0x40..0x90u16 {
                let expected = (0..8).fold(0, |sum, i| {
                    sum | u32::from(model[8 * usize::from(byte) + i].1) << i
                });
                prop_assert_eq!(space.read(byte, Size::Byte), expected);
            }
        }
    }

    #[test]
    fn any_bar_tells_its_size(log in 4u32..64, prefetchable: bool, junk: u64) {
        let len = 1u64 << log;
        let mut space = ConfigSpace::new(&Identity::default())
            .with_bar(4, Bar::Mem64 { len, prefetchable });
        let whole = |s: &ConfigSpace| {
            u64::from(s.read(0x24, Size::Dword)) << 32 | u64::from(s.read(0x20, Size::Dword))
        };
        space.write(0x20, Size::Dword, u32::MAX);
        space.write(0x24, Size::Dword, u32::MAX);
        prop_assert_eq!((!(whole(&space) & !0xf)).wrapping_add(1), len);
        space.write(0x20, Size::Dword, junk as u32);
        space.write(0x24, Size::Dword, (junk >> 32) as u32);
        space.write(0x04, Size::Word, 2);
        let window = space.windows()[4].unwrap();
        prop_assert_eq!((window.base, window.len), (junk & !(len - 1), len));
    }
}
