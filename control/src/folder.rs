//! The folder that the sockets of a user's guests are in.
//!
//! Two who want one name at a time, and who takes a dead guest's socket away, are kept apart by a lock
//! on the folder itself, which goes with whoever has it. Whether a guest is there is what the kernel
//! says to who asks for its socket: one that nobody has open belonged to a guest that is dead.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::endpoint::Routes;
use crate::name::GuestName;
use crate::server::Server;

/// What names of sockets end in.
const SUFFIX: &str = ".sock";
/// How long the folder's lock is waited for. Who has it does a few system calls.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Clients that wait to be accepted.
const BACKLOG: i32 = 64;

/// A folder of sockets, which is its user's alone.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    fd: Arc<OwnedFd>,
}

/// Why there is no folder to be had.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The kernel says so.
    #[error("cannot use {path}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// It is another user's, or others may look into it.
    #[error("{path} is not a folder of this user's alone (mode 0700)")]
    Open {
        /// The folder.
        path: PathBuf,
    },
}

/// Why a name cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// A guest of that name is running.
    #[error("a guest called {0} is running already")]
    Taken(GuestName),
    /// The kernel says so.
    #[error("cannot make a control socket in {path}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

/// Where a user's sockets can be, best first.
fn places() -> Vec<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let session = PathBuf::from(format!("/run/user/{uid}"));
    let wanted = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let wanted = wanted.filter(|path| path.is_absolute());
    // Whoever names another place means that one.
    if let Some(wanted) = wanted.filter(|wanted| *wanted != session) {
        return vec![wanted.join("trapline")];
    }
    let temporary = PathBuf::from(format!("/tmp/trapline-{uid}"));
    match session.is_dir() {
        true => vec![session.join("trapline"), temporary],
        false => vec![temporary],
    }
}

impl Folder {
    /// The folder of this user's guests, which is made if it is not there: `trapline` in
    /// `$XDG_RUNTIME_DIR`, else in `/run/user/UID`, else `/tmp/trapline-UID`.
    ///
    /// # Errors
    /// It cannot be made, or is not the user's alone.
    pub fn of_user() -> Result<Self, FolderError> {
        let places = places();
        // `places` has one at least.
        Self::at(places.first().map_or(Path::new("/"), PathBuf::as_path))
    }

    /// All folders that guests of this user may be in, as far as they are there: one that was started
    /// before its user had logged in is in another than those started after.
    ///
    /// # Errors
    /// One that is there and is not the user's alone.
    pub fn all_of_user() -> Result<Vec<Self>, FolderError> {
        let there = places().into_iter().filter(|path| path.symlink_metadata().is_ok());
        there.map(|path| Self::open(&path)).collect()
    }

