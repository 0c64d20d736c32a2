//! Packets of the guest's that come in pieces.

use std::cell::Cell;

use etherparse::SlicedPacket;
use etherparse::defrag::IpDefragPool;
use smoltcp::wire::IpProtocol;

/// Packets of which something has come, at most: with another all of them are forgotten.
const PACKETS_MAX: usize = 16;
/// How long the rest of a packet is waited for (RFC 8200, section 4.5).
const PATIENCE_NS: u64 = 60_000_000_000;

/// What has come of packets, each with the time of the last piece.
pub(crate) struct Fragments(IpDefragPool<u64, ()>);

impl Fragments {
    pub(crate) fn new() -> Self {
        Self(IpDefragPool::new())
    }

    /// Takes a fragment. If that was the last, the packet's protocol and its payload.
    pub(crate) fn take(
        &mut self,
        sliced: &SlicedPacket<'_>,
        now_ns: u64,
    ) -> Option<(IpProtocol, Vec<u8>)> {
        self.0.retain(|since| now_ns.saturating_sub(*since) < PATIENCE_NS);
        let count = Cell::new(0);
        self.0.retain(|_| {
            count.set(count.get() + 1);
            true
        });
        if count.get() >= PACKETS_MAX {
            self.0.retain(|_| false);
        }
        // Pieces that contradict each other are what an error is about.
        let whole = self.0.process_sliced_packet(sliced, now_ns, ()).ok()??;
        Some((IpProtocol::from(whole.ip_number.0), whole.payload))
    }
}
