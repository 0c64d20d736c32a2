//! Tasks with names, and the table that says how they went.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::arch::Arch;
use crate::guest::Ready;
use crate::terminal;

/// How many tests a task counts for, and what there is to say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Tests that failed.
    pub(crate) failed: usize,
    /// Tests that could not run here, each as `name: reason`.
    pub(crate) skipped: Vec<String>,
}

impl Tally {
    /// One test that passed or failed.
    pub(crate) fn of(passed: bool) -> Self {
        Self { passed: passed.into(), failed: (!passed).into(), skipped: Vec::new() }
    }

    /// Counts the tests of `other`, too.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }
}

/// Something to run under a name.
pub(crate) struct Task {
    /// What a user calls it.
    pub(crate) name: String,
    /// One line about it.
    pub(crate) about: &'static str,
    /// Runs it; an error is one failed test.
    pub(crate) run: Box<dyn Fn() -> Result<Tally> + Send + Sync>,
}

impl Task {
    /// A task under a name.
    pub(crate) fn new(
        name: impl Into<String>,
        about: &'static str,
        run: impl Fn() -> Result<Tally> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), about, run: Box::new(run) }
    }

    /// Runs it and says so, on standard error, when it starts and how it ended.
    pub(crate) fn perform(&self) -> Row {
        eprintln!("== {}: {}", self.name, self.about);
        let start = Instant::now();
        let tally = (self.run)().unwrap_or_else(|error| {
            eprintln!("{}: {error:#}", self.name);
            Tally::of(false)
        });
        let row = Row { name: self.name.clone(), tally, time: start.elapsed() };
        eprintln!("== {}: {} ({:.1} s)", row.name, row.verdict(), row.time.as_secs_f64());
        row
    }
}

/// A test that boots guests of one architecture, with what they need.
pub(crate) struct Guests {
    /// What a user calls it.
    pub(crate) name: &'static str,
    /// One line about it.
    pub(crate) about: &'static str,
    /// The guests'.
    pub(crate) arch: Arch,
    /// Boots and judges them; an error is one failed test.
    pub(crate) run: BootAndJudge,
}

type BootAndJudge = Box<dyn Fn(&Ready) -> Result<Tally> + Send + Sync>;

/// How a task went.
pub(crate) struct Row {
    name: String,
    tally: Tally,
    time: Duration,
}

impl Row {
    fn verdict(&self) -> &'static str {
        match &self.tally {
            tally if tally.failed > 0 => "FAILED",
            tally if tally.passed == 0 => "skipped",
            _ => "ok",
        }
    }
}

/// Runs tasks one after another until a signal asks us to end.
pub(crate) fn perform(tasks: &[Task]) -> Vec<Row> {
    tasks.iter().take_while(|_| !terminal::ended()).map(Task::perform).collect()
}

/// Prints the table, every skipped test with its reason, and the totals; the exit status.
pub(crate) fn conclude(rows: &[Row]) -> u8 {
    print!("\n{}", table(rows));
    let failed = rows.iter().any(|row| row.tally.failed > 0);
    u8::from(failed || terminal::ended())
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
    let mut text = format!("{:width$}  result   passed  failed  skipped  time\n", "task");
    for row in rows {
        let Tally { passed, failed, skipped } = &row.tally;
        text += &format!(
            "{:width$}  {:7}  {passed:6}  {failed:6}  {:7}  {:.1} s\n",
            row.name,
            row.verdict(),
            skipped.len(),
            row.time.as_secs_f64()
        );
    }
    for skipped in rows.iter().flat_map(|row| &row.tally.skipped) {
        text += &format!("SKIPPED {skipped}\n");
    }
    let sum = |count: fn(&Tally) -> usize| rows.iter().map(|row| count(&row.tally)).sum::<usize>();
    text + &format!(
        "{} passed, {} failed, {} skipped\n",
        sum(|tally| tally.passed),
        sum(|tally| tally.failed),
        sum(|tally| tally.skipped.len())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, passed: usize, failed: usize, skipped: &[&str]) -> Row {
        let skipped = skipped.iter().map(|&text| text.to_owned()).collect();
        Row {
            name: name.to_owned(),
            tally: Tally { passed, failed, skipped },
            time: Duration::ZERO,
        }
    }

    #[test]
    fn the_last_line_is_the_totals_alone() {
        let rows = [row("unit", 40, 1, &[]), row("kvm", 0, 0, &["kvm_boot: no /dev/kvm"])];
        let text = table(&rows);
        assert_eq!(text.lines().last(), Some("40 passed, 1 failed, 1 skipped"));
        assert!(text.contains("SKIPPED kvm_boot: no /dev/kvm\n"));
        assert!(text.contains("unit  FAILED ") && text.contains("kvm   skipped"), "{text}");
    }

    #[test]
    fn a_task_that_errs_is_one_failure() {
        let task = Task::new("x", "about", || anyhow::bail!("broken"));
        let row = task.perform();
        assert_eq!(row.tally, Tally { passed: 0, failed: 1, skipped: Vec::new() });
        assert_eq!(conclude(&[row]), 1);
    }
}
