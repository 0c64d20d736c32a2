//! The processor time a thread has spent: its own, and that of the programs it has waited for with
//! all that these waited for in turn. Tasks run side by side, a thread each, so what the kernel adds
//! up for all children of this process would not say whose it was.

use std::cell::Cell;
use std::fs;
use std::io;
use std::process::{self, ExitStatus};
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use rustix::time::{ClockId, clock_gettime};

thread_local! {
    /// Of the programs this thread has waited for.
    static PROGRAMS: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// User and system time of this thread so far, and of all it has waited for. What other threads did
/// for it, which copy a program's output, is not in it.
pub(crate) fn so_far() -> Duration {
    let own = clock_gettime(ClockId::ThreadCPUTime);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    Duration::from_secs(part(own.tv_sec)) + Duration::from_nanos(part(own.tv_nsec)) + PROGRAMS.get()
}

/// A program whose processor time is the time of the thread that waits for its end.
pub(crate) struct Child {
    child: process::Child,
    /// How it ended, once that is known and its time is counted.
    status: Option<ExitStatus>,
}

impl Child {
    /// Counts what a program that was started will have spent.
    pub(crate) fn new(child: process::Child) -> Self {
        Self { child, status: None }
    }

    /// The process, for its pipes.
    pub(crate) fn pipes(&mut self) -> &mut process::Child {
        &mut self.child
    }

    /// Its process, unless it is known to have ended.
    pub(crate) fn pid(&self) -> Option<Pid> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        pid.filter(|_| self.status.is_none())
    }

    /// Closes its standard input, if that is ours, and waits for its end.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        drop(self.child.stdin.take());
        self.count(WaitIdOptions::empty())?;
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }

    /// How it ended, if it has.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.count(WaitIdOptions::NOHANG)? {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// Looks whether it has ended, and counts its time while the kernel still knows of it.
    fn count(&self, options: WaitIdOptions) -> io::Result<bool> {
        let Some(pid) = self.pid() else { return Ok(false) };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | options;
        let ended = retry_on_intr(|| waitid(WaitId::Pid(pid), options))?.is_some();
        if ended {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            let spent = stat.ok().and_then(|stat| ticks(&stat)).unwrap_or_default();
            let ticks = rustix::param::clock_ticks_per_second();
            PROGRAMS.set(PROGRAMS.get() + Duration::from_millis(spent * 1000 / ticks));
        }
        Ok(ended)
    }
}

/// `utime`, `stime`, `cutime` and `cstime` of a process's `stat` (proc_pid_stat(5)) in clock ticks.
fn ticks(stat: &str) -> Option<u64> {
    // Behind the name, which may have anything in it, comes the third field; the times begin with
    // the 14th.
    let (_, fields) = stat.rsplit_once(')')?;
    let times: Vec<u64> =
        fields.split_whitespace().skip(11).take(4).map_while(|time| time.parse().ok()).collect();
    (times.len() == 4).then(|| times.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Ends when it has used a fifth of a second, however long that takes.
    const BUSY: &str = "until [ $(cut -d ' ' -f 14 /proc/$$/stat) -ge 20 ]; do \
                        i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; done";
    const AT_LEAST: Duration = Duration::from_millis(190);

    fn busy(script: &str) -> Child {
        Child::new(Command::new("sh").args(["-c", script]).spawn().unwrap())
    }

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "17 (a) b (c) Z 1 17 17 0 -1 4 0 0 0 0 100 20 3000 40000 20 0 1 0 5 0 0";
        assert_eq!(ticks(stat), Some(43_120));
        assert_eq!(ticks("17 (a) Z 1 17 17"), None);
    }

    #[test]
    fn a_program_counts_for_the_thread_that_waits_and_once() {
        let before = PROGRAMS.get();
        std::thread::spawn(|| {
            let mut child = busy(BUSY);
            assert!(child.wait().unwrap().success());
            let spent = PROGRAMS.get();
            assert!(spent >= AT_LEAST, "{spent:?}");
            assert!(child.try_wait().unwrap().unwrap().success());
            assert_eq!(PROGRAMS.get(), spent);
            assert!(so_far() >= spent);
        })
        .join()
        .unwrap();
        assert_eq!(PROGRAMS.get(), before);
    }

    #[test]
    fn what_a_program_has_waited_for_counts_too() {
        let mut child = busy(&format!("sh -c '{}'; :", BUSY.replace('\'', "\"")));
        while child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(PROGRAMS.get() >= AT_LEAST, "{:?}", PROGRAMS.get());
        assert!(child.pid().is_none());
    }
}
