//! What needs an image that fails in the middle, which no file system here does when asked:
//! a process's own memory as a file (`/proc/self/mem`), where what is not mapped is an input/output
//! error.

use std::fs::File;
use std::sync::Weak;

use rustix::event::{PollFd, PollFlags, poll};
use trapline_guestio::Buffers;
use trapline_guestmem::GuestMem;
use trapline_testkit::TestClock;

use super::*;
use crate::{DiskOptions, Limits, OnError};

const ENGINES: [Engine; 2] = [Engine::Ring, Engine::Threads];

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

struct Driver {
    mem: GuestMem,
    queue: Queue,
    clock: TestClock,
}

impl Driver {
    fn new(disk: &Arc<Disk>, engine: Engine) -> Self {
        let clock = TestClock::default();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let queue = Queue::new(disk, engine, &shared, Weak::<Nobody>::new()).unwrap();
        Self { mem: GuestMem::new(&[(0, 1 << 20)]).unwrap(), queue, clock }
    }

    fn read(&self, offset: u64, addr: u64, len: usize) -> Request {
        let mut buffers = Buffers::new(&self.mem);
        buffers.push(addr, len).unwrap();
        Request::Read { offset, buffers }
    }

    fn write(&self, offset: u64, addr: u64, len: usize) -> Request {
        let Request::Read { offset, buffers } = self.read(offset, addr, len) else { panic!() };
        Request::Write { offset, buffers, durable: false }
    }

    /// Submits, and takes in everything that completes then.
    fn outcomes(
        &mut self,
        requests: impl IntoIterator<Item = (u64, Request)>,
    ) -> Vec<(u64, Outcome)> {
        let mut outcomes = Vec::new();
        for (tag, request) in requests {
            outcomes.extend(self.queue.submit(tag, request).map(|outcome| (tag, outcome)));
        }
        self.queue.settle();
        outcomes.extend(std::iter::from_fn(|| self.queue.completed()));
        outcomes
    }
}

/// This process's memory as a disk, and the end of the last of it: nothing is mapped behind that,
/// and nothing ever will be.
fn memory(on_error: OnError) -> (Arc<Disk>, u64) {
    let mapped = std::fs::read_to_string("/proc/self/maps").unwrap();
    // The page for system calls is the kernel's.
    let last = mapped.lines().rfind(|line| !line.ends_with("[vsyscall]")).unwrap();
    let end = last.split(['-', ' ']).nth(1).unwrap();
    let end = u64::from_str_radix(end, 16).unwrap();
    let path = std::env::current_exe().unwrap();
    let options = DiskOptions { read_only: true, on_error, ..DiskOptions::new(path) };
    let disk = Disk::open(&options).unwrap();
    let mut disk = Arc::into_inner(disk).unwrap();
    let file = File::options().read(true).write(true).open("/proc/self/mem").unwrap();
    let Image::Raw(raw) = Arc::get_mut(&mut disk.image).unwrap() else { panic!() };
    raw.file = Arc::new(file);
    disk.become_memory();
    (Arc::new(disk), end)
}

#[test]
fn an_error_in_the_middle_of_a_request_is_its_outcome() {
    for engine in ENGINES {
        let (disk, end) = memory(OnError::Report);
        let mut driver = Driver::new(&disk, engine);
        let requests = [
            (1, driver.read(end - 4096, 0, 4096)),
            (2, driver.read(end - 512, 0x1_0000, 1024)),
            (3, driver.read(end, 0x2_0000, 512)),
            (4, driver.read(end - 1024, 0x3_0000, 1024)),
            (5, driver.write(end, 0, 512)),
        ];
        let mut outcomes = driver.outcomes(requests);
        outcomes.sort_by_key(|(tag, _)| *tag);
        let codes: Vec<_> = outcomes
            .iter()
            .map(|(_, outcome)| match outcome {
                Ok(()) => None,
                Err(Failure::Io(error)) => error.raw_os_error(),
                Err(other) => panic!("{other}"),
            })
            .collect();
        assert_eq!(codes, [None, Some(5), Some(5), None, Some(5)], "{engine:?}");
        assert!(driver.queue.is_empty());
    }
}

