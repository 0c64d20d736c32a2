//! What a guest does with its disks, for benches (`xtask/src/bench/disk.rs`) and tests.
//!
//! `diskload FILE LOAD COUNT` makes COUNT requests of one kind, and says how many nanoseconds they
//! took. It rests before and after, while its host looks at the counters of the machine.
//!
//! `diskload FILE records-check COUNT` looks whether the first COUNT records are there, and
//! `records-write` goes on writing behind those that are.

mod aio;
mod records;

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aio::Batch;
use records::Records;

/// Bytes of a request.
const BLOCK: usize = 4096;
/// What blocks are made of. A program that writes has something to write: memory that nobody has written
/// is one page of zeroes, of which Linux looks up each request's by a longer way.
const DATA: u8 = 0x5a;
/// Requests at a time of the loads that keep the disk busy.
const DEPTH: usize = 32;
/// How long the host has to look at its counters.
const REST: Duration = Duration::from_millis(400);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("DISKLOAD: failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The kinds of requests.
#[derive(Clone, Copy)]
enum Load {
    /// None: what it costs to say so.
    Nothing,
    /// Blocks at random offsets, one after the other.
    Single { write: bool },
    /// The same, [`DEPTH`] at a time.
    Batch { write: bool },
    /// A block, and then a flush.
    Synced,
}

impl Load {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "nothing" => Self::Nothing,
            "read-1" => Self::Single { write: false },
            "read-32" => Self::Batch { write: false },
            "write-1" => Self::Single { write: true },
            "write-32" => Self::Batch { write: true },
            "sync" => Self::Synced,
            _ => return None,
        })
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let usage = || Error::new(ErrorKind::InvalidInput, "usage: diskload FILE LOAD COUNT");
    let [path, name, count] = arguments else { return Err(usage()) };
    let count: u64 = count.parse().map_err(|_| usage())?;
    if let "records-check" | "records-write" = name.as_str() {
        let mut records = Records::open(path)?;
        let last = records.check(count)?;
        println!("RECORDS: all {count} are there, and {last} altogether");
        return if name == "records-write" { records.write_from(last + 1) } else { Ok(()) };
    }
    let load = Load::named(name).ok_or_else(usage)?;
    let mut disk = Disk::open(path)?;
    // The paths of both kernels and of the VMM are in the caches, and all memory is there.
    disk.make(load, count / 10)?;
    println!("DISKLOAD: begin {name}");
    sleep(REST);
    let start = Instant::now();
    disk.make(load, count)?;
    let elapsed = start.elapsed().as_nanos();
    println!("DISKLOAD: end {name} {count} {elapsed}");
    sleep(REST);
    Ok(())
}

/// A disk, or a file, opened past this system's page cache.
struct Disk {
    file: File,
    blocks: u64,
    offsets: Offsets,
    batch: Batch,
    memory: Vec<u8>,
}

impl Disk {
    fn open(path: &str) -> Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
        let blocks = file.seek(SeekFrom::End(0))? / BLOCK as u64;
        if blocks == 0 {
            return Err(Error::other("the disk has no room for a request"));
        }
        let memory = vec![DATA; 2 * BLOCK];
        let batch = Batch::new(DEPTH, BLOCK)?;
        Ok(Self { file, blocks, offsets: Offsets(0x9e37_79b9_7f4a_7c15), batch, memory })
    }

    fn make(&mut self, load: Load, count: u64) -> Result<()> {
        match load {
            Load::Nothing => Ok(()),
            Load::Single { write } => (0..count).try_for_each(|_| self.single(write)),
            Load::Batch { write } => {
                let mut offsets = Vec::with_capacity(DEPTH);
                for _ in 0..count / DEPTH as u64 {
                    offsets.clear();
                    offsets.extend((0..DEPTH).map(|_| self.offsets.next(self.blocks)));
                    self.batch.run(&self.file, write, &offsets)?;
                }
                Ok(())
            }
            Load::Synced => (0..count).try_for_each(|_| {
                self.single(true)?;
                self.file.sync_data()
            }),
        }
    }

    fn single(&mut self, write: bool) -> Result<()> {
        let offset = self.offsets.next(self.blocks);
        let start = self.memory.as_ptr().align_offset(BLOCK);
        let block = self.memory.get_mut(start..start + BLOCK).unwrap_or_default();
        match write {
            true => self.file.write_all_at(block, offset),
            false => self.file.read_exact_at(block, offset),
        }
    }
}

/// Offsets of blocks, in the same order in every run: George Marsaglia's xorshift.
struct Offsets(u64);

impl Offsets {
    fn next(&mut self, blocks: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % blocks * BLOCK as u64
    }
}
