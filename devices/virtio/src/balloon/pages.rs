//! Pages that go back to the host.

use trapline_guestmem::GuestMem;

use super::regs::PAGE;
use crate::Chain;

/// Numbers of pages that are read at once.
const PIECE: usize = 1024;

/// Gives the pages back whose numbers are in a request: those that are RAM, up to the first `most`.
/// How many numbers that were.
pub(super) fn take(chain: &Chain, mem: &GuestMem, most: u64) -> u64 {
    let count = (chain.readable_len() / 4).min(most);
    let mut at = 0;
    let mut bytes = [0; 4 * PIECE];
    while at < count {
        let len = usize::try_from(count - at).unwrap_or(PIECE).min(PIECE);
        let Some(numbers) = bytes.get_mut(..4 * len) else { break };
        if chain.read_at(mem, 4 * at, numbers).is_err() {
            break;
        }
        let (numbers, _) = numbers.as_chunks::<4>();
        give_back(numbers.iter().map(|number| u32::from_le_bytes(*number)), mem);
        at += len as u64;
    }
    count
}

/// Gives pages back, runs of them at once.
fn give_back(numbers: impl Iterator<Item = u32>, mem: &GuestMem) {
    let addresses = numbers.map(|number| u64::from(number) * PAGE);
    let page = usize::try_from(PAGE).unwrap_or(usize::MAX);
    let mut pages: Vec<u64> = addresses.filter(|page_at| mem.contains(*page_at, page)).collect();
    pages.sort_unstable();
    pages.dedup();
    for run in pages.chunk_by(|one, next| one + PAGE == *next) {
        if let Some(first) = run.first() {
            range(mem, *first, run.len() as u64 * PAGE);
        }
    }
}

/// Gives back what pages there are in a range of RAM.
pub(super) fn range(mem: &GuestMem, addr: u64, len: u64) {
    // A host that does not take it leaves the guest with more than it asked for.
    if let Err(error) = mem.give_back(addr, len) {
        tracing::debug!("memory of a balloon stays: {error}");
    }
}
