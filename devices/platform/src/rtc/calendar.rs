//! The time, calendar and alarm bytes: how they are coded, and how they count.
//!
//! The bytes themselves are the time, as in the chip: nothing else remembers it, so whatever a
//! guest writes there, in whatever mode and order, is what the clock counts on from. A counter is
//! touched only when the one below it carries. One that holds a value it can not have (month 13,
//! hour 0xff) keeps it until then and counts on from the nearest it can have; the data sheet leaves
//! such values undefined.
//!
//! The calendar is two short functions of integer arithmetic. The crates that have them deal in
//! valid dates and would need every guest-made one checked on the way in and out, which is the
//! larger part of this file already.

use super::regs::{CENTURY_INDEX, RegB};
use super::state::Cmos;

const SECONDS: u8 = 0;
const SECONDS_ALARM: u8 = 1;
const MINUTES: u8 = 2;
const MINUTES_ALARM: u8 = 3;
const HOURS: u8 = 4;
const HOURS_ALARM: u8 = 5;
const DAY_OF_WEEK: u8 = 6;
const DAY_OF_MONTH: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
/// Seconds in a day.
pub(super) const DAY: i64 = 24 * HOUR;

/// An alarm byte from here up matches any value (data sheet, "Time, calendar and alarm
/// locations").
const ANY: u8 = 0xc0;

/// How register B says the bytes are coded.
#[derive(Clone, Copy)]
pub(super) struct Format {
    binary: bool,
    hours_24: bool,
}

impl From<RegB> for Format {
    fn from(b: RegB) -> Self {
        Self { binary: b.binary(), hours_24: b.hours_24() }
    }
}

impl Format {
    /// The number a byte stands for, with digits above nine counted as they are: 0x1f is 25.
    fn number(self, byte: u8) -> u8 {
        if self.binary { byte } else { (byte >> 4) * 10 + (byte & 0x0f) }
    }

    /// The byte for a number below 100.
    fn byte(self, number: u8) -> u8 {
        if self.binary { number } else { ((number / 10) << 4) | (number % 10) }
    }

    /// Nearest number from `first` to `last`.
    fn nearest(self, byte: u8, first: u8, last: u8) -> i64 {
        self.number(byte).clamp(first, last).into()
    }

    /// Nearest hour, 0 to 23. Hour 12 is the first of each half day.
    fn nearest_hour(self, byte: u8) -> i64 {
        if self.hours_24 {
            return self.nearest(byte, 0, 23);
        }
        let half_day = if byte & 0x80 == 0 { 0 } else { 12 };
        self.nearest(byte & 0x7f, 1, 12) % 12 + half_day
    }

    /// The byte for an hour from 0 to 23.
    fn hour_byte(self, hour: u8) -> u8 {
        if self.hours_24 {
            return self.byte(hour);
        }
        let pm = if hour < 12 { 0 } else { 0x80 };
        let on_the_dial = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.byte(on_the_dial) | pm
    }
}

/// Sets all time and calendar bytes to `seconds` after 1970-01-01 00:00.
pub(super) fn set(cmos: &mut Cmos, format: Format, seconds: i64) {
    // 1970-01-01 as the bytes have it; a Thursday, with Sunday as 1.
    for (index, number) in [
        (SECONDS, 0),
        (MINUTES, 0),
        (DAY_OF_WEEK, 5),
        (DAY_OF_MONTH, 1),
        (MONTH, 1),
        (YEAR, 70),
        (CENTURY_INDEX, 19),
    ] {
        cmos.set(index, format.byte(number));
    }
    cmos.set(HOURS, format.hour_byte(0));
    advance(cmos, format, seconds);
}

/// Lets `seconds` pass, of either sign, in time independent of how many.
pub(super) fn advance(cmos: &mut Cmos, format: Format, seconds: i64) {
    let mut carry = seconds;
    for (index, modulus) in [(SECONDS, 60), (MINUTES, 60), (HOURS, 24)] {
        if carry == 0 {
            return;
        }
        let byte = cmos.get(index);
        let hours = index == HOURS;
        let before =
            if hours { format.nearest_hour(byte) } else { format.nearest(byte, 0, modulus - 1) };
        let total = before + carry;
        let after = small(total.rem_euclid(modulus.into()));
        cmos.set(index, if hours { format.hour_byte(after) } else { format.byte(after) });
        carry = total.div_euclid(modulus.into());
    }
    if carry != 0 {
        advance_days(cmos, format, carry);
    }
}

