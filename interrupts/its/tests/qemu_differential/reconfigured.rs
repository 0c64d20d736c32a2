//! Commands and signals while a driver turns everything on and off: other queues, other tables in
//! all layouts, other pending tables, fewer INTID bits, accesses of every width.
//!
//! What QEMU does otherwise on purpose or by mistake is kept out: `CWRITER` is cleared after
//! `CBASER`, nothing is enabled without tables, registers get no reserved bits, and all
//! redistributors have as many INTID bits.

use gicv3_its::redist::regs::{CTLR_CES, typer};
use gicv3_its::redist::{RedistConfig, Redistributors};
use gicv3_its::{Config, GuestMemory, Progress, Target};

use crate::qemu::{CPUS, DISTRIBUTOR, ITS, Qemu, REDISTRIBUTORS};
use crate::support::{Bench, CONFIG, PENDING, VALID};
use crate::{Random, available, command};

const STEPS: u64 = 2_000;
const QUEUES: [u64; 2] = [0x4200_0000, 0x4202_0000];
/// Places of tables, each with the layout it has for ever: page size, two levels, pages less one.
const DEVICE_TABLES: [(u64, u64); 4] = [
    (0x4300_0000, 2 << 8),
    (0x4310_0000, 1),
    (0x4320_0000, 1 << 62),
    (0x4330_0000, 1 << 62 | 1 << 8 | 1),
];
const COLLECTION_TABLES: [(u64, u64); 4] = [
    (0x4400_0000, 2 << 8),
    (0x4410_0000, 0),
    (0x4420_0000, 1 << 62),
    (0x4430_0000, 1 << 62 | 2 << 8),
];

/// Both machines, and what their driver remembers.
struct Both {
    qemu: Qemu,
    ours: Bench,
    random: Random,
    queue: u64,
    /// Which pending table each processor has.
    pending: [u64; CPUS as usize],
    lpis: [bool; CPUS as usize],
    id_bits: u64,
    log: Vec<String>,
}

impl Both {
    fn new(seed: u64) -> Self {
        let qemu = Qemu::start("reconfigured");
        let mut ours = Bench::reset(Config { mapd_checks_size_always: true, ..Config::qemu() });
        let typers = (0..CPUS).map(|number| typer(number, CPUS.into()));
        let redist = RedistConfig { features: CTLR_CES, ..RedistConfig::default() };
        ours.redist = Redistributors::new(redist, typers);
        let pending = std::array::from_fn(|cpu| PENDING + cpu as u64 * 0x1_0000);
        let (lpis, log) = ([false; CPUS as usize], Vec::new());
        let random = Random(seed);
        let mut both = Self { qemu, ours, random, queue: 0, pending, lpis, id_bits: 15, log };
        both.qemu.write(DISTRIBUTOR, 4, 2);
        both.qemu.ask(&format!("memset {CONFIG:#x} 57344 0xa3"));
        both.ours.ram.write(CONFIG, &[0xa3; 57_344]).unwrap();
        // Two-level tables have a second level for the first numbers only.
        for (table, flags) in DEVICE_TABLES.into_iter().chain(COLLECTION_TABLES) {
            if flags >> 62 & 1 != 0 {
                both.ram(table, &(VALID | (table + 0x4_0000)).to_le_bytes());
            }
        }
        both.tables();
        both.new_queue();
        both.new_lpi_tables();
        both.enable(true);
        both
    }

    fn ram(&mut self, address: u64, data: &[u8]) {
        self.ours.ram.write(address, data).unwrap();
        self.qemu.ram(address, data);
    }

    fn write(&mut self, offset: u64, size: u32, value: u64) {
        self.log.push(format!("ITS {offset:#x} ({size}) <- {value:#x}"));
        let Bench { its, redist, ram, .. } = &mut self.ours;
        let mut progress = its.write(offset, size, value, ram, &mut redist.sink(ram));
        while progress == Progress::More {
            progress = its.process(ram, &mut redist.sink(ram), 64);
        }
        self.qemu.write(ITS + offset, size, value);
    }

