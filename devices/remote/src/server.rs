//! The device's side: commands become accesses to handlers, as they would be in a VMM.
//!
//! Regions are mapped in a registry of the server's own, so a device that is written for the VMM is
//! served as it stands: its access rules hold, and it does not know where it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use trapline::{
    EditError, Handle, Handler, IoCx, Mapping, Region, Registry, Requester, Ring, Size, Space,
};

use crate::ends::Ends;
use crate::wire::{COMMAND_LEN, Command, Op, RESPONSE_LEN, Response, Width, WireError};

/// Devices that are served to one VMM.
pub struct Server {
    registry: Registry,
    handle: Handle,
    regions: BTreeMap<u64, Served>,
    next_base: u64,
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
        Self { registry, handle, regions: BTreeMap::new(), next_base: 0 }
    }
}

impl Server {
    /// A server without devices.
    pub fn new() -> Self {
        Self::default()
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
        loop {
            match commands.fill(ends)? {
                Filled::Some => {}
                Filled::Nothing => {
                    if wait(ends.readable(), PollFlags::IN, stop)? {
                        return Ok(());
                    }
                    continue;
                }
                Filled::End => return Ok(()),
            }
            while let Some(bytes) = commands.next() {
                let (command, _layout) = Command::decode(&bytes).map_err(ServeError::Wire)?;
                let answer = catch_unwind(AssertUnwindSafe(|| self.answer(&command)));
                if command.respond {
                    let data = *answer.as_ref().unwrap_or(&u64::MAX) & command.width.ones();
                    if !respond(ends, Response { data })? {
                        return Ok(());
                    }
                }
                if answer.is_err() {
                    return Err(ServeError::Panicked);
                }
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
}

enum Filled {
    Some,
    Nothing,
    End,
}

impl Default for Incoming {
    fn default() -> Self {
        Self { bytes: vec![0; COMMANDS_MAX * COMMAND_LEN], rest: 0..0 }
    }
}

impl Incoming {
    fn fill(&mut self, ends: &Ends) -> Result<Filled, ServeError> {
        self.bytes.copy_within(self.rest.clone(), 0);
        self.rest = 0..self.rest.len();
        let room = self.bytes.get_mut(self.rest.end..).unwrap_or_default();
        match ends.receive(room) {
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

    fn next(&mut self) -> Option<[u8; COMMAND_LEN]> {
        let (first, _) = self.bytes.get(self.rest.clone())?.split_first_chunk::<COMMAND_LEN>()?;
        self.rest.start += COMMAND_LEN;
        Some(*first)
    }
}

/// Sends a response; whether the VMM is still there.
fn respond(ends: &Ends, response: Response) -> Result<bool, ServeError> {
    let bytes = response.encode();
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        match ends.send(rest, RESPONSE_LEN) {
            Ok(n) => sent += n,
            Err(Errno::AGAIN) => {
                wait(ends.writable(), PollFlags::OUT, None)?;
            }
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(false),
            Err(error) => return Err(ServeError::Io(error)),
        }
    }
    Ok(true)
}

/// Waits for the channel; whether it is time to stop.
fn wait(
    fd: BorrowedFd<'_>,
    what: PollFlags,
    stop: Option<BorrowedFd<'_>>,
) -> Result<bool, ServeError> {
    let mut fds = vec![PollFd::from_borrowed_fd(fd, what)];
    fds.extend(stop.map(|stop| PollFd::from_borrowed_fd(stop, PollFlags::IN)));
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(ServeError::Io(error)),
    }
    Ok(fds.get(1).is_some_and(|stop| !stop.revents().is_empty()))
}
