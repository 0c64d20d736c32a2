//! Replays recordings of an ITS and its driver, and compares.
//!
//! `replay FILE.jsonl...` prints `N checks, M differences` and ends with status 1 unless M is 0.

mod machine;
mod player;
mod ram;
mod record;

use std::process::ExitCode;

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("usage: replay FILE.jsonl...");
        return ExitCode::from(2);
    }
    let mut total = player::Report::default();
    for file in &files {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::from(2);
            }
        };
        match player::play(&text) {
            Ok(report) => {
                report.lines.iter().for_each(|line| eprintln!("{file}:{line}"));
                total.checks += report.checks;
                total.differences += report.differences;
            }
            Err(error) => {
                eprintln!("{file}:{error}");
                return ExitCode::from(2);
            }
        }
    }
    println!("{} checks, {} differences", total.checks, total.differences);
    ExitCode::from(u8::from(total.differences > 0))
}
