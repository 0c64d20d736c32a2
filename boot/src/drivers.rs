//! The drivers of a Linux kernel that are files beside it, as depmod(8) has listed them: a
//! distribution's kernel has most of its virtio drivers as modules, and needs some of them before it
//! has a root file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::open::too_long;
use crate::packed::Packing;
use crate::{open, read};

/// The longest module that is taken, packed or not, in bytes; a distribution's longest have some ten
/// MiB.
const MODULE_MAX: u64 = 64 << 20;
/// The longest list of modules, in bytes; a distribution's has less than one MiB.
const LIST_MAX: u64 = 16 << 20;
/// Where bzImages have `HdrS`, and where the place of their version is (Linux
/// `Documentation/arch/x86/boot.rst`), which is counted from [`SETUP`].
const MAGIC_AT: usize = 0x202;
const VERSION_AT: usize = 0x20e;
const SETUP: usize = 0x200;
/// The first bytes of a bzImage, with room for its version.
const HEAD: u64 = 64 << 10;

/// What is known of a kernel's drivers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drivers {
    /// The kernel's release, if it is known.
    release: String,
    folder: PathBuf,
    /// Files below `folder` by the names of their modules: the module's, and what it needs, first what
    /// is to be loaded last.
    files: BTreeMap<String, Vec<PathBuf>>,
    built_in: BTreeSet<String>,
}

/// A module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
}

/// What a kernel has of the drivers that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In the order in which they are to be loaded.
    pub modules: Vec<Module>,
    /// Those that neither the kernel nor its modules have.
    pub missing: Vec<String>,
}

/// The release of a kernel, as `uname -r` gives it: a bzImage says so, and else its name does
/// (`vmlinuz-6.1.0`) or its folder's (`/lib/modules/6.1.0/vmlinux`).
pub fn release(kernel: &Path) -> Option<String> {
    let mut head = Vec::new();
    let (file, _) = open(kernel).ok()?;
    file.take(HEAD).read_to_end(&mut head).ok()?;
    said_release(&head)
        .or_else(|| {
            let (_, release) = kernel.file_name()?.to_str()?.split_once('-')?;
            (!release.is_empty()).then(|| release.to_owned())
        })
        .or_else(|| {
            let folder = kernel.parent()?;
            let is_modules = folder.parent()?.ends_with("lib/modules");
            is_modules.then(|| Some(folder.file_name()?.to_str()?.to_owned())).flatten()
        })
}

fn said_release(head: &[u8]) -> Option<String> {
    if head.get(MAGIC_AT..MAGIC_AT + 4)? != b"HdrS" {
        return None;
    }
    let at = head.get(VERSION_AT..)?.first_chunk::<2>()?;
    let text = head.get(SETUP + usize::from(u16::from_le_bytes(*at))..)?;
    let text = text.split(|byte| *byte == 0).next()?;
    let word = std::str::from_utf8(text).ok()?.split_whitespace().next()?;
    // Part of a path: a damaged or foreign file may have anything here.
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-+~".contains(c);
    (word.chars().all(is_name) && word.starts_with(|c: char| c.is_ascii_digit()))
        .then(|| word.to_owned())
}

impl Drivers {
    /// What the host has of this kernel's drivers: in `/lib/modules`, or in the tree that it was
    /// built in, which says what is built in. `host` is `/` but in tests. `None` if there is no list.
    pub fn of(host: &Path, kernel: &Path) -> Option<Self> {
        let release = release(kernel).unwrap_or_default();
        let installed = ["lib/modules", "usr/lib/modules"].map(|at| host.join(at).join(&release));
        // arch/x86/boot/bzImage, arch/arm64/boot/Image.
        let real = fs::canonicalize(kernel).unwrap_or_default();
        let built = real.ancestors().nth(4).map(Path::to_path_buf);
        let installed = installed.into_iter().filter(|_| !release.is_empty());
        installed.chain(built).find_map(|folder| Self::listed(&release, folder))
    }

