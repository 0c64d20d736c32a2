//! The devices, what is behind them, and what shows that they work.

use std::io::Write;
use std::sync::Arc;

use trapline_block::{Disk, DiskOptions};
use trapline_device::Clock;
use trapline_net::Mac;
use trapline_ninep::{ShareOptions, kind};
use trapline_testkit::ninep::{Field, message};
use trapline_testkit::virtio::{Driver, Part, Ring, Transport};
use trapline_testkit::{TestClock, TestTerminal};
use trapline_virtio::VirtioDevice;
use trapline_virtio::balloon::Balloon;
use trapline_virtio::blk::{Background, Blk};
use trapline_virtio::console::{Console, PortSetup};
use trapline_virtio::net::regs::{F_CTRL_RX, F_CTRL_VQ, F_GUEST_CSUM, F_MRG_RXBUF};
use trapline_virtio::net::{Net, NetSetup};
use trapline_virtio::p9::{Answering, P9};
use trapline_virtio::rng::{Entropy, Rng};
use trapline_virtio::vsock::Vsock;

use crate::callers::Callers;
use crate::machine::{Machine, Place, Registers};
use crate::wire::Wire;

/// Bytes of RAM, from address 0 on.
pub(crate) const RAM: u64 = 0x100_0000;
/// Where the device is that is attacked, and the one that must not notice.
pub(crate) const VICTIM: Place = Place::FIRST;
const BYSTANDER: Place = Place { devfn: 4 << 3, memory: 0xe100_0000, ports: 0xd000 };

/// Where rings are, one behind the other.
const RINGS: u64 = 0x10_0000;
const RING_LEN: u64 = 0x4000;
/// Buffers that attacks may use.
pub(crate) const BUFFERS: u64 = 0x80_0000;
/// What sane requests use.
const SANE: u64 = 0xc0_0000;

/// Places for ports that come and go, and those that have one.
pub(crate) const PLACES: usize = 3;
const PORTS: std::ops::Range<usize> = 0..2;

/// A port of the console: the first is for people.
fn port(terminal: &TestTerminal, number: usize) -> PortSetup {
    let name = (number > 0).then(|| format!("port{number}"));
    PortSetup { is_console: name.is_none(), name, backend: Arc::new(terminal.clone()) }
}

/// Bytes that are all the same.
pub(crate) struct Constant;

impl Entropy for Constant {
    fn fill(&self, buf: &mut [u8]) -> std::io::Result<()> {
        buf.fill(0x5a);
        Ok(())
    }
}

/// Which device is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Blk,
    Rng,
    Console,
    /// A console whose ports go and come while its driver does what it does.
    Ports,
    Balloon,
    /// A card to which frames come while its driver does what it does.
    Net,
    P9,
    /// A socket device that somebody of the host connects to while its driver does what it does.
    Vsock,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Blk,
        Self::Rng,
        Self::Console,
        Self::Ports,
        Self::Balloon,
        Self::Net,
        Self::P9,
        Self::Vsock,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Blk => "blk",
            Self::Rng => "rng",
            Self::Console => "console",
            Self::Ports => "ports",
            Self::Balloon => "balloon",
            Self::Net => "net",
            Self::P9 => "9p",
            Self::Vsock => "vsock",
        }
    }

    /// The queues it takes requests from, in the state that [`Scene::new`] leaves it in.
    pub(crate) fn queues(self) -> &'static [u16] {
        match self {
            Self::Blk | Self::Rng | Self::P9 => &[0],
            Self::Console => &[0, 1, 2, 3, 5],
            // The last is that of a place without a port.
            Self::Ports => &[2, 3, 5, 7],
            Self::Balloon => &[0, 1, 2, 3, 4],
            Self::Net | Self::Vsock => &[0, 1, 2],
        }
    }

    /// Whether it may keep a good request of this queue until it has something for it.
    pub(crate) fn keeps(self, queue: u16) -> bool {
        match self {
            Self::Blk | Self::Rng | Self::P9 => false,
            Self::Console | Self::Ports => matches!(queue, 0 | 2),
            Self::Balloon => queue == 2,
            Self::Net => queue == 0,
            Self::Vsock => queue != 1,
        }
    }

    /// Features that others of the kind need.
    fn needed(self) -> u64 {
        match self {
            Self::Net => F_CTRL_VQ | F_CTRL_RX | F_GUEST_CSUM | F_MRG_RXBUF,
            _ => 0,
        }
    }
}

