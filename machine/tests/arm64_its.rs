//! The arm64 board's GICv3 and ITS over qtest, as a driver, a device and the processors use them.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

#[path = "qemu_differential/client.rs"]
mod client;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use client::Client;
use gicv3_its::command::{Command, RdBase};
use gicv3_its::{CollectionId, DeviceId, EventId};
use trapline_device::NullBackend;
use trapline_machine::qtest::{BoardKind, Config, Machine};
use trapline_qtest::Session;

/// kvmtool's map for two processors: everything is below the distributor.
const DISTRIBUTOR: u64 = 0x3fff_0000;
const REDISTRIBUTORS: u64 = 0x3ffb_0000;
const ITS: u64 = 0x3ff9_0000;
const INTERFACES: u64 = 0x3ff8_e000;
const ECAM: u64 = 0x4000_0000;
const BAR: u64 = 0x5000_0000;

const QUEUE: u64 = 0x8010_0000;
const DEVICES: u64 = 0x8020_0000;
const COLLECTIONS: u64 = 0x8021_0000;
const CONFIG: u64 = 0x8022_0000;
const PENDING: u64 = 0x8030_0000;
const ITT: u64 = 0x8040_0000;
const VALID: u64 = 1 << 63;

struct Driver {
    client: Client,
    next: u64,
}

impl Driver {
    /// A machine with two processors and two educational devices, nothing set up.
    fn new() -> Self {
        let (theirs, mine) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let machine = Machine::new(&Config {
                board: BoardKind::Arm64Virt,
                cpus: 2,
                virtio: trapline_machine::VirtioTransport::Pci.into(),
                rng: false,
                edu: 2,
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
                flash: None,
                firmware: None,
                testdev: false,
                fw_cfg: Vec::new(),
            });
            Session::new(&machine.unwrap()).run(&theirs, &theirs).unwrap();
        });
        Self { client: Client::new(mine), next: 0 }
    }

    fn writel(&mut self, address: u64, value: u64) {
        self.client.ask(&format!("writel {address:#x} {value:#x}"));
    }

    fn writeq(&mut self, address: u64, value: u64) {
        self.client.ask(&format!("writeq {address:#x} {value:#x}"));
    }

    fn readl(&mut self, address: u64) -> u64 {
        self.client.number(&format!("readl {address:#x}"))
    }

    fn readq(&mut self, address: u64) -> u64 {
        self.client.number(&format!("readq {address:#x}"))
    }

    /// What a kernel does at boot, and watches the processors' inputs.
    fn set_up(&mut self) {
        self.client.ask(&format!("memset {CONFIG:#x} 57344 0xa3"));
        self.writel(DISTRIBUTOR, 2);
        for cpu in 0..2 {
            let frame = REDISTRIBUTORS + cpu * 0x2_0000;
            self.writeq(frame + 0x70, CONFIG | 15);
            self.writeq(frame + 0x78, PENDING + cpu * 0x1_0000);
            self.writel(frame, 1);
            self.writel(INTERFACES + cpu * 0x1000 + 0x04, 0xf0);
            self.writel(INTERFACES + cpu * 0x1000 + 0x14, 1);
        }
        self.writeq(ITS + 0x100, VALID | DEVICES | 0x200);
        self.writeq(ITS + 0x108, VALID | COLLECTIONS | 0x200);
        self.writeq(ITS + 0x80, VALID | QUEUE | 0xff);
        self.writel(ITS, 1);
        self.client.ask("irq_intercept_out gic");
    }

    fn run(&mut self, commands: &[Command]) {
        for command in commands {
            let bytes: Vec<u8> =
                command.encode().iter().flat_map(|word| word.to_le_bytes()).collect();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            self.client.ask(&format!("write {:#x} 32 0x{hex}", QUEUE + self.next));
            self.next += 32;
        }
        self.writel(ITS + 0x88, self.next);
    }

    /// Event 2 of the device becomes LPI 8194 of the second processor.
    fn map(&mut self, device: u32) {
        let collection = CollectionId(1);
        let (device, itt) = (DeviceId(device), ITT + u64::from(device) * 0x100);
        self.run(&[
            Command::Mapc { collection, target: RdBase(1), valid: true },
            Command::Mapd { device, size: 2, itt, valid: true },
            Command::Mapti { device, event: EventId(2), intid: 8194, collection },
            Command::Sync { target: RdBase(1) },
        ]);
    }

    /// Reads `ICC_IAR1_EL1` and writes `ICC_EOIR1_EL1` of the second processor.
    fn take(&mut self) -> u64 {
        let intid = self.readl(INTERFACES + 0x1024);
        self.writel(INTERFACES + 0x102c, intid);
        intid
    }
}

#[test]
fn every_frame_is_where_the_board_has_it_and_says_what_it_is() {
    let mut driver = Driver::new();
    for (frame, part) in [(DISTRIBUTOR, 0x92), (REDISTRIBUTORS, 0x93), (ITS, 0x94)] {
        assert_eq!(driver.readl(frame + 0xffe8), 0x3b, "PIDR2 of {frame:#x}");
        assert_eq!(driver.readl(frame + 0xffd0), 0x44, "PIDR4 of {frame:#x}");
        assert_eq!(driver.readl(frame + 0xffe0), part, "PIDR0 of {frame:#x}");
    }
    assert_eq!(driver.readl(DISTRIBUTOR + 4), 15 << 19 | 1 << 17 | 4, "160 interrupts, LPIs");
    assert_eq!(driver.readq(REDISTRIBUTORS + 8), 1 << 24 | 1);
    let last = 1 << 32 | 1 << 24 | 1 << 8 | 1 << 4 | 1;
    assert_eq!(driver.readq(REDISTRIBUTORS + 0x2_0008), last);
    let typer = driver.readq(ITS + 8);
    assert_eq!(
        (typer & 1, typer >> 4 & 0xf, typer >> 8 & 0x1f, typer >> 13 & 0x1f),
        (1, 7, 15, 15)
    );
    assert_eq!(driver.readl(ITS), 0x8000_0000);
    assert_eq!(driver.readq(ITS + 0x100), 0x0107_0000_0000_0200);
}

