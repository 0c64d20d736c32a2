//! A driver that does what bytes say: any requests, registers and resets, over any transport.
//! Shared by a property test and a fuzz target.

use trapline_device::Size;
use trapline_testkit::virtio::{DESC_INDIRECT, Descriptor};

use crate::machine::Registers;
use crate::victims::{BUFFERS, Kind, PLACES, RAM, Scene, VICTIM};

/// The most actions of one storm.
const ACTIONS: usize = 512;
const VERSION_1: u64 = 1 << 32;

/// Does what the bytes say, and then sees whether everything works.
pub(crate) fn suffer(bytes: &[u8]) {
    let Some(([registers, kind, features], rest)) = bytes.split_first_chunk::<3>() else { return };
    let registers = Registers::ALL[usize::from(*registers) % Registers::ALL.len()];
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    let features = VERSION_1 | u64::from(features & 0x7f) | u64::from(features >> 6) << 28;
    let mut scene = Scene::new(registers, kind, features | 2);
    scene.disk_may_change = true;
    for action in rest.as_chunks::<8>().0.iter().take(ACTIONS) {
        act(&mut scene, features, *action);
        scene.machine.bench.settle();
    }
    scene.check();
}

fn act(scene: &mut Scene, features: u64, action: [u8; 8]) {
    let [what, queue, index, place, len, flags, next, value] = action;
    let queues = scene.rings.len();
    let queue = usize::from(queue) % queues;
    let number = u16::try_from(queue).unwrap_or(0);
    match what % 14 {
        // Descriptors are the larger part of what there is to do wrong.
        0..3 => {
            let ring = &scene.rings[queue];
            let here = [ring.descriptors(), ring.driver(), ring.device()];
            let descriptor = Descriptor {
                addr: address(place, here),
                len: length(len),
                flags: u16::from(flags & 7),
                next: u16::from(next),
            };
            let index = u16::from(index) % ring.size();
            match flags & 0x38 {
                0x38 => ring.describe_at(BUFFERS, index % 64, descriptor),
                // Most of the time a table is one.
                0x30 => ring.describe(
                    index,
                    Descriptor {
                        addr: BUFFERS,
                        len: 16 * u32::from(len % 64),
                        flags: DESC_INDIRECT,
                        next: 0,
                    },
                ),
                _ => ring.describe(index, descriptor),
            }
        }
        3 | 4 => scene.rings[queue].offer(u16::from(index) % 0x88),
        5 => scene.machine.transport(VICTIM).notify(number),
        6 => {
            let at = BUFFERS + u64::from(place) * 16;
            scene.machine.mem.write(at, &action).unwrap();
        }
        7 => {
            let transport = scene.machine.transport(VICTIM);
            transport.config_write(u64::from(index % 64), Size::Byte, value.into());
            let _ = transport.config_read(u64::from(place % 64), Size::Dword);
        }
        8 => scene.clock.step_ns(u64::from(value) << 22),
        13 => scene.frame_comes(),
        11 => scene.add_port(usize::from(place) % PLACES),
        12 => scene.remove_port(usize::from(place) % PLACES),
        9 if value & 7 == 0 => scene.start(features),
        9 => scene.machine.transport(VICTIM).set_status(value & 0xf),
        _ => {
            let ring = &scene.rings[queue];
            ring.set_used_event(u16::from_le_bytes([index, place]));
            ring.set_no_interrupt(value & 1 != 0);
            if value & 0xf0 == 0xf0 {
                ring.set_avail_index(u16::from_le_bytes([len, flags]));
            }
        }
    }
}

/// Places that matter: buffers, the rings themselves, ends of RAM and of addresses.
fn address(place: u8, rings: [u64; 3]) -> u64 {
    match place {
        0..0xc0 => BUFFERS + u64::from(place) * 0x40,
        0xc0..0xf0 => rings[usize::from(place % 3)] + u64::from(place & 0x3c),
        0xf0..0xf8 => RAM - u64::from(place & 7),
        _ => u64::MAX - u64::from(place & 7) * 3,
    }
}

fn length(len: u8) -> u32 {
    match len {
        0..0xe0 => u32::from(len),
        0xe0..0xf8 => u32::from(len) << 8,
        _ => u32::MAX >> (len & 7),
    }
}
