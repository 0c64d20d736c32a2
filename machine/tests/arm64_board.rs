//! The arm64 board over qtest: its devices are where kvmtool has them, and are those of the PC.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

#[path = "qemu_differential/client.rs"]
mod client;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use client::Client;
use trapline_device::NullBackend;
use trapline_machine::qtest::{BoardKind, Config, Machine};
use trapline_qtest::Session;

fn machine(flash: Option<PathBuf>) -> Client {
    let (theirs, mine) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let machine = Machine::new(&Config {
            board: BoardKind::Arm64Virt,
            cpus: 1,
            edu: 0,
            mem_bytes: 64 << 20,
            utc_start_ns: 946_684_800_000_000_000,
            console: Arc::new(NullBackend),
            exit_port: false,
            testdev: false,
            fw_cfg: Vec::new(),
            flash,
        });
        Session::new(&machine.unwrap()).unwrap().run(&theirs, &theirs).unwrap();
    });
    Client::new(mine)
}

#[test]
fn four_uarts_with_a_line_each() {
    let mut client = machine(None);
    client.ask("irq_intercept_in gic");
    for (n, base) in (0..4).zip([0x100_0000_u64, 0x100_1000, 0x100_2000, 0x100_3000]) {
        client.ask(&format!("writeb {:#x} 0x5a", base + 7));
        assert_eq!(client.number(&format!("readb {:#x}", base + 7)), 0x5a, "scratch register");
        client.ask(&format!("writeb {:#x} 0x08", base + 4));
        client.ask(&format!("writeb {:#x} 0x02", base + 1));
        assert_eq!(client.changes(), [(n, true)], "THR empty, on its own interrupt");
        assert_eq!(client.number(&format!("readb {:#x}", base + 2)) & 0xf, 2);
        assert_eq!(client.changes(), [(n, false)]);
        assert_eq!(client.number(&format!("readb {:#x}", base + 8)), 0xff, "nothing behind it");
    }
}

#[test]
fn the_clock_is_at_16_mib_and_64_kib() {
    let mut client = machine(None);
    client.ask("writeb 0x1010000 0x09");
    assert_eq!(client.number("readb 0x1010001"), 0, "the year 2000");
    client.ask("writeb 0x1010000 0x00");
    client.ask("clock_step 5000000000");
    assert_eq!(client.number("readb 0x1010001"), 5, "seconds");
}

#[test]
fn the_pci_bus_is_empty_and_ram_is_at_2_gib() {
    let mut client = machine(None);
    assert_eq!(client.number("readl 0x40000000"), 0xffff_ffff);
    assert_eq!(client.number("readl 0x4fffffff"), 0xffff_ffff);
    assert_eq!(client.number("readl 0x3f8"), 0xffff_ffff, "the I/O window has no ISA devices");
    client.ask("writel 0x83fffffc 0x12345678");
    assert_eq!(client.number("readl 0x83fffffc"), 0x1234_5678);
}

#[test]
fn what_is_programmed_into_the_flash_is_in_its_file() {
    let image = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(image.path(), vec![0xff; 0x2_0000]).unwrap();
    let mut client = machine(Some(image.path().to_owned()));
    client.ask("writel 0x2000154 0x00980098");
    assert_eq!(client.number("readl 0x2000040"), u64::from(b'Q') * 0x1_0001);
    client.ask("writel 0x2000000 0x00ff00ff");
    client.ask("writel 0x2010008 0x00400040");
    client.ask("writel 0x2010008 0x12345678");
    assert_eq!(client.number("readl 0x2000000"), 0x0080_0080, "done");
    let bytes = std::fs::read(image.path()).unwrap();
    assert_eq!(bytes[0x1_0008..0x1_000c], 0x1234_5678_u32.to_le_bytes());
    client.ask("writel 0x2000000 0x00ff00ff");
    assert_eq!(client.number("readq 0x2010008"), 0xffff_ffff_1234_5678);
}