#[test]
fn a_devices_message_becomes_an_lpi_of_the_processor_it_is_routed_to() {
    let mut driver = Driver::new();
    driver.set_up();
    driver.map(0x10);
    // The second educational device: its BAR, its message, bus master.
    let function = ECAM + (0x10 << 12);
    assert_eq!(driver.readl(function), 0x11e8_1234);
    driver.writel(function + 0x10, BAR);
    driver.writel(function + 0x04, 0x6);
    assert_eq!(driver.readl(BAR), 0x0100_00ed);
    let capability = driver.readl(function + 0x34) & 0xff;
    driver.writel(function + capability + 4, ITS + 0x1_0040);
    driver.writel(function + capability + 12, 2);
    driver.writel(function + capability, 1 << 16);
    driver.client.changes();
    driver.writel(BAR + 0x60, 1);
    assert_eq!(driver.client.changes(), [(1, true)], "IRQ of processor 1");
    assert_eq!(driver.take(), 8194);
    assert_eq!(driver.client.changes(), [(1, false)]);
    // The same message of the first device has another DeviceID.
    let other = ECAM + (0x08 << 12);
    driver.writel(other + 0x10, BAR + 0x10_0000);
    driver.writel(other + 0x04, 0x6);
    driver.writel(other + capability + 4, ITS + 0x1_0040);
    driver.writel(other + capability + 12, 2);
    driver.writel(other + capability, 1 << 16);
    driver.writel(BAR + 0x10_0060, 1);
    assert_eq!(driver.client.changes(), []);
    let table = driver.client.table("its");
    let has = |text: &str| table.iter().any(|line| line.contains(text));
    assert!(has("0x10") && has("8194"), "{table:#?}");
    assert!(has("1  signals") && has("blocked: 0x030001 device not mapped"), "{table:#?}");
}

#[test]
fn a_devices_pin_is_a_shared_peripheral_interrupt() {
    let mut driver = Driver::new();
    driver.set_up();
    // Device 1's, SPI 5, INTID 37: Group 1, enabled, routed to processor 1.
    driver.writel(DISTRIBUTOR + 0x84, 1 << 5);
    driver.writel(DISTRIBUTOR + 0x104, 1 << 5);
    driver.writeq(DISTRIBUTOR + 0x6000 + 8 * 37, 1);
    driver.writel(ECAM + 0x8010, BAR);
    driver.writel(ECAM + 0x8004, 0x2);
    driver.writel(BAR + 0x60, 4);
    assert_eq!(driver.client.changes(), [(1, true)]);
    assert_eq!(driver.take(), 37);
    assert_eq!(driver.client.changes(), [(1, false), (1, true)], "the pin is still high");
    driver.writel(BAR + 0x64, 4);
    assert_eq!(driver.client.changes(), [(1, false)]);
    // The client drives the same pin.
    driver.client.ask("set_irq_in gic unnamed-gpio-in 5 1");
    assert_eq!(driver.take(), 37);
}

#[test]
fn pending_lpis_are_in_the_pending_table_once_lpis_are_off() {
    let mut driver = Driver::new();
    driver.set_up();
    driver.map(0x10);
    driver.run(&[Command::Int { device: DeviceId(0x10), event: EventId(2) }]);
    assert_eq!(driver.client.changes(), [(1, true)]);
    driver.writel(REDISTRIBUTORS + 0x2_0000, 0);
    assert_eq!(driver.client.changes(), [(1, false)]);
    assert_eq!(driver.readq(PENDING + 0x1_0000 + 1024), 1 << 2);
    driver.writel(REDISTRIBUTORS + 0x2_0000, 1);
    assert_eq!(driver.take(), 8194);
}

#[test]
fn a_long_queue_is_done_when_the_client_looks_again() {
    let mut driver = Driver::new();
    driver.set_up();
    driver.map(0x10);
    let nothing = Command::Sync { target: RdBase(1) };
    let mut commands = vec![nothing; 1000];
    commands.push(Command::Int { device: DeviceId(0x10), event: EventId(2) });
    driver.run(&commands);
    assert_eq!(driver.readq(ITS + 0x90), driver.next);
    assert_eq!(driver.take(), 8194);
}

#[test]
fn more_processors_than_there_is_room_for_are_refused() {
    let machine = Machine::new(&Config {
        board: BoardKind::Arm64Virt,
        cpus: 513,
        virtio: trapline_machine::VirtioTransport::Pci.into(),
        rng: false,
        edu: 0,
        disks: Vec::new(),
        shares: Vec::new(),
        vsock: None,
        plugs: false,
        mem_bytes: 1 << 20,
        utc_start_ns: 0,
        console: Arc::new(NullBackend),
        console_kind: trapline_machine::ConsoleKind::Serial,
        ports: Vec::new(),
        balloon: None,
        nets: Vec::new(),
        exit_port: false,
        flash: None,
        firmware: None,
        testdev: false,
        fw_cfg: Vec::new(),
    });
    let error = machine.err().map(|error| error.to_string()).unwrap();
    assert!(error.contains("513") && error.contains("512"), "{error}");
}
