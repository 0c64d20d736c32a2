//! Debian's cloud kernel: the image, on x86-64 the ELF image inside it and the KVM modules beside it.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::arch::Arch;
use crate::{deb, paths, proc};

/// The modules that make `/dev/kvm` on a machine with AMD-V, in the order they load. Not every
/// kernel has all of them as modules.
pub(crate) const KVM_MODULES: [&str; 4] = ["ccp", "irqbypass", "kvm", "kvm-amd"];

/// A Debian kernel, unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// What `uname -r` says in it.
    pub(crate) release: String,
    /// What it runs on.
    pub(crate) arch: Arch,
    /// The image as Debian ships it: a bzImage, or an arm64 Image.
    pub(crate) image: PathBuf,
    /// x86-64: the same kernel as an uncompressed ELF image with a PVH note.
    pub(crate) vmlinux: Option<PathBuf>,
    /// The package's content.
    package: PathBuf,
}

/// Debian's current cloud kernel, from `build/` or from the network.
pub(crate) fn debian_cloud(arch: Arch) -> Result<Kernel> {
    let (package, image) = debian(arch, &format!("linux-image-cloud-{}", arch.debian()))?;
    let release = file_name(&image).trim_start_matches("vmlinuz-").to_owned();
    let vmlinux = match arch {
        Arch::X86_64 => Some(vmlinux(&release, &image)?),
        Arch::Aarch64 => None,
    };
    Ok(Kernel { release, arch, image, vmlinux, package })
}

/// The ELF image in a bzImage, unpacked into `build/` if it is not there yet.
fn vmlinux(release: &str, bzimage: &Path) -> Result<PathBuf> {
    let vmlinux = paths::build()?.join(format!("vmlinux-{release}"));
    if !vmlinux.is_file() {
        eprintln!("Unpacking vmlinux from {}", file_name(bzimage));
        let image = fs::read(bzimage)?;
        let elf = unpack(payload(&image)?)?;
        ensure!(elf.starts_with(b"\x7fELF"), "The payload of {release}'s vmlinuz is no ELF image");
        paths::write_whole(&vmlinux, &elf)?;
    }
    Ok(vmlinux)
}

/// The image of Debian's current kernel for real machines, which drives displays.
pub(crate) fn debian_full(arch: Arch) -> Result<PathBuf> {
    Ok(debian(arch, &format!("linux-image-{}", arch.debian()))?.1)
}

/// Debian's current kernel for real machines, which has the drivers of their devices and IOMMUs.
pub(crate) fn debian_machine(arch: Arch) -> Result<Kernel> {
    let (package, image) = debian(arch, &format!("linux-image-{}", arch.debian()))?;
    let release = file_name(&image).trim_start_matches("vmlinuz-").to_owned();
    Ok(Kernel { release, arch, image, vmlinux: None, package })
}

