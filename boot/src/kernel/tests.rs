use std::fs;
use std::path::PathBuf;

use linux_loader::bootparam::boot_params;
use vm_memory::ByteValued;

use super::testelf::{ElfBuilder, note};
use super::*;
use crate::e820::{E820Kind, MemoryMap};

pub(super) const MIB: u64 = 1 << 20;

pub(super) const LAYOUT: X86Layout = X86Layout {
    zero_page: 0x7000,
    start_info: 0x6000,
    cmdline: CmdlinePlace { addr: 0x2_0000, room: 0x1000 },
    gdt: 0x500,
    page_tables: 0x9000,
    stack_top: 0x8ff0,
    bios: Bios {
        code: 0xf_f000,
        ebda: 0x9_fc00,
        pics: [0x20, 0xa0],
        pit: 0x40,
        serial: [0x3f8, 0x2f8, 0x3e8, 0x2e8],
        printers: [0x378, 0x278],
        reset: 0xcf9,
    },
    kernel_floor: MIB,
    device_hole: 0xd000_0000..1 << 32,
};

/// A guest with 64 MiB, and files in a directory.
pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
    pub(super) mem: GuestMem,
    pub(super) map: MemoryMap,
    pub(super) initrd: Option<Vec<u8>>,
    pub(super) cmdline: String,
    pub(super) framebuffer: Option<Framebuffer>,
}

impl Bench {
    pub(super) fn new() -> Self {
        let map = MemoryMap::new()
            .with(0..64 * MIB, E820Kind::Ram)
            .with(0x9_fc00..0xa_0000, E820Kind::Reserved)
            .without(0xa_0000..MIB);
        Self {
            dir: tempfile::tempdir().unwrap(),
            mem: GuestMem::new(&[(0, 64 * MIB)]).unwrap(),
            map,
            initrd: None,
            cmdline: "console=ttyS0 quiet".to_owned(),
            framebuffer: None,
        }
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.dir.path().join("kernel")
    }

    pub(super) fn load(&self, kernel: &[u8]) -> Result<Loaded, Error> {
        fs::write(self.kernel(), kernel).unwrap();
        self.load_file(&self.kernel())
    }

    pub(super) fn load_file(&self, path: &Path) -> Result<Loaded, Error> {
        let initrd = self.initrd.as_deref().map(|bytes| Initrd::Bytes { name: "initrd", bytes });
        self.load_with(path, initrd)
    }

    pub(super) fn load_with(
        &self,
        path: &Path,
        initrd: Option<Initrd<'_>>,
    ) -> Result<Loaded, Error> {
        let request = KernelRequest {
            path,
            initrd,
            cmdline: &self.cmdline,
            layout: &LAYOUT,
            e820: self.map.entries(),
            rsdp: Some(0xe_0000),
            framebuffer: self.framebuffer,
        };
        load_kernel(&self.mem, &request)
    }

    /// The error's text, with the directory taken out.
    pub(super) fn refusal(&self, kernel: &[u8]) -> String {
        let text = self.load(kernel).unwrap_err().to_string();
        text.replace(&format!("{}/", self.dir.path().display()), "")
    }

    pub(super) fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read(addr, &mut bytes).unwrap();
        bytes
    }

    pub(super) fn word(&self, addr: u64, len: usize) -> u64 {
        self.bytes(addr, len).iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
    }

    fn zero_page(&self) -> boot_params {
        let mut page = boot_params::default();
        self.mem.read(LAYOUT.zero_page, page.as_mut_slice()).unwrap();
        page
    }
}

/// A bzImage: 4 setup sectors, then `payload`.
fn bzimage(version: u16, xloadflags: u16, payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 5 * 512];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[4]);
    put(0x1f4, &u32::try_from(payload.len() / 16).unwrap().to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(0x206, &version.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &xloadflags.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x80_0000u32.to_le_bytes());
    put(0x268, &[0xcc; 4]);
    file.extend(payload);
    file
}

pub(super) fn modern() -> Vec<u8> {
    bzimage(0x020f, 1, &[0x90; 0x4000])
}

