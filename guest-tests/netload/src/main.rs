//! Bytes by TCP each way and echoes by UDP, all of them looked at. `netload serve ADDRESS:PORT` is the
//! other end, for as long as it lives; `netload drive ADDRESS:PORT MEBIBYTES ECHOES` does it and says how
//! it went; `netload back ADDRESS:PORT BACK` has the other end do it with port BACK of its own.
//!
//! A connection begins with a letter, S for bytes to the server, R for bytes from it and B for an
//! exchange with a port, and a number, 8 bytes little-endian: how many bytes, or the port. The bytes
//! are a sequence that both ends know; the server ends S with how many of them were right, and B
//! with 1 if all went well, in the same form.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// What the other end exchanges when it is asked to.
const BACK_MEBIBYTES: u64 = 1;
const BACK_ECHOES: u64 = 20;
/// Bytes of one write.
const PIECE: usize = 32 << 10;
/// How long an echo is waited for, and how often it is asked for again.
const PATIENCE: Duration = Duration::from_millis(500);
const TRIES: u32 = 20;
/// The longest datagram that goes over Ethernet in one piece.
const DATAGRAM_MAX: u64 = 1472;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve", at] => at.parse().map_err(io::Error::other).and_then(serve),
        ["back", server, port] => match (server.parse(), port.parse()) {
            (Ok(server), Ok(port)) => back(server, port),
            _ => Err(io::Error::other("back takes ADDRESS:PORT PORT")),
        },
        ["drive", server, mebibytes, echoes] => {
            let numbers = (mebibytes.parse::<u64>(), echoes.parse::<u64>());
            match (server.parse(), numbers) {
                (Ok(server), (Ok(mebibytes), Ok(echoes))) => drive(server, mebibytes, echoes),
                _ => Err(io::Error::other("drive takes ADDRESS:PORT MEBIBYTES ECHOES")),
            }
        }
        _ => Err(io::Error::other(
            "netload serve ADDRESS:PORT, drive ADDRESS:PORT MEBIBYTES ECHOES, back ADDRESS:PORT PORT",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("netload: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The sequence: SplitMix64's bytes from a seed on.
struct Sequence {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Sequence {
    fn new(seed: u64) -> Self {
        Self { state: seed, word: [0; 8], used: 8 }
    }

    fn fill(&mut self, buf: &mut [u8]) {
        for byte in buf {
            if self.used == 8 {
                self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = self.state;
                mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                self.word = (mixed ^ mixed >> 31).to_le_bytes();
                self.used = 0;
            }
            *byte = self.word.get(self.used).copied().unwrap_or(0);
            self.used += 1;
        }
    }
}

fn serve(at: SocketAddr) -> io::Result<()> {
    let (listener, socket) = (TcpListener::bind(at)?, UdpSocket::bind(at)?);
    thread::spawn(move || {
        let mut datagram = [0; 65536];
        loop {
            // Who has gone need not be answered.
            if let Ok((len, from)) = socket.recv_from(&mut datagram) {
                let _ = socket.send_to(datagram.get(..len).unwrap_or_default(), from);
            }
        }
    });
    for stream in listener.incoming() {
        thread::spawn(move || stream.and_then(answer));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [letter, a, b, c, d, e, f, g, h] = head;
    let count = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    match letter {
        b'S' => {
            let good = take(&mut stream, count)?;
            stream.write_all(&good.to_le_bytes())
        }
        b'B' => {
            let port = u16::try_from(count).map_err(io::Error::other)?;
            let server = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
            let well = drive(server, BACK_MEBIBYTES, BACK_ECHOES);
            stream.write_all(&u64::from(well.is_ok()).to_le_bytes())
        }
        _ => give(&mut stream, count),
    }
}

/// Has the server exchange bytes with its own port, and says how that went.
fn back(server: SocketAddr, port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(&[&b"B"[..], &u64::from(port).to_le_bytes()].concat())?;
    let mut well = [0; 8];
    stream.read_exact(&mut well)?;
    match u64::from_le_bytes(well) {
        1 => Ok(()),
        _ => Err(io::Error::other("the other end got nowhere")),
    }
}

fn give(stream: &mut TcpStream, count: u64) -> io::Result<()> {
    let (mut sequence, mut piece, mut left) = (Sequence::new(count), vec![0; PIECE], count);
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let now = piece.get_mut(..len).unwrap_or_default();
        sequence.fill(now);
        stream.write_all(now)?;
        left -= len as u64;
    }
    Ok(())
}

/// How many of the bytes that come are right, up to the first that is not.
fn take(stream: &mut TcpStream, count: u64) -> io::Result<u64> {
    let (mut sequence, mut good, mut came) = (Sequence::new(count), 0, 0);
    let (mut piece, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    while came < count {
        let len = stream.read(&mut piece)?;
        if len == 0 {
            break;
        }
        let (piece, right) = (piece.get(..len), right.get_mut(..len).unwrap_or_default());
        sequence.fill(right);
        let equal = piece.into_iter().flatten().zip(&*right).take_while(|(a, b)| a == b).count();
        good += if good == came { equal as u64 } else { 0 };
        came += len as u64;
    }
    Ok(good)
}

fn drive(server: SocketAddr, mebibytes: u64, echoes: u64) -> io::Result<()> {
    let count = mebibytes * MIB;
    let head = |letter: u8| [&[letter][..], &count.to_le_bytes()].concat();
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(&head(b'S'))?;
    give(&mut stream, count)?;
    let mut good = [0; 8];
    stream.read_exact(&mut good)?;
    let sent = u64::from_le_bytes(good);
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(&head(b'R'))?;
    let received = take(&mut stream, count)?;
    let (echoed, again) = echo(server, echoes)?;
    println!(
        "netload: {sent} bytes sent and {received} received of {count}, {echoed} echoes of {echoes}"
    );
    eprintln!("netload: {again} datagrams were sent again");
    if (sent, received, echoed) == (count, count, echoes) {
        Ok(())
    } else {
        Err(io::Error::other("that is not all"))
    }
}

/// How many echoes were right, and how many datagrams had to be sent again.
fn echo(server: SocketAddr, echoes: u64) -> io::Result<(u64, u64)> {
    let any: IpAddr = match server.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut good, mut again, mut answer) = (0, 0, [0; 65536]);
    for number in 0..echoes {
        let len = usize::try_from(8 + number * 37 % (DATAGRAM_MAX - 8)).unwrap_or(8);
        let mut datagram = vec![0; len];
        Sequence::new(number).fill(&mut datagram);
        let mut tries = 0..TRIES;
        let right = tries.any(|attempt| {
            again += u64::from(attempt > 0);
            // One that cannot be sent at present is one that is lost.
            let _ = socket.send(&datagram);
            // Late answers to others are left behind.
            while let Ok(len) = socket.recv(&mut answer) {
                if answer.get(..len) == Some(datagram.as_slice()) {
                    return true;
                }
            }
            false
        });
        good += u64::from(right);
    }
    Ok((good, again))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_through_and_is_counted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        thread::spawn(move || serve(server));
        while TcpStream::connect(server).is_err() {
            thread::yield_now();
        }
        drive(server, 1, 100).unwrap();
        back(server, port).unwrap();
        back(server, 1).unwrap_err();
    }

    #[test]
    fn a_wrong_byte_is_found() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 1000];
        Sequence::new(1000).fill(&mut bytes);
        bytes[700] ^= 1;
        ours.write_all(&bytes).unwrap();
        assert_eq!(take(&mut theirs, 1000).unwrap(), 700);
    }
}