    /// A 64-bit register, whole or by halves in either order.
    fn write64(&mut self, offset: u64, value: u64) {
        let halves = [(offset, value & 0xffff_ffff), (offset + 4, value >> 32)];
        match self.random.below(3) {
            0 => self.write(offset, 8, value),
            1 => halves.into_iter().for_each(|(at, half)| self.write(at, 4, half)),
            _ => halves.into_iter().rev().for_each(|(at, half)| self.write(at, 4, half)),
        }
    }

    fn redistributor(&mut self, cpu: usize, offset: u64, size: u32, value: u64) {
        self.log.push(format!("GICR {cpu} {offset:#x} ({size}) <- {value:#x}"));
        let target = Target(u32::try_from(cpu).unwrap());
        self.ours.redist.write(target, offset, size, value, &self.ours.ram);
        self.qemu.write(REDISTRIBUTORS + cpu as u64 * 0x2_0000 + offset, size, value);
    }

    fn enable(&mut self, enable: bool) {
        self.write(0, 4, enable.into());
    }

    fn tables(&mut self) {
        let attributes = self.random.below(4) << 10 | self.random.below(8) << 59;
        let device = self.random.below(4);
        let collection = self.random.below(4);
        for (offset, tables, n) in
            [(0x100, DEVICE_TABLES, device), (0x108, COLLECTION_TABLES, collection)]
        {
            let (table, flags) = tables[usize::try_from(n).unwrap()];
            self.write64(offset, VALID | table | flags | attributes);
        }
    }

    fn new_queue(&mut self) {
        self.queue = self.random.of(&QUEUES);
        let pages = self.random.of(&[1, 2, 16]);
        self.write64(0x80, VALID | self.queue | (pages - 1));
        self.write(0x88, 8, 0);
        (self.ours.next, self.ours.bytes) = (0, pages * 4096);
    }

    /// LPIs off everywhere, other tables, and on again on most processors.
    fn new_lpi_tables(&mut self) {
        self.id_bits = self.random.of(&[12, 13, 14, 15, 15, 15]);
        for cpu in 0..usize::from(CPUS) {
            self.redistributor(cpu, 0, 4, 0);
        }
        for cpu in 0..usize::from(CPUS) {
            let table = PENDING + cpu as u64 * 0x1_0000 + self.random.below(2) * 0x10_0000;
            self.pending[cpu] = table;
            self.redistributor(cpu, 0x70, 8, CONFIG | self.id_bits);
            self.redistributor(cpu, 0x78, 4, table & 0xffff_ffff);
            self.lpis[cpu] = self.random.below(4) != 0;
            self.redistributor(cpu, 0, 4, self.lpis[cpu].into());
        }
    }

    fn batch(&mut self) {
        let mut batch: Vec<_> =
            (0..=self.random.below(12)).map(|_| command(&mut self.random)).collect();
        // QEMU moves even what few INTID bits do not admit.
        batch.retain(|words| words[0] & 0xff != 0x01 || self.id_bits >= 14);
        // LPIs that few INTID bits do not admit, and a word about the configuration table.
        let high = [0x0a, self.random.below(4) | (16_384 + self.random.below(100)) << 32, 0, 0];
        batch.push(high);
        for cpu in 0..u64::from(CPUS) {
            batch.push([0x09, 0, (16 + cpu) | cpu << 16 | VALID, 0]);
            batch.push([0x0d, 0, 16 + cpu, 0]);
        }
        for words in batch {
            let at = self.queue + self.ours.next;
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.log.push(gicv3_its::command::Command::decode(words).to_string());
            self.ram(at, &bytes);
            self.ours.next = (self.ours.next + 32) % self.ours.bytes;
        }
        let next = self.ours.next;
        match self.random.below(2) {
            0 => self.write(0x88, 4, next),
            _ => self.write(0x88, 8, next),
        }
    }

