//! Logs of which pages of a memory are written: by the guest without an exit, which the source
//! knows, and through this process, which the memory itself does.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_access::{DirtyBitmap, DirtyLog, EditError, Memory};

use crate::core::Core;

/// The memories with a log. Behind a lock that is taken before any of the source's, and within
/// which nothing is edited.
#[derive(Default)]
pub(crate) struct DirtyLogs(Mutex<Vec<Logged>>);

/// A memory, and those who want to know what is written to it. What source and memory know can be
/// taken once only, so each log has a share of its own.
struct Logged {
    memory: Arc<dyn Memory>,
    logs: Vec<Arc<Mutex<DirtyBitmap>>>,
}

/// One log.
struct Log {
    memory: Arc<dyn Memory>,
    /// What was taken for it while others asked.
    pages: Arc<Mutex<DirtyBitmap>>,
    core: Weak<Core>,
}

impl DirtyLogs {
    /// Starts a log of `memory`.
    pub(crate) fn open(
        &self,
        core: &Core,
        memory: Arc<dyn Memory>,
    ) -> Result<Box<dyn DirtyLog>, EditError> {
        let mut all = self.0.lock();
        let pages = Arc::new(Mutex::new(empty(&*memory)));
        match all.iter_mut().find(|logged| Arc::ptr_eq(&logged.memory, &memory)) {
            Some(logged) => {
                logged.collect(core);
                logged.logs.push(Arc::clone(&pages));
            }
            None => {
                if let Some(offload) = &core.offload {
                    let refused = |reason| EditError::DirtyLog { reason };
                    offload.log_dirty(&memory, true).map_err(refused)?;
                }
                memory.log_writes(true);
                let (memory, logs) = (Arc::clone(&memory), vec![Arc::clone(&pages)]);
                all.push(Logged { memory, logs });
            }
        }
        Ok(Box::new(Log { memory, pages, core: Weak::clone(&core.this) }))
    }

    /// Adds what was written to each log of a memory.
    fn collect(&self, core: &Core, memory: &Arc<dyn Memory>) {
        let mut all = self.0.lock();
        if let Some(logged) = all.iter_mut().find(|logged| Arc::ptr_eq(&logged.memory, memory)) {
            logged.collect(core);
        }
    }

    /// Ends a log, and with the last one of its memory that anything is logged at all.
    fn close(&self, core: &Core, log: &Log) {
        let mut all = self.0.lock();
        for logged in all.iter_mut() {
            logged.logs.retain(|pages| !Arc::ptr_eq(pages, &log.pages));
        }
        for ended in all.extract_if(.., |logged| logged.logs.is_empty()) {
            ended.memory.log_writes(false);
            if let Some(offload) = &core.offload {
                // A source that goes on logging costs time and nothing else.
                let _ = offload.log_dirty(&ended.memory, false);
            }
        }
    }
}

impl Logged {
    fn collect(&self, core: &Core) {
        let mut written = empty(&*self.memory);
        self.memory.take_written(&mut written);
        if let Some(offload) = &core.offload {
            let mut by_guest = empty(&*self.memory);
            offload.take_dirty(&self.memory, &mut by_guest);
            written.merge(&by_guest);
        }
        for pages in &self.logs {
            pages.lock().merge(&written);
        }
    }
}

impl DirtyLog for Log {
    fn take(&self) -> DirtyBitmap {
        // Without a registry there is no guest, and no registry's own write either.
        if let Some(core) = self.core.upgrade() {
            core.dirty_logs.collect(&core, &self.memory);
        }
        self.pages.lock().take()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.dirty_logs.close(&core, self);
        }
    }
}

fn empty(memory: &dyn Memory) -> DirtyBitmap {
    DirtyBitmap::new(memory.len(), memory.page_size())
}
