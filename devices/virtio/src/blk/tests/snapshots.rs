//! A device that is saved with requests under way, and goes on elsewhere.

use super::*;

/// Makes five requests of which the limits let two pass.
fn busy() -> Bench {
    let mut bench = Bench::limited();
    assert_eq!(std::iter::from_fn(|| bench.rings[0].take_used()).count(), 2);
    bench
}

#[test]
fn requests_that_were_not_answered_are_made_again() {
    let mut bench = busy();
    bench.device.config_write(32, &[0]);
    let position = bench.queues[0].position().unwrap();
    let saved = bench.device.save();
    assert_eq!(position.requests.len(), 3);
    // It goes on as if nothing had been, after a reset that would have forgotten it all.
    let features = bench.device.features();
    bench.reset();
    bench.clock.step_ns(1_000_000_000);
    bench.device.restore(&saved).unwrap();
    assert_eq!(bench.config(32, 1), 0);
    bench.device.activate(&Activation { features, queues: &bench.queues });
    bench.queues[0].resume(&bench.place(0), 0, &position).unwrap();
    bench.notify(0);
    for _ in 0..3 {
        bench.clock.step_ns(50_000_000);
        bench.notify(0);
    }
    let written: Vec<_> = std::iter::from_fn(|| bench.rings[0].take_used()).collect();
    assert_eq!(written.len(), 3);
    assert_eq!(bench.bytes(STATUS, 5), [S_OK; 5]);
    for n in 0..5 {
        assert_eq!(bench.bytes(DATA + n * 512, 512), contents()[512..1024]);
    }
}

#[test]
fn whoever_was_saved_just_goes_on() {
    let mut bench = busy();
    let _saved = bench.device.save();
    for _ in 0..3 {
        bench.clock.step_ns(50_000_000);
        bench.notify(0);
    }
    assert_eq!(std::iter::from_fn(|| bench.rings[0].take_used()).count(), 3);
}

#[test]
fn a_state_that_cannot_be_is_refused() {
    let bench = Bench::new(|_| ());
    let state = State { writeback: true, heads: vec![vec![QUEUE_SIZE]] };
    assert!(bench.device.restore(&Saved::encode(&SavedV1::from(&state))).is_err());
    let state = State { writeback: true, heads: vec![vec![5, 5, 7], vec![], vec![1]] };
    bench.device.restore(&Saved::encode(&SavedV1::from(&state))).unwrap();
}
