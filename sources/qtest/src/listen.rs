//! The sockets on which a machine waits for its qtest client, or by which it goes to one.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::server::{End, Session, Target, has_gone};

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

/// Lets clients drive `target`. Returns when the machine has ended, or when there is no next
/// client to wait for. `ready` is called once a socket is there to be connected to.
///
/// # Errors
/// A socket fails. A client that vanishes is no error.
pub fn serve<T: Target>(
    session: &mut Session<'_, T>,
    way: &Way,
    ready: impl FnOnce(&Address),
) -> io::Result<End> {
    match way {
        Way::Connect(Address::Unix(path)) => {
            let stream = UnixStream::connect(path)?;
            session.run(&stream, &stream)
        }
        Way::Connect(Address::Tcp(addr)) => {
            let stream = TcpStream::connect(addr)?;
            stream.set_nodelay(true)?;
            session.run(&stream, &stream)
        }
        Way::Listen(Address::Unix(path)) => {
            let socket = BoundPath::new(path)?;
            ready(&Address::Unix(path.clone()));
            one_by_one(|| Ok(socket.listener.accept()?.0), |stream| session.run(&stream, &stream))
        }
        Way::Listen(Address::Tcp(addr)) => {
            let listener = TcpListener::bind(addr)?;
            ready(&Address::Tcp(listener.local_addr()?));
            one_by_one(
                || Ok(listener.accept()?.0),
                |stream| {
                    stream.set_nodelay(true)?;
                    session.run(&stream, &stream)
                },
            )
        }
    }
}

/// Serves clients until one of them ends the machine; what ails a client ends only it.
fn one_by_one<S>(
    accept: impl Fn() -> io::Result<S>,
    mut serve: impl FnMut(S) -> io::Result<End>,
) -> io::Result<End> {
    loop {
        let client = match accept() {
            Ok(client) => client,
            // It went while it waited for its turn.
            Err(error) if has_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        if let Ok(end @ End::Machine(_)) = serve(client) {
            return Ok(end);
        }
    }
}

/// Removes a socket that a process has left behind; anything else stays.
///
/// # Errors
/// The socket cannot be removed.
pub fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    let refused = |e: io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// A listening socket whose file goes when it does.
struct BoundPath<'a> {
    listener: UnixListener,
    path: &'a Path,
}

impl<'a> BoundPath<'a> {
    /// A socket left behind by a process that has died is replaced; anything else is not.
    fn new(path: &'a Path) -> io::Result<Self> {
        remove_stale(path)?;
        Ok(Self { listener: UnixListener::bind(path)?, path })
    }
}

impl Drop for BoundPath<'_> {
    fn drop(&mut self) {
        // Nobody can be told, and the next to listen here replaces it.
        let _ = std::fs::remove_file(self.path);
    }
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
    fn a_client_that_vanishes_is_no_reason_not_to_serve_the_next() {
        use trapline_device::PowerEvent;
        let aborted = || io::Error::from(io::ErrorKind::ConnectionAborted);
        let mut clients = vec![
            Ok(Ok(End::Machine(PowerEvent::Off))),
            Ok(Err(io::Error::other("broken"))),
            Err(aborted()),
            Ok(Ok(End::Closed)),
        ];
        let accept = std::cell::RefCell::new(&mut clients);
        let end = one_by_one(|| accept.borrow_mut().pop().unwrap(), |served| served);
        assert_eq!(end.unwrap(), End::Machine(PowerEvent::Off));
        let failing = || Err::<(), _>(io::Error::other("no descriptors"));
        assert!(one_by_one(failing, |()| Ok(End::Closed)).is_err());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_other_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let bound = BoundPath::new(&path).unwrap();
        assert!(BoundPath::new(&path).is_err(), "somebody listens there");
        drop(bound);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(BoundPath::new(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
