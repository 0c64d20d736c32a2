//! The PC's keyboard and mouse, as a viewer of the display drives them.

use std::sync::Arc;

use trapline_display::Input;
use trapline_platform::i8042::I8042;

/// The keyboard and the mouse behind the keyboard controller.
pub(super) struct Keys(pub(super) Arc<I8042>);

impl Input for Keys {
    fn key(&self, set2: &[u8]) {
        self.0.key(set2);
    }

    fn movement(&self, dx: i32, dy: i32, buttons: u8) {
        self.0.movement(dx, dy, buttons);
    }
}