    /// The folder at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or is not the user's alone.
    pub fn at(path: &Path) -> Result<Self, FolderError> {
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Self::open(path),
            Err(error) => Err(FolderError::Io { path: path.into(), source: error.into() }),
        }
    }

    fn open(path: &Path) -> Result<Self, FolderError> {
        let io = |error: Errno| FolderError::Io { path: path.into(), source: error.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(FolderError::Open { path: path.into() });
            }
            Err(error) => return Err(io(error)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(io)?;
        let ours = stat.st_uid == rustix::process::geteuid().as_raw();
        if !ours || Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
            return Err(FolderError::Open { path: path.into() });
        }
        Ok(Self { path: path.into(), fd: Arc::new(fd) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The guests that run, in order of their names. What dead ones have left is removed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn names(&self) -> io::Result<Vec<GuestName>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&*self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_str().ok().and_then(|name| name.strip_suffix(SUFFIX));
            let Some(name) = name.and_then(|name| GuestName::new(name).ok()) else { continue };
            match self.probe(&name) {
                Ok(Found::Alive) => names.push(name),
                Ok(Found::Dead) => self.remove_dead(&name)?,
                // Gone by now, or none that we can say anything about.
                Ok(Found::Nothing) | Err(_) => {}
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether a guest called `name` runs. Nobody else is asked for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn has(&self, name: &GuestName) -> io::Result<bool> {
        Ok(matches!(self.probe(name)?, Found::Alive))
    }

    /// Takes the name `name` for a guest of this process: a socket is there from now on, and clients
    /// wait until it is [served](Claim::serve).
    ///
    /// # Errors
    /// A guest of that name runs, or what the kernel says.
    pub fn claim(&self, name: &GuestName) -> Result<Claim, ClaimError> {
        let io = |source: io::Error| ClaimError::Io { path: self.path.clone(), source };
        let _lock = self.lock().map_err(io)?;
        match self.probe(name).map_err(io)? {
            Found::Alive => return Err(ClaimError::Taken(name.clone())),
            Found::Dead => self.unlink(name).map_err(io)?,
            Found::Nothing => {}
        }
        let (listener, id) = self.listen(name).map_err(|error| io(error.into()))?;
        Ok(Claim {
            listener: Arc::new(listener),
            entry: Entry { folder: self.clone(), name: name.clone(), id },
        })
    }

    /// Connects to a guest, and waits no longer than `patience` for it to have room for a client.
    pub(crate) fn connect(&self, name: &GuestName, patience: Duration) -> io::Result<UnixStream> {
        let deadline = Instant::now() + patience;
        loop {
            match self.try_connect(name) {
                Err(Errno::AGAIN) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error.into()),
                Ok(socket) => {
                    let stream = UnixStream::from(socket);
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
            }
        }
    }

    fn try_connect(&self, name: &GuestName) -> Result<OwnedFd, Errno> {
        let socket = socket(SocketType::STREAM, SocketFlags::NONBLOCK)?;
        rustix::net::connect(&socket, &self.address(name)?)?;
        Ok(socket)
    }

    fn listen(&self, name: &GuestName) -> Result<(OwnedFd, Id), Errno> {
        let socket = socket(SocketType::STREAM, SocketFlags::empty())?;
        // The file gets this mode, less what the umask takes away.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &self.address(name)?)?;
        let file = file(name);
        rustix::fs::chmodat(&*self.fd, &*file, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok((socket, Id::of(self.fd.as_fd(), &file)?))
    }

    /// The address of a socket. A path has 107 bytes at most in an address, and the folder's may be
    /// longer.
    fn address(&self, name: &GuestName) -> Result<SocketAddrUnix, Errno> {
        let file = file(name);
        let path = self.path.join(&file);
        SocketAddrUnix::new(path.as_os_str().as_bytes()).or_else(|_| {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&*self.fd);
            SocketAddrUnix::new(format!("/proc/self/fd/{fd}/{file}"))
        })
    }

    /// Asks the kernel what is behind a name. It is asked for datagrams, and what it refuses is a guest
    /// that has no such socket: so nothing is opened there, and the guest is not woken up.
    fn probe(&self, name: &GuestName) -> io::Result<Found> {
        let datagrams = socket(SocketType::DGRAM, SocketFlags::empty())?;
        match rustix::net::connect(&datagrams, &self.address(name)?) {
            Err(Errno::PROTOTYPE) => Ok(Found::Alive),
            Err(Errno::CONNREFUSED) => Ok(Found::Dead),
            Err(Errno::NOENT) => Ok(Found::Nothing),
            Err(error) => Err(error.into()),
            // No guest's.
            Ok(()) => Err(Errno::PROTOTYPE.into()),
        }
    }

    fn remove_dead(&self, name: &GuestName) -> io::Result<()> {
        let _lock = self.lock()?;
        // A living one may have taken its place.
        match self.probe(name)? {
            Found::Dead => self.unlink(name),
            Found::Alive | Found::Nothing => Ok(()),
        }
    }

    fn unlink(&self, name: &GuestName) -> io::Result<()> {
        match rustix::fs::unlinkat(&*self.fd, file(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Locks the folder until what is returned goes.
    fn lock(&self) -> io::Result<OwnedFd> {
        // A lock is one of an open file, so each has its own.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*self.fd, ".", flags, Mode::empty())?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(fd),
                Err(Errno::AGAIN | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What is behind a name.
enum Found {
    Alive,
    /// A socket that nobody has open.
    Dead,
    Nothing,
}

fn socket(kind: SocketType, flags: SocketFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
}

fn file(name: &GuestName) -> String {
    format!("{name}{SUFFIX}")
}

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id(u64, u64);

impl Id {
    fn of(folder: BorrowedFd<'_>, file: &str) -> Result<Self, Errno> {
        let stat = rustix::fs::statat(folder, file, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Self(stat.st_dev, stat.st_ino))
    }
}

/// A socket's file, which is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    folder: Folder,
    name: GuestName,
    id: Id,
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Somebody may have removed it, and somebody else taken the name.
        if Id::of(self.folder.fd.as_fd(), &file(&self.name)) == Ok(self.id)
            && let Err(error) = self.folder.unlink(&self.name)
        {
            tracing::debug!("the control socket stays: {error}");
        }
    }
}

/// A name that was taken, and its socket. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "dropping it gives the name back"]
pub struct Claim {
    // In the order they are dropped: the file goes while somebody listens on it.
    entry: Entry,
    listener: Arc<OwnedFd>,
}

impl Claim {
    /// The name.
    pub fn name(&self) -> &GuestName {
        &self.entry.name
    }

    /// Answers clients, those that wait already and those to come, as `routes` say.
    ///
    /// # Errors
    /// What the kernel says when it refuses a thread.
    pub fn serve(self, routes: Routes) -> io::Result<Server> {
        Server::start(self.listener, self.entry, routes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::at(&parent.path().join("trapline")).unwrap();
        (parent, folder)
    }

    fn name(name: &str) -> GuestName {
        GuestName::new(name).unwrap()
    }

    #[test]
    fn folder_and_socket_are_their_users_alone_whatever_the_umask() {
        let (_parent, folder) = folder();
        let claim = folder.claim(&name("one")).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
        assert_eq!(mode(folder.path()), 0o700);
        assert_eq!(mode(&folder.path().join("one.sock")), 0o600);
        assert_eq!(folder.names().unwrap(), [name("one")]);
        drop(claim);
        assert_eq!(folder.names().unwrap(), []);
        assert!(!folder.path().join("one.sock").exists());
    }

    #[test]
    fn a_folder_that_others_may_enter_and_what_is_no_folder_are_refused() {
        let (parent, folder) = folder();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o710)).unwrap();
        let refused = Folder::at(folder.path()).unwrap_err();
        assert!(matches!(refused, FolderError::Open { .. }), "{refused}");
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        Folder::at(folder.path()).unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(matches!(Folder::at(&link), Err(FolderError::Open { .. })));
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(Folder::at(&file), Err(FolderError::Open { .. })));
        let nowhere = Folder::at(&parent.path().join("no/where"));
        assert!(matches!(nowhere, Err(FolderError::Io { .. })));
    }

    #[test]
    fn a_name_is_one_guests_until_it_goes() {
        let (_parent, folder) = folder();
        let claim = folder.claim(&name("one")).unwrap();
        let taken = folder.claim(&name("one")).unwrap_err();
        assert_eq!(taken.to_string(), "a guest called one is running already");
        let two = folder.claim(&name("two")).unwrap();
        assert_eq!(folder.names().unwrap(), [name("one"), name("two")]);
        drop(claim);
        assert_eq!(
            ["one", "two", "three"].map(|one| folder.has(&name(one)).unwrap()),
            [false, true, false]
        );
        drop(folder.claim(&name("one")).unwrap());
        drop(two);
    }

    #[test]
    fn the_socket_of_a_dead_guest_is_removed_and_its_name_free() {
        let (_parent, folder) = folder();
        for left in ["one", "two"] {
            drop(UnixListener::bind(folder.path().join(format!("{left}.sock"))).unwrap());
        }
        std::fs::write(folder.path().join("notes.txt"), "").unwrap();
        let claim = folder.claim(&name("two")).unwrap();
        assert_eq!(folder.names().unwrap(), [name("two")]);
        assert!(!folder.path().join("one.sock").exists());
        assert!(folder.path().join("notes.txt").exists(), "it is nobody's socket");
        drop(claim);
    }

    #[test]
    fn of_many_who_want_one_name_at_once_one_gets_it() {
        let (_parent, folder) = folder();
        drop(UnixListener::bind(folder.path().join("one.sock")).unwrap());
        let claims: Vec<_> = std::thread::scope(|scope| {
            let claim = || folder.claim(&name("one"));
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(claim)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1);
        let refused = claims.iter().filter_map(|claim| claim.as_ref().err());
        assert!(refused.into_iter().all(|error| matches!(error, ClaimError::Taken(_))));
    }

    #[test]
    fn a_socket_that_took_the_place_of_a_removed_one_stays() {
        let (_parent, folder) = folder();
        let first = folder.claim(&name("one")).unwrap();
        std::fs::remove_file(folder.path().join("one.sock")).unwrap();
        let second = folder.claim(&name("one")).unwrap();
        drop(first);
        assert_eq!(folder.names().unwrap(), [name("one")]);
        drop(second);
    }

    #[test]
    fn a_folder_with_a_long_path_has_sockets() {
        let parent = tempfile::tempdir().unwrap();
        let long = parent.path().join("x".repeat(200));
        let folder = Folder::at(&long).unwrap();
        let claim = folder.claim(&name(&"n".repeat(64))).unwrap();
        assert_eq!(folder.names().unwrap(), [claim.name().clone()]);
    }

    #[test]
    fn a_guest_hears_nothing_of_who_asks_whether_it_runs() {
        let (_parent, folder) = folder();
        let claim = folder.claim(&name("one")).unwrap();
        assert_eq!(folder.names().unwrap(), [name("one")]);
        assert!(matches!(folder.claim(&name("one")), Err(ClaimError::Taken(_))));
        rustix::io::ioctl_fionbio(&claim.listener, true).unwrap();
        let nobody = rustix::net::accept(&claim.listener).unwrap_err();
        assert_eq!(nobody, Errno::AGAIN);
    }

    #[test]
    fn a_guest_whose_clients_stand_in_line_is_alive() {
        let (_parent, folder) = folder();
        let _claim = folder.claim(&name("one")).unwrap();
        let mut waiting = Vec::new();
        while let Ok(socket) = folder.try_connect(&name("one")) {
            waiting.push(socket);
        }
        assert!(waiting.len() >= 64, "{}", waiting.len());
        assert_eq!(folder.names().unwrap(), [name("one")]);
        assert!(matches!(folder.claim(&name("one")), Err(ClaimError::Taken(_))));
        let short = folder.connect(&name("one"), Duration::from_millis(20)).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::WouldBlock);
    }
}
