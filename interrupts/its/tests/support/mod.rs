//! A driver's view of an ITS with its redistributors and RAM.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

#[path = "../../examples/replay/ram.rs"]
pub mod ram;

use gicv3_its::command::{Command, RdBase};
use gicv3_its::redist::Redistributors;
use gicv3_its::{
    Blocked, CollectionId, Config, DeviceId, EventId, GuestMemory, Its, Lpi, Progress, Target,
};
use ram::Ram;

pub const QUEUE: u64 = 0x4200_0000;
pub const DEVICES: u64 = 0x4210_0000;
pub const COLLECTIONS: u64 = 0x4220_0000;
pub const CONFIG: u64 = 0x4230_0000;
pub const PENDING: u64 = 0x4240_0000;
pub const ITT: u64 = 0x4250_0000;
pub const VALID: u64 = 1 << 63;

/// A machine whose driver has set everything up.
#[derive(Clone)]
pub struct Bench {
    pub its: Its,
    pub redist: Redistributors,
    pub ram: Ram,
    /// Where the driver writes its next command.
    pub next: u64,
    /// Bytes of the queue.
    pub bytes: u64,
}

impl Bench {
    /// Nothing set up: as after reset.
    pub fn reset(config: Config) -> Self {
        let its = Its::new(config).unwrap();
        Self { its, redist: Redistributors::of(4), ram: Ram::default(), next: 0, bytes: 4096 }
    }

    /// Tables, a queue of one page, LPIs on everywhere, all configured as enabled.
    pub fn new(config: Config) -> Self {
        let mut bench = Self::reset(config);
        bench.ram.write(CONFIG, &vec![0xa3; 57_344]).unwrap();
        for cpu in 0..4 {
            bench.redistributor(cpu, 0x70, CONFIG | 15);
            bench.redistributor(cpu, 0x78, PENDING + u64::from(cpu) * 0x1_0000);
            bench.redistributor(cpu, 0, 1);
        }
        let _idle = bench.write(0x100, VALID | DEVICES | 0x200);
        let _idle = bench.write(0x108, VALID | COLLECTIONS | 0x200);
        let _idle = bench.write(0x80, VALID | QUEUE);
        let _idle = bench.write32(0, 1);
        bench
    }

    pub fn write(&mut self, offset: u64, value: u64) -> Progress {
        self.its.write(offset, 8, value, &self.ram, &mut self.redist.sink(&self.ram))
    }

    pub fn write32(&mut self, offset: u64, value: u64) -> Progress {
        self.its.write(offset, 4, value, &self.ram, &mut self.redist.sink(&self.ram))
    }

    pub fn read(&mut self, offset: u64, size: u32) -> u64 {
        self.its.read(offset, size, &self.ram, &mut self.redist.sink(&self.ram))
    }

    pub fn process(&mut self, budget: u32) -> Progress {
        self.its.process(&self.ram, &mut self.redist.sink(&self.ram), budget)
    }

    /// A redistributor register, as wide as it is.
    pub fn redistributor(&mut self, cpu: u32, offset: u64, value: u64) {
        let size = if offset == 0 { 4 } else { 8 };
        self.redist.write(Target(cpu), offset, size, value, &self.ram);
    }

    /// Puts commands into the queue's memory without announcing them.
    pub fn queue(&mut self, commands: &[Command]) {
        for command in commands {
            self.queue_raw(command.encode());
        }
    }

    pub fn queue_raw(&mut self, words: [u64; 4]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.ram.write(QUEUE + self.next, &bytes).unwrap();
        self.next = (self.next + 32) % self.bytes;
    }

    /// Queues, announces and waits.
    pub fn run(&mut self, commands: &[Command]) {
        self.queue(commands);
        let mut progress = self.write32(0x88, self.next);
        while progress == Progress::More {
            progress = self.process(64);
        }
    }

    /// A number in RAM.
    pub fn number(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.ram.read(address, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub fn signal(&mut self, device: u32, data: u32) -> Result<(Lpi, Target), Blocked> {
        let mut sink = self.redist.sink(&self.ram);
        self.its.msi(&self.ram, &mut sink, DeviceId(device), 4, data)
    }

    pub fn pending(&self, cpu: u32) -> Vec<u32> {
        let all = self.redist.all_pending(Target(cpu), &self.ram);
        all.iter().map(|lpi| lpi.intid()).collect()
    }

    pub fn next_lpi(&mut self, cpu: u32) -> Option<u32> {
        self.redist.next(Target(cpu), &self.ram).map(|next| next.lpi.intid())
    }

    /// Everything a driver or a device could tell apart.
    pub fn observe(&self) -> (Vec<u64>, Vec<Vec<u32>>) {
        let offsets = [0, 0x80, 0x88, 0x90, 0x100, 0x108, 0x110];
        let mut values: Vec<u64> = offsets
            .iter()
            .map(|offset| self.its.peek(*offset, if *offset == 0 { 4 } else { 8 }))
            .collect();
        for device in 0..8 {
            for event in 0..8 {
                let to = self.its.translate(&self.ram, DeviceId(device), EventId(event));
                values.push(to.map_or(u64::MAX, |(lpi, target)| {
                    u64::from(target.0) << 32 | u64::from(lpi.intid())
                }));
            }
        }
        (values, (0..4).map(|cpu| self.pending(cpu)).collect())
    }
}

pub fn mapd(device: u32, size: u8) -> Command {
    let itt = ITT + u64::from(device) * 0x1000;
    Command::Mapd { device: DeviceId(device), size, itt, valid: true }
}

pub fn unmapd(device: u32) -> Command {
    Command::Mapd { device: DeviceId(device), size: 0, itt: 0, valid: false }
}

pub fn mapc(collection: u16, target: u64) -> Command {
    Command::Mapc { collection: CollectionId(collection), target: RdBase(target), valid: true }
}

pub fn mapti(device: u32, event: u32, intid: u32, collection: u16) -> Command {
    let (device, event) = (DeviceId(device), EventId(event));
    Command::Mapti { device, event, intid, collection: CollectionId(collection) }
}

pub fn int(device: u32, event: u32) -> Command {
    Command::Int { device: DeviceId(device), event: EventId(event) }
}

pub const SYNC: Command = Command::Sync { target: RdBase(0) };
