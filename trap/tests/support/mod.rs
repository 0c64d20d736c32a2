//! Handlers and a source that remember what they were asked.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses its own part")]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use trapline::{
    CoalescedWrite, Delivery, EventFd, Handler, IoCx, Offload, Registry, Rules, Size, Space, Zone,
};

/// Reads as the offset's low byte in every byte, remembers writes.
pub struct Recorder {
    pub rules: Rules,
    pub log: Mutex<Vec<(&'static str, u64, usize, u64)>>,
}

impl Recorder {
    pub fn new() -> Arc<Self> {
        Self::with_rules(Rules::ANY)
    }

    pub fn with_rules(rules: Rules) -> Arc<Self> {
        Arc::new(Self { rules, log: Mutex::new(Vec::new()) })
    }

    pub fn take(&self) -> Vec<(&'static str, u64, usize, u64)> {
        std::mem::take(&mut *self.log.lock())
    }
}

impl Handler for Recorder {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let value = (0..8).fold(0, |value, i| value | ((offset + i) & 0xff) << (8 * i));
        self.log.lock().push(("read", offset, size.bytes(), value & size.ones()));
        value
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        self.log.lock().push(("write", offset, size.bytes(), value));
    }

    fn rules(&self) -> Rules {
        self.rules
    }
}

/// A source that takes coalesced zones and doorbells, and can be told to fail.
#[derive(Default)]
pub struct Source {
    pub zones: Mutex<Vec<(Space, u64, u64, bool)>>,
    pub queue: Mutex<VecDeque<CoalescedWrite>>,
    pub refuse_at: Mutex<Option<u64>>,
}

impl Source {
    /// What the kernel does with a write: queues it if a zone covers it.
    pub fn guest_write(&self, space: Space, addr: u64, bytes: &[u8]) -> bool {
        let end = addr + bytes.len() as u64;
        let covered = self.zones.lock().iter().any(|&(zone_space, base, len, coalesced)| {
            coalesced && zone_space == space && base <= addr && end <= base + len
        });
        if covered {
            let mut data = [0; 8];
            data[..bytes.len()].copy_from_slice(bytes);
            let len = u8::try_from(bytes.len()).unwrap();
            self.queue.lock().push_back(CoalescedWrite { space, addr, len, data });
        }
        covered
    }
}

fn key(zone: &Zone) -> (Space, u64, u64, bool) {
    (zone.space, zone.addr, zone.len, matches!(zone.delivery, Delivery::Coalesced))
}

impl Offload for Source {
    fn install(&self, zone: &Zone) -> Result<bool, String> {
        if *self.refuse_at.lock() == Some(zone.addr) {
            return Err("No space left on device".to_owned());
        }
        self.zones.lock().push(key(zone));
        Ok(true)
    }

    fn remove(&self, zone: &Zone) {
        let mut zones = self.zones.lock();
        let at = zones.iter().position(|other| *other == key(zone));
        zones.remove(at.expect("only what was installed, with its real size and bus, is removed"));
    }

    fn queued(&self) -> bool {
        !self.queue.lock().is_empty()
    }

    fn pop(&self) -> Option<CoalescedWrite> {
        self.queue.lock().pop_front()
    }
}

pub fn read(registry: &Registry, space: Space, addr: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0x66; len];
    registry.handle(0).read(space, addr, &mut data);
    data
}

/// Two ends of one eventfd: to look at, and to ring.
pub fn event() -> (OwnedFd, EventFd) {
    let flags = rustix::event::EventfdFlags::NONBLOCK;
    let fd = rustix::event::eventfd(0, flags).unwrap();
    (fd.try_clone().unwrap(), EventFd::new(fd))
}

/// How often it was rung since it was asked last.
pub fn rung(event: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(event, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
}
