//! Guest memory and I/O together: the address space as a device that does DMA, or a debugger,
//! sees it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use trapline_access::{Requester, Size, Space};

use crate::dispatch::Handle;
use crate::dispatch::bytes::Bytes;
use crate::dispatch::split::Kind;
use crate::registry::Registry;

/// Guest RAM, as an [`AddressSpace`] uses it. Where it answers, no region is asked, as the
/// hypervisor does not trap there either.
pub trait Ram: Send + Sync {
    /// Copies from RAM at `addr` into `data` from its start on, as far as RAM goes without a gap;
    /// returns how many bytes that were. 0: there is no RAM at `addr`.
    fn read(&self, addr: u64, data: &mut [u8]) -> usize;

    /// Copies `data` to RAM likewise, and marks what it wrote as dirty where the owner keeps
    /// track. 0: there is no RAM that can be written at `addr`; it may be ROM, whose writes trap.
    fn write(&self, addr: u64, data: &[u8]) -> usize;

    /// The first address at or after `addr` that is RAM, or `None` if there is none.
    fn next(&self, addr: u64) -> Option<u64>;
}

/// No RAM at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRam;

impl Ram for NoRam {
    fn read(&self, _addr: u64, _data: &mut [u8]) -> usize {
        0
    }

    fn write(&self, _addr: u64, _data: &[u8]) -> usize {
        0
    }

    fn next(&self, _addr: u64) -> Option<u64> {
        None
    }
}

/// Where the bytes of a transfer went. They sum up to its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes read from or written to RAM.
    pub ram: usize,
    /// Bytes that regions were asked for.
    pub trapped: usize,
    /// Bytes that nobody has: read as ones, or dropped.
    pub unclaimed: usize,
    /// Bytes not tried, because transfers were nested too deep; read as ones, or dropped.
    pub too_deep: usize,
}

/// The guest physical address space: RAM and the MMIO regions of a registry.
///
/// Transfers of any length may cross from one to the other; they are made page by page. Those of a
/// guest ([`AddressSpace::guest_read`]) trap with what is not RAM, as a processor does; those of a
/// device or a debugger ([`AddressSpace::read`]) ask a region in the widths it takes. A region
/// that is written to may itself start a transfer, as a device programmed to do DMA into its own
/// registers does: at the eighth level such transfers end, read as ones or dropped, and are
/// counted ([`crate::Stats::too_deep`]).
///
/// A transfer first has queued writes delivered, unless another thread is delivering: it may be
/// waiting for a lock the caller holds.
#[derive(Clone)]
pub struct AddressSpace {
    registry: Registry,
    ram: Arc<dyn Ram>,
}

/// How many transfers may be nested in each other on one thread.
const DEPTH_MAX: u32 = 8;

const PAGE: u64 = 4096;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// One level of nesting.
struct Level;

