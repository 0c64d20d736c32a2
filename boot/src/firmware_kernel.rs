//! A kernel that firmware starts: what QEMU's `-kernel` puts into fw_cfg.
//!
//! Spec: QEMU `hw/i386/x86.c`, `x86_load_linux`; Linux `Documentation/arch/x86/boot.rst`, "The
//! Real-Mode Kernel Header". OVMF reads the files and takes them as an EFI program; an option ROM
//! of SeaBIOS' (`linuxboot`) also wants the addresses, and enters the kernel in real mode.

use std::path::Path;

use crate::error::Error;
use crate::image::Image;

/// What to hand over.
#[derive(Clone, Copy, Debug)]
pub struct FirmwareKernelRequest<'a> {
    /// The kernel, a bzImage; or an EFI program, if the firmware takes one.
    pub path: &'a Path,
    /// Its initial RAM disk.
    pub initrd: Option<&'a Path>,
    /// Its command line.
    pub cmdline: &'a str,
    /// End (exclusive) of RAM below 4 GiB.
    pub low_ram: u64,
}

/// A file in parts, each with the address it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirmwareKernel {
    /// The real-mode part of a bzImage; empty for anything else.
    pub setup: (u32, Vec<u8>),
    /// The rest of it, or all of anything else.
    pub kernel: (u32, Vec<u8>),
    /// The initial RAM disk; empty if there is none.
    pub initrd: (u32, Vec<u8>),
    /// The command line with its NUL.
    pub cmdline: (u32, Vec<u8>),
}

/// QEMU's addresses.
const SETUP_ADDR: u32 = 0x1_0000;
const CMDLINE_ADDR: u32 = 0x2_0000;
const KERNEL_ADDR: u32 = 0x10_0000;
/// What firmware has for itself at the end of RAM below 4 GiB, at most.
const FIRMWARE_RAM: u64 = 0x2_8000;
/// The initial RAM disk's limit for kernels that do not tell theirs.
const INITRD_MAX: u64 = 0x37ff_ffff;

const SECTOR: usize = 512;

// Fields of the header, at their offsets in the file.
const SETUP_SECTS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const HEAP_END_PTR: usize = 0x224;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;

/// The first protocols with a heap, and with `initrd_addr_max`.
const PROTOCOL_HEAP: u32 = 0x0201;
const PROTOCOL_INITRD_MAX: u32 = 0x0203;
/// "A boot loader without an assigned number".
const OTHER_LOADER: u8 = 0xff;
/// `loadflags`: `heap_end_ptr` is valid.
const CAN_USE_HEAP: u8 = 0x80;

/// Reads the files into parts.
///
/// # Errors
/// A file cannot be read or is empty, the initial RAM disk has no room, or a NUL is in the command
/// line.
pub fn for_firmware(request: &FirmwareKernelRequest<'_>) -> Result<FirmwareKernel, Error> {
    let kernel = Image::open(request.path, |name, source| Error::OpenKernel { name, source })?;
    let mut kernel = read(kernel, request.low_ram, |name, len| Error::KernelDoesNotFit {
        name,
        start: KERNEL_ADDR.into(),
        end: len.saturating_add(KERNEL_ADDR.into()),
    })?;
    let setup_len = setup_len(&kernel);
    let initrd = match request.initrd {
        Some(path) => {
            let initrd = Image::open(path, |name, source| Error::OpenInitrd { name, source })?;
            let mib = request.low_ram >> 20;
            read(initrd, request.low_ram, |name, len| Error::initrd_does_not_fit(&name, len, mib))?
        }
        None => Vec::new(),
    };
    if request.cmdline.contains('\0') {
        return Err(Error::CmdlineNul);
    }
    let initrd_addr = initrd_addr(request, &kernel, initrd.len())?;
    let mut setup = kernel.drain(..setup_len.min(kernel.len())).collect::<Vec<_>>();
    if !setup.is_empty() {
        fill_in(&mut setup, initrd_addr, &initrd);
    }
    let cmdline = [request.cmdline.as_bytes(), &[0]].concat();
    Ok(FirmwareKernel {
        setup: (SETUP_ADDR, setup),
        kernel: (KERNEL_ADDR, kernel),
        initrd: (initrd_addr, initrd),
        cmdline: (CMDLINE_ADDR, cmdline),
    })
}

/// Reads a file that the guest has room for, with `most` bytes at most; else `too_big`, given its
/// name and length, says so.
fn read(
    image: Image,
    most: u64,
    too_big: impl FnOnce(String, u64) -> Error,
) -> Result<Vec<u8>, Error> {
    if image.len > most {
        return Err(too_big(image.name, image.len));
    }
    let mut bytes = vec![0; usize::try_from(image.len).unwrap_or(usize::MAX)];
    let count = image.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    if bytes.is_empty() {
        return Err(Error::Empty { name: image.name });
    }
    Ok(bytes)
}

/// Bytes of a bzImage's real-mode part; 0 for anything else.
fn setup_len(kernel: &[u8]) -> usize {
    if kernel.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
        return 0;
    }
    // boot.rst, "setup_sects": 0 means 4.
    match kernel.get(SETUP_SECTS) {
        None | Some(0) => 5 * SECTOR,
        Some(sectors) => (usize::from(*sectors) + 1) * SECTOR,
    }
}

