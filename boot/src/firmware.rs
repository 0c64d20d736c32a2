//! Flat firmware images, started at the reset vector.

use std::ops::Range;
use std::path::Path;

use trapline_guestmem::GuestMem;

use crate::entry::Entry;
use crate::error::{Error, placing};
use crate::image::Image;

/// Where firmware goes on this board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareLayout {
    /// End (exclusive) of the BIOS area in low memory. The reset vector is 16 bytes below it.
    pub low_end: u64,
    /// Bytes of the BIOS area.
    pub low_len: u64,
    /// End (exclusive) of the ROM window below 4 GiB.
    pub high_end: u64,
    /// Bytes of the ROM window: the largest image.
    pub high_len: u64,
}

/// What of an image is below 1 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowFirmware {
    /// Where the first vCPU starts.
    pub entry: Entry,
    /// What of low memory it occupies.
    pub low: Range<u64>,
}

/// A loaded image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Where the first vCPU starts.
    pub entry: Entry,
    /// What of low memory it occupies.
    pub low: Range<u64>,
    /// The whole image, which the caller maps as ROM: firmware finds itself there too.
    pub rom: Rom,
}

/// Bytes to be mapped where the guest cannot write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rom {
    /// First guest physical address, a multiple of 4 KiB.
    pub addr: u64,
    /// The contents, a multiple of 4 KiB: the image, with zeros before it.
    pub bytes: Vec<u8>,
}

/// Puts the last bytes of the image at `path` into the BIOS area, so that it ends where the area
/// ends and its last paragraph is the reset vector, f000:fff0. All of it is below 4 GiB as well,
/// as on a PC: SeaBIOS goes there to make the BIOS area writable.
///
/// Deviation: kvmtool puts the image at the start of the area, which is the same for an image
/// that fills it, and misses the reset vector with any other.
///
/// # Errors
/// The file cannot be read, is empty, is larger than the ROM window, or has no reset vector.
pub fn load_firmware(
    mem: &GuestMem,
    path: &Path,
    layout: &FirmwareLayout,
) -> Result<Firmware, Error> {
    let image = Image::open(path, |name, source| Error::OpenFirmware { name, source })?;
    if image.len > layout.high_len {
        let Image { name, len, .. } = image;
        return Err(Error::FirmwareTooBig { name, len, max: layout.high_len });
    }
    let mut bytes = vec![0; usize::try_from(image.len).unwrap_or(0)];
    let count = image.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    if bytes.is_empty() {
        return Err(Error::Empty { name: image.name });
    }
    let LowFirmware { entry, low } = place_firmware(mem, &image.name, &bytes, layout)?;
    Ok(Firmware { entry, low, rom: rom(&bytes, layout.high_end) })
}

/// Puts the last of an image's bytes into the BIOS area, as [`load_firmware`] does; `name` is what
/// errors call it.
///
/// # Errors
/// There is nothing at the reset vector, or no RAM.
pub fn place_firmware(
    mem: &GuestMem,
    name: &str,
    bytes: &[u8],
    layout: &FirmwareLayout,
) -> Result<LowFirmware, Error> {
    let vector = bytes.get(bytes.len().saturating_sub(RESET_VECTOR)..).unwrap_or(bytes);
    // As erased flash has it, or a file that was never written to.
    if [0, 0xff].iter().any(|empty| vector.iter().all(|byte| byte == empty)) {
        return Err(Error::NoResetVector { name: name.to_owned() });
    }
    let low_len = usize::try_from(layout.low_len).unwrap_or(usize::MAX);
    let tail = bytes.get(bytes.len().saturating_sub(low_len)..).unwrap_or(bytes);
    let low = layout.low_end.saturating_sub(tail.len() as u64)..layout.low_end;
    mem.write(low.start, tail).map_err(placing("firmware"))?;
    Ok(LowFirmware { entry: RESET, low })
}

/// Bytes from the reset vector to the end of the image.
const RESET_VECTOR: usize = 16;

/// The chip below `end`: whole pages, of which the image is the last bytes.
fn rom(image: &[u8], end: u64) -> Rom {
    let mut bytes = vec![0; image.len().next_multiple_of(0x1000) - image.len()];
    bytes.extend(image);
    Rom { addr: end.saturating_sub(bytes.len() as u64), bytes }
}

