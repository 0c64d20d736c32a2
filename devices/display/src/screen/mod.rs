//! What the display shows: a copy of the frame buffer, kept up to date from the pages the guest has
//! written, and for every tile of it the time of its last change.
//!
//! The copy is what makes several viewers cheap: the log of written pages can be taken once only,
//! and says much more than what has changed.

mod picture;
mod rect;
#[cfg(test)]
mod tests;

use parking_lot::Mutex;
use trapline_device::DirtyLog;
use trapline_guestmem::GuestMem;

use crate::Mode;
pub use picture::{Picture, PngError};
pub use rect::Rect;
#[cfg(test)]
pub(crate) use tests::Written;

/// Pixels of a tile each way. Tiles at the right and lower edges may be smaller.
pub(crate) const TILE: u16 = 16;

/// The screen. Shared by the device and everybody who looks at it.
pub struct Screen {
    mode: Mode,
    /// The frame buffer, from address 0.
    frame: GuestMem,
    written: Box<dyn DirtyLog>,
    shown: Mutex<Shown>,
}

struct Shown {
    pixels: Vec<u8>,
    /// When each tile last changed, line by line; 0 is before the first update.
    tiles: Vec<u64>,
    now: u64,
    /// Something else than black was seen since the frame buffer was made black.
    drawn: bool,
}

/// What a viewer has seen of each tile.
#[derive(Clone, Debug)]
pub(crate) struct Seen(Vec<u64>);

impl Screen {
    /// The screen whose pixels are in `frame`, memory of at least [`Mode::memory_len`] bytes from
    /// address 0; `written` is the log of what the guest and this process write in it.
    pub fn new(mode: Mode, frame: GuestMem, written: Box<dyn DirtyLog>) -> Self {
        let tiles = tiles_across(mode) * usize::from(mode.height().div_ceil(TILE));
        let shown = Shown {
            pixels: vec![0; mode.len_bytes()],
            tiles: vec![0; tiles],
            now: 0,
            drawn: false,
        };
        Self { mode, frame, written, shown: Mutex::new(shown) }
    }

    /// Size and layout.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The picture as it is now.
    pub fn picture(&self) -> Picture {
        self.update();
        Picture::new(self.mode, &self.shown.lock().pixels)
    }

    /// Whether anything could be seen on the screen since the machine was reset last: something else
    /// than black is there now, or was when somebody looked.
    pub fn was_drawn_on(&self) -> bool {
        self.update();
        self.shown.lock().drawn
    }

    /// Makes the frame buffer black.
    pub(crate) fn clear(&self) {
        let line = vec![0; self.mode.stride()];
        for start in (0..).step_by(line.len()).take(self.mode.height().into()) {
            // The frame buffer holds the picture; a line that it does not hold shows nothing.
            let _ = self.frame.write(start, &line);
        }
        // What was there is forgotten only now: the same again is something new.
        self.update();
        self.shown.lock().drawn = false;
    }

    /// Nothing seen yet.
    pub(crate) fn unseen(&self) -> Seen {
        Seen(vec![0; self.shown.lock().tiles.len()])
    }

    /// Looks at what the guest has written since the last look.
    pub(crate) fn update(&self) {
        let mut shown = self.shown.lock();
        let first = shown.now == 0;
        // Taken under the lock: whoever takes the log must also be the one to read the pages.
        let dirty = self.written.take();
        shown.now += 1;
        let mut line = vec![0; self.mode.stride()];
        for row in 0..self.mode.height() {
            let start = usize::from(row) * line.len();
            let written = first || dirty.is_dirty(start as u64..(start + line.len()) as u64);
            if written && self.frame.read(start as u64, &mut line).is_ok() {
                shown.compare(self.mode, row, &line);
            }
        }
    }

    /// The areas that `seen` lacks, in whole tiles, as far as they touch `area`; or all of `area`.
    /// They count as seen from now on. Never overlap, none is empty.
    pub(crate) fn news(&self, seen: &mut Seen, area: Rect, all: bool) -> Vec<Rect> {
        let Some(area) = area.clip(self.mode) else { return Vec::new() };
        let shown = self.shown.lock();
        let across = tiles_across(self.mode);
        let mut news: Vec<Rect> = Vec::new();
        for (index, (then, now)) in seen.0.iter_mut().zip(&shown.tiles).enumerate() {
            let tile = tile_rect(self.mode, index, across);
            if !tile.touches(area) || (!all && *then >= *now) {
                continue;
            }
            *then = *now;
            if !all && !news.last_mut().is_some_and(|last| last.grow_right(tile)) {
                news.push(tile);
            }
        }
        if all { vec![area] } else { rect::stack(news) }
    }

    /// Calls `each` with every line of `area` as shown: [`Mode::PIXEL`] bytes a pixel. Everything
    /// `each` sees is of one moment.
    pub(crate) fn lines(&self, area: Rect, mut each: impl FnMut(&[u8])) {
        let Some(area) = area.clip(self.mode) else { return };
        let shown = self.shown.lock();
        let rows = shown.pixels.chunks_exact(self.mode.stride());
        let columns = area.x as usize * Mode::PIXEL..area.right() as usize * Mode::PIXEL;
        for row in rows.skip(area.y.into()).take(area.height.into()) {
            each(row.get(columns.clone()).unwrap_or_default());
        }
    }
}

impl Shown {
    /// Takes over a line, and stamps the tiles it changes.
    fn compare(&mut self, mode: Mode, row: u16, line: &[u8]) {
        let start = usize::from(row) * mode.stride();
        let Some(old) = self.pixels.get_mut(start..start + line.len()) else { return };
        let tiles = self.tiles.iter_mut().skip(usize::from(row / TILE) * tiles_across(mode));
        let width = usize::from(TILE) * Mode::PIXEL;
        for ((old, new), stamp) in old.chunks_mut(width).zip(line.chunks(width)).zip(tiles) {
            if old != new {
                old.copy_from_slice(new);
                *stamp = self.now;
                self.drawn |= new.chunks(Mode::PIXEL).any(is_visible);
            }
        }
    }
}

/// Whether a pixel is not black: blue, green and red come before a byte that is not shown.
fn is_visible(pixel: &[u8]) -> bool {
    pixel.iter().take(3).any(|part| *part != 0)
}

fn tiles_across(mode: Mode) -> usize {
    usize::from(mode.width().div_ceil(TILE))
}

fn tile_rect(mode: Mode, index: usize, across: usize) -> Rect {
    // Both are less than the numbers of tiles each way, which are u16 / 16.
    let tile = |count: usize| u16::try_from(count).unwrap_or(0) * TILE;
    let (x, y) = (tile(index % across), tile(index / across));
    let (width, height) = (TILE.min(mode.width() - x), TILE.min(mode.height() - y));
    Rect { x, y, width, height }
}
