//! Numbers as kvmtool writes them.

/// Why a number was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadNumber {
    /// It is none.
    NotANumber,
    /// It does not fit in 64 bits.
    TooLarge,
}

/// A count: decimal, `0x` hexadecimal, or octal after a `0`, as the C library reads it.
pub(super) fn count(text: &str) -> Result<u64, BadNumber> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    whole(digits, radix)
}

/// A size in bytes: a number and a unit, of which `B` is bytes, `K` to `P` are powers of 1024, and
/// none is MiB. After `0x`, where `B` is a digit, there is no unit of bytes.
pub(super) fn size(text: &str) -> Result<u64, BadNumber> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let digits = match hex {
        Some(_) => {
            text.trim_end_matches(|c: char| c.is_ascii_alphabetic() && !c.is_ascii_hexdigit())
        }
        None => text.trim_end_matches(|c: char| c.is_ascii_alphabetic()),
    };
    let unit = text.strip_prefix(digits).unwrap_or_default();
    let shift = match unit.to_ascii_uppercase().as_str() {
        "B" => 0,
        "K" => 10,
        "M" | "" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        _ => return Err(BadNumber::NotANumber),
    };
    let number = match hex {
        Some(_) => count(digits)?,
        None => whole(digits, 10)?,
    };
    number.checked_mul(1 << shift).ok_or(BadNumber::TooLarge)
}

fn whole(digits: &str, radix: u32) -> Result<u64, BadNumber> {
    // The standard library takes a leading plus sign; nobody writes one here.
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(BadNumber::NotANumber);
    }
    u64::from_str_radix(digits, radix).map_err(|_| BadNumber::TooLarge)
}
