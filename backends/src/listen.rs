//! Unix sockets that the host's programs find by a path.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// A Unix socket at this path, to listen at. One that a killed process has left there is replaced.
///
/// # Errors
/// The host's: as somebody has it open.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let bound = UnixListener::bind(path);
    let Err(error) = &bound else { return bound };
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let left = error.kind() == io::ErrorKind::AddrInUse
        && is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if !left {
        return bound;
    }
    std::fs::remove_file(path)?;
    UnixListener::bind(path)
}
