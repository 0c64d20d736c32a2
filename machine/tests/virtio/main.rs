//! Virtio devices on both boards, without a CPU: a driver finds them where the board has them,
//! starts them, and gets its interrupts at the board's controllers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can not go on fails")]

mod devices;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use trapline::Handle;
use trapline_device::{NullBackend, Size, Space};
use trapline_machine::disk::DiskOptions;
use trapline_machine::qtest::{BoardKind, Config, Machine};
use trapline_machine::{ConsoleKind, VirtioTransport, VirtioTransports};
use trapline_qtest::{Pin, Side, Target};
use trapline_testkit::virtio::{
    Access, Driver, LegacyPciTransport, MmioTransport, Part, PciTransport, Ring, Room, Transport,
};

const MIB: u64 = 1 << 20;

/// A board's windows of virtio registers, one each 512 bytes.
fn windows(kind: BoardKind) -> u64 {
    match kind {
        BoardKind::X86Pc => 0xfeb0_0000,
        BoardKind::Arm64Virt => 0x300_0000,
    }
}

/// The pin of such a window.
fn window_pin(kind: BoardKind, window: usize) -> Pin {
    match kind {
        BoardKind::X86Pc => {
            Pin { device: "ioapic", side: Side::In, number: [10, 11, 5, 14][window % 4] }
        }
        BoardKind::Arm64Virt => {
            let number = 36 + u32::try_from(window).unwrap();
            Pin { device: "gic", side: Side::In, number }
        }
    }
}

const BOARDS: [BoardKind; 2] = [BoardKind::X86Pc, BoardKind::Arm64Virt];

/// A board with what a driver makes accesses through.
struct Board {
    kind: BoardKind,
    machine: Machine,
    handle: Mutex<Handle>,
    /// Where RAM begins.
    ram: u64,
    /// Where memory BARs can be.
    memory: u64,
}

impl Access for Board {
    fn read(&self, space: Space, addr: u64, size: Size) -> u64 {
        let value = self.handle.lock().read_value(space, addr, size);
        self.machine.run_back_ends();
        value
    }

    fn write(&self, space: Space, addr: u64, size: Size, value: u64) {
        self.handle.lock().write_value(space, addr, size, value);
        self.machine.run_back_ends();
    }

    fn config_read(&self, devfn: u8, offset: u16, size: Size) -> u32 {
        let (space, addr) = self.config_at(devfn, offset);
        u32::try_from(self.read(space, addr, size) & size.ones()).unwrap()
    }

    fn config_write(&self, devfn: u8, offset: u16, size: Size, value: u32) {
        let (space, addr) = self.config_at(devfn, offset);
        self.write(space, addr, size, value.into());
    }
}

fn machine(
    kind: BoardKind,
    virtio: impl Into<VirtioTransports>,
    disks: Vec<DiskOptions>,
) -> Result<Machine, trapline_machine::Error> {
    Machine::new(&config(kind, virtio, disks))
}

fn config(kind: BoardKind, virtio: impl Into<VirtioTransports>, disks: Vec<DiskOptions>) -> Config {
    Config {
        board: kind,
        cpus: 1,
        virtio: virtio.into(),
        rng: true,
        firmware: None,
        edu: 2,
        disks,
        shares: Vec::new(),
        vsock: None,
        plugs: false,
        mem_bytes: 4 * MIB,
        utc_start_ns: 0,
        console: Arc::new(NullBackend),
        console_kind: ConsoleKind::Serial,
        ports: Vec::new(),
        balloon: None,
        nets: Vec::new(),
        exit_port: false,
        flash: None,
        testdev: false,
        fw_cfg: Vec::new(),
    }
}

impl Board {
    fn new(kind: BoardKind) -> Self {
        Self::with(kind, VirtioTransport::Pci, Vec::new())
    }

    fn with_disks(kind: BoardKind, disks: Vec<DiskOptions>) -> Self {
        Self::with(kind, VirtioTransport::Pci, disks)
    }

    fn with(kind: BoardKind, virtio: impl Into<VirtioTransports>, disks: Vec<DiskOptions>) -> Self {
        Self::of(&config(kind, virtio, disks))
    }

