//! The guest's root file system: the initramfs as it is, or a shared folder in its place.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};

use crate::roots::HOST;
use crate::task::{HOST_TAG, OURS, ROOT_TAG, SCRIPT, Task};

/// Where it is until it is the root.
const NEW: &str = "/new";
/// Options of 9p. Its messages have 128 KiB of data: kernels before 6.0 take buffers of that size for
/// each.
const OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=131072";

/// The kernel's file systems, and where they go.
const KERNELS: [(&str, &str); 3] = [("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev")];

/// Mounts the kernel's file systems below `/`.
pub(super) fn mount_kernels() {
    for (kind, target) in KERNELS {
        let target = format!("/{target}");
        // Either may be there already; what is missing shows in the report.
        let _ = fs::create_dir_all(&target);
        let _ = mount(kind, &target, kind, MountFlags::empty(), None);
    }
}

/// Makes what the task says the root.
///
/// # Errors
/// A sentence about what cannot be done. The root is the initramfs then.
pub(super) fn change(task: &Task) -> Result<(), String> {
    let script = fs::read(format!("/{SCRIPT}")).ok();
    let kept = |script: &[u8]| {
        write_script(script).map_err(|error| format!("the script cannot be kept: {error}"))
    };
    let Some(root) = &task.root else {
        finish(false, Path::new("/"), task)?;
        return script.map_or(Ok(()), |script| kept(&script));
    };
    share(ROOT_TAG, NEW, root.read_only)
        .map_err(|error| format!("the shared root cannot be mounted: {error}"))?;
    let done: Result<(), Errno> = (|| {
        for (_, target) in KERNELS {
            mount_move(format!("/{target}"), folder(target)?)?;
        }
        rustix::process::chdir(NEW)?;
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")
    })();
    done.map_err(|error| format!("the shared root cannot become the root: {error}"))?;
    if root.with_host {
        share(HOST_TAG, &format!("/{HOST}"), true)
            .map_err(|error| format!("the host's files cannot be mounted: {error}"))?;
    }
    let covers = root.read_only || root.is_hosts;
    finish(covers, Path::new(&task.folder.clone().unwrap_or_default()), task)?;
    script.map_or(Ok(()), |script| kept(&script))
}

/// A folder of the new root, made if it can be.
fn folder(name: &str) -> Result<String, Errno> {
    let path = format!("{NEW}/{name}");
    match rustix::fs::mkdir(&path, 0o755.into()) {
        Ok(()) | Err(Errno::EXIST | Errno::ROFS | Errno::ACCESS) => Ok(path),
        Err(error) => Err(error),
    }
}

/// Mounts a share.
fn share(tag: &str, target: &str, read_only: bool) -> Result<(), Errno> {
    let _ = fs::create_dir_all(target);
    // What nobody in the guest changes may be kept there.
    let (flags, cache) = match read_only {
        true => (MountFlags::RDONLY, "loose"),
        false => (MountFlags::empty(), "mmap"),
    };
    let options = std::ffi::CString::new(format!("{OPTIONS},cache={cache}")).unwrap_or_default();
    mount(tag, target, "9p", flags, Some(options.as_c_str()))
}

/// What every root has, and memory over folders that programs write to where the root is the host's or
/// cannot be written to; but not over the folder that the task is about.
fn finish(covers: bool, about: &Path, task: &Task) -> Result<(), String> {
    let tmpfs = |target: &str, mode: &str| {
        let options = std::ffi::CString::new(format!("mode={mode}")).unwrap_or_default();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let _ = mount("tmpfs", target, "tmpfs", flags, Some(options.as_c_str()));
    };
    for (folder, kind) in [("/dev/pts", "devpts"), ("/dev/shm", "tmpfs")] {
        let _ = fs::create_dir_all(folder);
        let options =
            if kind == "devpts" { c"ptmxmode=0666,mode=0620,gid=5" } else { c"mode=1777" };
        let _ = mount(kind, folder, kind, MountFlags::NOSUID, Some(options));
    }
    // What cannot be made is missed where it is wanted.
    let _ = fs::create_dir_all(OURS);
    let streams = [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")];
    for (name, target) in streams {
        let _ = symlink(format!("/proc/self/{target}"), format!("/dev/{name}"));
    }
    tmpfs("/run", "0755");
    if covers {
        for folder in ["/tmp", "/var/tmp"] {
            if !about.starts_with(folder) {
                tmpfs(folder, "1777");
            }
        }
    }
    if task.hostname.is_empty() {
        return Ok(());
    }
    let named = rustix::system::sethostname(task.hostname.as_bytes());
    named.map_err(|error| format!("the guest cannot be called {}: {error}", task.hostname))
}

fn write_script(script: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = format!("{OURS}/{SCRIPT}");
    fs::write(&path, script)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}