fn advance_days(cmos: &mut Cmos, format: Format, days: i64) {
    let weekday = format.nearest(cmos.get(DAY_OF_WEEK), 1, 7) - 1 + days;
    cmos.set(DAY_OF_WEEK, format.byte(small(weekday.rem_euclid(7) + 1)));

    let before = Date {
        year: format.nearest(cmos.get(CENTURY_INDEX), 0, 99) * 100
            + format.nearest(cmos.get(YEAR), 0, 99),
        month: format.nearest(cmos.get(MONTH), 1, 12),
        day: format.nearest(cmos.get(DAY_OF_MONTH), 1, 31),
    }
    .within_its_month();
    let after = Date::of_day(before.day_number() + days);

    cmos.set(DAY_OF_MONTH, format.byte(small(after.day)));
    for (index, before, after) in [
        (MONTH, before.month, after.month),
        (YEAR, before.year.rem_euclid(100), after.year.rem_euclid(100)),
        (CENTURY_INDEX, before.year.div_euclid(100), after.year.div_euclid(100).rem_euclid(100)),
    ] {
        if before != after {
            cmos.set(index, format.byte(small(after)));
        }
    }
}

/// Seconds since midnight, by the bytes.
pub(super) fn second_of_day(cmos: &Cmos, format: Format) -> i64 {
    format.nearest_hour(cmos.get(HOURS)) * HOUR
        + format.nearest(cmos.get(MINUTES), 0, 59) * MINUTE
        + format.nearest(cmos.get(SECONDS), 0, 59)
}

/// How many seconds from now, 1 to [`DAY`], the time next matches the alarm bytes. `None` if it
/// never does: an alarm byte holds neither "any" nor a value the time can have.
pub(super) fn seconds_to_alarm(cmos: &Cmos, format: Format) -> Option<i64> {
    let hour = alarm_field(cmos.get(HOURS_ALARM), |byte| {
        let hour = format.nearest_hour(byte);
        (format.hour_byte(small(hour)) == byte).then_some(hour)
    })?;
    let sixtieth = |byte| {
        let number = format.nearest(byte, 0, 59);
        (format.byte(small(number)) == byte).then_some(number)
    };
    let minute = alarm_field(cmos.get(MINUTES_ALARM), sixtieth)?;
    let second = alarm_field(cmos.get(SECONDS_ALARM), sixtieth)?;

    // From the next second on, skip whole hours and minutes that do not match. At most 24 + 60 + 60
    // steps and as many again after midnight.
    let now = second_of_day(cmos, format);
    let mut at = now + 1;
    while at <= now + DAY {
        let (h, m, s) = (at / HOUR % 24, at / MINUTE % 60, at % 60);
        if hour.is_some_and(|hour| hour != h) {
            at += HOUR - at % HOUR;
        } else if minute.is_some_and(|minute| minute != m) {
            at += MINUTE - at % MINUTE;
        } else if second.is_some_and(|second| second != s) {
            at += 1;
        } else {
            return Some(at - now);
        }
    }
    None
}

/// `Some(None)` is any value, `Some(Some(number))` one, `None` none.
fn alarm_field(byte: u8, decode: impl Fn(u8) -> Option<i64>) -> Option<Option<i64>> {
    if byte >= ANY { Some(None) } else { decode(byte).map(Some) }
}

/// A day of the Gregorian calendar.
struct Date {
    year: i64,
    month: i64,
    day: i64,
}

impl Date {
    /// The last day of the month instead of one past it (30 February).
    fn within_its_month(self) -> Self {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let last = match self.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        Self { day: self.day.min(last), ..self }
    }

    /// Days since 1 March of year 0. Years start in March here, so that the leap day comes last and
    /// month lengths repeat 31, 30, 31, 30, 31 every 153 days.
    fn day_number(&self) -> i64 {
        let months = (self.month + 9) % 12;
        let year = self.year - i64::from(self.month < 3);
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        year * 365 + leap_days + (months * 153 + 2) / 5 + self.day - 1
    }

    /// The inverse of [`Date::day_number`].
    fn of_day(number: i64) -> Self {
        const ERA: i64 = 400 * 365 + 97;
        let day_of_era = number.rem_euclid(ERA);
        // Take out the leap days passed, each of them the last day of its 4, 100 or 400 years.
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let months = (day_of_year * 5 + 2) / 153;
        let month = (months + 2) % 12 + 1;
        Self {
            year: number.div_euclid(ERA) * 400 + year_of_era + i64::from(month < 3),
            month,
            day: day_of_year - (months * 153 + 2) / 5 + 1,
        }
    }
}

/// A number below 100 as the byte it fits in.
fn small(number: i64) -> u8 {
    u8::try_from(number).unwrap_or_default()
}
