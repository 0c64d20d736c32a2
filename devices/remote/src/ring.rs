//! A channel through memory: two rings of commands and responses that both ends have mapped. The socket
//! stays, to wake an end that sleeps, and to tell that the other end is gone.
//!
//! ```text
//!    0  command head    64  command tail   128  response head   192  response tail
//!  256  device sleeps  320  VMM sleeps     384  device's CPU    448  VMM's CPU
//! 4096  256 commands of 32 bytes, then 256 responses
//! ```
//!
//! Heads and tails count messages and wrap at 2 to the 32. Who sends writes a message and then the head,
//! who receives copies it and then writes the tail; each keeps its own count to itself and does not
//! believe the other's further than that there are 256 slots. Before an end sleeps it says so (1 for
//! messages, 2 for room as well), looks once more, and waits for the socket; the other takes that back
//! (0) and sends a byte. An eventfd would do that for less, but its flags are whoever's who has it: the
//! other end could have this one wait in a write. CPU numbers are one more than the kernel's; 0 is not
//! known.
//!
//! An end that waits spins first, as long as that pays: for twice as long as the last time if something
//! came, up to 50 us, for half as long if nothing did, and for a while not at all if it lost the processor
//! meanwhile, as others want it. Where both ends are on one CPU, or there is one only, nobody spins.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::wire::COMMAND_LEN;

/// Bytes of a message, command or response.
const MESSAGE: usize = COMMAND_LEN;
/// Messages of a ring.
const SLOTS: u32 = 256;
/// Bytes of the memory.
const LEN: usize = 4096 + 2 * SLOTS as usize * MESSAGE;
/// What the file of the memory must not do any more: nobody can take it away from under a mapping.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Longest time that an end spins.
const SPIN_MAX: Duration = Duration::from_micros(50);
/// Spinning for less is none.
const SPIN_MIN: Duration = Duration::from_micros(1);
/// An end that does not spin any more tries again after so many waits.
const TRY_AGAIN: u32 = 64;

/// What an end says of its sleep.
const FOR_MESSAGES: u32 = 1;
const FOR_ROOM: u32 = 2;

/// Whose end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Vmm,
    Device,
}

/// Where a direction's counts and messages are.
#[derive(Clone, Copy, Debug)]
struct Direction {
    head: usize,
    tail: usize,
    messages: usize,
}

const COMMANDS: Direction = Direction { head: 0, tail: 64, messages: 4096 };
const RESPONSES: Direction =
    Direction { head: 128, tail: 192, messages: 4096 + SLOTS as usize * MESSAGE };
const SLEEPS: [usize; 2] = [256, 320];
const CPUS: [usize; 2] = [384, 448];

/// One end. Sends and receives are called in turn, by one thread at a time each.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: MmapRegion,
    side: Side,
    socket: OwnedFd,
    /// How many messages this end has sent and taken.
    sent: AtomicU32,
    taken: AtomicU32,
    /// Whether the other end is gone, as far as the socket was looked at.
    gone: AtomicBool,
    /// How long to spin, in nanoseconds, and waits since that was for nothing.
    spin_ns: AtomicU32,
    waits: AtomicU32,
    can_spin: bool,
}

/// Memory for both ends, which the VMM sends along with its hello.
pub(crate) struct Shared(OwnedFd);

impl Shared {
    /// New memory.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("ioregion", flags)?;
        rustix::fs::ftruncate(&memory, LEN as u64)?;
        rustix::fs::fcntl_add_seals(&memory, SEALS)?;
        Ok(Self(memory))
    }

    /// What has come along with a hello.
    pub(crate) fn received(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// To send it along.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The VMM's end.
    pub(crate) fn vmm(self, socket: OwnedFd) -> io::Result<Ring> {
        Ring::new(self, Side::Vmm, socket)
    }

    /// The device's.
    ///
    /// # Errors
    /// The memory is not of the size that was agreed on, or could be made smaller.
    pub(crate) fn device(self, socket: OwnedFd) -> io::Result<Ring> {
        let seals = rustix::fs::fcntl_get_seals(&self.0)?;
        let len = rustix::fs::fstat(&self.0)?.st_size;
        if !seals.contains(SealFlags::SHRINK) || len != LEN as i64 {
            return Err(Errno::INVAL.into());
        }
        Ring::new(self, Side::Device, socket)
    }
}