#[test]
fn a_disk_that_stops_the_machine_keeps_what_failed_until_it_goes_on() {
    for engine in ENGINES {
        let (disk, end) = memory(OnError::Stop);
        let mut driver = Driver::new(&disk, engine);
        // Without anybody to stop it, it is told.
        let failed = driver.outcomes([(0, driver.read(end, 0, 512))]);
        assert!(matches!(failed[..], [(0, Err(Failure::Io(_)))]));
        let said = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&said);
        disk.on_stop(move |reason| heard.lock().push(reason.to_owned()));
        let requests = [(1, driver.read(end, 0, 512)), (2, driver.read(end - 512, 0x1000, 512))];
        let outcomes = driver.outcomes(requests);
        assert!(matches!(outcomes[..], [(2, Ok(()))]), "{outcomes:?}");
        assert!(!driver.queue.is_empty());
        // Others that fail while the machine comes to its stop are no further reason.
        assert!(driver.outcomes([(9, driver.read(end, 0x2000, 512))]).is_empty());
        let text = std::mem::take(&mut *said.lock());
        let [text] = &*text else { panic!("{text:?}") };
        assert!(text.starts_with("disk image ") && text.ends_with("(os error 5)"), "{text}");
        // What cannot be at all is no reason to stop.
        let beyond = driver.outcomes([(3, driver.read(u64::MAX - 511, 0, 512))]);
        assert!(matches!(beyond[..], [(3, Err(Failure::OutOfRange))]));
        assert!(said.lock().is_empty());
        // They fail again, and are still there.
        disk.goes_on();
        driver.queue.retry();
        assert!(driver.outcomes([]).is_empty());
        assert_eq!(said.lock().len(), 1);
        // The medium is back.
        for stalled in &mut driver.queue.stalled {
            let Request::Read { offset, .. } = &mut stalled.request else { panic!() };
            *offset = end - 512;
        }
        driver.queue.retry();
        let mut outcomes = driver.outcomes([]);
        outcomes.sort_unstable_by_key(|(tag, _)| *tag);
        assert!(matches!(outcomes[..], [(1, Ok(())), (9, Ok(()))]), "{outcomes:?}");
        assert!(driver.queue.is_empty());
        // A reset forgets it.
        let _ = driver.outcomes([(4, driver.read(end, 0, 512))]);
        driver.queue.abandon();
        assert!(driver.queue.is_empty());
        driver.queue.retry();
        assert!(driver.outcomes([]).is_empty());
    }
}

#[test]
fn limits_hold_requests_back_in_their_order_until_the_clock_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let limits = Limits { iops: std::num::NonZeroU64::new(20), bps: None };
    let disk = Disk::open(&DiskOptions { limits, ..DiskOptions::new(&path) }).unwrap();
    let mut driver = Driver::new(&disk, Engine::Threads);
    let requests: Vec<_> = (0..6).map(|n| (n, driver.read(n * 512, n * 512, 512))).collect();
    assert_eq!(driver.outcomes(requests).len(), 2, "a burst");
    assert!(driver.outcomes([(9, Request::Flush)]).is_empty(), "nobody passes those who wait");
    for tag in 2..6 {
        let deadline = driver.clock.next_deadline_ns().unwrap();
        assert_eq!(deadline - driver.clock.now_ns(), 50_000_000);
        driver.clock.step_ns(49_999_999);
        driver.queue.poll();
        assert!(driver.outcomes([]).is_empty());
        driver.clock.step_ns(1);
        driver.queue.poll();
        let outcomes: Vec<_> = driver.outcomes([]).into_iter().map(|(tag, _)| tag).collect();
        assert_eq!(outcomes, if tag == 5 { vec![5, 9] } else { vec![tag] });
    }
    // A reset forgets those who wait, and the timer with them.
    let requests: Vec<_> = (0..6).map(|n| (n, driver.read(n * 512, n * 512, 512))).collect();
    driver.outcomes(requests);
    driver.queue.abandon();
    assert!(driver.queue.is_empty());
    assert_eq!(driver.clock.next_deadline_ns(), None);
}

