//! Connections, from the guest's side.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![forbid(unsafe_code)]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;
use smoltcp::socket::tcp::State;
use support::{ADDRESSES, GUEST_MAC, Guest, pattern};
use trapline_usernet::CONNECTIONS_MAX;

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Sends all of it, while taking what comes until the peer's end; then its own end comes.
fn exchange(guest: &mut Guest, handle: smoltcp::iface::SocketHandle, data: &[u8]) -> Vec<u8> {
    let (mut sent, mut received, mut ended) = (0, Vec::new(), false);
    guest.until(|guest| {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
        }
        if sent < data.len() && socket.can_send() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        }
        if sent == data.len() && socket.may_send() && !ended {
            socket.close();
            ended = true;
        }
        matches!(socket.state(), State::Closed | State::TimeWait).then_some(())
    });
    received
}

#[test]
fn bytes_go_both_ways_and_each_end_ends_by_itself() {
    let (listener, port) = listen();
    let data = pattern(3 << 20);
    let server = thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        assert!(peer.ip().is_loopback());
        let mut all = Vec::new();
        // Until the guest's end, and the answer goes the other way after that.
        stream.read_to_end(&mut all).unwrap();
        all.reverse();
        stream.write_all(&all).unwrap();
    });
    let mut guest = Guest::new(&[]);
    let handle = guest.connect(port);
    let received = exchange(&mut guest, handle, &data);
    server.join().unwrap();
    assert!(received.iter().eq(data.iter().rev()), "{} bytes", received.len());
    guest.until(|guest| (guest.net.counts().connections == 0).then_some(()));
    assert_eq!(guest.net.counts().opened, 1);
}

#[test]
fn the_peer_can_end_first() {
    let (listener, port) = listen();
    let data = pattern(1 << 20);
    let (sent, expected) = (data.clone(), data.clone());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&sent).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let mut guest = Guest::new(&[]);
    guest.card().mtu = 65_520;
    let handle = guest.connect(port);
    let mut received = Vec::new();
    guest.until(|guest| {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
        }
        (socket.state() == State::CloseWait).then_some(())
    });
    assert!(received == expected);
    exchange(&mut guest, handle, &data);
    assert!(server.join().unwrap() == data);
    guest.until(|guest| (guest.net.counts().connections == 0).then_some(()));
}

#[test]
fn who_does_not_listen_refuses() {
    let (listener, port) = listen();
    drop(listener);
    let mut guest = Guest::new(&[]);
    let handle = guest.connect(port);
    guest.until(|guest| (guest.tcp(handle).state() == State::Closed).then_some(()));
    assert_eq!(guest.net.counts().connections, 0);
    // Nobody is asked for what is no host's address.
    let handle = guest.connect_to((Ipv4Addr::new(192, 168, 33, 255), 80).into());
    guest.rest();
    assert_eq!(guest.tcp(handle).state(), State::SynSent);
    assert_eq!(guest.net.counts().connections, 0);
}

#[test]
fn resets_go_on_to_the_other_side() {
    let (listener, port) = listen();
    let mut guest = Guest::new(&[]);
    let handle = guest.connect(port);
    guest.until(|guest| guest.tcp(handle).may_send().then_some(()));
    let (stream, _) = listener.accept().unwrap();
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    guest.until(|guest| (guest.tcp(handle).state() == State::Closed).then_some(()));

    let handle = guest.connect(port);
    guest.until(|guest| guest.tcp(handle).may_send().then_some(()));
    let (mut stream, _) = listener.accept().unwrap();
    guest.tcp(handle).abort();
    guest.until(|guest| (guest.net.counts().connections == 0).then_some(()));
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// A peer that does not read stops the guest, and loses nothing of it.
#[test]
fn who_waits_is_waited_for() {
    let (listener, port) = listen();
    let mut guest = Guest::new(&[]);
    let handle = guest.connect(port);
    guest.until(|guest| guest.tcp(handle).may_send().then_some(()));
    let (mut stream, _) = listener.accept().unwrap();
    let data = pattern(1 << 20);
    let (mut sent, mut quiet) = (0, 0);
    while quiet < 200 {
        let socket = guest.tcp(handle);
        let now = if sent < 64 << 20 { socket.send_slice(&data).unwrap() } else { 0 };
        quiet = if now == 0 { quiet + 1 } else { 0 };
        sent += now;
        guest.turn();
    }
    assert!(sent < 32 << 20, "{sent} bytes are somewhere");
    guest.tcp(handle).close();
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.len()
    });
    guest
        .until(|guest| (guest.net.counts().connections == 0 || reader.is_finished()).then_some(()));
    assert_eq!(reader.join().unwrap(), sent);
}

#[test]
fn there_are_so_many_connections_and_no_more() {
    let (listener, port) = listen();
    let accepting = thread::spawn(move || {
        let all: Vec<_> = (0..CONNECTIONS_MAX).map(|_| listener.accept().unwrap()).collect();
        (listener, all)
    });
    let mut guest = Guest::new(&[]);
    let handles: Vec<_> = (0..CONNECTIONS_MAX).map(|_| guest.connect(port)).collect();
    for handle in &handles {
        guest.until(|guest| guest.tcp(*handle).may_send().then_some(()));
    }
    let refused = guest.connect(port);
    guest.until(|guest| (guest.tcp(refused).state() == State::Closed).then_some(()));
    assert_eq!(guest.net.counts().connections, CONNECTIONS_MAX);
    // One that ends makes room for another.
    let _peers = accepting.join().unwrap();
    guest.tcp(handles[7]).abort();
    guest.until(|guest| (guest.net.counts().connections < CONNECTIONS_MAX).then_some(()));
}

