//! The trait of a frame buffer's memory: it is put where the guest wants it, and says which of its
//! pages were written (KVM: a memory slot with a dirty log).

use std::ops::Range;

use parking_lot::Mutex;
use trapline_device::{Handler, IoCx, Size};
use trapline_guestmem::GuestMem;

/// Bytes of a page of the log.
pub const PAGE: usize = 4096;

/// The guest's view of the frame buffer. Calls must not wait for a vCPU.
pub trait FrameMemory: Send + Sync {
    /// Shows the frame buffer at this guest physical address, or nowhere; nowhere too when that is
    /// not possible, because there is RAM. What was written before stays in it.
    fn place(&self, base: Option<u64>);

    /// Which pages were written since the last call: bit `n % 64` of word `n / 64` is page `n`'s.
    /// Pages without a word were not. A page may be named that was not written.
    fn take_dirty(&self) -> Vec<u64>;

    /// Every page counts as written: somebody other than the guest has changed them.
    fn touch(&self);
}

/// Whether any page that holds these bytes is in the log.
pub(super) fn any_dirty(log: &[u64], bytes: Range<usize>) -> bool {
    (bytes.start / PAGE..bytes.end.div_ceil(PAGE))
        .any(|page| log.get(page / 64).is_some_and(|word| word >> (page % 64) & 1 == 1))
}

/// A frame buffer every access to which is a trap, for machines that cannot give the guest memory
/// at an address of its choice. Its place is that of its region.
pub struct TrappedFrame {
    frame: GuestMem,
    dirty: Mutex<Vec<u64>>,
}

impl TrappedFrame {
    /// The frame buffer in `frame`, from address 0.
    pub fn new(frame: GuestMem) -> Self {
        let dirty = Mutex::new(vec![0; words(&frame)]);
        Self { frame, dirty }
    }
}

/// Words of a log that has a bit for every page.
fn words(frame: &GuestMem) -> usize {
    usize::try_from(frame.len()).unwrap_or(0).div_ceil(PAGE * 64)
}

impl FrameMemory for TrappedFrame {
    fn place(&self, _base: Option<u64>) {}

    fn take_dirty(&self) -> Vec<u64> {
        std::mem::replace(&mut *self.dirty.lock(), vec![0; words(&self.frame)])
    }

    fn touch(&self) {
        self.dirty.lock().fill(u64::MAX);
    }
}

impl Handler for TrappedFrame {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let mut bytes = [0; 8];
        match bytes.get_mut(..size.bytes()).map(|part| self.frame.read(offset, part)) {
            Some(Ok(())) => u64::from_le_bytes(bytes),
            _ => size.ones(),
        }
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let bytes = value.to_le_bytes();
        let part = bytes.get(..size.bytes()).unwrap_or_default();
        if self.frame.write(offset, part).is_err() {
            return;
        }
        // An aligned access of at most eight bytes is in one page.
        let page = usize::try_from(offset).unwrap_or(0) / PAGE;
        if let Some(word) = self.dirty.lock().get_mut(page / 64) {
            *word |= 1 << (page % 64);
        }
    }
}
