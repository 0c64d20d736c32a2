//! Requests as a driver makes them, right and wrong, on images in files.

mod hostile;
mod snapshots;

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;

use tempfile::TempDir;
use trapline_block::{DiskOptions, Format, Limits};
use trapline_guestmem::GuestMem;
use trapline_testkit::TestClock;
use trapline_testkit::virtio::Part;

use super::regs::{
    S_IOERR, S_OK, S_UNSUPP, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT, T_SECURE_ERASE,
};
use super::*;
use crate::alone::Alone;

const RAM: u64 = 0x20_0000;
/// Where a request's header, its status, and its data are.
const HEADER: u64 = 0x4_0000;
const STATUS: u64 = 0x4_8000;
const DATA: u64 = 0x10_0000;
const CAPACITY: u64 = 1 << 20;

/// A device, the file of its disk, and its driver.
struct Bench {
    _folder: TempDir,
    file: File,
    clock: TestClock,
    alone: Alone<Blk>,
}

impl Deref for Bench {
    type Target = Alone<Blk>;

    fn deref(&self) -> &Alone<Blk> {
        &self.alone
    }
}

impl DerefMut for Bench {
    fn deref_mut(&mut self) -> &mut Alone<Blk> {
        &mut self.alone
    }
}

/// What the image has at first.
fn contents() -> Vec<u8> {
    (0..CAPACITY).map(|at| (at / 512 * 7 + at % 512).to_le_bytes()[0]).collect()
}

impl Bench {
    fn new(change: impl FnOnce(&mut DiskOptions)) -> Self {
        Self::with_engine(Engine::Ring, change)
    }

