//! Which kernel to boot when nobody names one.

use std::fs::File;
use std::io;
use std::path::PathBuf;

/// Where a kernel may be, in the order kvmtool looks: the build tree one stands in, then the
/// host's own; and beside its modules, where some distributions have it.
pub fn host_kernel() -> Vec<PathBuf> {
    let uname = rustix::system::uname();
    candidates(&uname.release().to_string_lossy())
}

/// The first of [`host_kernel`] that this user can read.
///
/// # Errors
/// There is none.
pub fn find_host_kernel() -> Result<PathBuf, NoHostKernel> {
    first_readable(host_kernel())
}

/// Why there is no kernel without one being named. `Display` is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum NoHostKernel {
    /// None is there.
    #[error("no kernel found; name one with -k (looked for {})", listed(.0))]
    Missing(Vec<PathBuf>),
    /// There is one, which is not for everybody: some distributions' are root's alone.
    #[error(
        "the host's kernel {} cannot be read by this user ({reason}); name another with -k, or have \
         it made readable (sudo chmod a+r)",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
}

fn listed(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

fn first_readable(candidates: Vec<PathBuf>) -> Result<PathBuf, NoHostKernel> {
    let mut refused = None;
    for path in candidates.iter().filter(|path| path.is_file()) {
        match File::open(path) {
            Ok(_) => return Ok(path.clone()),
            Err(reason) => {
                refused.get_or_insert(NoHostKernel::Unreadable { path: path.clone(), reason });
            }
        }
    }
    Err(refused.unwrap_or(NoHostKernel::Missing(candidates)))
}

/// What a kernel's build leaves, by architecture.
const BUILT: &str =
    if cfg!(target_arch = "aarch64") { "arm64/boot/Image" } else { "x86/boot/bzImage" };

fn candidates(release: &str) -> Vec<PathBuf> {
    let name = BUILT.rsplit('/').next().unwrap_or(BUILT);
    let mut paths: Vec<PathBuf> =
        [format!("./{name}"), format!("arch/{BUILT}"), format!("../../arch/{BUILT}")]
            .map(PathBuf::from)
            .into();
    paths.extend(["vmlinuz", name].map(|name| format!("/boot/{name}-{release}").into()));
    paths.extend(["vmlinuz", name].map(|name| format!("/lib/modules/{release}/{name}").into()));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_kernel_tree_comes_before_the_hosts_kernel() {
        let found: Vec<String> =
            candidates("6.1.0").iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            found,
            [
                "./bzImage",
                "arch/x86/boot/bzImage",
                "../../arch/x86/boot/bzImage",
                "/boot/vmlinuz-6.1.0",
                "/boot/bzImage-6.1.0",
                "/lib/modules/6.1.0/vmlinuz",
                "/lib/modules/6.1.0/bzImage",
            ]
        );
        assert_eq!(host_kernel().len(), 7);
    }

    #[test]
    fn a_file_that_is_there_but_not_readable_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let [gone, kernel] = ["gone", "kernel"].map(|name| folder.path().join(name));
        let none = first_readable(vec![gone.clone()]).unwrap_err().to_string();
        assert!(none.starts_with("no kernel found; name one with -k (looked for /"), "{none}");
        std::fs::write(&kernel, "x").unwrap();
        assert_eq!(first_readable(vec![gone, kernel.clone()]).unwrap(), kernel);
        let refused = NoHostKernel::Unreadable {
            path: "/k".into(),
            reason: io::ErrorKind::PermissionDenied.into(),
        };
        let said = refused.to_string();
        assert!(
            said.starts_with("the host's kernel /k cannot be read by this user (permission"),
            "{said}"
        );
    }
}
