//! One processor's LPIs: which are pending, what their configuration bytes say, which is next.
//!
//! Spec: Arm IHI 0069, "LPI Configuration tables" and "LPI Pending tables". The pending table is
//! held here while LPIs are enabled and written back to guest RAM when they are disabled. A
//! configuration byte is read when its LPI becomes pending and kept until INV, INVALL, `INVLPIR`
//! or `INVALLR` name it or the LPI becomes pending anew: the architecture allows a cache to forget
//! at any time, and forces it to with those.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::regs::Propbaser;
use crate::host::GuestMemory;
use crate::ids::{LPI_BASE, LPI_COUNT, LPI_END};
use crate::{Lpi, MemoryError};

/// 64-bit words of a bitmap of all LPIs.
const WORDS: usize = (LPI_COUNT / 64) as usize;
/// Bytes of a bitmap of all LPIs.
const BITMAP_BYTES: usize = WORDS * 8;
/// Where the LPIs' bits start in a pending table, bytes: behind those of INTIDs 0 to 8191.
const PENDING_OFFSET: u64 = 1024;

/// An LPI and its priority, 0 the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pending {
    /// The priority, bits 7:2 of the configuration byte or what the security state makes of it.
    pub priority: u8,
    /// The LPI.
    pub lpi: Lpi,
}

/// The tables' copies. Made when LPIs are first enabled: 7 KiB, 7 KiB and 56 KiB.
#[derive(Clone, Debug)]
struct Copies {
    pending: Box<[u64]>,
    known: Box<[u64]>,
    config: Box<[u8]>,
}

/// The LPIs of one processor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lpis {
    copies: Option<Copies>,
    /// The next LPI; `None` if it must be looked for.
    next: Option<Option<Pending>>,
}

/// What the registers say about the tables while LPIs are enabled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables {
    /// `GICR_PROPBASER`.
    pub(crate) config: Propbaser,
    /// Address of the pending table.
    pub(crate) pending: u64,
    /// `GICD_CTLR.DS` is 0: priorities are of the non-secure half.
    pub(crate) two_security_states: bool,
}

impl Tables {
    /// One past the largest INTID that is an LPI; at most 8192 if there is none.
    pub(crate) fn end(&self) -> u32 {
        LPI_END.min(2u32.checked_shl(self.config.id_bits().into()).unwrap_or(LPI_END))
    }

    fn admits(&self, lpi: Lpi) -> bool {
        lpi.intid() < self.end()
    }

    /// Bytes of the pending table behind its first KiB.
    fn bytes(&self) -> usize {
        usize::try_from(self.end().saturating_sub(LPI_BASE) / 8).unwrap_or(0).min(BITMAP_BYTES)
    }

    fn priority(&self, byte: u8) -> u8 {
        let priority = byte & 0xfc;
        if self.two_security_states { priority >> 1 | 0x80 } else { priority }
    }
}

/// Where an LPI is in a bitmap.
fn place(lpi: Lpi) -> (usize, u64) {
    (usize::try_from(lpi.index() / 64).unwrap_or(usize::MAX), 1 << (lpi.index() % 64))
}

fn bit(words: &[u64], lpi: Lpi) -> bool {
    let (word, mask) = place(lpi);
    words.get(word).is_some_and(|word| word & mask != 0)
}

fn set_bit(words: &mut [u64], lpi: Lpi, value: bool) {
    let (word, mask) = place(lpi);
    if let Some(word) = words.get_mut(word) {
        *word = if value { *word | mask } else { *word & !mask };
    }
}

fn empty() -> Box<[u64]> {
    vec![0; WORDS].into_boxed_slice()
}

impl Lpis {
    /// LPIs become enabled: the pending table is read, unless it is said to be zero. What is not
    /// in RAM counts as zero.
    pub(crate) fn load(&mut self, mem: &impl GuestMemory, tables: &Tables, zero: bool) {
        let config = vec![0; WORDS * 64].into_boxed_slice();
        let mut copies = Copies { pending: empty(), known: empty(), config };
        if !zero {
            read_pending(mem, tables, &mut copies.pending);
        }
        self.copies = Some(copies);
        self.next = None;
    }

    /// Writes the pending table to RAM. INTIDs below 8192 have bits of their own there, which
    /// stay.
    pub(crate) fn store(&self, mem: &impl GuestMemory, tables: &Tables) -> Result<(), MemoryError> {
        let Some(copies) = &self.copies else { return Ok(()) };
        let bytes: Vec<u8> = copies.pending.iter().flat_map(|word| word.to_le_bytes()).collect();
        let bytes = bytes.get(..tables.bytes()).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        mem.write(tables.pending.saturating_add(PENDING_OFFSET), bytes)
    }