    fn listed(release: &str, folder: PathBuf) -> Option<Self> {
        let list = |name: &str| read(&folder.join(name), LIST_MAX).ok();
        let (listed, built_in) = (list("modules.dep"), list("modules.builtin"));
        if listed.is_none() && built_in.is_none() {
            return None;
        }
        let text =
            |list: Option<Vec<u8>>| String::from_utf8_lossy(&list.unwrap_or_default()).into_owned();
        let files = text(listed).lines().filter_map(entry).collect();
        let built_in = text(built_in).lines().map(|file| name_of(Path::new(file))).collect();
        Some(Self { release: release.to_owned(), folder, files, built_in })
    }

    /// The kernel's release, as `uname -r` gives it; nothing if it is not known.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The modules that have these drivers, with what they need.
    pub fn find(&self, wanted: &[&str]) -> Found {
        let mut found = Found::default();
        for name in wanted {
            let Some(files) = self.files.get(*name) else {
                if !self.built_in.contains(*name) {
                    found.missing.push((*name).to_owned());
                }
                continue;
            };
            for file in files.iter().rev() {
                let name = name_of(file);
                if !found.modules.iter().any(|module| module.name == name) {
                    found.modules.push(Module { name, path: self.folder.join(file) });
                }
            }
        }
        found
    }
}

impl Module {
    /// The ELF file, unpacked.
    ///
    /// # Errors
    /// It cannot be read, or is longer than 64 MiB, or damaged.
    pub fn load(&self) -> Result<Vec<u8>, Error> {
        let load = || unpacked(read(&self.path, MODULE_MAX)?, MODULE_MAX);
        load().map_err(|error: io::Error| Error::Initramfs {
            name: self.path.display().to_string(),
            reason: error.to_string(),
        })
    }
}

/// A module as the kernel takes it, if it has no more than `most` bytes.
fn unpacked(bytes: Vec<u8>, most: u64) -> io::Result<Vec<u8>> {
    let Some(packing) = Packing::of_module(&bytes) else { return Ok(bytes) };
    let bytes = packing.unpack(&bytes, most.saturating_add(1))?;
    if bytes.len() as u64 > most { Err(too_long(most)) } else { Ok(bytes) }
}

/// A line of modules.dep: `kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko`, where what a module
/// needs is before what that needs.
fn entry(line: &str) -> Option<(String, Vec<PathBuf>)> {
    let (file, needs) = line.split_once(':')?;
    let files = std::iter::once(file).chain(needs.split_whitespace()).map(PathBuf::from);
    Some((name_of(Path::new(file)), files.collect()))
}

