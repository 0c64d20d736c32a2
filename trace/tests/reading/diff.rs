//! Where two runs differ.

use super::*;

fn differences(a: &[Record], b: &[Record]) -> Differences {
    let files = [recorded(a), recorded(b)];
    let mut tokens = Tokens::default();
    let runs = files.each_ref().map(|file| {
        let mut reader = reader(file);
        let mut merged = reader.merged().expect("it is valid");
        Run::read(&mut merged, &mut tokens, |_| {}).expect("it is valid")
    });
    compare([&runs[0], &runs[1]], &tokens)
}

fn findings(differences: &Differences) -> Vec<&str> {
    let all = differences.regions.iter().flat_map(|region| &region.findings);
    all.map(String::as_str).collect()
}

#[test]
fn runs_that_differ_in_times_and_text_only_are_the_same() {
    let run = |time: u64, character: u8| {
        let count = access(1, 0, Read, Size::Dword, time);
        [lsr(0x60), thr(character), count, lsr(0x60)]
    };
    let differences = differences(&run(1, b'a'), &run(99, b'b'));
    assert_eq!(differences.first, None);
    assert_eq!(differences.same, ["serial0", "timer"]);
    assert!(differences.to_string().starts_with("no difference"), "{differences}");
}

#[test]
fn polling_longer_is_no_difference_in_behaviour_and_is_told() {
    let a = [lsr(0), lsr(0x60), thr(b'x')];
    let b = [lsr(0), lsr(0), lsr(0), lsr(0x60), thr(b'x')];
    let differences = differences(&a, &b);
    assert_eq!(differences.first, None);
    assert_eq!(findings(&differences), ["read LSR: polled 2 times more in the second"]);
}

#[test]
fn a_longer_text_is_no_difference_in_behaviour() {
    let sent = |text: &[u8]| -> Vec<Record> {
        text.iter().flat_map(|&character| [thr(character), lsr(0x60)]).collect()
    };
    let ier = access(0, 1, Write, Size::Byte, 1);
    let a = [&sent(b"took 9 ms")[..], &[ier], &sent(b"x")].concat();
    let b = [&sent(b"took 10 ms")[..], &[ier], &sent(b"x")].concat();
    let differences = differences(&a, &b);
    assert_eq!(differences.first, None);
    assert_eq!(
        findings(&differences),
        [
            "read LSR: polled 1 times more in the second",
            "write THR: 1 times more in the second (10 and 11)",
        ]
    );
}

#[test]
fn the_first_difference_is_named_with_its_neighbours_and_the_console() {
    let ier = |value| access(0, 1, Write, Size::Byte, value);
    let text = [thr(b'H'), thr(b'i')];
    let a = [&text[..], &[ier(0), ier(1), lsr(0x60)]].concat();
    let b = [&text[..], &[ier(0), ier(5), lsr(0x60)]].concat();
    let differences = differences(&a, &b);
    let first = differences.first.as_ref().expect("there is one");
    assert_eq!(first.region, "serial0");
    assert_eq!(first.sides[0].here, ["write IER <- 0x1"]);
    assert_eq!(first.sides[1].here, ["write IER <- 0x5"]);
    assert_eq!(first.sides[0].before.last().map(String::as_str), Some("write IER <- 0x0"));
    assert_eq!(first.sides[0].console.as_deref(), Some("Hi"));
    assert_eq!(first.sides[0].at, Some((1_000_004_800, 3)));
    assert_eq!(
        findings(&differences),
        ["write IER: as often, 1 times with another value or place"]
    );
    let said = differences.to_string();
    assert!(said.contains("the first difference is at serial0\n"), "{said}");
    assert!(said.contains("    console: Hi\n"), "{said}");
}

#[test]
fn order_absence_and_number_are_told_apart() {
    let ier = |value| access(0, 1, Write, Size::Byte, value);
    let order = differences(&[ier(1), ier(2)], &[ier(2), ier(1)]);
    assert_eq!(findings(&order), ["the same accesses in another order"]);
    let never = differences(&[ier(1), lsr(0x60)], &[ier(1)]);
    assert_eq!(findings(&never), ["read LSR: 1 times in the first, never in the second"]);
    let more = differences(&[ier(1)], &[ier(1), ier(1)]);
    assert_eq!(findings(&more), ["write IER: 1 times more in the second (1 and 2)"]);
    let region = differences(&[ier(1)], &[ier(1), access(2, 0x80, Write, Size::Byte, 0)]);
    assert_eq!(findings(&region), ["write pio 0x80: 1 times in the second, never in the first"]);
    assert_eq!(region.first.expect("there is one").sides[0].at, None);
}

#[test]
fn costs_are_sorted_by_their_difference() {
    let a = recorded(&[lsr(0), thr(b'x'), thr(b'y')]);
    let b = recorded(&[lsr(0), lsr(0), lsr(0), lsr(0), thr(b'x'), thr(b'y')]);
    let stats = [&a, &b].map(|file| counted(file, &Filter::default()));
    let costs = Costs::of([&stats[0], &stats[1]]);
    assert_eq!(costs.0[0].register, "serial0 LSR");
    assert_eq!(costs.0[0].exits, [1, 4]);
    assert_eq!(costs.0[0].until_next_ns, [1_600, 6_400]);
    assert!(costs.to_string().lines().nth(1).is_some_and(|line| line.starts_with("serial0 LSR")));
}
