//! The connection to gdb, which ends when the server is to.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a connection that waits looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// A gdb that reads nothing for so long has gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// The connection to one gdb.
pub(super) struct Connection {
    stream: TcpStream,
    end: Arc<AtomicBool>,
    /// What gdb has sent and nobody has taken, the next byte last.
    waiting: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, end: &Arc<AtomicBool>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, end: Arc::clone(end), waiting: Vec::new() })
    }

    /// Reads what there is within `timeout`, the first byte last.
    fn fill(&mut self, timeout: Duration) -> io::Result<()> {
        let mut bytes = [0; 4096];
        self.stream.set_read_timeout(Some(timeout))?;
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.waiting.extend(bytes.iter().take(count).rev());
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(()),
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(error),
            },
        }
    }
}

impl gdbstub::conn::Connection for Connection {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        Write::write_all(&mut self.stream, &[byte])
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        Write::write_all(&mut self.stream, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Write::flush(&mut self.stream)
    }
}

impl gdbstub::conn::ConnectionExt for Connection {
    fn read(&mut self) -> io::Result<u8> {
        loop {
            if let Some(byte) = self.waiting.pop() {
                return Ok(byte);
            }
            if self.end.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            self.fill(LOOK)?;
        }
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        if self.end.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.waiting.is_empty() {
            self.fill(Duration::from_millis(1))?;
        }
        Ok(self.waiting.last().copied())
    }
}