    fn with_engine(engine: Engine, change: impl FnOnce(&mut DiskOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        std::fs::write(&path, contents()).unwrap();
        let mut options = DiskOptions { format: Some(Format::Raw), ..DiskOptions::new(&path) };
        options.serial = Some("serial-1".to_owned());
        change(&mut options);
        let disk = Disk::open(&options).unwrap();
        let clock = TestClock::default();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let blk = Blk::with_engine(&disk, engine, &shared, Background::Awaited).unwrap();
        let alone = Alone::new(blk, GuestMem::new(&[(0, RAM)]).unwrap());
        let file = File::open(&path).unwrap();
        Self { _folder: folder, file, clock, alone }
    }

    /// One of 20 requests a second, of which the driver has made five at once.
    fn limited() -> Self {
        let iops = NonZeroU64::new(20);
        let mut bench = Self::started(|options| options.limits = Limits { iops, bps: None });
        bench.header(T_IN, 1);
        for n in 0..5 {
            let data = Part::Write(DATA + n * 512, 512);
            bench.rings[0].add(&[Part::Read(HEADER, 16), data, Part::Write(STATUS + n, 1)]);
        }
        bench.notify(0);
        bench
    }

    /// A bench whose driver has accepted everything.
    fn started(change: impl FnOnce(&mut DiskOptions)) -> Self {
        let mut bench = Self::new(change);
        bench.start_with_all();
        bench
    }

    fn header(&self, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.mem.write(HEADER, &header).unwrap();
    }

    /// Makes a request of these buffers; its status, and how much is said to be written.
    fn request(&mut self, kind: u32, sector: u64, parts: &[Part]) -> (u8, u32) {
        self.header(kind, sector);
        self.mem.write(STATUS, &[0xee]).unwrap();
        let head = self.rings[0].add(parts);
        self.notify(0);
        let (used, written) = self.rings[0].take_used().unwrap();
        assert_eq!((used, self.rings[0].take_used()), (head.into(), None));
        (self.bytes(STATUS, 1)[0], written)
    }

    /// Header, data and status, as Linux cuts them.
    fn read(&mut self, sector: u64, len: u32) -> (u8, u32) {
        let data = Part::Write(DATA, len);
        self.request(T_IN, sector, &[Part::Read(HEADER, 16), data, Part::Write(STATUS, 1)])
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> (u8, u32) {
        self.mem.write(DATA, data).unwrap();
        let data = Part::Read(DATA, u32::try_from(data.len()).unwrap());
        self.request(T_OUT, sector, &[Part::Read(HEADER, 16), data, Part::Write(STATUS, 1)])
    }

    /// A request with segments: first sector, count, flags.
    fn segments(&mut self, kind: u32, segments: &[(u64, u32, u32)]) -> u8 {
        let bytes = segments.iter().flat_map(|(sector, sectors, flags)| {
            [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
        });
        let bytes: Vec<u8> = bytes.collect();
        self.mem.write(DATA, &bytes).unwrap();
        let data = Part::Read(DATA, u32::try_from(bytes.len()).unwrap());
        self.request(kind, 0, &[Part::Read(HEADER, 16), data, Part::Write(STATUS, 1)]).0
    }

    fn image(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    fn config(&self, offset: usize, len: usize) -> u64 {
        let mut bytes = [0; 8];
        self.device.config_read(u32::try_from(offset).unwrap(), &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    }
}

#[test]
fn the_configuration_has_every_field_in_its_place() {
    let bench = Bench::new(|options| options.queues = 3);
    let discards = bench.device.disk().can_discard();
    assert!(discards, "the test's file system gives space back");
    for (offset, len, value) in [
        (0, 8, CAPACITY / 512),
        (8, 4, 0),
        (12, 4, 254),
        (16, 2, CAPACITY / 512 / (16 * 63)),
        (18, 1, 16),
        (19, 1, 63),
        (20, 4, 512),
        (24, 1, 3),
        (25, 1, 0),
        (26, 2, 8),
        (28, 4, 0),
        (32, 1, 1),
        (33, 1, 0),
        (34, 2, 3),
        (36, 4, 0x3f_ffff),
        (40, 4, 32),
        (44, 4, 8),
        (48, 4, 0x3f_ffff),
        (52, 4, 32),
        (56, 1, 1),
        (57, 3, 0),
    ] {
        assert_eq!(bench.config(offset, len), value, "offset {offset}");
    }
    assert_eq!(bench.device.config_len(), 60);
    assert_eq!(bench.device.queue_sizes(), [256; 3]);

    let read_only = Bench::new(|options| options.read_only = true);
    for (offset, len) in [(36, 4), (40, 4), (44, 4), (48, 4), (52, 4), (56, 1)] {
        assert_eq!(read_only.config(offset, len), 0, "what is not offered has no limits");
    }
    assert_eq!(read_only.config(34, 2), 1);
}

#[test]
fn a_disk_that_can_be_erased_says_so_behind_everything_else() {
    let bench = Bench::new(|options| options.format = Some(Format::Null));
    assert_eq!(bench.device.features() & F_SECURE_ERASE, F_SECURE_ERASE);
    assert_eq!(bench.device.config_len(), 72);
    for (offset, value) in [(56, 1), (60, 0x3f_ffff), (64, 32), (68, 1)] {
        assert_eq!(bench.config(offset, 4), value, "offset {offset}");
    }
    let read_only = Bench::new(|options| {
        options.format = Some(Format::Null);
        options.read_only = true;
    });
    assert_eq!(read_only.device.features() & F_SECURE_ERASE, 0);
    assert_eq!((read_only.device.config_len(), read_only.config(60, 8)), (60, 0));
}

#[test]
fn features_are_those_of_the_disk() {
    let all = F_SEG_MAX | F_GEOMETRY | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | OF_QUEUES;
    let writable = all | F_CONFIG_WCE | F_DISCARD | F_WRITE_ZEROES;
    assert_eq!(Bench::new(|_| ()).device.features(), writable);
    assert_eq!(Bench::new(|options| options.queues = 2).device.features(), writable | F_MQ);
    assert_eq!(Bench::new(|options| options.read_only = true).device.features(), all | F_RO);
}

#[test]
fn data_goes_both_ways_by_every_engine() {
    for (engine, direct) in [(Engine::Ring, false), (Engine::Threads, false), (Engine::Ring, true)]
    {
        let mut bench = Bench::with_engine(engine, |options| options.direct = direct);
        bench.start_with_all();
        assert_eq!(bench.read(3, 4096), (S_OK, 4097));
        assert_eq!(bench.bytes(DATA, 4096), contents()[3 * 512..][..4096]);
        assert_eq!(bench.write(8, &[0x5a; 1024]), (S_OK, 1));
        assert_eq!(bench.read(8, 1024), (S_OK, 1025));
        assert_eq!(bench.bytes(DATA, 1024), [0x5a; 1024]);
        assert_eq!(bench.image(8 * 512, 1024), [0x5a; 1024]);
        assert_eq!(bench.image(10 * 512, 512), contents()[10 * 512..][..512]);
        assert_eq!(bench.read(0, 0), (S_OK, 1), "nothing is read at once");
    }
}

#[test]
fn any_cut_of_a_request_is_the_same_request() {
    let mut bench = Bench::started(|_| ());
    // The header in three parts, data across five, the status behind data in one buffer.
    let parts = [
        Part::Read(HEADER, 1),
        Part::Read(HEADER + 1, 14),
        Part::Read(HEADER + 15, 1),
        Part::Write(DATA, 1),
        Part::Write(DATA + 1, 510),
        Part::Write(DATA + 511, 514),
    ];
    bench.mem.write(DATA, &[0xee; 1100]).unwrap();
    let (_, written) = bench.request(T_IN, 4, &parts);
    assert_eq!(written, 1025);
    assert_eq!(bench.bytes(DATA, 1024), contents()[2048..3072]);
    assert_eq!(bench.bytes(DATA + 1024, 2), [S_OK, 0xee]);
    // Header and data in one buffer.
    let data: Vec<u8> = (0..1024u32).map(|at| at.to_le_bytes()[0] ^ 0x33).collect();
    bench.mem.write(HEADER + 16, &data).unwrap();
    let parts =
        [Part::Read(HEADER, 16 + 700), Part::Read(HEADER + 716, 324), Part::Write(STATUS, 1)];
    assert_eq!(bench.request(T_OUT, 6, &parts), (S_OK, 1));
    assert_eq!(bench.image(6 * 512, 1024), data);
}

#[test]
fn a_batch_is_one_notification() {
    let mut bench = Bench::started(|_| ());
    bench.header(T_IN, 1);
    for n in 0..64 {
        let data = Part::Write(DATA + n * 512, 512);
        bench.rings[0].add(&[Part::Read(HEADER, 16), data, Part::Write(STATUS + n, 1)]);
    }
    bench.device.process(0);
    assert_eq!(*bench.events.used.lock(), 1);
    let used: Vec<_> = std::iter::from_fn(|| bench.rings[0].take_used()).collect();
    assert_eq!(used.len(), 64);
    assert!(used.iter().all(|(_, written)| *written == 513));
    assert_eq!(bench.bytes(STATUS, 64), [S_OK; 64]);
}

#[test]
fn the_serial_number_is_twenty_bytes_or_what_there_is_room_for() {
    let mut bench = Bench::started(|_| ());
    let id = |bench: &mut Bench, len| {
        bench.mem.write(DATA, &[0xee; 32]).unwrap();
        let parts = [Part::Read(HEADER, 16), Part::Write(DATA, len), Part::Write(STATUS, 1)];
        let (status, _) = bench.request(T_GET_ID, 0, &parts);
        (status, bench.bytes(DATA, 24))
    };
    let mut expected = [0xee; 24];
    expected[..20].copy_from_slice(b"serial-1\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(id(&mut bench, 20), (S_OK, expected.to_vec()));
    assert_eq!(id(&mut bench, 24), (S_OK, expected.to_vec()));
    expected[8..20].fill(0xee);
    assert_eq!(id(&mut bench, 8), (S_OK, expected.to_vec()));
}

#[test]
fn flushes_always_succeed() {
    for read_only in [false, true] {
        let mut bench = Bench::started(|options| options.read_only = read_only);
        let parts = [Part::Read(HEADER, 16), Part::Write(STATUS, 1)];
        assert_eq!(bench.request(T_FLUSH, 0, &parts), (S_OK, 1));
    }
}

#[test]
fn space_is_given_up_and_zeroed() {
    let mut bench = Bench::started(|_| ());
    assert_eq!(bench.segments(T_DISCARD, &[(16, 16, 0), (64, 8, 0)]), S_OK);
    assert_eq!(bench.image(16 * 512, 16 * 512), [0; 16 * 512]);
    assert_eq!(bench.image(64 * 512, 8 * 512), [0; 8 * 512]);
    assert_eq!(bench.image(32 * 512, 512), contents()[32 * 512..][..512]);
    let zeroes = [(128, 1, 0), (130, 2, 1)];
    assert_eq!(bench.segments(regs::T_WRITE_ZEROES, &zeroes), S_OK);
    assert_eq!(bench.image(128 * 512, 512), [0; 512]);
    assert_eq!(bench.image(129 * 512, 512), contents()[129 * 512..][..512]);
    assert_eq!(bench.image(130 * 512, 1024), [0; 1024]);
}

#[test]
fn what_is_to_be_erased_is_or_the_driver_hears_that_it_is_not() {
    let mut bench = Bench::started(|options| options.format = Some(Format::Null));
    assert_eq!(bench.segments(T_SECURE_ERASE, &[(0, 8, 0), (64, 1, 0)]), S_OK);
    assert_eq!(bench.segments(T_SECURE_ERASE, &[(0, 8, 0), (8, 8, 1)]), S_UNSUPP);
    assert_eq!(bench.segments(T_SECURE_ERASE, &[(u64::MAX / 512, 8, 0)]), S_IOERR);
    assert_eq!(bench.segments(T_SECURE_ERASE, &[(0, 0x40_0000, 0)]), S_IOERR);
    bench.reset();
    bench.start(F_DISCARD);
    assert_eq!(bench.segments(T_SECURE_ERASE, &[(0, 8, 0)]), S_UNSUPP, "it was not accepted");
    let mut file = Bench::started(|_| ());
    assert_eq!(file.device.features() & F_SECURE_ERASE, 0);
    assert_eq!(file.segments(T_SECURE_ERASE, &[(0, 8, 0)]), S_UNSUPP);
    assert_eq!(file.image(0, 4096), contents()[..4096]);
}

/// Whether what is written is durable at once, by what the driver has accepted and chosen.
#[test]
fn the_cache_is_what_was_negotiated() {
    let mut bench = Bench::new(|_| ());
    let durable = |bench: &Bench| bench.device.rules().durable;
    bench.start(F_FLUSH);
    assert!(!durable(&bench), "a driver that can flush has to");
    bench.reset();
    bench.start(0);
    assert!(durable(&bench), "one that cannot need not");
    bench.reset();
    bench.start(F_FLUSH | F_CONFIG_WCE);
    assert!(!durable(&bench));
    assert_eq!(bench.config(32, 1), 1);
    bench.device.config_write(32, &[0]);
    assert!(durable(&bench) && bench.config(32, 1) == 0);
    assert_eq!(bench.write(8, &[1; 512]), (S_OK, 1));
    bench.device.config_write(32, &[2]);
    assert!(durable(&bench), "2 is nothing to choose");
    bench.device.config_write(31, &[1, 1]);
    assert!(!durable(&bench), "a wide write reaches the byte in it");
    bench.device.config_write(0, &[0; 8]);
    assert_eq!(bench.config(0, 8), CAPACITY / 512, "nothing else can be written");
    bench.device.config_write(32, &[0]);
    bench.reset();
    assert_eq!(bench.config(32, 1), 1, "as after power-on");
    bench.start(F_CONFIG_WCE);
    assert!(durable(&bench) && bench.config(32, 1) == 0, "nobody could flush");
    let read_only = Bench::new(|options| options.read_only = true);
    read_only.device.config_write(32, &[0]);
    assert_eq!(read_only.config(32, 1), 1);
}

#[test]
fn a_driver_hears_of_another_size() {
    let mut bench = Bench::started(|_| ());
    bench.device.resize(2 * CAPACITY).unwrap();
    assert_eq!((*bench.events.configs.lock(), bench.config(0, 8)), (1, CAPACITY / 256));
    assert_eq!(bench.read(CAPACITY / 512, 512), (S_OK, 513));
    assert!(bench.device.resize(1).is_err());
    assert_eq!(*bench.events.configs.lock(), 1);
    assert!(!bench.device.look_again().unwrap());
    let path = bench.device.disk().options().path.clone();
    File::options().write(true).open(path).unwrap().set_len(CAPACITY).unwrap();
    assert!(bench.device.look_again().unwrap());
    assert_eq!((*bench.events.configs.lock(), bench.config(0, 8)), (2, CAPACITY / 512));
    assert_eq!(bench.read(CAPACITY / 512, 512).0, S_IOERR);
}

#[test]
fn limits_delay_requests_and_lose_none() {
    let mut bench = Bench::limited();
    let mut answered = Vec::new();
    for _ in 0..5 {
        answered.push(std::iter::from_fn(|| bench.rings[0].take_used()).count());
        bench.clock.step_ns(50_000_000);
        bench.notify(0);
    }
    assert_eq!(answered, [2, 1, 1, 1, 0]);
    // A reset ends the wait.
    bench.reset();
    bench.start_with_all();
    assert_eq!(bench.clock.next_deadline_ns(), None);
}
