//! Init's end of the port to the VMM.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::task::PORT;

/// How long the port may take to be there once its driver is.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked for, and how long one waits that is not connected yet.
const LOOK: Duration = Duration::from_millis(10);

/// The port. Clones are the same one: the kernel lets it be opened once.
pub(super) struct Port(File);

impl Port {
    /// Waits for the port and opens it.
    ///
    /// # Errors
    /// The kernel's; `NotFound` if there is none.
    pub(super) fn open() -> io::Result<Self> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(path) = find().filter(|path| path.exists()) {
                return Ok(Self(OpenOptions::new().read(true).write(true).open(path)?));
            }
            if Instant::now() > until {
                return Err(io::ErrorKind::NotFound.into());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The same port once more.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn another(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }
}

/// Its device, by the name that the VMM has given it.
fn find() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
    let mut ours = ports.filter(|port| {
        fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == PORT)
    });
    Some(PathBuf::from("/dev").join(ours.next()?.file_name()))
}

impl Read for Port {
    /// The driver says that there is an end while the VMM is not connected; ours always is, or will be.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buf) {
                Ok(0) if !buf.is_empty() => std::thread::sleep(LOOK),
                read => return read,
            }
        }
    }
}

impl Write for Port {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
