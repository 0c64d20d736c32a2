//! No image at all.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Request;

/// How long it is until it is given another size: as long as QEMU's.
const LEN: u64 = 1 << 30;

/// Zeroes to read from.
const ZEROES: [u8; 4096] = [0; 4096];

/// Reads as zeroes, and forgets what is written.
#[derive(Debug)]
pub(crate) struct Null {
    len: AtomicU64,
}

impl Null {
    pub(crate) fn new() -> Self {
        Self { len: AtomicU64::new(LEN) }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    pub(crate) fn resize(&self, len: u64) {
        self.len.store(len, Ordering::Relaxed);
    }

    /// Does a request, which nothing can keep from succeeding.
    pub(crate) fn perform(request: &mut Request) {
        match request {
            Request::Read { buffers, .. } => while buffers.fill_from(&ZEROES) > 0 {},
            Request::Write { buffers, .. } => buffers.consume(buffers.len()),
            // There is nothing to be got at.
            Request::Flush | Request::Discard(_) | Request::Erase(_) | Request::WriteZeroes(_) => {}
        }
    }
}
