//! Records that are numbered and summed up, each acknowledged when a flush says that it is durable.

use std::fs::{File, OpenOptions};
use std::io::{Error, Result, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Bytes of a record: a block of the disk.
const RECORD: usize = 4096;

/// A disk with records: number `n`, from 1 on, is at block `n`.
pub(crate) struct Records {
    disk: File,
    count: u64,
    memory: Vec<u8>,
}

impl Records {
    pub(crate) fn open(path: &str) -> Result<Self> {
        let mut options = OpenOptions::new();
        let mut disk = options.read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
        let count = disk.seek(SeekFrom::End(0))? / RECORD as u64;
        Ok(Self { disk, count, memory: vec![0; 2 * RECORD] })
    }

    /// Looks for all records up to `acknowledged`, and for what comes behind them; the last one.
    ///
    /// # Errors
    /// One that was acknowledged is not there.
    pub(crate) fn check(&mut self, acknowledged: u64) -> Result<u64> {
        let mut last = 0;
        for number in 1..self.count {
            let block = block(&mut self.memory);
            self.disk.read_exact_at(block, number * RECORD as u64)?;
            if *block == *record(number) {
                last = number;
            } else if number <= acknowledged {
                return Err(Error::other(format!(
                    "record {number} of {acknowledged} is not there"
                )));
            } else {
                break;
            }
        }
        Ok(last)
    }

    /// Writes and acknowledges records from `first` on, for as long as there is room.
    pub(crate) fn write_from(&mut self, first: u64) -> Result<()> {
        for number in first.max(1)..self.count {
            let block = block(&mut self.memory);
            block.copy_from_slice(&record(number));
            self.disk.write_all_at(block, number * RECORD as u64)?;
            self.disk.sync_data()?;
            println!("RECORDS: durable {number}.");
        }
        Ok(())
    }
}

/// The aligned block in a memory of two.
fn block(memory: &mut [u8]) -> &mut [u8] {
    let start = memory.as_ptr().align_offset(RECORD);
    memory.get_mut(start..start + RECORD).unwrap_or_default()
}

/// What is in a record: its number, what the number makes, and a sum of it all.
fn record(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut words = vec![number];
    words.extend(
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        })
        .take(RECORD / 8 - 2),
    );
    words.push(words.iter().fold(0, |sum: u64, word| sum.rotate_left(1) ^ word));
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
