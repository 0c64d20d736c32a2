//! A pseudo terminal that the guest's port is one end of.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use trapline_device::{CharBackend, CharDevice, EventLoop};

use super::OpenOutlet;
use super::stream::Stream;

/// The terminal. Whoever opens it talks to the guest; while nobody does, it holds what the guest
/// writes until it is full.
pub(super) struct Pty {
    stream: Arc<Stream>,
    /// Kept open, so that the terminal does not hang up on us when its last user leaves.
    _users_end: OwnedFd,
    name: PathBuf,
    _link: Option<Link>,
}

/// A symbolic link, removed when dropped.
struct Link(PathBuf);

impl Drop for Link {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Pty {
    pub(super) fn open(
        link: Option<&Path>,
        event_loop: &Arc<dyn EventLoop>,
    ) -> io::Result<Arc<Self>> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name =
            PathBuf::from(std::ffi::OsString::from_vec(ptsname(&ours, Vec::new())?.into_bytes()));
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let users_end = rustix::fs::open(&name, flags, Mode::empty())?;
        // It is the guest that echoes and edits lines.
        let mut settings = tcgetattr(&users_end)?;
        settings.make_raw();
        tcsetattr(&users_end, OptionalActions::Now, &settings)?;
        let link = link.map(|link| -> io::Result<Link> {
            std::os::unix::fs::symlink(&name, link)?;
            Ok(Link(link.to_owned()))
        });
        let link = link.transpose()?;
        let stream = Stream::new(ours, true, &**event_loop)?;
        Ok(Arc::new(Self { stream, _users_end: users_end, name, _link: link }))
    }
}

impl CharBackend for Pty {
    fn transmit(&self, data: &[u8]) -> usize {
        self.stream.transmit(data)
    }

    fn receive(&self, buf: &mut [u8]) -> usize {
        self.stream.receive(buf)
    }
}

impl OpenOutlet for Pty {
    fn attach(&self, device: Arc<dyn CharDevice>) {
        self.stream.attach(device);
    }

    fn place(&self) -> Option<PathBuf> {
        Some(self.name.clone())
    }
}
