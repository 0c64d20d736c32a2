//! The board's odds and ends, from inside a guest: Multiboot kernels, the test device, fw_cfg.

mod support;

use support::flat::{Flat, multiboot};
use support::guest::{Guest, run};
use trapline_testkit::realmode::Asm;

/// Offsets in Multiboot's boot information and in an entry of its module list.
const CMDLINE: u32 = 16;
const MODULES: u32 = 24;
const STRING: u32 = 8;
/// The start of the second module.
const NEXT_MODULE: u32 = 16;

/// The test device's registers and the port that switches off.
const LATCH: u16 = 0xe0;
const BYTE_LATCH: u16 = 0xe8;
const POWER: u16 = 0x8900;

/// fw_cfg's selector and data.
const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;

#[test]
fn a_multiboot_kernel_is_told_its_arguments_and_its_modules() {
    // The boot information is kept in EDI: mov edi, ebx; and from there: mov esi, edi.
    let info = |flat: Flat| flat.bytes(&[0x89, 0xfe]);
    let flat = Flat::new().bytes(&[0x89, 0xdf]).send_eax();
    let flat = info(flat).follow(CMDLINE).send_text();
    let flat = info(flat).follow(MODULES).follow(STRING).send_text();
    let flat = info(flat).follow(MODULES).follow(0).send_text();
    let flat = info(flat).follow(MODULES).follow(NEXT_MODULE).send_text();
    let guest = Guest::kernel(&multiboot(&flat.exit(3)));
    let one = guest.file("one", b"first\0").display().to_string();
    let two = guest.file("two", b"second\0").display().to_string();
    let kernel = guest.file("other", b"").with_file_name("guest").display().to_string();
    let modules = format!("{one} a=b c,{two}");
    let guest = guest.with(&["-i", &modules, "-p", "x y", "--testdev"]);
    let ended = guest.run().expect_status(7);
    let expected = format!("\u{2}\u{b0}\u{ad}+{kernel} x y{one} a=b cfirstsecond");
    let shown: String = ended.out.iter().map(|byte| char::from(*byte)).collect();
    assert_eq!(shown, expected, "{}", ended.err);

    let missing = format!("{one},/nonexistent/two x");
    let ended = guest.with(&["-i", &missing]).run().expect_status(2);
    assert_eq!(ended.err, "Fatal: Unable to open initrd /nonexistent/two\n");
}

#[test]
fn the_test_device_is_where_tests_look_for_it() {
    let latch = Asm::new().outl(LATCH, 0x4443_4241).inb(LATCH + 1).send_al();
    let latch = latch.inw(BYTE_LATCH + 2).send_al();
    let word = b"Shutdown".iter().fold(latch, |asm, byte| asm.outb(POWER, *byte));
    let ended = run(&word.print(b"still on").spin(), &["--testdev"]).expect_status(0);
    assert_eq!(ended.out, b"BC");
    assert!(ended.err.contains("# KVM session ended normally."), "{}", ended.err);
    let flushed = Asm::new().outl(LATCH + 4, 0x1000).print(b"on").exit(20);
    assert_eq!(run(&flushed, &["--testdev"]).expect_status(41).out, b"on");
}

/// Status and alternate status of both ATA channels.
const ATA_STATUS: [u16; 4] = [0x1f7, 0x3f6, 0x177, 0x376];

#[test]
fn firmware_finds_ata_channels_whose_drives_are_not_busy_and_a_kernel_none() {
    let firmware = ATA_STATUS.iter().fold(Asm::new(), |asm, port| asm.inb(*port).send_al());
    assert_eq!(run(&firmware.exit(1), &["--exit-port"]).expect_status(3).out, [0x7f; 4]);
    let kernel = ATA_STATUS.iter().fold(Flat::new(), |flat, port| flat.inb(*port).send_al());
    let guest = Guest::kernel(&multiboot(&kernel.exit(1))).with(&["--exit-port"]);
    assert_eq!(guest.run().expect_status(3).out, [0xff; 4]);
}

/// Line status of the first and of the second serial port, and the keyboard controller's status.
const LEGACY_STATUS: [u16; 3] = [0x3fd, 0x2fd, 0x64];

#[test]
fn without_defaults_there_are_legacy_devices_only_if_they_are_asked_for() {
    let kernel = LEGACY_STATUS.iter().fold(Flat::new(), |flat, port| flat.inb(*port).send_al());
    let kernel = multiboot(&kernel.exit(1));
    let seen = |options: &[&str]| {
        let guest = Guest::kernel(&kernel).with(&[&["--exit-port"], options].concat());
        guest.run().expect_status(3).out
    };
    // A test's kernel has no defaults.
    let few = seen(&[]);
    assert_eq!(few[..2], [0x60, 0xff]);
    assert_eq!(seen(&["--no-nodefaults"]), [0x60, 0x60, few[2]], "the keyboard controller stays");
    assert_eq!(seen(&["--legacy"]), [0x60, 0x60, few[2]]);
}

