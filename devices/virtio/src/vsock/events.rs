//! Events of the host's end as numbers, which is how a recording has them.

use trapline_device::Readiness;
use trapline_vsock::Event;

/// An event as two numbers, for the witness.
pub(super) fn words(event: Event) -> [u64; 2] {
    match event {
        Event::Incoming { id, port } => [u64::from(id) << 2, port.into()],
        Event::Ready { id, ready } => {
            [u64::from(id) << 2 | 1, u64::from(ready.read) | u64::from(ready.write) << 1]
        }
    }
}

pub(super) fn told(words: &[u64]) -> impl Iterator<Item = Event> {
    let (pairs, _) = words.as_chunks::<2>();
    pairs.iter().filter_map(|[head, rest]| {
        let id = u32::try_from(head >> 2).ok()?;
        Some(match head & 3 {
            0 => Event::Incoming { id, port: u32::try_from(*rest).ok()? },
            _ => {
                let ready = Readiness { read: rest & 1 != 0, write: rest & 2 != 0 };
                Event::Ready { id, ready }
            }
        })
    })
}
