//! The boot protocols, with kernels of a few dozen bytes and with the firmware everybody has.

mod support;

use std::path::Path;

use support::flat::{Flat, bzimage, pvh};
use support::guest::{Guest, there};
use support::{Pty, shell_status};
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

/// Runs a SeaBIOS image until it has said `wanted`.
fn seabios(test: &str, name: &str, wanted: &[&str]) {
    let path = Path::new("/usr/share/seabios").join(name);
    if !there(&path) {
        skip(test, &format!("{} is missing: apt install seabios", path.display()));
        return;
    }
    let pty = Pty::new();
    let guest = Guest::firmware(&path);
    let mut console = guest.start_in(&pty);
    for text in wanted {
        console.expect(text);
    }
    console.send(b"\x01x");
    let (status, screen) = console.wait();
    assert_eq!(shell_status(status), 0, "{screen}");
}

#[test]
fn seabios_of_128_kib_finds_nothing_to_boot() {
    let name = "kvm_boot seabios_of_128_kib_finds_nothing_to_boot";
    seabios(name, "bios.bin", &["SeaBIOS (version ", "No bootable device."]);
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
        "Found 2 lpt ports",
        "Found 4 serial ports",
        "PS2 keyboard initialized",
        "Press ESC for boot menu.",
        "e820 map has ",
        "No bootable device.",
    ];
    seabios(name, "bios-256k.bin", &wanted);
}
