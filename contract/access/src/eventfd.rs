//! Eventfds, which doorbells and interrupts signal.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// An eventfd (`eventfd(2)`). Clones share one descriptor, and signal the same event.
///
/// It should be non-blocking, so that a guest that rings without end cannot stall its vCPU here.
#[derive(Clone)]
pub struct EventFd(Arc<File>);

impl EventFd {
    /// Wraps an eventfd that is this process's to close.
    pub fn new(fd: OwnedFd) -> Self {
        Self::from(fd)
    }

    /// Wraps another descriptor of somebody else's eventfd, of whatever type: `vmm-sys-util`'s, say.
    ///
    /// # Errors
    /// The operating system has no descriptor left.
    pub fn duplicate(of: &impl AsFd) -> io::Result<Self> {
        of.as_fd().try_clone_to_owned().map(Self::from)
    }

    /// Adds one to the event's counter. A counter at its maximum is signalled already, so a refused
    /// write loses nothing.
    pub fn signal(&self) {
        let _ = (&*self.0).write(&1_u64.to_ne_bytes());
    }

    /// Takes the event's counter, which is zero then: how often the event was signalled since it
    /// was last taken. One that blocks waits for a signal.
    pub fn take(&self) -> u64 {
        let mut count = [0; 8];
        match (&*self.0).read(&mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            // Zero is refused: there is nothing to read.
            _ => 0,
        }
    }
}

impl From<OwnedFd> for EventFd {
    fn from(fd: OwnedFd) -> Self {
        Self::from(File::from(fd))
    }
}

impl From<File> for EventFd {
    fn from(file: File) -> Self {
        Self(Arc::new(file))
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for EventFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventFd")
    }
}

impl PartialEq for EventFd {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe stands for the eventfd: what is written to it can be counted without libc.
    #[test]
    fn an_event_from_any_owner_is_signalled_with_eight_bytes_of_one() {
        let (mut reader, writer) = io::pipe().unwrap();
        let duplicate = EventFd::duplicate(&writer).unwrap();
        let owned = EventFd::from(OwnedFd::from(writer));
        for event in [&duplicate, &owned, &owned.clone()] {
            event.signal();
            let mut count = [0; 8];
            reader.read_exact(&mut count).unwrap();
            assert_eq!(u64::from_ne_bytes(count), 1);
        }
        duplicate.signal();
        assert_eq!(EventFd::from(OwnedFd::from(reader)).take(), 1);
        assert_eq!(owned, owned.clone());
        assert_ne!(owned, duplicate, "two descriptors");
    }
}
