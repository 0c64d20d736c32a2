//! What the guest's processor says of itself: what KVM supports on this host, with the numbers
//! that differ from vCPU to vCPU put right. All vCPUs are cores of one package, one thread each.

use core::arch::x86_64::{__cpuid, CpuidResult};
use core::ops::RangeInclusive;

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::VcpuFd;

use super::emulated;
use crate::vm::Vm;
use crate::{Error, Irqchip, Kvm};

/// The processor model of a VM.
pub(crate) struct CpuModel(Vec<kvm_cpuid_entry2>);

/// Who is asked about.
#[derive(Clone, Copy)]
struct Place {
    apic_id: u32,
    vcpus: u32,
    /// Whether the local APIC's deadline timer is there.
    tsc_deadline: bool,
}

impl CpuModel {
    /// Everything KVM supports and does right, passed through.
    pub(crate) fn of(kvm: &Kvm) -> Result<Self, Error> {
        let cpuid = kvm
            .fd
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::ioctl("name the processor features it supports"))?;
        let mut entries = cpuid.as_slice().to_vec();
        if emulated::by_tcg() {
            emulated::without_xsave(&mut entries);
        }
        name(&mut entries, __cpuid);
        Ok(Self(entries))
    }

    /// Makes vCPU `index` of `vm` this model.
    pub(crate) fn give_to(&self, fd: &VcpuFd, vm: &Vm, index: u32) -> Result<(), Error> {
        let tsc_deadline = vm.caps().tsc_deadline && vm.options().irqchip != Irqchip::None;
        let mut entries = self.0.clone();
        place(&mut entries, Place { apic_id: index, vcpus: vm.options().vcpus, tsc_deadline });
        let what = "set the processor's features";
        let cpuid = CpuId::from_entries(&entries).map_err(|error| Error::Ioctl {
            what,
            reason: std::io::Error::other(format!("{error:?}")),
        })?;
        fd.set_cpuid2(&cpuid).map_err(Error::ioctl(what))
    }
}

/// Whether the host's processor shows VMX (Intel SDM volume 2, CPUID leaf 1, ECX bit 5) or SVM
/// (AMD APM volume 3, leaf 0x8000_0001, ECX bit 2).
pub(crate) fn hardware_virtualization() -> bool {
    let extended = __cpuid(0x8000_0000).eax >= 0x8000_0001;
    let extended = if extended { __cpuid(0x8000_0001).ecx } else { 0 };
    shows_virtualization(__cpuid(1).ecx, extended)
}

/// The same, by ECX of the two leaves.
fn shows_virtualization(basic: u32, extended: u32) -> bool {
    basic & 1 << 5 != 0 || extended & 1 << 2 != 0
}

/// The leaves with the processor's name, 16 bytes each (AMD APM volume 3, leaf 0x8000_0002; Intel
/// SDM volume 2, "processor brand string").
const BRAND_STRING: RangeInclusive<u32> = 0x8000_0002..=0x8000_0004;

/// Gives the processor the name of the host's, which KVM leaves empty. A host without one has none
/// to give.
fn name(entries: &mut Vec<kvm_cpuid_entry2>, host: impl Fn(u32) -> CpuidResult) {
    let told = |entry: &kvm_cpuid_entry2| {
        BRAND_STRING.contains(&entry.function) && [entry.eax, entry.ebx] != [0; 2]
    };
    if entries.iter().any(told) || host(0x8000_0000).eax < *BRAND_STRING.end() {
        return;
    }
    entries.retain(|entry| !BRAND_STRING.contains(&entry.function));
    entries.extend(BRAND_STRING.map(|function| {
        let CpuidResult { eax, ebx, ecx, edx } = host(function);
        kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
    }));
}

/// Puts the entries right for one vCPU (Intel SDM volume 2 and AMD APM volume 3, CPUID).
fn place(entries: &mut Vec<kvm_cpuid_entry2>, at: Place) {
    let amd = is_amd(entries);
    let leaves = |entries: &[kvm_cpuid_entry2], leaf| entries.iter().any(|e| e.function == leaf);
    let extended: Vec<u32> =
        [0xb, 0x1f].into_iter().filter(|leaf| leaves(entries, *leaf)).collect();
    // AMD's extended topology (0x8000_0026) would name the host's; without it guests use 0xb.
    entries.retain(|entry| !matches!(entry.function, 0xb | 0x1f | 0x8000_0026));
    for entry in entries.iter_mut() {
        adjust(entry, at, amd);
    }
    for leaf in extended {
        entries.extend(extended_topology(leaf, at));
    }
}

