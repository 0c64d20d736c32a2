//! Any virtio device over any transport, under a driver that does whatever bytes the fuzzer finds:
//! `cargo +nightly fuzz run virtio_driver`. The first byte is the transport, the second the device.

#![no_main]
#![forbid(unsafe_code)]

#[path = "../../devices/virtio/tests/hostile/machine.rs"]
mod machine;
#[path = "../../devices/virtio/tests/hostile/storm.rs"]
mod storm;
#[path = "../../devices/virtio/tests/hostile/callers.rs"]
mod callers;
#[path = "../../devices/virtio/tests/hostile/victims.rs"]
mod victims;
#[path = "../../devices/virtio/tests/hostile/wire.rs"]
mod wire;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| storm::suffer(bytes));
