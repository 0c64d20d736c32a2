//! Numbers of options: one way to write them for all.

use std::ops::RangeInclusive;

use anyhow::{Context, bail};

/// Why a number was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadNumber {
    /// It is none.
    NotANumber,
    /// It does not fit in 64 bits.
    TooLarge,
}

/// A number: decimal, with zeros in front or without, or hexadecimal after `0x`.
///
/// Deviation: the C library, by which kvmtool reads some numbers, takes those after a `0` for octal.
pub(super) fn count(text: &str) -> Result<u64, BadNumber> {
    match hexadecimal(text) {
        Some(digits) => whole(digits, 16),
        None => whole(text, 10),
    }
}

/// A [`count`] of `option` with a least and a most.
///
/// # Errors
/// One sentence that names the option, what was written, and both bounds.
pub(super) fn within(option: &str, text: &str, range: RangeInclusive<u64>) -> anyhow::Result<u64> {
    let (least, most) = range.clone().into_inner();
    let number = count(text).ok().filter(|number| range.contains(number));
    number.with_context(|| format!("{option} {text}: not a number from {least} to {most}"))
}

/// A [`count`] of `option` with any value of 64 bits.
///
/// # Errors
/// One sentence that names the option and what was written.
pub(super) fn number(option: &str, text: &str) -> anyhow::Result<u64> {
    match count(text) {
        Ok(number) => Ok(number),
        Err(BadNumber::TooLarge) => bail!("{option} {text}: more than 64 bits"),
        Err(BadNumber::NotANumber) => bail!("{option} {text}: not a number"),
    }
}

/// A size in bytes: a [`scaled`] number, of MiB if it has no unit.
pub(super) fn size(text: &str) -> Result<u64, BadNumber> {
    scaled(text, 1 << 20)
}

/// A [`count`] and a unit, of which `B` is 1, `K` to `P` are powers of 1024, and none is `default`.
/// After `0x`, where `B` is a digit, there is no unit `B`.
pub(super) fn scaled(text: &str, default: u64) -> Result<u64, BadNumber> {
    let is_digit = |c: char| hexadecimal(text).is_some() && c.is_ascii_hexdigit();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() && !is_digit(c));
    let unit = text.strip_prefix(digits).unwrap_or_default();
    let unit = match unit.to_ascii_uppercase().as_str() {
        "" => default,
        "B" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        "P" => 1 << 50,
        _ => return Err(BadNumber::NotANumber),
    };
    count(digits)?.checked_mul(unit).ok_or(BadNumber::TooLarge)
}

/// The digits after `0x`.
fn hexadecimal(text: &str) -> Option<&str> {
    text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))
}

fn whole(digits: &str, radix: u32) -> Result<u64, BadNumber> {
    // The standard library takes a leading plus sign; nobody writes one here.
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(BadNumber::NotANumber);
    }
    u64::from_str_radix(digits, radix).map_err(|_| BadNumber::TooLarge)
}
