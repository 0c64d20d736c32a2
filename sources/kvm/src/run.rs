//! The set of a VM's vCPU threads, which are started and stopped together.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use trapline_device::thread_builder;

use crate::kick::Kick;
use crate::stats::{ExitCounters, ExitStats};
use crate::{CrashReport, DebugStop, Error, Vcpu};

/// Why a vCPU's thread ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// [`VcpuSet::stop`] was called.
    Requested,
    /// Its [`crate::Brake`] was pulled: the access it made then is complete, and its instruction over.
    Braked,
    /// It came to what [`crate::Vcpu::set_traps`] has it stop at.
    Debug(DebugStop),
    /// It halted, and there is no interrupt controller that could wake it.
    Halted,
    /// The guest asked for a reset through a firmware call.
    Reset,
    /// The guest asked to be switched off through a firmware call.
    Off,
    /// A triple fault, which a processor answers with a reset. The report shows what led to it.
    TripleFault(Box<CrashReport>),
    /// It could not go on.
    Crash(Box<CrashReport>),
}

/// The end of one vCPU's thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuEvent {
    /// The vCPU's index.
    pub vcpu: u32,
    /// Why it ended.
    pub stop: Stop,
}

/// vCPUs that would not stop: each is in a device that does not return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Their indices.
    pub vcpus: Vec<u32>,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vcpus: Vec<String> = self.vcpus.iter().map(u32::to_string).collect();
        write!(f, "a device does not return to vCPU {}", vcpus.join(", "))
    }
}

impl std::error::Error for Stuck {}

/// How long a stop waits for devices to return.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a vCPU that has not stopped is kicked again.
const KICK_INTERVAL: Duration = Duration::from_millis(5);

/// Running vCPUs, one thread each. Dropping it stops them.
pub struct VcpuSet {
    threads: Mutex<Threads>,
    ended: Arc<Ended>,
    counters: Vec<Arc<ExitCounters>>,
}

#[derive(Default)]
struct Threads {
    running: Vec<Running>,
    stopped: Vec<Vcpu>,
}

struct Running {
    index: u32,
    kick: Kick,
    thread: JoinHandle<Vcpu>,
}

/// Wakes who waits for a thread to end.
#[derive(Default)]
struct Ended {
    count: Mutex<usize>,
    changed: Condvar,
}

impl VcpuSet {
    /// Starts a thread for each vCPU. `on_event` is called once for each when it ends, on its
    /// thread; it must not call [`VcpuSet::stop`], which would wait for it.
    ///
    /// # Errors
    /// A thread could not be had; those already started have been stopped then.
    pub fn start(
        vcpus: Vec<Vcpu>,
        on_event: Arc<dyn Fn(VcpuEvent) + Send + Sync>,
    ) -> Result<Self, Error> {
        let set = Self {
            counters: vcpus.iter().map(Vcpu::counters).collect(),
            threads: Mutex::default(),
            ended: Arc::default(),
        };
        for vcpu in vcpus {
            let index = vcpu.index();
            vcpu.kick().forget();
            let kick = vcpu.kick().clone();
            let (on_event, ended) = (Arc::clone(&on_event), Arc::clone(&set.ended));
            let thread = thread_builder(format!("vcpu{index}"))
                .spawn(move || live(vcpu, &*on_event, &ended))
                .map_err(|reason| Error::Thread { vcpu: index, reason })?;
            set.threads.lock().running.push(Running { index, kick, thread });
        }
        Ok(set)
    }

    /// Asks every vCPU to stop and waits for none: whichever asks enters the guest no more, and the
    /// others leave it. For devices, which run on the vCPUs' own threads; [`VcpuSet::stop`] is to
    /// follow from elsewhere.
    pub fn ask_to_stop(&self) {
        // Whoever holds the lock is stopping them.
        if let Some(threads) = self.threads.try_lock() {
            for running in &threads.running {
                running.kick.stop();
            }
        }
    }