#[test]
fn a_forwarded_port_leads_to_the_guest() {
    let (listener, port) = listen();
    drop(listener);
    let mut guest = Guest::new(&[&format!("tcp:{port}:22")]);
    let handle = guest.socket();
    guest.tcp(handle).listen(22).unwrap();
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.write_all(b"who is there?").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let question = exchange(&mut guest, handle, b"the guest");
    assert_eq!(question, b"who is there?");
    assert_eq!(client.join().unwrap(), "the guest");
    guest.until(|guest| (guest.net.counts().connections == 0).then_some(()));
}

#[test]
fn a_guest_that_does_not_listen_resets_who_comes_to_its_port() {
    let (listener, port) = listen();
    drop(listener);
    let mut guest = Guest::new(&[&format!("tcp:{port}:22")]);
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.read(&mut [0]).unwrap_err().kind()
    });
    guest.until(|_| client.is_finished().then_some(()));
    assert_eq!(client.join().unwrap(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(guest.net.counts().connections, 0);
}

/// A segment of the guest's from `from` to `to`: its flags, its numbers, and what is behind them.
fn segment((from, to): (u16, u16), flags: u8, numbers: [u32; 2], tail: &[&[u8]; 3]) -> Vec<u8> {
    let [window, options, data] = *tail;
    let words = 5 + options.len().div_ceil(4);
    let mut tcp = [from.to_be_bytes(), to.to_be_bytes()].concat();
    tcp.extend(numbers.map(u32::to_be_bytes).concat());
    tcp.extend([u8::try_from(words).unwrap() << 4, flags]);
    tcp.extend([window, &[0; 4], options].concat());
    // Options that say nothing.
    tcp.resize(4 * words, 1);
    tcp.extend(data);
    let len = u16::try_from(20 + tcp.len()).unwrap().to_be_bytes();
    let addresses = [ADDRESSES.guest.octets(), ADDRESSES.host.octets()].concat();
    let ethernet = [&ADDRESSES.host_mac[..], &GUEST_MAC, &[8, 0]].concat();
    let ip = [&[0x45, 0][..], &len, &[0, 0, 0, 0, 64, 6, 0, 0], &addresses].concat();
    [ethernet, ip, tcp].concat()
}

/// What a guest has seen of a connection: the number that it is to acknowledge.
fn fetch(guest: &Guest, most: usize) -> Option<u32> {
    let (mut buf, mut number) = (vec![0; 65_600], None);
    for _ in 0..most {
        let Some(len) = guest.net.receive(&mut buf) else { break };
        let data = u32::try_from(len - 54).unwrap() + u32::from(buf[47] & 3 != 0);
        let first = u32::from_be_bytes(buf[38..42].try_into().unwrap());
        number = Some(first.wrapping_add(data));
    }
    number
}

/// Numbers, windows, options and lengths that are near to what is right, and far from it.
#[test]
fn no_segment_of_a_connection_is_too_strange() {
    let (listener, port) = listen();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    let mut random = fastrand::Rng::with_seed(1);
    let guest = Guest::new(&[]);
    for from in 1000..1400 {
        let mut numbers = [random.u32(..), 0];
        let size = random.u16(..).to_be_bytes();
        let options = [2, 4, size[0], size[1], 3, 3, random.u8(..), 4, 2];
        let asked = segment((from, port), 2, numbers, &[&[0xff; 2], &options, &[]]);
        guest.net.send(&asked);
        numbers[0] = numbers[0].wrapping_add(1);
        numbers[1] = (0..1000)
            .find_map(|_| {
                guest.event_loop.turn();
                fetch(&guest, 9).or_else(|| {
                    thread::sleep(Duration::from_micros(50));
                    None
                })
            })
            .unwrap();
        for _ in 0..random.u8(1..40) {
            let flags = *random.choice(&[0x10, 0x10, 0x10, 0x18, 0x11, 2, 0x14, 0x3f]).unwrap();
            let len = *random.choice(&[0, 0, 1, 1460, 60_000]).unwrap();
            let near = numbers.map(|number| match random.u8(..8) {
                0 => random.u32(..),
                1 => number.wrapping_add(random.u32(..200_000)),
                2 => number.wrapping_sub(random.u32(..200_000)),
                _ => number,
            });
            let edges = near.map(u32::to_be_bytes).concat();
            let selective = [&[5, 10][..], &edges].concat();
            let options = *random.choice(&[&[][..], &selective, &edges]).unwrap();
            let window = random.choice(&[[0, 0], [0, 1], [0xff, 0xff]]).unwrap();
            let tail = [&window[..], options, &vec![7; len]];
            guest.net.send(&segment((from, port), flags, near, &tail));
            if near[0] == numbers[0] {
                numbers[0] = near[0].wrapping_add(u32::try_from(len).unwrap());
            }
            guest.event_loop.turn();
            numbers[1] = fetch(&guest, random.usize(..5)).unwrap_or(numbers[1]);
            guest.clock.step_ns(random.u64(..500_000_000));
        }
        // It gives up, with the number that is awaited, if that is known.
        fetch(&guest, usize::MAX);
        guest.net.send(&segment((from, port), 0x14, numbers, &[&[0; 2], &[], &[]]));
        fetch(&guest, usize::MAX);
    }
    let counts = guest.net.counts();
    assert!(counts.connections < CONNECTIONS_MAX && counts.opened >= 400, "{counts:?}");
}
