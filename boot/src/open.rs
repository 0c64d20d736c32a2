//! Opening the files a guest is started from.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a regular file or a block device for reading, and returns its length in bytes with it.
///
/// The file's type is looked at before anything is read: opening a named pipe would wait for a
/// writer, and reading `/dev/zero` would not end.
///
/// # Errors
/// It cannot be opened, or is of another type, which the error's text names.
pub fn open(path: &Path) -> io::Result<(File, u64)> {
    // With O_NONBLOCK opening does not wait for what is behind a device or a pipe; for a regular
    // file or a disk the flag means nothing.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if let Some(other) = not_a_file(metadata.file_type()) {
        return Err(io::Error::other(other));
    }
    let len = if metadata.is_file() { metadata.len() } else { file.seek(SeekFrom::End(0))? };
    Ok((file, len))
}

/// What a file is that has no contents of a certain length.
fn not_a_file(kind: FileType) -> Option<&'static str> {
    match () {
        () if kind.is_file() || kind.is_block_device() => None,
        () if kind.is_dir() => Some("it is a directory"),
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
        assert!(open(&dir.path().join("none")).unwrap_err().kind() == io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_comes_with_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(open(&path).unwrap().1, 5);
    }
}
