//! Writing to standard error, which may be full, broken, or read by nobody: that is no reason for a
//! guest to end.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long a message waits for a reader who takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// So much can be written at once to a pipe that has room, without waiting (`PIPE_BUF` of POSIX).
const PIECE: usize = 512;

/// Keeps one thread's lines out of another's.
static TURN: Mutex<()> = Mutex::new(());

/// Writes a message to standard error, in one piece if it has room. A message that cannot be written
/// is lost.
pub fn message(text: &str) {
    let _turn = TURN.try_lock_for(PATIENCE);
    let _ = write_all(rustix::stdio::stderr(), text.as_bytes(), Some(PATIENCE));
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

/// Writes all of `data`, although the file may have been made non-blocking by whoever else has it
/// open. Gives up when nothing could be written for as long as `patience`, if there is a limit.
///
/// # Errors
/// Why not all could be written.
fn write_all(to: impl AsFd, mut data: &[u8], patience: Option<Duration>) -> Result<(), Errno> {
    let most = if patience.is_some() { PIECE } else { usize::MAX };
    let mut progress = Instant::now();
    while !data.is_empty() {
        let left = patience.map(|patience| patience.saturating_sub(progress.elapsed()));
        wait_for_room(&to, left)?;
        let piece = data.get(..most).unwrap_or(data);
        match rustix::io::write(&to, piece) {
            Ok(count) => {
                data = data.get(count..).unwrap_or_default();
                progress = Instant::now();
            }
            Err(Errno::INTR | Errno::AGAIN) if left.is_none_or(|left| !left.is_zero()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until there is room, or an error to be had.
fn wait_for_room(to: &impl AsFd, timeout: Option<Duration>) -> Result<(), Errno> {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut [PollFd::new(to, PollFlags::OUT)], timeout.as_ref()) {
        Ok(0) => Err(Errno::TIMEDOUT),
        // What cannot be waited for says at the write what is wrong with it.
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const SHORT: Option<Duration> = Some(Duration::from_millis(20));

    #[test]
    fn a_pipe_that_nobody_reads_loses_the_rest_of_the_message() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let text = vec![b'x'; 1 << 20];
        assert_eq!(write_all(&writer, &text, SHORT), Err(Errno::TIMEDOUT));
        drop(writer);
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        assert!(seen.len() >= PIECE && seen.len() < text.len(), "{}", seen.len());
    }

    #[test]
    fn a_full_pipe_that_does_not_block_is_waited_for_and_then_gives_up() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let flags = rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&writer, flags).unwrap();
        assert_eq!(write_all(&writer, &vec![0; 1 << 20], SHORT), Err(Errno::TIMEDOUT));
    }

    #[test]
    fn a_slow_reader_of_an_answer_gets_it_whole() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        let text = vec![7; 1 << 20];
        let sent = text.clone();
        let sender = std::thread::spawn(move || write_all(&writer, &sent, None));
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        assert_eq!(sender.join().unwrap(), Ok(()));
        assert!(seen == text);
    }

    #[test]
    fn an_error_is_returned() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(write_all(&full, b"x", SHORT), Err(Errno::NOSPC));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(write_all(&writer, b"x", None), Err(Errno::PIPE));
    }
}
