//! A virtqueue over memory that is made of whatever bytes the fuzzer finds:
//! `cargo +nightly fuzz run virtio_queue`.

#![no_main]
#![forbid(unsafe_code)]

#[path = "../../devices/virtio/tests/hostile/raw_queue.rs"]
mod raw_queue;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| raw_queue::suffer(bytes));