/// The console in memory: its first register, and line status.
const MMIO_UART: u32 = 0xfeb1_0000;
const MMIO_LSR: u32 = MMIO_UART + 5;

#[test]
fn a_console_in_memory_is_the_only_serial_port() {
    // mov al, [line status], so often that it is shown; mov [transmitter], al
    let poll = [&[0x8a, 0x04, 0x25], &MMIO_LSR.to_le_bytes()[..]].concat();
    let send = [&[0x88, 0x04, 0x25], &MMIO_UART.to_le_bytes()[..]].concat();
    let said = b"on".iter().fold(Flat::new(), |flat, byte| {
        (0..100).fold(flat, |flat, _| flat.bytes(&poll)).store_byte(MMIO_UART, *byte)
    });
    let kernel = said.bytes(&poll).bytes(&send).inb(0x3fd).bytes(&send);
    let kernel = kernel.outb(0x3f8, b'!').exit(1);
    for more in [&[][..], &["--no-mirror"], &["--no-mirror", "--no-coalesce"]] {
        let options = [&["--exit-port", "--console", "mmio"], more].concat();
        let ended = Guest::kernel(&multiboot(&kernel)).with(&options).run().expect_status(3);
        assert_eq!(ended.out, b"on\x60\xff", "{more:?}");
    }
    let ended = run(&Asm::new().spin(), &["--console", "mmio"]).expect_status(1);
    let reason = "Fatal: --console mmio: a PC's firmware has no way to it but by ports\n";
    assert_eq!(ended.err, reason);
}

#[test]
fn the_first_serial_port_is_in_memory_too_if_that_is_wanted() {
    // mov al, [the line status register]
    let poll = [&[0x8a, 0x04, 0x25], &(MMIO_UART + 5).to_le_bytes()[..]].concat();
    let polls = |flat: Flat| (0..40).fold(flat, |flat, _| flat.bytes(&poll));
    let mut said = Flat::new();
    for byte in *b"abcdef" {
        said = polls(said).store_byte(MMIO_UART, byte.to_ascii_uppercase());
        said = said.inb(0x3fd).outb(0x3f8, byte);
    }
    let kernel = multiboot(&said.inb(0x3fd).send_al().bytes(&poll).send_al().exit(1));
    for more in [&[][..], &["--no-mirror"], &["--no-mirror", "--no-coalesce"]] {
        let options = [&["--exit-port", "--earlycon", "--stat"], more].concat();
        let ended = Guest::kernel(&kernel).with(&options).run().expect_status(3);
        assert_eq!(ended.out, b"AaBbCcDdEeFf\x60\x60", "{more:?}");
    }
    let ended = Guest::kernel(&kernel).with(&["--exit-port"]).run().expect_status(3);
    assert_eq!(ended.out, b"abcdef\x60\xff", "nobody is there");
}

/// Configuration space in memory, and the registers of the mechanism that is not there then.
const ECAM: u32 = 0xd100_0000;
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;

