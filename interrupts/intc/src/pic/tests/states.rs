//! Which states a snapshot may bring: those that some sequence of accesses leads to.

use trapline_device::StateError;

use crate::pic::regs::{Icw1, Icw4};
use crate::pic::state::{Chip, Phase, SavedV1, State};

/// The rule that the state breaks, if any.
fn broken(state: State) -> Option<&'static str> {
    match State::try_from(SavedV1::from(&state)) {
        Ok(same) => {
            assert_eq!(same, state);
            None
        }
        Err(StateError::Inconsistent { rule, .. }) => Some(rule),
        Err(other) => panic!("{other}"),
    }
}

/// The same of a pair whose primary or secondary chip, initialized, `change` was made to.
fn chip(change: impl Fn(&mut Chip)) -> Option<&'static str> {
    let ready = Chip { phase: Phase::Ready, icw1: Icw1::from_bits(0x11), ..Chip::default() };
    let [mut one, mut other] = [State::default(); 2];
    (one.primary, other.secondary) = (ready, ready);
    change(&mut one.primary);
    change(&mut other.secondary);
    let rules = [broken(one), broken(other)];
    assert_eq!(rules[0], rules[1], "it is the same for both chips");
    rules[0]
}

#[test]
fn what_a_driver_can_bring_about_is_taken() {
    assert_eq!(broken(State::default()), None);
    assert_eq!(chip(|_| {}), None);
    assert_eq!(chip(|chip| chip.lowest = 0), None);
    assert_eq!(chip(|chip| (chip.lines, chip.imr) = (0b1000_0000, 0xff)), None);
    assert_eq!(chip(|chip| (chip.lines, chip.latched, chip.imr) = (0xa0, 0x80, 0xff)), None);
    assert_eq!(chip(|chip| chip.icw4 = Icw4::from_bits(0x1f)), None);
    assert_eq!(chip(|chip| chip.isr = 0x81), None);
    assert_eq!(chip(|chip| chip.elcr = 0xc0), None);
    for phase in [Phase::Icw2, Phase::Icw3, Phase::Icw4] {
        assert_eq!(chip(|chip| chip.phase = phase), None);
    }
    // Single, without ICW4.
    let icw1 = Icw1::from_bits(0x12);
    assert_eq!(chip(|chip| (chip.phase, chip.icw1) = (Phase::Icw2, icw1)), None);
    assert_eq!(chip(|chip| chip.icw1 = icw1), None);
}

#[test]
fn what_no_driver_can_bring_about_is_refused_by_its_rule() {
    type Broken<'a> = (&'a str, &'a dyn Fn(&mut Chip));
    let single = Icw1::from_bits(0x13);
    let without_icw4 = Icw1::from_bits(0x10);
    let aeoi = Icw4::from_bits(3);
    let rules: [Broken<'_>; 13] = [
        ("the input of lowest priority is one of 0 to 7", &|chip| chip.lowest = 8),
        ("a latched request's input is high", &|chip| (chip.lines, chip.latched) = (0x40, 0xc0)),
        ("the fixed bits of the ELCR are clear", &|chip| chip.elcr = 0xff),
        ("the upper bits of ICW4 are clear", &|chip| chip.icw4 = Icw4::from_bits(0x20)),
        ("ICW1 was written before the other ICWs", &|chip| chip.icw1 = Icw1::new()),
        ("ICW1 was written before the other ICWs", &|chip| chip.phase = Phase::Off),
        ("nothing is in service before the initialization has ended", &|chip| {
            (chip.phase, chip.isr) = (Phase::Icw3, 1);
        }),
        ("no ICW3 follows in single mode", &|chip| {
            (chip.phase, chip.icw1) = (Phase::Icw3, single);
        }),
        ("ICW4 is only awaited when announced", &|chip| {
            (chip.phase, chip.icw1) = (Phase::Icw4, without_icw4);
        }),
        ("ICW4 was only set when announced", &|chip| {
            (chip.icw1, chip.icw4) = (without_icw4, Icw4::from_bits(1));
        }),
        ("ICW4 was only set when announced", &|chip| {
            (chip.phase, chip.icw4) = (Phase::Icw4, Icw4::from_bits(1));
        }),
        ("nothing stays in service with automatic EOI", &|chip| {
            (chip.icw4, chip.isr) = (aeoi, 1);
        }),
        ("nothing stays in service with automatic EOI", &|chip| {
            (chip.icw4, chip.isr) = (aeoi, 0x80);
        }),
    ];
    for (rule, change) in rules {
        assert_eq!(chip(change), Some(rule));
    }
}

#[test]
fn the_cascade_input_is_at_the_level_of_the_secondarys_int() {
    let rule = Some("IR2 is at the level of the secondary's INT");
    let mut state = State::default();
    state.primary.lines = 1 << 2;
    assert_eq!(broken(state), rule);
    state.secondary = Chip {
        phase: Phase::Ready,
        icw1: Icw1::from_bits(0x11),
        lines: 1,
        latched: 1,
        ..Chip::default()
    };
    assert_eq!(broken(state), None);
    state.primary.lines = 1 << 1;
    assert_eq!(broken(state), rule);
    state.primary.lines = 1 << 1 | 1 << 2;
    assert_eq!(broken(state), None);
}
