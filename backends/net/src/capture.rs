//! A copy of all frames of a card in a file, as tcpdump and Wireshark read it (pcap, with
//! nanoseconds; `draft-ietf-opsawg-pcap`).

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::Clock;
use trapline_guestio::Buffers;

use crate::{Abilities, FRAME_MAX, HEADER_LEN, Header, Mac, NetBackend, NetCard, Offloads, rarp};

/// Magic of files with nanoseconds, in our order of bytes.
const MAGIC: u32 = 0xa1b2_3c4d;
/// Ethernet.
const LINK_TYPE: u32 = 1;
const NS_OF_A_SECOND: u64 = 1_000_000_000;

/// A back end whose frames are copied.
pub struct Capture {
    inner: Arc<dyn NetBackend>,
    clock: Arc<dyn Clock>,
    /// Until it cannot be written.
    file: Mutex<Option<File>>,
}

impl Capture {
    /// Copies what goes to `inner` and comes from there into the file at `path`, which is made anew. Times
    /// are the machine's.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(
        inner: Arc<dyn NetBackend>,
        path: &Path,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Arc<Self>> {
        let mut file = File::create(path)?;
        let longest = u32::try_from(FRAME_MAX).unwrap_or(u32::MAX);
        // Versions 2 and 4, no offset to UTC, no accuracy.
        let head = [MAGIC, 0x0004_0002, 0, 0, longest, LINK_TYPE].map(u32::to_le_bytes);
        file.write_all(head.as_flattened())?;
        Ok(Arc::new(Self { inner, clock, file: Mutex::new(Some(file)) }))
    }

    /// Copies a frame. A file that cannot be written ends the copy, not the guest.
    fn note(&self, frame: &[u8]) {
        let mut file = self.file.lock();
        let Some(open) = &mut *file else { return };
        let now = self.clock.utc_ns();
        let len = frame.len() as u64;
        let head = [now / NS_OF_A_SECOND, now % NS_OF_A_SECOND, len, len];
        let head = head.map(|field| u32::try_from(field & 0xffff_ffff).unwrap_or(0).to_le_bytes());
        let record = [head.as_flattened(), frame].concat();
        if let Err(error) = open.write_all(&record) {
            tracing::warn!("frames are no longer copied: {error}");
            *file = None;
        }
    }
}

impl NetBackend for Capture {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    fn attach(&self, card: Weak<dyn NetCard>) {
        self.inner.attach(card);
    }

    fn has_link(&self) -> bool {
        self.inner.has_link()
    }

    fn set_offloads(&self, receives: Offloads) {
        self.inner.set_offloads(receives);
    }

    fn set_pairs(&self, pairs: u16) {
        self.inner.set_pairs(pairs);
    }

    fn set_receiving(&self, pair: u16, on: bool) {
        self.inner.set_receiving(pair, on);
    }

    fn send(&self, pair: u16, header: &Header, frame: &mut Buffers) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(frame.len()).unwrap_or(0).min(FRAME_MAX)];
        let mut rest = bytes.as_mut_slice();
        for slice in frame.slices() {
            let (now, later) = rest.split_at_mut(slice.len().min(rest.len()));
            slice.copy_to(now);
            rest = later;
        }
        self.inner.send(pair, header, frame)?;
        self.note(&bytes);
        Ok(())
    }

    fn announce(&self, mac: Mac) {
        self.note(&rarp(mac));
        self.inner.announce(mac);
    }

    fn receive(&self, pair: u16, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.receive(pair, buf)?;
        self.note(buf.get(HEADER_LEN..len).unwrap_or_default());
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use trapline_guestmem::GuestMem;
    use trapline_testkit::TestClock;

    use super::*;

    /// Something that always has the same frame.
    struct Parrot;

    impl NetBackend for Parrot {
        fn attach(&self, _card: Weak<dyn NetCard>) {}

        fn set_receiving(&self, _pair: u16, _on: bool) {}

        fn send(&self, pair: u16, _header: &Header, frame: &mut Buffers) -> io::Result<()> {
            assert_eq!(frame.len(), 3, "nobody has taken anything out");
            if pair == 0 { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        }

        fn receive(&self, _pair: u16, buf: &mut [u8]) -> io::Result<usize> {
            buf[HEADER_LEN..HEADER_LEN + 2].copy_from_slice(b"in");
            Ok(HEADER_LEN + 2)
        }
    }

    #[test]
    fn what_went_through_is_in_the_file_once_with_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let (path, clock) = (folder.path().join("a.pcap"), TestClock::starting_at(7_000_000_005));
        let capture = Capture::new(Arc::new(Parrot), &path, Arc::new(clock.clone())).unwrap();
        let mem = GuestMem::new(&[(0, 0x1000)]).unwrap();
        mem.write(0x100, b"out").unwrap();
        let send = |pair| {
            let mut frame = Buffers::new(&mem);
            frame.push(0x100, 1).unwrap();
            frame.push(0x101, 2).unwrap();
            capture.send(pair, &Header::default(), &mut frame)
        };
        send(0).unwrap();
        send(1).unwrap_err();
        clock.step_ns(1);
        capture.receive(0, &mut [0; 64]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[..8], [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(bytes[20..24], [1, 0, 0, 0]);
        let out = [7, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, b'o', b'u', b't'];
        let back = [7, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, b'i', b'n'];
        assert_eq!(bytes[24..], [&out[..], &back].concat());
    }
}
