//! Pages of registers that a guest may read without anybody being called: what a device vouches for,
//! and whether the guest is shown it at present.

#![allow(clippy::disallowed_types, reason = "this crate has the standard library's lock only")]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Memory;

/// So many reads of a page come to the device before it is shown: as many exits as showing it and
/// taking it away again cost. So a device that changes its mind all the time loses no more than
/// another such number for each change.
pub const READS_WORTH_A_SWITCH: u32 = 18;

/// No source has more writes queued than this (KVM's ring is one page of the host, and the largest,
/// of 64 KiB, holds 2,730). A device that vouches for having room must have as much.
pub const QUEUED_WRITES_MAX: usize = 4096;

/// A number in the page changes at once if it is this long, at a multiple of its length.
const UNIT: usize = 4;

/// The registers behind a window of [`crate::Delivery::Mirrored`], as memory.
///
/// The device vouches for pieces of the window ([`Mirror::vouch`]): reading there has no side
/// effect, gives the same bytes by accesses of any width, and what it gives is changed neither by
/// time nor by writes that are still queued (those of [`crate::Delivery::Coalesced`] windows in the
/// same device). It says so again whenever a value changes, and withdraws the piece
/// ([`Mirror::withdraw`]) before any of this ends to be true: on return no processor sees the page
/// any more. Before that the device must let nothing be seen of the change, so it does both before
/// it moves an interrupt line.
///
/// Whether the guest is shown a piece, which is a hypervisor's memory slot, is for whoever has
/// attached a [`MirrorHost`]. If it is not, reads come to the device as ever. A piece is shown when
/// enough reads of it have come ([`Mirror::read`]) to be worth it, and there is something left of the
/// host's budget.
///
/// A device calls this with its own lock held; nothing below calls a device.
pub struct Mirror(Mutex<State>);

struct State {
    /// Whether pieces that are vouched for from the start are shown before anybody reads them.
    at_once: bool,
    /// By offset in the window; they do not overlap.
    pieces: BTreeMap<u64, Piece>,
    host: Option<Arc<dyn MirrorHost>>,
    /// How many times a piece has been shown.
    shown: u64,
}

struct Piece {
    len: u64,
    /// The first bytes, all others being ones; `None` while the device vouches for nothing.
    values: Option<Vec<u8>>,
    /// How many reads have come to the device since it has vouched for them.
    reads: u32,
    memory: Option<Arc<dyn Memory>>,
    is_shown: bool,
    /// The host can not show it.
    hopeless: bool,
}

/// Whoever shows a guest the pieces of a [`Mirror`]: a registry, for a window at its place. It is
/// called with the mirror's lock held, so it calls neither the mirror nor a device.
pub trait MirrorHost: Send + Sync {
    /// Memory of `len` bytes that can be shown, or `None` if none can: to be filled, or all ones and
    /// never written to, which may be the same few pages again and again.
    fn memory(&self, len: u64, all_ones: bool) -> Option<Arc<dyn Memory>>;

    /// Shows the guest all of `memory` at `offset` of the window, to be read and not written, if
    /// there is enough left of the budget or it is `free`.
    fn show(&self, offset: u64, memory: &Arc<dyn Memory>, free: bool) -> Showing;

    /// Takes memory away again that it has shown at `offset`: on return no processor sees it.
    fn hide(&self, offset: u64, memory: &Arc<dyn Memory>);
}

/// What came of [`MirrorHost::show`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Showing {
    /// The guest sees it.
    Shown,
    /// Not now: there have been too many changes of late.
    NotNow,
    /// It can not be had.
    Never,
}

impl Mirror {
    /// Nothing is vouched for yet. Pieces are shown when they are read often.
    pub fn new() -> Arc<Self> {
        Self::with(false)
    }

    /// Pieces are shown as soon as they are vouched for, until they are withdrawn for the first
    /// time: for a window that is going to be read, and that no guest can move.
    pub fn at_once() -> Arc<Self> {
        Self::with(true)
    }

