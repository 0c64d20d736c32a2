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
    machine_with(flash, 0)
}

fn machine_with(flash: Option<PathBuf>, edu: u8) -> Client {
    let (theirs, mine) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let machine = Machine::new(&Config {
            board: BoardKind::Arm64Virt,
            cpus: 1,
            virtio: trapline_machine::VirtioTransport::Pci.into(),
            rng: false,
            edu,
            disks: Vec::new(),
            shares: Vec::new(),
            vsock: None,
            plugs: false,
            mem_bytes: 64 << 20,
            utc_start_ns: 946_684_800_000_000_000,
            console: Arc::new(NullBackend),
            console_kind: trapline_machine::ConsoleKind::Serial,
            ports: Vec::new(),
            balloon: None,
            nets: Vec::new(),
            exit_port: false,
            testdev: false,
            fw_cfg: Vec::new(),
            flash,
            firmware: None,
        });
        Session::new(&machine.unwrap()).run(&theirs, &theirs).unwrap();
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

/// Configuration space of the educational devices, and what they are known by.
const EDU: [u64; 2] = [0x4000_8000, 0x4001_0000];
const IDENTIFICATION: u64 = 0x0100_00ed;

/// A machine with two educational devices, each with its liveness register at a value of its own.
fn two_edus() -> Client {
    let mut client = machine_with(None, 2);
    for (function, place) in EDU.into_iter().zip([0x5000_0000_u64, 0x5010_0000]) {
        client.ask(&format!("writel {:#x} {place:#x}", function + 0x10));
        client.ask(&format!("writel {:#x} 0x2", function + 0x04));
        client.ask(&format!("writel {:#x} {function:#x}", place + 4));
    }
    client
}

/// Which of the two answers at `place`.
fn who(client: &mut Client, place: u64) -> Option<u64> {
    let found = client.number(&format!("readl {place:#x}"));
    let liveness = client.number(&format!("readl {:#x}", place + 4));
    let function = EDU.into_iter().find(|function| !function & 0xffff_ffff == liveness);
    assert_eq!(found, if function.is_some() { IDENTIFICATION } else { 0xffff_ffff });
    function
}

#[test]
fn two_bars_trade_places_one_after_the_other() {
    let mut client = two_edus();
    let [a, b] = EDU;
    assert_eq!(who(&mut client, 0x5000_0000), Some(a));
    assert_eq!(who(&mut client, 0x5010_0000), Some(b));
    client.ask(&format!("writel {:#x} 0x50100000", a + 0x10));
    assert_eq!(who(&mut client, 0x5000_0000), None);
    client.ask(&format!("writel {:#x} 0x50000000", b + 0x10));
    assert_eq!(who(&mut client, 0x5010_0000), Some(a));
    assert_eq!(who(&mut client, 0x5000_0000), Some(b));
}

#[test]
fn a_bar_enabled_on_top_of_another_answers_when_that_has_moved_away() {
    let mut client = two_edus();
    let [a, b] = EDU;
    client.ask(&format!("writel {:#x} 0", b + 0x04));
    client.ask(&format!("writel {:#x} 0x50000000", b + 0x10));
    client.ask(&format!("writel {:#x} 0x2", b + 0x04));
    assert_eq!(who(&mut client, 0x5000_0000), Some(a), "the first on the bus");
    client.ask(&format!("writel {:#x} 0x50200000", a + 0x10));
    assert_eq!(who(&mut client, 0x5000_0000), Some(b));
    assert_eq!(who(&mut client, 0x5020_0000), Some(a));
    client.ask(&format!("writel {:#x} 0x50000000", a + 0x10));
    assert_eq!(who(&mut client, 0x5000_0000), Some(a));
    client.ask(&format!("writel {:#x} 0", a + 0x04));
    assert_eq!(who(&mut client, 0x5000_0000), Some(b));
}

#[test]
fn interrupt_status_is_set_while_the_pin_may_not_be() {
    let mut client = two_edus();
    client.ask("irq_intercept_in gic");
    let [a, _] = EDU;
    let status = |client: &mut Client| client.number(&format!("readl {:#x}", a + 4)) >> 19 & 1;
    client.ask("writel 0x50000060 1");
    assert_eq!((status(&mut client), client.changes()), (1, vec![(5, true)]));
    client.ask(&format!("writel {:#x} 0x402", a + 4));
    assert_eq!((status(&mut client), client.changes()), (1, vec![(5, false)]));
    client.ask("writel 0x50000064 1");
    assert_eq!((status(&mut client), client.changes()), (0, vec![]));
}