/// A machine in the middle of things: the victim is started, with a ring for each queue.
pub(crate) struct Scene {
    pub(crate) machine: Machine,
    pub(crate) clock: TestClock,
    pub(crate) kind: Kind,
    pub(crate) rings: Vec<Ring<trapline_guestmem::GuestMem>>,
    /// Whether what was done may have written to the disk.
    pub(crate) disk_may_change: bool,
    terminal: TestTerminal,
    /// What the card is on.
    wire: Arc<Wire>,
    /// Whom the sockets of the host are.
    callers: Arc<Callers>,
    /// The device whose ports go and come.
    ports: Option<Arc<Console>>,
    _image: Option<tempfile::NamedTempFile>,
    folder: Option<tempfile::TempDir>,
}

impl Scene {
    /// A machine whose victim nobody has started.
    pub(crate) fn idle(registers: Registers, kind: Kind) -> Self {
        let terminal = TestTerminal::default();
        let (mut image, mut ports, mut folder) = (None, None, None);
        let (wire, callers) = (Wire::able(1), Arc::<Callers>::default());
        let (machine, clock) = (Machine::new(registers, RAM), TestClock::default());
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let device: Arc<dyn VirtioDevice> = match kind {
            Kind::Blk => {
                let mut file = tempfile::NamedTempFile::new().unwrap();
                file.write_all(&[0x11; 1 << 16]).unwrap();
                let disk = Disk::open(&DiskOptions::new(file.path())).unwrap();
                image = Some(file);
                Blk::new(&disk, &shared, Background::Awaited).unwrap()
            }
            Kind::Rng => Rng::new(Constant, shared),
            Kind::Console => {
                Console::new(Some(port(&terminal, 0)), vec![port(&terminal, 1)], shared)
            }
            Kind::Ports => {
                let console = Console::with_places(PLACES, shared);
                ports = Some(console.clone());
                console
            }
            Kind::Balloon => Balloon::new(machine.mem.clone(), 0x1000, shared),
            Kind::Net => {
                let mac = Mac([2, 0, 0, 0, 0, 1]);
                Net::new(NetSetup { mac, mtu: None, speed: None }, wire.clone())
            }
            Kind::P9 => {
                let dir = tempfile::tempdir().unwrap();
                let share = P9::new(&ShareOptions::new(dir.path(), "tag"), Answering::InTurn);
                folder = Some(dir);
                share.unwrap()
            }
            Kind::Vsock => Vsock::new(3, callers.clone()),
        };
        machine.plug(VICTIM, "victim", device);
        let bystander = Rng::new(Constant, Arc::new(clock.clone()));
        machine.plug(BYSTANDER, "bystander", bystander);
        let (rings, disk_may_change) = (Vec::new(), false);
        let scene = Self {
            machine,
            clock,
            kind,
            rings,
            disk_may_change,
            terminal,
            wire,
            callers,
            ports,
            _image: image,
            folder,
        };
        PORTS.for_each(|number| scene.add_port(number));
        scene
    }

    /// With the victim in use, with all of the features `wanted`, and something to do on each of its
    /// queues.
    pub(crate) fn new(registers: Registers, kind: Kind, wanted: u64) -> Self {
        let mut scene = Self::idle(registers, kind);
        scene.start(wanted);
        if matches!(kind, Kind::Console | Kind::Ports) {
            // Its first port is open, there is more to tell it, and somebody types.
            scene.say(0);
            scene.rings[2].add(&[Part::Write(SANE, 8)]);
            scene.notify(2);
            assert_eq!(scene.rings[2].take_used(), Some((0, 8)), "the port is there");
            scene.say(3);
            scene.say(6);
            scene.terminal.type_in(b"typed");
        }
        scene
    }

