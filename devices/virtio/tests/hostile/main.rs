//! Drivers that break the rules, over every transport, against every device and each of its queues:
//! the device has the status that it should, the others do not notice, and after a reset it works.
//!
//! A test is called `transport::device::queue::attack` or `transport::device::registers::act`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can not go on fails")]
#![forbid(unsafe_code)]

mod callers;
mod machine;
mod raw_queue;
mod registers;
mod rings;
mod storm;
mod victims;
mod wire;

use libtest_mimic::{Arguments, Failed, Trial};
use proptest::test_runner::{Config, TestRunner};
use trapline_virtio::pci::PciInterface;

use machine::Registers;
use registers::ACTS;
use rings::ATTACKS;
use victims::{Kind, Scene};

/// Every feature but those of rings, which an attack chooses.
const OF_DEVICES: u64 = 0xff | 1 << 32;

fn main() {
    let mut trials = Vec::new();
    for behind in Registers::ALL {
        for kind in Kind::ALL {
            let of = format!("{}::{}", name(behind), kind.name());
            // What is behind a ring does not depend on which of two doors a function has.
            let queues = if behind.interface() == Some(PciInterface::Transitional) {
                &[]
            } else {
                kind.queues()
            };
            for queue in queues {
                trials.extend(ATTACKS.iter().map(|attack| {
                    let name = format!("{of}::queue{queue}::{}", attack.name);
                    Trial::test(name, move || {
                        let scene = Scene::new(behind, kind, OF_DEVICES | attack.features);
                        rings::run(scene, *queue, attack);
                        Ok(())
                    })
                }));
            }
            let acts = ACTS.iter().filter(|act| act.legacy || !behind.are_legacy());
            trials.extend(acts.map(|act| {
                Trial::test(format!("{of}::registers::{}", act.name), move || {
                    registers::run(behind, kind, act);
                    Ok(())
                })
            }));
        }
    }
    trials.push(Trial::test("any-driver", || at_random(storm::suffer)));
    trials.push(Trial::test("any-memory-of-a-queue", || at_random(raw_queue::suffer)));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn name(registers: Registers) -> &'static str {
    match registers {
        Registers::Pci => "pci",
        Registers::PciLegacy => "pci-legacy",
        Registers::TransitionalModern => "pci-transitional-modern",
        Registers::TransitionalLegacy => "pci-transitional-legacy",
        Registers::Mmio => "mmio",
        Registers::MmioLegacy => "mmio-legacy",
    }
}

/// What the fuzz targets do, with random bytes.
fn at_random(suffer: fn(&[u8])) -> Result<(), Failed> {
    let config = Config { cases: 256, failure_persistence: None, ..Config::default() };
    let bytes = proptest::collection::vec(proptest::num::u8::ANY, 3..2048);
    TestRunner::new(config).run(&bytes, |bytes| {
        suffer(&bytes);
        Ok(())
    })?;
    Ok(())
}
