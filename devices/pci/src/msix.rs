//! MSI-X: a table of messages and an array of pending bits, both in a function's memory.
//!
//! Spec: PCI Local Bus Specification 3.0, 6.8.2 and 6.8.3.

use std::ops::Range;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use trapline_device::{
    Direction, Handler, IoCx, Limits, MessageVector, Msi, Rules, Size, Space, saved_form,
};

use crate::config::{CapabilityId, ConfigSpace};
use crate::device::PciDevice;
use crate::regs::{
    MSIX_CONTROL, MSIX_ENABLE, MSIX_ENTRY_LEN, MSIX_FUNCTION_MASK, MSIX_PBA, MSIX_TABLE,
    MSIX_VECTOR_MASKED, MSIX_VECTORS_MAX,
};

/// Where a function has its table and its pending bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    /// How many vectors: 1 to 2,048.
    pub vectors: u16,
    /// BAR of the table.
    pub table_bar: u8,
    /// The table's offset in it, a multiple of 8.
    pub table: u32,
    /// BAR of the pending bits.
    pub pba_bar: u8,
    /// Their offset in it, a multiple of 8.
    pub pba: u32,
}

impl MsixLayout {
    /// The table at the start of BAR `bar`, and the pending bits right behind it.
    pub const fn in_bar(bar: u8, vectors: u16) -> Self {
        let pba = vectors as u32 * 16;
        Self { vectors, table_bar: bar, table: 0, pba_bar: bar, pba }
    }

    /// Offsets of the table.
    pub fn table_range(&self) -> Range<u64> {
        let start = u64::from(self.table);
        start..start + u64::from(self.vectors) * MSIX_ENTRY_LEN
    }

    /// Offsets of the pending bits: whole qwords.
    pub fn pba_range(&self) -> Range<u64> {
        let start = u64::from(self.pba);
        start..start + u64::from(self.vectors).div_ceil(64) * 8
    }

    /// Adds the capability, disabled.
    ///
    /// # Panics
    /// When there are no or too many vectors, when an offset is not a multiple of 8, when table and
    /// pending bits overlap, or when one of them leaves its BAR or the BAR is no memory.
    pub(crate) fn add(&self, place: Option<u16>, config: &mut ConfigSpace) -> u16 {
        let Self { vectors, table_bar, table, pba_bar, pba } = *self;
        assert!((1..=MSIX_VECTORS_MAX).contains(&vectors), "a table has 1 to 2048 vectors");
        for (bar, range) in [(table_bar, self.table_range()), (pba_bar, self.pba_range())] {
            assert!(range.start.is_multiple_of(8), "{range:#x?} does not start at a qword");
            let decodes = config.bar(bar.into()).filter(|bar| bar.space() == Space::Mmio);
            let inside = decodes.is_some_and(|bar| range.end <= bar.len_bytes());
            assert!(inside, "BAR{bar} has no memory at {range:#x?}");
        }
        let (a, b) = (self.table_range(), self.pba_range());
        let apart = table_bar != pba_bar || a.end <= b.start || b.end <= a.start;
        assert!(apart, "table and pending bits share a BAR and must not overlap");
        let mut body = [0; 10];
        let fields = [
            (vectors - 1).to_le_bytes().to_vec(),
            (table | u32::from(table_bar)).to_le_bytes().to_vec(),
            (pba | u32::from(pba_bar)).to_le_bytes().to_vec(),
        ];
        body.iter_mut().zip(fields.concat()).for_each(|(to, from)| *to = from);
        let offset = config.add_capability_maybe_at(place, CapabilityId::MSIX, &body);
        debug_assert!((MSIX_TABLE, MSIX_PBA) == (4, 8));
        let writable = MSIX_ENABLE | MSIX_FUNCTION_MASK;
        config.allow(offset + MSIX_CONTROL, &writable.to_le_bytes());
        offset
    }
}

/// What the capabilities and the rest of the function say about all vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Gate {
    /// No messages are in use.
    #[default]
    Closed,
    /// MSI: every vector sends this one, if the function may send any.
    Single(Option<Msi>),
    /// MSI-X: every vector sends what the table says, unless the function is masked, is no bus
    /// master, or sleeps.
    Table {
        /// It is.
        masked: bool,
    },
}

