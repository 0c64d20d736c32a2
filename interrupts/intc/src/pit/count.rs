//! Arithmetic of the counting element: 16 bits, or four decades, counting down.
//!
//! Closed forms, so that a counter nobody has looked at for a week costs no more than one clock.

/// Clocks until `count`, decremented by one per clock, is next zero: 1 to 65536 (or, for digits
/// above 9, which count down like others, 16665). Zero itself is the longest count ("Operation
/// common to all modes").
pub(super) fn to_zero(count: u16, bcd: bool) -> u64 {
    let value = if bcd {
        digits(count).rev().fold(0, |value, digit| value * 10 + digit)
    } else {
        u64::from(count)
    };
    match (value, bcd) {
        (0, true) => 10_000,
        (0, false) => 0x1_0000,
        (value, _) => value,
    }
}

/// `count` after `clocks` decrements by one, wrapping around from zero.
pub(super) fn after(count: u16, bcd: bool, clocks: u64) -> u16 {
    if !bcd {
        let [low, high, ..] = clocks.to_le_bytes();
        return count.wrapping_sub(u16::from_le_bytes([low, high]));
    }
    // Each decade counts the borrows of the ones below it.
    let (mut below, mut weight, mut shift, mut result) = (0, 1, 0, 0);
    for digit in digits(count) {
        let borrows = clocks.saturating_sub(below).div_ceil(weight);
        let left = if borrows <= digit { digit - borrows } else { 9 - (borrows - digit - 1) % 10 };
        result |= left << shift;
        below += digit * weight;
        weight *= 10;
        shift += 4;
    }
    u16::try_from(result).unwrap_or(0)
}

/// The decades, lowest first.
fn digits(count: u16) -> impl DoubleEndedIterator<Item = u64> {
    [0, 4, 8, 12].into_iter().map(move |shift| u64::from(count >> shift & 0xf))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One clock of a chain of decades, digit by digit.
    fn tick(count: u16, bcd: bool) -> u16 {
        if !bcd {
            return count.wrapping_sub(1);
        }
        let mut digits = [0, 4, 8, 12].map(|shift| count >> shift & 0xf);
        for digit in &mut digits {
            if *digit > 0 {
                *digit -= 1;
                break;
            }
            *digit = 9;
        }
        digits.iter().rev().fold(0, |count, digit| count << 4 | digit)
    }

    proptest! {
        #[test]
        fn the_closed_form_is_many_single_clocks(
            count in any::<u16>(), bcd in any::<bool>(), clocks in 0u64..30_000,
        ) {
            let slow = (0..clocks).fold(count, |count, _| tick(count, bcd));
            prop_assert_eq!(after(count, bcd, clocks), slow);
        }

        #[test]
        fn zero_is_reached_when_it_was_foretold(count in any::<u16>(), bcd in any::<bool>()) {
            let mut clocks = 1;
            let mut now = tick(count, bcd);
            while now != 0 {
                now = tick(now, bcd);
                clocks += 1;
            }
            prop_assert_eq!(to_zero(count, bcd), clocks);
        }
    }
}
