//! What a kernel file is: by its header, or for want of one.

use std::path::Path;

use trapline_guestmem::GuestMem;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::error::{Error, placing};
use crate::foreign::{Foreign, HEAD, anywhere};
use crate::image::Image;
use crate::packed::Packing;

/// The header of a 64-bit `Image` (`booting.rst`, section 4).
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    code0: U32,
    code1: U32,
    /// Where it wants to be, above a multiple of 2 MiB.
    text_offset: U64,
    /// How much memory it takes, with what it does not bring. 0 before Linux 3.17.
    image_size: U64,
    flags: U64,
    res2: U64,
    res3: U64,
    res4: U64,
    magic: [u8; 4],
    res5: U32,
}

const MAGIC: [u8; 4] = *b"ARM\x64";
/// Kernels without a usable header are loaded here (`booting.rst`, on `image_size` 0), and so are
/// flat programs.
const TEXT_OFFSET: u64 = 0x8_0000;

/// The magic of a 32-bit zImage, and where it is (Linux `arch/arm/boot/compressed/head.S`).
const ZIMAGE_MAGIC: [u8; 4] = 0x016f_2818_u32.to_le_bytes();
const ZIMAGE_MAGIC_AT: usize = 0x24;
/// Where 32-bit kernels and programs are loaded, from the start of RAM.
const TEXT_OFFSET_32: u64 = 0x8000;

/// The longest command lines Linux does not cut: `COMMAND_LINE_SIZE` without the NUL, of
/// `arch/arm64/include/uapi/asm/setup.h` and of 32-bit Arm's.
const CMDLINE_MAX: usize = 2047;
const CMDLINE_MAX_32: usize = 1023;

/// A kernel, found out about and not yet loaded.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Where it goes, above a multiple of 2 MiB.
    pub(super) text_offset: u64,
    /// How much memory it takes.
    pub(super) footprint: u64,
    /// The longest command line it takes, if it is a kernel of which that is known.
    pub(super) cmdline_max: Option<usize>,
    content: Content,
}

enum Content {
    /// The file as it is.
    File(Image),
    /// What was packed into it.
    Unpacked(String, Vec<u8>),
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Content {
    fn name(&self) -> &str {
        match self {
            Self::File(image) => &image.name,
            Self::Unpacked(name, _) => name,
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::File(image) => image.len,
            Self::Unpacked(_, bytes) => bytes.len() as u64,
        }
    }

    /// The first bytes, with zeros where there are no more.
    fn head(&self) -> Result<[u8; HEAD], Error> {
        let mut head = [0; HEAD];
        match self {
            Self::File(image) => {
                image.read_at(&mut head, 0)?;
            }
            Self::Unpacked(_, bytes) => {
                head.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            }
        }
        Ok(head)
    }
}

impl Kernel {
    /// Opens a kernel for a guest with `room` bytes of RAM, and unpacks it if it is packed.
    pub(super) fn open(path: &Path, aarch32: bool, room: u64) -> Result<Self, Error> {
        let image = Image::open(path, |name, source| Error::OpenKernel { name, source })?;
        if image.len == 0 {
            return Err(Error::Empty { name: image.name });
        }
        let content = unpack(image, room)?;
        let head = content.head()?;
        if let Some((found, wanted)) = foreign(&head, aarch32) {
            return Err(Error::ForeignKernel { name: content.name().to_owned(), found, wanted });
        }
        let len = content.len();
        let (text_offset, footprint) = match header(&head) {
            _ if aarch32 => (TEXT_OFFSET_32, len),
            Some(header) if header.image_size.get() != 0 => {
                (header.text_offset.get(), header.image_size.get().max(len))
            }
            _ => (TEXT_OFFSET, len),
        };
        let cmdline_max = match aarch32 {
            true => is_zimage(&head).then_some(CMDLINE_MAX_32),
            false => header(&head).map(|_| CMDLINE_MAX),
        };
        Ok(Self { text_offset, footprint, cmdline_max, content })
    }