    fn of(config: &Config) -> Self {
        let (kind, machine) = (config.board, Machine::new(config).unwrap());
        let handle = Mutex::new(machine.registry().handle(0));
        let (ram, memory) = match kind {
            BoardKind::X86Pc => (0, 0xe000_0000),
            BoardKind::Arm64Virt => (0x8000_0000, 0x6000_0000),
        };
        Self { kind, machine, handle, ram, memory }
    }

    /// Mechanism #1, or ECAM.
    fn config_at(&self, devfn: u8, offset: u16) -> (Space, u64) {
        match self.kind {
            BoardKind::X86Pc => {
                let address = 1 << 31 | u64::from(devfn) << 8 | u64::from(offset & 0xfc);
                self.handle.lock().write_value(Space::Pio, 0xcf8, Size::Dword, address);
                (Space::Pio, 0xcfc + u64::from(offset & 3))
            }
            BoardKind::Arm64Virt => {
                (Space::Mmio, 0x4000_0000 + (u64::from(devfn) << 12) + u64::from(offset))
            }
        }
    }

    /// Where a driver puts BARs.
    fn room(&self) -> Room {
        let room = Room::new(self.memory, 0xc000);
        match self.kind {
            BoardKind::X86Pc => room,
            BoardKind::Arm64Virt => Room { ports_at: (Space::Mmio, 0xff_0000), ..room },
        }
    }

    /// The device and function with this vendor and device.
    fn find(&self, id: u32) -> u8 {
        let found = (0..=u8::MAX).find(|devfn| self.config_read(*devfn, 0, Size::Dword) == id);
        found.unwrap_or_else(|| panic!("there is no {id:#x}"))
    }

    /// Whether the pin of a function of this device is raised.
    fn pin(&self, device: u8) -> bool {
        let (chip, number) = match self.kind {
            BoardKind::X86Pc => ("ioapic", [14, 10, 11, 5][usize::from(device % 4)]),
            BoardKind::Arm64Virt => ("gic", 4 + u32::from(device)),
        };
        self.machine.wires().level(Pin { device: chip, side: Side::In, number })
    }

    /// How often a device's doorbells have rung without its handler.
    fn doorbells_rung(&self, device: &str) -> u64 {
        let stats = self.machine.registry().stats();
        let of_device = stats.regions.iter().filter(|region| &*region.name.device == device);
        of_device.map(|region| region.counts.doorbells).sum()
    }

    fn bytes(&self, addr: u64) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.machine.ram().read(addr, &mut bytes).unwrap();
        bytes
    }
}

const RNG: u32 = 0x1044_1af4;

fn on(kind: BoardKind) {
    let board = Board::new(kind);
    let devfn = board.find(RNG);
    assert_eq!(devfn, 3 << 3, "behind the educational devices");
    let driver = Driver::new(PciTransport::new(&board, devfn, board.memory));
    let (buffer, table) = (board.ram + MIB, board.ram + 2 * MIB);
    let mut ring = Ring::new(board.machine.ram().clone(), table, 16);
    driver.start(!0, &[&ring]);
    ring.set_used_event(0);
    ring.add(&[Part::Write(buffer, 16)]);
    driver.transport.notify(0);
    assert_eq!(ring.take_used().map(|(_, written)| written), Some(16));
    let first = board.bytes(buffer);
    assert_ne!(first, [0; 16]);
    assert!(board.pin(3), "at the pin");
    assert_eq!(driver.transport.take_interrupts(), 1);
    assert!(!board.pin(3));

    // A machine restored from this one goes on with the driver's queue.
    let snapshot = board.machine.save();
    let other = Board::new(kind);
    let mut ram = vec![0; usize::try_from(4 * MIB).unwrap()];
    board.machine.ram().read(board.ram, &mut ram).unwrap();
    other.machine.ram().write(board.ram, &ram).unwrap();
    other.machine.restore(&snapshot).unwrap();
    let doorbell = driver.transport.doorbell(0);
    ring.add(&[Part::Write(buffer, 16)]);
    board.machine.ram().read(board.ram, &mut ram).unwrap();
    other.machine.ram().write(board.ram, &ram).unwrap();
    other.machine.ram().write(buffer, &[0; 16]).unwrap();
    other.write(Space::Mmio, doorbell, Size::Word, 0);
    assert_ne!(other.bytes(buffer), [0; 16]);

    // A reset of the machine is the device's.
    board.machine.reset();
    let driver = Driver::new(PciTransport::new(&board, devfn, board.memory));
    assert_eq!(driver.transport.status(), 0);
}

