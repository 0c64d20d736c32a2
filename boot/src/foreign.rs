//! Known formats that are no kernel (scripts, archives, images of other processors), so that a refusal
//! can say what the file is.

use elf::abi::{EM_386, EM_AARCH64, EM_X86_64};

/// Bytes from the start of a file that are enough to tell.
pub(crate) const HEAD: usize = 0x400;

/// What such a file is, and what to do instead.
pub(crate) type Foreign = (&'static str, &'static str);

/// Magic numbers of what packs files: RFC 1952, the xz file format 1.2.1, RFC 8878, bzip2, the
/// LZ4 frame format and the legacy one that kernels use, lzop.
const PACKED: [(&[u8], &str); 7] = [
    (b"\x1f\x8b", "a file packed with gzip"),
    (b"\xfd7zXZ\0", "a file packed with xz"),
    (b"\x28\xb5\x2f\xfd", "a file packed with zstd"),
    (b"BZh", "a file packed with bzip2"),
    (b"\x04\x22\x4d\x18", "a file packed with lz4"),
    (b"\x02\x21\x4c\x18", "a file packed with lz4"),
    (b"\x89LZO", "a file packed with lzop"),
];

/// Other magic numbers at the start: archives and images for other boot loaders.
const STARTS: [(&[u8], Foreign); 4] = [
    (b"07070", ("an initramfs, a cpio archive", "name it with -i, and a kernel with -k")),
    (b"\x27\x05\x19\x56", ("an image for U-Boot", "name the kernel it was made of")),
    (b"#!", ("a script", "name the kernel that it starts")),
    (b"!<arch>\n", ("an archive", "name the kernel in it")),
];

/// What the file beginning with `head` is, if it is certainly no kernel as it stands on any
/// processor.
pub(crate) fn anywhere(head: &[u8; HEAD]) -> Option<Foreign> {
    let packed = PACKED.iter().find(|(magic, _)| head.starts_with(magic));
    let packed = packed.map(|(_, what)| (*what, "unpack it first"));
    let start = STARTS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, what)| *what);
    packed.or(start)
}

/// What to do about a kernel for another processor.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "x86 guests only"))]
const FOR_X86: &str = "name a kernel for x86-64";

/// The same for a guest with an x86 processor.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "x86 guests only"))]
pub(crate) fn on_x86(head: &[u8; HEAD]) -> Option<Foreign> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    match () {
        // Linux Documentation/arch/arm64/booting.rst and arch/riscv/boot-image-header.rst.
        () if at(0x38, b"ARM\x64") => Some(("an Image for arm64", FOR_X86)),
        () if at(0x38, b"RSC\x05") => Some(("an Image for RISC-V", FOR_X86)),
        // Linux arch/arm/boot/compressed/head.S and drivers/firmware/efi/libstub/zboot-header.S.
        () if at(0x24, b"\x18\x28\x6f\x01") => Some(("a zImage for 32-bit Arm", FOR_X86)),
        () if at(0, b"MZ") && at(4, b"zimg") => {
            Some(("an EFI program that unpacks a kernel of another processor", FOR_X86))
        }
        // System V ABI, "ELF Header": EI_DATA is 2.
        () if at(0, b"\x7fELF") && at(5, &[2]) => Some(("a big-endian ELF file", FOR_X86)),
        () if at(0, b"MZ") => Some((
            "an EFI or DOS program without Linux' header",
            "name a bzImage, an ELF or a Multiboot kernel",
        )),
        () if anywhere(head).is_some() => anywhere(head),
        // IBM PC/AT Technical Reference: the boot record's signature.
        () if at(510, b"\x55\xaa") => {
            Some(("a disk image or a boot sector", "name the kernel that it starts"))
        }
        () => None,
    }
}

/// What an ELF file for `machine` is to an x86 guest.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "x86 guests only"))]
pub(crate) fn elf_on_x86(machine: u16) -> Option<Foreign> {
    match machine {
        EM_386 | EM_X86_64 => None,
        EM_AARCH64 => Some(("an ELF file for arm64", FOR_X86)),
        _ => Some(("an ELF file for another processor", FOR_X86)),
    }
}
