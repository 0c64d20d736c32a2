//! A video mode: width and height in pixels, and the layout of a pixel.

/// A linear frame buffer of 32 bits a pixel: blue in the lowest byte, then green, red, and a byte
/// that is not shown. Lines follow each other without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    width: u16,
    height: u16,
}

impl Mode {
    /// kvmtool's: 640 by 480.
    pub const VESA: Self = Self { width: 640, height: 480 };

    /// Bits of a pixel.
    pub const DEPTH: u16 = 32;

    /// Bytes of a pixel.
    pub const PIXEL: usize = 4;

    /// A mode of 1 to 4096 pixels each way.
    pub const fn new(width: u16, height: u16) -> Option<Self> {
        let fits = 1 <= width && width <= 4096 && 1 <= height && height <= 4096;
        if fits { Some(Self { width, height }) } else { None }
    }

    /// Pixels of a line.
    pub const fn width(self) -> u16 {
        self.width
    }

    /// Lines.
    pub const fn height(self) -> u16 {
        self.height
    }

    /// Bytes of a line.
    pub const fn stride(self) -> usize {
        self.width as usize * Self::PIXEL
    }

    /// Bytes of the whole picture.
    pub const fn len_bytes(self) -> usize {
        self.stride() * self.height as usize
    }

    /// Bytes of the frame buffer behind its BAR, a power of two: 2 MiB, as kvmtool has it, or more.
    pub const fn memory_len(self) -> u32 {
        let needed = self.height as u32 * self.width as u32 * 4;
        let least = 2 << 20;
        if needed > least { needed.next_power_of_two() } else { least }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_buffer_holds_the_picture() {
        assert_eq!(Mode::VESA.memory_len(), 2 << 20);
        assert_eq!(Mode::VESA.stride(), 2560);
        let largest = Mode::new(4096, 4096).unwrap();
        assert!(largest.memory_len() as usize >= largest.len_bytes());
        assert!(Mode::new(0, 480).is_none());
        assert!(Mode::new(640, 4097).is_none());
    }
}
