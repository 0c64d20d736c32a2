//! The boot protocols, with kernels of a few dozen bytes and with the firmware everybody has.

mod support;

use std::path::Path;

use support::flat::{Flat, back_to_real_mode, bzimage, pvh};
use support::guest::{Guest, there};
use support::{Pty, shell_status};
use trapline_testkit::realmode::Asm;
use trapline_testkit::skip;

/// Offset of the command line's address in the zero page (`cmd_line_ptr`).
const ZERO_PAGE_CMDLINE: u32 = 0x228;
/// The same for PVH's start info, and the number it begins with.
const START_INFO_CMDLINE: u32 = 0x18;
const START_INFO_MAGIC: u32 = 0x336e_c578;

const WORDS: &str = "console=ttyS0 'quoted words' end";

/// PVH: the start info is in EBX.
fn pvh_printer() -> Vec<u8> {
    let code = Flat::new().bytes(&[0x89, 0xde]).demand(START_INFO_MAGIC, 1); // mov esi, ebx
    pvh(&code.follow(START_INFO_CMDLINE).send_text().exit(0))
}

/// Linux: the zero page is in RSI.
fn bzimage_printer() -> Vec<u8> {
    bzimage(&Flat::new().follow(ZERO_PAGE_CMDLINE).send_text().exit(0))
}

#[test]
fn each_boot_protocol_hands_over_the_command_line() {
    for (protocol, image) in [("PVH", pvh_printer()), ("bzImage", bzimage_printer())] {
        let guest = Guest::kernel(&image).with(&["--exit-port", "-p", WORDS]);
        let ended = guest.run().expect_status(1);
        assert_eq!(String::from_utf8_lossy(&ended.out), WORDS, "{protocol}");
    }
}

#[test]
fn a_kernel_is_loaded_anew_after_each_reset() {
    // Prints its command line, overwrites it, and resets.
    let keep = Flat::new().bytes(&[0x89, 0xde]).follow(START_INFO_CMDLINE).bytes(&[0x89, 0xf7]); // mov edi, esi
    let spoil = keep.send_text().bytes(&[0xc6, 0x07, b'B']); // mov byte [edi], 'B'
    let image = pvh(&spoil.outb(0x64, 0xfe).bytes(&[0xeb, 0xfe]));
    let guest = Guest::kernel(&image).with(&["-p", "A\n", "--reboot", "--loglevel", "error"]);
    let pty = Pty::new();
    let mut console = guest.start_in(&pty);
    assert_eq!(console.expect("A\r\nA\r\nA\r\nA"), "A\r\nA\r\nA\r\nA");
    console.send(b"\x01x");
    assert_eq!(shell_status(console.wait().0), 0);
}

/// `int number`
fn int(asm: Asm, number: u8) -> Asm {
    asm.bytes(&[0xcd, number])
}

#[test]
fn a_kernel_that_goes_back_to_real_mode_finds_what_a_bios_leaves() {
    // Memory size and equipment by their services, then the segment of the extended data area.
    let asm = int(int(Asm::new(), 0x12).send_eax(2), 0x11).send_eax(2).load_ax(0x40e).send_eax(2);
    // INT 15h, E820h, for the first range, at 0000:9000; its length, and what EBX is then.
    let asm = asm.bytes(&[0x66, 0x31, 0xdb, 0x66, 0xb9, 20, 0, 0, 0]); // xor ebx, ebx; mov ecx, 20
    let asm = asm.bytes(&[0x66, 0xba]).bytes(b"PAMS").mov_eax(0xe820).mov_di(0x9000);
    let asm = int(asm, 0x15).bytes(&[0x66, 0x89, 0xde]); // mov esi, ebx
    let asm = asm.load_eax(0x9008).send_eax(4).bytes(&[0x66, 0x89, 0xf0]).send_eax(4);
    // AH 88h: KiB above 1 MiB. Then a service that does not exist: AH and the carry flag.
    let asm = int(asm.mov_ax(0x8800), 0x15).send_eax(2);
    let asm = int(asm.mov_ax(0x5300), 0x15).bytes(&[0x88, 0xe0, 0x14, 0]).send_al(); // mov al, ah; adc al, 0
    // jmp far f000:fff0
    let asm = asm.bytes(&[0xea, 0xf0, 0xff, 0x00, 0xf0]);
    let guest = Guest::kernel(&back_to_real_mode(&asm)).with(&["-m", "16", "--no-reboot"]);
    let ended = guest.run().expect_status(0);
    let [map, next] = [0x9_fc00_u32, 1].map(u32::to_le_bytes);
    let words = [639_u16, 0x8206, 0x9fc0].map(u16::to_le_bytes).concat();
    let above = (15_u16 << 10).to_le_bytes();
    assert!(ended.err.contains("0xcf9"), "it ends as a reset: {}", ended.err);
    assert_eq!(ended.out, [&words[..], &map, &next, &above, &[0x87]].concat(), "{}", ended.err);
}

/// Runs a SeaBIOS image with these options until it has said `wanted`.
fn seabios(test: &str, name: &str, options: &[&str], wanted: &[&str]) {
    let path = Path::new("/usr/share/seabios").join(name);
    if !there(&path) {
        skip(test, &format!("{} is missing: apt install seabios", path.display()));
        return;
    }
    let pty = Pty::new();
    let guest = Guest::firmware(&path).with(options);
    let mut console = guest.start_in(&pty);
    let screen: String = wanted.iter().map(|text| console.expect(text)).collect();
    console.send(b"\x01x");
    let (status, rest) = console.wait();
    let screen = screen + &rest;
    assert_eq!(shell_status(status), 0, "{screen}");
    // As by QEMU's defaults it neither waits for a key nor tries again.
    assert!(!screen.contains("Press ESC") && !screen.contains("Retrying"), "{screen}");
    // Its log is not in the middle of its screen.
    assert_eq!(screen.contains("Found QEMU fw_cfg"), options.contains(&"--debug"), "{screen}");
}

#[test]
fn seabios_of_128_kib_finds_nothing_to_boot() {
    let name = "kvm_boot seabios_of_128_kib_finds_nothing_to_boot";
    // What it would show on a screen.
    let wanted = ["SeaBIOS (version ", "Booting from Hard Disk...", "No bootable device."];
    seabios(name, "bios.bin", &[], &wanted);
}

#[test]
fn seabios_of_256_kib_finds_nothing_to_boot() {
    let name = "kvm_boot seabios_of_256_kib_finds_nothing_to_boot";
    let wanted = [
        "SeaBIOS (version ",
        "Found QEMU fw_cfg",
        "QEMU fw_cfg DMA interface supported",
        "qemu/e820: addr 0x0000000000000000 len 0x0000000004000000 [RAM]",
        "PCI: init bdf=00:00.0",
        "PCI: init bdf=00:01.0 id=8086:7000",
        "PCI: init bdf=00:01.3 id=8086:7113",
        "ACPI: parse DSDT",
        "Found 2 lpt ports",
        "Found 4 serial ports",
        "PS2 keyboard initialized",
        "e820 map has ",
        "No bootable device.",
    ];
    seabios(name, "bios-256k.bin", &["--debug"], &wanted);
}
