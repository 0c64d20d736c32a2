//! Initial RAM disks: newc cpio archives whose bytes depend on nothing but their content.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use cpio::newc::{Builder, trailer};

use crate::arch::Arch;
use crate::driver::Module;
use crate::{deb, paths};

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being made, in memory.
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// An archive with the folders every init here expects and the console the kernel opens for it.
    pub(crate) fn new() -> Result<Self> {
        let mut archive = Self { bytes: Vec::new(), inode: 0, folders: BTreeSet::new() };
        for dir in ["bin", "dev", "guest", "modules", "proc", "sys", "tmp"] {
            archive.folder(dir)?;
        }
        let console = Builder::new("dev/console").mode(CHARACTER_DEVICE | 0o600);
        archive.add(console.rdev_major(5).rdev_minor(1), &[])?;
        Ok(archive)
    }

    /// Adds a folder, once.
    fn folder(&mut self, name: &str) -> Result<()> {
        if !self.folders.insert(name.to_owned()) {
            return Ok(());
        }
        self.add(Builder::new(name).mode(DIRECTORY | 0o755), &[])
    }

    /// Adds a file, and the folders it is in; `name` has no leading slash.
    pub(crate) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> Result<()> {
        for (end, _) in name.match_indices('/') {
            self.folder(name.get(..end).unwrap_or_default())?;
        }
        self.add(Builder::new(name).mode(FILE | permissions), content)
    }

    /// Adds busybox, what every init sources first (`/prepare.sh`) and `init` itself.
    pub(crate) fn init(&mut self, arch: Arch, init: &str) -> Result<()> {
        let busybox = deb::unpacked(&arch.package("busybox-static"))?;
        let binary = ["bin/busybox", "usr/bin/busybox"].map(|name| busybox.join(name));
        let binary = binary.iter().find(|path| path.is_file());
        let binary = binary.context("The package busybox-static has no bin/busybox")?;
        self.file("bin/busybox", 0o755, &fs::read(binary)?)?;
        self.file("prepare.sh", 0o644, paths::guest_test("guest-prepare.sh")?.as_bytes())?;
        self.file("init", 0o755, paths::guest_test(init)?.as_bytes())
    }

    /// The finished archive.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        Ok(trailer(self.bytes)?)
    }

    fn add(&mut self, entry: Builder, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).context("A file of 4 GiB in an initrd")?;
        let bytes = std::mem::take(&mut self.bytes);
        let mut writer = entry.ino(self.inode).nlink(1).mtime(0).write(bytes, size);
        writer.write_all(content)?;
        self.bytes = writer.finish()?;
        Ok(())
    }
}

/// A guest's initrd with `guest-tests/INIT` as its init, some modules, and some programs with the
/// names they have there, made anew in `build/`. `modules/order` names the modules in their order. The file's
/// name has a hash of its content: guests that run side by side have the same init with other modules.
pub(crate) fn guest(
    arch: Arch,
    init: &str,
    modules: &[Module],
    programs: &[(String, PathBuf)],
) -> Result<PathBuf> {
    let mut archive = Archive::new()?;
    archive.init(arch, init)?;
    for Module { name, file } in modules {
        let content = fs::read(file).with_context(|| format!("Cannot read {}", file.display()))?;
        archive.file(&format!("modules/{name}.ko"), 0o644, &content)?;
    }
    let order: String = modules.iter().map(|module| format!("{}\n", module.name)).collect();
    archive.file("modules/order", 0o644, order.as_bytes())?;
    for (name, file) in programs {
        let content = fs::read(file).with_context(|| format!("Cannot read {}", file.display()))?;
        archive.file(&format!("bin/{name}"), 0o755, &content)?;
    }
    let content = archive.finish()?;
    let path = paths::build()?.join(file_name(arch, init, &content));
    paths::write_whole(&path, &content)?;
    Ok(path)
}

fn file_name(arch: Arch, init: &str, content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("guest-{}-{arch}-{:016x}.cpio", init.trim_end_matches(".sh"), hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_with_the_same_init_and_another_content_have_files_of_their_own() {
        let of = |content: &[u8]| file_name(Arch::X86_64, "init-smoke.sh", content);
        assert!(of(b"one").starts_with("guest-init-smoke-x86_64-"), "{}", of(b"one"));
        assert_ne!(of(b"one"), of(b"two"));
        assert_eq!(of(b"one"), of(b"one"));
    }

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new().unwrap();
        archive.file("bin/tool", 0o755, b"content").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn the_same_content_makes_the_same_bytes() {
        assert_eq!(sample(), sample());
    }

    #[test]
    fn a_file_and_the_console_are_found_again_with_their_modes() {
        let mut reader = cpio::newc::Reader::new(std::io::Cursor::new(sample())).unwrap();
        let mut seen = Vec::new();
        while !reader.entry().is_trailer() {
            let entry = reader.entry();
            seen.push((entry.name().to_owned(), entry.mode(), entry.rdev_major()));
            reader = cpio::newc::Reader::new(reader.finish().unwrap()).unwrap();
        }
        assert!(seen.contains(&("dev/console".to_owned(), 0o020_600, 5)), "{seen:?}");
        assert!(seen.contains(&("bin/tool".to_owned(), 0o100_755, 0)), "{seen:?}");
    }
}
