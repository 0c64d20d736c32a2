//! Frames between buffers of a driver and a back end.

use smallvec::SmallVec;
use trapline_guestio::Buffers;
use trapline_guestmem::GuestMem;
use trapline_net::{HEADER_LEN, Header, Offloads};

use crate::{Chain, Serving};

/// Header of a legacy driver without mergeable buffers: without a count of them.
const SHORT_HEADER: usize = 10;

/// Offset of the count of buffers.
const COUNT_AT: u64 = 10;

/// How a driver has its headers and buffers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// Length of a header in bytes.
    header: usize,
    /// Whether a frame can be in several requests.
    mergeable: bool,
}

impl Form {
    pub(super) fn new(modern: bool, mergeable: bool) -> Self {
        let header = if modern || mergeable { HEADER_LEN } else { SHORT_HEADER };
        Self { header, mergeable }
    }

    /// The frame in a request to send, with what goes to the back end as its header. `None` if there
    /// is none, or none that can be sent.
    pub(super) fn frame(
        self,
        chain: &Chain,
        mem: &GuestMem,
        taken: Offloads,
    ) -> Option<(Header, Buffers)> {
        let mut bytes = [0; HEADER_LEN];
        chain.read_at(mem, 0, bytes.get_mut(..self.header)?).ok()?;
        let mut frame = Buffers::new(mem);
        let mut skipped = self.header as u64;
        for buffer in chain.readable() {
            let skip = skipped.min(buffer.len.into());
            skipped -= skip;
            let len = usize::try_from(u64::from(buffer.len) - skip).ok()?;
            frame.push(buffer.addr.checked_add(skip)?, len).ok()?;
        }
        let header = Header::new(bytes).admitted(taken, frame.len())?;
        Some((header, frame))
    }
}

/// What came of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// The driver has it.
    Yes,
    /// It waits for more buffers.
    NoRoom,
    /// It does not fit into a driver's buffers.
    TooLong,
}

/// Puts a packet, a header in its full length and a frame, into a driver's next buffers.
pub(super) fn place(form: Form, serving: &mut Serving<'_>, packet: &[u8]) -> Placed {
    let skipped = HEADER_LEN - form.header;
    let frame = packet.get(HEADER_LEN..).unwrap_or_default();
    let wanted = form.header + frame.len();
    let mut chains = SmallVec::<[(Chain, u32); 4]>::new();
    let mut room = 0;
    while room < wanted {
        if chains.len() >= serving.size().into() {
            return put_back(serving, chains, Placed::TooLong);
        }
        let Some(chain) = serving.pop() else { return put_back(serving, chains, Placed::NoRoom) };
        let here = usable(&chain, serving.mem());
        // A header is in one piece.
        if here < form.header && chains.is_empty() || here == 0 {
            if chains.is_empty() {
                serving.complete(chain, 0);
                continue;
            }
            // It goes back next, when it is the first.
            serving.put_back(chain);
            return put_back(serving, chains, Placed::TooLong);
        }
        let used = here.min(wanted - room);
        chains.push((chain, u32::try_from(used).unwrap_or(0)));
        room += used;
        if room < wanted && !form.mergeable {
            return put_back(serving, chains, Placed::TooLong);
        }
    }
    write(form, serving.mem(), &chains, (packet, skipped));
    serving.complete_together(chains);
    Placed::Yes
}

/// How many bytes of a request can be written, if all of it is RAM.
fn usable(chain: &Chain, mem: &GuestMem) -> usize {
    let room = chain.writable_len();
    let is_ram = chain.writable_slices(mem, 0..room).is_ok();
    if is_ram { usize::try_from(room).unwrap_or(usize::MAX) } else { 0 }
}

fn put_back(
    serving: &mut Serving<'_>,
    chains: SmallVec<[(Chain, u32); 4]>,
    placed: Placed,
) -> Placed {
    chains.into_iter().rev().for_each(|(chain, _)| serving.put_back(chain));
    placed
}

fn write(form: Form, mem: &GuestMem, chains: &[(Chain, u32)], (packet, skipped): (&[u8], usize)) {
    let (header, mut frame) = packet.split_at_checked(HEADER_LEN).unwrap_or_default();
    let header = header.get(..HEADER_LEN - skipped).unwrap_or_default();
    let count = u16::try_from(chains.len()).unwrap_or(u16::MAX);
    for (index, (chain, used)) in chains.iter().enumerate() {
        let mut at = 0;
        if index == 0 {
            // All of it was found to be RAM.
            let _ = chain.write_at(mem, 0, header);
            at = header.len() as u64;
            if form.header == HEADER_LEN {
                let _ = chain.write_at(mem, COUNT_AT, &count.to_le_bytes());
            }
        }
        let here = usize::try_from(u64::from(*used) - at).unwrap_or(0).min(frame.len());
        let (now, later) = frame.split_at(here);
        let _ = chain.write_at(mem, at, now);
        frame = later;
    }
}
