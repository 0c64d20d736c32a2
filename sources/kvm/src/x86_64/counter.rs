//! The time-stamp counter.

#![expect(unsafe_code, reason = "reads a register of the processor")]

use core::arch::x86_64::{__cpuid, _rdtsc};

/// Reads the time-stamp counter, where it goes at one rate whatever the processor does (invariant TSC:
/// AMD APM volume 3, CPUID leaf `0x8000_0007`, EDX bit 8; Intel SDM volume 3, 19.17.1).
pub(crate) fn counter() -> Option<fn() -> u64> {
    let there = __cpuid(0x8000_0000).eax >= 0x8000_0007;
    (there && __cpuid(0x8000_0007).edx & 1 << 8 != 0).then_some(read)
}

fn read() -> u64 {
    // SAFETY: it reads a counter. Every processor that KVM runs on has it, and Linux lets processes
    // read it unless they ask for a signal instead (PR_SET_TSC), which we do not.
    unsafe { _rdtsc() }
}
