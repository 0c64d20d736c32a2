//! Root file systems for guests as `trapline setup NAME` makes them: folders of their own for what a
//! guest changes, in which programs and libraries are links to the host's.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};

/// Folders that a root has, as kvmtool's.
const FOLDERS: [&str; 14] = [
    "dev", "etc", "home", "host", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "var",
    "var/tmp",
];
/// What is the host's: links, if the host has it.
const HOSTS: [&str; 12] = [
    "bin",
    "sbin",
    "lib",
    "lib32",
    "lib64",
    "usr",
    "etc/alternatives",
    "etc/ld.so.cache",
    "etc/ld.so.conf",
    "etc/ld.so.conf.d",
    "etc/ssl",
    "etc/terminfo",
];
/// Files that are copied, as guests have their own.
const COPIED: [&str; 2] = ["etc/nsswitch.conf", "etc/services"];
/// Where a guest of ours has the host's files.
pub const HOST: &str = "host";

/// Makes a root of this name and says where.
///
/// # Errors
/// A sentence: the name cannot be one, or is taken, or the file system has no room.
pub fn make(name: &str) -> anyhow::Result<PathBuf> {
    ensure!(
        is_name(name),
        "trapline setup {name}: a name has no slash and does not begin with a dot"
    );
    let folder = folder().context("trapline setup: there is no home folder to make it in")?;
    let root = folder.join(name);
    if root.exists() {
        bail!("trapline setup {name}: {} is there already", root.display());
    }
    fill(&root, Path::new("/")).with_context(|| format!("cannot make {}", root.display()))?;
    Ok(root)
}

/// The root of this name, if there is one.
pub fn find(name: &str) -> Option<PathBuf> {
    let root = folder()?.join(name);
    (is_name(name) && root.is_dir()).then_some(root)
}

fn is_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    one && !name.starts_with('.') && !name.contains('/')
}

/// Where roots are: a user's data (XDG Base Directory Specification).
fn folder() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share")));
    Some(data?.join("trapline"))
}

fn fill(root: &Path, host: &Path) -> io::Result<()> {
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder))?;
    }
    for name in HOSTS.into_iter().filter(|name| host.join(name).symlink_metadata().is_ok()) {
        symlink(Path::new("/").join(HOST).join(name), root.join(name))?;
    }
    for name in COPIED.into_iter().filter(|name| host.join(name).is_file()) {
        fs::copy(host.join(name), root.join(name))?;
    }
    let shell = if host.join("bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    fs::write(root.join("etc/passwd"), format!("root:x:0:0:root:/root:{shell}\n"))?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    fs::write(root.join("etc/resolv.conf"), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_has_its_own_folders_and_links_to_what_the_host_has() {
        let folder = tempfile::tempdir().unwrap();
        let (host, root) = (folder.path().join("host"), folder.path().join("root"));
        fs::create_dir_all(host.join("usr/bin")).unwrap();
        symlink("usr/bin", host.join("bin")).unwrap();
        fs::create_dir_all(host.join("etc")).unwrap();
        fs::write(host.join("etc/services"), "x").unwrap();
        fill(&root, &host).unwrap();
        assert_eq!(fs::read_link(root.join("bin")).unwrap(), Path::new("/host/bin"));
        assert_eq!(fs::read_link(root.join("usr")).unwrap(), Path::new("/host/usr"));
        assert!(root.join("lib64").symlink_metadata().is_err(), "the host has none");
        assert!(root.join("host").is_dir() && root.join("var/tmp").is_dir());
        assert_eq!(fs::read_to_string(root.join("etc/services")).unwrap(), "x");
        let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
        assert_eq!(passwd, "root:x:0:0:root:/root:/bin/sh\n");
    }

    #[test]
    fn names_stay_in_their_folder() {
        for name in ["", ".", "..", "a/b", "/a", ".a", "a/"] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name("debian-12"));
    }
}
