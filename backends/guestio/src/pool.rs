//! Threads for what has to wait.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use trapline_device::thread_builder;

/// The most threads of a pool. More requests than this are seldom worth having at once.
const THREADS_MAX: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that are started when there is something for them. Dropping it waits for what has been
/// given to them.
pub struct Pool {
    name: &'static str,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is a job, or there will be none any more.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads that wait for a job.
    idle: usize,
    ended: bool,
}

impl Pool {
    /// A pool without a thread yet; those that come have this name.
    pub fn new(name: &'static str) -> Self {
        Self { name, shared: Arc::default(), threads: Mutex::default() }
    }

    /// Has a job done by one of the threads, or, on a host without a thread to spare, here.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        state.jobs.push_back(Box::new(job));
        let enough = state.idle >= state.jobs.len();
        drop(state);
        self.shared.changed.notify_one();
        if !enough && !self.grow() {
            // Nobody would ever come for it.
            let job = self.shared.state.lock().jobs.pop_front();
            job.into_iter().for_each(run);
        }
    }

    /// Starts another thread, if there can be one. Says whether there is any.
    fn grow(&self) -> bool {
        let mut threads = self.threads.lock();
        if threads.len() < THREADS_MAX {
            let shared = Arc::clone(&self.shared);
            threads.extend(thread_builder(self.name).spawn(move || shared.work()));
        }
        !threads.is_empty()
    }
}

impl Shared {
    /// A thread.
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                run(job);
                state = self.state.lock();
            } else if state.ended {
                return;
            } else {
                state.idle += 1;
                self.changed.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}

/// A defect in one request is not the end of all others.
fn run(job: Job) {
    let _ = panic::catch_unwind(AssertUnwindSafe(job));
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.changed.notify_all();
        for thread in self.threads.get_mut().drain(..) {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_run_at_the_same_time_and_all_of_them_before_the_end() {
        let (pool, count) = (Pool::new("test"), Arc::<AtomicUsize>::default());
        let (meet, met) = mpsc::sync_channel(0);
        // Each of these waits for another job.
        let other = Arc::clone(&count);
        pool.spawn(move || {
            meet.send(()).unwrap();
            other.fetch_add(1, Ordering::SeqCst);
        });
        let other = Arc::clone(&count);
        pool.spawn(move || {
            met.recv().unwrap();
            other.fetch_add(1, Ordering::SeqCst);
        });
        for _ in 0..100 {
            let count = Arc::clone(&count);
            pool.spawn(move || {
                count.fetch_add(1, Ordering::SeqCst);
            });
        }
        assert!(pool.threads.lock().len() <= THREADS_MAX);
        drop(pool);
        assert_eq!(count.load(Ordering::SeqCst), 102);
    }

    #[test]
    fn a_thread_outlives_a_job_that_panics() {
        let (pool, (done, wait)) = (Pool::new("test"), mpsc::channel());
        for _ in 0..2 * THREADS_MAX {
            pool.spawn(|| panic::resume_unwind(Box::new("on purpose")));
        }
        pool.spawn(move || done.send(5).unwrap());
        assert_eq!(wait.recv(), Ok(5));
    }
}
