//! The device's side: commands become accesses to handlers, as they would be in a VMM.
//!
//! Regions are mapped in a registry of the server's own, so a device that is written for the VMM is
//! served as it stands: its access rules hold, and it does not know where it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use trapline::{
    EditError, Handle, Handler, IoCx, Mapping, Region, Registry, Requester, Ring, Size, Space,
};

use crate::ends::Ends;
use crate::hello::device_ring;
use crate::wire::{
    COMMAND_LEN, Command, Features, Hello, Op, RESPONSE_LEN, Reply, Response, Width, WireError,
};

/// Devices that are served to one VMM.
pub struct Server {
    registry: Registry,
    handle: Handle,
    regions: BTreeMap<u64, Served>,
    next_base: u64,
    /// What VMMs may have that goes beyond the patches.
    features: Features,
}

enum Served {
    /// Registers.
    Registers { base: u64, len: u64, _mapping: Mapping },
    /// A region without data.
    Bell(Arc<dyn Ring>),
}

/// Why a server has stopped serving.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// What came is no command.
    Wire(WireError),
    /// What came is less than a command.
    Short,
    /// The descriptor fails.
    Io(Errno),
    /// A device panicked. The access read as ones.
    Panicked,
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(error) => write!(f, "what came is no command: {error}"),
            Self::Short => f.write_str("what came is less than a command"),
            Self::Io(error) => write!(f, "the channel to the VMM fails: {error}"),
            Self::Panicked => f.write_str("the device failed in an access"),
        }
    }
}

impl std::error::Error for ServeError {}

/// Commands that are received at once.
const COMMANDS_MAX: usize = 128;
/// Regions are so far apart that none reaches the next.
const REGION_MAX: u64 = 1 << 40;

impl Default for Server {
    fn default() -> Self {
        let registry = Registry::builder().build();
        let handle = registry.handle_for(Requester::External);
        Self { registry, handle, regions: BTreeMap::new(), next_base: 0, features: Features::ALL }
    }
}

impl Server {
    /// A server without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Grants VMMs that ask no more than this of what goes beyond the patches; all, if not said.
    #[must_use]
    pub fn with_features(self, features: Features) -> Self {
        Self { features, ..self }
    }

    /// The registry its devices are in, to watch accesses in or to look at their counts.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Serves `len` bytes of registers to whoever calls them `user_data`. What was there before under
    /// this name is gone.
    ///
    /// # Errors
    /// It is empty, or longer than a terabyte.
    pub fn region(
        &mut self,
        user_data: u64,
        len: u64,
        handler: Arc<dyn Handler>,
    ) -> Result<(), EditError> {
        self.run_of_registers(user_data, len, 0, handler)
    }

    /// The same, whose first register is at `device_offset` of the handler's.
    ///
    /// # Errors
    /// As of [`Server::region`].
    pub fn run_of_registers(
        &mut self,
        user_data: u64,
        len: u64,
        device_offset: u64,
        handler: Arc<dyn Handler>,
    ) -> Result<(), EditError> {
        let base = self.next_base;
        let region = Region::mmio(base, len, "remote", &format!("{user_data:#x}"), handler);
        if len > REGION_MAX {
            return Err(EditError::PastEnd { name: region.name, space: Space::Mmio, base, len });
        }
        let mapping = self.registry.map(region.device_offset(device_offset))?;
        self.next_base += REGION_MAX;
        self.regions.insert(user_data, Served::Registers { base, len, _mapping: mapping });
        Ok(())
    }

    /// Calls `bell` for each access to the region without data that is called `user_data`.
    pub fn doorbell(&mut self, user_data: u64, bell: Arc<dyn Ring>) {
        self.regions.insert(user_data, Served::Bell(bell));
    }

    /// Serves until the VMM closes its end, or until `stop` can be read.
    ///
    /// # Errors
    /// What came was no command, or a device has failed; the VMM has had all answers until then.
    pub fn serve(&mut self, ends: &Ends, stop: Option<BorrowedFd<'_>>) -> Result<(), ServeError> {
        let mut commands = Incoming::default();
        let first = loop {
            match commands.fill(ends, true)? {
                Filled::Some => {}
                Filled::Nothing if wait(ends, Wait::Commands, stop)? => return Ok(()),
                Filled::Nothing => {}
                Filled::End => return Ok(()),
            }
            if let Some(bytes) = commands.next() {
                break bytes;
            }
        };
        let Some(Hello { features }) = Hello::decode(&first) else {
            commands.put_back();
            return self.answer_all(ends, commands, false, stop);
        };
        let mut granted = features.and(self.features);
        let ring = match granted.has(Features::RING) {
            true => device_ring(ends, commands.fd.take()).ok(),
            false => None,
        };
        if ring.is_none() {
            granted = granted.and(Features::IDS);
        }
        if !respond(ends, &Response { data: granted.bits() }.encode())? {
            return Ok(());
        }
        let ends = ring.as_ref().unwrap_or(ends);
        self.answer_all(ends, commands, granted.has(Features::IDS), stop)
    }