fn adjust(entry: &mut kvm_cpuid_entry2, at: Place, amd: bool) {
    let Place { apic_id, vcpus, tsc_deadline } = at;
    let last = vcpus.saturating_sub(1);
    match entry.function {
        1 => {
            let logical = vcpus.checked_next_power_of_two().unwrap_or(255).min(255);
            entry.ebx = entry.ebx & 0xffff | logical << 16 | apic_id << 24;
            set(&mut entry.ecx, 31, true); // a hypervisor is present
            set(&mut entry.ecx, 24, tsc_deadline);
            set(&mut entry.edx, 28, vcpus > 1); // the logical count in EBX is valid
        }
        // Caches, Intel's leaf and AMD's: how many vCPUs share one, and how many cores there are.
        4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { last.min(0xfff) } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
            if entry.function == 4 {
                entry.eax |= last.min(0x3f) << 26;
            }
        }
        0x8000_0001 if amd => set(&mut entry.ecx, 1, vcpus > 1), // CmpLegacy: cores, no threads
        0x8000_0008 if amd => {
            entry.ecx = entry.ecx & !0xf0ff | last.min(0xff) | id_bits(vcpus) << 12;
        }
        0x8000_001e if amd => {
            entry.eax = apic_id;
            entry.ebx = apic_id & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// Leaf 0xb or 0x1f: a level of threads, a level of cores, the end.
fn extended_topology(leaf: u32, at: Place) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, kind: u32, shift: u32, count: u32| kvm_cpuid_entry2 {
        function: leaf,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        edx: at.apic_id,
        ..Default::default()
    };
    [level(0, 1, 0, 1), level(1, 2, id_bits(at.vcpus), at.vcpus), level(2, 0, 0, 0)]
}

/// How many bits of APIC id tell this many vCPUs apart.
fn id_bits(vcpus: u32) -> u32 {
    vcpus.checked_next_power_of_two().map_or(32, u32::trailing_zeros)
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = *register & !(1 << bit) | u32::from(on) << bit;
}

/// "AuthenticAMD" or "HygonGenuine", by the first four letters in EBX.
fn is_amd(entries: &[kvm_cpuid_entry2]) -> bool {
    let amd = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];
    entries.iter().any(|entry| entry.function == 0 && amd.contains(&entry.ebx))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..Default::default() }
    }

    fn host(vendor: &[u8; 4]) -> Vec<kvm_cpuid_entry2> {
        let mut entries = vec![
            leaf(0, 0),
            leaf(1, 0),
            leaf(4, 0),
            leaf(4, 3),
            leaf(0xb, 0),
            leaf(0xb, 1),
            leaf(0x8000_0008, 0),
            leaf(0x8000_001e, 0),
        ];
        entries[0].ebx = u32::from_le_bytes(*vendor);
        entries[1].ebx = 0x7f40_0800;
        entries[2].eax = 0xfc00_c121; // level 1
        entries[3].eax = 0xfc1f_c163; // level 3
        entries[5].ebx = 96;
        entries
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries.iter().find(|e| (e.function, e.index) == (function, index)).unwrap()
    }

    #[test]
    fn each_vcpu_has_its_own_place_in_one_package() {
        let mut entries = host(b"Genu");
        place(&mut entries, Place { apic_id: 5, vcpus: 6, tsc_deadline: true });
        let basic = find(&entries, 1, 0);
        assert_eq!(basic.ebx, 0x0508_0800, "id 5, room for 8, the host's low half");
        assert_eq!(basic.ecx, 1 << 31 | 1 << 24);
        assert_eq!(basic.edx, 1 << 28);
        assert_eq!(find(&entries, 4, 0).eax, 5 << 26 | 0x121, "nobody shares the first level");
        assert_eq!(find(&entries, 4, 3).eax, 5 << 26 | 5 << 14 | 0x163, "all share the third");
        let cores = find(&entries, 0xb, 1);
        assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (3, 6, 0x201, 5));
        assert_eq!(entries.iter().filter(|entry| entry.function == 0xb).count(), 3);
    }

    /// A processor whose leaf `function` reads `function`, up to `last`.
    fn processor(last: u32) -> impl Fn(u32) -> CpuidResult {
        move |function| CpuidResult {
            eax: if function == 0x8000_0000 { last } else { function },
            ebx: 1,
            ecx: 2,
            edx: 3,
        }
    }

    #[test]
    fn the_processor_has_the_hosts_name_where_kvm_has_none() {
        let mut entries = vec![leaf(0x8000_0000, 0), leaf(0x8000_0003, 0), leaf(0x8000_0005, 0)];
        name(&mut entries, processor(0x8000_0008));
        let functions: Vec<u32> = entries.iter().map(|entry| entry.function).collect();
        let wanted = [0x8000_0000, 0x8000_0005, 0x8000_0002, 0x8000_0003, 0x8000_0004];
        assert_eq!(functions, wanted);
        let third = find(&entries, 0x8000_0004, 0);
        assert_eq!([third.eax, third.ebx, third.ecx, third.edx], [0x8000_0004, 1, 2, 3]);

        let mut nameless = vec![leaf(0x8000_0000, 0)];
        name(&mut nameless, processor(0x8000_0001));
        assert_eq!(nameless.len(), 1);

        let mut told = vec![leaf(0x8000_0002, 0)];
        told[0].eax = 7;
        name(&mut told, processor(0x8000_0008));
        assert_eq!((told.len(), told[0].eax), (1, 7), "KVM's word counts");
    }

    #[test]
    fn one_vcpu_is_no_multiprocessor() {
        let mut entries = host(b"Genu");
        place(&mut entries, Place { apic_id: 0, vcpus: 1, tsc_deadline: false });
        let basic = find(&entries, 1, 0);
        assert_eq!((basic.ebx, basic.edx), (0x0001_0800, 0));
        assert_eq!(find(&entries, 0xb, 1).eax, 0);
    }

    #[test]
    fn amd_leaves_are_filled_on_amd_only() {
        for (vendor, amd) in [(b"Auth", true), (b"Hygo", true), (b"Genu", false)] {
            let mut entries = host(vendor);
            entries.push(leaf(0x8000_0001, 0));
            place(&mut entries, Place { apic_id: 5, vcpus: 6, tsc_deadline: true });
            let cores = if amd { 3 << 12 | 5 } else { 0 };
            assert_eq!(find(&entries, 0x8000_0008, 0).ecx, cores);
            assert_eq!(find(&entries, 0x8000_001e, 0).eax, if amd { 5 } else { 0 });
            assert_eq!(
                find(&entries, 0x8000_0001, 0).ecx,
                if amd { 1 << 1 } else { 0 },
                "CmpLegacy"
            );
        }
        // A register that is not the vendor's name, or another leaf's, is none.
        let mut entries = host(b"Genu");
        entries[1].ebx = u32::from_le_bytes(*b"Auth");
        assert!(!is_amd(&entries));
    }

    /// An entry of a host that has every bit set, or none, as vCPU 5 of so many sees it.
    fn adjusted(function: u32, bits: u32, at: Place) -> [u32; 4] {
        let mut entry =
            kvm_cpuid_entry2 { eax: bits, ebx: bits, ecx: bits, edx: bits, ..leaf(function, 0) };
        adjust(&mut entry, at, true);
        [entry.eax, entry.ebx, entry.ecx, entry.edx]
    }

    #[test]
    fn only_what_differs_from_vcpu_to_vcpu_is_changed() {
        const ALL: u32 = u32::MAX;
        let six = Place { apic_id: 5, vcpus: 6, tsc_deadline: false };
        let one = Place { apic_id: 0, vcpus: 1, tsc_deadline: true };
        let no_deadline = !(1 << 24);
        assert_eq!(adjusted(1, ALL, six), [ALL, 0x0508_ffff, no_deadline, ALL]);
        assert_eq!(adjusted(1, 0, one), [0, 0x0001_0000, 1 << 31 | 1 << 24, 0]);
        assert_eq!(adjusted(1, ALL, one), [ALL, 0x0001_ffff, ALL, !(1 << 28)]);
        assert_eq!(adjusted(4, ALL, six), [5 << 26 | 5 << 14 | 0x3fff, ALL, ALL, ALL]);
        assert_eq!(
            adjusted(4, ALL << 5, six),
            [ALL << 5, ALL << 5, ALL << 5, ALL << 5],
            "no cache"
        );
        assert_eq!(adjusted(0x8000_001d, ALL, six), [5 << 14 | 0x3fff, ALL, ALL, ALL]);
        let second_level = 2 << 5 | 1;
        assert_eq!(adjusted(0x8000_001d, second_level, six)[0], second_level);
        assert_eq!(adjusted(0x8000_0001, ALL, one), [ALL, ALL, !(1 << 1), ALL]);
        assert_eq!(adjusted(0x8000_0008, ALL, six)[2], 0xffff_0f00 | 3 << 12 | 5);
        assert_eq!(adjusted(0x8000_001e, ALL, six), [5, 5, 0, ALL]);
        assert_eq!(adjusted(7, ALL, six), [ALL; 4], "of no vCPU in particular");
    }

    /// Fields narrower than what is to be in them have the most they can have.
    #[test]
    fn more_vcpus_than_a_field_has_room_for_fill_it() {
        let many = |apic_id, vcpus| Place { apic_id, vcpus, tsc_deadline: false };
        assert_eq!(adjusted(1, 0, many(0x105, 300))[1], 255 << 16 | 0x05 << 24);
        assert_eq!(adjusted(1, 0, many(0, u32::MAX))[1], 255 << 16);
        let third_level = 3 << 5 | 3;
        let caches = adjusted(4, third_level, many(0, 5000))[0];
        assert_eq!(caches, 0x3f << 26 | 0xfff << 14 | third_level);
        assert_eq!(adjusted(0x8000_0008, 0, many(0, 300))[2], 9 << 12 | 0xff);
        assert_eq!(adjusted(0x8000_001e, 0, many(0x105, 300))[..2], [0x105, 0x05]);
        assert_eq!((id_bits(1), id_bits(2), id_bits(3), id_bits(u32::MAX)), (0, 1, 2, 32));
    }

    #[test]
    fn the_topology_is_threads_and_cores_in_the_leaves_the_host_has() {
        let mut entries = host(b"Genu");
        entries.push(leaf(0x1f, 0));
        entries.push(leaf(0x8000_0026, 0));
        place(&mut entries, Place { apic_id: 1, vcpus: 4, tsc_deadline: true });
        for function in [0xb, 0x1f] {
            let levels: Vec<_> = (0..3).map(|index| find(&entries, function, index)).collect();
            let told = levels.iter().map(|e| [e.eax, e.ebx, e.ecx, e.edx, e.flags]);
            let indexed = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
            assert_eq!(
                told.collect::<Vec<_>>(),
                [[0, 1, 0x100, 1, indexed], [2, 4, 0x201, 1, indexed], [0, 0, 2, 1, indexed]]
            );
        }
        assert!(entries.iter().all(|entry| entry.function != 0x8000_0026));
        let mut without = host(b"Genu");
        without.retain(|entry| entry.function != 0xb);
        place(&mut without, Place { apic_id: 1, vcpus: 4, tsc_deadline: true });
        assert!(without.iter().all(|entry| !matches!(entry.function, 0xb | 0x1f)));
    }

    #[test]
    fn virtualization_is_intels_bit_or_amds() {
        assert!(shows_virtualization(1 << 5, 0) && shows_virtualization(0, 1 << 2));
        assert!(!shows_virtualization(!(1 << 5), !(1 << 2)));
        // Linux hides what firmware has switched off, and shows nothing that is not there.
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let shown = flags.split_whitespace().any(|word| matches!(word, "vmx" | "svm"));
        assert!(hardware_virtualization() || !shown);
    }
}
