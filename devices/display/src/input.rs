//! The trait of the devices that a viewer's keyboard and mouse drive.

/// A keyboard and a mouse, as the i8042 has them. Must not block.
pub trait Input: Send + Sync {
    /// A key goes down or up: `set2` is what a keyboard in scan code set 2 sends for it, prefixes
    /// and all. The keyboard repeats a key that is held.
    fn key(&self, set2: &[u8]);

    /// The mouse moves by `dx` counts to the right and `dy` up, and its buttons are `buttons`: bit
    /// 0 left, 1 right, 2 middle.
    fn movement(&self, dx: i32, dy: i32, buttons: u8);
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoInput;

impl Input for NoInput {
    fn key(&self, _set2: &[u8]) {}

    fn movement(&self, _dx: i32, _dy: i32, _buttons: u8) {}
}
