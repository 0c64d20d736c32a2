//! Which states a snapshot may bring: those that some sequence of accesses leads to.

use trapline_device::StateError;

use crate::ioapic::regs::{Id, Redirection, SUCCESSIVE_ENDS_MAX};
use crate::ioapic::state::{SavedV2, State};

/// The rule that `change` makes the state after reset break, if any.
fn broken(change: impl FnOnce(&mut State)) -> Option<&'static str> {
    let mut state = State::default();
    change(&mut state);
    match State::try_from(SavedV2::from(&state)) {
        Ok(same) => {
            assert_eq!(same, state);
            None
        }
        Err(StateError::Inconsistent { rule, .. }) => Some(rule),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn what_a_guest_can_bring_about_is_taken() {
    let waiting = Redirection::new().with_level(true).with_remote_irr(true);
    assert_eq!(broken(|_| {}), None);
    assert_eq!(broken(|state| state.select = 0xff), None);
    assert_eq!(broken(|state| (state.id, state.arbitration) = (id(0xf), id(0xf))), None);
    assert_eq!(broken(|state| state.lines = 0xff_ffff), None);
    assert_eq!(broken(|state| state.entries[23] = waiting), None);
    assert_eq!(
        broken(|state| state.entries[0] = Redirection::from_bits(u64::MAX).possible()),
        None
    );
    assert_eq!(broken(|state| state.successive_ends[5] = SUCCESSIVE_ENDS_MAX - 1), None);
    assert_eq!(broken(|state| (state.lines, state.paused) = (0b110, 0b100)), None);
}

fn id(number: u8) -> Id {
    Id::new().with_id(number)
}

impl Redirection {
    /// Without what the data sheet reserves or has read-only, but for remote IRR.
    fn possible(self) -> Self {
        Self::from_bits(self.into_bits() & 0xffff_0000_0001_efff)
    }
}

#[test]
fn what_no_guest_can_bring_about_is_refused_by_its_rule() {
    let reserved =
        |bit: u32| broken(|state| state.entries[7] = Redirection::from_bits(1 << bit | 1 << 15));
    let bits = [Id::from_bits(1 << 28), Id::from_bits(1), Id::from_bits(0x0100_0001)];
    for bad in bits {
        let rule = broken(|state| (state.id, state.arbitration) = (bad, bad));
        assert_eq!(rule, Some("only four bits of the ID are set"));
    }
    let loaded = Some("the arbitration ID was loaded with the ID");
    assert_eq!(broken(|state| state.id = id(1)), loaded);
    assert_eq!(broken(|state| state.arbitration = id(1)), loaded);
    assert_eq!(broken(|state| state.lines = 1 << 24), Some("there are 24 inputs"));
    for bit in (0..64).filter(|bit| !matches!(bit, 12 | 17..=47)) {
        assert_eq!(reserved(bit), None, "bit {bit}");
    }
    for bit in [12].into_iter().chain(17..=47) {
        assert_eq!(reserved(bit), Some("reserved bits are 0"), "bit {bit}");
    }
    assert_eq!(
        broken(|state| state.entries[0] = Redirection::new().with_remote_irr(true)),
        Some("only level-triggered interrupts wait for their end")
    );
    assert_eq!(
        broken(|state| state.successive_ends[23] = SUCCESSIVE_ENDS_MAX),
        Some("too many ends in a row begin a pause")
    );
    for (lines, paused) in [(0, 1), (0b101, 0b10), (0b101, 0b111)] {
        assert_eq!(
            broken(|state| (state.lines, state.paused) = (lines, paused)),
            Some("only a pin that is asserted pauses")
        );
    }
}
