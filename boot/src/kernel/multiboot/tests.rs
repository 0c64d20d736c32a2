//! Multiboot kernels, as a kernel and its user see them.

use std::fs;

use proptest::prelude::*;

use crate::e820::E820Kind;
use crate::entry::Entry;
use crate::kernel::testelf::{ElfBuilder, note};
use crate::kernel::tests::{Bench, MIB};
use crate::kernel::{Format, Framebuffer, Initrd, Loaded, Protocol};

/// The header's words, with the checksum that belongs to `flags`.
fn header(flags: u32, fields: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002_u32;
    let sum = 0u32.wrapping_sub(magic.wrapping_add(flags));
    let words = [magic, flags, sum].into_iter().chain(fields.iter().copied());
    words.flat_map(u32::to_le_bytes).collect()
}

/// A kernel in an ELF file, linked at 3 GiB and more and loaded at 4 MiB.
fn elf(flags: u32) -> ElfBuilder {
    let mut text = header(flags, &[]);
    text.resize(0x1001, 0xab);
    ElfBuilder {
        entry: 0xc040_0010,
        loads: vec![(0xc040_0000, 0x40_0000, 0x3000, text)],
        ..ElfBuilder::default()
    }
}

/// A flat kernel of 0x400 bytes with its header at 0x20, loaded at 2 MiB.
fn flat(load_end: u32, bss_end: u32) -> Vec<u8> {
    let load = 0x20_0000;
    let mut file = vec![0x90; 0x20];
    file.extend(header(1 << 16, &[load + 0x20, load, load_end, bss_end, load + 0x40]));
    file.resize(0x400, 0xcd);
    file
}

/// Where the kernel starts after the BIOS' instructions, and what it is told.
fn start(bench: &Bench, loaded: &Loaded) -> (u32, u64) {
    assert_eq!(loaded.protocol, Protocol::Multiboot);
    let Entry::Protected { eip: 0xf_f200, eax: 0x2bad_b002, ebx, esi: 0, .. } = loaded.entry else {
        panic!("{:?}", loaded.entry)
    };
    let (outs, last) = outs(bench, 0xf_f200);
    assert_eq!(outs.len(), 13);
    assert_eq!(bench.bytes(last, 6), [0xb8, 2, 0xb0, 0xad, 0x2b, 0xe9]);
    let relative = bench.word(last + 6, 4);
    (u32::try_from((last + 10 + relative) & 0xffff_ffff).unwrap(), ebx.into())
}

/// The ports and values of the instructions at `addr` that write a constant, and where they end.
fn outs(bench: &Bench, mut addr: u64) -> (Vec<(u8, u8)>, u64) {
    let mut outs = Vec::new();
    while let [0xb0, value, 0xe6, port] = bench.bytes(addr, 4)[..] {
        outs.push((port, value));
        addr += 4;
    }
    (outs, addr)
}