/// As high as the kernel and the firmware allow, on a page; 0 where there is none.
fn initrd_addr(
    request: &FirmwareKernelRequest<'_>,
    kernel: &[u8],
    len: usize,
) -> Result<u32, Error> {
    let Some(path) = request.initrd else { return Ok(0) };
    let limit = match number(kernel, VERSION, 2) {
        version if setup_len(kernel) > 0 && version >= PROTOCOL_INITRD_MAX => {
            number(kernel, INITRD_ADDR_MAX, 4).into()
        }
        _ => INITRD_MAX,
    };
    let end = (limit + 1).min(request.low_ram.saturating_sub(FIRMWARE_RAM));
    let start = end.checked_sub(len as u64).map(|start| start & !0xfff);
    let start = start.filter(|start| *start > u64::from(KERNEL_ADDR));
    start.and_then(|start| u32::try_from(start).ok()).ok_or_else(|| {
        let mib = request.low_ram >> 20;
        Error::initrd_does_not_fit(&path.display().to_string(), len as u64, mib)
    })
}

/// What a boot loader fills in.
fn fill_in(setup: &mut [u8], initrd_addr: u32, initrd: &[u8]) {
    let version = number(setup, VERSION, 2);
    let flags = number(setup, LOADFLAGS, 1).to_le_bytes()[0];
    let size = u32::try_from(initrd.len()).unwrap_or(u32::MAX);
    put(setup, TYPE_OF_LOADER, &[OTHER_LOADER]);
    if version >= PROTOCOL_HEAP {
        put(setup, LOADFLAGS, &[flags | CAN_USE_HEAP]);
        put(setup, HEAP_END_PTR, &(CMDLINE_ADDR - SETUP_ADDR - 0x200).to_le_bytes()[..2]);
    }
    put(setup, CMD_LINE_PTR, &CMDLINE_ADDR.to_le_bytes());
    put(setup, RAMDISK_IMAGE, &initrd_addr.to_le_bytes());
    put(setup, RAMDISK_SIZE, &size.to_le_bytes());
}

fn number(bytes: &[u8], at: usize, len: usize) -> u32 {
    let field = bytes.get(at..at + len).unwrap_or_default();
    field.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes.iter_mut().skip(at).zip(field).for_each(|(to, from)| *to = *from);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bzimage() -> Vec<u8> {
        let mut file = vec![0x90; 3 * SECTOR + 100];
        file[SETUP_SECTS] = 2;
        file[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        put(&mut file, VERSION, &[0x0f, 0x02]);
        put(&mut file, LOADFLAGS, &[1]);
        put(&mut file, INITRD_ADDR_MAX, &0x7fff_ffff_u32.to_le_bytes());
        file
    }

    #[test]
    fn a_bzimage_is_cut_behind_its_setup_which_is_filled_in() {
        let dir = tempfile::tempdir().unwrap();
        let (path, initrd) = (dir.path().join("kernel"), dir.path().join("initrd"));
        std::fs::write(&path, bzimage()).unwrap();
        std::fs::write(&initrd, [7; 0x1234]).unwrap();
        let request = FirmwareKernelRequest {
            path: &path,
            initrd: Some(&initrd),
            cmdline: "quiet",
            low_ram: 64 << 20,
        };
        let parts = for_firmware(&request).unwrap();
        assert_eq!(parts.kernel, (0x10_0000, vec![0x90; 100]));
        assert_eq!(parts.cmdline, (0x2_0000, b"quiet\0".to_vec()));
        // On a page below what firmware keeps at the end of RAM.
        assert_eq!(parts.initrd, (0x3fd_6000, vec![7; 0x1234]));
        let (addr, setup) = parts.setup;
        assert_eq!((addr, setup.len()), (0x1_0000, 3 * SECTOR));
        let field = |at, len| number(&setup, at, len);
        assert_eq!((field(TYPE_OF_LOADER, 1), field(LOADFLAGS, 1)), (0xff, 0x81));
        assert_eq!((field(HEAP_END_PTR, 2), field(CMD_LINE_PTR, 4)), (0xfe00, 0x2_0000));
        assert_eq!((field(RAMDISK_IMAGE, 4), field(RAMDISK_SIZE, 4)), (0x3fd_6000, 0x1234));
        let small = FirmwareKernelRequest { low_ram: 1 << 20, ..request };
        let text = for_firmware(&small).unwrap_err().to_string();
        assert!(text.contains("does not fit into 1 MiB of guest RAM"), "{text}");
        // More than anybody has memory for, and nothing of it is read.
        std::fs::File::options().write(true).open(&initrd).unwrap().set_len(1 << 42).unwrap();
        let text = for_firmware(&request).unwrap_err().to_string();
        assert!(text.contains("(4194304 MiB) does not fit into 64 MiB of guest RAM"), "{text}");
        std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 42).unwrap();
        let text = for_firmware(&request).unwrap_err().to_string();
        assert!(text.contains("needs guest RAM from 0x100000 to 0x40000100000"), "{text}");
    }

    #[test]
    fn anything_else_is_handed_over_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shell.efi");
        std::fs::write(&path, b"MZ program").unwrap();
        let request =
            FirmwareKernelRequest { path: &path, initrd: None, cmdline: "", low_ram: 64 << 20 };
        let parts = for_firmware(&request).unwrap();
        assert_eq!((parts.setup.1.len(), parts.initrd), (0, (0, Vec::new())));
        assert_eq!(parts.kernel.1, b"MZ program");
        assert_eq!(parts.cmdline.1, [0]);
    }
}