#[test]
fn an_entropy_source_on_the_pc() {
    on(BoardKind::X86Pc);
}

#[test]
fn an_entropy_source_on_the_arm64_board() {
    on(BoardKind::Arm64Virt);
}

const BLK: u32 = 0x1042_1af4;

/// Two disks on a board, and what writes to the second.
struct TwoDisks {
    board: Board,
    paths: [PathBuf; 2],
    _folder: tempfile::TempDir,
}

impl TwoDisks {
    fn new(kind: BoardKind, virtio: impl Into<VirtioTransports>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a.img", "b.img"].map(|name| folder.path().join(name));
        paths.iter().for_each(|path| std::fs::write(path, vec![0; 1 << 20]).unwrap());
        let disks = paths.iter().map(DiskOptions::new).collect();
        Self { board: Board::with(kind, virtio, disks), paths, _folder: folder }
    }

    fn on_bus(kind: BoardKind) {
        let this = Self::new(kind, VirtioTransport::Pci);
        let board = &this.board;
        assert_eq!(board.find(BLK), 3 << 3, "the first disk is behind the educational devices");
        this.write_second(PciTransport::new(board, 4 << 3, board.memory));
    }

    /// Writes a sector to the second disk, flushes, and reads it back.
    fn write_second(&self, transport: impl Transport) {
        let board = &self.board;
        let driver = Driver::new(transport);
        assert_eq!(driver.transport.config_read(0, Size::Qword), 2048);
        let (header, data, table) = (board.ram + MIB, board.ram + MIB + 512, board.ram + 2 * MIB);
        let size = driver.transport.queue_size_max(0);
        let mut ring = Ring::new(board.machine.ram().clone(), table, size);
        driver.start(!0, &[&ring]);
        let mut ask = |kind: u32, sector: u64, parts: &[Part]| {
            let ram = board.machine.ram();
            ram.write(header, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat())
                .unwrap();
            ram.write(header + 16, &[0xee]).unwrap();
            let parts = [&[Part::Read(header, 16)], parts, &[Part::Write(header + 16, 1)]].concat();
            ring.add(&parts);
            driver.transport.notify(0);
            assert!(ring.take_used().is_some(), "under qtest it is done at once");
            board.bytes(header + 16)[0]
        };
        board.machine.ram().write(data, &[0x5a; 512]).unwrap();
        assert_eq!(ask(1, 7, &[Part::Read(data, 512)]), 0);
        assert_eq!(ask(4, 0, &[]), 0);
        assert_eq!(ask(0, 7, &[Part::Write(data + 512, 512)]), 0);
        assert_eq!(board.bytes(data + 512), [0x5a; 16]);
        assert_eq!(ask(0, 2048, &[Part::Write(data + 512, 512)]), 1, "there is no such sector");
        let [first, second] = self.paths.each_ref().map(|path| std::fs::read(path).unwrap());
        assert_eq!(first, vec![0; 1 << 20]);
        assert_eq!(second[7 * 512..8 * 512], [0x5a; 512]);
    }
}

#[test]
fn disks_on_the_pc() {
    TwoDisks::on_bus(BoardKind::X86Pc);
}

#[test]
fn disks_on_the_arm64_board() {
    TwoDisks::on_bus(BoardKind::Arm64Virt);
}