#[test]
fn a_reset_waits_for_what_is_under_way_and_hears_of_nothing_later() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = folder.path().join("a.img");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    for (engine, direct) in [(Engine::Ring, true), (Engine::Ring, false), (Engine::Threads, true)] {
        let disk = Disk::open(&DiskOptions { direct, ..DiskOptions::new(&path) }).unwrap();
        let mut driver = Driver::new(&disk, engine);
        for round in 0..20u64 {
            driver.mem.write(0, &[0xff; 1 << 18]).unwrap();
            for n in 0..64 {
                let _ = driver.queue.submit(n, driver.read(n * 4096, n * 4096, 4096));
                let _ = driver.queue.submit(n + 100, Request::Flush);
            }
            if round % 2 == 0 {
                driver.queue.kick();
            }
            driver.queue.abandon();
            assert!(driver.queue.is_empty());
            // The memory is somebody else's now.
            driver.mem.write(0, &[0x55; 1 << 18]).unwrap();
            driver.queue.poll();
            assert!(driver.queue.completed().is_none());
            let ready = driver.queue.ready();
            assert_eq!(
                poll(&mut [PollFd::new(&ready, PollFlags::IN)], Some(&Default::default())),
                Ok(0)
            );
            let mut bytes = vec![0; 1 << 18];
            driver.mem.read(0, &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0x55), "{engine:?} round {round}");
        }
    }
}

#[test]
fn a_long_job_ends_when_nobody_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    let file = File::create(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let disk = Disk::open(&DiskOptions::new(&path)).unwrap();
    let Image::Raw(raw) = &*disk.image else { panic!() };
    let ended = AtomicBool::new(true);
    let zeroes = crate::Zeroes { range: 1..1 << 40, unmap: false };
    // Bytes that are no whole sectors have to be written one by one.
    let literally = raw.write_literal_zeroes(zeroes.range, &ended);
    assert_eq!(literally.unwrap_err().kind(), io::ErrorKind::Interrupted);
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_blocks, 0);
}

#[test]
fn a_full_file_system_fails_the_writes_it_has_no_room_for() {
    let folder = tempfile::tempdir().unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(folder.path())
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        eprintln!("nothing can be mounted: not tested");
        return;
    }
    let path = folder.path().join("a.img");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let mut seen = Vec::new();
    for engine in ENGINES {
        let disk = Disk::open(&DiskOptions::new(&path)).unwrap();
        let mut driver = Driver::new(&disk, engine);
        let writes: Vec<_> = (0..8).map(|n| (n, driver.write(n << 17, 0, 1 << 17))).collect();
        for (_, outcome) in driver.outcomes(writes) {
            match outcome {
                Ok(()) => seen.push(0),
                Err(Failure::Io(error)) => seen.push(error.raw_os_error().unwrap()),
                Err(other) => panic!("{other}"),
            }
        }
        let zeroes = crate::Zeroes { range: 0..1 << 20, unmap: true };
        let freed = driver.outcomes([(0, Request::WriteZeroes(vec![zeroes]))]);
        assert!(matches!(freed[..], [(0, Ok(()))]), "{freed:?}");
        let again = driver.outcomes([(0, driver.write(7 << 17, 0, 1 << 16))]);
        assert!(matches!(again[..], [(0, Ok(()))]), "{again:?}");
    }
    let unmounted = std::process::Command::new("umount").arg(folder.path()).status();
    assert!(unmounted.unwrap().success());
    assert!(seen.contains(&0) && seen.contains(&28), "{seen:?}");
    assert!(seen.iter().all(|code| [0, 28].contains(code)), "{seen:?}");
}