    pub(super) fn name(&self) -> &str {
        self.content.name()
    }

    /// Copies it to guest address `addr`.
    pub(super) fn load(&mut self, mem: &GuestMem, addr: u64) -> Result<(), Error> {
        match &mut self.content {
            Content::File(image) => image.load(mem, "kernel", 0, image.len, addr),
            Content::Unpacked(_, bytes) => mem.write(addr, bytes).map_err(placing("kernel")),
        }
    }
}

/// The header of a 64-bit `Image`.
fn header(head: &[u8]) -> Option<&Header> {
    let (header, _) = Header::ref_from_prefix(head).ok()?;
    (header.magic == MAGIC).then_some(header)
}

/// Files that are certainly something else; any other one may be a flat program.
fn foreign(head: &[u8; HEAD], aarch32: bool) -> Option<Foreign> {
    if head.starts_with(b"\x7fELF") {
        return Some(("an ELF file", "use arch/arm64/boot/Image"));
    }
    if head.get(0x202..0x206) == Some(b"HdrS") {
        return Some(("a bzImage for x86", "name a kernel for arm64"));
    }
    if aarch32 && header(head).is_some() {
        return Some(("a 64-bit kernel", "leave out --aarch32 or name a 32-bit zImage"));
    }
    if !aarch32 && is_zimage(head) {
        return Some(("a 32-bit zImage", "run it with --aarch32"));
    }
    anywhere(head)
}

fn is_zimage(head: &[u8; HEAD]) -> bool {
    head.get(ZIMAGE_MAGIC_AT..).is_some_and(|head| head.starts_with(&ZIMAGE_MAGIC))
}

/// What the file packs, if it is packed or an EFI program that unpacks a kernel; else the file.
fn unpack(image: Image, room: u64) -> Result<Content, Error> {
    let mut head = [0; ZBOOT_HEADER];
    image.read_at(&mut head, 0)?;
    if let Some(packing) = Packing::of_file(&head) {
        let len = image.len;
        return unpack_part(image, 0, len, packing, room);
    }
    let Some((start, len, name)) = zboot(&head) else { return Ok(Content::File(image)) };
    match Packing::named(name) {
        Some(packing) => unpack_part(image, start, len, packing, room),
        None => Err(Error::Unpack {
            name: image.name,
            reason: format!(
                "it is packed with {}, and only gzip and zstd are known; name the unpacked Image",
                String::from_utf8_lossy(name)
            ),
        }),
    }
}

/// Bytes of `zboot-header.S` up to the end of the name of the compression.
const ZBOOT_HEADER: usize = 0x20;

/// First byte, length and compression of the kernel in an EFI program that unpacks it.
fn zboot(head: &[u8; ZBOOT_HEADER]) -> Option<(u64, u64, &[u8])> {
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let magic = head.starts_with(b"MZ") && head.get(4..8) == Some(b"zimg");
    let name = head.get(0x18..)?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Some((word(8)?.into(), word(12)?.into(), name.get(..end)?)).filter(|_| magic)
}

/// What packing may add to a kernel that is as large as RAM and cannot be made smaller.
const PACKING_ADDS: u64 = 1 << 20;

/// Unpacks `len` bytes from `start` of the file, but no more than a guest has room for.
fn unpack_part(
    image: Image,
    start: u64,
    len: u64,
    packing: Packing,
    room: u64,
) -> Result<Content, Error> {
    let failed = |reason: String| Error::Unpack { name: image.name.clone(), reason };
    let too_big = || failed(format!("it does not fit into {} MiB of guest RAM", room >> 20));
    let len = len.min(image.len);
    if len > room.saturating_add(PACKING_ADDS) {
        return Err(too_big());
    }
    let mut packed = vec![0; usize::try_from(len).unwrap_or(0)];
    let count = image.read_at(&mut packed, start)?;
    packed.truncate(count);
    let bytes = packing
        .unpack(&packed, room.saturating_add(1))
        .map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > room {
        return Err(too_big());
    }
    Ok(Content::Unpacked(image.name, bytes))
}
