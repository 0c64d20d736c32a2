//! What a client can have of the host is bounded, and nothing it says is too absurd.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![forbid(unsafe_code)]

mod storm;
mod support;

use std::fs;

use proptest::test_runner::{Config, TestRunner};
use support::errno::*;
use support::{Client, ROOT};
use trapline_ninep::kind;
use trapline_testkit::ninep::Field::{Str, U32, U64};

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// One test, as it counts the descriptors of the process.
#[test]
fn fids_are_bounded_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let before = descriptors();
    let client = Client::new(dir.path());
    // Copies of one file are one descriptor.
    for fid in 1..2000 {
        client.walk(ROOT, fid, &[]).unwrap();
    }
    assert!(descriptors() < before + 10);
    let mut last = Ok(0);
    let mut fid = 2000;
    while last.is_ok() && fid < 100_000 {
        last = client.walk(ROOT, fid, &[]);
        fid += 1;
    }
    assert_eq!(last, Err(ENFILE));
    client.clunk(5).unwrap();
    client.walk(ROOT, 5, &["d"]).unwrap();
    client.open(5, 0).unwrap();
    client.server.reset();
    assert!(descriptors() < before + 5);
    drop(client);
    assert_eq!(descriptors(), before);
    attributes();
    let config = Config { cases: 256, failure_persistence: None, ..Config::default() };
    let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..4096);
    TestRunner::new(config)
        .run(&bytes, |bytes| {
            storm::suffer(&bytes);
            Ok(())
        })
        .unwrap();
    assert_eq!(descriptors(), before, "whatever it was");
}

/// Values of extended attributes that are on their way do not pile up.
fn attributes() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    let begin = |fid| {
        client.walk(ROOT, fid, &[]).unwrap();
        client.ask(kind::TXATTRCREATE, &[U32(fid), Str(b"user.a"), U64(65_536), U32(0)])
    };
    let count = (1..1000).take_while(|fid| begin(*fid).is_ok()).count();
    assert_eq!(count, 64);
    assert_eq!(begin(2000), Err(ENOMEM));
    // They are set when they are complete, or not at all.
    assert_eq!(client.clunk(1), Err(EINVAL));
    begin(2001).unwrap();
}