impl Ring {
    fn new(shared: Shared, side: Side, socket: OwnedFd) -> io::Result<Self> {
        let file = FileOffset::new(File::from(shared.0), 0);
        let memory = MmapRegion::from_file(file, LEN).map_err(io::Error::other)?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            memory,
            side,
            socket,
            sent: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            gone: AtomicBool::new(false),
            spin_ns: AtomicU32::new(nanoseconds(SPIN_MAX)),
            waits: AtomicU32::new(0),
            can_spin: cpus > 1,
        })
    }

    /// Sends as many whole messages of `bytes` as there is room for: how many bytes that was.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let to = self.outgoing();
        let head = self.sent.load(Ordering::Relaxed);
        let room = self.room(head)?;
        if room == 0 && self.gone.load(Ordering::Relaxed) {
            return Err(Errno::PIPE);
        }
        let (messages, _) = bytes.as_chunks::<MESSAGE>();
        let mut count = 0;
        for message in messages.iter().take(room as usize) {
            let at = to.messages + slot(head.wrapping_add(count));
            let place = self.memory.get_slice(at, MESSAGE).map_err(|_| Errno::FAULT)?;
            place.copy_from(message);
            count += 1;
        }
        if count == 0 {
            return Err(Errno::AGAIN);
        }
        let head = head.wrapping_add(count);
        self.sent.store(head, Ordering::Relaxed);
        self.word(to.head)?.store(head, Ordering::Release);
        self.wake(FOR_MESSAGES)?;
        Ok(count as usize * MESSAGE)
    }

    /// Takes as many messages as have come and `buf` has room for: how many bytes that was. Zero is the
    /// end.
    pub(crate) fn receive(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        let from = self.incoming();
        let tail = self.taken.load(Ordering::Relaxed);
        let waiting = self.word(from.head)?.load(Ordering::Acquire).wrapping_sub(tail);
        if waiting > SLOTS {
            return Err(Errno::PROTO);
        }
        if waiting == 0 {
            return if self.gone.load(Ordering::Relaxed) { Ok(0) } else { Err(Errno::AGAIN) };
        }
        let (messages, _) = buf.as_chunks_mut::<MESSAGE>();
        let mut count = 0;
        for message in messages.iter_mut().take(waiting as usize) {
            let at = from.messages + slot(tail.wrapping_add(count));
            let place = self.memory.get_slice(at, MESSAGE).map_err(|_| Errno::FAULT)?;
            place.copy_to(message);
            count += 1;
        }
        let tail = tail.wrapping_add(count);
        self.taken.store(tail, Ordering::Relaxed);
        self.word(from.tail)?.store(tail, Ordering::Release);
        self.wake(FOR_ROOM)?;
        Ok(count as usize * MESSAGE)
    }

    /// Spins, as far as that pays, until a message has come; whether one has.
    pub(crate) fn spin(&self) -> bool {
        if !self.can_spin || !self.is_elsewhere() {
            return self.has_come();
        }
        let mut budget = self.spin_ns.load(Ordering::Relaxed);
        if budget < nanoseconds(SPIN_MIN) {
            if !self.waits.fetch_add(1, Ordering::Relaxed).is_multiple_of(TRY_AGAIN) {
                return self.has_come();
            }
            budget = nanoseconds(SPIN_MAX);
        }
        let start = Instant::now();
        let time = Duration::from_nanos(budget.into());
        loop {
            let has_come = (0..32).any(|_| {
                std::hint::spin_loop();
                self.has_come()
            });
            let spent = start.elapsed();
            if has_come || spent >= time {
                let next = match has_come {
                    // Others want this processor.
                    _ if spent >= 2 * time + SPIN_MIN => 0,
                    true => budget.saturating_mul(2).min(nanoseconds(SPIN_MAX)),
                    false => budget / 2,
                };
                self.spin_ns.store(next, Ordering::Relaxed);
                return has_come;
            }
        }
    }

    /// Says that this end is about to sleep; whether it may, as there is nothing to do.
    pub(crate) fn go_to_sleep(&self, wants_room: bool) -> bool {
        let why = if wants_room { FOR_ROOM } else { FOR_MESSAGES };
        let [sleeps, _] = self.sides(SLEEPS);
        let Ok(sleeps) = self.word(sleeps) else { return true };
        sleeps.fetch_max(why, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let has_room = wants_room && self.room(self.sent.load(Ordering::Relaxed)) != Ok(0);
        !self.has_come() && !has_room
    }

    /// This end has slept, and been woken or not: what woke it is taken.
    pub(crate) fn wake_up(&self) {
        match rustix::net::recv(&self.socket, &mut [0; 64], RecvFlags::DONTWAIT) {
            Ok((1.., _)) | Err(Errno::AGAIN | Errno::INTR) => {}
            Ok((0, _)) | Err(_) => self.gone.store(true, Ordering::Relaxed),
        }
    }

    fn has_come(&self) -> bool {
        let taken = self.taken.load(Ordering::Relaxed);
        let head = self.word(self.incoming().head);
        head.is_ok_and(|head| head.load(Ordering::Acquire) != taken)
    }

    fn room(&self, head: u32) -> Result<u32, Errno> {
        let tail = self.word(self.outgoing().tail)?.load(Ordering::Acquire);
        SLOTS.checked_sub(head.wrapping_sub(tail)).ok_or(Errno::PROTO)
    }

    /// Signals the other end if it sleeps for this, or for less.
    fn wake(&self, what: u32) -> Result<(), Errno> {
        fence(Ordering::SeqCst);
        let [_, sleeps] = self.sides(SLEEPS);
        let sleeps = self.word(sleeps)?;
        if sleeps.load(Ordering::Relaxed) >= what && sleeps.swap(0, Ordering::SeqCst) >= what {
            // Where there is no room for it there are others to wake it, and where nobody is this end
            // finds out when it waits itself.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let _ = rustix::net::send(&self.socket, &[0], flags);
        }
        Ok(())
    }

    /// Whether the other end was last seen on another CPU than this one is on now.
    fn is_elsewhere(&self) -> bool {
        let [ours, theirs] = self.sides(CPUS);
        let here =
            u32::try_from(rustix::thread::sched_getcpu()).map_or(0, |cpu| cpu.wrapping_add(1));
        let (Ok(ours), Ok(theirs)) = (self.word(ours), self.word(theirs)) else { return false };
        ours.store(here, Ordering::Relaxed);
        theirs.load(Ordering::Relaxed) != here
    }

    fn outgoing(&self) -> Direction {
        if self.side == Side::Vmm { COMMANDS } else { RESPONSES }
    }

    fn incoming(&self) -> Direction {
        if self.side == Side::Vmm { RESPONSES } else { COMMANDS }
    }

    /// This side's of two places that are the device's and the VMM's, and the other's.
    fn sides(&self, [device, vmm]: [usize; 2]) -> [usize; 2] {
        if self.side == Side::Device { [device, vmm] } else { [vmm, device] }
    }

    fn word(&self, at: usize) -> Result<&AtomicU32, Errno> {
        self.memory.get_atomic_ref(at).map_err(|_| Errno::FAULT)
    }
}

/// Where in its ring the message of this count is.
const fn slot(count: u32) -> usize {
    (count % SLOTS) as usize * MESSAGE
}

fn nanoseconds(time: Duration) -> u32 {
    u32::try_from(time.as_nanos()).unwrap_or(u32::MAX)
}