    /// Sends the console a message about its first port: `event`, with the value 1.
    fn say(&mut self, event: u8) {
        self.machine.mem.write(SANE, &[0, 0, 0, 0, event, 0, 1, 0]).unwrap();
        assert_eq!(self.request(3, &[Part::Read(SANE, 8)]), Some(0));
    }

    /// (Re)starts the victim with empty rings.
    pub(crate) fn start(&mut self, wanted: u64) {
        let driver = Driver::new(self.machine.transport(VICTIM));
        let sizes = (0..).map(|queue| driver.transport.queue_size_max(queue));
        let sizes: Vec<u16> = sizes.take_while(|size| *size > 0).collect();
        let places = (0..).map(|n| RINGS + n * RING_LEN);
        let ring = |(at, size)| Ring::new(self.machine.mem.clone(), at, size);
        self.rings = places.zip(sizes).map(ring).collect();
        driver.start(wanted | self.kind.needed(), &self.rings.iter().collect::<Vec<_>>());
        self.machine.bench.settle();
    }

    /// A port comes, if the victim's do and it is not there.
    pub(crate) fn add_port(&self, number: usize) {
        if let Some(console) = &self.ports {
            let _there = console.add_port(Some(number), port(&self.terminal, number));
        }
    }

    /// A port goes, if the victim's do and it is there.
    pub(crate) fn remove_port(&self, number: usize) {
        if let Some(console) = &self.ports {
            let _was_there = console.remove_port(number);
        }
    }

    /// Notifies the victim, and lets it work until it has nothing to do. Ports go and come before it
    /// has begun, and a frame.
    pub(crate) fn notify(&self, queue: u16) {
        self.machine.transport(VICTIM).notify(queue);
        self.frame_comes();
        self.callers.comes(22);
        for number in PORTS {
            self.remove_port(number);
            self.add_port(number);
        }
        self.machine.bench.settle();
    }

    /// A frame comes for the card, if the victim is one and has room.
    pub(crate) fn frame_comes(&self) {
        if self.kind == Kind::Net && self.wire.waiting() < 4 {
            self.wire.comes(&[0xff; 100]);
        }
    }

    pub(crate) fn status(&self) -> u8 {
        self.machine.transport(VICTIM).status()
    }

