//! A guest that is shown pages of registers, for devices that have a [`trapline_device::Mirror`].

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{Memory, MirrorHost, Showing, Size};

/// Memory of nothing but bytes.
struct Bytes(Mutex<Vec<u8>>);

impl Bytes {
    fn range(offset: u64, len: usize) -> std::ops::Range<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        start..start.saturating_add(len)
    }
}

impl Memory for Bytes {
    fn len(&self) -> u64 {
        self.0.lock().len() as u64
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let range = Self::range(offset, data.len());
        let bytes = self.0.lock();
        data.copy_from_slice(bytes.get(range).unwrap_or_else(|| panic!("a read past the end")));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let range = Self::range(offset, data.len());
        let mut bytes = self.0.lock();
        let place = bytes.get_mut(range).unwrap_or_else(|| panic!("a write past the end"));
        place.copy_from_slice(data);
    }
}

/// The pages that a guest is shown, by offset in the window. They are shown whenever a mirror asks
/// for it: there is no budget.
#[derive(Default)]
pub struct TestPages(Mutex<BTreeMap<u64, Arc<dyn Memory>>>);

impl TestPages {
    /// What the guest reads at `offset` by itself; `None` if such a read comes to the device.
    pub fn see(&self, offset: u64, size: Size) -> Option<u64> {
        let shown = self.0.lock();
        let (start, memory) = shown.range(..=offset).next_back()?;
        let at = offset - start;
        let mut data = [0; 8];
        (at < memory.len()).then(|| {
            data.get_mut(..size.bytes()).into_iter().for_each(|data| memory.read(at, data));
            u64::from_le_bytes(data)
        })
    }

    /// Where pieces are that the guest sees, and their lengths, in order.
    pub fn pieces(&self) -> Vec<(u64, u64)> {
        self.0.lock().iter().map(|(at, memory)| (*at, memory.len())).collect()
    }
}

impl MirrorHost for TestPages {
    fn memory(&self, len: u64, all_ones: bool) -> Option<Arc<dyn Memory>> {
        // Not what anybody who has to fill it expects to find.
        let byte = if all_ones { 0xff } else { 0x5a };
        Some(Arc::new(Bytes(Mutex::new(vec![byte; usize::try_from(len).ok()?]))))
    }

    /// # Panics
    /// Something is shown there already.
    fn show(&self, offset: u64, memory: &Arc<dyn Memory>, _free: bool) -> Showing {
        let mut shown = self.0.lock();
        let below = shown.range(..offset + memory.len()).next_back();
        let end = below.map_or(0, |(at, memory)| at + memory.len());
        assert!(end <= offset, "{offset:#x} is shown already");
        shown.insert(offset, Arc::clone(memory));
        Showing::Shown
    }

    /// # Panics
    /// It is not what is shown there.
    fn hide(&self, offset: u64, memory: &Arc<dyn Memory>) {
        let hidden = self.0.lock().remove(&offset);
        assert!(hidden.is_some_and(|hidden| Arc::ptr_eq(&hidden, memory)), "nothing to hide");
    }
}
