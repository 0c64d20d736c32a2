//! The generic timer's virtual counter.

#![expect(unsafe_code, reason = "reads a register of the processor")]

/// Reads the virtual counter (Arm ARM, `CNTVCT_EL0`), which Linux lets processes read.
#[expect(clippy::unnecessary_wraps, reason = "other architectures may have none")]
pub(crate) fn counter() -> Option<fn() -> u64> {
    Some(read)
}

fn read() -> u64 {
    let count;
    // SAFETY: it reads a counter, and touches neither memory nor flags.
    unsafe {
        core::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack, preserves_flags));
    }
    count
}
