//! The recordings of boots: how large they are, and how long playing one takes.

use std::io::Cursor;
use std::path::Path;
use std::time::Instant;

use trapline_machine::record::replay::{Options, replay};

use crate::goal;

const REPETITIONS: usize = 10;
/// A recording of fewer accesses is mostly the heads of its chunks, a fifth of a second each, and its map:
/// what an access takes is no goal there.
const LARGE: u64 = 10_000;
/// Bytes an access in a file, and milliseconds of a replay.
const MOST_BYTES: f64 = 3.0;
const MOST_MS: f64 = 10.0;

/// Prints a line a recording; whether the goals are met.
pub(crate) fn measure() -> bool {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    println!(
        "\n{:<18} {:>9} {:>9} {:>8} {:>9} {:>9}",
        "recording", "accesses", "bytes", "each", "ms", "ns each"
    );
    let (mut small, mut fast) = (true, true);
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        let mut least_ms = f64::MAX;
        let mut accesses = 0;
        for _ in 0..REPETITIONS {
            let begin = Instant::now();
            let verdict = replay(Cursor::new(&bytes), &Options::default()).unwrap();
            least_ms = least_ms.min(begin.elapsed().as_secs_f64() * 1e3);
            assert_eq!(verdict.difference, None, "{}", path.display());
            accesses = verdict.accesses;
        }
        let each = bytes.len() as f64 / accesses as f64;
        println!(
            "{:<18} {accesses:>9} {:>9} {each:>8.2} {least_ms:>9.2} {:>9.0}",
            path.file_stem().unwrap().to_string_lossy(),
            bytes.len(),
            least_ms * 1e6 / accesses as f64
        );
        small &= each <= MOST_BYTES || accesses < LARGE;
        fast &= least_ms <= MOST_MS;
    }
    println!();
    let small = goal("at most 3 bytes an access in the file of a boot with 10,000 or more", small);
    goal("a boot is played in 10 ms", fast) && small
}
