//! Which states a snapshot may bring: those that some sequence of accesses leads to.

use trapline_device::StateError;

use crate::pit::regs::Control;
use crate::pit::state::{Channel, Phase, SavedV1, State};

/// The rule that a counter 2 with `change` breaks, if any.
fn broken(change: impl FnOnce(&mut Channel)) -> Option<&'static str> {
    let mut state = State::default();
    let [_, _, two] = &mut state.channels;
    change(two);
    match State::try_from(SavedV1::from(&state)) {
        Ok(same) => {
            assert_eq!(same, state);
            None
        }
        Err(StateError::Inconsistent { rule, .. }) => Some(rule),
        Err(other) => panic!("{other}"),
    }
}

/// A control word's access and mode.
fn control(rw: u8, mode: u8) -> Control {
    Control::new().with_rw(rw).with_mode(mode)
}

/// A counter that counts in this mode, both bytes of its count written.
fn counting(channel: &mut Channel, mode: u8) {
    channel.control = control(3, mode);
    channel.phase = Phase::Counting;
    (channel.gate, channel.out, channel.null_count) = (true, true, false);
}

#[test]
fn what_a_driver_can_bring_about_is_taken() {
    assert_eq!(broken(|_| {}), None);
    for mode in 0..6 {
        assert_eq!(broken(|channel| counting(channel, mode)), None, "mode {mode}");
        let fresh = |channel: &mut Channel| {
            (channel.control, channel.out) = (control(3, mode), mode != 0);
        };
        assert_eq!(broken(fresh), None, "mode {mode}");
    }
    for mode in [0, 1, 4, 5] {
        let ended = |channel: &mut Channel| {
            counting(channel, mode);
            channel.phase = Phase::Ended;
        };
        assert_eq!(broken(ended), None, "mode {mode}");
    }
    assert_eq!(broken(|channel| channel.written_low = Some(5)), None);
    assert_eq!(broken(|channel| channel.read_high = true), None);
    assert_eq!(broken(|channel| channel.register = 0xffff), None);
    let low_only = |channel: &mut Channel| {
        (channel.control, channel.register) = (control(1, 0), 0xff);
    };
    assert_eq!(broken(low_only), None);
    let high_only = |channel: &mut Channel| {
        (channel.control, channel.register) = (control(2, 0), 0xff00);
    };
    assert_eq!(broken(high_only), None);
    let armed = |channel: &mut Channel| (channel.phase, channel.load) = (Phase::Armed, true);
    assert_eq!(broken(armed), None);
    let square = |channel: &mut Channel| {
        counting(channel, 3);
        (channel.odd, channel.out, channel.element, channel.register) = (true, false, 4, 5);
    };
    assert_eq!(broken(square), None);
    let held = |channel: &mut Channel| {
        counting(channel, 2);
        channel.gate = false;
    };
    assert_eq!(broken(held), None);
}

#[test]
fn what_no_driver_can_bring_about_is_refused_by_its_rule() {
    type Change = fn(&mut Channel);
    let rules: [(&str, Change); 15] = [
        ("the counter's number is not kept", |channel| {
            channel.control = control(3, 0).with_sc(1);
        }),
        ("a latch command is not kept", |channel| channel.control = control(0, 0)),
        ("a half count needs two-byte access", |channel| {
            (channel.control, channel.written_low) = (control(1, 0), Some(0));
        }),
        ("a half read needs two-byte access", |channel| {
            (channel.control, channel.read_high) = (control(2, 0), true);
        }),
        ("the byte that is not written is zero", |channel| {
            (channel.control, channel.register) = (control(1, 0), 0x100);
        }),
        ("only a count can be loaded", |channel| channel.load = true),
        ("OUT has its initial level until there is a count", |channel| channel.out = true),
        ("OUT has its initial level until there is a count", |channel| {
            channel.control = control(3, 4);
        }),
        ("no count is a null count", |channel| channel.null_count = false),
        ("a periodic mode has no end", |channel| {
            counting(channel, 2);
            channel.phase = Phase::Ended;
        }),
        ("a periodic mode has no end", |channel| {
            counting(channel, 3);
            channel.phase = Phase::Ended;
        }),
        ("only mode 3 knows odd counts", |channel| {
            counting(channel, 2);
            channel.odd = true;
        }),
        ("mode 3 counts in twos", |channel| {
            counting(channel, 3);
            channel.element = 5;
        }),
        ("a low gate holds OUT high in modes 2 and 3", |channel| {
            counting(channel, 2);
            (channel.gate, channel.out) = (false, false);
        }),
        ("a low gate holds OUT high in modes 2 and 3", |channel| {
            counting(channel, 3);
            (channel.gate, channel.out) = (false, false);
        }),
    ];
    for (rule, change) in rules {
        assert_eq!(broken(change), Some(rule));
    }
    let mut state = State::default();
    state.channels[1].gate = false;
    let refused = State::try_from(SavedV1::from(&state));
    let tied = "gates 0 and 1 are tied high";
    assert!(matches!(refused, Err(StateError::Inconsistent { rule, .. }) if rule == tied));
}

/// A counter with the gate at this level whose count is one byte.
fn one_byte(gate: bool, mode: u8, count: u8) -> Channel {
    let mut channel = Channel::default();
    channel.set_gate(gate);
    channel.program(control(1, mode));
    channel.write(count);
    channel
}

/// The data sheet calls it illegal; what it comes to is OUT low for every clock.
#[test]
fn a_count_of_1_in_mode_2_keeps_out_low_unless_the_gate_does_not() {
    let mut channel = one_byte(true, 2, 1);
    assert!(channel.out);
    assert!(!channel.advance(1) && !channel.out, "the pulse that loads it");
    assert!(!channel.advance(1000) && !channel.out, "it never rises");
    let mut held = one_byte(false, 2, 1);
    assert!(!held.advance(1) && held.out);
    assert!(!held.advance(1000) && held.out);
    // Any other count has it rise.
    let mut two = one_byte(true, 2, 2);
    assert!(!two.advance(2) && !two.out);
    assert!(two.advance(1000));
}

#[test]
fn a_square_wave_rises_in_every_period() {
    for count in [2, 3, 5, 200] {
        let mut channel = one_byte(true, 3, count);
        channel.advance(1);
        let periods = u64::from(count) * 1000;
        assert!(channel.advance(periods), "{count}");
        assert!(channel.out, "{count}");
    }
}
