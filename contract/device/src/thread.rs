//! Threads of the program's own.

use std::thread::Builder;

/// Bytes of stack that a thread has: less than the 2 MiB of a huge page. With those of 2 MiB that
/// Rust gives, a host that hands out huge pages unasked (`transparent_hugepage/enabled`: `always`)
/// makes one of a whole stack, where the addresses happen to fit, when its first page is touched.
pub const THREAD_STACK_LEN: usize = 1 << 20;

/// A builder of threads called `name`, for whatever lives as long as a machine.
pub fn thread_builder(name: impl Into<String>) -> Builder {
    Builder::new().name(name.into()).stack_size(THREAD_STACK_LEN)
}
