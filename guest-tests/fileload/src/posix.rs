//! Rules of POSIX, each with a name: what a call does, or which error it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use rustix::io::Errno;

/// A rule: whether it holds in an empty folder.
type Rule = fn(&Path) -> io::Result<bool>;

/// All of them.
const RULES: &[(&str, Rule)] = &[
    ("mkdir makes a folder of that mode", |dir| {
        rustix::fs::mkdir(dir.join("d"), Mode::from_raw_mode(0o751))?;
        Ok(fs::metadata(dir.join("d"))?.mode() == 0o040_751)
    }),
    ("mkdir of a name that is there", |dir| {
        fs::create_dir(dir.join("d"))?;
        is(fs::create_dir(dir.join("d")), Errno::EXIST)
    }),
    ("rmdir of a folder with something in it", |dir| {
        fs::create_dir_all(dir.join("d/e"))?;
        is(fs::remove_dir(dir.join("d")), Errno::NOTEMPTY)
    }),
    ("rmdir of a file, unlink of a folder", |dir| {
        fs::write(dir.join("f"), "")?;
        fs::create_dir(dir.join("d"))?;
        Ok(is(fs::remove_dir(dir.join("f")), Errno::NOTDIR)?
            && is(fs::remove_file(dir.join("d")), Errno::ISDIR)?)
    }),
    ("open with O_EXCL of a name that is there", |dir| {
        fs::write(dir.join("f"), "")?;
        is(OpenOptions::new().write(true).create_new(true).open(dir.join("f")), Errno::EXIST)
    }),
    ("open of what is not there, and below a file", |dir| {
        fs::write(dir.join("f"), "")?;
        Ok(is(File::open(dir.join("none")), Errno::NOENT)?
            && is(File::open(dir.join("f/none")), Errno::NOTDIR)?)
    }),
    ("open of a folder for writing", |dir| {
        fs::create_dir(dir.join("d"))?;
        is(OpenOptions::new().write(true).open(dir.join("d")), Errno::ISDIR)
    }),
    ("a name of 255 bytes, and one of 256", |dir| {
        fs::write(dir.join("n".repeat(255)), "long")?;
        Ok(fs::read(dir.join("n".repeat(255)))? == b"long"
            && is(fs::write(dir.join("n".repeat(256)), ""), Errno::NAMETOOLONG)?)
    }),
    ("O_TRUNC empties and O_APPEND appends", |dir| {
        fs::write(dir.join("f"), "long text")?;
        fs::write(dir.join("f"), "a")?;
        OpenOptions::new().append(true).open(dir.join("f"))?.write_all(b"b")?;
        Ok(fs::read(dir.join("f"))? == b"ab")
    }),
    ("an open file outlives its name", |dir| {
        fs::write(dir.join("f"), "text")?;
        let file = OpenOptions::new().read(true).write(true).open(dir.join("f"))?;
        fs::remove_file(dir.join("f"))?;
        file.write_all_at(b"T", 0)?;
        let mut text = String::new();
        (&file).read_to_string(&mut text)?;
        Ok(text == "Text" && !dir.join("f").exists())
    }),
    ("a file that cannot be written is written by who has it open", |dir| {
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).open(dir.join("f"))?;
        fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o400))?;
        file.write_all_at(b"text", 0)?;
        file.set_len(2)?;
        Ok(fs::read(dir.join("f"))? == b"te")
    }),
    ("link makes a second name", |dir| {
        fs::write(dir.join("f"), "text")?;
        fs::hard_link(dir.join("f"), dir.join("g"))?;
        fs::write(dir.join("g"), "other")?;
        let (one, two) = (fs::metadata(dir.join("f"))?, fs::metadata(dir.join("g"))?);
        Ok(one.ino() == two.ino() && fs::read(dir.join("f"))? == b"other")
    }),
    ("link to a name that is there, and of a folder", |dir| {
        fs::write(dir.join("f"), "")?;
        fs::create_dir(dir.join("d"))?;
        Ok(is(fs::hard_link(dir.join("f"), dir.join("f")), Errno::EXIST)?
            && is(fs::hard_link(dir.join("d"), dir.join("e")), Errno::PERM)?)
    }),
    ("symlink leads to its target", |dir| {
        fs::write(dir.join("f"), "text")?;
        symlink("f", dir.join("l"))?;
        let stat = fs::symlink_metadata(dir.join("l"))?;
        Ok(fs::read(dir.join("l"))? == b"text"
            && fs::read_link(dir.join("l"))? == Path::new("f")
            && stat.file_type().is_symlink()
            && stat.len() == 1)
    }),
    ("a symlink to itself", |dir| {
        symlink("l", dir.join("l"))?;
        is(File::open(dir.join("l")), Errno::LOOP)
    }),
    ("a symlink to nothing is made by open", |dir| {
        symlink("new", dir.join("l"))?;
        fs::write(dir.join("l"), "text")?;
        Ok(fs::read(dir.join("new"))? == b"text")
    }),
    ("rename takes the place of what is there", |dir| {
        fs::write(dir.join("f"), "f")?;
        fs::write(dir.join("g"), "g")?;
        fs::rename(dir.join("f"), dir.join("g"))?;
        Ok(fs::read(dir.join("g"))? == b"f" && !dir.join("f").exists())
    }),
    ("rename of a folder, below which files are open", |dir| {
        fs::create_dir(dir.join("d"))?;
        fs::write(dir.join("d/f"), "text")?;
        let file = File::open(dir.join("d/f"))?;
        fs::rename(dir.join("d"), dir.join("e"))?;
        let mut text = [0; 4];
        file.read_exact_at(&mut text, 0)?;
        Ok(&text == b"text" && fs::read(dir.join("e/f"))? == b"text")
    }),
    ("rename into itself, over a folder, over one with something in it", |dir| {
        fs::create_dir_all(dir.join("d/e"))?;
        fs::create_dir(dir.join("g"))?;
        fs::write(dir.join("f"), "")?;
        Ok(is(fs::rename(dir.join("d"), dir.join("d/e/x")), Errno::INVAL)?
            && is(fs::rename(dir.join("f"), dir.join("g")), Errno::ISDIR)?
            && is(fs::rename(dir.join("g"), dir.join("f")), Errno::NOTDIR)?
            && is(fs::rename(dir.join("g"), dir.join("d")), Errno::NOTEMPTY)?)
    }),
    ("chmod sets the mode, and setuid", |dir| {
        fs::write(dir.join("f"), "")?;
        fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o4711))?;
        Ok(fs::metadata(dir.join("f"))?.mode() == 0o104_711)
    }),
    ("chown gives a file away, and takes setuid", |dir| {
        fs::write(dir.join("f"), "")?;
        fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o4711))?;
        std::os::unix::fs::chown(dir.join("f"), Some(123), Some(456))?;
        let stat = fs::metadata(dir.join("f"))?;
        Ok((stat.uid(), stat.gid(), stat.mode()) == (123, 456, 0o100_711))
    }),
    ("times can be set, and move with what is written", |dir| {
        let file = File::create(dir.join("f"))?;
        let then = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 0);
        file.set_modified(then)?;
        let set = fs::metadata(dir.join("f"))?.mtime();
        file.write_all_at(b"x", 0)?;
        drop(file);
        Ok(set == 1_000_000 && fs::metadata(dir.join("f"))?.mtime() > 1_000_000)
    }),
    ("truncate makes longer and shorter", |dir| {
        fs::write(dir.join("f"), "text")?;
        let file = OpenOptions::new().write(true).open(dir.join("f"))?;
        file.set_len(6)?;
        let longer = fs::read(dir.join("f"))?;
        file.set_len(2)?;
        Ok(longer == b"text\0\0" && fs::read(dir.join("f"))? == b"te")
    }),
    ("a hole reads as zeroes", |dir| {
        let file = File::create(dir.join("f"))?;
        file.write_all_at(b"x", 1 << 20)?;
        drop(file);
        let bytes = fs::read(dir.join("f"))?;
        Ok(bytes.len() == (1 << 20) + 1 && bytes.iter().filter(|byte| **byte != 0).count() == 1)
    }),
    ("a FIFO joins two processes, and is no file on the host", |dir| {
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, dir.join("p"), FileType::Fifo, mode, 0)?;
        let path = dir.join("p");
        let writer = std::thread::spawn(move || fs::write(path, "through"));
        let text = fs::read(dir.join("p"))?;
        let written = writer.join().is_ok_and(|written| written.is_ok());
        Ok(text == b"through" && written)
    }),
    ("a device of the guest's is one", |dir| {
        let device = rustix::fs::makedev(1, 5);
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, dir.join("zero"), FileType::CharacterDevice, mode, device)?;
        let mut bytes = [1; 8];
        File::open(dir.join("zero"))?.read_exact(&mut bytes)?;
        Ok(bytes == [0; 8])
    }),
    ("a folder is emptied while it is listed", |dir| {
        for n in 0..300 {
            File::create(dir.join(n.to_string()))?;
        }
        for entry in fs::read_dir(dir)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(fs::read_dir(dir)?.count() == 0)
    }),
    ("extended attributes are set, listed and removed", |dir| {
        let path = dir.join("f");
        fs::write(&path, "")?;
        rustix::fs::setxattr(&path, "trusted.a", b"value", XattrFlags::CREATE)?;
        let mut value = [0; 16];
        let len = rustix::fs::getxattr(&path, "trusted.a", &mut value[..])?;
        let twice = rustix::fs::setxattr(&path, "trusted.a", b"x", XattrFlags::CREATE);
        rustix::fs::removexattr(&path, "trusted.a")?;
        let gone = rustix::fs::getxattr(&path, "trusted.a", &mut value[..]);
        Ok(len == 5 && twice == Err(Errno::EXIST) && gone == Err(Errno::NODATA))
    }),
    ("locks keep another open file out", |dir| {
        use rustix::fs::FlockOperation::{NonBlockingLockExclusive, Unlock};
        fs::write(dir.join("f"), "")?;
        let open = || OpenOptions::new().read(true).write(true).open(dir.join("f"));
        let (one, two) = (open()?, open()?);
        rustix::fs::flock(&one, NonBlockingLockExclusive)?;
        let busy = rustix::fs::flock(&two, NonBlockingLockExclusive);
        rustix::fs::flock(&one, Unlock)?;
        rustix::fs::flock(&two, NonBlockingLockExclusive)?;
        Ok(busy == Err(Errno::AGAIN))
    }),
    ("statfs has room", |dir| {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_blocks > 0 && stat.f_bsize > 0 && stat.f_namemax == 255)
    }),
    ("fsync of a file and of a folder", |dir| {
        fs::write(dir.join("f"), "text")?;
        File::open(dir.join("f"))?.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(true)
    }),
];