#[test]
fn configuration_space_is_memory_and_not_behind_ports_if_that_is_wanted() {
    let function = |device: u32| ECAM + (device << 15);
    let kernel = Flat::new().load(function(0)).send_eax().load(function(1)).send_eax();
    let kernel = kernel.load(function(2)).send_eax().outl(CONFIG_ADDRESS, 1 << 31 | 4 << 8);
    let kernel = multiboot(&kernel.inb(CONFIG_DATA).send_al().exit(1));
    let bridge_edu_and_nothing =
        [0x86, 0x80, 0x37, 0x12, 0x34, 0x12, 0xe8, 0x11, 0xff, 0xff, 0xff, 0xff];
    for more in [&[][..], &["--no-mirror"]] {
        let options = [&["--exit-port", "--ecam", "--edu", "1", "--nodefaults"], more].concat();
        let ended = Guest::kernel(&kernel).with(&options).run().expect_status(3);
        assert_eq!(ended.out, [&bridge_edu_and_nothing[..], &[0xff]].concat(), "{more:?}");
    }
    let reset = multiboot(&Flat::new().outb(0xcf9, 6).bytes(&[0xeb, 0xfe]));
    let ended = Guest::kernel(&reset).with(&["--ecam"]).run().expect_status(0);
    assert!(ended.err.contains("reset by the reset control register"), "{}", ended.err);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_processor_has_the_hosts_name() {
    use core::arch::x86_64::__cpuid;

    const BRAND: u32 = 0x8000_0002;
    if __cpuid(0x8000_0000).eax < BRAND {
        trapline_testkit::skip("kvm_board processor's name", "the host's has none");
        return;
    }
    // mov eax, BRAND; cpuid; mov ebx, eax
    let asked = Asm::new().bytes(&[0x66, 0xb8]).bytes(&BRAND.to_le_bytes()).bytes(&[0x0f, 0xa2]);
    let sent = (0..4).fold(asked.bytes(&[0x66, 0x89, 0xc3]), |asm, _| {
        // mov eax, ebx; ...; shr ebx, 8
        asm.bytes(&[0x66, 0x89, 0xd8]).send_al().bytes(&[0x66, 0xc1, 0xeb, 0x08])
    });
    let ended = run(&sent.exit(1), &["--exit-port"]).expect_status(3);
    assert_eq!(ended.out, __cpuid(BRAND).eax.to_le_bytes());
}

#[test]
fn fw_cfg_is_read_byte_by_byte_by_string_and_has_the_users_files() {
    let four = |asm: Asm| (0..4).fold(asm, |asm, _| asm.inb(DATA).send_al());
    let signature = four(Asm::new().outw(SELECTOR, 0));
    // The files are in the order of their names: the five of etc/, opt/a, opt/b.
    let files = four(four(signature.outw(SELECTOR, 0x25)).outw(SELECTOR, 0x26));
    let string = files.outw(SELECTOR, 0x25).mov_ax(0).bytes(&[0x8e, 0xc0]).mov_di(0x600).mov_cx(4);
    let string = string.mov_dx(DATA).rep_insb();
    let loaded = (0x600..0x604).fold(string.mov_ds(0), |asm, at| asm.load_al(at).send_al());
    let guest = Guest::new(&loaded.exit(0)).with(&["--exit-port", "--stat=all"]);
    let file = guest.file("contents", b"from a file").display().to_string();
    let file = format!("opt/b,file={file}");
    let ended = guest.with(&["--fw-cfg", "name=opt/a,string=text", "--fw-cfg", &file]).run();
    let ended = ended.expect_status(1);
    assert_eq!(ended.out, b"QEMUtextfromtext", "{}", ended.err);
    assert!(ended.stat("fw_cfg/registers", "reads") >= 12);

    // A file of the user's in the place of a default of the board's: no entry more.
    let wait = ["--exit-port", "--fw-cfg", "etc/boot-fail-wait,string=none"];
    let asm = four(Asm::new().outw(SELECTOR, 0x22)).exit(0);
    assert_eq!(run(&asm, &wait).out, b"none");
    let never = [0xff; 4];
    assert_eq!(run(&asm, &["--exit-port"]).out, never);

    let refused = |name: &str| {
        let option = format!("{name},string=x");
        run(&Asm::new().exit(0), &["--fw-cfg", &option]).expect_status(1).err
    };
    assert_eq!(refused("etc/e820"), "Fatal: fw_cfg item `etc/e820` is there already\n");
    let long = refused(&"x".repeat(56));
    assert!(long.contains("a name has 1 to 55 printable ASCII characters"), "{long}");
}

/// fw_cfg's items of a kernel, its initrd and its command line.
const KERNEL_SIZE: u16 = 0x08;
const INITRD_SIZE: u16 = 0x0b;
const KERNEL_DATA: u16 = 0x11;
const INITRD_DATA: u16 = 0x12;
const CMDLINE_DATA: u16 = 0x15;
const SETUP_SIZE: u16 = 0x17;

#[test]
fn firmware_gets_the_kernel_to_start_by_fw_cfg() {
    let items = [SETUP_SIZE, KERNEL_SIZE, KERNEL_DATA, INITRD_SIZE, INITRD_DATA, CMDLINE_DATA];
    let asm = items.into_iter().fold(Asm::new(), |asm, item| {
        (0..4).fold(asm.outw(SELECTOR, item), |asm, _| asm.inb(DATA).send_al())
    });
    let guest = Guest::new(&asm.exit(0));
    let kernel = guest.file("kernel", b"an EFI program").display().to_string();
    let initrd = guest.file("initrd", b"disk").display().to_string();
    let guest = guest.with(&["--exit-port", "-k", &kernel, "-i", &initrd, "-p", "abc"]);
    let ended = guest.run().expect_status(1);
    let expected = [&[0; 4][..], &[14, 0, 0, 0], b"an E", &[4, 0, 0, 0], b"disk", b"abc\0"];
    assert_eq!(ended.out, expected.concat(), "{}", ended.err);
}
