//! Tasks with names, several at a time, and the table that says how they went.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::{Condvar, Mutex};

use crate::arch::Arch;
use crate::guest::Ready;
use crate::{spent, terminal};

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
    /// The folder of `target/` that it has to itself while it runs, as cargo would make it wait.
    folder: Option<&'static str>,
    /// The task it needs the result of.
    after: Option<String>,
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
        Self { name: name.into(), about, folder: None, after: None, run: Box::new(run) }
    }

    /// The same task with a folder of `target/` to itself.
    pub(crate) fn alone_in(self, folder: &'static str) -> Self {
        Self { folder: Some(folder), ..self }
    }

    /// The same task, not before the one of this name has ended.
    pub(crate) fn after(self, name: impl Into<String>) -> Self {
        Self { after: Some(name.into()), ..self }
    }

    /// Runs it and says so, on standard error, when it starts and how it ended.
    pub(crate) fn perform(&self) -> Row {
        eprintln!("== {}: {}", self.name, self.about);
        let (start, spent) = (Instant::now(), spent::so_far());
        let tally = (self.run)().unwrap_or_else(|error| {
            eprintln!("{}: {error:#}", self.name);
            Tally::of(false)
        });
        let (time, processor) = (start.elapsed(), spent::so_far().saturating_sub(spent));
        let row = Row { name: self.name.clone(), tally, start, time, processor };
        eprintln!("== {}: {} ({})", row.name, row.verdict(), row.times());
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
    start: Instant,
    time: Duration,
    /// Of this process for it and of what it ran: user and system.
    processor: Duration,
}

impl Row {
    fn verdict(&self) -> &'static str {
        match &self.tally {
            tally if tally.failed > 0 => "FAILED",
            tally if tally.passed == 0 => "skipped",
            _ => "ok",
        }
    }

    fn times(&self) -> String {
        let [time, processor] = [self.time, self.processor].map(|time| time.as_secs_f64());
        format!("{time:.1} s, processor {processor:.1} s")
    }
}

/// Runs tasks one after another until a signal asks us to end.
pub(crate) fn perform(tasks: &[Task]) -> Vec<Row> {
    tasks.iter().take_while(|_| !terminal::ended()).map(Task::perform).collect()
}

/// Runs tasks side by side until a signal asks us to end: whenever there is a processor for one more,
/// the first that nothing keeps waiting. Their rows are in the order of the tasks.
pub(crate) fn side_by_side(tasks: &[Task]) -> Vec<Row> {
    let agenda = Agenda::new(tasks);
    thread::scope(|scope| {
        for _ in 0..at_once() {
            scope.spawn(|| agenda.work());
        }
    });
    let mut rows = agenda.progress.into_inner().rows;
    rows.sort_by_key(|(place, _)| *place);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// How many tasks run at the same time: one more than there are processors, as a guest sleeps now and
/// then, and much of what cargo does is not parallel. Each guest takes memory, so there are not many.
fn at_once() -> usize {
    thread::available_parallelism().map_or(2, |count| count.get() + 1).min(4)
}

/// What is to be done, and what of it has been.
struct Agenda<'a> {
    progress: Mutex<Progress<'a>>,
    /// A task has ended.
    ended: Condvar,
}

/// Tasks with their places in the list.
struct Progress<'a> {
    waiting: Vec<(usize, &'a Task)>,
    running: Vec<(usize, &'a Task)>,
    rows: Vec<(usize, Row)>,
}

impl Progress<'_> {
    /// Whether nothing keeps a task waiting.
    fn may_run(&self, task: &Task) -> bool {
        let needs = |(_, other): &(usize, &Task)| task.after.as_deref() == Some(&*other.name);
        let shares =
            |(_, other): &(usize, &Task)| task.folder.is_some() && task.folder == other.folder;
        !self.waiting.iter().any(needs) && !self.running.iter().any(|it| needs(it) || shares(it))
    }
}

impl<'a> Agenda<'a> {
    fn new(tasks: &'a [Task]) -> Self {
        let waiting = tasks.iter().enumerate().collect();
        let progress = Progress { waiting, running: Vec::new(), rows: Vec::new() };
        Self { progress: Mutex::new(progress), ended: Condvar::new() }
    }

    /// Does what there is to do, until there is nothing.
    fn work(&self) {
        while let Some((place, task)) = self.begin() {
            let row = task.perform();
            let mut progress = self.progress.lock();
            progress.running.retain(|(running, _)| *running != place);
            progress.rows.push((place, row));
            self.ended.notify_all();
        }
    }

    /// The next task to run, once there is one that may; `None` at the end.
    fn begin(&self) -> Option<(usize, &'a Task)> {
        let mut progress = self.progress.lock();
        while !terminal::ended() && !progress.waiting.is_empty() {
            if let Some(at) = progress.waiting.iter().position(|(_, task)| progress.may_run(task)) {
                let next = progress.waiting.remove(at);
                progress.running.push(next);
                return Some(next);
            }
            // One that may not run waits for another that runs.
            self.ended.wait(&mut progress);
        }
        None
    }
}

