//! Writing to the user's streams, which may be full, broken, non-blocking, or read by nobody: that
//! is no reason for a guest to end.
//!
//! Everything that goes to a stream of the user's goes through `write_all`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// How long a message waits for a reader who takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// So much can be written at once to a pipe or socket that has room, without waiting (`PIPE_BUF` of
/// POSIX).
const PIECE: usize = 512;

/// Keeps one thread's lines out of another's.
static TURN: Mutex<()> = Mutex::new(());

/// Writes a message to standard error, in one piece if it has room. A message that cannot be written
/// is lost.
pub fn message(text: &str) {
    let _turn = TURN.try_lock_for(PATIENCE);
    let _ = match at_once() {
        Some(stderr) => write_all(stderr, text.as_bytes(), Some(PATIENCE)),
        None => write_all(rustix::stdio::stderr(), text.as_bytes(), Some(PATIENCE)),
    };
}

/// Writes something the user asked for to standard error, and waits for who reads it for as long as
/// it takes.
pub fn answer(text: &str) {
    let _turn = TURN.lock();
    let _ = write_all(rustix::stdio::stderr(), text.as_bytes(), None);
}

/// Writes a line of which there are many to standard error, and waits for who reads it for as long as
/// it takes, in nobody's way meanwhile: messages and answers do not wait for it.
pub fn line(text: &str) {
    let _ = write_all(rustix::stdio::stderr(), text.as_bytes(), None);
}

/// Standard error, opened once more for writes that do not wait: whoever else has it open decides
/// whether theirs do. Only of a terminal or a pipe, which others may fill between our looking for
/// room and our writing; a terminal says it has room when it has some for less than we write.
fn at_once() -> Option<&'static File> {
    static OPENED: OnceLock<Option<File>> = OnceLock::new();
    OPENED.get_or_init(|| without_waiting(rustix::stdio::stderr())).as_ref()
}

fn without_waiting(file: impl AsFd) -> Option<File> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).ok()?.st_mode);
    if kind != FileType::Fifo && !rustix::termios::isatty(&file) {
        return None;
    }
    let number = std::os::fd::AsRawFd::as_raw_fd(&file.as_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{number}");
    Some(rustix::fs::open(path, flags, Mode::empty()).ok()?.into())
}

/// Writes all of `data`, although the file may have been made non-blocking by whoever else has it
/// open. Gives up when nothing could be written for as long as `patience`, if there is a limit.
///
/// # Errors
/// Why not all could be written.
pub(crate) fn write_all(
    to: impl AsFd,
    mut data: &[u8],
    patience: Option<Duration>,
) -> Result<(), Errno> {
    let most = if patience.is_some() { PIECE } else { usize::MAX };
    let mut progress = Instant::now();
    while !data.is_empty() {
        let left = patience.map(|patience| patience.saturating_sub(progress.elapsed()));
        wait_for(&to, PollFlags::OUT, left)?;
        let piece = data.get(..most).unwrap_or(data);
        match rustix::io::write(&to, piece) {
            Ok(count) => {
                data = data.get(count..).unwrap_or_default();
                progress = Instant::now();
            }
            // What is ready has room for less than a character at times.
            Err(Errno::INTR | Errno::AGAIN) if left.is_none_or(|left| !left.is_zero()) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until there is room, or something to read, or an error to be had.
fn wait_for(file: &impl AsFd, what: PollFlags, timeout: Option<Duration>) -> Result<(), Errno> {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut [PollFd::new(file, what)], timeout.as_ref()) {
        Ok(0) => Err(Errno::TIMEDOUT),
        // What cannot be waited for says at the write what is wrong with it.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A stream that is waited for, although it may have been made non-blocking by whoever else has it
/// open.
#[derive(Debug)]
pub struct Patient<F>(pub F);

impl<F: AsFd> Read for Patient<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.0, &mut *buf) {
                Err(Errno::AGAIN) => wait_for(&self.0, PollFlags::IN, None)?,
                Err(Errno::INTR) => {}
                read => return Ok(read?),
            }
        }
    }
}

impl<F: AsFd> Write for Patient<F> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        write_all(&self.0, data, None)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Option<Duration> = Some(Duration::from_millis(20));

    #[test]
    fn a_pipe_that_nobody_reads_loses_the_rest_of_the_message() {
        let (mut reader, writer) = io::pipe().unwrap();
        let text = vec![b'x'; 1 << 20];
        assert_eq!(write_all(&writer, &text, SHORT), Err(Errno::TIMEDOUT));
        drop(writer);
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        assert!(seen.len() >= PIECE && seen.len() < text.len(), "{}", seen.len());
    }

    #[test]
    fn a_full_pipe_that_does_not_block_is_waited_for_and_then_gives_up() {
        let (_reader, writer) = io::pipe().unwrap();
        let flags = OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&writer, flags).unwrap();
        assert_eq!(write_all(&writer, &vec![0; 1 << 20], SHORT), Err(Errno::TIMEDOUT));
    }

    #[test]
    fn a_slow_reader_of_an_answer_gets_it_whole() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let text = vec![7; 1 << 20];
        let sent = text.clone();
        let sender = std::thread::spawn(move || write_all(&writer, &sent, None));
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        assert_eq!(sender.join().unwrap(), Ok(()));
        assert!(seen == text);
    }

    /// A terminal says that it has room as long as it has any.
    #[test]
    fn a_terminal_that_nobody_reads_loses_the_rest_of_the_message() {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let name = ptsname(&user, Vec::new()).unwrap();
        let terminal = rustix::fs::open(&name, flags, Mode::empty()).unwrap();
        let writer = without_waiting(&terminal).unwrap();
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(write_all(&writer, &vec![b'x'; 1 << 20], SHORT)));
        let result = wait.recv_timeout(Duration::from_secs(20));
        assert_eq!(result, Ok(Err(Errno::TIMEDOUT)));
        // It is the terminal of everybody else as it was.
        assert!(!rustix::fs::fcntl_getfl(&terminal).unwrap().contains(OFlags::NONBLOCK));
    }

    /// As when somebody else writes to it between our look and our write.
    #[test]
    fn a_pipe_is_written_to_without_waiting_and_a_file_where_it_is() {
        let (reader, writer) = io::pipe().unwrap();
        let ours = without_waiting(&writer).unwrap();
        let size = rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
        assert_eq!(rustix::io::write(&ours, &vec![0; 2 * size]), Ok(size));
        assert_eq!(rustix::io::write(&ours, b"x"), Err(Errno::AGAIN));
        drop(reader);
        let file = tempfile::tempfile().unwrap();
        assert!(without_waiting(&file).is_none(), "it would be written to from its beginning");
        assert!(without_waiting(File::open("/dev/null").unwrap()).is_none());
    }

    #[test]
    fn what_does_not_block_is_waited_for_both_ways() {
        let (reader, writer) = io::pipe().unwrap();
        for end in [reader.as_fd(), writer.as_fd()] {
            rustix::fs::fcntl_setfl(end, OFlags::NONBLOCK).unwrap();
        }
        let sent = vec![9; 1 << 20];
        let copy = sent.clone();
        let sender = std::thread::spawn(move || Patient(writer).write_all(&copy));
        let mut seen = Vec::new();
        Patient(reader).read_to_end(&mut seen).unwrap();
        sender.join().unwrap().unwrap();
        assert!(seen == sent);
    }

    #[test]
    fn an_error_is_returned() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(write_all(&full, b"x", SHORT), Err(Errno::NOSPC));
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        assert_eq!(write_all(&writer, b"x", None), Err(Errno::PIPE));
    }
}
