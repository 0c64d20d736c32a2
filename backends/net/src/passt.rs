//! passt (`passt(1)`): a network without rights in a process of its own. It speaks over a pair of
//! sockets, and ends when its end of them is the only one.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use trapline_device::EventLoop;
use trapline_usernet::{Addresses, Protocol, UserNetOptions};

use crate::{FRAME_MAX, FrameStream};

/// The longest IP packet of it, which its DHCP tells, too.
pub(crate) const MTU: u16 = 65_520;
/// Its name, in `PATH`.
const PROGRAM: &str = "passt";
/// How long it may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a frame's length.
const PREFIX: usize = 4;
/// How much is taken of what it says, in bytes.
const SAID_MAX: usize = 4096;

/// A process, which ends when this is dropped.
pub(crate) struct Process {
    /// Until it is known to have ended.
    child: Mutex<Option<Child>>,
    pid: Pid,
    /// What it writes to its standard error. What does not fit into the pipe is lost.
    said: OwnedFd,
}

impl Process {
    /// A descriptor that is ready to be read when it has ended.
    pub(crate) fn end(&self) -> io::Result<OwnedFd> {
        Ok(pidfd_open(self.pid, PidfdFlags::empty())?)
    }

    /// It has ended, or does not listen any more: says so, once, and waits for its end.
    pub(crate) fn has_gone(&self) {
        if self.stop() {
            let reason = self.last_line().map(|line| format!(" ({line})")).unwrap_or_default();
            tracing::warn!(
                "passt has ended{reason}: the network card before it has no link any more"
            );
        }
    }

    /// Ends it, if that was not done before.
    fn stop(&self) -> bool {
        let child = self.child.lock().take();
        let ended = child.map(|mut child| {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        });
        ended.is_some()
    }

    /// The last that it has said, fit to be shown.
    fn last_line(&self) -> Option<String> {
        let mut said = vec![0; SAID_MAX];
        let len = rustix::io::read(&self.said, &mut said).ok()?;
        let said = String::from_utf8_lossy(said.get(..len)?).into_owned();
        // What it would rather have told the host's log.
        let mut lines = said.lines().filter(|line| !line.starts_with("Failed to send "));
        let line = lines.next_back()?.trim().trim_end_matches(", exiting");
        Some(line.chars().flat_map(char::escape_debug).collect())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts passt with these addresses and forwarded ports, and waits until it answers.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] when it is not installed; else why it does not run.
pub(crate) fn open(
    options: &UserNetOptions,
    event_loop: &dyn EventLoop,
) -> io::Result<Arc<FrameStream>> {
    let (socket, process) = start(OsStr::new(PROGRAM), options, PATIENCE)?;
    FrameStream::of_process(OwnedFd::from(socket), process, event_loop)
}

fn start(
    program: &OsStr,
    options: &UserNetOptions,
    patience: Duration,
) -> io::Result<(UnixStream, Process)> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let (said, says) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    trapline_guestio::keep_from_children()?;
    let mut command = Command::new(program);
    // Versions between take no descriptor of 0 to 2, which others would.
    let fd = trapline_guestio::hand_down(&mut command, theirs.into());
    command.args(["--foreground", "--quiet", "--fd", &fd.to_string()]).args(arguments(options));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(says);
    let child = command.spawn()?;
    // With it go our copies of its descriptors.
    drop(command);
    let pid = Pid::from_child(&child);
    let process = Process { child: Mutex::new(Some(child)), pid, said };
    match greet(&mut ours, &options.addresses, Instant::now() + patience) {
        Ok(()) => Ok((ours, process)),
        Err(Errno::AGAIN) => Err(io::Error::other("passt does not answer")),
        Err(_) => {
            process.stop();
            let reason = process.last_line();
            Err(io::Error::other(reason.unwrap_or_else(|| "passt does not run".to_owned())))
        }
    }
}

/// What makes it the same network as the one in this process.
fn arguments(UserNetOptions { addresses, forwards }: &UserNetOptions) -> Vec<String> {
    let Addresses { host, guest, host_mac } = addresses;
    let mut words: Vec<String> = [
        ("--address", guest.to_string()),
        ("--netmask", Addresses::mask().to_string()),
        ("--gateway", host.to_string()),
        ("--mac-addr", host_mac.map(|byte| format!("{byte:02x}")).join(":")),
        ("--mtu", MTU.to_string()),
        ("--dns", host.to_string()),
        ("--dns-forward", host.to_string()),
    ]
    .into_iter()
    .flat_map(|(option, value)| [option.to_owned(), value])
    .collect();
    for forward in forwards {
        let option = match forward.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        let (ip, port, guest) = (forward.at.ip(), forward.at.port(), forward.guest);
        words.extend([option.to_owned(), format!("{ip}/{port}:{guest}")]);
    }
    words
}

/// Asks for the gateway's Ethernet address (RFC 826) and waits for the answer.
fn greet(stream: &mut UnixStream, addresses: &Addresses, until: Instant) -> Result<(), Errno> {
    // Unicast, locally administered; the guest's own is known by its first frame.
    const ASKS: [u8; 6] = [0x02, 0, 0, 0, 0, 0];
    const ARP: [u8; 2] = [0x08, 0x06];
    // Ethernet and IPv4, a request.
    const REQUEST: [u8; 8] = [0, 1, 0x08, 0, 6, 4, 0, 1];
    const REPLY: [u8; 2] = [0, 2];
    let (guest, host) = (addresses.guest.octets(), addresses.host.octets());
    let asked = [&[0xff; 6][..], &ASKS, &ARP, &REQUEST, &ASKS, &guest, &[0; 6], &host].concat();
    let len = u32::try_from(asked.len()).unwrap_or(0);
    stream.write_all(&[&len.to_be_bytes()[..], &asked].concat()).map_err(errno)?;
    loop {
        let mut prefix = [0; PREFIX];
        read(stream, &mut prefix, until)?;
        let len = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
        if len > FRAME_MAX {
            return Err(Errno::BADMSG);
        }
        // Others may come before it, as nobody has asked for.
        let mut frame = vec![0; len];
        read(stream, &mut frame, until)?;
        if frame.get(12..14) == Some(&ARP) && frame.get(20..22) == Some(&REPLY) {
            return Ok(());
        }
    }
}

/// Fills `buf`; [`Errno::AGAIN`] when it is not full in time.
fn read(stream: &mut UnixStream, buf: &mut [u8], until: Instant) -> Result<(), Errno> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Errno::AGAIN);
    }
    stream.set_read_timeout(Some(left)).map_err(errno)?;
    stream.read_exact(buf).map_err(errno)
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::PIPE)
}

#[cfg(test)]
mod tests;