/// The string at the address in the word at `addr`.
fn string(bench: &Bench, addr: u64) -> String {
    let bytes = bench.bytes(bench.word(addr, 4), 200);
    String::from_utf8(bytes.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
}

#[test]
fn an_elf_kernel_is_loaded_low_and_told_what_the_flags_say() {
    let bench = Bench::new();
    bench.mem.write(0x40_2fff, &[0xff, 0xee]).unwrap();
    let loaded = bench.load(&elf(3).build()).unwrap();
    let (eip, info) = start(&bench, &loaded);
    assert_eq!(eip, 0x40_0010, "where the virtual entry point was loaded");
    assert_eq!(loaded.kernel, 0x40_0000..0x40_3000);
    assert_eq!(bench.bytes(0x40_1000, 2), [0xab, 0]);
    assert_eq!(bench.bytes(0x40_2fff, 2), [0, 0xee]);

    assert_eq!(bench.word(info, 4), 0x24d, "memory, command line, modules, map, name");
    assert_eq!((bench.word(info + 4, 4), bench.word(info + 8, 4)), (639, 63 * 1024));
    let line = format!("{} console=ttyS0 quiet", bench.kernel().display());
    assert_eq!(string(&bench, info + 16), line);
    assert_eq!(bench.word(info + 20, 4), 0);
    assert_eq!(string(&bench, info + 64), "trapline");
    let (len, map) = (bench.word(info + 44, 4), bench.word(info + 48, 4));
    let lines: Vec<_> = (map..map + len)
        .step_by(24)
        .map(|at| [(0, 4), (4, 8), (12, 8), (20, 4)].map(|(o, len)| bench.word(at + o, len)))
        .collect();
    let expected: Vec<_> =
        bench.map.entries().iter().map(|e| [20, e.addr, e.len, e.kind as u64]).collect();
    assert_eq!(lines, expected);
    assert!(info + 0x200 < 0x9_fc00, "in conventional memory: {info:#x}");
}

#[test]
fn a_display_is_told_and_one_that_is_required_and_missing_is_refused() {
    let mut bench = Bench::new();
    let text = bench.refusal(&elf(4).build());
    assert_eq!(text, "Multiboot kernel kernel requires a display; give the guest one with --vnc");
    bench.framebuffer = Some(Framebuffer {
        base: 0xd000_0000,
        len: 2 << 20,
        width: 640,
        height: 480,
        stride: 2560,
    });
    let (_, info) = start(&bench, &bench.load(&elf(4).build()).unwrap());
    assert_eq!(bench.word(info, 4) & 1 << 12, 1 << 12);
    let fields = [(88, 8), (96, 4), (100, 4), (104, 4), (108, 1), (109, 1)];
    let told = fields.map(|(at, len)| bench.word(info + at, len));
    assert_eq!(told, [0xd000_0000, 2560, 640, 480, 32, 1]);
    assert_eq!(bench.bytes(info + 110, 6), [16, 8, 8, 8, 0, 8]);
}

#[test]
fn requirements_nobody_knows_are_refused() {
    let text = Bench::new().refusal(&elf(0x8021).build());
    assert_eq!(text, "Multiboot kernel kernel requires unknown features (flags 0x8020)");
    assert!(Bench::new().load(&elf(0xfffe_0000).build()).is_ok(), "those are not requirements");
}

#[test]
fn address_fields_are_obeyed_whatever_the_file_is() {
    let bench = Bench::new();
    let loaded = bench.load(&flat(0, 0)).unwrap();
    assert_eq!((start(&bench, &loaded).0, loaded.kernel), (0x20_0040, 0x20_0000..0x20_0400));
    assert_eq!(bench.bytes(0x20_03ff, 2), [0xcd, 0]);

    bench.mem.write(0x20_0100, &[0xff; 0x400]).unwrap();
    let loaded = bench.load(&flat(0x20_0200, 0x20_0300)).unwrap();
    assert_eq!(loaded.kernel, 0x20_0000..0x20_0300);
    assert_eq!(bench.bytes(0x20_01ff, 3), [0xcd, 0, 0]);
    assert_eq!(bench.bytes(0x20_02ff, 2), [0, 0xff]);

    let mut around = elf(1 << 16);
    let fields = [0x40_0000, 0x40_0000, 0, 0, 0x40_0abc];
    around.loads[0].3.splice(..32, header(1 << 16, &fields));
    let loaded = bench.load(&around.build()).unwrap();
    assert_eq!(start(&bench, &loaded).0, 0x40_0abc);
    assert_eq!(loaded.kernel.start, 0x40_0000);
}

#[test]
fn wrong_addresses_and_kernels_without_memory_are_refused_in_a_sentence() {
    let bench = Bench::new();
    let with = |fields: [u32; 5]| {
        let mut file = vec![0; 0x20];
        file.extend(header(1 << 16, &fields));
        bench.refusal(&file)
    };
    let start = "kernel is a damaged Multiboot kernel: ";
    let cases = [
        ([0x10_0000, 0x10_0001, 0, 0, 0], "it would be loaded after its header"),
        ([0x10_0021, 0x10_0000, 0, 0, 0], "it would begin before its file does"),
        ([0x10_0020, 0x10_0000, 0xf_ffff, 0, 0], "it would end before it begins"),
    ];
    for (fields, reason) in cases {
        assert_eq!(with(fields), format!("{start}{reason}"));
    }
    let short = with([0x10_0020, 0x10_0000, 0x20_0000, 0, 0]);
    assert_eq!(short, "kernel is truncated, 1048512 bytes are missing; copy or build it again");
    let big = with([0x10_0020, 0x10_0000, 0, 0xf000_0000, 0]);
    assert!(big.contains("needs guest RAM from 0x100000 to 0xf0000000"), "{big}");
    assert!(big.ends_with("more memory would not help"), "{big}");
    let bios = with([0xa_0020, 0xa_0000, 0, 0, 0]);
    assert!(bios.contains("needs guest RAM from 0xa0000"), "{bios}");
    assert!(bios.ends_with("where a PC has devices; more memory would not help"), "{bios}");
}

#[test]
fn only_the_first_8_kib_have_a_header() {
    let bench = Bench::new();
    let mut file = vec![0; 8192 - 32];
    file.extend(header(1 << 16, &[0x10_1fe0, 0x10_0000, 0, 0, 0x10_0000]));
    assert_eq!(file.len(), 8192);
    assert!(bench.load(&file).is_ok());
    file.splice(..0, [0; 4]);
    assert!(bench.refusal(&file).contains("is not a kernel"));
    let mut unaligned = vec![0; 2];
    unaligned.extend(flat(0, 0));
    assert!(bench.refusal(&unaligned).contains("is not a kernel"));
}

#[test]
fn modules_follow_the_kernel_with_their_strings() {
    let bench = Bench::new();
    fs::write(bench.kernel(), elf(1).build()).unwrap();
    let file = |name: &str| bench.dir.path().join(name);
    fs::write(file("one"), b"first").unwrap();
    fs::write(file("two,2"), [7; 0x1001]).unwrap();
    let (one, two) = (file("one"), file("two,2"));
    let escaped = two.display().to_string().replace(',', ",,");
    let list = format!("{} root=/dev/sda -v,{escaped}", one.display());
    let initrd = Some(Initrd::File(list.as_ref()));
    let loaded = bench.load_with(&bench.kernel(), initrd).unwrap();
    let (_, info) = start(&bench, &loaded);
    assert_eq!(bench.word(info + 20, 4), 2);
    let list = bench.word(info + 24, 4);
    let module = |at: u64| (bench.word(at, 4), bench.word(at + 4, 4), string(&bench, at + 8));
    let text = format!("{} root=/dev/sda -v", one.display());
    assert_eq!(module(list), (0x40_3000, 0x40_3005, text));
    assert_eq!(module(list + 16), (0x40_4000, 0x40_5001, two.display().to_string()));
    assert_eq!(bench.bytes(0x40_3000, 6), *b"first\0");
    assert_eq!(loaded.initrd, Some(0x40_3000..0x40_5001));

    let missing = Some(Initrd::File("/nonexistent/a x".as_ref()));
    let refused = bench.load_with(&bench.kernel(), missing).unwrap_err();
    assert_eq!(refused.to_string(), "Unable to open initrd /nonexistent/a");
}

#[test]
fn a_module_may_have_spaces_in_its_name() {
    let bench = Bench::new();
    fs::write(bench.kernel(), elf(1).build()).unwrap();
    let file = bench.dir.path().join("a module.bin");
    fs::write(&file, b"spaced").unwrap();
    let list = format!("{} -v x", file.display());
    let loaded = bench.load_with(&bench.kernel(), Some(Initrd::File(list.as_ref()))).unwrap();
    let (_, info) = start(&bench, &loaded);
    let module = bench.word(info + 24, 4);
    assert_eq!(bench.bytes(bench.word(module, 4), 6), b"spaced");
    assert_eq!(string(&bench, module + 8), list);
}

#[test]
fn modules_that_only_fit_above_4_gib_are_refused_by_the_protocols_limit() {
    let mut bench = Bench::new();
    bench.map = bench.map.with(1 << 32..2 << 32, E820Kind::Ram);
    fs::write(bench.kernel(), elf(1).build()).unwrap();
    let file = bench.dir.path().join("big");
    fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let refused = bench.load_with(&bench.kernel(), Some(Initrd::File(&file))).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("(64 MiB) does not fit below 0x100000000, where kernel "), "{text}");
}