/// The message vectors of one function, and the table that MSI-X keeps of them.
///
/// A vector's message is known to its [`MessageVector`] exactly while it may be sent; otherwise the
/// vector keeps that it is pending, whoever triggers it.
pub(crate) struct Vectors {
    vectors: Vec<Arc<dyn MessageVector>>,
    /// Hears of vectors that come into use. Its lock comes after that of the state.
    user: OnceLock<Weak<dyn PciDevice>>,
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
struct State {
    gate: Gate,
    entries: Vec<Entry>,
}

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
}

impl Entry {
    const RESET: Self = Self { address: 0, data: 0, masked: true };

    /// The message to send while `gate` lets it through.
    fn route(self, gate: Gate) -> Option<Msi> {
        match gate {
            Gate::Single(message) => message,
            Gate::Table { masked: false } if !self.masked => {
                Some(Msi { address: self.address, data: self.data })
            }
            Gate::Table { .. } | Gate::Closed => None,
        }
    }

    fn dword(self, index: u64) -> u32 {
        let [low, high] = [self.address & 0xffff_ffff, self.address >> 32];
        match index {
            0 => u32::try_from(low).unwrap_or(0),
            1 => u32::try_from(high).unwrap_or(0),
            2 => self.data,
            _ => u32::from(self.masked) * MSIX_VECTOR_MASKED,
        }
    }

    fn set_dword(&mut self, index: u64, value: u32) {
        let wide = u64::from(value);
        match index {
            // Messages are aligned dwords.
            0 => self.address = self.address & !0xffff_ffff | wide & !3,
            1 => self.address = self.address & 0xffff_ffff | wide << 32,
            2 => self.data = value,
            _ => self.masked = value & MSIX_VECTOR_MASKED != 0,
        }
    }
}

impl Vectors {
    /// Vectors after a reset: masked, with nothing pending.
    pub(crate) fn new(vectors: Vec<Arc<dyn MessageVector>>) -> Self {
        let entries = vec![Entry::RESET; vectors.len()];
        let state = Mutex::new(State { gate: Gate::Closed, entries });
        Self { vectors, user: OnceLock::new(), state }
    }

    /// Has a device hear of vectors that come into use ([`PciDevice::vectors_used`]).
    pub(crate) fn set_user(&self, user: Weak<dyn PciDevice>) {
        let _ = self.user.set(user);
    }

    /// Says that a vector is about to be let through by the table.
    fn tell_used(&self, state: &State) {
        let Some(user) = self.user.get().and_then(Weak::upgrade) else { return };
        let routed = |entry: &Entry| entry.route(state.gate).is_some() || entry.address != 0;
        let last = state.entries.iter().rposition(routed);
        user.vectors_used(last.map_or(0, |last| last + 1));
    }

    /// A vector, if there is one with this number.
    pub(crate) fn vector(&self, number: usize) -> Option<&Arc<dyn MessageVector>> {
        self.vectors.get(number)
    }

    /// Lets messages through, or not. Those that were pending are sent.
    pub(crate) fn set_gate(&self, gate: Gate) {
        let state = &mut *self.state.lock();
        let before = std::mem::replace(&mut state.gate, gate);
        if before == gate {
            return;
        }
        if gate == (Gate::Table { masked: false }) {
            self.tell_used(state);
        }
        let table = matches!((before, gate), (Gate::Table { .. }, Gate::Single(_)));
        let routes = state.entries.iter().map(|entry| (entry.route(before), entry.route(gate)));
        let changes = self.vectors.iter().zip(routes).filter(|(_, (old, new))| old != new);
        for (vector, (_, new)) in changes.clone() {
            // What the table was asked to send is nothing that the single message tells.
            if table {
                vector.clear();
            }
            if let Some(message) = new {
                vector.prepare_route(message);
            }
        }
        changes.for_each(|(vector, (_, new))| vector.set_route(new));
    }

    /// Masks every vector and forgets what is pending.
    pub(crate) fn reset(&self) {
        let state = &mut *self.state.lock();
        state.gate = Gate::Closed;
        state.entries.fill(Entry::RESET);
        for vector in &self.vectors {
            vector.set_route(None);
            vector.clear();
        }
    }

    fn read_table(&self, offset: u64) -> u32 {
        let state = self.state.lock();
        let entry = usize::try_from(offset / MSIX_ENTRY_LEN).ok();
        let entry = entry.and_then(|index| state.entries.get(index));
        entry.map_or(u32::MAX, |entry| entry.dword(offset % MSIX_ENTRY_LEN / 4))
    }