    pub(crate) fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.machine.mem.read(addr, &mut bytes).unwrap();
        bytes
    }

    /// What has to be so after whatever was done: the other device works, and the victim does after a
    /// reset.
    pub(crate) fn check(mut self) {
        let mem = self.machine.mem.clone();
        let mut ring = Ring::new(mem.clone(), SANE + 0x10_0000, 128);
        let other = Driver::new(self.machine.transport(BYSTANDER));
        assert_eq!(other.transport.status() & 64, 0, "the other device is unharmed");
        other.start(1 << 32, &[&ring]);
        ring.add(&[Part::Write(SANE, 16)]);
        other.transport.notify(0);
        drop(other);
        self.machine.bench.settle();
        assert_eq!(ring.take_used(), Some((0, 16)), "the other device works");
        assert_eq!(self.bytes(SANE, 17), [&[0x5a; 16][..], &[0]].concat());
        mem.write(SANE, &[0; 0x1000]).unwrap();
        self.terminal.clear();
        PORTS.for_each(|number| self.add_port(number));
        self.start(1 << 32);
        assert_eq!(self.status() & 64, 0, "a reset helps");
        self.work();
    }

    /// One request that any driver would make.
    fn work(&mut self) {
        let mem = self.machine.mem.clone();
        match self.kind {
            Kind::Blk => {
                let parts =
                    [Part::Read(SANE, 16), Part::Write(SANE + 64, 512), Part::Write(SANE + 32, 1)];
                assert_eq!(self.request(0, &parts), Some(513));
                let same = self.bytes(SANE + 64, 512) == [0x11; 512];
                assert!(same || self.disk_may_change, "the disk is as it was");
            }
            Kind::Rng => {
                // The rate is bounded.
                self.clock.step_ns(1_000_000_000);
                assert_eq!(self.request(0, &[Part::Write(SANE, 16)]), Some(16));
            }
            Kind::Console | Kind::Ports => {
                mem.write(SANE, b"hello").unwrap();
                assert_eq!(self.request(1, &[Part::Read(SANE, 5)]), Some(0));
                assert_eq!(self.terminal.screen(), b"hello");
            }
            Kind::Balloon => {
                let page = u32::try_from(RAM / 4096 - 1).unwrap();
                mem.write(RAM - 4096, &[1]).unwrap();
                mem.write(SANE, &page.to_le_bytes()).unwrap();
                assert_eq!(self.request(0, &[Part::Read(SANE, 4)]), Some(0));
                assert_eq!(self.bytes(RAM - 4096, 1), [0]);
            }
            Kind::Net => self.exchange(),
            Kind::Vsock => self.converse(),
            Kind::P9 => {
                let version = [Field::U32(8192), Field::Str(b"9P2000.L")];
                mem.write(SANE, &message(kind::TVERSION, 1, &version)).unwrap();
                let parts = [Part::Read(SANE, 21), Part::Write(SANE + 64, 100)];
                assert_eq!(self.request(0, &parts), Some(21));
                let folder = self.folder.as_ref().unwrap();
                assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
            }
        }
    }

    /// A frame each way, and a command.
    fn exchange(&mut self) {
        let mem = self.machine.mem.clone();
        self.wire.clear();
        // Without version 1.0 a header can be shorter, but this driver merges buffers.
        mem.write(SANE + 12, b"out").unwrap();
        assert_eq!(self.request(1, &[Part::Read(SANE, 15)]), Some(0));
        let sent = self.wire.take_sent();
        assert_eq!(sent.into_iter().map(|(_, _, frame)| frame).collect::<Vec<_>>(), [b"out"]);
        mem.write(SANE, &[0, 0, 1]).unwrap();
        assert_eq!(self.request(2, &[Part::Read(SANE, 3), Part::Write(SANE + 3, 1)]), Some(1));
        assert_eq!(self.bytes(SANE + 3, 1), [0]);
        self.wire.clear();
        assert_eq!(self.request(0, &[Part::Write(SANE, 0x100)]), Some(112));
        assert_eq!(self.bytes(SANE + 12, 100), [0xff; 100]);
    }

    /// The guest connects, and sends something, which comes back.
    fn converse(&mut self) {
        let mem = self.machine.mem.clone();
        let packet = |op: u8, data: &[u8]| {
            let mut bytes = [0; 44];
            (bytes[0], bytes[8], bytes[16], bytes[20]) = (3, 2, 7, 80);
            bytes[24] = u8::try_from(data.len()).unwrap();
            (bytes[28], bytes[30], bytes[38]) = (1, op, 1);
            [&bytes, data].concat()
        };
        for (op, data) in [(1, &b""[..]), (5, b"hello")] {
            let bytes = packet(op, data);
            mem.write(SANE, &bytes).unwrap();
            let len = u32::try_from(bytes.len()).unwrap();
            assert_eq!(self.request(1, &[Part::Read(SANE, len)]), Some(0));
        }
        let mut got = Vec::new();
        while !got.ends_with(b"hello") {
            let written = self.request(0, &[Part::Write(SANE, 0x100)]).unwrap();
            got = self.bytes(SANE, written as usize);
            assert!(got.len() >= 44);
        }
    }

    /// Makes a request; how much was written.
    pub(crate) fn request(&mut self, queue: u16, parts: &[Part]) -> Option<u32> {
        self.rings[usize::from(queue)].add(parts);
        self.notify(queue);
        self.rings[usize::from(queue)].take_used().map(|(_, written)| written)
    }
}
