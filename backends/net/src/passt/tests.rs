//! passt as it is installed here, and programs in its place that misbehave.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Weak;

use rustix::process::{Signal, kill_process};
use trapline_guestio::Buffers;
use trapline_guestmem::GuestMem;

use super::*;
use crate::{HEADER_LEN, Header, NetBackend, NetCard, PACKET_MAX};

fn options(forwards: &[&str]) -> UserNetOptions {
    let forwards = forwards.iter().map(|text| text.parse().unwrap()).collect();
    UserNetOptions { addresses: Addresses::new(0), forwards }
}

#[test]
fn it_is_told_the_addresses_and_ports() {
    let words = arguments(&options(&["tcp:8022:22", "udp:0.0.0.0:53:5353", "tcp:[::]:80:81"]));
    let wanted = "--address 192.168.33.15 --netmask 255.255.255.0 --gateway 192.168.33.1 \
                  --mac-addr 02:01:01:01:01:01 --mtu 65520 --dns 192.168.33.1 \
                  --dns-forward 192.168.33.1 --tcp-ports 127.0.0.1/8022:22 \
                  --udp-ports 0.0.0.0/53:5353 --tcp-ports ::/80:81";
    assert_eq!(words.join(" "), wanted);
}

/// Starts a script in its place, which finds the number of its descriptor in `$fd`.
fn script(text: &str, patience: Duration) -> io::Error {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("passt");
    fs::write(&path, format!("#!/bin/bash\nfd=$4\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let refused = start(path.as_os_str(), &options(&[]), patience).map(|_| ());
    refused.unwrap_err()
}

#[test]
fn who_ends_or_makes_no_sense_or_does_not_answer_is_not_used() {
    let said = |text: &str| script(text, PATIENCE).to_string();
    assert_eq!(said("exit 3"), "passt does not run");
    let last = "echo first; echo 'No such \x1bport, exiting' >&2; echo 'Failed to send 3 bytes to syslog' >&2";
    assert_eq!(said(last), "No such \\u{1b}port");
    // A length that no frame has, and then silence.
    assert_eq!(said(r"printf '\377\377\377\377' >&$fd; exec sleep 60"), "passt does not run");
    // Much that nobody asked for, and never the answer.
    let patience = Duration::from_millis(200);
    let flood = r"while printf '\0\0\0\1x' >&$fd; do :; done";
    assert_eq!(script(flood, patience).to_string(), "passt does not answer");
    assert_eq!(script("exec sleep 60", patience).to_string(), "passt does not answer");
    let missing = start(OsStr::new("/no/such/passt"), &options(&[]), PATIENCE).map(|_| ());
    assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
}

/// Counts how often the link has changed.
#[derive(Default)]
struct Card(Mutex<u32>);

impl NetCard for Card {
    fn ready(&self, _pair: u16) {}

    fn room(&self, _pair: u16) {}

    fn link_changed(&self) {
        *self.0.lock() += 1;
    }
}

/// The passt of this host, if it has one that runs.
fn installed(options: &UserNetOptions, event_loop: &dyn EventLoop) -> Option<Arc<FrameStream>> {
    match open(options, event_loop) {
        Ok(stream) => Some(stream),
        Err(error) => {
            trapline_testkit::skip("passt", &format!("the host's does not run: {error}"));
            None
        }
    }
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// A UDP datagram of the guest's to the gateway, which is the host, without a checksum (RFC 768).
fn datagram(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let Addresses { host, guest, host_mac } = Addresses::new(0);
    let udp_len = u16::try_from(8 + data.len()).unwrap();
    let udp = [from, to, udp_len, 0].map(u16::to_be_bytes).concat();
    let len = (20 + udp_len).to_be_bytes();
    let mut ip = [0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, 17, 0, 0].to_vec();
    ip.extend([guest.octets(), host.octets()].concat());
    let words = ip.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&host_mac[..], &MAC, &[8, 0], &ip, &udp, data].concat()
}

/// Sends a frame as a card does.
fn send(stream: &FrameStream, frame: &[u8]) {
    let mem = GuestMem::new(&[(0, 0x1000)]).unwrap();
    mem.write(0, frame).unwrap();
    let mut buffers = Buffers::new(&mem);
    buffers.push(0, frame.len()).unwrap();
    stream.send(0, &Header::default(), &mut buffers).unwrap();
}

/// The next frame that is wanted. Others come, too: router advertisements.
fn wait_for(stream: &FrameStream, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut packet = vec![0; PACKET_MAX];
    loop {
        match stream.receive(0, &mut packet) {
            Ok(len) if wanted(&packet[HEADER_LEN..len]) => return packet[HEADER_LEN..len].to_vec(),
            Ok(_) => {}
            Err(_) if stream.has_link() => std::thread::yield_now(),
            Err(error) => panic!("passt has gone: {error}"),
        }
    }
}

/// A TCP port of the host's that nobody has at present.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn datagrams_and_connections_go_both_ways() {
    let event_loop = trapline_testkit::event_loop();
    let (tcp, udp) = (free_port(), free_port());
    let forwards = [format!("tcp:{tcp}:22"), format!("udp:{udp}:53")];
    let forwards = options(&forwards.each_ref().map(String::as_str));
    let Some(stream) = installed(&forwards, &*event_loop) else { return };
    assert_eq!(stream.abilities().mtu, Some(MTU));

    // The guest's to the host and back.
    let host = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    // passt sends from the same port.
    let from = free_port();
    send(&stream, &datagram(from, host.local_addr().unwrap().port(), b"out"));
    let mut data = [0; 8];
    let (len, peer) = loop {
        // The end of another test's process may come between.
        match host.recv_from(&mut data) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => break received.unwrap(),
        }
    };
    assert_eq!(data[..len], *b"out");
    host.send_to(b"back", peer).unwrap();
    let frame = wait_for(&stream, |frame| frame.ends_with(b"back"));
    let head = [&MAC[..], &Addresses::new(0).host_mac, &[8, 0]].concat();
    assert_eq!(frame[..14], head);
    assert_eq!(frame[36..38], from.to_be_bytes(), "the port of the guest's");

    // Forwarded ones.
    host.send_to(b"asked", (Ipv4Addr::LOCALHOST, udp)).unwrap();
    let frame = wait_for(&stream, |frame| frame.ends_with(b"asked"));
    assert_eq!(frame[36..38], 53_u16.to_be_bytes());
    let _client = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, tcp)).unwrap();
    // IPv4, TCP, SYN.
    let is_syn =
        |frame: &[u8]| frame[12..15] == [8, 0, 0x45] && frame[23] == 6 && frame[47] == 0x02;
    let frame = wait_for(&stream, is_syn);
    assert_eq!(frame[36..38], 22_u16.to_be_bytes());
}

