//! Processors that are shown pages of registers, and those that are not: a short storm. The long one
//! is an example, `cargo run --release -p trapline-machine --example mirror_storm -- --seconds 600`.
#![cfg(target_arch = "x86_64")]

mod mirror_storm;

#[test]
fn two_processors_with_pages_and_without_see_the_same() {
    for seed in 0..6 {
        let tally = mirror_storm::compare(seed, 5);
        assert!(tally.programs == 10 && tally.times_shown > 20, "{tally:?}: not what was meant");
    }
}

#[test]
fn no_character_is_lost_to_a_page() {
    for seed in 0..3 {
        let tally = mirror_storm::type_in(seed, 100, 2000);
        assert!(tally.times_shown > 6, "{tally:?}: no more than configuration space at the start");
    }
}
