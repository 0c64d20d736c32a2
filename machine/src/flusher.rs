//! Fetches an idle guest's last writes.
//!
//! Every access delivers the coalesced writes before it, but a guest that goes idle makes none.
//! Nobody tells us that a write was queued, so somebody has to look now and then.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use trapline::Registry;

/// How soon a write is fetched while there have been some.
const SHORT: Duration = Duration::from_millis(5);
/// How late it can be at most.
const LONG: Duration = Duration::from_millis(80);

/// A thread that drains a registry now and then; ends when dropped.
pub(crate) struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    done: Mutex<bool>,
    changed: Condvar,
}

impl Flusher {
    pub(crate) fn start(registry: Registry) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let inside = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("flusher".to_owned())
            .spawn(move || inside.flush(&registry))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Shared {
    fn flush(&self, registry: &Registry) {
        let mut wait = SHORT;
        let mut done = self.done.lock();
        while !*done {
            let _ = self.changed.wait_for(&mut done, wait);
            wait = if registry.drain() { SHORT } else { (wait * 2).min(LONG) };
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        *self.shared.done.lock() = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It can only have panicked inside a device, which has been reported there.
            let _ = thread.join();
        }
    }
}
