//! A queue over memory that is made of bytes, served by a device that does what bytes say. Shared by
//! a property test and a fuzz target.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use trapline_guestmem::GuestMem;
use trapline_virtio::features::{EVENT_IDX, IN_ORDER, INDIRECT_DESC};
use trapline_virtio::{Chain, Queue, QueueEvents, QueuePlace, Serving};

/// The guest's RAM: rings and tables fit in, and addresses reach past it easily.
const RAM: u64 = 0x1_0000;
const MOST: u16 = 64;
/// The most descriptors of a chain, whatever it is made of.
const LONGEST: usize = 1024;

#[derive(Default)]
struct Events(AtomicU32);

impl QueueEvents for Events {
    fn used(&self, _queue: u16) {}

    fn broken(&self, _queue: u16) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn again(&self, _queue: u16) {}
}

/// Starts a queue over memory made of the bytes, and serves it as they say.
pub(crate) fn suffer(bytes: &[u8]) {
    let Some(([size, features, at], rest)) = bytes.split_first_chunk::<3>() else { return };
    let mem = GuestMem::new(&[(0, RAM)]).unwrap();
    let ram: Vec<u8> = (0..RAM).zip(rest.iter().cycle()).map(|(_, byte)| *byte).collect();
    mem.write(0, &ram).unwrap();
    let size = 1 << (size % 7);
    let place = QueuePlace {
        size,
        descriptors: u64::from(at & 0x0f) * 0x10,
        driver: 0x2000 + u64::from(at >> 4) * 2,
        device: 0x4000,
    };
    // An index that is near makes the rest reachable.
    let near = u16::from(features >> 4) % (size + 2);
    mem.write(place.driver + 2, &near.to_le_bytes()).unwrap();
    let features = [INDIRECT_DESC, EVENT_IDX, IN_ORDER]
        .into_iter()
        .enumerate()
        .filter(|(bit, _)| features >> bit & 1 != 0)
        .fold(0, |all, (_, feature)| all | feature);
    let events = Arc::<Events>::default();
    let queue = Queue::new(0, MOST, mem.clone(), events.clone());
    queue.start(&place, features).unwrap();
    let mut kept = Vec::new();
    for byte in rest.iter().take(256) {
        if byte % 16 == 15 {
            restart(&queue, (&place, features), *byte);
            continue;
        }
        let Some(mut serving) = queue.serve() else { break };
        turn(&mut serving, &mut kept, *byte);
        assert!(serving.in_flight() <= size, "more than there are descriptors");
        drop(serving);
        // The driver goes on, without sense.
        let index = u16::from(*byte) + near;
        mem.write(place.driver + 2, &index.to_le_bytes()).unwrap();
    }
    assert!(events.0.load(Ordering::Relaxed) <= 256, "a queue breaks once for each start");
}

/// Serves some requests: completes, keeps, or puts back.
fn turn(serving: &mut Serving<'_>, kept: &mut Vec<Chain>, byte: u8) {
    let mut handed_out = 0;
    while let Some(chain) = serving.pop() {
        handed_out += 1;
        assert!(handed_out <= MOST, "a turn ends");
        look(&chain, serving);
        match byte & 3 {
            0 => return serving.put_back(chain),
            1 => kept.push(chain),
            _ => {
                let room = u32::try_from(chain.writable_len()).unwrap_or(u32::MAX);
                serving.complete(chain, room.min(u32::from(byte)));
            }
        }
    }
    if byte & 4 != 0 {
        kept.drain(..).for_each(|chain| serving.complete(chain, 0));
    }
}

/// Reads and writes what there is of a request.
fn look(chain: &Chain, serving: &Serving<'_>) {
    let mem = serving.mem();
    assert!(chain.readable().len() + chain.writable().len() <= LONGEST);
    assert!(chain.readable_len() + chain.writable_len() <= u64::from(u32::MAX));
    let mut piece = [0; 16];
    let _ = chain.read_at(mem, 0, &mut piece);
    let _ = chain.read_at(mem, chain.readable_len().saturating_sub(8), &mut piece[..8]);
    // Not over all of memory, or there would be nothing left of it.
    if chain.writable_len() < 64 {
        let _ = chain.write_at(mem, 0, &piece);
    }
    let _ = chain.readable_slices(mem, 0..chain.readable_len());
    let _ = chain.writable_slices(mem, 0..chain.writable_len());
}

/// Stops the queue, and starts it anew or where it was.
fn restart(queue: &Queue, (place, features): (&QueuePlace, u64), byte: u8) {
    let position = queue.position();
    queue.stop();
    match position {
        Some(position) if byte & 0x10 != 0 => queue.resume(place, features, &position).unwrap(),
        _ => queue.start(place, features).unwrap(),
    }
}
