//! Characters in and out: a UART and the terminal, file or socket behind it.

use std::sync::Arc;

/// What a character device sends to and takes from. Never blocks the caller.
pub trait CharBackend: Send + Sync {
    /// Takes characters from the device, oldest first; returns how many were taken. Takes fewer
    /// than offered when its own buffer is full, and then calls [`CharDevice::poll`] once it has
    /// room again.
    fn transmit(&self, data: &[u8]) -> usize;

    /// How many characters it takes for sure, however late they come: only [`CharBackend::transmit`]
    /// makes it less. Where this is never much, a guest is not told ahead that there is room, and asks
    /// before each character.
    fn room(&self) -> usize {
        0
    }

    /// Hands characters to the device, which asks when it has room for them; returns how many
    /// were stored in `buf`. When characters arrive later, the backend calls
    /// [`CharDevice::poll`].
    fn receive(&self, buf: &mut [u8]) -> usize;

    /// Whether somebody is at the other end: a socket has a client. When that changes, the backend
    /// calls [`CharDevice::poll`].
    fn is_connected(&self) -> bool {
        true
    }
}

/// A device with a [`CharBackend`] behind it, as that backend sees it.
pub trait CharDevice: Send + Sync {
    /// The backend has characters to hand over, or room for more, that it did not have before.
    /// Never called from inside a [`CharBackend`] method.
    fn poll(&self);

    /// Whoever is behind the backend sends a break: the line is at the level of a start bit for
    /// longer than a character. It overtakes characters the device had no room for. Called as
    /// [`CharDevice::poll`] is.
    fn receive_break(&self);
}

/// A backend of which only the output is used: nothing comes from it.
pub struct OutputOnly(
    /// Where what the device sends goes.
    pub Arc<dyn CharBackend>,
);

impl CharBackend for OutputOnly {
    fn transmit(&self, data: &[u8]) -> usize {
        self.0.transmit(data)
    }

    fn receive(&self, _buf: &mut [u8]) -> usize {
        0
    }

    fn is_connected(&self) -> bool {
        self.0.is_connected()
    }
}

/// A backend that swallows what it is sent and never has anything to say.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullBackend;

impl CharBackend for NullBackend {
    fn transmit(&self, data: &[u8]) -> usize {
        data.len()
    }

    fn room(&self) -> usize {
        usize::MAX
    }

    fn receive(&self, _buf: &mut [u8]) -> usize {
        0
    }
}
