//! What a driver can write into a ring and a table of descriptors.

use trapline_guestmem::GuestMem;
use trapline_testkit::virtio::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor, Part, Ring};

use crate::victims::{BUFFERS, RAM, Scene};

type Queue = Ring<GuestMem>;

/// A table of descriptors outside of the ring.
const TABLE: u64 = BUFFERS + 0x10_0000;
/// `VIRTIO_RING_F_INDIRECT_DESC`, `VIRTIO_RING_F_EVENT_IDX`.
const INDIRECT: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;

/// What has to come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The request goes back with length 0, and the queue goes on.
    Returned,
    /// The queue stops with nothing used, and the device needs a reset.
    Broken,
    /// The request is answered somehow, or kept for later, and the queue goes on.
    Answered,
    /// The device need not make sense of it.
    Survived,
}

/// Something that a driver does in a ring.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// The features of queues that are accepted, of those two.
    pub(crate) features: u64,
    pub(crate) act: fn(&mut Queue),
    pub(crate) fate: Fate,
}

const fn attack(name: &'static str, act: fn(&mut Queue), fate: Fate) -> Attack {
    Attack { name, features: 0, act, fate }
}

const fn indirect(name: &'static str, act: fn(&mut Queue)) -> Attack {
    Attack { name, features: INDIRECT, act, fate: Fate::Returned }
}

fn descriptor(flags: u16, next: u16) -> Descriptor {
    Descriptor { addr: BUFFERS, len: 8, flags, next }
}

fn table(len: u32) -> Descriptor {
    Descriptor { addr: TABLE, len, flags: DESC_INDIRECT, next: 0 }
}

/// Makes this one descriptor available.
fn one(ring: &mut Queue, descriptor: Descriptor) {
    ring.describe(0, descriptor);
    ring.offer(0);
}

/// Descriptors that each point to the next of these, and the last nowhere in particular.
fn chain(ring: &mut Queue, next: &[u16]) {
    for (index, next) in (0..).zip(next) {
        ring.describe(index, descriptor(DESC_NEXT, *next));
    }
    ring.offer(0);
}

fn in_table(ring: &mut Queue, descriptors: &[Descriptor]) {
    for (index, descriptor) in (0..).zip(descriptors) {
        ring.describe_at(TABLE, index, *descriptor);
    }
    one(ring, table(u32::try_from(descriptors.len()).unwrap() * 16));
}

/// Makes a request of one buffer.
fn just(ring: &mut Queue, part: Part) {
    ring.add(&[part]);
}

fn both(ring: &mut Queue, addr: u64, len: u32) {
    ring.add(&[Part::Read(addr, len), Part::Write(addr, len)]);
}