/// Whether a folder of so many names is listed, each once.
fn lists(dir: &Path, count: usize) -> io::Result<bool> {
    for n in 0..count {
        File::create(dir.join(format!("a-name-that-is-not-too-short-{n}")))?;
    }
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    Ok(all == count && names.len() == count)
}

fn is<T>(outcome: io::Result<T>, errno: Errno) -> io::Result<bool> {
    match outcome {
        Ok(_) => Ok(false),
        Err(error) if Errno::from_io_error(&error) == Some(errno) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Looks whether all rules hold, each in a folder of its own, the largest of `names` files. How many do,
/// or which do not.
pub(crate) fn check(folder: &Path, names: usize) -> Result<String, String> {
    // Modes are as they are given.
    rustix::process::umask(Mode::empty());
    let many = |dir: &Path| lists(dir, names);
    let many: &dyn Fn(&Path) -> _ = &many;
    let rules = RULES.iter().map(|(name, rule)| (*name, rule as _));
    let rules = rules.chain([("a folder of many names is listed, each once", many)]);
    let mut broken = Vec::new();
    for (n, (name, rule)) in rules.enumerate() {
        let dir = folder.join(format!("rule-{n}"));
        let held = fs::create_dir(&dir).and_then(|()| rule(&dir));
        let removed = fs::remove_dir_all(&dir);
        match (held, removed) {
            (Ok(true), Ok(())) => {}
            (Ok(false), _) => broken.push(format!("{name}: no")),
            (Err(error), _) => broken.push(format!("{name}: {error}")),
            (_, Err(error)) => broken.push(format!("{name}: cannot be removed: {error}")),
        }
    }
    match broken.is_empty() {
        true => Ok(format!("{} rules hold", RULES.len() + 1)),
        false => Err(broken.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_rules_hold_where_the_kernel_keeps_them_itself() {
        let folder = std::env::temp_dir().join(format!("fileload-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let said = super::check(&folder, 1000);
        let random = crate::model::compare(&folder, 300, 7);
        std::fs::remove_dir_all(&folder).unwrap();
        // Only who is root can give files away and make devices.
        assert!(said.is_ok() || rustix::process::geteuid().as_raw() != 0, "{said:?}");
        assert_eq!(random, Ok("300 random steps".to_owned()));
    }
}