    fn with(at_once: bool) -> Arc<Self> {
        let state = State { at_once, pieces: BTreeMap::new(), host: None, shown: 0 };
        Arc::new(Self(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here is called that could panic half-way, but a host.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Vouches for `len` bytes at `offset` of the window, whole pages of whoever is to show them:
    /// reads there give `values`, and ones behind them, until this is called again. A piece keeps
    /// its length until it is [forgotten](Self::forget).
    pub fn vouch(&self, offset: u64, len: u64, values: &[u8]) {
        let mut state = self.lock();
        let reads = if state.at_once { READS_WORTH_A_SWITCH } else { 0 };
        let piece = state.pieces.entry(offset).or_insert_with(|| Piece::new(len, reads));
        debug_assert_eq!(piece.len, len, "a piece keeps its length");
        if piece.values.as_deref() == Some(values) {
            return;
        }
        let was_shown = piece.is_shown;
        if piece.values.as_ref().is_some_and(|old| old.is_empty() != values.is_empty()) {
            // Memory that is shared can not be written to.
            state.hide(offset);
            state.with_piece(offset, |piece| piece.memory = None);
        }
        state.with_piece(offset, |piece| piece.update(values));
        let free = state.at_once && !was_shown;
        state.show_if_due(offset, free);
    }

    /// Vouches for the piece at `offset` no longer. On return every read of it comes to the device.
    pub fn withdraw(&self, offset: u64) {
        let mut state = self.lock();
        state.hide(offset);
        state.with_piece(offset, |piece| (piece.values, piece.reads) = (None, 0));
    }

    /// Withdraws the piece at `offset` for good: others may take its place.
    pub fn forget(&self, offset: u64) {
        let mut state = self.lock();
        state.hide(offset);
        state.pieces.remove(&offset);
    }

    /// A read at `offset` of the window has come to the device, which calls this when it has
    /// answered.
    pub fn read(&self, offset: u64) {
        let mut state = self.lock();
        if state.host.is_none() {
            return;
        }
        let Some((&start, piece)) = state.pieces.range_mut(..=offset).next_back() else { return };
        if offset - start >= piece.len || piece.values.is_none() || piece.hopeless {
            return;
        }
        piece.reads = piece.reads.saturating_add(1);
        state.show_if_due(start, false);
    }

    /// Has `host` show pieces from now on; for a registry that places the window. `false`: another
    /// does.
    pub fn attach(&self, host: Arc<dyn MirrorHost>) -> bool {
        let mut state = self.lock();
        if state.host.is_some() {
            return false;
        }
        state.host = Some(host);
        let offsets: Vec<u64> = state.pieces.keys().copied().collect();
        let free = state.at_once;
        offsets.into_iter().for_each(|offset| state.show_if_due(offset, free));
        true
    }

    /// Takes away what the host shows, which shows nothing any more from now on.
    pub fn detach(&self) {
        let mut state = self.lock();
        let offsets: Vec<u64> = state.pieces.keys().copied().collect();
        offsets.into_iter().for_each(|offset| state.hide(offset));
        state.host = None;
        let at_once = state.at_once;
        for piece in state.pieces.values_mut() {
            // What the host could not show, the next one may. Memory is its.
            (piece.hopeless, piece.memory) = (false, None);
            if !at_once {
                piece.reads = 0;
            }
        }
    }

    /// How many bytes of the window the guest is shown now.
    pub fn bytes_shown(&self) -> u64 {
        self.lock().pieces.values().filter(|piece| piece.is_shown).map(|piece| piece.len).sum()
    }

    /// How many times a piece has been shown so far.
    pub fn times_shown(&self) -> u64 {
        self.lock().shown
    }
}

impl State {
    fn with_piece(&mut self, offset: u64, change: impl FnOnce(&mut Piece)) {
        if let Some(piece) = self.pieces.get_mut(&offset) {
            change(piece);
        }
    }

    /// Takes the piece away from the guest if it is shown.
    fn hide(&mut self, offset: u64) {
        let (Some(piece), Some(host)) = (self.pieces.get_mut(&offset), &self.host) else { return };
        if std::mem::take(&mut piece.is_shown)
            && let Some(memory) = &piece.memory
        {
            host.hide(offset, memory);
        }
    }

    /// Shows the piece if it has been read often enough.
    fn show_if_due(&mut self, offset: u64, free: bool) {
        let (Some(piece), Some(host)) = (self.pieces.get_mut(&offset), &self.host) else { return };
        let Some(values) = piece.values.as_ref().filter(|_| piece.is_due()) else { return };
        let all_ones = values.is_empty();
        let memory = piece.memory.take().or_else(|| host.memory(piece.len, all_ones));
        let Some(memory) = memory else {
            piece.hopeless = true;
            return;
        };
        if !all_ones {
            fill(&*memory, values);
        }
        match host.show(offset, &memory, free) {
            Showing::Shown => {
                piece.is_shown = true;
                self.shown += 1;
            }
            Showing::NotNow => piece.reads = 0,
            Showing::Never => piece.hopeless = true,
        }
        piece.memory = Some(memory);
    }
}

impl Piece {
    fn new(len: u64, reads: u32) -> Self {
        Self { len, values: None, reads, memory: None, is_shown: false, hopeless: false }
    }

    fn is_due(&self) -> bool {
        !self.is_shown && !self.hopeless && self.reads >= READS_WORTH_A_SWITCH
    }

    /// Remembers the values, and has the guest see those that have changed.
    fn update(&mut self, values: &[u8]) {
        let old = self.values.replace(values.to_vec()).unwrap_or_default();
        let Some(memory) = self.memory.as_ref().filter(|_| self.is_shown) else { return };
        for at in (0..old.len().max(values.len())).step_by(UNIT) {
            let (before, now) = (unit(&old, at), unit(values, at));
            if before != now {
                memory.write(at as u64, &now);
            }
        }
    }
}

/// The bytes of `values` at `at`, and ones behind them.
fn unit(values: &[u8], at: usize) -> [u8; UNIT] {
    let mut unit = [0xff; UNIT];
    let there = values.get(at..).unwrap_or_default();
    unit.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
    unit
}

/// Writes `values` to memory that the guest does not see, and ones behind them.
fn fill(memory: &dyn Memory, values: &[u8]) {
    memory.write(0, values);
    let rest = usize::try_from(memory.len()).unwrap_or(0).saturating_sub(values.len());
    memory.write(values.len() as u64, &vec![0xff; rest]);
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let pieces: Vec<_> =
            state.pieces.iter().map(|(at, piece)| (at, piece.len, piece.is_shown)).collect();
        f.debug_struct("Mirror").field("pieces", &pieces).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
