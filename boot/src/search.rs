//! Which kernel to boot when nobody names one.

use std::path::PathBuf;

/// Where a kernel may be, in the order kvmtool looks: the build tree one stands in, then the
/// host's own.
pub fn host_kernel() -> Vec<PathBuf> {
    let uname = rustix::system::uname();
    candidates(&uname.release().to_string_lossy())
}

/// The first of [`host_kernel`] that exists.
pub fn find_host_kernel() -> Option<PathBuf> {
    host_kernel().into_iter().find(|path| path.is_file())
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
            ]
        );
        assert_eq!(host_kernel().len(), 5);
    }
}
