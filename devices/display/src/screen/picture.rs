//! A picture of the screen at one moment, and its PNG file.

use std::io::Write;

use crate::Mode;

/// Why a picture could not be written.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct PngError(#[from] png::EncodingError);

/// What the screen showed at one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: u16,
    height: u16,
    rgb: Vec<u8>,
}

impl Picture {
    pub(super) fn new(mode: Mode, pixels: &[u8]) -> Self {
        let rgb = pixels.chunks_exact(Mode::PIXEL).flat_map(|pixel| {
            // Blue is the first byte.
            let mut rgb = [0; 3];
            rgb.iter_mut().zip(pixel.iter().take(3).rev()).for_each(|(to, from)| *to = *from);
            rgb
        });
        Self { width: mode.width(), height: mode.height(), rgb: rgb.collect() }
    }

    /// Pixels across.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Pixels down.
    pub fn height(&self) -> u16 {
        self.height
    }

    /// Red, green and blue of every pixel, line by line.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Writes it as PNG, 8 bits a colour.
    ///
    /// # Errors
    /// What `to` says.
    pub fn write_png(&self, to: impl Write) -> Result<(), PngError> {
        let mut encoder = png::Encoder::new(to, self.width.into(), self.height.into());
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb)?;
        Ok(writer.finish()?)
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} by {})", self.width, self.height)
    }
}
