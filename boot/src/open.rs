//! Opening the files a guest is started from, and those that are written for its user.
//!
//! Nothing here waits for whoever may be at the other end of a named pipe, and nothing is read of
//! which nobody knows how long it is.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Opens a regular file or a block device for reading, and returns its length in bytes with it.
///
/// The file's type is looked at before anything is read: opening a named pipe would wait for a
/// writer, and reading `/dev/zero` would not end.
///
/// # Errors
/// It cannot be opened, or is of another type, which the error's text names.
pub fn open(path: &Path) -> io::Result<(File, u64)> {
    open_with(path, OpenOptions::new().read(true))
}

/// As [`open`], for reading and writing.
///
/// # Errors
/// Those of [`open`].
pub fn open_for_update(path: &Path) -> io::Result<(File, u64)> {
    open_with(path, OpenOptions::new().read(true).write(true))
}

fn open_with(path: &Path, options: &mut OpenOptions) -> io::Result<(File, u64)> {
    // For a regular file or a disk the flag means nothing.
    let mut file =
        options.custom_flags(at_once()).open(path).map_err(|error| match error.kind() {
            // Opening one for writing fails already.
            io::ErrorKind::IsADirectory => io::Error::other(DIRECTORY),
            _ => error,
        })?;
    let metadata = file.metadata()?;
    if let Some(other) = not_a_file(metadata.file_type()) {
        return Err(io::Error::other(other));
    }
    let len = if metadata.is_file() { metadata.len() } else { file.seek(SeekFrom::End(0))? };
    file.rewind()?;
    Ok((file, len))
}

/// Has the host read a file into its page cache, from which it is going to be read soon, without
/// waiting for it. A host that does not reads it when it is read.
pub fn read_ahead(file: &File) {
    // It is advice, and so are the reasons to refuse it.
    let _ = fadvise(file, 0, None, Advice::WillNeed);
}

/// Reads all of a regular file or a block device, which may be `most` bytes long.
///
/// # Errors
/// Those of [`open`]; it is longer; it cannot be read.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, len) = open(path)?;
    if len > most {
        return Err(too_long(most));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    // It may grow meanwhile, and the kernel's own files say that they are empty.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_long(most)) } else { Ok(bytes) }
}

/// Says that there are more than so many bytes.
pub(crate) fn too_long(most: u64) -> io::Error {
    io::Error::other(format!("it has more than {} MiB", most >> 20))
}

/// Opens a file to write to, and makes it if there is none. What is in it stays.
///
/// A device or a pipe will do, too, but a pipe must have its reader: opening does not wait for one.
/// Writing does, as to any pipe.
///
/// # Errors
/// It cannot be opened; it is a pipe that nobody reads, or a socket.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).custom_flags(at_once());
    let file = options.open(path).map_err(|error| {
        let kind = path.metadata().map(|metadata| metadata.file_type());
        let absent = error.raw_os_error() == Some(Errno::NXIO.raw_os_error());
        match kind {
            Ok(kind) if absent && kind.is_fifo() => io::Error::other("nobody reads this pipe"),
            Ok(kind) if absent && kind.is_socket() => io::Error::other("it is a socket"),
            _ => error,
        }
    })?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

/// Takes out what is in a file. What is no file, a pipe say, has no length to change.
///
/// # Errors
/// What the kernel says when it refuses.
pub fn empty(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}

/// Opening does not wait for what is behind a device or a pipe.
fn at_once() -> i32 {
    i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0)
}

const DIRECTORY: &str = "it is a directory";

/// What a file is that has no contents of a certain length.
fn not_a_file(kind: FileType) -> Option<&'static str> {
    match () {
        () if kind.is_file() || kind.is_block_device() => None,
        () if kind.is_dir() => Some(DIRECTORY),
        () if kind.is_fifo() => Some("it is a pipe; copy its contents to a file"),
        () if kind.is_char_device() => Some("it is a character device, not a file"),
        () => Some("it is not a regular file"),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn what_has_no_certain_length_is_refused_by_name_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        let refusal = |path: &Path| open(path).unwrap_err().to_string();
        assert_eq!(refusal(&pipe), "it is a pipe; copy its contents to a file");
        assert_eq!(refusal(Path::new("/dev/zero")), "it is a character device, not a file");
        assert_eq!(refusal(dir.path()), "it is a directory");
        assert_eq!(open_for_update(dir.path()).unwrap_err().to_string(), "it is a directory");
        assert!(
            open_for_update(&pipe).is_err() && open_for_update(Path::new("/dev/zero")).is_err()
        );
        assert!(open(&dir.path().join("none")).unwrap_err().kind() == io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_read_has_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 0x10_0001]).unwrap();
        assert_eq!(read(&path, 0x10_0001).unwrap(), vec![7; 0x10_0001]);
        assert_eq!(read(&path, 0x10_0000).unwrap_err().to_string(), "it has more than 1 MiB");
        // It says that it has no bytes.
        let kernels = Path::new("/proc/self/maps");
        assert!(!read(kernels, 1 << 20).unwrap().is_empty());
        assert_eq!(read(kernels, 16).unwrap_err().to_string(), "it has more than 0 MiB");
        let zeros = read(Path::new("/dev/zero"), 1 << 20).unwrap_err().to_string();
        assert_eq!(zeros, "it is a character device, not a file");
    }

    #[test]
    fn a_file_to_write_to_is_made_or_stays_as_it_is() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        create(&path).unwrap().write_all(b"12345").unwrap();
        let mut again = create(&path).unwrap();
        again.write_all(b"ab").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"ab345");
        empty(&again).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        assert!(create(dir.path()).is_err());
        let mut null = create(Path::new("/dev/null")).unwrap();
        empty(&null).unwrap();
        null.write_all(b"x").unwrap();
    }

    #[test]
    fn a_pipe_to_write_to_has_a_reader_already_and_is_waited_for_only_then() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(create(&path).unwrap_err().to_string(), "nobody reads this pipe");
        let mut reader = OpenOptions::new().read(true).custom_flags(at_once()).open(&path).unwrap();
        let mut writer = create(&path).unwrap();
        // More than a pipe holds.
        let sent = vec![7; 1 << 20];
        let writes = std::thread::spawn(move || writer.write_all(&vec![7; 1 << 20]));
        fcntl_setfl(&reader, OFlags::empty()).unwrap();
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        writes.join().unwrap().unwrap();
        assert!(seen == sent);
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(create(&socket).unwrap_err().to_string(), "it is a socket");
    }

    #[test]
    fn a_file_comes_with_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(open(&path).unwrap().1, 5);
        assert_eq!(open_for_update(&path).unwrap().1, 5);
    }
}
