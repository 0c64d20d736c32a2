//! What a guest does with a shared folder, for tests (`xtask/src/shares.rs`).
//!
//! `fileload FOLDER posix NAMES` makes the calls of POSIX, one rule after another, one of them with a
//! folder of so many names, and says how many hold;
//! `fileload FOLDER random COUNT SEED` reads, writes, truncates and opens a file at random, and
//! compares it with what it has to be after each step, as fsx does.

#![forbid(unsafe_code)]

mod model;
mod posix;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().ok();
    let said =
        match words[..] {
            [folder, "posix", names] => match names.parse() {
                Ok(names) => posix::check(Path::new(folder), names),
                Err(_) => Err("NAMES is a number".to_owned()),
            },
            [folder, "random", count, seed] => match (number(count), number(seed)) {
                (Some(count), Some(seed)) => model::compare(Path::new(folder), count, seed),
                _ => Err("COUNT and SEED are numbers".to_owned()),
            },
            _ => Err("usage: fileload FOLDER posix NAMES, or fileload FOLDER random COUNT SEED"
                .to_owned()),
        };
    match said {
        Ok(text) => {
            println!("FILELOAD: {text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            println!("FILELOAD: failed: {text}");
            ExitCode::FAILURE
        }
    }
}
