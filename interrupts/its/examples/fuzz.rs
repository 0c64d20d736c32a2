//! Throws bytes at every register, the queue's memory and the tables, for a while.
//!
//! `fuzz [--seconds N] [--seed N]` prints executions per second. An execution is one register
//! access, signal, or write of the guest to its tables. It must never panic, execute more commands
//! in an access than the budget, or touch memory that is not RAM.

#[path = "replay/ram.rs"]
mod ram;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use gicv3_its::redist::Redistributors;
use gicv3_its::{Config, DeviceId, GuestMemory, Its, MemoryErrors, Sticky, Target};
use ram::Ram;

const PLACES: [u64; 6] =
    [0x4000_0000, 0x4001_0000, 0x4002_0000, 0x4003_0000, 0x4004_0000, 0x4005_0000];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 32) % end
    }

    fn of(&mut self, list: &[u64]) -> u64 {
        let n = usize::try_from(self.below(list.len() as u64)).unwrap_or(0);
        list.get(n).copied().unwrap_or(0)
    }

    /// Anything, with a liking for what means something.
    fn value(&mut self) -> u64 {
        let place = self.of(&PLACES);
        match self.below(8) {
            0 => self.next(),
            1 => place | 1 << 63 | self.below(0x10_0000),
            2 => place | 1 << 63 | 1 << 62 | self.below(0x400),
            3 => place | 15,
            4 => self.below(0x2000) & !31,
            5 => self.below(2),
            6 => 8192 << 16 | self.below(0x100_0000),
            _ => 1 << self.below(64),
        }
    }

    /// A command of sorts.
    fn command(&mut self) -> [u64; 4] {
        let opcode = self.of(&[1, 3, 4, 5, 8, 9, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf]);
        let place = self.of(&PLACES);
        let dw1 = self.below(16) | (8190 + self.below(40)) << 32;
        let dw2 = match opcode {
            8 => place | self.below(2) << 63,
            _ => self.below(5) | self.below(5) << 16 | self.below(2) << 63,
        };
        [opcode | self.below(8) << 32, dw1, dw2, self.below(5) << 16]
    }
}

struct Target0 {
    its: Its,
    redist: Redistributors,
    ram: Ram,
}

/// What a driver would do first, with tables anywhere.
fn setup(random: &mut Random, Target0 { its, redist, ram }: &mut Target0) {
    let shape = random.below(2) << 62 | random.below(3) << 8 | random.below(2);
    let writes = [
        (0, 4, 0),
        (0x100, 8, 1 << 63 | random.of(&PLACES) | shape),
        (0x108, 8, 1 << 63 | random.of(&PLACES) | shape & 0x3ff),
        (0x80, 8, 1 << 63 | random.of(&PLACES)),
        (0, 4, 1),
    ];
    for (offset, size, value) in writes {
        let _left = its.write(offset, size, value, ram, &mut redist.sink(ram));
    }
    for cpu in (0..4).map(Target) {
        for (offset, size, value) in [
            (0, 4, 0),
            (0x70, 8, random.of(&PLACES) | 15),
            (0x78, 8, random.of(&PLACES)),
            (0, 4, 1),
        ] {
            redist.write(cpu, offset, size, value, ram);
        }
    }
    let next = random.below(128) * 32;
    let _left = its.write(0x88, 4, next, ram, &mut redist.sink(ram));
}

fn round(random: &mut Random, machine: &mut Target0) {
    let Target0 { its, redist, ram } = machine;
    let commands = its.counters().commands;
    let size = u32::try_from(random.of(&[1, 2, 4, 4, 4, 8, 8, 8, 3])).unwrap_or(4);
    let cpu = Target(u32::try_from(random.below(5)).unwrap_or(0));
    let its_offset =
        random.of(&[0, 0, 0x80, 0x84, 0x88, 0x88, 0x88, 0x90, 0x100, 0x104, 0x108, 0x10c]);
    let rd_offset = random.of(&[0, 0, 0x14, 0x70, 0x74, 0x78, 0x7c, 0xa0, 0xb0]);
    let value = random.value();
    if random.below(256) == 0 {
        setup(random, machine);
        return;
    }
    match random.below(12) {
        0 => {
            let offset = random.below(0x2_1000);
            its.read(offset, size, ram, &mut redist.sink(ram));
            redist.read(cpu, offset, size);
        }
        1..=3 => {
            let _left = its.write(its_offset, size, value, ram, &mut redist.sink(ram));
        }
        4 => redist.write(cpu, rd_offset, size, value, ram),
        5..=7 => {
            let words = random.command();
            // Mostly where the ITS will look next.
            let slot = match random.below(4) {
                0 => random.of(&PLACES) + random.below(128) * 32,
                _ => (its.peek(0x80, 8) & 0xf_ffff_ffff_f000) + its.peek(0x88, 8),
            };
            for (n, word) in (0u64..).zip(words) {
                let _outside = ram.write(slot + n * 8, &word.to_le_bytes());
            }
            let next = (its.peek(0x88, 8) + 32) & 0xfe0;
            let _left = its.write(0x88, 4, next, ram, &mut redist.sink(ram));
        }
        8 => {
            let address = random.of(&PLACES) + random.below(0x400) * 8;
            let _outside = ram.write(address, &value.to_le_bytes());
        }
        9 => {
            let device = DeviceId(u32::try_from(random.below(9)).unwrap_or(0));
            let data = u32::try_from(random.below(20)).unwrap_or(0);
            let _blocked = its.msi(ram, &mut redist.sink(ram), device, size, data);
        }
        10 => {
            let _left = its.process(ram, &mut redist.sink(ram), 64);
        }
        _ => {
            if let Some(next) = redist.next(cpu, ram) {
                redist.acknowledge(cpu, next.lpi);
            }
        }
    }
    assert!(its.counters().commands - commands <= 64, "an access executed more than its budget");
}

/// A save must be restorable.
fn migrate(machine: &mut Target0) {
    let Target0 { its, redist, ram } = machine;
    if let Ok(state) = its.save(ram, 4) {
        let mut fresh = match Its::new(*its.config()) {
            Ok(fresh) => fresh,
            Err(error) => panic!("{error}"),
        };
        let restored = fresh.restore(&state, ram, &mut redist.sink(ram));
        assert!(restored.is_ok(), "{restored:?}");
        *its = fresh;
    }
}

fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() -> ExitCode {
    let seconds = argument("--seconds", 10);
    let mut random = Random(argument("--seed", 0x9e37_79b9_7f4a_7c15) | 1);
    let start = Instant::now();
    let (mut executions, mut machines, mut done, mut refused) = (0u64, 0u64, 0u64, 0u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        let memory_errors =
            if random.below(4) == 0 { MemoryErrors::Stall } else { MemoryErrors::Skip };
        let sticky = if random.below(4) == 0 { Sticky::Kvm } else { Sticky::Architecture };
        let Ok(its) = Its::new(Config { memory_errors, sticky, ..Config::new() }) else {
            return ExitCode::FAILURE;
        };
        let mut machine = Target0 { its, redist: Redistributors::of(4), ram: Ram::default() };
        for n in 0..20_000u32 {
            round(&mut random, &mut machine);
            if n % 4096 == 4095 {
                migrate(&mut machine);
            }
        }
        executions += 20_000;
        machines += 1;
        done += machine.its.counters().commands;
        refused += machine.its.counters().all_refused();
    }
    let rate = executions / start.elapsed().as_secs().max(1);
    println!("{executions} executions on {machines} machines, {rate} per second");
    println!("{done} commands, {refused} of them refused; no finding");
    ExitCode::SUCCESS
}