#[test]
fn data_whose_end_is_rounded_up_to_a_page_is_whole() {
    let bench = Bench::new();
    // The file ends at 0x400, the data in memory at the next page.
    let loaded = bench.load(&flat(0x20_1000, 0)).unwrap();
    assert_eq!(loaded.kernel, 0x20_0000..0x20_1000);
    bench.mem.write(0x20_0400, &[0xff; 4]).unwrap();
    bench.load(&flat(0x20_13ff, 0x20_2000)).unwrap();
    assert_eq!(bench.bytes(0x20_03ff, 3), [0xcd, 0, 0], "zeros where the file has ended");
    let text = bench.refusal(&flat(0x20_1400, 0));
    assert_eq!(text, "kernel is truncated, 4096 bytes are missing; copy or build it again");
}

#[test]
fn a_kernel_in_low_memory_leaves_its_information_another_place() {
    let mut bench = Bench::new();
    let low = |start: u64, len: u64| ElfBuilder {
        entry: start,
        loads: vec![(start, start, len, header(0, &[]))],
        ..ElfBuilder::default()
    };
    bench.initrd = Some(vec![1; 100]);
    let loaded = bench.load(&low(0x8000, 0x6000).build()).unwrap();
    let (_, info) = start(&bench, &loaded);
    assert!((0xe000..0x9_fc00).contains(&info), "{info:#x}");
    assert_eq!(loaded.initrd, Some(MIB..MIB + 100), "modules stay out of low memory");
    let (_, info) = start(&bench, &bench.load(&low(0x8000, 0x9_7c00).build()).unwrap());
    assert!((0x1000..0x8000).contains(&info), "below the kernel: {info:#x}");
    let (_, info) = start(&bench, &bench.load(&low(0x500, 0x9_f700).build()).unwrap());
    assert!(info > MIB, "above everything: {info:#x}");
}

