use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::{NoQueuedWrites, PolledLoop};

/// How long anything may take. It is only ever used up by a failure.
const PATIENCE: Duration = Duration::from_secs(600);

/// A device that only counts how often it was told something.
#[derive(Default)]
struct Told(AtomicU32);

impl CharDevice for Told {
    fn poll(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn receive_break(&self) {}
}

struct Bench {
    event_loop: Arc<PolledLoop>,
    outlet: Arc<dyn OpenOutlet>,
    told: Arc<Told>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(outlet: impl FnOnce(PathBuf) -> Outlet) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let event_loop = PolledLoop::new(NoQueuedWrites).unwrap();
        let dynamic: Arc<dyn EventLoop> = event_loop.clone();
        let outlet = outlet(folder.path().join("port")).open(&dynamic).unwrap();
        let told = Arc::<Told>::default();
        outlet.attach(told.clone());
        Self { event_loop, outlet, told, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("port")
    }

    /// Whether the device was told anything.
    fn told(&self) -> bool {
        self.event_loop.settle(100);
        self.told.0.swap(0, Ordering::Relaxed) > 0
    }

    /// Waits until the device is told something: terminals pass things on from a thread of the
    /// kernel's.
    fn wait(&self) {
        let start = Instant::now();
        while !self.told() {
            assert!(start.elapsed() < PATIENCE, "nothing happens");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn read(&self) -> Vec<u8> {
        let mut buf = [0; 100];
        let count = self.outlet.receive(&mut buf);
        buf[..count].to_vec()
    }

    /// Writes until there is no room; how much that was.
    fn fill(&self) -> usize {
        let piece = [b'x'; 4096];
        let mut sum = 0;
        loop {
            let taken = self.outlet.transmit(&piece);
            sum += taken;
            if taken < piece.len() {
                return sum;
            }
        }
    }
}

#[test]
fn a_file_has_what_was_written_and_nothing_to_read() {
    let bench = Bench::new(Outlet::File);
    assert_eq!((bench.outlet.transmit(b"abc"), bench.outlet.transmit(b"def")), (3, 3));
    assert_eq!(std::fs::read(bench.path()).unwrap(), b"abcdef");
    assert_eq!(bench.read(), b"");
    assert!(!bench.told() && bench.outlet.is_connected() && bench.outlet.place().is_none());
    let other = Bench::new(|_| Outlet::File("/dev/full".into()));
    assert_eq!(other.outlet.transmit(b"abc"), 3, "what has no room is lost");
}

#[test]
fn a_terminal_goes_both_ways_and_waits_for_its_user() {
    let bench = Bench::new(|path| Outlet::Pty(Some(path)));
    let name = bench.outlet.place().unwrap();
    assert_eq!(std::fs::read_link(bench.path()).unwrap(), name);
    assert_eq!(bench.outlet.transmit(b"a\n"), 2, "before anybody has opened it");
    let mut user = std::fs::File::options().read(true).write(true).open(bench.path()).unwrap();
    let mut two = [0; 2];
    user.read_exact(&mut two).unwrap();
    assert_eq!(&two, b"a\n", "as it was");
    assert_eq!(bench.read(), b"");
    user.write_all(b"b\r").unwrap();
    bench.wait();
    assert_eq!(bench.read(), b"b\r");
    drop(user);
    // Told it may be, as terminals wake whoever waits for less than a character; but not for ever.
    let quiet = (0..1000).any(|_| bench.read().is_empty() && !bench.told());
    assert!(quiet, "nobody hangs up");
    let room = bench.fill();
    let mut user = std::fs::File::open(bench.path()).unwrap();
    user.read_exact(&mut vec![0; room]).unwrap();
    bench.wait();
    assert_eq!(bench.outlet.transmit(b"c"), 1, "there is room again");
    let Bench { outlet, folder, .. } = bench;
    drop(outlet);
    assert!(folder.path().join("port").symlink_metadata().is_err(), "the link goes with it");
}

#[test]
fn a_socket_has_one_client_at_a_time_and_says_whether_there_is_one() {
    let bench = Bench::new(Outlet::Socket);
    assert!(!bench.outlet.is_connected());
    assert_eq!((bench.outlet.transmit(b"lost"), bench.read()), (4, vec![]));
    let mut first = UnixStream::connect(bench.path()).unwrap();
    assert!(bench.told() && bench.outlet.is_connected());
    assert_eq!((bench.outlet.transmit(b"abc"), bench.read()), (3, vec![]));
    let mut three = [0; 3];
    first.read_exact(&mut three).unwrap();
    assert_eq!(&three, b"abc");
    let mut second = UnixStream::connect(bench.path()).unwrap();
    second.write_all(b"2").unwrap();
    assert!(!bench.told(), "it has to wait");
    first.write_all(b"1").unwrap();
    assert!(bench.told());
    assert_eq!(bench.read(), b"1");
    assert_eq!(bench.read(), b"");
    drop(first);
    assert!(bench.told());
    assert_eq!(bench.read(), b"", "the first has gone");
    assert!(!bench.outlet.is_connected());
    assert!(bench.told() && bench.outlet.is_connected(), "it is the next one's turn");
    assert_eq!(bench.read(), b"2");
    drop(second);
    assert_eq!(bench.outlet.transmit(b"a"), 1);
    assert!(bench.told() && !bench.outlet.is_connected());
}

#[test]
fn a_client_that_does_not_read_is_waited_for_and_one_that_writes_is_read_when_asked() {
    let bench = Bench::new(Outlet::Socket);
    let mut client = UnixStream::connect(bench.path()).unwrap();
    assert!(bench.told());
    let room = bench.fill();
    assert!(!bench.told());
    client.write_all(b"abc").unwrap();
    assert!(!bench.told(), "nobody has asked for it");
    client.read_exact(&mut vec![0; room]).unwrap();
    assert!(bench.told());
    assert_eq!(bench.read(), b"abc");
}

#[test]
fn a_socket_that_was_left_behind_is_replaced_and_another_is_not() {
    let bench = Bench::new(Outlet::Socket);
    let event_loop: Arc<dyn EventLoop> = bench.event_loop.clone();
    let again = Outlet::Socket(bench.path()).open(&event_loop).err().unwrap();
    assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    let left = bench.folder.path().join("left");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    Outlet::Socket(left).open(&event_loop).unwrap();
    let file = bench.folder.path().join("file");
    std::fs::write(&file, b"precious").unwrap();
    assert!(Outlet::Socket(file.clone()).open(&event_loop).is_err());
    assert!(Outlet::Pty(Some(file.clone())).open(&event_loop).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_pair_of_sockets_is_connected_until_somebody_closes_its_other_end() {
    let (end, mut other) = Connected::pair().unwrap();
    let bench = Bench::new(|_| Outlet::Connected(end.clone()));
    drop(end);
    assert_eq!((bench.outlet.transmit(b"abc"), bench.read()), (3, vec![]));
    let mut three = [0; 3];
    other.read_exact(&mut three).unwrap();
    assert_eq!(&three, b"abc");
    other.write_all(b"x").unwrap();
    assert!(bench.told());
    assert_eq!(bench.read(), b"x");
    let room = bench.fill();
    assert!(!bench.told());
    other.read_exact(&mut vec![0; room]).unwrap();
    assert!(bench.told());
    drop(other);
    assert_eq!(bench.outlet.transmit(b"lost"), 4);
}