    /// LPIs become disabled, after a [`store`](Self::store).
    pub(crate) fn unload(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn set(&mut self, mem: &impl GuestMemory, tables: &Tables, lpi: Lpi) {
        let Some(copies) = self.copies.as_mut().filter(|_| tables.admits(lpi)) else { return };
        if bit(&copies.pending, lpi) {
            return;
        }
        set_bit(&mut copies.pending, lpi, true);
        let byte = copies.fetch(mem, tables, lpi);
        let found = (byte & 1 != 0).then(|| Pending { priority: tables.priority(byte), lpi });
        self.next = match (self.next, found) {
            (Some(Some(next)), Some(found)) => Some(Some(next.min(found))),
            (Some(None), found) => Some(found),
            (next, _) => next,
        };
    }

    pub(crate) fn clear(&mut self, tables: &Tables, lpi: Lpi) {
        let Some(copies) = self.copies.as_mut().filter(|_| tables.admits(lpi)) else { return };
        set_bit(&mut copies.pending, lpi, false);
        if self.next.flatten().is_some_and(|next| next.lpi == lpi) {
            self.next = None;
        }
    }

    pub(crate) fn pending(&self, lpi: Lpi) -> bool {
        self.copies.as_ref().is_some_and(|copies| bit(&copies.pending, lpi))
    }

    /// All that are pending, in ascending order.
    pub(crate) fn all(&self) -> Vec<Lpi> {
        self.copies.as_ref().map(|copies| listed(&copies.pending)).unwrap_or_default()
    }

    /// All pending LPIs below `end` become pending on `to` instead. Their configuration bytes are
    /// read there when they are asked for.
    pub(crate) fn move_to(&mut self, to: &mut Self, end: u32) {
        let (Some(mine), Some(theirs)) = (&mut self.copies, &mut to.copies) else { return };
        let words = mine.pending.iter_mut().zip(&mut theirs.pending).zip(&mut theirs.known);
        for (first, ((from, to), known)) in (LPI_BASE..).step_by(64).zip(words) {
            let mask = match end.saturating_sub(first) {
                0 => break,
                count @ 1..64 => (1 << count) - 1,
                _ => u64::MAX,
            };
            *known &= !(*from & mask & !*to);
            *to |= *from & mask;
            *from &= !mask;
        }
        (self.next, to.next) = (None, None);
    }

    /// The configuration byte must be read again; it is, if the LPI is pending now.
    pub(crate) fn invalidate(&mut self, lpi: Lpi) {
        if let Some(copies) = &mut self.copies {
            set_bit(&mut copies.known, lpi, false);
            if bit(&copies.pending, lpi) {
                self.next = None;
            }
        }
    }

    pub(crate) fn invalidate_all(&mut self) {
        if let Some(copies) = &mut self.copies {
            copies.known.fill(0);
            self.next = None;
        }
    }

    /// The pending, enabled LPI of the highest priority, among equals the lowest INTID.
    pub(crate) fn next(&mut self, mem: &impl GuestMemory, tables: &Tables) -> Option<Pending> {
        if let Some(next) = self.next {
            return next;
        }
        let next = self.copies.as_mut().and_then(|copies| copies.look(mem, tables));
        self.next = Some(next);
        next
    }
}

impl Copies {
    /// Reads the configuration byte of one LPI. Not in RAM: not enabled.
    fn fetch(&mut self, mem: &impl GuestMemory, tables: &Tables, lpi: Lpi) -> u8 {
        let address = (tables.config.page() << 12) + u64::from(lpi.index());
        let mut byte = [0];
        if mem.read(address, &mut byte).is_err() {
            byte = [0];
        }
        let [byte] = byte;
        if let Some(slot) =
            usize::try_from(lpi.index()).ok().and_then(|index| self.config.get_mut(index))
        {
            *slot = byte;
        }
        set_bit(&mut self.known, lpi, true);
        byte
    }

    /// Looks through all pending LPIs, 64 at a time, reading configuration bytes not known.
    fn look(&mut self, mem: &impl GuestMemory, tables: &Tables) -> Option<Pending> {
        let mut best = None;
        let table = tables.config.page() << 12;
        let (lines, _) = self.config.as_chunks_mut::<64>();
        let words = self.pending.iter().zip(self.known.iter_mut()).zip(lines);
        for ((first, address), ((pending, known), line)) in
            (LPI_BASE..).step_by(64).zip((table..).step_by(64)).zip(words)
        {
            let missing = pending & !*known;
            if *pending == 0 {
                continue;
            }
            if missing != 0 {
                let mut fresh = [0; 64];
                if mem.read(address, &mut fresh).is_err() {
                    fresh = [0; 64];
                }
                let pairs = line.iter_mut().zip(fresh).enumerate();
                pairs.filter(|(n, _)| missing >> n & 1 != 0).for_each(|(_, (to, from))| *to = from);
                *known |= missing;
            }
            for (intid, (n, byte)) in (first..).zip(line.iter().enumerate()) {
                let enabled = pending >> n & 1 != 0 && byte & 1 != 0;
                if let Some(lpi) = Lpi::new(intid).filter(|_| enabled) {
                    let found = Pending { priority: tables.priority(*byte), lpi };
                    best = Some(best.map_or(found, |best: Pending| best.min(found)));
                }
            }
        }
        best
    }
}

fn read_pending(mem: &impl GuestMemory, tables: &Tables, words: &mut [u64]) {
    let mut bytes = vec![0; tables.bytes()];
    if bytes.is_empty()
        || mem.read(tables.pending.saturating_add(PENDING_OFFSET), &mut bytes).is_err()
    {
        return;
    }
    let (chunks, _) = bytes.as_chunks::<8>();
    words.iter_mut().zip(chunks).for_each(|(word, chunk)| *word = u64::from_le_bytes(*chunk));
}

/// The LPIs of a pending table in RAM, while LPIs are disabled.
pub(crate) fn in_ram(mem: &impl GuestMemory, tables: &Tables) -> Vec<Lpi> {
    let mut words = empty();
    read_pending(mem, tables, &mut words);
    listed(&words)
}

fn listed(words: &[u64]) -> Vec<Lpi> {
    let mut all = Vec::new();
    for (first, word) in (LPI_BASE..).step_by(64).zip(words) {
        let mut rest = *word;
        while rest != 0 {
            all.extend(Lpi::new(first + rest.trailing_zeros()));
            rest &= rest - 1;
        }
    }
    all
}
