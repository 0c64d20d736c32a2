//! A host that QEMU's TCG emulates, virtualization and all. It lets a guest set XCR0 without an
//! exit, whatever KVM asked of it. KVM so never learns what the guest set: it restores what was
//! there before with every entry, and `CPUID` leaf 0xd names the size for that. A guest that takes
//! XSAVE at its word loses registers (Linux 5.10), warns (6.12) or panics (7.2). So there, the
//! guest's processor has none, nor anything that needs it.

use core::arch::x86_64::__cpuid;

use kvm_bindings::kvm_cpuid_entry2;

/// What TCG calls itself in `CPUID` leaf 0x4000_0000.
const TCG: [u8; 12] = *b"TCGTCGTCGTCG";

/// Whether the host is emulated by QEMU's TCG.
pub(crate) fn by_tcg() -> bool {
    let under_hypervisor = __cpuid(1).ecx & 1 << 31 != 0;
    let words = __cpuid(0x4000_0000);
    let name = [words.ebx, words.ecx, words.edx].map(u32::to_le_bytes);
    under_hypervisor && name.as_flattened() == TCG
}

/// Takes XSAVE away, and what needs it (Intel SDM volume 1, chapter 13, and volume 2, CPUID; AMD APM
/// volume 3, CPUID leaf 0x8000_0001).
pub(crate) fn without_xsave(entries: &mut Vec<kvm_cpuid_entry2>) {
    // The states it saves, and two that describe AMX and AVX10.
    entries.retain(|entry| !matches!(entry.function, 0xd | 0x1d | 0x1e | 0x24));
    for entry in entries {
        match (entry.function, entry.index) {
            // FMA, XSAVE, OSXSAVE, AVX, F16C.
            (1, _) => entry.ecx &= !bits(&[12, 26, 27, 28, 29]),
            (7, 0) => {
                // AVX2, MPX, AVX-512.
                entry.ebx &= !bits(&[5, 14, 16, 17, 21, 26, 27, 28, 30, 31]);
                // AVX-512, protection keys, shadow stacks, VAES, VPCLMULQDQ.
                entry.ecx &= !bits(&[1, 3, 4, 6, 7, 9, 10, 11, 12, 14]);
                // AVX-512, AMX.
                entry.edx &= !bits(&[2, 3, 8, 22, 23, 24, 25]);
            }
            // All of it is about AVX and AMX, but for a few that nothing emulates.
            (7, 1) => (entry.eax, entry.edx) = (0, 0),
            // XOP, LWP, FMA4.
            (0x8000_0001, _) => entry.ecx &= !bits(&[11, 15, 16]),
            _ => {}
        }
    }
}

fn bits(numbers: &[u32]) -> u32 {
    numbers.iter().fold(0, |mask, number| mask | 1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_needs_xsave_and_all_else_is() {
        let all = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        let mut entries = vec![all(1, 0), all(7, 0), all(0xd, 0), all(0xd, 1), all(0x8000_0001, 0)];
        entries.extend([0x1d, 0x1e, 0x24].map(|function| all(function, 0)));
        entries.extend([all(7, 1), all(7, 2), all(0x14, 0)]);
        without_xsave(&mut entries);
        let told: Vec<_> =
            entries.iter().map(|e| (e.function, e.index, [e.eax, e.ebx, e.ecx, e.edx])).collect();
        let ones = u32::MAX;
        let wanted = [
            (1, 0, [ones, ones, !0x3c00_1000, ones]),
            // All but AVX2, MPX and AVX-512; what belongs to them; and AMX.
            (7, 0, [ones, !0xdc23_4020, !0x5eda, !0x03c0_010c]),
            (0x8000_0001, 0, [ones, ones, !0x1_8800, ones]),
            (7, 1, [0, ones, ones, 0]),
            (7, 2, [ones; 4]),
            (0x14, 0, [ones; 4]),
        ];
        assert_eq!(told, wanted);
    }
}