/// Prints the table, every skipped test with its reason, and the totals; the exit status.
pub(crate) fn conclude(rows: &[Row]) -> u8 {
    print!("\n{}", table(rows));
    let failed = rows.iter().any(|row| row.tally.failed > 0);
    u8::from(failed || terminal::ended())
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
    let mut text =
        format!("{:width$}  result   passed  failed  skipped     time  processor\n", "task");
    for row in rows {
        let Tally { passed, failed, skipped } = &row.tally;
        text += &format!(
            "{:width$}  {:7}  {passed:6}  {failed:6}  {:7}  {:5.1} s  {:7.1} s\n",
            row.name,
            row.verdict(),
            skipped.len(),
            row.time.as_secs_f64(),
            row.processor.as_secs_f64(),
        );
    }
    for skipped in rows.iter().flat_map(|row| &row.tally.skipped) {
        text += &format!("SKIPPED {skipped}\n");
    }
    text += &together(rows);
    let sum = |count: fn(&Tally) -> usize| rows.iter().map(|row| count(&row.tally)).sum::<usize>();
    text + &format!(
        "{} passed, {} failed, {} skipped\n",
        sum(|tally| tally.passed),
        sum(|tally| tally.failed),
        sum(|tally| tally.skipped.len())
    )
}

/// From the first start to the last end, and the processor time of all.
fn together(rows: &[Row]) -> String {
    let first = rows.iter().map(|row| row.start).min();
    let last = rows.iter().map(|row| row.start + row.time).max();
    let Some((first, last)) = first.zip(last) else { return String::new() };
    let processor: Duration = rows.iter().map(|row| row.processor).sum();
    let [time, processor] = [last - first, processor].map(|time| time.as_secs_f64());
    format!("{time:.1} s, in which processors worked {processor:.1} s\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn row(name: &str, passed: usize, failed: usize, skipped: &[&str]) -> Row {
        let skipped = skipped.iter().map(|&text| text.to_owned()).collect();
        Row {
            name: name.to_owned(),
            tally: Tally { passed, failed, skipped },
            start: Instant::now(),
            time: Duration::from_millis(1500),
            processor: Duration::from_millis(2250),
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
    fn rows_side_by_side_take_the_time_of_one_and_the_processor_time_of_both() {
        let start = Instant::now();
        let rows = ["a", "b"].map(|name| Row { start, ..row(name, 1, 0, &[]) });
        let text = table(&rows);
        assert!(text.contains("  1.5 s      2.2 s\n"), "{text}");
        assert!(text.contains("\n1.5 s, in which processors worked 4.5 s\n"), "{text}");
    }

    #[test]
    fn a_task_has_the_processor_time_of_its_own_programs() {
        // Until the shell has used a fifth of a second.
        const BUSY: &str = "until [ $(cut -d ' ' -f 14 /proc/$$/stat) -ge 20 ]; do \
                            i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; done";
        let tasks = [("busy", BUSY), ("idle", ":")].map(|(name, script)| {
            Task::new(name, "", move || {
                let mut shell = std::process::Command::new("sh");
                Ok(Tally::of(crate::proc::succeeds(shell.args(["-c", script]))?))
            })
        });
        for rows in [perform(&tasks), side_by_side(&tasks)] {
            let spent: Vec<_> = rows.iter().map(|row| row.processor).collect();
            let [busy, idle] = spent[..] else { panic!("{spent:?}") };
            assert!(busy >= Duration::from_millis(190) && idle < busy, "{spent:?}");
        }
    }

    /// Runs tasks side by side that note when they begin and end, and are long enough to meet.
    fn noted(tasks: &[(&'static str, Option<&'static str>, Option<&'static str>)]) -> Vec<String> {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let task = |&(name, folder, after): &(&'static str, _, Option<&str>)| {
            let notes = Arc::clone(&notes);
            let task = Task::new(name, "", move || {
                notes.lock().push(format!("{name} begins"));
                thread::sleep(Duration::from_millis(20));
                notes.lock().push(format!("{name} ends"));
                Ok(Tally::of(true))
            });
            Task { folder, after: after.map(str::to_owned), ..task }
        };
        let rows = side_by_side(&tasks.iter().map(task).collect::<Vec<_>>());
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, tasks.iter().map(|task| task.0).collect::<Vec<_>>());
        notes.lock().clone()
    }

    #[test]
    fn tasks_of_one_folder_take_turns_in_their_order() {
        let folder = Some("main");
        let notes = noted(&[("a", folder, None), ("b", folder, None), ("c", folder, None)]);
        let turns = ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"];
        assert_eq!(notes, turns);
    }

    #[test]
    fn a_task_begins_when_the_one_it_needs_has_ended() {
        let notes = noted(&[("x", None, Some("y")), ("y", None, None), ("z", None, Some("x"))]);
        let turns = ["y begins", "y ends", "x begins", "x ends", "z begins", "z ends"];
        assert_eq!(notes, turns);
    }

    #[test]
    fn tasks_that_need_nothing_of_each_other_run_at_the_same_time() {
        let here = Arc::new((Mutex::new(0), Condvar::new()));
        let task = |name| {
            let here = Arc::clone(&here);
            Task::new(name, "", move || {
                let (count, came) = &*here;
                let mut count = count.lock();
                *count += 1;
                came.notify_all();
                came.wait_while_for(&mut count, |count| *count < 2, Duration::from_secs(60));
                Ok(Tally::of(*count == 2))
            })
        };
        let needs_what_is_not_there = task("b").after("nobody");
        let rows = side_by_side(&[task("a").alone_in("main"), needs_what_is_not_there]);
        assert!(rows.iter().all(|row| row.tally.passed == 1));
    }

    #[test]
    fn a_task_that_errs_is_one_failure() {
        let task = Task::new("x", "about", || anyhow::bail!("broken"));
        let row = task.perform();
        assert_eq!(row.tally, Tally { passed: 0, failed: 1, skipped: Vec::new() });
        assert_eq!(conclude(&[row]), 1);
    }
}
