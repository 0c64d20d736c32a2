//! Devices that reach guest memory, recorded on a board without KVM and played again.

use std::io::{Cursor, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline::{Handle, Mode, Registry};
use trapline_backends::{Outlet, PolledLoop};
use trapline_block::{DiskOptions, Limits};
use trapline_device::{AccessClock, Clock, Size, Space, Stamp, Timer, Wake};
use trapline_guestmem::{Backing, GuestMem};
use trapline_net::{Addresses, NetMode, NetOptions, UserBackend, UserNetOptions, UserOptions};
use trapline_ninep::{ShareOptions, kind};
use trapline_testkit::ninep::{Field, message};
use trapline_testkit::virtio::{Access, Driver, Part, PciTransport, Ring, Transport};
use trapline_testkit::{TestClock, TestPower, TestTerminal};

use super::replay::board::ReplayBoard;
use super::replay::{Begin, Fault, Options as ReplayOptions, ReplayError, Verdict, replay};
use super::settings::Settings;
use super::*;
use crate::board::{self, Vfio, VirtioHandles, Wiring};
use crate::on_loop::CoalescedWrites;
use crate::{Boot, FirmwareFlash, PcIrqchip, PortOptions, VsockOptions, x86_pc};

mod snapshots;

const MIB: u64 = 1 << 20;
/// Where memory BARs can be.
const BARS: u64 = 0xe000_0000;
const FW_CFG_DMA: u64 = 0x514;

/// How long the machine takes to be built here, where that is known: longer than a second, so that the
/// real-time clock has moved on meanwhile.
const BUILDING_NS: u64 = 1_500_000_000;

/// A clock that tells devices the time stamp of their access, as the host's does.
struct Stamped(TestClock);

impl Clock for Stamped {
    fn now_ns(&self) -> u64 {
        Stamp::in_force().unwrap_or_else(|| self.0.now_ns())
    }

    fn utc_ns(&self) -> u64 {
        self.0.utc_ns()
    }

    fn timer(&self, target: Weak<dyn Wake>) -> Box<dyn Timer> {
        self.0.timer(target)
    }
}

impl AccessClock for Stamped {
    fn stamp_ns(&self) -> u64 {
        self.0.now_ns()
    }
}

/// A PC that is recorded, without a processor.
struct Pc {
    _board: x86_pc::Replayed,
    ram: GuestMem,
    handle: Mutex<Handle>,
    event_loop: Arc<PolledLoop>,
    clock: TestClock,
    terminal: TestTerminal,
    recorded: Recorded,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

/// A machine with nothing, recorded.
fn config(folder: &Path, terminal: &TestTerminal, payload: bool) -> Config {
    let path = "/no/such/firmware".into();
    let boot = Boot::Firmware { path, flash: FirmwareFlash::None, kernel: None };
    Config {
        coalesce: false,
        mirror: false,
        pc_irqchip: PcIrqchip::Split,
        record: Some(RecordOptions {
            path: folder.join("recording"),
            exact: true,
            payload,
            arguments: Vec::new(),
        }),
        ..Config::new(boot, 8 * MIB, Arc::new(terminal.clone()))
    }
}

impl Pc {
    fn new(change: impl FnOnce(&mut Config, &Path)) -> Self {
        Self::with_payload(false, change)
    }

    fn with_payload(payload: bool, change: impl FnOnce(&mut Config, &Path)) -> Self {
        let (folder, terminal) = (tempfile::tempdir().unwrap(), TestTerminal::default());
        let mut config = config(folder.path(), &terminal, payload);
        change(&mut config, folder.path());
        let registry = Registry::builder().build();
        let clock = TestClock::default();
        let stamped = Arc::new(Stamped(clock.clone()));
        registry.start_recorder(stamped.clone(), Mode::Lossless);
        let event_loop = PolledLoop::new(CoalescedWrites::of(&registry)).unwrap();
        let mut options = Options::from(&config);
        let tapped = Tapped::of(&config, &registry, stamped, &mut options).unwrap();
        clock.step_ns(BUILDING_NS);
        let ranges = x86_pc::ram_ranges(config.mem_bytes).unwrap();
        let ram = board::map_ram(&ranges, &Backing::Private).unwrap();
        let wiring = Wiring {
            isolates: Arc::default(),
            registry: registry.clone(),
            clock: tapped.clock(),
            host_clock: tapped.host_clock(),
            journal: tapped.journal(),
            event_loop: event_loop.clone(),
            power: Arc::new(TestPower::default()),
            ram: ram.clone(),
            vfio: Vfio::default(),
            options,
        };
        let meta = settings::meta(
            (&config, config.record.as_ref().unwrap()),
            0,
            settings::SPLIT,
            &VirtioHandles::default(),
        );
        let settings = Settings::of(&meta).unwrap();
        let board = x86_pc::Replayed::new(&wiring, &settings).unwrap();
        board.power_on();
        let recorded = tapped.begin(&config, settings::SPLIT, board.board(), &registry);
        let recorded = recorded.unwrap().unwrap();
        let handle = Mutex::new(registry.handle(0));
        let path = config.record.unwrap().path;
        let (_board, _folder) = (board, folder);
        Self { _board, ram, handle, event_loop, clock, terminal, recorded, path, _folder }
    }

    fn settle(&self) {
        self.event_loop.settle(1000);
    }

    /// Until `done`, as some things are done by threads.
    fn wait_for(&self, mut done: impl FnMut() -> bool) {
        while !done() {
            self.settle();
            std::thread::yield_now();
        }
    }

    fn find(&self, id: u32) -> u8 {
        (0..=u8::MAX).find(|devfn| self.config_read(*devfn, 0, Size::Dword) == id).unwrap()
    }

    fn driver(&self, id: u32) -> Driver<PciTransport<&Self>> {
        Driver::new(PciTransport::new(self, self.find(id), BARS))
    }

    fn ring(&self, number: u64) -> Ring<GuestMem> {
        Ring::new(self.ram.clone(), 2 * MIB + number * 0x4000, 64)
    }

    /// Ends the recording; its bytes.
    fn finish(self) -> Vec<u8> {
        self.recorded.finish().unwrap();
        std::fs::read(&self.path).unwrap()
    }
}

impl Access for Pc {
    fn read(&self, space: Space, addr: u64, size: Size) -> u64 {
        let value = self.handle.lock().read_value(space, addr, size);
        self.settle();
        value
    }

    fn write(&self, space: Space, addr: u64, size: Size, value: u64) {
        self.handle.lock().write_value(space, addr, size, value);
        self.settle();
    }

    fn config_read(&self, devfn: u8, offset: u16, size: Size) -> u32 {
        let address = 1 << 31 | u64::from(devfn) << 8 | u64::from(offset & 0xfc);
        self.write(Space::Pio, 0xcf8, Size::Dword, address);
        let value = self.read(Space::Pio, 0xcfc + u64::from(offset & 3), size);
        u32::try_from(value & size.ones()).unwrap()
    }

    fn config_write(&self, devfn: u8, offset: u16, size: Size, value: u32) {
        let address = 1 << 31 | u64::from(devfn) << 8 | u64::from(offset & 0xfc);
        self.write(Space::Pio, 0xcf8, Size::Dword, address);
        self.write(Space::Pio, 0xcfc + u64::from(offset & 3), size, value.into());
    }
}

fn play(recording: &[u8]) -> Verdict {
    replay(Cursor::new(recording), &ReplayOptions::default()).unwrap()
}

/// Plays it, and expects so many inputs and outputs at least, and no difference.
fn same(recording: &[u8], inputs: u64, outputs: u64) {
    let verdict = play(recording);
    assert_eq!(verdict.difference, None, "{verdict:?}");
    assert_eq!((&verdict.incomplete, verdict.skipped), (&None, 0));
    assert!(verdict.inputs >= inputs && verdict.outputs >= outputs, "{verdict:?}");
}

const BLK: u32 = 0x1042_1af4;
const NET: u32 = 0x1041_1af4;
const RNG: u32 = 0x1044_1af4;
const BALLOON: u32 = 0x1045_1af4;
const CONSOLE: u32 = 0x1043_1af4;
const P9: u32 = 0x1049_1af4;
const VSOCK: u32 = 0x1053_1af4;

fn with_disk(config: &mut Config, folder: &Path) {
    let path = folder.join("disk");
    std::fs::write(&path, vec![0x5a; 1 << 20]).unwrap();
    config.disks.push(DiskOptions { queues: 2, ..DiskOptions::new(path) });
}

/// A disk and its driver, with two queues.
struct Disk<'a> {
    pc: &'a Pc,
    driver: Driver<PciTransport<&'a Pc>>,
    rings: [Ring<GuestMem>; 2],
}

/// Where a request's data is.
const DATA: u64 = MIB + 0x1000;

impl<'a> Disk<'a> {
    fn start(pc: &'a Pc) -> Self {
        let (driver, rings) = (pc.driver(BLK), [pc.ring(0), pc.ring(1)]);
        driver.start(!0, &rings.each_ref());
        Self { pc, driver, rings }
    }

    /// Makes a request in a queue, and waits for its status.
    fn ask(&mut self, queue: u16, kind: u32, sector: u64, parts: &[Part]) -> u8 {
        let (header, status, ram) = (MIB, MIB + 0x100, &self.pc.ram);
        let bytes = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        ram.write(header, &bytes).unwrap();
        let ring = &mut self.rings[usize::from(queue)];
        ring.add(&[&[Part::Read(header, 16)], parts, &[Part::Write(status, 1)]].concat());
        self.driver.transport.notify(queue);
        self.pc.wait_for(|| ring.take_used().is_some());
        let mut answer = [0];
        ram.read(status, &mut answer).unwrap();
        answer[0]
    }

    fn use_it(&mut self) {
        for round in 0..3_u64 {
            self.pc.ram.write(DATA, &[u8::try_from(round).unwrap(); 1024]).unwrap();
            assert_eq!(self.ask(0, 1, round, &[Part::Read(DATA, 1024)]), 0, "write");
            assert_eq!(self.ask(1, 0, round + 8, &[Part::Write(DATA, 512)]), 0, "read");
            assert_eq!(self.ask(0, 4, 0, &[]), 0, "flush");
            assert_eq!(self.ask(1, 0, 1 << 40, &[Part::Write(DATA, 512)]), 1, "too far");
            assert_eq!(self.ask(0, 8, 0, &[Part::Write(DATA, 20)]), 0, "serial number");
            assert_eq!(self.ask(0, 99, 0, &[]), 2, "no such request");
        }
        self.driver.reset();
    }
}

/// A disk that was used, recorded.
fn disk_recording(payload: bool) -> Vec<u8> {
    let pc = Pc::with_payload(payload, with_disk);
    Disk::start(&pc).use_it();
    Disk::start(&pc).use_it();
    pc.finish()
}

#[test]
fn a_disk_is_the_same_without_its_image() {
    let (plain, full) = (disk_recording(false), disk_recording(true));
    same(&plain, 200, 100);
    same(&full, 200, 100);
    let unseen = |recording: &[u8]| play(recording).unseen.len();
    assert_eq!(unseen(&plain), unseen(&full) + 1, "the data is not in it");
    let has = |recording: &[u8]| {
        let mut reader = trapline_trace::Reader::open(Cursor::new(recording)).unwrap();
        let blobs = (0..).map_while(|number| reader.blob(number).map(<[u8]>::to_vec).ok());
        blobs.filter(|blob| *blob == [2; 1024]).count()
    };
    assert_eq!((has(&plain), has(&full)), (0, 2), "what was written");
}

#[test]
fn a_disk_with_limits_wakes_up_when_it_did() {
    let pc = Pc::new(|config, folder| {
        with_disk(config, folder);
        config.disks[0].limits = Limits { iops: std::num::NonZeroU64::new(10), bps: None };
    });
    let mut disk = Disk::start(&pc);
    let ring = &mut disk.rings[0];
    pc.ram.write(MIB, &[0; 16]).unwrap();
    for n in 0..20 {
        let (data, status) = (DATA + n * 512, MIB + 0x100 + n);
        ring.add(&[Part::Read(MIB, 16), Part::Write(data, 512), Part::Write(status, 1)]);
    }
    disk.driver.transport.notify(0);
    let mut done = 0;
    while done < 20 {
        pc.clock.step_ns(50_000_000);
        pc.settle();
        done += std::iter::from_fn(|| ring.take_used()).count();
    }
    drop(disk);
    same(&pc.finish(), 50, 40);
}

#[test]
fn random_bytes_and_balloons_are_the_same() {
    let pc = Pc::new(|config, _| {
        config.rng = true;
        config.balloon = Some(MIB);
    });
    let (rng, mut ring) = (pc.driver(RNG), pc.ring(0));
    rng.start(!0, &[&ring]);
    for _ in 0..5 {
        ring.add(&[Part::Write(DATA, 1000)]);
        rng.transport.notify(0);
        assert_eq!(ring.take_used().map(|used| used.1), Some(1000));
    }
    rng.reset();
    let (balloon, mut ring) = (pc.driver(BALLOON), pc.ring(1));
    balloon.start(!0, &[&ring]);
    pc.ram.write(MIB, &[0x80, 4, 0, 0, 0x81, 4, 0, 0]).unwrap();
    ring.add(&[Part::Read(MIB, 8)]);
    balloon.transport.notify(0);
    assert!(ring.take_used().is_some());
    same(&pc.finish(), 50, 30);
}

#[test]
fn consoles_and_ports_are_the_same() {
    let pc = Pc::new(|config, folder| {
        config.console_kind = crate::ConsoleKind::Virtio;
        let outlet = Outlet::File(folder.join("log"));
        config.ports.push(PortOptions { name: "log".into(), outlet });
    });
    let driver = pc.driver(CONSOLE);
    let mut rings: Vec<_> = (0..6).map(|n| pc.ring(n)).collect();
    driver.start(!0, &rings.iter().collect::<Vec<_>>());
    pc.ram.write(DATA, b"hello").unwrap();
    for queue in [1, 5] {
        rings[queue].add(&[Part::Read(DATA, 5)]);
        driver.transport.notify(u16::try_from(queue).unwrap());
        assert!(rings[queue].take_used().is_some());
    }
    // Half of it is taken, and the rest a second later no more.
    pc.terminal.set_room(2);
    rings[1].add(&[Part::Read(DATA, 5)]);
    driver.transport.notify(1);
    pc.clock.step_ns(2_000_000_000);
    pc.settle();
    assert_eq!(pc.terminal.screen(), b"hellohe");
    assert!(rings[1].take_used().is_some());
    same(&pc.finish(), 40, 15);
}

#[test]
fn frames_are_the_same_without_a_network() {
    let (ours, mut wire) = UnixStream::pair().unwrap();
    let pc = Pc::new(|config, _| {
        config.nets.push(NetOptions::new(0, NetMode::Socket(ours.as_raw_fd())));
    });
    drop(ours);
    let (driver, mut rings) = (pc.driver(NET), [pc.ring(0), pc.ring(1)]);
    driver.start(!0, &rings.each_ref());
    pc.ram.write(DATA, &[0; 64]).unwrap();
    for _ in 0..4 {
        rings[1].add(&[Part::Read(DATA, 60)]);
        driver.transport.notify(1);
        rings[0].add(&[Part::Write(DATA + 0x1000, 128)]);
        driver.transport.notify(0);
        wire.write_all(&[&[0, 0, 0, 64][..], &[0xff; 64]].concat()).unwrap();
        pc.wait_for(|| rings[0].take_used().is_some());
        assert!(rings[1].take_used().is_some());
    }
    drop(wire);
    pc.settle();
    let _status = driver.transport.config_read(6, Size::Word);
    driver.reset();
    same(&pc.finish(), 40, 30);
}

/// A network in this process has timers and sockets of its own, which are not the machine's.
#[test]
fn frames_are_the_same_without_a_network_of_ours() {
    let network = UserNetOptions { addresses: Addresses::new(0), forwards: Vec::new() };
    let user = UserOptions { network, backend: UserBackend::Embedded };
    let pc = Pc::new(|config, _| config.nets.push(NetOptions::new(0, NetMode::User(user))));
    let (driver, mut rings) = (pc.driver(NET), [pc.ring(0), pc.ring(1)]);
    driver.start(!0, &rings.each_ref());
    // RFC 4861: a solicitation of routers, from fe80::15 to all of them.
    let mut link_local = [0; 16];
    (link_local[0], link_local[1], link_local[15]) = (0xfe, 0x80, 0x15);
    let mut routers = [0; 16];
    (routers[0], routers[1], routers[15]) = (0xff, 2, 2);
    let ethernet = [0x33, 0x33, 0, 0, 0, 2, 2, 0, 0, 0, 0, 7, 0x86, 0xdd];
    let ip = [0x60, 0, 0, 0, 0, 8, 58, 255];
    let header = [0; 12];
    let asked = [&header[..], &ethernet, &ip, &link_local, &routers, &[133, 0, 0, 0, 0, 0, 0, 0]];
    let asked = asked.concat();
    pc.ram.write(DATA, &asked).unwrap();
    for _ in 0..2 {
        rings[0].add(&[Part::Write(DATA + 0x1000, 256)]);
    }
    driver.transport.notify(0);
    rings[1].add(&[Part::Read(DATA, u32::try_from(asked.len()).unwrap())]);
    driver.transport.notify(1);
    pc.wait_for(|| rings[0].take_used().is_some());
    assert!(rings[1].take_used().is_some());
    // It says so again, of its own accord.
    pc.clock.step_ns(601_000_000_000);
    pc.wait_for(|| rings[0].take_used().is_some());
    same(&pc.finish(), 20, 15);
}

/// A packet of a socket device (virtio 1.3, section 5.10.6) from the guest's port 7 to the host's port 80.
fn packet(op: u8, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = [0; 44];
    (bytes[0], bytes[8], bytes[16], bytes[20]) = (3, 2, 7, 80);
    bytes[24] = u8::try_from(data.len()).unwrap();
    (bytes[28], bytes[30], bytes[32], bytes[37]) = (1, op, flags, 0x10);
    [&bytes, data].concat()
}

#[test]
fn sockets_are_the_same_without_the_host() {
    let mut socket = PathBuf::new();
    let pc = Pc::with_payload(true, |config, folder| {
        socket = folder.join("v");
        config.vsock = Some(VsockOptions { cid: 3, socket: socket.clone() });
    });
    let listener = UnixListener::bind(socket.with_file_name("v_80")).unwrap();
    let (driver, mut rings) = (pc.driver(VSOCK), [pc.ring(0), pc.ring(1)]);
    driver.start(!0, &rings.each_ref());
    let send = |rings: &mut [Ring<GuestMem>; 2], bytes: &[u8]| {
        pc.ram.write(DATA, bytes).unwrap();
        rings[1].add(&[Part::Read(DATA, u32::try_from(bytes.len()).unwrap())]);
        driver.transport.notify(1);
        pc.wait_for(|| rings[1].take_used().is_some());
    };
    let receive = |rings: &mut [Ring<GuestMem>; 2]| {
        rings[0].add(&[Part::Write(DATA + 0x1000, 256)]);
        driver.transport.notify(0);
        let mut written = 0;
        pc.wait_for(|| {
            let used = rings[0].take_used();
            written = used.map_or(written, |(_, written)| written);
            used.is_some()
        });
        let mut bytes = vec![0; written as usize];
        pc.ram.read(DATA + 0x1000, &mut bytes).unwrap();
        bytes
    };
    // OP_REQUEST, OP_RESPONSE, OP_RW.
    send(&mut rings, &packet(1, 0, b""));
    assert_eq!(receive(&mut rings)[30], 2);
    let (mut server, _) = listener.accept().unwrap();
    send(&mut rings, &packet(5, 0, b"question"));
    let mut data = [0; 8];
    server.read_exact(&mut data).unwrap();
    assert_eq!(data, *b"question");
    server.write_all(b"answer").unwrap();
    assert!(receive(&mut rings).ends_with(b"answer"));
    // Somebody calls, and leaves again; and the guest's own connection ends.
    let mut client = UnixStream::connect(&socket).unwrap();
    client.write_all(b"CONNECT 22\n").unwrap();
    assert_eq!(receive(&mut rings)[30], 1);
    drop((client, server));
    // OP_SHUTDOWN, once from the host, and of both directions from the guest, then OP_RST.
    assert_eq!(receive(&mut rings)[30], 4);
    send(&mut rings, &packet(4, 3, b""));
    assert_eq!(receive(&mut rings)[30], 3);
    driver.reset();
    let recording = pc.finish();
    assert!(!socket.exists(), "the socket goes with the machine");
    same(&recording, 40, 15);
}

#[test]
fn a_shared_folder_is_the_same_without_the_folder() {
    let pc = Pc::new(|config, folder| config.shares.push(ShareOptions::new(folder, "tag")));
    let (driver, mut ring) = (pc.driver(P9), pc.ring(0));
    driver.start(!0, &[&ring]);
    let version = message(kind::TVERSION, 1, &[Field::U32(8192), Field::Str(b"9P2000.L")]);
    // Tflush of a request that is not there, answered at once.
    let flush = message(kind::TFLUSH, 2, &[Field::U16(9)]);
    for request in [&version, &flush, &version] {
        pc.ram.write(MIB, request).unwrap();
        let len = u32::try_from(request.len()).unwrap();
        ring.add(&[Part::Read(MIB, len), Part::Write(DATA, 100)]);
        driver.transport.notify(0);
        pc.wait_for(|| ring.take_used().is_some());
    }
    same(&pc.finish(), 20, 10);
}

#[test]
fn firmware_reads_files_by_dma_as_it_did() {
    let pc = Pc::new(|config, _| config.fw_cfg.push(("opt/x".to_owned(), b"contents".to_vec())));
    // Selects each item in turn, and reads all of it: big-endian control, length and address.
    for key in (0..0x30_u32).chain([0xffff]) {
        let control = (key << 16) | 0x0a;
        let access = [&control.to_be_bytes()[..], &64_u32.to_be_bytes(), &DATA.to_be_bytes()];
        pc.ram.write(MIB, &access.concat()).unwrap();
        let at = u32::try_from(MIB).unwrap();
        pc.write(Space::Pio, FW_CFG_DMA + 4, Size::Dword, at.swap_bytes().into());
    }
    let recording = pc.finish();
    same(&recording, 49, 98);
}

/// Register C of the real-time clock, whose flags tell which seconds have passed; the time itself; and
/// both again a second later.
#[test]
fn a_clock_is_the_same_however_long_it_took_to_build_the_machine() {
    let pc = Pc::new(|_, _| ());
    for _ in 0..2 {
        for register in [0x0c, 0x0a, 0] {
            pc.write(Space::Pio, 0x70, Size::Byte, register);
            pc.read(Space::Pio, 0x71, Size::Byte);
        }
        pc.clock.step_ns(1_000_000_000);
    }
    same(&pc.finish(), 0, 0);
}

#[test]
fn the_file_of_a_run_names_registers_as_they_were_selected() {
    let pc = Pc::new(|_, _| ());
    let write = |port, value| pc.write(Space::Pio, port, Size::Byte, value);
    write(0x70, 0x0b);
    pc.read(Space::Pio, 0x71, Size::Byte);
    write(0x3fb, 0x83);
    write(0x3f8, 1);
    write(0x3fb, 3);
    write(0x3f8, u64::from(b'x'));
    let file = pc.finish();
    let mut reader = trapline_trace::Reader::open(Cursor::new(file)).unwrap();
    let mut sites = trapline_trace::Sites::new(reader.map());
    let mut merged = reader.merged().unwrap();
    let mut names = Vec::new();
    while let Some(event) = merged.next().unwrap() {
        let site = sites.of(&event).and_then(|site| sites.get(site));
        names.extend(site.map(|site| site.name()));
    }
    let expected = [
        "rtc/cmos RTC index",
        "rtc/cmos Register B",
        "serial0/uart LCR",
        "serial0/uart DLL",
        "serial0/uart LCR",
        "serial0/uart THR",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_queue_that_is_elsewhere_is_a_difference() {
    let recording = disk_recording(false);
    // The guest's word where a queue is, with one bit the other way round.
    let register = "disk0/bar4 queue_desc".to_owned();
    let fault = Fault { register, direction: trapline_device::Direction::Write, bits: 0x10_0000 };
    let options = ReplayOptions { fault: Some(fault), ..ReplayOptions::default() };
    let difference = replay(Cursor::new(&recording), &options).unwrap().difference.unwrap();
    assert!(difference.what.starts_with("memory: "), "{difference}");
}

#[test]
fn a_recording_with_memory_that_is_cut_or_damaged_is_played_as_far_as_it_is_whole() {
    let rounds = std::env::var("TRAPLINE_DAMAGES").ok();
    let rounds = rounds.map_or(100, |rounds| rounds.parse::<u32>().unwrap());
    let whole = disk_recording(true);
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..rounds {
        let (at, bit) = (random.usize(..whole.len()), random.u32(..8));
        let mut damaged = whole.clone();
        match round % 2 {
            0 => damaged.truncate(at),
            _ => damaged[at] ^= 1 << bit,
        }
        match replay(Cursor::new(&damaged), &ReplayOptions::default()) {
            Ok(verdict) => assert_eq!(verdict.difference, None, "{at} {bit}"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