pub(crate) const ATTACKS: &[Attack] = &[
    // Indirect tables.
    indirect("indirect-empty", |ring| one(ring, table(0))),
    indirect("indirect-not-a-multiple-of-16", |ring| one(ring, table(24))),
    indirect("indirect-shorter-than-a-descriptor", |ring| one(ring, table(15))),
    indirect("indirect-not-ram", |ring| one(ring, Descriptor { addr: RAM, ..table(16) })),
    indirect("indirect-past-the-end-of-ram", |ring| {
        in_table(ring, &[descriptor(DESC_NEXT, 1), descriptor(0, 0)]);
        ring.ram().write(RAM - 16, &[0; 16]).unwrap();
        ring.describe_at(RAM - 16, 0, descriptor(DESC_NEXT, 1));
        ring.describe(0, Descriptor { addr: RAM - 16, ..table(32) });
    }),
    indirect("indirect-at-the-end-of-addresses", |ring| {
        one(ring, Descriptor { addr: u64::MAX - 7, ..table(16) });
    }),
    Attack {
        name: "indirect-of-4-gib",
        features: INDIRECT,
        act: |ring| one(ring, Descriptor { addr: RAM - 32, ..table(!15) }),
        fate: Fate::Answered,
    },
    indirect("indirect-and-next", |ring| {
        ring.describe_at(TABLE, 0, descriptor(0, 0));
        ring.describe(1, descriptor(0, 0));
        one(ring, Descriptor { flags: DESC_INDIRECT | DESC_NEXT, next: 1, ..table(16) });
    }),
    indirect("indirect-nested", |ring| in_table(ring, &[table(16)])),
    indirect("indirect-next-out-of-range", |ring| in_table(ring, &[descriptor(DESC_NEXT, 1)])),
    indirect("indirect-next-far-out-of-range", |ring| {
        in_table(ring, &[descriptor(DESC_NEXT, u16::MAX)]);
    }),
    indirect("indirect-loop-of-1", |ring| in_table(ring, &[descriptor(DESC_NEXT, 0)])),
    indirect("indirect-loop-of-4", |ring| {
        in_table(ring, &[1, 2, 3, 0].map(|next| descriptor(DESC_NEXT, next)));
    }),
    indirect("indirect-longer-than-any-queue", |ring| {
        let all: Vec<_> = (1..=2000).map(|next| descriptor(DESC_NEXT, next)).collect();
        in_table(ring, &all);
        ring.describe_at(TABLE, 1999, descriptor(0, 0));
    }),
    indirect("indirect-read-after-write", |ring| {
        in_table(ring, &[descriptor(DESC_WRITE | DESC_NEXT, 1), descriptor(0, 0)]);
    }),
    indirect("indirect-read-after-write-outside", |ring| {
        ring.describe_at(TABLE, 0, descriptor(0, 0));
        ring.describe(1, table(16));
        one(ring, descriptor(DESC_WRITE | DESC_NEXT, 1));
    }),
    attack("indirect-not-negotiated", |ring| in_table(ring, &[descriptor(0, 0)]), Fate::Returned),
    // Chains.
    attack(
        "read-after-write",
        |ring| {
            ring.describe(1, descriptor(0, 0));
            one(ring, descriptor(DESC_WRITE | DESC_NEXT, 1));
        },
        Fate::Returned,
    ),
    attack(
        "read-write-read",
        |ring| {
            ring.describe(1, descriptor(DESC_WRITE | DESC_NEXT, 2));
            ring.describe(2, descriptor(0, 0));
            one(ring, descriptor(DESC_NEXT, 1));
        },
        Fate::Returned,
    ),
    attack(
        "chain-of-4-gib",
        |ring| {
            let half = Descriptor { addr: 0, len: 0x8000_0000, flags: DESC_NEXT, next: 1 };
            ring.describe(1, Descriptor { flags: 0, ..half });
            one(ring, half);
        },
        Fate::Returned,
    ),
    attack("loop-of-1", |ring| chain(ring, &[0]), Fate::Broken),
    attack("loop-of-2", |ring| chain(ring, &[1, 0]), Fate::Broken),
    attack("loop-to-the-middle", |ring| chain(ring, &[1, 2, 3, 1]), Fate::Broken),
    attack("next-out-of-range", |ring| chain(ring, &[ring.size()]), Fate::Broken),
    attack("next-far-out-of-range", |ring| chain(ring, &[1, u16::MAX]), Fate::Broken),
    // The available ring.
    attack("head-out-of-range", |ring| ring.offer(ring.size()), Fate::Broken),
    attack("head-far-out-of-range", |ring| ring.offer(u16::MAX), Fate::Broken),
    attack(
        "index-one-too-far",
        |ring| ring.set_avail_index(ring.used_index().wrapping_add(ring.size() + 1)),
        Fate::Broken,
    ),
    attack(
        "index-half-way-around",
        |ring| ring.set_avail_index(ring.used_index().wrapping_add(0x8000)),
        Fate::Broken,
    ),
    attack(
        "index-back",
        |ring| ring.set_avail_index(ring.used_index().wrapping_sub(1)),
        Fate::Broken,
    ),
    attack(
        "same-head-many-times",
        |ring| {
            ring.describe(0, descriptor(0, 0));
            (0..8).for_each(|_| ring.offer(0));
        },
        Fate::Survived,
    ),
    attack(
        "all-of-the-queue-is-one-descriptor",
        |ring| {
            ring.describe(0, descriptor(DESC_WRITE, 0));
            (0..ring.size()).for_each(|_| ring.offer(0));
        },
        Fate::Survived,
    ),
    attack(
        "full-queue-of-garbage",
        |ring| {
            for head in 0..ring.size() {
                ring.describe(
                    head,
                    Descriptor { addr: u64::from(head) << 40, len: 7, flags: head & 2, next: 0 },
                );
                ring.offer(head);
            }
        },
        Fate::Survived,
    ),
    // Buffers.
    attack("buffer-not-ram", |ring| both(ring, RAM, 8), Fate::Answered),
    attack("buffer-past-the-end-of-ram", |ring| both(ring, RAM - 4, 8), Fate::Answered),
    attack("buffer-wraps", |ring| both(ring, u64::MAX - 3, 8), Fate::Answered),
    attack("buffer-at-the-end-of-addresses", |ring| both(ring, u64::MAX, 1), Fate::Answered),
    attack("buffer-empty", |ring| both(ring, BUFFERS, 0), Fate::Answered),
    attack("buffer-empty-and-not-ram", |ring| both(ring, RAM, 0), Fate::Answered),
    attack("buffer-of-2-gib", |ring| both(ring, BUFFERS, 0x7fff_ffff), Fate::Answered),
    attack(
        "buffer-is-the-descriptors",
        |ring| {
            let at = ring.descriptors();
            ring.add(&[Part::Read(at, 64), Part::Write(at + 0x80, 64)]);
        },
        Fate::Answered,
    ),
    attack(
        "buffer-is-the-used-ring",
        |ring| {
            let at = ring.device();
            ring.add(&[Part::Write(at, 64)]);
        },
        Fate::Survived,
    ),
    attack(
        "buffer-is-the-available-ring",
        |ring| {
            let at = ring.driver();
            ring.add(&[Part::Write(at, 64)]);
        },
        Fate::Survived,
    ),
    attack("only-to-read", |ring| just(ring, Part::Read(BUFFERS, 64)), Fate::Answered),
    attack("only-to-write", |ring| just(ring, Part::Write(BUFFERS, 64)), Fate::Answered),
    attack("a-byte-to-read", |ring| just(ring, Part::Read(BUFFERS, 1)), Fate::Answered),
    attack("a-byte-to-write", |ring| just(ring, Part::Write(BUFFERS, 1)), Fate::Answered),
    attack(
        "random-bytes",
        |ring| {
            let hash = |n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes();
            let bytes: Vec<u8> = (0..1024).flat_map(hash).collect();
            ring.ram().write(BUFFERS, &bytes).unwrap();
            ring.add(&[Part::Read(BUFFERS, 4096), Part::Write(BUFFERS + 0x2000, 4096)]);
        },
        Fate::Answered,
    ),
    attack(
        "all-ones",
        |ring| {
            ring.ram().write(BUFFERS, &[0xff; 4096]).unwrap();
            ring.add(&[Part::Read(BUFFERS, 4096), Part::Write(BUFFERS + 0x2000, 4096)]);
        },
        Fate::Answered,
    ),
    attack(
        "as-many-descriptors-as-there-are",
        |ring| {
            let parts = vec![Part::Read(BUFFERS, 1); usize::from(ring.size())];
            ring.add(&parts);
        },
        Fate::Answered,
    ),
    Attack {
        name: "an-indirect-table-of-a-thousand-buffers",
        features: INDIRECT,
        act: |ring| {
            let parts = vec![Part::Write(BUFFERS, 0x1000); 1000];
            ring.add_indirect(TABLE, &parts);
        },
        fate: Fate::Answered,
    },
    attack(
        "flags-without-meaning",
        |ring| one(ring, Descriptor { flags: 0xfff8 | DESC_WRITE, ..descriptor(0, 0xffff) }),
        Fate::Answered,
    ),
    Attack {
        name: "event-indices-of-nowhere",
        features: EVENT_IDX,
        act: |ring| {
            ring.set_used_event(0x7777);
            ring.add(&[Part::Write(BUFFERS, 8)]);
        },
        fate: Fate::Answered,
    },
];

/// Does it, and sees what comes of it.
pub(crate) fn run(mut scene: Scene, queue: u16, attack: &Attack) {
    let index = usize::from(queue);
    let before = scene.rings[index].used_index();
    (attack.act)(&mut scene.rings[index]);
    scene.notify(queue);
    let used = scene.rings[index].used_index().wrapping_sub(before);
    let broken = scene.status() & 64 != 0;
    match attack.fate {
        Fate::Returned => {
            assert_eq!((used, broken), (1, false));
            assert_eq!(scene.rings[index].take_used().map(|(_, written)| written), Some(0));
        }
        Fate::Broken => {
            assert_eq!((used, broken), (0, true), "used, and whether a reset is needed");
            scene.notify(queue);
            assert_eq!(scene.rings[index].used_index(), before, "it stays so");
        }
        Fate::Answered => {
            let kept = scene.kind.keeps(queue) && used == 0;
            assert!(!broken && (used == 1 || kept), "{used} used, needs a reset: {broken}");
        }
        Fate::Survived => {}
    }
    scene.check();
}
