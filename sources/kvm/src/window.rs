//! Memory whose place the guest chooses, and whose written pages we can ask for: a frame buffer
//! behind a PCI BAR.

use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use parking_lot::Mutex;
use trapline_guestmem::{GuestMem, Piece};

use crate::{Error, Vm, ioctl};

/// Bytes of the pages the log is about.
const PAGE: u64 = 4096;

/// A piece of memory that the guest sees at one address, another, or nowhere. Where it is nowhere,
/// accesses go to the registry. Dropping it takes it from the guest.
pub struct MemoryWindow {
    vm: Arc<Vm>,
    slot: u32,
    piece: Piece,
    /// Of the memory slot.
    flags: u32,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    base: Option<u64>,
    /// KVM's log does not tell all: it is lost when the window moves, and does not know of writes
    /// by others than the guest.
    all_dirty: bool,
}

impl MemoryWindow {
    /// A window onto `mem`, which is one region, with its guest address of no meaning. Nowhere yet.
    ///
    /// # Errors
    /// The memory is not one region of whole pages.
    pub fn new(vm: &Arc<Vm>, mem: &GuestMem) -> Result<Self, Error> {
        Self::with_flags(vm, mem, KVM_MEM_LOG_DIRTY_PAGES)
    }

    /// A window as [`MemoryWindow::new`] makes it, that the guest can only read: its writes go to
    /// the registry. There is no log.
    ///
    /// # Errors
    /// The memory is not one region of whole pages, or KVM cannot do that.
    pub fn read_only(vm: &Arc<Vm>, mem: &GuestMem) -> Result<Self, Error> {
        if !vm.caps().readonly_memory {
            return Err(Error::Missing("read-only memory"));
        }
        Self::with_flags(vm, mem, KVM_MEM_READONLY)
    }

    fn with_flags(vm: &Arc<Vm>, mem: &GuestMem, flags: u32) -> Result<Self, Error> {
        let pieces = mem.pieces();
        let [piece] = pieces.as_slice() else { return Err(Error::Missing("windows in pieces")) };
        if !piece.region().len.is_multiple_of(PAGE) {
            return Err(Error::Missing("windows of less than a page"));
        }
        let slot = vm.slots().reserve(Arc::new(piece.clone()));
        let slot = slot.ok_or(Error::Missing("any more memory slots"))?;
        let state = Mutex::new(State { all_dirty: true, ..State::default() });
        Ok(Self { vm: Arc::clone(vm), slot, piece: piece.clone(), flags, state })
    }

    /// Moves the window to this guest physical address, a multiple of 4 KiB, or out of the guest's
    /// sight. The vCPUs may run.
    ///
    /// # Errors
    /// KVM's refusal, above all because there is other memory; the window is nowhere then.
    pub fn place(&self, base: Option<u64>) -> Result<(), Error> {
        let mut state = self.state.lock();
        if state.base == base {
            return Ok(());
        }
        let set = |base: Option<u64>| {
            let (vm, slot, whole) = (self.vm.fd(), self.slot, 0..self.piece.region().len);
            match base {
                Some(base) => ioctl::set_slot(vm, slot, self.flags, base, &self.piece, whole),
                None => ioctl::delete_slot(vm, slot),
            }
            .map_err(Error::ioctl("move a memory window"))
        };
        if state.base.is_some() {
            set(None)?;
        }
        *state = State { base: None, all_dirty: true };
        set(base)?;
        state.base = base;
        Ok(())
    }

    /// Where it is.
    pub fn base(&self) -> Option<u64> {
        self.state.lock().base
    }

    /// Which pages were written since the last call: bit `n % 64` of word `n / 64` is page `n`'s.
    /// A page may be named that was not written.
    pub fn take_dirty(&self) -> Vec<u64> {
        let mut state = self.state.lock();
        let len = usize::try_from(self.piece.region().len).unwrap_or(usize::MAX);
        // The log is taken even if it is not needed: it would tell of these pages next time.
        let log = state.base.map(|_| self.vm.fd().get_dirty_log(self.slot, len));
        let all = std::mem::take(&mut state.all_dirty);
        match log {
            Some(Ok(log)) if !all => log,
            None if !all => Vec::new(),
            _ => vec![u64::MAX; len.div_ceil(64 * 4096)],
        }
    }

    /// Every page counts as written: somebody other than the guest has changed them.
    pub fn touch(&self) {
        self.state.lock().all_dirty = true;
    }
}

impl Drop for MemoryWindow {
    fn drop(&mut self) {
        // The VM keeps the memory mapped, so a window that KVM would not give up stays valid.
        let _ = self.place(None);
    }
}
