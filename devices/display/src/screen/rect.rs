//! Rectangles of pixels.

use crate::Mode;

/// A rectangle, from its upper left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// Pixels to its left.
    pub x: u16,
    /// Pixels above it.
    pub y: u16,
    /// Pixels across.
    pub width: u16,
    /// Pixels down.
    pub height: u16,
}

impl Rect {
    /// All of a picture.
    pub const fn whole(mode: Mode) -> Self {
        Self { x: 0, y: 0, width: mode.width(), height: mode.height() }
    }

    /// First column right of it.
    pub const fn right(self) -> u32 {
        self.x as u32 + self.width as u32
    }

    /// First line below it.
    pub const fn bottom(self) -> u32 {
        self.y as u32 + self.height as u32
    }

    /// How many pixels it has.
    pub const fn pixels(self) -> usize {
        self.width as usize * self.height as usize
    }

    /// The part of it that is on the screen, if any.
    pub fn clip(self, mode: Mode) -> Option<Self> {
        let width = self.width.min(mode.width().checked_sub(self.x)?);
        let height = self.height.min(mode.height().checked_sub(self.y)?);
        (width > 0 && height > 0).then_some(Self { width, height, ..self })
    }

    /// Whether they have a pixel in common.
    pub const fn touches(self, other: Self) -> bool {
        (self.x as u32) < other.right()
            && (other.x as u32) < self.right()
            && (self.y as u32) < other.bottom()
            && (other.y as u32) < self.bottom()
    }

    /// The smallest one around both.
    #[must_use]
    pub fn around(self, other: Self) -> Self {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let span = |start: u16, a: u32, b: u32| {
            u16::try_from(a.max(b) - u32::from(start)).unwrap_or(u16::MAX)
        };
        let width = span(x, self.right(), other.right());
        Self { x, y, width, height: span(y, self.bottom(), other.bottom()) }
    }

    /// Takes in a neighbour on the right of the same height; says whether it was one.
    pub(super) fn grow_right(&mut self, next: Self) -> bool {
        let neighbour =
            self.right() == u32::from(next.x) && (self.y, self.height) == (next.y, next.height);
        if neighbour {
            self.width += next.width;
        }
        neighbour
    }

    fn grow_down(&mut self, next: Self) -> bool {
        let neighbour =
            self.bottom() == u32::from(next.y) && (self.x, self.width) == (next.x, next.width);
        if neighbour {
            self.height += next.height;
        }
        neighbour
    }
}

/// Puts pieces that lie on top of each other together. They come line by line.
pub(super) fn stack(pieces: Vec<Rect>) -> Vec<Rect> {
    let mut stacked: Vec<Rect> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        if !stacked.iter_mut().any(|above| above.grow_down(piece)) {
            stacked.push(piece);
        }
    }
    stacked
}