    /// Stops every vCPU, wherever it is, and hands them back in order of their indices.
    ///
    /// # Errors
    /// The vCPUs whose device has not returned within ten seconds. They stop when it does, and
    /// the others have stopped; calling again waits again.
    pub fn stop(&self) -> Result<Vec<Vcpu>, Stuck> {
        self.stop_within(PATIENCE)
    }

    /// [`VcpuSet::stop`] with a patience of one's own.
    ///
    /// # Errors
    /// The vCPUs whose device has not returned by then.
    pub fn stop_within(&self, patience: Duration) -> Result<Vec<Vcpu>, Stuck> {
        let mut threads = self.threads.lock();
        let deadline = Instant::now() + patience;
        while !threads.running.is_empty() && Instant::now() < deadline {
            for running in &threads.running {
                running.kick.stop();
            }
            self.ended.wait(KICK_INTERVAL);
            threads.collect();
        }
        if !threads.running.is_empty() {
            return Err(Stuck { vcpus: threads.running.iter().map(|r| r.index).collect() });
        }
        let mut vcpus = std::mem::take(&mut threads.stopped);
        vcpus.sort_by_key(Vcpu::index);
        Ok(vcpus)
    }

    /// Each vCPU's exits so far, also after they have stopped.
    pub fn stats(&self) -> Vec<ExitStats> {
        self.counters.iter().map(|counters| counters.snapshot()).collect()
    }
}

impl Drop for VcpuSet {
    fn drop(&mut self) {
        if let Err(stuck) = self.stop() {
            tracing::warn!("{stuck}");
        }
    }
}

impl fmt::Debug for VcpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuSet").field("vcpus", &self.counters.len()).finish_non_exhaustive()
    }
}

impl Threads {
    /// Takes the vCPUs of threads that have ended.
    fn collect(&mut self) {
        let (ended, running): (Vec<_>, Vec<_>) =
            self.running.drain(..).partition(|running| running.thread.is_finished());
        self.running = running;
        // A thread that panicked did so in the event callback: its vCPU is lost, and said so.
        self.stopped.extend(ended.into_iter().filter_map(|running| running.thread.join().ok()));
    }
}

impl Ended {
    fn announce(&self) {
        *self.count.lock() += 1;
        self.changed.notify_all();
    }

    /// Waits until a thread ends, or for `patience`.
    fn wait(&self, patience: Duration) {
        let mut count = self.count.lock();
        if *count == 0 {
            let _ = self.changed.wait_for(&mut count, patience);
        }
        *count = count.saturating_sub(1);
    }
}

/// The life of a vCPU's thread.
fn live(mut vcpu: Vcpu, on_event: &(dyn Fn(VcpuEvent) + Send + Sync), ended: &Ended) -> Vcpu {
    let here = vcpu.kick().arrive();
    // A panic here is a defect of a device or of ours. It must not leave a machine that waits for
    // a vCPU for ever, so it becomes a report like any other.
    let stop = catch_unwind(AssertUnwindSafe(|| vcpu.run()))
        .unwrap_or_else(|_| vcpu.crash("a device panicked while it handled an access".to_owned()));
    on_event(VcpuEvent { vcpu: vcpu.index(), stop });
    drop(here);
    ended.announce();
    vcpu
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_that_do_not_stop_are_named() {
        let stuck = Stuck { vcpus: vec![0, 3] };
        assert_eq!(stuck.to_string(), "a device does not return to vCPU 0, 3");
    }

    #[test]
    fn whoever_waits_for_an_end_is_woken_by_each() {
        const LONG: Duration = Duration::from_secs(60);
        let (ended, asked) = (Ended::default(), Instant::now());
        ended.announce();
        ended.announce();
        // Neither of them waits for another one.
        for left in [1, 0] {
            ended.wait(LONG);
            assert_eq!(*ended.count.lock(), left);
        }
        std::thread::scope(|scope| {
            scope.spawn(|| ended.announce());
            ended.wait(LONG);
        });
        assert!(asked.elapsed() < LONG);
        ended.wait(Duration::from_millis(1));
        assert_eq!(*ended.count.lock(), 0, "nobody ended");
    }
}
