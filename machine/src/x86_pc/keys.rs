//! The keyboard and the mouse in front of the PC.

use std::sync::Arc;

use trapline_display::Input;
use trapline_platform::i8042::I8042;

use super::Board;

impl Board {
    /// The keyboard and the mouse.
    pub(crate) fn input(&self) -> Arc<dyn Input> {
        Arc::new(Keys(Arc::clone(&self.i8042)))
    }
}

struct Keys(Arc<I8042>);

impl Input for Keys {
    fn key(&self, set2: &[u8]) {
        self.0.key(set2);
    }

    fn movement(&self, dx: i32, dy: i32, buttons: u8) {
        self.0.movement(dx, dy, buttons);
    }
}
