//! The table that the benchmark prints: nanoseconds per exit, ours and bare.

use std::fmt::Write;
use std::time::Duration;

use crate::Pass;
use crate::cases::Case;

/// The project's goal for what our path may take, as a multiple of the bare loop.
const GOAL: f64 = 1.05;

/// The times of one case's passes, pairwise.
#[derive(Default)]
pub(crate) struct Row {
    bare: Vec<Duration>,
    ours: Vec<Duration>,
}

/// Least and middle of some numbers.
struct Summary {
    least: f64,
    middle: f64,
}

impl Row {
    pub(crate) fn add(&mut self, bare: Pass, ours: Pass) {
        self.bare.push(bare.time);
        self.ours.push(ours.time);
    }
}

impl Summary {
    fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        Self { least: at(0), middle: at(sorted.len() / 2) }
    }

    /// Nanoseconds per unit.
    fn of_times(times: &[Duration], units: u16) -> Self {
        Self::of(times.iter().map(|time| time.as_secs_f64() * 1e9 / f64::from(units)))
    }
}

/// All rows, with a verdict each. The first ratio is that of the minima, which whatever else the
/// machine did disturbed least; the second the median of the ratios of each pair of passes, which
/// followed one another closely. The goal is met when both say so.
pub(crate) fn table(cases: &[Case], rows: &[Row]) -> String {
    let passes = rows.first().map_or(0, |row| row.bare.len());
    let mut out = format!(
        "{passes} pairs of passes; nanoseconds\n{:15} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}  \
         goal {GOAL}\n",
        "", "per", "bare min", "median", "ours min", "median", "diff min", "of mins", "of pairs"
    );
    let mut missed = 0;
    for (case, row) in cases.iter().zip(rows) {
        let bare = Summary::of_times(&row.bare, case.units);
        let ours = Summary::of_times(&row.ours, case.units);
        let seconds = |times: &Duration| times.as_secs_f64();
        let pairs = row.ours.iter().map(seconds).zip(row.bare.iter().map(seconds));
        let least = ours.least / bare.least;
        let pair = Summary::of(pairs.map(|(ours, bare)| ours / bare)).middle;
        let met = least <= GOAL && pair <= GOAL;
        missed += usize::from(!met);
        let _ = writeln!(
            out,
            "{:15} {:>6} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {least:>8.3} {pair:>8.3}  {}",
            case.name,
            case.unit,
            bare.least,
            bare.middle,
            ours.least,
            ours.middle,
            ours.least - bare.least,
            if met { "pass" } else { "FAIL" }
        );
    }
    let _ = writeln!(out, "{} of {} within the goal", rows.len() - missed, rows.len());
    out
}