#[test]
fn a_port_that_is_taken_is_told() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let event_loop = trapline_testkit::event_loop();
    if installed(&options(&[]), &*event_loop).is_none() {
        return;
    }
    let forward = format!("tcp:{port}:22");
    let error = open(&options(&[&forward]), &*event_loop).err().unwrap().to_string();
    assert!(error.contains(&format!("127.0.0.1/{port}:22")), "{error}");
}

/// The process with this number is gone, and has not been left behind as a zombie.
fn is_no_more(pid: Pid) -> bool {
    !fs::exists(format!("/proc/{}", pid.as_raw_nonzero())).unwrap()
}

#[test]
fn one_that_is_killed_takes_the_link_down_and_no_more() {
    let event_loop = trapline_testkit::event_loop();
    let Some(stream) = installed(&options(&[]), &*event_loop) else { return };
    let card = Arc::<Card>::default();
    let weak: Weak<Card> = Arc::downgrade(&card);
    stream.attach(weak);
    event_loop.settle(2);
    assert!(stream.has_link());
    let pid = stream.process().pid;
    // Nobody reads its frames: a driver need not be there.
    kill_process(pid, Signal::KILL).unwrap();
    while stream.has_link() {
        event_loop.turn();
    }
    assert!(is_no_more(pid));
    event_loop.settle(4);
    assert_eq!(*card.0.lock(), 1, "the card is told once");
    let mut buf = vec![0; PACKET_MAX];
    assert_eq!(stream.receive(0, &mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn it_ends_with_the_card_and_with_the_socket() {
    let event_loop = trapline_testkit::event_loop();
    let Some(stream) = installed(&options(&[]), &*event_loop) else { return };
    let pid = stream.process().pid;
    drop(stream);
    assert!(is_no_more(pid));
    // The kernel closes the socket of a VMM that is killed.
    let (socket, process) = start(OsStr::new(PROGRAM), &options(&[]), PATIENCE).unwrap();
    drop(socket);
    let mut child = process.child.lock().take().unwrap();
    assert!(child.wait().unwrap().success(), "nobody has killed it");
}
