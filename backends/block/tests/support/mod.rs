//! A disk's queue as a driver sees it, one request or many at a time.

#![allow(dead_code, reason = "each test program uses some of it")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says where"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Weak};

use rustix::event::{PollFd, PollFlags, poll};
use tempfile::TempDir;
use trapline_block::{Disk, DiskOptions, Engine, Failure, Outcome, Queue, Request};
use trapline_device::{Clock, Wake};
use trapline_guestio::Buffers;
use trapline_guestmem::GuestMem;
use trapline_testkit::TestClock;

pub(crate) const ENGINES: [Engine; 2] = [Engine::Ring, Engine::Threads];

const RAM: u64 = 16 << 20;

/// Nobody: these tests poll by themselves.
struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

pub(crate) struct Driver {
    pub(crate) mem: GuestMem,
    pub(crate) disk: Arc<Disk>,
    pub(crate) queue: Queue,
    pub(crate) clock: TestClock,
    next_tag: u64,
}

impl Driver {
    pub(crate) fn new(options: &DiskOptions, engine: Engine) -> Self {
        Self::of(&Disk::open(options).unwrap(), engine)
    }

    pub(crate) fn of(disk: &Arc<Disk>, engine: Engine) -> Self {
        let clock = TestClock::default();
        let nobody: Weak<Nobody> = Weak::new();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let queue = Queue::new(disk, engine, &shared, nobody).unwrap();
        let mem = GuestMem::new(&[(0, RAM)]).unwrap();
        Self { mem, disk: Arc::clone(disk), queue, clock, next_tag: 0 }
    }

    pub(crate) fn buffers(&self, pieces: &[(u64, usize)]) -> Buffers {
        let mut buffers = Buffers::new(&self.mem);
        pieces.iter().for_each(|&(addr, len)| buffers.push(addr, len).unwrap());
        buffers
    }

    /// One request, and its outcome.
    pub(crate) fn request(&mut self, request: Request) -> Outcome {
        self.next_tag += 1;
        let tag = self.next_tag;
        match self.queue.submit(tag, request) {
            Some(outcome) => outcome,
            None => self.outcomes(1).remove(&tag).unwrap(),
        }
    }

    /// The outcomes of so many requests under way, by tag.
    pub(crate) fn outcomes(&mut self, count: usize) -> BTreeMap<u64, Outcome> {
        self.queue.kick();
        let mut outcomes = BTreeMap::new();
        loop {
            while let Some((tag, outcome)) = self.queue.completed() {
                assert!(outcomes.insert(tag, outcome).is_none(), "{tag} completes once");
            }
            if outcomes.len() >= count {
                return outcomes;
            }
            let ready = self.queue.ready();
            poll(&mut [PollFd::new(&ready, PollFlags::IN)], None).unwrap();
            self.queue.poll();
        }
    }

    pub(crate) fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        // In pieces, as drivers do, neither of which is aligned to anything but a sector.
        let half = len / 2 / 512 * 512;
        let buffers = self.buffers(&[(0x10_0200, half), (0x80_0000, len - half)]);
        self.request(Request::Read { offset, buffers })?;
        let mut data = vec![0; len];
        let (first, second) = data.split_at_mut(half);
        self.mem.read(0x10_0200, first).unwrap();
        self.mem.read(0x80_0000, second).unwrap();
        Ok(data)
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Outcome {
        self.write_as(offset, data, false)
    }

    pub(crate) fn write_as(&mut self, offset: u64, data: &[u8], durable: bool) -> Outcome {
        let half = data.len() / 2 / 512 * 512;
        let buffers = self.buffers(&[(0x10_0200, half), (0x80_0000, data.len() - half)]);
        self.mem.write(0x10_0200, &data[..half]).unwrap();
        self.mem.write(0x80_0000, &data[half..]).unwrap();
        self.request(Request::Write { offset, buffers, durable })
    }
}

/// Bytes that tell where they are.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(len)
    .collect()
}

/// Where an image can be with the host's file system below it, which is no memory: in the target
/// folder.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A raw image of so many bytes, the first of which are `data`.
pub(crate) fn image(folder: &Path, name: &str, len: u64, data: &[u8]) -> PathBuf {
    let path = folder.join(name);
    let file = File::create(&path).unwrap();
    file.write_all_at(data, 0).unwrap();
    file.set_len(len).unwrap();
    path
}

/// Runs `qemu-img`; `None` where there is none.
pub(crate) fn qemu_img(args: &[&str]) -> Option<(bool, String)> {
    let output = Command::new("qemu-img").args(args).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}