fn pvh() -> ElfBuilder {
    ElfBuilder {
        loads: vec![(0xffff_ffff_8100_0000, 0x100_0000, 0x3000, vec![0xab; 0x1001])],
        notes: vec![
            note(b"GNU\0", 3, &[1; 20]),
            note(b"Xen\0", 18, &0x100_0040u64.to_le_bytes()),
            note(b"GNU\0", 5, &[2; 8]),
        ],
        ..ElfBuilder::default()
    }
}

#[test]
fn a_modern_bzimage_starts_at_its_64_bit_entry_with_everything_in_the_zero_page() {
    let mut bench = Bench::new();
    bench.initrd = Some(vec![0x5a; 0x1234]);
    let loaded = bench.load(&modern()).unwrap();
    assert_eq!(loaded.protocol, Protocol::Linux64);
    assert_eq!(loaded.kernel, 0x10_0000..0x180_0000, "where it is loaded and unpacks itself");
    let Entry::Long { rip, rsi, rsp, cr3, gdt } = loaded.entry else { panic!("{loaded:?}") };
    assert_eq!((rip, rsi, rsp, cr3), (0x10_0200, 0x7000, 0x8ff0, 0x9000));
    assert!(gdt.segment(crate::entry::CODE_SELECTOR).long);
    assert_eq!(bench.bytes(0x10_0000, 0x4001), [vec![0x90; 0x4000], vec![0]].concat());

    let page = bench.zero_page();
    let header = page.hdr;
    assert_eq!({ header.header }, u32::from_le_bytes(*b"HdrS"));
    assert_eq!(header.type_of_loader, 0xff);
    assert_eq!({ header.kernel_info_offset }, 0, "what follows the header is not copied");
    assert_eq!({ header.init_size }, 0x80_0000);
    assert_eq!({ page.acpi_rsdp_addr }, 0xe_0000);
    assert_eq!(u64::from(header.cmd_line_ptr), LAYOUT.cmdline.addr);
    assert_eq!(bench.bytes(LAYOUT.cmdline.addr, 20), b"console=ttyS0 quiet\0");
    assert_eq!(usize::from(page.e820_entries), bench.map.entries().len());
    let last = page.e820_table[2];
    assert_eq!(({ last.addr }, { last.size }, { last.r#type }), (MIB, 63 * MIB, 1));
    let initrd = loaded.initrd.unwrap();
    assert_eq!(initrd.start, 64 * MIB - 0x2000, "page aligned at the top of RAM");
    assert_eq!(u64::from(header.ramdisk_image), initrd.start);
    assert_eq!({ header.ramdisk_size }, 0x1234);
    assert_eq!(bench.bytes(initrd.start, 0x1234), vec![0x5a; 0x1234]);
}

#[test]
fn a_display_is_in_the_zero_page_as_after_a_vesa_mode_was_set() {
    let mut bench = Bench::new();
    bench.load(&modern()).unwrap();
    assert_eq!(bench.zero_page().screen_info, Default::default());
    let (base, len) = (0xd000_0000, 2 << 20);
    bench.framebuffer = Some(Framebuffer { base, len, width: 640, height: 480, stride: 2560 });
    bench.load(&modern()).unwrap();
    // At the offsets of Linux' include/uapi/linux/screen_info.h.
    let at = |offset, len| bench.word(LAYOUT.zero_page + offset, len);
    assert_eq!(at(0x0f, 1), 0x23, "orig_video_isVGA: VIDEO_TYPE_VLFB");
    assert_eq!((at(0x12, 2), at(0x14, 2), at(0x16, 2)), (640, 480, 32));
    assert_eq!((at(0x18, 4), at(0x1c, 4), at(0x24, 2)), (0xd000_0000, 32, 2560));
    assert_eq!(bench.bytes(LAYOUT.zero_page + 0x26, 8), [8, 16, 8, 8, 8, 0, 8, 24]);
}

#[test]
fn an_older_bzimage_starts_at_its_32_bit_entry() {
    let bench = Bench::new();
    for (version, xloadflags) in [(0x020f, 0), (0x0206, 0xffff)] {
        let loaded = bench.load(&bzimage(version, xloadflags, &[0x90; 64])).unwrap();
        assert_eq!(loaded.protocol, Protocol::Linux32);
        let Entry::Protected { eip, eax: 0, ebx, esi, gdt } = loaded.entry else {
            panic!("{loaded:?}")
        };
        assert_eq!((eip, ebx, esi), (0x10_0000, 0, 0x7000));
        assert!(gdt.segment(crate::entry::CODE_SELECTOR).wide);
    }
}

#[test]
fn a_pvh_kernel_starts_with_its_start_info() {
    let mut bench = Bench::new();
    bench.initrd = Some(vec![0x5a; 0x1000]);
    bench.mem.write(0x100_2fff, &[0xff, 0xee]).unwrap();
    let loaded = bench.load(&pvh().build()).unwrap();
    assert_eq!(loaded.protocol, Protocol::Pvh);
    let Entry::Protected { eip, ebx, esi, .. } = loaded.entry else { panic!("{loaded:?}") };
    assert_eq!((eip, ebx, esi), (0x100_0040, 0x6000, 0));
    assert_eq!(bench.bytes(0x100_1000, 2), [0xab, 0], "the file's bytes, then zeros");
    assert_eq!(bench.bytes(0x100_2fff, 2), [0, 0xee], "and nothing past the segment");

    assert_eq!(bench.word(0x6000, 4), 0x336e_c578);
    assert_eq!(bench.word(0x6004, 4), 1);
    assert_eq!(bench.word(0x600c, 4), 1, "one module");
    let module = bench.word(0x6010, 8);
    assert_eq!(bench.word(0x6018, 8), LAYOUT.cmdline.addr);
    assert_eq!(bench.word(0x6020, 8), 0xe_0000);
    let map = bench.word(0x6028, 8);
    assert_eq!(bench.word(0x6030, 4), bench.map.entries().len() as u64);
    let initrd = loaded.initrd.unwrap();
    assert_eq!(bench.word(module, 8), initrd.start);
    assert_eq!(bench.word(module + 8, 8), 0x1000);
    for (at, entry) in (0..).zip(bench.map.entries()) {
        let line = map + 24 * at;
        let found = (bench.word(line, 8), bench.word(line + 8, 8), bench.word(line + 16, 4));
        assert_eq!(found, (entry.addr, entry.len, entry.kind as u64));
    }
}

#[test]
fn a_vmlinux_without_the_note_starts_at_its_64_bit_entry() {
    let bench = Bench::new();
    let plain = ElfBuilder { notes: vec![note(b"GNU\0", 3, &[1; 20])], ..pvh() };
    let loaded = bench.load(&plain.build()).unwrap();
    assert_eq!(loaded.protocol, Protocol::Vmlinux64);
    let Entry::Long { rip, rsi, .. } = loaded.entry else { panic!("{loaded:?}") };
    assert_eq!((rip, rsi), (0x100_0000, 0x7000));
    let page = bench.zero_page();
    assert_eq!({ page.hdr.header }, u32::from_le_bytes(*b"HdrS"));
    assert_eq!({ page.hdr.boot_flag }, 0xaa55);
    assert_eq!(page.e820_entries, 3);
}

#[test]
fn a_missing_kernel_prints_what_test_suites_match() {
    let refused = Bench::new().load_file(Path::new("/nonexistent/vmlinuz")).unwrap_err();
    assert_eq!(refused.to_string(), "Unable to open kernel /nonexistent/vmlinuz");
}

#[test]
fn a_missing_initrd_is_named() {
    let bench = Bench::new();
    fs::write(bench.kernel(), modern()).unwrap();
    let missing = Path::new("/nonexistent/initrd");
    let request = KernelRequest {
        path: &bench.kernel(),
        initrd: Some(Initrd::File(missing)),
        cmdline: "",
        layout: &LAYOUT,
        e820: bench.map.entries(),
        rsdp: None,
        framebuffer: None,
    };
    let refused = load_kernel(&bench.mem, &request).unwrap_err();
    assert_eq!(refused.to_string(), "Unable to open initrd /nonexistent/initrd");
}

#[test]
fn what_is_no_kernel_is_refused_and_never_run_as_flat_code() {
    let bench = Bench::new();
    let text = "kernel is not a kernel: neither a bzImage (no HdrS magic) nor an ELF file with a \
                PVH note, and without a Multiboot header";
    for file in [&b"\xf4"[..], &[0x90; 4096]] {
        assert_eq!(bench.refusal(file), text);
    }
    assert_eq!(bench.refusal(b""), "kernel is empty; name another file");
}

#[test]
fn what_is_known_to_be_something_else_is_refused_by_its_name() {
    let bench = Bench::new();
    let at = |offset: usize, magic: &[u8]| {
        let mut file = vec![0; 4096];
        file[offset..offset + magic.len()].copy_from_slice(magic);
        file
    };
    let elf = |class, data, machine| {
        let mut file = ElfBuilder { machine, notes: Vec::new(), ..pvh() }.build();
        (file[4], file[5]) = (class, data);
        file
    };
    for (file, told) in [
        (at(0, b"\x1f\x8b\x08"), "a file packed with gzip; unpack it first"),
        (at(0, b"\xfd7zXZ\0"), "a file packed with xz; unpack it first"),
        (at(0x38, b"ARM\x64"), "an Image for arm64; name a kernel for x86-64"),
        (at(0x24, b"\x18\x28\x6f\x01"), "a zImage for 32-bit Arm; name a kernel for x86-64"),
        (elf(2, 1, 183), "an ELF file for arm64; name a kernel for x86-64"),
        (elf(2, 1, 243), "an ELF file for another processor; name a kernel for x86-64"),
        (elf(1, 2, 0), "a big-endian ELF file; name a kernel for x86-64"),
        (at(0, b"070701"), "an initramfs, a cpio archive; name it with -i, and a kernel with -k"),
        (at(0, b"#!/bin/sh\n"), "a script; name the kernel that it starts"),
        (at(510, b"\x55\xaa"), "a disk image or a boot sector; name the kernel that it starts"),
    ] {
        let wanted = format!("kernel is not a kernel for this guest: {told}");
        assert_eq!(bench.refusal(&file), wanted);
    }
    assert!(bench.refusal(&at(0, b"MZ")).contains("without Linux' header"));
}

#[test]
fn kernels_too_old_for_us_are_refused_by_name() {
    let bench = Bench::new();
    assert_eq!(
        bench.refusal(&bzimage(0x0205, 0, &[0x90; 64])),
        "kernel: bzImage protocol 2.05 is too old, 2.06 needed; a BIOS may start it (-f with -k)"
    );
    let mut real = modern();
    real[0x214..0x218].fill(0);
    assert!(bench.refusal(&real).starts_with("kernel starts in real mode only"));
    let mut low = modern();
    low[0x211] = 0;
    assert!(bench.refusal(&low).starts_with("kernel is a zImage"));
}

#[test]
fn truncated_kernels_are_refused_with_the_missing_length() {
    let bench = Bench::new();
    let whole = modern();
    assert_eq!(
        bench.refusal(&whole[..whole.len() - 16]),
        "kernel is truncated, 16 bytes are missing; copy or build it again"
    );
    assert!(bench.refusal(&whole[..0x300]).starts_with("kernel is truncated, "));
    let mut elf = pvh().build();
    assert!(bench.refusal(&elf[..0x40]).starts_with("kernel is a damaged ELF file: "));
    // The first program header's size in the file.
    elf[96..104].copy_from_slice(&0x2000u64.to_le_bytes());
    assert!(bench.refusal(&elf).starts_with("kernel is truncated, "), "{}", bench.refusal(&elf));
}

#[test]
fn a_kernel_that_ends_within_its_last_paragraph_is_whole() {
    let bench = Bench::new();
    // One setup sector, 75 bytes, and syssize 5: the count is rounded up.
    let mut small = bzimage(0x020f, 1, &[]);
    small.truncate(2 * 512);
    small[0x1f1] = 1;
    small[0x1f4] = 5;
    small.extend([0x90; 75]);
    bench.load(&small).unwrap();
    assert_eq!(bench.bytes(0x10_0000, 76), [vec![0x90; 75], vec![0]].concat());
    small.truncate(2 * 512 + 65);
    bench.load(&small).unwrap();
    small.truncate(2 * 512 + 64);
    assert!(bench.refusal(&small).starts_with("kernel is truncated, 16 bytes are missing"));
}

#[test]
fn programs_are_not_taken_for_kernels() {
    let bench = Bench::new();
    let refusal = |builder: ElfBuilder| bench.refusal(&builder.build());
    let plain = || ElfBuilder { notes: Vec::new(), ..pvh() };
    let low = vec![(0x40_0000, 0x40_0000, 0x1000, vec![0x90; 16])];
    for (program, why) in [
        (ElfBuilder { loads: low, entry: 0x40_0000, ..plain() }, "linked like a program"),
        (ElfBuilder { kind: 3, ..plain() }, "not a statically linked image"),
        (ElfBuilder { machine: 3, ..plain() }, "not for x86-64"),
        (ElfBuilder { entry: 0x200_0000, ..plain() }, "in none of its segments"),
    ] {
        let text = refusal(program);
        assert!(text.starts_with("kernel is not a kernel we can enter: an ELF file without"));
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn kernels_that_do_not_fit_say_what_they_need() {
    let mut bench = Bench::new();
    bench.map = MemoryMap::new().with(0..20 * MIB, E820Kind::Ram);
    assert_eq!(
        bench.refusal(&modern()),
        "kernel kernel needs guest RAM from 0x100000 to 0x1800000, which this guest does not \
         have; give it more memory with -m"
    );
    // More memory does not fill a hole.
    let fixed = |addr: u64| {
        let loads = vec![(0xffff_ffff_8000_0000, addr, 0x10_0000, vec![0x90; 16])];
        ElfBuilder { loads, ..pvh() }.build()
    };
    let told = "kernel kernel needs guest RAM from 0xcff80000 to 0xd0080000, where a PC has \
                devices; more memory would not help";
    assert_eq!(bench.refusal(&fixed(0xcff8_0000)), told);
    assert!(bench.refusal(&fixed(0xcff0_0000)).ends_with("give it more memory with -m"));
    let low = vec![(0xffff_ffff_8000_0000, 0x8000, 0x1000, vec![0x90; 16])];
    let low = ElfBuilder { loads: low, ..pvh() }.build();
    assert!(bench.refusal(&low).contains("wants to be loaded at 0x8000, below 0x100000"));
    let huge = vec![(u64::MAX - 0xfff, u64::MAX - 0xfff, 0x2000, vec![0x90; 16])];
    let huge = ElfBuilder { loads: huge, ..pvh() }.build();
    assert!(bench.refusal(&huge).contains("sizes make no sense"));
}

#[test]
fn an_initrd_stays_clear_of_the_kernel_and_below_its_limit() {
    let mut bench = Bench::new();
    bench.initrd = Some(vec![1; 40 << 20]);
    let loaded = bench.load(&modern()).unwrap();
    assert_eq!(loaded.initrd, Some(24 * MIB..64 * MIB), "just fits");
    bench.initrd = Some(vec![1; (40 << 20) + 1]);
    assert_eq!(
        bench.refusal(&modern()),
        "initrd initrd (41 MiB) does not fit into 64 MiB of guest RAM beside the kernel; give \
         the guest more memory with -m"
    );
    bench.initrd = Some(vec![1; 0x1000]);
    let mut limited = modern();
    limited[0x22c..0x230].copy_from_slice(&0x1ff_ffffu32.to_le_bytes());
    assert_eq!(bench.load(&limited).unwrap().initrd, Some(0x1ff_f000..0x200_0000));
}

/// A guest with RAM above 4 GiB, which costs nothing while nobody touches it.
fn above_4_gib() -> Bench {
    let mut bench = Bench::new();
    bench.mem = GuestMem::new(&[(0, 256 * MIB), (1 << 32, 4 << 30)]).unwrap();
    bench.map =
        MemoryMap::new().with(0..256 * MIB, E820Kind::Ram).with(1 << 32..2 << 32, E820Kind::Ram);
    bench
}

#[test]
fn a_kernel_that_takes_an_initrd_anywhere_gets_it_above_its_old_limit() {
    let mut bench = above_4_gib();
    let file = bench.dir.path().join("initrd");
    fs::File::create(&file).unwrap().set_len(100 << 20).unwrap();
    let load = |bench: &Bench, kernel: &[u8]| {
        fs::write(bench.kernel(), kernel).unwrap();
        bench.load_with(&bench.kernel(), Some(Initrd::File(&file)))
    };
    let with_limit = |xloadflags: u16, limit: u32| {
        let mut kernel = bzimage(0x020f, xloadflags, &[0x90; 0x40]);
        kernel[0x22c..0x230].copy_from_slice(&limit.to_le_bytes());
        kernel
    };
    // XLF_CAN_BE_LOADED_ABOVE_4G: first below initrd_addr_max, then below 4 GiB, then anywhere.
    let place = |limit| load(&bench, &with_limit(3, limit)).unwrap().initrd.unwrap();
    assert_eq!(place(0xbff_ffff), 92 * MIB..192 * MIB);
    assert_eq!(place(0x3ff_ffff), 156 * MIB..256 * MIB, "above what initrd_addr_max says");
    // Without the flag the limit is the kernel's, and said to be.
    let told =
        |error: Error| error.to_string().replace(&bench.dir.path().display().to_string(), "");
    let refused = told(load(&bench, &with_limit(1, 0x3ff_ffff)).unwrap_err());
    assert_eq!(
        refused,
        "initrd /initrd (100 MiB) does not fit below 0x4000000, where kernel /kernel wants all of \
         it; use a smaller one or another kernel: more memory would not help"
    );
    bench.map = bench.map.with(24 * MIB..256 * MIB, E820Kind::Reserved);
    let initrd = load(&bench, &with_limit(3, 0x7fff_ffff)).unwrap().initrd.unwrap();
    assert_eq!(initrd, (8 << 30) - 100 * MIB..8 << 30);
    let page = bench.zero_page();
    assert_eq!(({ page.hdr.ramdisk_image }, { page.ext_ramdisk_image }), (0xf9c0_0000, 1));
    assert_eq!(({ page.hdr.ramdisk_size }, { page.ext_ramdisk_size }), (100 << 20, 0));
    // PVH hands Linux 32 bits of the address.
    let refused = load(&bench, &pvh().build()).unwrap_err().to_string();
    assert!(refused.contains("does not fit below 0x100000000"), "{refused}");
}

#[test]
fn an_initrd_avoids_reserved_memory_at_the_top() {
    let mut bench = Bench::new();
    bench.map = bench.map.with(63 * MIB..64 * MIB, E820Kind::AcpiReclaimable);
    bench.initrd = Some(vec![1; 0x1000]);
    let loaded = bench.load(&modern()).unwrap();
    assert_eq!(loaded.initrd, Some(63 * MIB - 0x1000..63 * MIB));
}

#[test]
fn each_kernel_kind_has_its_command_line_limit() {
    let mut bench = Bench::new();
    for kernel in [modern(), pvh().build()] {
        bench.cmdline = "a".repeat(2047);
        bench.load(&kernel).unwrap();
        bench.cmdline.push('a');
        let text = bench.refusal(&kernel);
        assert_eq!(text, "command line is 2048 bytes, kernel takes at most 2047");
    }
}

#[test]
fn a_long_memory_map_is_refused_rather_than_cut() {
    let mut bench = Bench::new();
    bench.map = (0..200).fold(bench.map, |map, at| {
        let start = (1 << 32) + at * 0x2000;
        map.with(start..start + 0x1000, E820Kind::Reserved)
    });
    for kernel in [modern(), pvh().build()] {
        assert!(matches!(bench.load(&kernel), Err(Error::MemoryMapTooLong { .. })));
    }
}

proptest::proptest! {
    #[test]
    fn no_damage_to_a_kernel_file_panics(
        elf in proptest::bool::ANY,
        damage in proptest::collection::vec((0usize..0x700, proptest::num::u8::ANY), 1..8),
        keep in 0usize..0x5000,
    ) {
        let bench = Bench::new();
        let mut kernel = if elf { pvh().build() } else { modern() };
        for (at, value) in damage {
            kernel[at] = value;
        }
        kernel.truncate(keep);
        let _loaded_or_refused = bench.load(&kernel);
    }
}
