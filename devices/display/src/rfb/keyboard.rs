//! The keys that one VNC viewer holds down, and where its pointer is.

use std::sync::Arc;

use super::keys::Key;
use crate::Input;

/// Nobody holds more keys than this; further ones are not pressed.
const HELD_MAX: usize = 32;

/// A viewer's keyboard and pointer. Dropping it lets go of everything.
pub(super) struct Hands {
    input: Arc<dyn Input>,
    held: Vec<Key>,
    pointer: Option<(u16, u16)>,
    buttons: u8,
}

impl Hands {
    pub(super) fn new(input: Arc<dyn Input>) -> Self {
        Self { input, held: Vec::new(), pointer: None, buttons: 0 }
    }

    /// A key goes down or up. Down again is the viewer's repetition; the guest's keyboard has its
    /// own.
    pub(super) fn key(&mut self, down: bool, symbol: u32) {
        let Some(key) = Key::of(symbol) else { return };
        let held = self.held.iter().position(|held| *held == key);
        match (down, held) {
            (true, None) if self.held.len() < HELD_MAX => {
                self.held.push(key);
                self.input.key(&key.make());
            }
            (false, Some(at)) => {
                self.held.swap_remove(at);
                self.input.key(&key.release());
            }
            _ => {}
        }
    }

    /// The pointer is somewhere, with these buttons: bit 0 left, 1 middle, 2 right.
    ///
    /// Deviation: the guest's mouse tells how far it moves, a viewer where it is. The guest's
    /// pointer therefore follows the viewer's only as long as neither accelerates nor meets an edge.
    pub(super) fn pointer(&mut self, buttons: u8, x: u16, y: u16) {
        let (old_x, old_y) = self.pointer.replace((x, y)).unwrap_or((x, y));
        let way = |from: u16, to: u16| i32::from(to) - i32::from(from);
        let ps2 = buttons & 1 | (buttons & 2) << 1 | (buttons & 4) >> 1;
        self.buttons = ps2;
        // Lines count down, the mouse up.
        self.input.movement(way(old_x, x), way(y, old_y), ps2);
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        for key in self.held.drain(..) {
            self.input.key(&key.release());
        }
        if self.buttons != 0 {
            self.input.movement(0, 0, 0);
        }
    }
}