    fn write_table(&self, offset: u64, value: u32) {
        let state = &mut *self.state.lock();
        let Some(index) = usize::try_from(offset / MSIX_ENTRY_LEN).ok() else { return };
        let (Some(entry), Some(vector)) = (state.entries.get_mut(index), self.vectors.get(index))
        else {
            return;
        };
        let before = entry.route(state.gate);
        entry.set_dword(offset % MSIX_ENTRY_LEN / 4, value);
        let after = entry.route(state.gate);
        if before.is_none() && after.is_some() {
            self.tell_used(state);
        }
        set_route(&**vector, before, after);
    }

    /// 32 pending bits.
    fn read_pending(&self, offset: u64) -> u32 {
        let first = usize::try_from(offset * 8).unwrap_or(usize::MAX);
        let vectors = self.vectors.iter().skip(first).take(32);
        vectors.zip(0..).fold(0, |bits, (vector, bit)| bits | u32::from(vector.is_pending()) << bit)
    }

    /// What a snapshot keeps.
    pub(crate) fn state(&self) -> MsixState {
        let state = self.state.lock();
        let entries = state.entries.iter().zip(&self.vectors).map(|(entry, vector)| {
            let Entry { address, data, masked } = *entry;
            EntryState { address, data, masked, pending: vector.is_pending() }
        });
        MsixState { entries: entries.collect() }
    }

    /// Whether a table of this length can be in `state`.
    pub(crate) fn can_be(&self, state: &MsixState) -> bool {
        let aligned = state.entries.iter().all(|entry| entry.address.is_multiple_of(4));
        state.entries.len() == self.vectors.len() && aligned
    }

    /// Goes back to what a snapshot kept. Nothing is sent before the gate is set.
    pub(crate) fn restore(&self, saved: &MsixState) {
        self.reset();
        let state = &mut *self.state.lock();
        let entries = state.entries.iter_mut().zip(&self.vectors);
        for ((entry, vector), saved) in entries.zip(&saved.entries) {
            let EntryState { address, data, masked, pending } = *saved;
            *entry = Entry { address, data, masked };
            if pending {
                vector.trigger();
            }
        }
    }
}

/// Tells a vector of a change, and of nothing else: its route may be the kernel's business.
fn set_route(vector: &dyn MessageVector, before: Option<Msi>, after: Option<Msi>) {
    if before != after {
        vector.set_route(after);
    }
}

/// Dwords and qwords; anything else is undefined (PCI 3.0, 6.8.2) and does not reach us.
const RULES: Rules = Rules {
    valid: Limits { min: Size::Dword, max: Size::Qword, unaligned: false },
    handled: Limits::only(Size::Dword),
};

/// The table as a guest sees it.
pub(crate) struct TableWindow(pub(crate) Arc<Vectors>);

impl Handler for TableWindow {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        self.0.read_table(offset).into()
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        self.0.write_table(offset, u32::try_from(value & Size::Dword.ones()).unwrap_or(0));
    }

    fn rules(&self) -> Rules {
        RULES
    }

    fn register(&self, offset: u64, _direction: Direction) -> Option<&'static str> {
        let names = ["MSIX_ADDRESS", "MSIX_UPPER_ADDRESS", "MSIX_DATA", "MSIX_VECTOR_CONTROL"];
        names.get(usize::try_from(offset % MSIX_ENTRY_LEN / 4).ok()?).copied()
    }
}

/// The pending bits as a guest sees them: it can only read.
pub(crate) struct PendingWindow(pub(crate) Arc<Vectors>);

impl Handler for PendingWindow {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        self.0.read_pending(offset).into()
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}

    fn rules(&self) -> Rules {
        RULES
    }

    fn register(&self, _offset: u64, _direction: Direction) -> Option<&'static str> {
        Some("MSIX_PENDING")
    }
}

/// A table with its pending bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MsixState {
    entries: Vec<EntryState>,
}

impl MsixState {
    /// Whether there is no table.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EntryState {
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
}

saved_form! {
    /// [`MsixState`], version 1: a part of a function's form.
    pub(crate) struct MsixV1 of MsixState {
        entries: Vec<EntryV1> => list,
    }
}

saved_form! {
    struct EntryV1 of EntryState {
        address: u64,
        data: u32,
        masked: bool,
        pending: bool,
    }
}