/// A module's name, from its file's: `kernel/drivers/virtio/virtio_pci.ko.xz`.
fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.split(".ko").next().unwrap_or(&name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn host() -> tempfile::TempDir {
        let host = tempfile::tempdir().unwrap();
        let folder = host.path().join("lib/modules/6.1.0-9-amd64");
        fs::create_dir_all(folder.join("kernel")).unwrap();
        fs::write(
            folder.join("modules.dep"),
            "kernel/fs/9p/9p.ko.gz: kernel/net/9pnet.ko.xz kernel/fs/fscache.ko kernel/fs/netfs.ko\n\
             kernel/net/9pnet.ko.xz:\n\
             kernel/drivers/virtio-pci.ko: kernel/drivers/virtio.ko\n\
             no line\n",
        )
        .unwrap();
        fs::write(folder.join("modules.builtin"), "kernel/drivers/char/virtio_console.ko\n")
            .unwrap();
        host
    }

    fn bzimage(path: &Path, version: &[u8]) {
        let mut bytes = vec![0; 0x400];
        bytes[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(b"HdrS");
        bytes[VERSION_AT..VERSION_AT + 2].copy_from_slice(&0x100_u16.to_le_bytes());
        bytes[0x300..0x300 + version.len()].copy_from_slice(version);
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_kernel_says_what_release_it_is_or_its_name_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinuz-x");
        bzimage(&path, b"6.1.0-9-amd64 (debian-kernel@lists) #1 SMP\0");
        assert_eq!(release(&path).as_deref(), Some("6.1.0-9-amd64"));
        for other in [&b"../../etc (x)\0"[..], b"6/../../etc x\0", b"..\0", b"\xff\0", b""] {
            bzimage(&path, other);
            assert_eq!(release(&path).as_deref(), Some("x"));
        }
        let named = folder.path().join("vmlinux-6.2");
        fs::write(&named, "\x7fELF").unwrap();
        assert_eq!(release(&named).as_deref(), Some("6.2"));
        let beside = folder.path().join("lib/modules/6.3/vmlinux");
        fs::create_dir_all(beside.parent().unwrap()).unwrap();
        fs::write(&beside, "\x7fELF").unwrap();
        assert_eq!(release(&beside).as_deref(), Some("6.3"));
        assert_eq!(release(&folder.path().join("gone-1")), None);
    }

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_once() {
        let host = host();
        let kernel = host.path().join("vmlinuz");
        bzimage(&kernel, b"6.1.0-9-amd64 x\0");
        let drivers = Drivers::of(host.path(), &kernel).unwrap();
        assert_eq!(drivers.release(), "6.1.0-9-amd64");
        let found = drivers.find(&["virtio_pci", "9p", "9pnet", "virtio_console", "virtio_net"]);
        let names: Vec<&str> = found.modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["virtio", "virtio_pci", "netfs", "fscache", "9pnet", "9p"]);
        assert_eq!(found.missing, ["virtio_net"]);
        let path = &found.modules[5].path;
        assert!(path.ends_with("lib/modules/6.1.0-9-amd64/kernel/fs/9p/9p.ko.gz"), "{path:?}");
        bzimage(&kernel, b"6.1.1 x\0");
        assert_eq!(Drivers::of(host.path(), &kernel), None);
    }

    #[test]
    fn a_build_tree_says_what_is_built_in() {
        let tree = tempfile::tempdir().unwrap();
        let kernel = tree.path().join("arch/x86/boot/bzImage");
        fs::create_dir_all(kernel.parent().unwrap()).unwrap();
        bzimage(&kernel, b"6.9.0-rc1+ x\0");
        fs::write(tree.path().join("modules.builtin"), "kernel/fs/9p/9p.ko\n").unwrap();
        let drivers = Drivers::of(tree.path(), &kernel).unwrap();
        assert_eq!(drivers.find(&["9p"]), Found::default());
    }

    #[test]
    fn modules_are_unpacked_and_damaged_ones_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let plain = b"\x7fELF and so on".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(
            &plain[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        let module = |bytes: &[u8]| {
            let path = folder.path().join("m.ko");
            fs::write(&path, bytes).unwrap();
            Module { name: "m".to_owned(), path }.load().map_err(|error| error.to_string())
        };
        let gzip = gzip.finish().unwrap();
        for packed in [&plain, &gzip, &zstd, &XZ.to_vec()] {
            let expected =
                if packed == XZ { b"\x7fELF and so on\n".to_vec() } else { plain.clone() };
            assert_eq!(module(packed).unwrap(), expected);
        }
        for packed in [&gzip[..], &zstd[..], XZ] {
            let said = module(&packed[..packed.len() - 9]).unwrap_err();
            assert!(said.starts_with("cannot put ") && said.contains("m.ko"), "{said}");
        }
    }

    #[test]
    fn a_module_that_unpacks_to_too_much_is_refused_and_not_cut_off() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let plain = vec![7; 3 << 20];
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        assert!(unpacked(gzip.clone(), 3 << 20).unwrap() == plain);
        let said = unpacked(gzip, 2 << 20).unwrap_err().to_string();
        assert_eq!(said, "it has more than 2 MiB");
    }

    /// `printf '\x7fELF and so on\n' | xz --check=crc32 --lzma2=dict=1MiB`, as Linux packs modules.
    const XZ: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x00, 0x21,
        0x01, 0x10, 0x00, 0x00, 0x00, 0xa8, 0x70, 0x8e, 0x86, 0x01, 0x00, 0x0e, 0x7f, 0x45, 0x4c,
        0x46, 0x20, 0x61, 0x6e, 0x64, 0x20, 0x73, 0x6f, 0x20, 0x6f, 0x6e, 0x0a, 0x00, 0x00, 0x9f,
        0x87, 0xb6, 0x61, 0x00, 0x01, 0x23, 0x0f, 0xdb, 0xdf, 0x90, 0x0e, 0x90, 0x42, 0x99, 0x0d,
        0x01, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a,
    ];
}
