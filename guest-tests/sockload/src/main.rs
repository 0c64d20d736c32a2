//! Bytes each way through a socket device, all of them looked at: one end sends, and ends its half of the
//! connection; the other sends everything back, and ends its half.
//!
//! In the guest: `sockload drive PORT MEBIBYTES CONNECTIONS` to the host, with so many connections at a time,
//! and `sockload serve PORT CONNECTIONS`, which ends after as many. On the host: `sockload echo PATH` and
//! `sockload call PATH PORT MEBIBYTES CONNECTIONS`.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::thread;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, listen, socket,
};

const MIB: u64 = 1 << 20;
/// Bytes of one write; odd, so that packets end anywhere.
const PIECE: usize = 10_007;
/// The host's context identifier, and whatever the guest's is.
const HOST: u32 = 2;
const ANY: u32 = u32::MAX;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("sockload: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> io::Result<()> {
    let number = |text: &str| text.parse::<u32>().map_err(io::Error::other);
    match *words {
        ["drive", port, mebibytes, connections] => {
            let port = number(port)?;
            all(number(connections)?, number(mebibytes)?, || to_host(port))
        }
        ["call", path, port, mebibytes, connections] => {
            all(number(connections)?, number(mebibytes)?, || to_guest(path, port))
        }
        ["serve", port, connections] => serve(number(port)?, number(connections)?),
        ["echo", path] => {
            for stream in UnixListener::bind(path)?.incoming() {
                let stream = stream?;
                thread::spawn(move || echo(stream));
            }
            Ok(())
        }
        _ => Err(io::Error::other(
            "sockload drive PORT MEBIBYTES CONNECTIONS, serve PORT CONNECTIONS, echo PATH, \
             call PATH PORT MEBIBYTES CONNECTIONS",
        )),
    }
}

/// A socket of the guest's. Reading, writing and shutting down are the same for all streams.
fn vsock() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

fn to_host(port: u32) -> io::Result<UnixStream> {
    let socket = vsock()?;
    connect(socket.as_raw_fd(), &VsockAddr::new(HOST, port))?;
    Ok(socket.into())
}

fn to_guest(path: &str, port: &str) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    match line.starts_with(b"OK ") {
        true => Ok(stream),
        false => Err(io::Error::other(String::from_utf8_lossy(&line).into_owned())),
    }
}

fn serve(port: u32, connections: u32) -> io::Result<()> {
    let listener = vsock()?;
    bind(listener.as_raw_fd(), &VsockAddr::new(ANY, port))?;
    listen(&listener, Backlog::new(64)?)?;
    println!("sockload: listening");
    let mut threads = Vec::new();
    for _ in 0..connections {
        let stream = UnixStream::from(rustix::net::accept(&listener)?);
        threads.push(thread::spawn(move || echo(stream)));
    }
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a thread has ended"))??;
    }
    Ok(())
}

fn echo(mut stream: UnixStream) -> io::Result<()> {
    let mut buf = vec![0; 1 << 16];
    loop {
        let len = stream.read(&mut buf)?;
        if len == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(buf.get(..len).unwrap_or_default())?;
    }
}

/// So many connections at a time; says how it went.
fn all(
    connections: u32,
    mebibytes: u32,
    open: impl Fn() -> io::Result<UnixStream>,
) -> io::Result<()> {
    let count = u64::from(mebibytes) * MIB;
    let opened = (0..connections).map(|_| open()).collect::<io::Result<Vec<_>>>()?;
    let threads: Vec<_> = (0..)
        .zip(opened)
        .map(|(seed, stream)| thread::spawn(move || exchange(stream, seed, count)))
        .collect();
    let mut good = 0;
    for thread in threads {
        good += thread.join().map_err(|_| io::Error::other("a thread has ended"))??;
    }
    println!("sockload: {good} bytes of {} came back right", u64::from(connections) * count);
    Ok(())
}

/// Byte `at` of what a connection sends.
fn byte(seed: u64, at: u64) -> u8 {
    let mixed = (at / 8 + 1).wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [.., byte] = (mixed.rotate_left(u32::try_from(at % 8 * 8).unwrap_or(0))).to_be_bytes();
    byte
}

/// Sends, and looks at what comes back meanwhile; how many bytes were right.
fn exchange(stream: UnixStream, seed: u64, count: u64) -> io::Result<u64> {
    let mut sender = stream.try_clone()?;
    let sending = thread::spawn(move || -> io::Result<()> {
        let mut at = 0;
        while at < count {
            let end = count.min(at + PIECE as u64);
            let piece: Vec<u8> = (at..end).map(|at| byte(seed, at)).collect();
            sender.write_all(&piece)?;
            at = end;
        }
        sender.shutdown(Shutdown::Write)
    });
    let (mut at, mut good, mut buf, mut stream) = (0, 0, vec![0; 1 << 16], stream);
    loop {
        let len = stream.read(&mut buf)?;
        if len == 0 {
            break;
        }
        for got in buf.get(..len).unwrap_or_default() {
            good += u64::from(at < count && *got == byte(seed, at));
            at += 1;
        }
    }
    sending.join().map_err(|_| io::Error::other("a thread has ended"))??;
    Ok(if at == count { good } else { 0 })
}
