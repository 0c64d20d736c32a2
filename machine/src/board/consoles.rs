//! The guest's console: the first serial port, or a virtio console beside it.

use std::sync::Arc;

use trapline_device::{CharBackend, CharDevice, OutputOnly};

use super::{Options, VirtioHandles};
use crate::ConsoleKind;

/// What is behind the first serial port. What is typed goes to the console alone, as in kvmtool.
pub(crate) fn serial_backend(options: &Options) -> Arc<dyn CharBackend> {
    let console = Arc::clone(&options.console);
    match options.console_kind {
        ConsoleKind::Serial | ConsoleKind::Mmio => console,
        ConsoleKind::Virtio => Arc::new(OutputOnly(console)),
    }
}

/// All that the console's back end is to call.
pub(crate) fn consoles(serial: Arc<dyn CharDevice>, virtio: &VirtioHandles) -> Arc<dyn CharDevice> {
    match virtio.console.as_ref().filter(|console| console.has_console()) {
        Some(console) => Arc::new(Both { serial, virtio: console.port(0) }),
        None => serial,
    }
}

/// The serial port and the virtio console, which share a terminal.
struct Both {
    serial: Arc<dyn CharDevice>,
    virtio: Arc<dyn CharDevice>,
}

impl CharDevice for Both {
    fn poll(&self) {
        self.serial.poll();
        self.virtio.poll();
    }

    fn receive_break(&self) {
        self.serial.receive_break();
        self.virtio.receive_break();
    }
}
