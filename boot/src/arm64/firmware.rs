//! Firmware in RAM, with the device tree behind it.

use std::ops::Range;
use std::path::Path;

use trapline_guestmem::GuestMem;

use super::{ALIGN, Loaded};
use crate::error::Error;
use crate::fdt::FDT_MAX;
use crate::image::Image;

/// Puts the image at `path` to `address`, which by default is where RAM begins, and the device tree
/// to the next multiple of 2 MiB. It is entered at its first byte.
///
/// # Errors
/// The file cannot be read, is empty, or does not fit into RAM there.
pub fn load_firmware(
    mem: &GuestMem,
    path: &Path,
    ram: &Range<u64>,
    address: Option<u64>,
) -> Result<Loaded, Error> {
    let mut image = Image::open(path, |name, source| Error::OpenFirmware { name, source })?;
    if image.len == 0 {
        return Err(Error::Empty { name: image.name });
    }
    let entry = address.unwrap_or(ram.start);
    let end = entry.checked_add(image.len);
    let fdt = end.and_then(|end| end.checked_next_multiple_of(ALIGN));
    let last = fdt.and_then(|fdt| fdt.checked_add(FDT_MAX));
    match (end, fdt, last) {
        (Some(end), Some(fdt), Some(last)) if entry >= ram.start && last <= ram.end => {
            image.load(mem, "firmware", 0, image.len, entry)?;
            Ok(Loaded { entry, image: entry..end, initrd: None, fdt })
        }
        _ => Err(Error::FirmwareAddress {
            address: entry,
            start: ram.start,
            end: ram.end,
            need: image.len.saturating_add(FDT_MAX),
        }),
    }
}
