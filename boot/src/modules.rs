//! Which kernels take a list of modules in the place of an initial RAM disk, on any host.

use std::path::{Path, PathBuf};

/// Whether the kernel at `path` is a Multiboot kernel, which has modules and arguments of its own
/// kind. What is no kernel at all is found out when it is loaded.
#[cfg(target_arch = "x86_64")]
pub fn is_multiboot(path: &Path) -> bool {
    use crate::kernel::Format;
    matches!(Format::of(path), Ok(Format::Multiboot))
}

/// Whether the kernel at `path` is a Multiboot kernel; there are none for this processor.
#[cfg(not(target_arch = "x86_64"))]
pub const fn is_multiboot(_path: &Path) -> bool {
    false
}

/// The files an initial RAM disk of this name is made of.
pub fn initrd_files(kernel: &Path, initrd: &Path) -> Vec<PathBuf> {
    #[cfg(target_arch = "x86_64")]
    if is_multiboot(kernel) {
        return crate::kernel::module_files(initrd);
    }
    let _ = kernel;
    vec![initrd.to_owned()]
}
