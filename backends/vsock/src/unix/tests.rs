//! Clients that connect to the guest, and listeners that it connects to.

use std::os::unix::net::UnixListener;

use super::*;

#[derive(Default)]
struct Device(Mutex<u32>);

impl VsockDevice for Device {
    fn events_come(&self) {
        *self.0.lock() += 1;
    }
}

struct Scene {
    folder: tempfile::TempDir,
    event_loop: Arc<trapline_backends::PolledLoop>,
    sockets: Arc<UnixSockets>,
    device: Arc<Device>,
}

fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let event_loop = trapline_testkit::event_loop();
    let shared: Arc<dyn EventLoop> = event_loop.clone();
    let sockets = UnixSockets::listen(&folder.path().join("v"), &shared).unwrap();
    let device = Arc::<Device>::default();
    let weak: Weak<Device> = Arc::downgrade(&device);
    sockets.attach(weak);
    Scene { folder, event_loop, sockets, device }
}

impl Scene {
    fn client(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("v")).unwrap()
    }

    fn settle(&self) {
        self.event_loop.settle(16);
    }

    fn events(&self) -> Vec<Event> {
        self.settle();
        self.sockets.events()
    }

    fn count(&self) -> usize {
        self.settle();
        self.sockets.inner.lock().connections.len()
    }
}

#[test]
fn a_client_says_where_it_wants_to_go() {
    let scene = scene();
    let mut client = scene.client();
    client.write_all(b"CONNECT 2").unwrap();
    assert_eq!(scene.events(), [], "the line may go on");
    client.write_all(b"2\nearly").unwrap();
    let events = scene.events();
    let [Event::Incoming { id, port: 22 }] = events[..] else { panic!("{events:?}") };
    assert_eq!(*scene.device.0.lock(), 1);
    scene.sockets.accept(id, 1 << 30);
    let mut line = [0; 14];
    client.read_exact(&mut line).unwrap();
    assert_eq!(line, *b"OK 1073741824\n");
    let mut data = [0; 16];
    assert_eq!(scene.sockets.read(id, &mut data).unwrap(), 5);
    assert_eq!(data[..5], *b"early");
    let error = scene.sockets.read(id, &mut data).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    client.write_all(b"more").unwrap();
    assert_eq!(scene.events(), [], "nobody waits");
    scene.sockets.wait_for(id, Readiness::READ);
    assert_eq!(scene.events(), [Event::Ready { id, ready: Readiness::READ }]);
    assert_eq!(scene.events(), [], "once");
    scene.sockets.close(id);
    assert_eq!(scene.count(), 0);
    // What nobody has read is lost with it.
    assert_eq!(client.read(&mut data).unwrap_or(0), 0);
    assert!(scene.sockets.read(id, &mut data).is_err());
}

#[test]
fn who_makes_no_sense_or_leaves_is_sent_away() {
    let scene = scene();
    for line in ["CONNECT\n", "CONNECT x\n", "CONNECT 4294967296\n", "connect 1\n", "\n"] {
        let mut client = scene.client();
        client.write_all(line.as_bytes()).unwrap();
        assert_eq!((scene.events(), scene.count()), (vec![], 0), "{line}");
        assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0);
    }
    let mut client = scene.client();
    client.write_all(&[b'C'; LINE_MAX]).unwrap();
    assert_eq!((scene.events(), scene.count()), (vec![], 0), "without an end");
    drop(scene.client());
    assert_eq!((scene.events(), scene.count()), (vec![], 0));
}

#[test]
fn a_guest_reaches_who_listens_beside_the_socket() {
    let scene = scene();
    assert_eq!(scene.sockets.connect(80), None);
    let listener = UnixListener::bind(scene.folder.path().join("v_80")).unwrap();
    let id = scene.sockets.connect(80).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(scene.sockets.write(id, b"hello").unwrap(), 5);
    scene.sockets.finish(id);
    let mut all = Vec::new();
    server.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"hello");
    // It reads nothing now, until there is no room.
    let other = scene.sockets.connect(80).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    while scene.sockets.write(other, &[0; 4096]).is_ok() {}
    scene.sockets.wait_for(other, Readiness::WRITE);
    assert_eq!(scene.events(), []);
    server.set_nonblocking(true).unwrap();
    while server.read(&mut [0; 4096]).is_ok() {}
    assert_eq!(scene.events(), [Event::Ready { id: other, ready: Readiness::WRITE }]);
    drop(server);
    assert!(scene.sockets.write(other, b"x").is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe));
}

#[test]
fn connections_are_bounded_and_others_wait() {
    let scene = scene();
    let clients: Vec<_> = (0..CONNECTIONS_MAX)
        .map(|_| {
            let client = scene.client();
            scene.settle();
            client
        })
        .collect();
    let mut late = scene.client();
    late.write_all(b"CONNECT 1\n").unwrap();
    assert_eq!((scene.count(), scene.sockets.connect(80)), (CONNECTIONS_MAX, None));
    drop(clients);
    while scene.count() != 1 {}
    assert!(matches!(scene.events()[..], [Event::Incoming { port: 1, .. }]));
}

#[test]
fn nothing_is_left_and_what_others_left_is_replaced() {
    let scene = scene();
    let path = scene.folder.path().join("v");
    let shared: Arc<dyn EventLoop> = scene.event_loop.clone();
    let error = UnixSockets::listen(&path, &shared).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "somebody is there");
    let Scene { folder, sockets, .. } = scene;
    drop(sockets);
    assert!(!path.exists());
    drop(UnixListener::bind(&path).unwrap());
    let again = UnixSockets::listen(&path, &shared).unwrap();
    drop(again);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
