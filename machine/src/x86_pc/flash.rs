//! The flash below 4 GiB, as QEMU's PC has it: firmware's code, and below it its variables.

use std::path::Path;
use std::sync::Arc;

use trapline::Registry;
use trapline_platform::flash::{Flash, FlashArray, Part, regs};

use super::layout;
use crate::Error;
#[cfg(target_arch = "x86_64")]
use crate::FirmwareFlash;
use crate::board::Builder;
use crate::flash::{self, Access, FlashFile, FlashImage};

/// The chips that OVMF has a driver for.
const FLASH: &Part = &regs::X8;

/// Which images are in the flash, from 4 GiB downwards.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FlashImages<'a> {
    /// Firmware that the guest cannot change.
    pub(crate) code: Option<&'a Path>,
    /// What it changes: the variables, or firmware and its variables in one image.
    pub(crate) variables: Option<&'a Path>,
}

impl<'a> FlashImages<'a> {
    /// What of the firmware at `path` is in flash.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn of(path: &'a Path, flash: &'a FirmwareFlash) -> Self {
        match flash {
            FirmwareFlash::None => Self::default(),
            FirmwareFlash::Whole => Self { code: None, variables: Some(path) },
            FirmwareFlash::Variables(variables) => {
                Self { code: Some(path), variables: Some(variables) }
            }
        }
    }

    /// Opens them.
    ///
    /// # Errors
    /// One of them cannot be used, both are one file, or there is no room for them.
    pub(super) fn open(self) -> Result<Vec<Arc<FlashImage>>, Error> {
        if let (Some(code), Some(variables)) = (self.code, self.variables)
            && flash::is_same(code, variables)
        {
            let reason = "that is the firmware itself; an image that is both, code and variables, \
                          is given as the flash alone";
            return Err(Error::Flash { path: variables.to_owned(), reason: reason.to_owned() });
        }
        let open = |path: Option<&Path>, access| {
            path.map(|path| FlashFile::open(path, FLASH, access)).transpose()
        };
        let code = open(self.code, Access::ReadOnly)?;
        let variables = open(self.variables, Access::ReadWrite)?;
        let files: Vec<FlashFile> = code.into_iter().chain(variables).collect();
        let len = files.iter().map(FlashArray::len_bytes).sum::<u64>();
        let max = layout::HOLE_END - layout::FIRMWARE_ROM;
        if len > max {
            return Err(Error::FlashTooBig { len, max });
        }
        Ok(files.into_iter().map(FlashImage::new).collect())
    }
}

/// Puts the chips into the guest's sight: the first one ends at 4 GiB, each other one where the one
/// before it begins.
pub(super) fn add(builder: &mut Builder, images: &[Arc<FlashImage>]) {
    let lens = images.iter().map(|image| image.len_bytes());
    for (number, (image, base)) in images.iter().zip(bases(lens)).enumerate() {
        let chip = Arc::new(Flash::new(FLASH, image.clone()));
        let name = name(number);
        builder.device(&name, chip.clone()).region(image.region(base, &name, chip));
    }
}

/// Says that the chips have been mapped.
pub(super) fn mapped(registry: &Registry, images: &[Arc<FlashImage>]) {
    for (number, image) in images.iter().enumerate() {
        image.mapped(registry, &name(number));
    }
}

fn name(number: usize) -> String {
    format!("flash{number}")
}

/// Where chips of these lengths in bytes begin.
pub(super) fn bases(lens: impl Iterator<Item = u64>) -> impl Iterator<Item = u64> {
    lens.scan(layout::HOLE_END, |base, len| {
        *base = base.saturating_sub(len);
        Some(*base)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_are_one_below_the_other_and_there_is_room_for_16_mib_but_64_kib() {
        let bases: Vec<u64> = bases([0x37_c000, 0x8_4000].into_iter()).collect();
        assert_eq!(bases, [0xffc8_4000, 0xffc0_0000], "where OVMF expects them");
        let folder = tempfile::tempdir().unwrap();
        let image = |name: &str, len| {
            let path = folder.path().join(name);
            std::fs::File::create(&path).unwrap().set_len(len).unwrap();
            path
        };
        let open = |code: &Path, variables: &Path| {
            FlashImages { code: Some(code), variables: Some(variables) }.open()
        };
        let code = image("code", 0xfe_0000);
        assert_eq!(open(&code, &image("vars", 0x1_0000)).unwrap().len(), 2);
        assert_eq!(
            open(&code, &image("more", 0x1_1000)).err().unwrap().to_string(),
            "16715776 bytes of flash are too many, at most 16711680 fit below 4 GiB; use smaller \
             images"
        );
        let text = open(&code, &code).err().unwrap().to_string();
        let reason = "code: that is the firmware itself; an image that is both, code and \
                      variables, is given as the flash alone";
        assert!(text.ends_with(reason), "{text}");
        assert!(FlashImages::default().open().unwrap().is_empty());
    }
}
