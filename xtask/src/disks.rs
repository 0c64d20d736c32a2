//! Boots with disks: what their guests and their outer machine need, and how they are judged.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::kernel::Kernel;
use crate::{deb, driver, paths, proc};

/// What every virtio device's driver needs, in the order in which it is loaded.
pub(crate) const BUS: [&str; 5] =
    ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"];

/// What drives a virtio disk, in the order in which it is loaded.
pub(crate) fn modules() -> impl Iterator<Item = &'static str> {
    BUS.into_iter().chain(["virtio_blk"])
}

/// Files of the outer machine, by the variable that has their place: a checker of file systems, an
/// empty qcow2 image, and the module that mounts an image.
pub(crate) fn host_files(kernel: &Kernel) -> Result<Vec<(&'static str, PathBuf)>> {
    let checker = deb::unpacked(&kernel.arch.package("e2fsck-static"))?.join("sbin/e2fsck.static");
    ensure!(checker.is_file(), "The package e2fsck-static has no sbin/e2fsck.static");
    let image = paths::build()?.join("empty.qcow2");
    let mut create = Command::new(deb::program("qemu-img", &["qemu-utils"])?);
    create.args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("32M");
    proc::output(&mut create)?;
    let looped = driver::shipped("loop", kernel)?;
    Ok(vec![("E2FSCK", checker), ("QCOW2", image), ("LOOP", looped.file)])
}

/// Empty images for the records of this test, by the variable that has their place.
pub(crate) fn record_images(test: &str) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut made = Vec::new();
    for (variable, format) in [("RAW", "raw"), ("QCOW2", "qcow2")] {
        let image = paths::build()?.join(format!("{test}.{format}"));
        let mut create = Command::new(deb::program("qemu-img", &["qemu-utils"])?);
        create.args(["create", "-q", "-f", format]).arg(&image).arg("16M");
        proc::output(&mut create)?;
        made.push((variable, image));
    }
    Ok(made)
}

/// Compares the raw image with what its last guest read of the disk.
///
/// # Errors
///
/// They differ, or one of them was not said.
pub(crate) fn compare(text: &str) -> Result<()> {
    let host = after(text, "TRAPLINE-HOST: disk ").context("the image was not summed up")?;
    let (before, _) = text.split_once("TRAPLINE-HOST: disk ").unwrap_or_default();
    let guest = before.rsplit_once("TRAPLINE-GUEST: disk ").map(|(_, rest)| rest);
    let guest = guest.and_then(|rest| rest.split_whitespace().next());
    let guest = guest.context("no guest summed its disk up")?;
    ensure!(guest == host, "the guest read {guest} and the image has {host}");
    Ok(())
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark)?.1.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_guest_before_the_image_counts() {
        let text = |last: &str| {
            format!(
                "TRAPLINE-GUEST: disk aa  -\nTRAPLINE-GUEST: disk {last}  -\n\
                 TRAPLINE-HOST: disk bb  -\nTRAPLINE-GUEST: disk cc  -\n"
            )
        };
        assert!(compare(&text("bb")).is_ok());
        assert!(compare(&text("aa")).is_err());
        assert!(compare("TRAPLINE-GUEST: disk aa  -\n").is_err());
        assert!(compare("TRAPLINE-HOST: disk aa  -\n").is_err());
    }
}
