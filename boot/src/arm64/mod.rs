//! Software for arm64 guests: 64-bit `Image`, 32-bit zImage, flat binaries, firmware.
//!
//! Where things go is what kvmtool does, so that scripts and test programs made for it fit:
//!
//! ```text
//!  RAM                                                          min(RAM, 256 MiB)
//!  |  text offset  | kernel ...        ... | initrd | device tree, 64 KiB |      |
//!                                                    2 MiB aligned
//! ```
//!
//! Spec: Linux `Documentation/arch/arm64/booting.rst` and `Documentation/arch/arm/booting.rst`;
//! for images that unpack themselves under EFI, `drivers/firmware/efi/libstub/zboot-header.S`.

mod firmware;
mod image;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;

use trapline_guestmem::GuestMem;

pub use firmware::load_firmware;

use self::image::Kernel;
use crate::error::Error;
use crate::fdt::FDT_MAX;
use crate::initrd::Initrd;

/// What to load and where there is room for it.
#[derive(Clone, Debug)]
pub struct KernelRequest<'a> {
    /// The kernel.
    pub path: &'a Path,
    /// Its initial RAM disk.
    pub initrd: Option<Initrd<'a>>,
    /// The guest's RAM, one range.
    pub ram: Range<u64>,
    /// The guest is a 32-bit one.
    pub aarch32: bool,
    /// The whole command line, which the device tree will have; here it is only measured.
    pub cmdline: &'a str,
}

/// Software in memory, ready to run once there is a device tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The first instruction.
    pub entry: u64,
    /// What the software takes: the kernel with its uninitialized data, or the firmware.
    pub image: Range<u64>,
    /// Where the initrd is.
    pub initrd: Option<Range<u64>>,
    /// Where the device tree is to be put: [`FDT_MAX`] bytes are free there.
    pub fdt: u64,
}

/// Linux wants its `Image` a text offset above a multiple of this, and its device tree within one
/// (`booting.rst`, sections 2 and 4).
const ALIGN: u64 = 2 << 20;
/// Device tree and initrd are in the RAM every kernel maps early.
const LOW: u64 = 256 << 20;
/// The window that kernel and initrd share, and what it is aligned to (`booting.rst`, section 2).
const WINDOW: u64 = 32 << 30;
const WINDOW_ALIGN: u64 = 1 << 30;
/// Where initrds begin and end at a multiple of, in kvmtool.
const INITRD_ALIGN: u64 = 4;

/// Loads a kernel and its initrd. Loading again after a reset starts from any state of the memory.
///
/// # Errors
/// A file cannot be opened or read, is no kernel for this guest, or does not fit. Each error's text
/// is one sentence for the user.
pub fn load_kernel(mem: &GuestMem, request: &KernelRequest<'_>) -> Result<Loaded, Error> {
    let Range { start, end } = request.ram;
    let room = end.saturating_sub(start);
    let mut kernel = Kernel::open(request.path, request.aarch32, room)?;
    check_cmdline(&kernel, request.cmdline)?;
    let base = start.checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX);
    let load = base.saturating_add(kernel.text_offset);
    let image = load..load.saturating_add(kernel.footprint);
    let Some(fdt) = fdt_place(&image, request) else {
        return Err(Error::KernelDoesNotFit {
            name: kernel.name().to_owned(),
            start: image.start,
            end: image.end.saturating_add(FDT_MAX),
        });
    };
    let find = |name: &str, len| initrd_place((name, len), kernel.name(), &image, fdt, request);
    let initrd = request.initrd.map(|initrd| initrd.put(mem, find)).transpose()?;
    kernel.load(mem, load)?;
    Ok(Loaded { entry: load, image, initrd, fdt })
}

/// Linux cuts what is too long without a word. Flat programs have no limit that we would know.
fn check_cmdline(kernel: &Kernel, line: &str) -> Result<(), Error> {
    match kernel.cmdline_max.filter(|max| line.len() > *max) {
        Some(max) => {
            let name = kernel.name().to_owned();
            Err(Error::CmdlineTooLong { len: line.len(), name, max })
        }
        None => Ok(()),
    }
}

/// Where the device tree goes: kvmtool's place or, where a 64-bit kernel takes more memory than
/// kvmtool reckons with, the first multiple of 2 MiB behind it. None where RAM is too small.
fn fdt_place(image: &Range<u64>, request: &KernelRequest<'_>) -> Option<u64> {
    let low = low_fdt_place(&request.ram).filter(|fdt| image.end <= *fdt);
    low.or_else(|| {
        let behind = image.end.checked_next_multiple_of(ALIGN)?;
        let fits = behind.checked_add(FDT_MAX)? <= request.ram.end;
        (fits && !request.aarch32).then_some(behind)
    })
}

/// The last multiple of 2 MiB in the low part of RAM that leaves room for the tree. None where RAM
/// is too small.
fn low_fdt_place(ram: &Range<u64>) -> Option<u64> {
    let last = ram.end.min(ram.start.saturating_add(LOW)).checked_sub(1)?;
    let lowest = last.checked_sub(FDT_MAX + ALIGN)?;
    let place = lowest.checked_next_multiple_of(ALIGN)?;
    (place >= ram.start).then_some(place)
}

/// Where the initrd `name` of `len` bytes goes: as high as the device tree lets it, as in kvmtool.
/// Where that is too little, above the device tree, if the kernel is a 64-bit one: it takes an
/// initrd anywhere within 32 GiB (`booting.rst`, section 2).
fn initrd_place(
    (name, len): (&str, u64),
    kernel_name: &str,
    kernel: &Range<u64>,
    fdt: u64,
    request: &KernelRequest<'_>,
) -> Result<Range<u64>, Error> {
    if len == 0 {
        return Err(Error::Empty { name: name.to_owned() });
    }
    let place = |start: u64| Some(start..start.checked_add(len)?);
    let lowest = fdt.checked_sub(len.saturating_add(INITRD_ALIGN));
    let low = lowest.and_then(|lowest| lowest.checked_next_multiple_of(INITRD_ALIGN));
    if let Some(low) = low.filter(|start| *start >= kernel.end).and_then(place) {
        return Ok(low);
    }
    let Range { start, end } = request.ram;
    let above = place(fdt.saturating_add(FDT_MAX)).filter(|place| place.end <= end);
    let window = (kernel.start / WINDOW_ALIGN * WINDOW_ALIGN).saturating_add(WINDOW);
    match above {
        Some(above) if !request.aarch32 && above.end <= window => Ok(above),
        Some(_) => {
            let top = if request.aarch32 { fdt } else { window };
            Err(Error::initrd_limit(name, len, kernel_name, top))
        }
        None => Err(Error::initrd_does_not_fit(name, len, end.saturating_sub(start) >> 20)),
    }
}