#[test]
fn disks_behind_windows_of_registers() {
    let transports = [VirtioTransport::Mmio, VirtioTransport::MmioLegacy];
    for (kind, virtio) in
        BOARDS.into_iter().flat_map(|kind| transports.map(|virtio| (kind, virtio)))
    {
        let disks = TwoDisks::new(kind, virtio);
        let board = &disks.board;
        let found: Vec<_> = (0..0x800)
            .step_by(0x200)
            .map(|offset| board.read(Space::Mmio, windows(kind) + offset + 8, Size::Dword))
            .map(|found| found & 0xffff_ffff)
            .collect();
        assert_eq!(found, [2, 2, 4, 0xffff_ffff], "types of device");
        let bus = (0..=u8::MAX).map(|devfn| board.config_read(devfn, 0, Size::Dword));
        let virtio_on_bus = bus.filter(|id| id & 0xffff == 0x1af4).count();
        assert_eq!(virtio_on_bus, 0, "nothing is in two places");
        disks.write_second(MmioTransport::new(board, windows(kind) + 0x200));
        assert!(board.machine.wires().level(window_pin(kind, 1)), "the second window's");
    }
}

#[test]
fn disks_by_the_registers_of_legacy_drivers() {
    for kind in BOARDS {
        let disks = TwoDisks::new(kind, VirtioTransport::PciLegacy);
        let board = &disks.board;
        assert_eq!(board.find(0x1001_1af4), 3 << 3);
        disks.write_second(LegacyPciTransport::new(board, 4 << 3, &board.room()));
        assert!(board.pin(4));
        assert_eq!(board.doorbells_rung("disk1"), 4);
        let disks = TwoDisks::new(kind, VirtioTransport::PciTransitional);
        let board = &disks.board;
        disks.write_second(LegacyPciTransport::new(board, 4 << 3, &board.room()));
        let disks = TwoDisks::new(kind, VirtioTransport::PciTransitional);
        disks.write_second(PciTransport::new(&disks.board, 4 << 3, disks.board.memory));
    }
}

#[test]
fn each_device_can_have_registers_of_its_own() {
    for kind in BOARDS {
        let named = [("disk1", VirtioTransport::MmioLegacy), ("rng", VirtioTransport::PciLegacy)];
        let named = named.map(|(name, transport)| (name.to_owned(), transport)).to_vec();
        let virtio = VirtioTransports { others: VirtioTransport::Pci, named };
        let disks = TwoDisks::new(kind, virtio);
        let board = &disks.board;
        assert_eq!(board.find(BLK), 3 << 3);
        assert_eq!(board.find(0x1005_1af4), 4 << 3);
        let transport = MmioTransport::new(board, windows(kind));
        assert!(transport.is_legacy());
        disks.write_second(transport);
    }
}

#[test]
fn a_transport_for_a_device_that_is_not_there_is_refused() {
    let named = vec![("disk0".to_owned(), VirtioTransport::Mmio)];
    let virtio = VirtioTransports { others: VirtioTransport::Pci, named };
    let error = machine(BoardKind::X86Pc, virtio, Vec::new()).err().unwrap();
    let sentence = "there is no virtio device disk0 to be behind mmio; there are rng";
    assert_eq!(error.to_string(), sentence);
}

#[test]
fn more_devices_than_windows_are_refused() {
    for (kind, windows) in [(BoardKind::X86Pc, 32), (BoardKind::Arm64Virt, 28)] {
        let folder = tempfile::tempdir().unwrap();
        let disks: Vec<_> = (0..windows)
            .map(|n| {
                let path = folder.path().join(n.to_string());
                std::fs::write(&path, [0; 512]).unwrap();
                DiskOptions::new(path)
            })
            .collect();
        let error = machine(kind, VirtioTransport::Mmio, disks.clone()).err().unwrap();
        assert_eq!(error.to_string(), "the board has no window of registers left for rng");
        machine(kind, VirtioTransport::Mmio, disks[1..].to_vec()).unwrap();
    }
}

#[test]
fn a_disk_that_cannot_be_had_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    std::fs::write(&path, [0; 512]).unwrap();
    let both = vec![DiskOptions::new(&path); 2];
    let machine = std::panic::catch_unwind(|| Board::with_disks(BoardKind::X86Pc, both));
    assert!(machine.is_err(), "the second is in the first one's way");
    Board::with_disks(BoardKind::X86Pc, vec![DiskOptions::new(&path)]);
}