    fn answer_all(
        &mut self,
        ends: &Ends,
        mut commands: Incoming,
        ids: bool,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<(), ServeError> {
        loop {
            while let Some(bytes) = commands.next() {
                let (command, id) = match ids {
                    true => Command::decode_with_id(&bytes).map_err(ServeError::Wire)?,
                    false => (Command::decode(&bytes).map_err(ServeError::Wire)?.0, 0),
                };
                let answer = catch_unwind(AssertUnwindSafe(|| self.answer(&command)));
                if command.respond {
                    let failed = answer.is_err();
                    let data = *answer.as_ref().unwrap_or(&u64::MAX) & command.width.ones();
                    let bytes = match ids {
                        true => Reply { id, data, failed }.encode(),
                        false => Response { data }.encode(),
                    };
                    if !respond(ends, &bytes)? {
                        return Ok(());
                    }
                }
                if answer.is_err() {
                    return Err(ServeError::Panicked);
                }
            }
            match commands.fill(ends, false)? {
                Filled::Some => {}
                Filled::Nothing if wait(ends, Wait::Commands, stop)? => return Ok(()),
                Filled::Nothing => {}
                Filled::End => return Ok(()),
            }
        }
    }

    /// Makes the access of a command: what it reads, or 0.
    pub fn answer(&mut self, command: &Command) -> u64 {
        let size = match command.width {
            Width::Bits8 => Size::Byte,
            Width::Bits16 => Size::Word,
            Width::Bits32 => Size::Dword,
            Width::Bits64 => Size::Qword,
        };
        let addr = match self.regions.get(&command.user_data) {
            Some(Served::Registers { base, len, .. }) if command.offset < *len => {
                base + command.offset
            }
            Some(Served::Bell(bell)) if command.op == Op::Write => {
                bell.ring(&IoCx::new(Requester::External, &self.registry));
                return 0;
            }
            // As where nobody is on a bus.
            _ => return if command.op == Op::Read { size.ones() } else { 0 },
        };
        match command.op {
            Op::Read => self.handle.read_value(Space::Mmio, addr, size),
            Op::Write => {
                self.handle.write_value(Space::Mmio, addr, size, command.data);
                0
            }
        }
    }
}

/// Commands on their way in.
struct Incoming {
    bytes: Vec<u8>,
    /// What of them is still to be taken.
    rest: std::ops::Range<usize>,
    /// What came along with the first.
    fd: Option<OwnedFd>,
}

enum Filled {
    Some,
    Nothing,
    End,
}

impl Default for Incoming {
    fn default() -> Self {
        Self { bytes: vec![0; COMMANDS_MAX * COMMAND_LEN], rest: 0..0, fd: None }
    }
}

impl Incoming {
    fn fill(&mut self, ends: &Ends, first: bool) -> Result<Filled, ServeError> {
        self.bytes.copy_within(self.rest.clone(), 0);
        self.rest = 0..self.rest.len();
        let room = self.bytes.get_mut(self.rest.end..).unwrap_or_default();
        let received = match first {
            true => ends.receive_first(room).map(|(len, fd)| {
                self.fd = self.fd.take().or(fd);
                len
            }),
            false => ends.receive(room),
        };
        match received {
            Ok(0) if self.rest.is_empty() => Ok(Filled::End),
            Ok(0) => Err(ServeError::Short),
            Ok(n) if ends.has_borders() && n % COMMAND_LEN != 0 => Err(ServeError::Short),
            Ok(n) => {
                self.rest.end += n;
                Ok(Filled::Some)
            }
            Err(Errno::AGAIN) => Ok(Filled::Nothing),
            // The VMM has gone with a response unread.
            Err(Errno::CONNRESET) => Ok(Filled::End),
            Err(Errno::MSGSIZE) => Err(ServeError::Short),
            Err(error) => Err(ServeError::Io(error)),
        }
    }

    /// The command that was taken last is still to be taken.
    fn put_back(&mut self) {
        self.rest.start = self.rest.start.saturating_sub(COMMAND_LEN);
    }

    fn next(&mut self) -> Option<[u8; COMMAND_LEN]> {
        let (first, _) = self.bytes.get(self.rest.clone())?.split_first_chunk::<COMMAND_LEN>()?;
        self.rest.start += COMMAND_LEN;
        Some(*first)
    }
}

/// Sends a response; whether the VMM is still there.
fn respond(ends: &Ends, bytes: &[u8; RESPONSE_LEN]) -> Result<bool, ServeError> {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        match ends.send(rest, RESPONSE_LEN) {
            Ok(n) => sent += n,
            Err(Errno::AGAIN) => {
                wait(ends, Wait::Room, None)?;
            }
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(false),
            Err(error) => return Err(ServeError::Io(error)),
        }
    }
    Ok(true)
}

/// What for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Commands,
    Room,
}

/// Waits for the channel; whether it is time to stop.
fn wait(ends: &Ends, what: Wait, stop: Option<BorrowedFd<'_>>) -> Result<bool, ServeError> {
    let wants_room = what == Wait::Room;
    if (!wants_room && ends.spin()) || !ends.go_to_sleep(wants_room) {
        return Ok(false);
    }
    let first = match what {
        Wait::Commands => PollFd::from_borrowed_fd(ends.readable(), PollFlags::IN),
        Wait::Room => PollFd::from_borrowed_fd(ends.writable(), ends.room()),
    };
    let mut fds = vec![first];
    fds.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(ServeError::Io(error)),
    }
    ends.wake_up();
    Ok(fds.get(1).is_some_and(|stop| !stop.revents().is_empty()))
}
