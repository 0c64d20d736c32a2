//! The ownership argument of the module `queue`, run through every interleaving of the accesses two
//! vCPUs make. The crate has no lock and no atomic of its own, so the only operations whose order
//! matters are those of the mutex a VMM puts an ITS behind, which is loom's here.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};

use gicv3_its::{Config, Progress};
use loom::sync::{Arc, Mutex};
use loom::thread;
use support::{Bench, SYNC, VALID, int, mapc, mapd, mapti};

/// A machine behind the one lock of its command queue, as a VMM shares it between vCPUs.
fn shared(budget: u32) -> Arc<Mutex<Bench>> {
    let mut bench = Bench::new(Config { budget, ..Config::new() });
    bench.run(&[mapc(0, 0), mapd(0, 2), mapti(0, 0, 8192, 0)]);
    Arc::new(Mutex::new(bench))
}

/// Runs `body` once for each interleaving, and makes sure that there was more than one.
fn every_interleaving(body: impl Fn() + Sync + Send + 'static) {
    let count = std::sync::Arc::new(AtomicU32::new(0));
    let counted = std::sync::Arc::clone(&count);
    loom::model(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        body();
    });
    let count = count.load(Ordering::Relaxed);
    assert!(count > 3, "only {count} interleavings were run");
    println!("{count} interleavings");
}

/// A vCPU that queues a command, announces it in an access of its own, and runs slices until
/// nothing is left, letting go of the lock between any two of these.
fn vcpu(machine: &Mutex<Bench>, command: gicv3_its::command::Command) {
    machine.lock().unwrap().queue(&[command]);
    let mut progress = {
        let mut machine = machine.lock().unwrap();
        let next = machine.next;
        machine.write32(0x88, next)
    };
    while progress == Progress::More {
        progress = machine.lock().unwrap().process(1);
    }
}

#[test]
fn two_writers_execute_every_command_once_and_lose_no_wake_up() {
    every_interleaving(|| {
        let machine = shared(1);
        let before = machine.lock().unwrap().its.counters().commands;
        let other = Arc::clone(&machine);
        let second = thread::spawn(move || vcpu(&other, mapti(0, 1, 8193, 0)));
        vcpu(&machine, int(0, 0));
        second.join().unwrap();
        let machine = machine.lock().unwrap();
        assert_eq!(machine.its.counters().commands - before, 2, "each exactly once");
        assert_eq!(machine.its.counters().all_refused(), 0);
        assert_eq!(machine.its.peek(0x90, 8), machine.its.peek(0x88, 8), "nothing was left");
    });
}

#[test]
fn a_writer_of_cbaser_can_not_come_between() {
    every_interleaving(|| {
        let machine = shared(1);
        let other = Arc::clone(&machine);
        let second = thread::spawn(move || {
            let mut progress = other.lock().unwrap().write32(0, 0);
            progress = match progress {
                Progress::Idle => other.lock().unwrap().write(0x80, VALID | 0x4300_0000),
                progress => progress,
            };
            assert_eq!(progress, Progress::Idle);
        });
        vcpu(&machine, int(0, 0));
        second.join().unwrap();
        let machine = machine.lock().unwrap();
        let (read, write) = (machine.its.peek(0x90, 8), machine.its.peek(0x88, 8));
        // Either the command ran in the old ring, or it was announced to the new one, disabled.
        assert!(read == 0 && (write == 0 || !machine.its.enabled()));
    });
}

#[test]
fn a_signal_after_discard_and_sync_finds_nothing() {
    every_interleaving(|| {
        let machine = shared(1);
        let other = Arc::clone(&machine);
        let second = thread::spawn(move || {
            let discard = gicv3_its::command::Command::Discard {
                device: gicv3_its::DeviceId(0),
                event: gicv3_its::EventId(0),
            };
            vcpu(&other, discard);
            vcpu(&other, SYNC);
        });
        let (done, result) = {
            let mut machine = machine.lock().unwrap();
            let done = machine.its.counters().commands >= 5;
            (done, machine.signal(0, 0))
        };
        assert!(!done || result.is_err());
        second.join().unwrap();
        assert!(machine.lock().unwrap().signal(0, 0).is_err());
    });
}

#[test]
fn a_writer_that_leaves_its_commands_to_a_reader_of_creadr_loses_none() {
    every_interleaving(|| {
        let machine = shared(1);
        let before = machine.lock().unwrap().its.counters().commands;
        let other = Arc::clone(&machine);
        // Announces three commands and never looks again: its slice executes one.
        let second = thread::spawn(move || {
            let mut machine = other.lock().unwrap();
            machine.queue(&[mapti(0, 1, 8193, 0), int(0, 1), SYNC]);
            let next = machine.next;
            let _left = machine.write32(0x88, next);
        });
        // A driver that polls, with nobody to help it.
        loop {
            let mut machine = machine.lock().unwrap();
            let (read, write) = (machine.read(0x90, 4), machine.its.peek(0x88, 8));
            if read == write && machine.its.counters().commands > before {
                break;
            }
            drop(machine);
            thread::yield_now();
        }
        second.join().unwrap();
        let machine = machine.lock().unwrap();
        assert_eq!(machine.its.counters().commands - before, 3, "each exactly once");
        assert_eq!(machine.pending(0), [8193]);
    });
}