#[test]
fn under_qtest_a_message_is_a_write_to_ram() {
    let board = Board::new(BoardKind::X86Pc);
    let driver = Driver::new(PciTransport::new(&board, board.find(RNG), board.memory));
    let message = 3 * MIB;
    driver.transport.enable_msix(&[(message, 0x1234_5678), (message + 4, 0x8765_4321)]);
    let mut ring = Ring::new(board.machine.ram().clone(), 2 * MIB, 16);
    driver.transport.set_queue_vector(0, 1);
    driver.start(1 << 32, &[&ring]);
    driver.transport.set_queue_vector(0, 1);
    ring.add(&[Part::Write(MIB, 16)]);
    driver.transport.notify(0);
    let written = board.bytes(message);
    assert_eq!(written[..8], [0, 0, 0, 0, 0x21, 0x43, 0x65, 0x87]);
}

#[test]
fn registers_can_be_windows_in_memory_with_an_interrupt_each() {
    let transports = [VirtioTransport::Mmio, VirtioTransport::MmioLegacy];
    for (kind, virtio) in
        BOARDS.into_iter().flat_map(|kind| transports.map(|virtio| (kind, virtio)))
    {
        let board = Board::with(kind, virtio, Vec::new());
        let driver = Driver::new(MmioTransport::new(&board, windows(kind)));
        assert_eq!(driver.transport.is_legacy(), virtio == VirtioTransport::MmioLegacy);
        let pin = window_pin(kind, 0);
        goes_on_elsewhere(&board, &driver, virtio, &|| board.machine.wires().level(pin));
    }
}

#[test]
fn registers_can_be_those_of_legacy_pci_drivers() {
    for kind in BOARDS {
        let virtio = VirtioTransport::PciLegacy;
        let board = Board::with(kind, virtio, Vec::new());
        let devfn = board.find(0x1005_1af4);
        let driver = Driver::new(LegacyPciTransport::new(&board, devfn, &board.room()));
        goes_on_elsewhere(&board, &driver, virtio, &|| board.pin(devfn >> 3));
    }
}

/// An entropy source answers, interrupts, and goes on on another board where this one is restored.
fn goes_on_elsewhere(
    board: &Board,
    driver: &Driver<impl Transport>,
    virtio: VirtioTransport,
    level: &dyn Fn() -> bool,
) {
    let buffer = board.ram + MIB;
    let mut ring = Ring::new(board.machine.ram().clone(), board.ram + 2 * MIB, 128);
    driver.start(!0, &[&ring]);
    ring.set_used_event(0);
    ring.add(&[Part::Write(buffer, 16)]);
    driver.transport.notify(0);
    assert_eq!(ring.take_used().map(|(_, written)| written), Some(16));
    assert_ne!(board.bytes(buffer), [0; 16]);
    assert!(level());
    assert_eq!(driver.transport.take_interrupts(), 1);
    assert!(!level());
    assert_eq!(board.doorbells_rung("rng"), 1);

    // A machine restored from this one goes on with the driver's queue, which rings there too.
    let snapshot = board.machine.save();
    let other = Board::with(board.kind, virtio, Vec::new());
    ring.add(&[Part::Write(buffer, 16)]);
    let mut ram = vec![0; usize::try_from(4 * MIB).unwrap()];
    board.machine.ram().read(board.ram, &mut ram).unwrap();
    other.machine.ram().write(board.ram, &ram).unwrap();
    other.machine.ram().write(buffer, &[0; 16]).unwrap();
    other.machine.restore(&snapshot).unwrap();
    let legacy = virtio == VirtioTransport::PciLegacy;
    match legacy {
        true => {
            let devfn = other.find(0x1005_1af4);
            LegacyPciTransport::new(&other, devfn, &other.room()).notify(0);
        }
        false => MmioTransport::new(&other, windows(board.kind)).notify(0),
    }
    assert_ne!(other.bytes(buffer), [0; 16]);
    assert_eq!(other.doorbells_rung("rng"), 1);

    board.machine.reset();
    // Ports are where they were once more, for the driver to see that.
    if legacy {
        let devfn = board.find(0x1005_1af4);
        let transport = LegacyPciTransport::new(board, devfn, &board.room());
        assert_eq!(transport.status(), 0);
    } else {
        assert_eq!(driver.transport.status(), 0);
    }
}
