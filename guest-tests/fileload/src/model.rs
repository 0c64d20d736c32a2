//! A file and what has to be in it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The longest that the file becomes.
const LENGTH_MAX: u64 = 256 << 10;
/// The most bytes of a step.
const STEP_MAX: u64 = 64 << 10;

/// Numbers that are the same for the same seed (Marsaglia: Xorshift RNGs).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

struct Model {
    path: PathBuf,
    file: File,
    bytes: Vec<u8>,
    random: Random,
}

/// Makes `count` steps. What it says at the end, or what was wrong.
pub(crate) fn compare(folder: &Path, count: u64, seed: u64) -> Result<String, String> {
    let path = folder.join("random");
    let begun = open(&path, true).map(|file| Model {
        path,
        file,
        bytes: Vec::new(),
        random: Random(seed | 1),
    });
    let mut model = begun.map_err(|error| error.to_string())?;
    for step in 0..count {
        let what = model.random.below(10);
        model.step(what).map_err(|error| format!("step {step}, kind {what}: {error}"))?;
    }
    model.verify().map_err(|error| format!("at the end: {error}"))?;
    std::fs::remove_file(&model.path).map_err(|error| error.to_string())?;
    Ok(format!("{count} random steps"))
}

fn open(path: &Path, new: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(new).truncate(new).open(path)
}

impl Model {
    fn step(&mut self, what: u64) -> io::Result<()> {
        match what {
            0..=3 => self.write(),
            4..=6 => self.read(),
            7 => self.truncate(),
            8 => self.reopen(),
            _ => self.verify(),
        }
    }

    /// Somewhere in the file, or behind its end.
    fn range(&mut self) -> (u64, u64) {
        let start = self.random.below(LENGTH_MAX);
        let len = self.random.below(STEP_MAX.min(LENGTH_MAX - start)) + 1;
        (start, len)
    }

    fn write(&mut self) -> io::Result<()> {
        let (start, len) = self.range();
        let fill = self.random.below(256).to_le_bytes()[0];
        let data: Vec<u8> = (0..len).map(|n| fill.wrapping_add(n.to_le_bytes()[0])).collect();
        self.file.write_all_at(&data, start)?;
        let (start, end) = (index(start), index(start + len));
        self.bytes.resize(self.bytes.len().max(end), 0);
        if let Some(part) = self.bytes.get_mut(start..end) {
            part.copy_from_slice(&data);
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let (start, len) = self.range();
        let mut data = vec![0; index(len)];
        let mut got = 0;
        while let Some(rest) = data.get_mut(got..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, start + got as u64)? {
                0 => break,
                some => got += some,
            }
        }
        let rest = self.bytes.get(index(start)..).unwrap_or_default();
        let expected = rest.get(..index(len).min(rest.len())).unwrap_or_default();
        same(data.get(..got).unwrap_or_default(), expected)
    }

    fn truncate(&mut self) -> io::Result<()> {
        let len = self.random.below(LENGTH_MAX);
        self.file.set_len(len)?;
        self.bytes.resize(index(len), 0);
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        if self.random.below(2) == 0 {
            self.file.sync_all()?;
        }
        self.file = open(&self.path, false)?;
        Ok(())
    }

    /// All of it, by another open file.
    fn verify(&self) -> io::Result<()> {
        if self.file.metadata()?.len() != self.bytes.len() as u64 {
            return Err(io::Error::other("the length is another one"));
        }
        same(&std::fs::read(&self.path)?, &self.bytes)
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn same(found: &[u8], expected: &[u8]) -> io::Result<()> {
    if found == expected {
        return Ok(());
    }
    let at = found.iter().zip(expected).position(|(one, other)| one != other);
    let (found, expected) = (found.len(), expected.len());
    Err(io::Error::other(format!("{found} bytes for {expected}, the first other one at {at:?}")))
}