/// The content of the kernel package that `meta` depends on, and the image in it.
fn debian(arch: Arch, meta: &str) -> Result<(PathBuf, PathBuf)> {
    let name = deb::dependency(&arch.package(meta), "linux-image-")?;
    let package = deb::unpacked(&arch.package(&name))?;
    let image = fs::read_dir(package.join("boot"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| file_name(path).starts_with("vmlinuz-"))
        .with_context(|| format!("{name} has no vmlinuz"))?;
    Ok((package, image))
}

impl Kernel {
    /// The list of what is built in that would be a module elsewhere.
    pub(crate) fn builtin(&self) -> PathBuf {
        self.package.join("lib/modules").join(&self.release).join("modules.builtin")
    }

    /// The module's file content, uncompressed, if the package has the module.
    pub(crate) fn module(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let wanted = [format!("{name}.ko"), format!("{name}.ko.xz"), format!("{name}.ko.zst")];
        let mut folders = vec![self.package.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if wanted.iter().any(|wanted| *wanted == file_name(&path)) {
                    let content = fs::read(&path)?;
                    let plain = content.starts_with(b"\x7fELF");
                    return Ok(Some(if plain { content } else { unpack(&content)? }));
                }
            }
        }
        Ok(None)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The compressed kernel inside a bzImage. Spec: Linux, "The Linux/x86 Boot Protocol", fields
/// `setup_sects`, `payload_offset` and `payload_length` (protocol 2.08).
fn payload(image: &[u8]) -> Result<&[u8]> {
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "not a bzImage");
    let setup_sects = match image.get(0x1f1).copied().unwrap_or_default() {
        0 => 4,
        sects => usize::from(sects),
    };
    let start = (setup_sects + 1) * 512 + word(image, 0x248)?;
    let packed = image.get(start..).and_then(|rest| rest.get(..word(image, 0x24c).ok()?));
    packed.context("the bzImage ends before its payload does")
}

fn word(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image.get(at..at + 4).context("the bzImage is cut short")?;
    Ok(usize::try_from(u32::from_le_bytes(bytes.try_into()?))?)
}

/// Decompresses by the magic number. LZ4 is what Debian's cloud kernels use; for the others the
/// machine's own tools do.
fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    // The kernel's build appends the unpacked size to every format but gzip, which has it inside.
    let sized = packed.get(..packed.len().saturating_sub(4)).unwrap_or_default();
    match packed.get(..4) {
        Some([0x02, 0x21, 0x4c, 0x18]) => {
            let mut plain = Vec::new();
            lz4_flex::frame::FrameDecoder::new(sized).read_to_end(&mut plain)?;
            Ok(plain)
        }
        Some([0x1f, 0x8b, ..]) => pipe("gzip", packed),
        // Files, modules for example, have no size at the end; a tool that complains about trailing
        // bytes has by then written everything.
        Some([0xfd, b'7', b'z', b'X']) => pipe("xz", packed),
        Some([0x28, 0xb5, 0x2f, 0xfd]) => pipe("zstd", packed),
        magic => bail!("unknown compression, first bytes {magic:x?}"),
    }
}

fn pipe(tool: &str, packed: &[u8]) -> Result<Vec<u8>> {
    let path = deb::program(tool, &[if tool == "xz" { "xz-utils" } else { tool }])?;
    let mut command = Command::new(path);
    command.args(["-d", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = proc::start(&mut command)?;
    let (stdin, packed) = (child.pipes().stdin.take(), packed.to_vec());
    let feeder = std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&packed)));
    let done = proc::collected(child)?;
    let _ = feeder.join();
    ensure!(!done.stdout.is_empty(), "{tool} cannot decompress the kernel's payload");
    Ok(done.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 16];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        let len = u32::try_from(payload.len()).unwrap();
        image[0x24c..0x250].copy_from_slice(&len.to_le_bytes());
        image.extend(payload);
        image.extend(b"what follows the payload");
        image
    }

    /// The legacy LZ4 frame of the kernel's build (`lz4 -l`): magic, then blocks with a length.
    fn legacy_lz4(plain: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(plain);
        let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
        packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        packed.extend(block);
        packed.extend(u32::try_from(plain.len()).unwrap().to_le_bytes());
        packed
    }

    #[test]
    fn the_payload_is_what_the_setup_header_says() {
        assert_eq!(payload(&bzimage(b"payload")).unwrap(), b"payload");
    }

    #[test]
    fn a_file_that_is_no_bzimage_or_is_cut_short_is_refused() {
        assert!(payload(b"text").is_err());
        let image = bzimage(b"payload");
        assert!(payload(&image[..3 * 512 + 20]).is_err());
    }

    #[test]
    fn an_lz4_payload_unpacks_without_the_size_at_its_end() {
        let plain = b"\x7fELF and so on and so on and so on".repeat(100);
        assert_eq!(unpack(&legacy_lz4(&plain)).unwrap(), plain);
    }
}
