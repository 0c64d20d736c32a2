//! What is done to both: edits and accesses, drawn so that they meet.

use proptest::prelude::*;
use trapline::{Limits, Rules, Size, Space};

/// A region to be mapped.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) space: Space,
    pub(crate) base: Option<u64>,
    pub(crate) len: u64,
    pub(crate) rules: Rules,
    pub(crate) device_offset: u64,
    pub(crate) bells: Vec<(u64, u64, Option<u64>)>,
}

/// Regions are meant by their number among the live ones, modulo how many there are.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Map(Wanted),
    Unmap(usize),
    Place(usize, Option<u64>),
    Swap(usize, usize),
    PlaceUnknown,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Edit(Vec<Change>),
    Drop(usize),
    Trace(usize, bool),
    Read(Space, u64, usize),
    Write(Space, u64, Vec<u8>),
    ReadRep(u16, Size, usize),
    WriteRep(u16, Size, Vec<u8>),
}

/// Addresses close together, at the ends of the spaces, round a page border, and in a region of
/// many pages.
pub(crate) fn address() -> impl Strategy<Value = (Space, u64)> {
    let mmio = prop_oneof![
        0..0x40u64,
        0xfe0..0x1020u64,
        u64::MAX - 0x3f..=u64::MAX,
        0x10_0000..0x12_0000u64
    ];
    let pio = prop_oneof![0..0x40u64, 0x3f0..0x410u64, 0xffc0..=0xffffu64];
    prop_oneof![
        3 => mmio.prop_map(|addr| (Space::Mmio, addr)),
        2 => pio.prop_map(|addr| (Space::Pio, addr)),
    ]
}

fn size() -> impl Strategy<Value = Size> {
    prop::sample::select(vec![Size::Byte, Size::Word, Size::Dword, Size::Qword])
}

fn limits() -> impl Strategy<Value = Limits> {
    (size(), size(), any::<bool>()).prop_map(|(a, b, unaligned)| Limits {
        min: a.min(b),
        max: a.max(b),
        unaligned,
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    prop_oneof![
        3 => Just(Rules::ANY),
        1 => Just(Rules::BYTES),
        3 => (limits(), limits()).prop_map(|(valid, handled)| Rules { valid, handled }),
    ]
}

pub(crate) fn wanted() -> impl Strategy<Value = Wanted> {
    let len = prop_oneof![20 => 1..0x20u64, 1 => Just(0), 2 => Just(0x1_8000), 1 => Just(0x1000)];
    let bell =
        (0..0x10u64, prop::sample::select(vec![0u64, 1, 2, 4, 8]), prop::option::of(0..3u64));
    let bells = prop_oneof![4 => Just(vec![]), 1 => prop::collection::vec(bell, 1..4)];
    let offset = prop_oneof![4 => Just(0), 1 => 0..9u64];
    (address(), prop::bool::weighted(0.9), len, rules(), offset, bells).prop_map(
        |((space, base), placed, len, rules, device_offset, bells)| Wanted {
            space,
            base: placed.then_some(base),
            len,
            rules,
            device_offset,
            bells,
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let index = 0..64usize;
    prop_oneof![
        6 => wanted().prop_map(Change::Map),
        2 => index.clone().prop_map(Change::Unmap),
        4 => (index.clone(), prop::option::weighted(0.8, address()))
            .prop_map(|(i, to)| Change::Place(i, to.map(|(_, addr)| addr))),
        2 => (index.clone(), index).prop_map(|(a, b)| Change::Swap(a, b)),
        1 => Just(Change::PlaceUnknown),
    ]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(prop_oneof![0..4u8, any::<u8>()], 1..=8usize);
    let port = || {
        address()
            .prop_map(|(_, addr)| addr.to_le_bytes())
            .prop_map(|b| u16::from_le_bytes([b[0], b[1]]))
    };
    prop_oneof![
        6 => prop::collection::vec(change(), 1..4).prop_map(Step::Edit),
        1 => (0..64usize).prop_map(Step::Drop),
        1 => (0..64usize, any::<bool>()).prop_map(|(i, on)| Step::Trace(i, on)),
        8 => (address(), 1..=8usize).prop_map(|((space, addr), len)| Step::Read(space, addr, len)),
        8 => (address(), bytes()).prop_map(|((space, addr), data)| Step::Write(space, addr, data)),
        1 => (port(), size(), 0..33usize).prop_map(|(p, s, n)| Step::ReadRep(p, s, n)),
        1 => (port(), size(), prop::collection::vec(any::<u8>(), 0..33))
            .prop_map(|(p, s, data)| Step::WriteRep(p, s, data)),
    ]
}

/// Whether the region could be anywhere: deliveries inside it that do not exclude each other.
pub(crate) fn is_possible(wanted: &Wanted) -> bool {
    wanted.len > 0
        && wanted.bells.iter().enumerate().all(|(i, &(offset, len, value))| {
            let inside = offset + len.max(1) <= wanted.len;
            let valued_any = len == 0 && value.is_some();
            let clashes = wanted.bells[..i].iter().any(|&(other, other_len, other_value)| {
                let same_value = value.is_none() || other_value.is_none() || value == other_value;
                offset == other && (len == 0 || other_len == 0 || (len == other_len && same_value))
            });
            inside && !valued_any && !clashes
        })
}
