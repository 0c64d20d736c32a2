//! A machine that is dropped gives all of its memory back. Alone in its process, whose memory it looks
//! at.

mod support;

use support::Victim;

#[test]
fn a_machine_gives_back_all_its_memory() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
    };
    let life = |_| {
        Victim::new().suffer(&[0x55; 512]);
    };
    (0..20).for_each(life);
    let before = resident();
    (0..200).for_each(life);
    // A machine has some hundred pages; a leak of it would be tens of thousands.
    assert!(resident() < before + 2000, "{before} pages, then {}", resident());
}