    fn signal(&mut self) {
        let (event, size) = (self.random.below(8), self.random.of(&[2, 4]));
        self.log.push(format!("signal {event} ({size})"));
        let size = u32::try_from(size).unwrap();
        self.qemu.write(ITS + 0x1_0040, size, event);
        let Bench { its, redist, ram, .. } = &mut self.ours;
        let event = u32::try_from(event).unwrap();
        let _blocked = its.msi(ram, &mut redist.sink(ram), gicv3_its::DeviceId(0), size, event);
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0 => {
                self.enable(false);
                if self.random.below(2) == 0 {
                    self.tables();
                }
                if self.random.below(2) == 0 {
                    self.new_queue();
                }
                if self.random.below(2) == 0 {
                    self.batch();
                    self.signal();
                }
                self.compare();
                self.enable(true);
            }
            1 => self.new_lpi_tables(),
            2 => {
                let cpu = usize::try_from(self.random.below(CPUS.into())).unwrap();
                self.lpis[cpu] = !self.lpis[cpu];
                self.redistributor(cpu, 0, 4, self.lpis[cpu].into());
            }
            3..=5 => self.signal(),
            6 => {
                // Accesses of no register's width, and of no register.
                let offset = self.random.of(&[0, 4, 8, 0x80, 0x88, 0x90, 0x100, 0x108, 0x200]);
                let size = u32::try_from(self.random.of(&[1, 2])).unwrap();
                self.write(offset, size, 1);
                self.write(0, 8, 0);
            }
            _ => self.batch(),
        }
        self.compare();
    }

    /// Registers, and what is pending where.
    fn compare(&mut self) {
        for (offset, size) in [
            (0x80, 8),
            (0x84, 4),
            (0x88, 8),
            (0x90, 8),
            (0x90, 4),
            (0x100, 8),
            (0x10c, 4),
            (0x110, 8),
            (0, 8),
            (0x88, 2),
            (8, 1),
        ] {
            let (ours, theirs) =
                (self.ours.read(offset, size), self.qemu.read_sized(ITS + offset, size));
            self.same(&format!("ITS {offset:#x}"), ours, theirs);
        }
        for cpu in 0..usize::from(CPUS) {
            let target = Target(u32::try_from(cpu).unwrap());
            for (offset, size) in [(0, 4), (0x70, 8), (0x78, 8), (0x7c, 4), (0xa0, 8)] {
                let at = REDISTRIBUTORS + cpu as u64 * 0x2_0000 + offset;
                let theirs = self.qemu.read_sized(at, size);
                let ours = self.ours.redist.read(target, offset, size);
                self.same(&format!("GICR {cpu} {offset:#x}"), ours, theirs);
            }
            let end = 2u32 << self.id_bits;
            let mut theirs = self.qemu.pending_at(self.pending[cpu], 8192);
            theirs.extend(self.qemu.pending_at(self.pending[cpu], 16_384));
            theirs.retain(|lpi| *lpi < end);
            let ours = self.ours.pending(target.0);
            self.same(&format!("pending on {cpu}"), ours, theirs);
        }
        let highest = self.qemu.highest().to_vec();
        for (cpu, theirs) in (0..u32::from(CPUS)).zip(highest) {
            let ours = self.ours.redist.next(Target(cpu), &self.ours.ram);
            let ours = ours.map(|next| (next.lpi.intid(), next.priority));
            self.same(&format!("highest of {cpu}"), ours, theirs);
        }
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, what: &str, ours: T, theirs: T) {
        let recent = self.log.len().saturating_sub(120);
        assert_eq!(
            ours,
            theirs,
            "{what}: ours and QEMU's after\n{}",
            self.log[recent..].join("\n")
        );
    }
}

#[test]
fn tables_queues_and_enable_bits_may_change_at_any_time() {
    if !available("tables_queues_and_enable_bits_may_change_at_any_time") {
        return;
    }
    let mut both = Both::new(0x0bad_cafe_1234_5678);
    let mut set = 0;
    for _ in 0..STEPS {
        both.step();
        set += (0..CPUS).map(|cpu| both.ours.pending(cpu.into()).len()).sum::<usize>();
    }
    let commands = both.ours.its.counters().commands;
    assert!(commands > 10_000, "{commands} commands are too few");
    assert!(set > 2000, "the comparison saw {set} pending LPIs, too few to mean anything");
    println!("{STEPS} steps, {commands} commands, 0 differences, {set} pending LPIs seen");
}
