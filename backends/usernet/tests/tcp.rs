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
use support::{Guest, pattern};
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
