//! The ways of Linux's rtc-cmos driver with the chip.

use super::*;

/// Reads the time as the driver does: seconds, UIP, the rest, UIP and seconds again; with a wait of
/// 1 ms while UIP is set.
fn get_time(pc: &Pc) -> [u8; 8] {
    for _ in 0..10 {
        let seconds = pc.get(0);
        if pc.get(0xa) & UIP == 0 && pc.get(0) == seconds {
            let time = pc.time();
            if pc.get(0xa) & UIP == 0 && pc.get(0) == seconds {
                return time;
            }
        }
        pc.clock.step_ns(1_000_000);
    }
    panic!("the driver gives up after 10 ms");
}

/// Stops updates, resets the divider, writes, lets go in the reverse order.
fn set_time(pc: &Pc, time: [u8; 8]) {
    let control = pc.get(0xb);
    pc.put(0xb, control | SET);
    let frequency = pc.get(0xa) & !UIP;
    pc.put(0xa, frequency & 0x0f | 0x70);
    pc.put_time(time);
    pc.put(0xb, control);
    pc.put(0xa, frequency);
}

fn set_enable(pc: &Pc, enable: u8, on: bool) {
    let control = pc.get(0xb) & !enable;
    pc.put(0xb, control | if on { enable } else { 0 });
    pc.get(0xc);
}

#[test]
fn the_probe_finds_a_working_battery_backed_clock() {
    let pc = Pc::new();
    assert!((0..10).any(|_| pc.get(0xa) & UIP == 0));
    pc.put(0xa, 0x26);
    set_enable(&pc, PIE | AIE | UIE, false);
    assert_eq!(pc.get(0xb) & (H24 | DM), H24);
    assert_eq!(pc.get(0xd) & 0x80, 0x80);
    assert_eq!(pc.clock.next_deadline_ns(), None);
}

#[test]
fn polling_uip_reads_a_consistent_time_at_any_moment() {
    for from_midnight in [1, 200_000, 244_000, 300_000, 1_000_000, 2_227_000, 3_000_000] {
        let pc = Pc::new();
        pc.put_time([0x20, 0x26, 0x12, 0x31, 5, 0x23, 0x59, 0x59]);
        pc.clock.step_ns(SECOND - from_midnight);
        let time = get_time(&pc);
        assert!(
            time == [0x20, 0x26, 0x12, 0x31, 5, 0x23, 0x59, 0x59]
                || time == [0x20, 0x27, 1, 1, 6, 0, 0, 0],
            "{time:x?}"
        );
    }
}

#[test]
fn setting_the_time_at_the_half_second_sets_it_to_the_update_cycle() {
    let pc = Pc::new();
    pc.clock.step_ns(777_000_000);
    set_time(&pc, [0x20, 0x30, 5, 6, 2, 7, 8, 9]);
    assert_eq!(pc.get(0xa), 0x26);
    pc.clock.step_ns(SECOND / 2 - 1_000_000);
    assert_eq!(pc.get(0), 9);
    pc.clock.step_ns(3_000_000);
    assert_eq!(get_time(&pc), [0x20, 0x30, 5, 6, 2, 7, 8, 0x10]);
    pc.clock.step_ns(3600 * SECOND);
    assert_eq!(get_time(&pc), [0x20, 0x30, 5, 6, 2, 8, 8, 0x10]);
}

#[test]
fn a_wake_alarm_fires_at_its_time() {
    let pc = Pc::new();
    set_enable(&pc, AIE, false);
    pc.put_alarm([0x06, 0x12, 0x40]);
    set_enable(&pc, AIE, true);
    assert_eq!(pc.sleep(), 30 * SECOND);
    assert_eq!(pc.get(0xc) & (IRQF | AF), IRQF | AF);
    assert_eq!(get_time(&pc)[5..], [0x06, 0x12, 0x40]);
}

#[test]
fn the_periodic_frequency_is_selected_by_the_drivers_formula() {
    for log2 in 1..=13u8 {
        let pc = Pc::new();
        pc.put(0xa, 0x20 | (16 - log2));
        set_enable(&pc, PIE, true);
        pc.sleep();
        pc.get(0xc);
        let mut ticks = 0;
        let end = pc.clock.now_ns() + SECOND;
        while pc.clock.now_ns() < end {
            pc.sleep();
            pc.get(0xc);
            ticks += 1;
        }
        assert_eq!(ticks, 1 << log2);
    }
}
