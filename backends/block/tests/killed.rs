//! A process that is killed (SIGKILL) while it writes: whatever it had acknowledged after a flush is
//! in the image. `TRAPLINE_KILLS=200 cargo test -p trapline-block --test killed` kills it 200 times.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on says where"
)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Driver, folder, image, pattern, qemu_img};
use trapline_block::{DiskOptions, Engine, Request};

const RECORD: u64 = 4096;
/// Places for records in an image; a power of two, so that an odd stride meets each once.
const PLACES: u64 = 1 << 14;
/// Says in the environment where the image of the process that is to be killed is.
const IMAGE: &str = "TRAPLINE_KILLED_IMAGE";

fn place(number: u64) -> u64 {
    number * 7919 % PLACES * RECORD
}

fn record(number: u64) -> Vec<u8> {
    let mut record = number.to_le_bytes().to_vec();
    record.extend(pattern(number, RECORD as usize - 8));
    record
}

/// The process that is killed: writes records, some at a time, and says which are durable.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(IMAGE) else { return };
    let mut driver = Driver::new(&DiskOptions::new(path), Engine::Ring);
    let mut out = std::io::stdout();
    for first in (0..PLACES).step_by(3) {
        for number in first..first + 3 {
            driver.write(place(number), &record(number)).unwrap();
        }
        driver.request(Request::Flush).unwrap();
        // In one write, so that no line is half there.
        out.write_all(format!("durable {}\n", first + 2).as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

/// Kills a writer after so many lines; the last record it had acknowledged.
fn kill_after(lines: u64, path: &Path) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "writer", "--nocapture", "--test-threads=1"]).env(IMAGE, path);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while text.matches("durable ").count() < lines as usize {
        assert!(out.read_line(&mut text).unwrap() > 0, "it ended by itself: {text}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it had said besides.
    out.read_to_string(&mut text).unwrap();
    let last =
        text.lines().filter_map(|line| line.split_once("durable ")?.1.parse().ok()).next_back();
    last.unwrap()
}

fn kills() -> u64 {
    std::env::var("TRAPLINE_KILLS").ok().map_or(4, |count| count.parse().unwrap())
}

fn check(path: &Path, last: u64) {
    let mut driver = Driver::new(&DiskOptions::new(path), Engine::Ring);
    for number in 0..=last {
        let found = driver.read(place(number), RECORD as usize).unwrap();
        assert!(found == record(number), "record {number} of {last} is not there");
    }
}

#[test]
fn what_was_acknowledged_after_a_flush_is_in_a_raw_image() {
    let folder = folder();
    for round in 0..kills() {
        let path = image(folder.path(), "a.img", PLACES * RECORD, &[]);
        let last = kill_after(1 + round * 13 % 40, &path);
        check(&path, last);
    }
}

#[test]
fn what_was_acknowledged_after_a_flush_is_in_a_qcow2_image() {
    let folder = folder();
    let path = folder.path().join("a.qcow2");
    let text = path.to_str().unwrap();
    for round in 0..kills() {
        let size = (PLACES * RECORD).to_string();
        let Some((made, said)) = qemu_img(&["create", "-q", "-f", "qcow2", text, &size]) else {
            eprintln!("there is no qemu-img: not tested");
            return;
        };
        assert!(made, "{said}");
        let last = kill_after(1 + round * 13 % 40, &path);
        let (sound, said) = qemu_img(&["check", text]).unwrap();
        assert!(sound || said.contains("leaked clusters") && !said.contains("error"), "{said}");
        check(&path, last);
    }
}
