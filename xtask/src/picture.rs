//! Pictures of a guest's display: kept for people to look at, and read without knowing the font.

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::paths;

/// A character of the console's font: pixels across and down.
const CELL: (usize, usize) = (8, 16);

/// A picture, as light and dark.
pub(crate) struct Picture {
    width: usize,
    lit: Vec<bool>,
}

/// Takes the picture out of what `host-display.sh` printed, and keeps it in `build/`.
///
/// # Errors
///
/// When there is none, or it is no PNG.
pub(crate) fn keep(name: &str, text: &str) -> Result<Picture> {
    let (_, rest) = text.split_once("TRAPLINE-HOST: picture\n").context("There is no picture")?;
    let end = "TRAPLINE-HOST: end of picture";
    let (encoded, _) = rest.split_once(end).context("The picture is cut short")?;
    let encoded: String = encoded.split_whitespace().collect();
    let file = BASE64_STANDARD.decode(encoded).context("The picture is damaged")?;
    paths::write_whole(&paths::build()?.join(format!("{name}.png")), &file)?;
    decode(&file)
}

fn decode(file: &[u8]) -> Result<Picture> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().context("The picture is too large")?];
    let info = reader.next_frame(&mut pixels)?;
    ensure!(info.color_type == png::ColorType::Rgb, "The picture has {:?}", info.color_type);
    let lit = pixels.chunks(3).map(|pixel| pixel.iter().any(|level| *level > 64)).collect();
    Ok(Picture { width: usize::try_from(info.width)?, lit })
}

impl Picture {
    /// Fails unless a line of the console begins with `text`: the same characters look the same,
    /// different ones differ, and a space is dark.
    ///
    /// # Errors
    ///
    /// When no line does.
    pub(crate) fn expect(&self, text: &str) -> Result<()> {
        let height = self.lit.len() / self.width.max(1);
        let text: Vec<char> = text.chars().collect();
        if (0..height / CELL.1).any(|row| self.shows(row, &text)) {
            return Ok(());
        }
        let lit = self.lit.iter().filter(|lit| **lit).count();
        bail!("No line of the picture shows the text; {lit} of {} pixels are lit", self.lit.len())
    }

    fn shows(&self, row: usize, text: &[char]) -> bool {
        let cells: Vec<Vec<bool>> = (0..text.len()).map(|column| self.cell(row, column)).collect();
        let like = |(a, cell): (&char, &Vec<bool>)| {
            let dark = !cell.contains(&true);
            let alike = text.iter().zip(&cells).all(|(b, other)| (a == b) == (cell == other));
            alike && dark == (*a == ' ')
        };
        text.iter().zip(&cells).all(like)
    }

    fn cell(&self, row: usize, column: usize) -> Vec<bool> {
        let lines = self.lit.chunks(self.width).skip(row * CELL.1).take(CELL.1);
        lines.flat_map(|line| line.iter().skip(column * CELL.0).take(CELL.0).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of two lines of eight characters in a font of stripes.
    fn picture(second: &str) -> Picture {
        let mut lit = vec![false; 64 * 32];
        for (column, character) in second.chars().enumerate() {
            let code = if character == ' ' { 0 } else { u32::from(character) };
            for bit in 0..8 {
                lit[(16 + bit) * 64 + column * 8] = code >> bit & 1 == 1;
            }
        }
        Picture { width: 64, lit }
    }

    #[test]
    fn a_line_that_looks_like_the_text_is_found() {
        assert!(picture("hello me").expect("hello").is_ok());
        assert!(picture("hello me").expect("hello me").is_ok());
    }

    #[test]
    fn nothing_else_is() {
        for other in ["help", "heollo", "hel o", "hello  ", "aaaaaaaaaa"] {
            assert!(picture("hello me").expect(other).is_err(), "{other}");
        }
        assert!(picture("").expect("hello").is_err());
    }
}