impl Level {
    fn enter() -> Option<Self> {
        let depth = DEPTH.get();
        (depth < DEPTH_MAX).then(|| {
            DEPTH.set(depth + 1);
            Self
        })
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

impl AddressSpace {
    /// The MMIO space of `registry` with `ram` in it.
    pub fn new(registry: &Registry, ram: Arc<dyn Ram>) -> Self {
        Self { registry: registry.clone(), ram }
    }

    /// Reads `data.len()` bytes at `addr` for a device. Fills all of `data`; bytes that nobody has
    /// are all ones, and so are those past the end of the space.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> Transfer {
        self.device_transfer(addr, Bytes::Read(data))
    }

    /// Writes `data` at `addr` for a device. Bytes that nobody has vanish.
    pub fn write(&self, addr: u64, data: &[u8]) -> Transfer {
        self.device_transfer(addr, Bytes::Write(data))
    }

    /// One read of a guest, made by `handle`, where no processor has answered for RAM already: of
    /// each page what is RAM is read from there, and what is not is one access, of whatever width.
    pub fn guest_read(&self, handle: &mut Handle, addr: u64, data: &mut [u8]) -> Transfer {
        self.guest_transfer(handle, addr, Bytes::Read(data))
    }

    /// One write of a guest, made by `handle`; see [`AddressSpace::guest_read`].
    pub fn guest_write(&self, handle: &mut Handle, addr: u64, data: &[u8]) -> Transfer {
        self.guest_transfer(handle, addr, Bytes::Write(data))
    }

    fn device_transfer(&self, addr: u64, data: Bytes<'_>) -> Transfer {
        let mut handle = None;
        self.transfer(addr, data, |at, part| {
            device_access(handle.get_or_insert_with(|| self.handle()), at, part)
        })
    }

    fn guest_transfer(&self, handle: &mut Handle, addr: u64, data: Bytes<'_>) -> Transfer {
        self.transfer(addr, data, |at, part| guest_access(handle, at, part))
    }

    /// Makes a transfer, page by page. `trap` is given what is not RAM, and makes the beginning of
    /// it: how many bytes that were, and whether a region was there.
    fn transfer(
        &self,
        addr: u64,
        mut data: Bytes<'_>,
        mut trap: impl FnMut(u64, Bytes<'_>) -> (usize, bool),
    ) -> Transfer {
        if let Bytes::Read(data) = &mut data {
            data.fill(0xff);
        }
        let mut sum = Transfer::default();
        let Some(_level) = Level::enter() else {
            self.registry.core().too_deep.fetch_add(1, Ordering::Relaxed);
            return Transfer { too_deep: data.len(), ..sum };
        };
        let mut done = 0;
        while done < data.len() {
            let Some(at) = addr.checked_add(done as u64) else {
                sum.unclaimed += data.len() - done;
                break;
            };
            let left_in_page = PAGE - at % PAGE;
            let most = to_usize(left_in_page).min(data.len() - done);
            let mut part = data.part(done, most);
            let in_ram = copy(&mut part, &*self.ram, at).min(most);
            sum.ram += in_ram;
            done += in_ram;
            if in_ram > 0 {
                continue;
            }
            // Up to the next RAM; for a write to ROM, which is RAM as well, one access.
            let gap = self.ram.next(at).map_or(u64::MAX, |next| next.saturating_sub(at));
            let len = most.min(if gap == 0 { 8 } else { to_usize(gap) });
            let (len, claimed) = trap(at, data.part(done, len));
            *(if claimed { &mut sum.trapped } else { &mut sum.unclaimed }) += len;
            done += len;
        }
        sum
    }

    fn handle(&self) -> Handle {
        let mut handle = self.registry.handle_for(Requester::Dma);
        handle.drain_unless_busy();
        handle
    }
}

/// Has the regions answer the beginning of `data`: one access as wide as the region takes and the
/// offset in it allows, or all bytes up to the next region.
fn device_access(handle: &mut Handle, at: u64, mut data: Bytes<'_>) -> (usize, bool) {
    let (width, claimed) = match handle.widest(at) {
        Ok((widest, offset)) => {
            let most = data.len().min(to_usize(widest));
            (Size::largest_aligned(offset, most).bytes(), true)
        }
        Err(gap) => (data.len().min(to_usize(gap)), false),
    };
    handle.parts(Space::Mmio, at, data.part(0, width), Kind::Single);
    (width, claimed)
}

/// Has the regions answer all of `data`, whatever its length.
fn guest_access(handle: &mut Handle, at: u64, data: Bytes<'_>) -> (usize, bool) {
    let (len, claimed) = (data.len(), handle.widest(at).is_ok());
    match data {
        Bytes::Read(data) => handle.read(Space::Mmio, at, data),
        Bytes::Write(data) => handle.write(Space::Mmio, at, data),
    }
    (len, claimed)
}

/// Copies to or from RAM, as far as that goes.
fn copy(data: &mut Bytes<'_>, ram: &dyn Ram, at: u64) -> usize {
    match data {
        Bytes::Read(data) => ram.read(at, data),
        Bytes::Write(data) => ram.write(at, data),
    }
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