#[test]
fn vectors_and_interrupt_controllers_are_as_a_bios_leaves_them() {
    let bench = Bench::new();
    bench.load(&elf(0).build()).unwrap();
    let vector = |n: u64| (bench.word(4 * n + 2, 2) << 4) + bench.word(4 * n, 2);
    assert_eq!(bench.bytes(vector(0x10), 1), [0xcf], "iret");
    let ends = [(0x09, vec![(0x20, 0x20)]), (0x77, vec![(0xa0, 0x20), (0x20, 0x20)])];
    for (n, expected) in ends {
        assert_eq!(bench.bytes(vector(n), 1), [0x50], "push ax");
        let (outs, end) = outs(&bench, vector(n) + 1);
        assert_eq!((outs, bench.bytes(end, 2)), (expected, vec![0x58, 0xcf]));
    }
    let pics = [
        [(0x20, 0x11), (0x21, 0x08), (0x21, 4), (0x21, 1), (0x21, 0xfa)],
        [(0xa0, 0x11), (0xa1, 0x70), (0xa1, 2), (0xa1, 1), (0xa1, 0xff)],
    ];
    let timer = [(0x43, 0x34), (0x40, 0), (0x40, 0)];
    assert_eq!(outs(&bench, 0xf_f200).0, [pics.as_flattened(), &timer].concat());
}

#[test]
fn pvh_comes_before_multiboot_and_multiboot_before_linux() {
    let bench = Bench::new();
    let format = |kernel: &[u8]| {
        fs::write(bench.kernel(), kernel).unwrap();
        Format::of(&bench.kernel()).unwrap()
    };
    let mut both = elf(0);
    both.notes = vec![note(b"Xen\0", 18, &0x40_0100u32.to_le_bytes())];
    assert_eq!(format(&both.build()), Format::Pvh);
    assert_eq!(bench.load(&both.build()).unwrap().protocol, Protocol::Pvh);
    assert_eq!(format(&elf(0).build()), Format::Multiboot);
    assert_eq!(format(&flat(0, 0)), Format::Multiboot);
    let mut linux = elf(0);
    linux.loads[0].0 = 0xffff_ffff_8040_0000;
    linux.loads[0].3.fill(0x90);
    linux.entry = 0x40_0000;
    assert_eq!(format(&linux.build()), Format::Linux);
}

proptest! {
    /// Any file with a header in it is loaded or refused, and what is loaded is where RAM is.
    #[test]
    fn any_file_with_a_header_is_loaded_or_refused(
        before in proptest::collection::vec(any::<u8>(), 0..64),
        flags in prop_oneof![Just(1u32 << 16), Just(0), any::<u32>()],
        fields in proptest::collection::vec(
            prop_oneof![0u32..0x500_0000, Just(0), any::<u32>()], 0..6),
        after in proptest::collection::vec(any::<u8>(), 0..256),
    ) {
        let bench = Bench::new();
        let mut file = before;
        file.resize(file.len().next_multiple_of(4), 0);
        file.extend(header(flags, &fields));
        file.extend(after);
        if let Ok(loaded) = bench.load(&file) {
            let inside = bench.map.entries().iter().any(|e| {
                e.kind == E820Kind::Ram
                    && e.addr <= loaded.kernel.start
                    && loaded.kernel.end <= e.end()
            });
            prop_assert!(inside, "{loaded:?}");
        }
    }

    /// The same for ELF files, damaged anywhere in their first bytes.
    #[test]
    fn any_damage_to_an_elf_kernel_is_survived(
        damage in proptest::collection::vec((0usize..0x100, any::<u8>()), 0..8),
        keep in 0usize..0x2000,
    ) {
        let bench = Bench::new();
        let mut kernel = elf(0).build();
        for (at, value) in damage {
            kernel[at] = value;
        }
        kernel.truncate(keep);
        let _loaded_or_refused = bench.load(&kernel);
    }
}
