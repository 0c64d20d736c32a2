//! The sockets on which a machine waits for its qtest client, or by which it goes to one.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::server::has_gone;

/// A socket's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix:PATH`.
    Unix(PathBuf),
    /// `tcp:HOST:PORT`. Whoever connects owns the machine, so the host is this one.
    Tcp(SocketAddr),
}

/// What is wrong with a socket's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadAddress {
    /// It begins with neither word.
    #[error("{0}: a socket is unix:PATH or tcp:HOST:PORT")]
    Form(String),
    /// The host has no such name.
    #[error("{name}: {reason}")]
    Host {
        /// The name.
        name: String,
        /// The operating system's words.
        reason: io::Error,
    },
    /// The host is another one.
    #[error("{0}: only this host itself (127.0.0.1 or [::1]) may drive the machine")]
    Remote(String),
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let form = || BadAddress::Form(text.to_owned());
        let (family, name) =
            text.split_once(':').filter(|(_, name)| !name.is_empty()).ok_or_else(form)?;
        match family {
            "unix" => Ok(Self::Unix(name.into())),
            "tcp" => {
                let refused = |reason| BadAddress::Host { name: name.to_owned(), reason };
                let found: Vec<SocketAddr> = name.to_socket_addrs().map_err(refused)?.collect();
                let local = found.into_iter().find(|addr| addr.ip().is_loopback());
                local.map(Self::Tcp).ok_or_else(|| BadAddress::Remote(name.to_owned()))
            }
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(addr) => write!(f, "tcp:{addr}"),
        }
    }
}

/// Who the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Whoever connects to this socket, one after the other.
    Listen(Address),
    /// Whoever listens on this socket, until it hangs up.
    Connect(Address),
}

/// Where clients come from: a socket that is listened on, or one that is connected already.
#[derive(Debug)]
pub struct Door(Socket);

#[derive(Debug)]
enum Socket {
    Unix(BoundPath),
    Tcp(TcpListener),
    Connected(OwnedFd),
}

/// A listening socket whose file goes when it does.
#[derive(Debug)]
struct BoundPath {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Listens or connects. A socket left behind by a process that has died is replaced; anything else
    /// is not.
    ///
    /// # Errors
    /// The host's.
    pub fn open(way: &Way) -> io::Result<Self> {
        Ok(Self(match way {
            Way::Connect(Address::Unix(path)) => {
                Socket::Connected(UnixStream::connect(path)?.into())
            }
            Way::Connect(Address::Tcp(addr)) => {
                let stream = TcpStream::connect(addr)?;
                stream.set_nodelay(true)?;
                Socket::Connected(stream.into())
            }
            Way::Listen(Address::Unix(path)) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                Socket::Unix(BoundPath { listener, path: path.clone() })
            }
            Way::Listen(Address::Tcp(addr)) => Socket::Tcp(TcpListener::bind(addr)?),
        }))
    }

    /// Where clients can come to, with the port that the host has chosen if none was named; `None` if
    /// the only one is there.
    ///
    /// # Errors
    /// The host does not know.
    pub fn address(&self) -> io::Result<Option<Address>> {
        Ok(match &self.0 {
            Socket::Unix(bound) => Some(Address::Unix(bound.path.clone())),
            Socket::Tcp(listener) => Some(Address::Tcp(listener.local_addr()?)),
            Socket::Connected(_) => None,
        })
    }

    /// Waits for the next client; the one that is there is always the next. `None` if it went while
    /// it waited for its turn.
    ///
    /// # Errors
    /// The host's.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        unless_gone(match &self.0 {
            Socket::Unix(bound) => bound.listener.accept().map(|(stream, _)| stream.into()),
            Socket::Tcp(listener) => listener.accept().and_then(|(stream, _)| {
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }),
            Socket::Connected(stream) => stream.try_clone(),
        })
    }
}

impl AsFd for Door {
    /// Readable when a client has come, or when the one that is there says something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Socket::Unix(bound) => bound.listener.as_fd(),
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Connected(stream) => stream.as_fd(),
        }
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        // Nobody can be told, and the next to listen here replaces it.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn unless_gone<T>(accepted: io::Result<T>) -> io::Result<Option<T>> {
    match accepted {
        Err(error) if has_gone(&error) => Ok(None),
        accepted => accepted.map(Some),
    }
}

/// Removes a socket that a process has left behind; anything else stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    let refused = |e: io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<Address>().expect_err(text).to_string()
    }

    #[test]
    fn sockets_have_names_of_two_forms() {
        let name = |text: &str| text.parse::<Address>().unwrap().to_string();
        assert_eq!(name("unix:/run/a:b"), "unix:/run/a:b");
        assert_eq!(name("tcp:127.0.0.1:7777"), "tcp:127.0.0.1:7777");
        assert_eq!(name("tcp:[::1]:7777"), "tcp:[::1]:7777");
        assert_eq!(refusal("/run/a"), "/run/a: a socket is unix:PATH or tcp:HOST:PORT");
        assert_eq!(refusal("unix:"), "unix:: a socket is unix:PATH or tcp:HOST:PORT");
    }

    #[test]
    fn other_hosts_stay_out() {
        assert!(refusal("tcp:0.0.0.0:7777").starts_with("0.0.0.0:7777: only this host"));
        assert!(refusal("tcp:192.0.2.1:7777").contains("only this host"));
    }

    #[test]
    fn a_client_that_goes_before_its_turn_is_no_error_and_others_are() {
        let aborted = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert!(unless_gone::<()>(Err(aborted)).unwrap().is_none());
        assert!(unless_gone::<()>(Err(io::Error::other("no descriptors"))).is_err());
        assert_eq!(unless_gone(Ok(1)).unwrap(), Some(1));
    }

    #[test]
    fn the_address_has_the_port_that_the_host_has_chosen() {
        let door = Door::open(&Way::Listen("tcp:127.0.0.1:0".parse().unwrap())).unwrap();
        let Some(Address::Tcp(addr)) = door.address().unwrap() else { panic!("{door:?}") };
        assert_ne!(addr.port(), 0);
        let connected = Door::open(&Way::Connect(Address::Tcp(addr))).unwrap();
        assert_eq!(connected.address().unwrap(), None);
        assert!(door.accept().unwrap().is_some());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_other_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let way = Way::Listen(Address::Unix(path.clone()));
        let door = Door::open(&way).unwrap();
        assert!(Door::open(&way).is_err(), "somebody listens there");
        drop(door);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(Door::open(&way).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
