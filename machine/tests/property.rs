//! Nothing a guest can do to the board panics, hangs or grows it.

mod support;

use proptest::prelude::*;
use support::Victim;
use trapline_machine::qtest::BoardKind;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn no_accesses_steps_or_resets_hurt_the_board(
        bytes in prop::collection::vec(any::<u8>(), 1..4096),
    ) {
        Victim::new().suffer(&bytes);
    }

    #[test]
    fn nor_do_they_hurt_the_arm64_board(bytes in prop::collection::vec(any::<u8>(), 1..4096)) {
        Victim::on(BoardKind::Arm64Virt).suffer(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn a_machine_that_is_saved_and_restored_elsewhere_goes_on_as_it_would_have(
        before in prop::collection::vec(any::<u8>(), 1..4096),
        after in prop::collection::vec(any::<u8>(), 1..2048),
    ) {
        prop_assert_eq!(restored_elsewhere(BoardKind::X86Pc, &before, &after), None);
    }

    #[test]
    fn so_does_an_arm64_machine(
        before in prop::collection::vec(any::<u8>(), 1..4096),
        after in prop::collection::vec(any::<u8>(), 1..2048),
    ) {
        prop_assert_eq!(restored_elsewhere(BoardKind::Arm64Virt, &before, &after), None);
    }
}

/// What becomes different when a machine that has suffered is restored elsewhere, and both go on
/// to suffer the same.
fn restored_elsewhere(board: BoardKind, before: &[u8], after: &[u8]) -> Option<String> {
    let mut one = Victim::on(board);
    one.suffer(before);
    let mut other = one.twin();
    one.forget();
    other.forget();
    one.suffer(after);
    other.suffer(after);
    one.difference(&other)
}

#[test]
fn the_same_bytes_do_the_same() {
    let bytes: Vec<u8> =
        (0..20_000u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let after = || {
        let mut victim = Victim::new();
        victim.suffer(&bytes);
        victim.picture()
    };
    assert_eq!(after(), after());
}
