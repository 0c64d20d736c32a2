//! The keyboard, its translation, and the mouse, through the controller.

use super::super::translate::{set1, translate};
use super::*;

#[test]
fn translation_maps_every_key_to_a_key_of_its_own() {
    let mut seen: Vec<u8> = (1..0x80).map(set1).collect();
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(1..0x80));
    assert_eq!(set1(0x00), 0xff, "overrun");
    assert!((0x85..=0xff).all(|code| set1(code) == code));
    // Esc, 1, Q, enter, space, F7, F12, keypad 5.
    let keys = [0x76, 0x16, 0x15, 0x5a, 0x29, 0x83, 0x07, 0x73].map(set1);
    assert_eq!(keys, [0x01, 0x02, 0x10, 0x1c, 0x39, 0x41, 0x58, 0x4c]);
    let mut in_break = false;
    let stream = [0xe0, 0xf0, 0x75, 0x1c].map(|code| translate(code, &mut in_break));
    assert_eq!(stream, [Some(0xe0), None, Some(0xc8), Some(0x1e)]);
}

#[test]
fn pause_is_translated_to_what_a_pc_sends() {
    let pc = pc();
    pc.chip.key(&[0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]);
    assert_eq!(pc.flush(), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
}

#[test]
fn the_keyboard_answers_every_command() {
    let pc = pc().untranslated();
    assert_eq!(pc.keyboard(0xee), [0xee]);
    assert_eq!(pc.keyboard(0xfe), [0xee], "resend");
    assert_eq!(pc.keyboard(0xf2), [0xfa, 0xab, 0x83]);
    assert_eq!(pc.keyboard(0xf3), [0xfa]);
    assert_eq!(pc.keyboard(0x00), [0xfa]);
    assert_eq!(pc.keyboard(0xed), [0xfa]);
    assert_eq!(pc.keyboard(0x05), [0xfa]);
    assert_eq!(pc.chip.leds(), 5);
    for unknown in [0x00, 0x7f, 0xec, 0xef, 0xf1] {
        assert_eq!(pc.keyboard(unknown), [0xfe]);
    }
    assert_eq!(pc.keyboard(0xed), [0xfa]);
    assert_eq!(pc.keyboard(0xf2), [0xfa, 0xab, 0x83], "a command instead of an argument");
    assert_eq!(pc.keyboard(0xf0), [0xfa]);
    assert_eq!(pc.keyboard(0x09), [0xfe]);
    assert_eq!(pc.keyboard(0x03), [0xfa], "the argument, again");
    assert_eq!(pc.keyboard(0xff), [0xfa, 0xaa]);
    assert_eq!(pc.chip.leds(), 0);
    assert_eq!(pc.keyboard(0xf0), [0xfa]);
    assert_eq!(pc.keyboard(0x00), [0xfa, 0x02], "set 2 again");
}

#[test]
fn a_disabled_keyboard_is_silent_until_enabled() {
    let pc = pc().untranslated();
    for command in [0xf5, 0xf6] {
        assert_eq!(pc.keyboard(command), [0xfa]);
        pc.chip.key(&[0x1c]);
        assert_eq!(pc.flush(), []);
    }
    assert_eq!(pc.keyboard(0xf4), [0xfa]);
    pc.chip.key(&[0x1c]);
    assert_eq!(pc.flush(), [0x1c]);
}

#[test]
fn keys_wait_while_a_command_waits_for_its_argument() {
    let pc = pc().untranslated();
    assert_eq!(pc.keyboard(0xed), [0xfa]);
    pc.chip.key(&[0x1c]);
    assert_eq!(pc.flush(), []);
    assert_eq!(pc.keyboard(0x02), [0xfa, 0x1c]);
}

#[test]
fn scan_code_sets_1_and_3_are_what_they_say() {
    let pc = pc().untranslated();
    let up = [0xe0, 0x75, 0xe0, 0xf0, 0x75];
    let shift = [0x12, 0xf0, 0x12];
    let pause = [0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77];
    let print = [0xe0, 0x12, 0xe0, 0x7c];
    let send = |keys: &[u8]| {
        pc.chip.key(keys);
        pc.flush()
    };
    pc.keyboard(0xf0);
    pc.keyboard(0x01);
    assert_eq!(send(&up), [0xe0, 0x48, 0xe0, 0xc8]);
    assert_eq!(send(&shift), [0x2a, 0xaa]);
    pc.keyboard(0xf0);
    pc.keyboard(0x03);
    assert_eq!(send(&up), [0x63], "no break code");
    assert_eq!(send(&shift), [0x12, 0xf0, 0x12]);
    assert_eq!(send(&pause), [0x62]);
    assert_eq!(send(&print), [0x57]);
    assert_eq!(pc.keyboard(0xfc), [0xfa]);
    assert_eq!(pc.keyboard(0x63), [0xfa]);
    assert_eq!(pc.keyboard(0xf4), [0xfa]);
    assert_eq!(send(&up), [0x63, 0xf0, 0x63], "as chosen for this key");
    assert_eq!(pc.keyboard(0xf7), [0xfa]);
    assert_eq!(send(&shift), [0x12]);
    assert_eq!(pc.keyboard(0xf8), [0xfa]);
    assert_eq!(send(&[0x1c, 0xf0, 0x1c]), [0x1c, 0xf0, 0x1c]);
}

#[test]
fn a_full_key_buffer_says_so_once_and_loses_whole_codes() {
    let pc = pc().untranslated();
    pc.command(0xad);
    for _ in 0..20 {
        pc.chip.key(&[0xe0, 0xf0, 0x75]);
    }
    pc.command(0xae);
    let mut expected = [0xe0, 0xf0, 0x75].repeat(5);
    expected.push(0x00);
    assert_eq!(pc.flush(), expected);
    pc.chip.key(&[0x1c]);
    assert_eq!(pc.flush(), [0x1c]);
}

#[test]
fn the_mouse_answers_every_command() {
    let pc = pc();
    assert_eq!(pc.mouse(0xff), [0xfa, 0xaa, 0x00]);
    assert_eq!(pc.mouse(0xfe), [0xaa, 0x00], "resend");
    assert_eq!(pc.mouse(0xf2), [0xfa, 0x00]);
    assert_eq!(pc.mouse(0xe9), [0xfa, 0x00, 0x02, 100]);
    for (command, argument) in [(0xe8, 3), (0xf3, 200)] {
        assert_eq!(pc.mouse(command), [0xfa]);
        assert_eq!(pc.mouse(argument), [0xfa]);
    }
    for command in [0xe7, 0xf4, 0xf0] {
        assert_eq!(pc.mouse(command), [0xfa]);
    }
    pc.chip.movement(0, 0, 0b011);
    assert_eq!(pc.mouse(0xe9), [0xfa, 0x75, 3, 200]);
    for command in [0xe6, 0xea, 0xf5] {
        assert_eq!(pc.mouse(command), [0xfa]);
    }
    assert_eq!(pc.mouse(0xe9), [0xfa, 0x05, 3, 200]);
    assert_eq!(pc.mouse(0xf6), [0xfa]);
    assert_eq!(pc.mouse(0xe9), [0xfa, 0x05, 2, 100]);
    assert_eq!(pc.mouse(0xee), [0xfa]);
    assert_eq!(pc.mouse(0xf2), [0xf2], "wrapped");
    assert_eq!(pc.mouse(0xec), [0xfa]);
    assert_eq!(pc.mouse(0xf2), [0xfa, 0x00]);
}

#[test]
fn a_bad_byte_is_asked_for_again_and_the_second_is_an_error() {
    let pc = pc();
    assert_eq!(pc.mouse(0x55), [0xfe]);
    assert_eq!(pc.mouse(0x55), [0xfc]);
    assert_eq!(pc.mouse(0xe8), [0xfa]);
    assert_eq!(pc.mouse(0x04), [0xfe]);
    assert_eq!(pc.mouse(0x01), [0xfa]);
    assert_eq!(pc.mouse(0xe9), [0xfa, 0x00, 0x01, 100]);
}

#[test]
fn a_streaming_mouse_reports_movement_and_buttons() {
    let pc = pc();
    pc.command_with(0x60, 0x02);
    pc.chip.movement(5, 5, 0);
    assert_eq!(pc.mouse(0xf4), [0xfa], "what happened before does not count");
    let rises = pc.irq12.rises();
    pc.chip.movement(3, -2, 0b101);
    assert_eq!(pc.status() & AUXOBF, AUXOBF);
    assert_eq!(pc.flush(), [0x2d, 0x03, 0xfe]);
    assert_eq!(pc.irq12.rises(), rises + 3);
    pc.chip.movement(0, 0, 0b101);
    assert_eq!(pc.flush(), [], "nothing changed");
    assert_eq!(pc.mouse(0xe7), [0xfa]);
    pc.chip.movement(4, -100, 0);
    assert_eq!(pc.flush(), [0x28, 6, 0x38]);
}

#[test]
fn a_mouse_that_nobody_reads_counts_to_nine_bits_and_says_that_there_was_more() {
    let pc = pc();
    assert_eq!(pc.mouse(0xf0), [0xfa], "remote mode");
    // No more and no less than the counters can say.
    pc.chip.movement(255, -256, 0);
    assert_eq!(pc.mouse(0xeb), [0xfa, 0x28, 0xff, 0x00]);
    for (dx, dy, report) in [
        (256, 0, [0x48, 0xff, 0x00]),
        (-257, 0, [0x58, 0x00, 0x00]),
        (0, 5_000, [0x88, 0x00, 0xff]),
        (i32::MIN, i32::MAX, [0xd8, 0x00, 0xff]),
    ] {
        pc.chip.movement(dx, dy, 0);
        let [head, x, y] = report;
        assert_eq!(pc.mouse(0xeb), [0xfa, head, x, y], "{dx} {dy}");
        assert_eq!(pc.mouse(0xeb), [0xfa, 0x08, 0, 0], "the counters begin again");
    }
    // Both ends, one after the other: the overflow stays until it is reported.
    pc.chip.movement(300, 0, 0);
    pc.chip.movement(-55, 0, 0);
    assert_eq!(pc.mouse(0xeb), [0xfa, 0x48, 200, 0]);
}

#[test]
fn scaling_beyond_nine_bits_overflows_and_no_movement_keeps_a_driver_busy() {
    let pc = pc();
    assert_eq!(pc.mouse(0xe7), [0xfa]);
    assert_eq!(pc.mouse(0xf4), [0xfa]);
    pc.chip.movement(127, -128, 0);
    assert_eq!(pc.flush(), [0x28, 254, 0x00]);
    pc.chip.movement(128, -129, 0);
    assert_eq!(pc.flush(), [0xe8, 255, 0x00]);
    // Linux gives a controller up that has more than 16 bytes to say at its start.
    pc.command(0xa7);
    (0..1_000).for_each(|_| pc.chip.movement(9_999, -9_999, 0));
    pc.command(0xa8);
    assert_eq!(pc.flush(), [0xe8, 0xff, 0x00]);
}

#[test]
fn a_remote_mouse_reports_when_asked() {
    let pc = pc();
    assert_eq!(pc.mouse(0xf0), [0xfa]);
    assert_eq!(pc.mouse(0xf4), [0xfa]);
    pc.chip.movement(1, 2, 0);
    assert_eq!(pc.flush(), []);
    assert_eq!(pc.mouse(0xeb), [0xfa, 0x08, 1, 2]);
    assert_eq!(pc.mouse(0xeb), [0xfa, 0x08, 0, 0]);
}

#[test]
fn mouse_bytes_wait_while_the_interface_is_off() {
    let pc = pc();
    assert_eq!(pc.mouse(0xf4), [0xfa]);
    pc.command(0xa7);
    pc.chip.movement(1, 0, 0);
    pc.chip.movement(1, 0, 0);
    assert_eq!(pc.status() & OBF, 0);
    pc.command(0xa8);
    assert_eq!(pc.flush(), [0x08, 2, 0]);
}

/// Keys that are held, by what the keyboard says in so many milliseconds.
fn repeats(pc: &Pc, ms: u64) -> usize {
    let mut count = 0;
    for _ in 0..ms {
        pc.clock.step_ns(1_000_000);
        count += pc.flush().len();
    }
    count
}

#[test]
fn a_key_that_is_held_repeats_after_its_delay_at_its_rate() {
    let pc = pc().untranslated();
    pc.chip.key(&[0x1c]);
    assert_eq!(pc.flush(), [0x1c]);
    assert_eq!(repeats(&pc, 499), 0);
    assert_eq!(repeats(&pc, 1), 1);
    assert_eq!(repeats(&pc, 1000), 10, "10.9 characters/s");
    pc.chip.key(&[0xe0, 0x75]);
    assert_eq!(repeats(&pc, 500), 4, "the last key, with its prefix");
    pc.chip.key(&[0xf0, 0x1c]);
    assert_eq!(pc.flush(), [0xf0, 0x1c]);
    assert_eq!(repeats(&pc, 100), 2, "another key's release does not end it");
    pc.chip.key(&[0xe0, 0xf0, 0x75]);
    assert_eq!(pc.flush(), [0xe0, 0xf0, 0x75]);
    assert_eq!(repeats(&pc, 2000), 0);
    assert_eq!(pc.clock.next_deadline_ns(), None);
    pc.keyboard(0xf3);
    pc.keyboard(0x00);
    pc.chip.key(&[0x1c]);
    assert_eq!(pc.flush(), [0x1c]);
    assert_eq!(repeats(&pc, 1250), 30, "30 characters/s after 250 ms");
}

#[test]
fn what_nobody_reads_repeats_once() {
    let pc = pc().untranslated();
    pc.chip.key(&[0x1c]);
    pc.clock.step_ns(10_000_000_000);
    assert_eq!(pc.flush(), [0x1c, 0x1c]);
    pc.keyboard(0xf5);
    assert_eq!(pc.clock.next_deadline_ns(), None, "nor does a disabled keyboard");
    pc.keyboard(0xff);
    pc.chip.key(&[0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]);
    assert_eq!(pc.clock.next_deadline_ns(), None, "nor the pause key");
}

#[test]
fn in_set_3_keys_repeat_that_are_told_to() {
    let pc = pc().untranslated();
    pc.keyboard(0xf0);
    pc.keyboard(0x03);
    let held = |make: &[u8], release: &[u8]| {
        pc.chip.key(make);
        pc.flush();
        let count = repeats(&pc, 600);
        pc.chip.key(release);
        pc.flush();
        count
    };
    assert_eq!(held(&[0x1c], &[0xf0, 0x1c]), 2, "a letter");
    assert_eq!(held(&[0x05], &[0xf0, 0x05]), 0, "F1");
    assert_eq!(held(&[0x12], &[0xf0, 0x12]), 0, "shift");
    pc.keyboard(0xfb);
    pc.keyboard(0x07);
    pc.keyboard(0xfd);
    pc.keyboard(0x1c);
    pc.keyboard(0xf4);
    assert_eq!(held(&[0x05], &[0xf0, 0x05]), 2);
    assert_eq!(held(&[0x1c], &[0xf0, 0x1c]), 0);
    pc.keyboard(0xf8);
    assert_eq!(held(&[0x05], &[0xf0, 0x05]), 0);
    pc.keyboard(0xfa);
    assert_eq!(held(&[0x12], &[0xf0, 0x12]), 2);
}