/// The reset vector as a real-mode address.
/// Deviation: a processor starts with a code segment base of 0xffff0000, that is, in the ROM below
/// 4 GiB; kvmtool starts in the copy below 1 MiB, and so do we: both hold the same bytes.
const RESET: Entry = Entry::Real { cs: 0xf000, ip: 0xfff0 };

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: FirmwareLayout = FirmwareLayout {
        low_end: 0x10_0000,
        low_len: 0x2_0000,
        high_end: 0x1_0000_0000,
        high_len: 0x4_0000,
    };

    fn pattern(at: usize) -> u8 {
        u8::try_from(at % 251).unwrap()
    }

    fn load(len: usize) -> (GuestMem, Result<Firmware, Error>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bios.bin");
        let bytes: Vec<u8> = (0..len).map(pattern).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mem = GuestMem::new(&[(0, 0x20_0000)]).unwrap();
        let loaded = load_firmware(&mem, &path, &LAYOUT);
        (mem, loaded)
    }

    fn byte(mem: &GuestMem, addr: u64) -> u8 {
        let mut byte = [0];
        mem.read(addr, &mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn a_full_image_starts_at_0xe0000_and_ends_at_1_mib() {
        let (mem, loaded) = load(0x2_0000);
        let loaded = loaded.unwrap();
        assert_eq!(loaded.entry, Entry::Real { cs: 0xf000, ip: 0xfff0 });
        assert_eq!(loaded.low, 0xe_0000..0x10_0000);
        assert_eq!((loaded.rom.addr, loaded.rom.bytes.len()), (0xfffe_0000, 0x2_0000));
        assert_eq!(byte(&mem, 0xe_0001), 1);
        assert_eq!(byte(&mem, 0xf_ffff), pattern(0x1_ffff));
        assert_eq!(byte(&mem, 0x10_0000), 0);
    }

    #[test]
    fn a_small_image_still_ends_at_the_reset_vector() {
        let (mem, loaded) = load(0x100);
        let loaded = loaded.unwrap();
        assert_eq!(loaded.low, 0xf_ff00..0x10_0000);
        assert_eq!(byte(&mem, 0xf_fff0), 0xf0);
        assert_eq!((loaded.rom.addr, loaded.rom.bytes.len()), (0xffff_f000, 0x1000));
        assert_eq!((loaded.rom.bytes[0xeff], loaded.rom.bytes[0xff0]), (0, 0xf0));
    }

    #[test]
    fn a_larger_image_leaves_its_tail_low_and_all_of_it_in_rom() {
        let (mem, loaded) = load(0x4_0000);
        let loaded = loaded.unwrap();
        let rom = loaded.rom;
        assert_eq!(loaded.low, 0xe_0000..0x10_0000);
        assert_eq!((rom.addr, rom.bytes.len()), (0xfffc_0000, 0x4_0000));
        assert_eq!(byte(&mem, 0xe_0000), rom.bytes[0x2_0000]);
    }

    #[test]
    fn images_of_impossible_size_are_refused_in_a_sentence() {
        let (_, none) = load(0);
        assert!(none.unwrap_err().to_string().ends_with("bios.bin is empty; name another file"));
        let (_, big) = load(0x4_0001);
        let text = big.unwrap_err().to_string();
        assert!(text.ends_with("is 262145 bytes, at most 262144 fit; use a smaller image"));
        for empty in [0u8, 0xff] {
            let mem = GuestMem::new(&[(0, 0x20_0000)]).unwrap();
            let mut bytes = vec![1; 0x1000];
            bytes[0xff0..].fill(empty);
            let refused = place_firmware(&mem, "vars.fd", &bytes, &LAYOUT).unwrap_err();
            assert_eq!(
                refused.to_string(),
                "vars.fd is no firmware: nothing is at its end, where a processor starts; name \
                 another file"
            );
            bytes[0xfff] = 1;
            let placed = place_firmware(&mem, "code.fd", &bytes, &LAYOUT).unwrap();
            assert_eq!(placed.low, 0xf_f000..0x10_0000);
        }
        let missing = Path::new("/nonexistent/bios.bin");
        let mem = GuestMem::new(&[(0, 0x20_0000)]).unwrap();
        let refused = load_firmware(&mem, missing, &LAYOUT).unwrap_err();
        assert_eq!(refused.to_string(), "Unable to open firmware /nonexistent/bios.bin");
    }
}
