//! What driver and device tell each other about ports, and what is still to be told.
//!
//! Messages to the driver are not queued but derived from what it has not been told yet, so a driver
//! that gives no buffers for them costs nothing, and one that comes late hears of the latest only.

use trapline_device::{StateError, saved_form};

use super::regs::{
    CONSOLE_PORT, DEVICE_READY, MESSAGE_LEN, PORT_ADD, PORT_NAME, PORT_OPEN, PORT_READY,
    PORT_REMOVE, RESIZE,
};
use super::{PortSetup, Size};

/// What a snapshot keeps of the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) ports: Vec<PortState>,
}

/// What driver and device know of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PortState {
    /// The driver is to be told that the one it knows by this number has gone.
    pub(super) to_remove: bool,
    /// The driver is to be told that it is there.
    pub(super) to_add: bool,
    /// It knows the port: it was told so, or has used it as one that was there before a reset.
    pub(super) added: bool,
    /// It has said that it can use the port.
    pub(super) usable: bool,
    /// It is to be told that it is a console.
    to_call_console: bool,
    /// It is to be told the name.
    to_name: bool,
    /// It is to be told the size of the terminal.
    to_resize: bool,
    /// It was told that somebody is at our end.
    told_open: bool,
    /// Somebody has opened it in the guest.
    pub(super) guest_open: bool,
    /// How many bytes of the next request to send are with the back end already.
    pub(super) sent: u64,
}

/// A message to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Remove,
    Add,
    CallConsole,
    Name,
    Open(bool),
    Resize(Size),
}

impl PortState {
    /// The next thing to tell the driver of this port.
    fn next_message(&self, port: Option<&PortSetup>, size: Option<Size>) -> Option<Message> {
        if self.to_remove {
            return Some(Message::Remove);
        }
        let port = port?;
        let open = port.backend.is_connected();
        let usable = self.usable;
        match size {
            _ if self.to_add => Some(Message::Add),
            _ if usable && self.to_call_console => Some(Message::CallConsole),
            _ if usable && self.to_name => Some(Message::Name),
            _ if usable && self.told_open != open => Some(Message::Open(open)),
            Some(size) if usable && self.to_resize => Some(Message::Resize(size)),
            _ => None,
        }
    }

    /// The driver has this message.
    fn told(&mut self, message: Message) {
        match message {
            Message::Remove => self.to_remove = false,
            Message::Add => (self.to_add, self.added) = (false, true),
            Message::CallConsole => self.to_call_console = false,
            Message::Name => self.to_name = false,
            Message::Open(open) => self.told_open = open,
            Message::Resize(_) => self.to_resize = false,
        }
    }

    /// The driver says whether it can use the port. It is told everything about it then, from the
    /// beginning.
    fn ready(&mut self, port: &PortSetup, can: bool) {
        self.added = true;
        self.usable = can;
        self.guest_open = false;
        self.told_open = false;
        self.to_call_console = can && port.is_console;
        self.to_resize = self.to_call_console;
        self.to_name = can && port.name.is_some();
    }
}

impl State {
    /// No driver knows of any of these many ports.
    pub(super) fn new(ports: usize) -> Self {
        Self { ports: vec![PortState::default(); ports] }
    }

    /// Takes a message of the driver's. Those about ports that are not there, and those that only a
    /// device sends, change nothing.
    ///
    /// A port can be used without having been told of. A driver whose device was reset under it, as
    /// Linux's is when the machine was suspended, still has its ports: it does not ask for them by
    /// `DEVICE_READY`, but says of each that it is ready, and waits for what the port is like.
    pub(super) fn take(&mut self, message: [u8; MESSAGE_LEN], setups: &[Option<PortSetup>]) {
        let [a, b, c, d, e, f, g, h] = message;
        let (id, event) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
        let value = u16::from_le_bytes([g, h]) != 0;
        if event == DEVICE_READY {
            for (port, setup) in self.ports.iter_mut().zip(setups) {
                *port = PortState {
                    to_remove: port.to_remove,
                    to_add: value && setup.is_some(),
                    sent: port.sent,
                    ..Default::default()
                };
            }
            return;
        }
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        let Some(port) = self.ports.get_mut(index) else { return };
        // What it says until it has heard that a port has gone is about that one.
        if port.to_remove {
            return;
        }
        let Some(Some(setup)) = setups.get(index) else {
            // One that went while its driver was not there to be told.
            let to_remove = event == PORT_READY && value;
            *port = PortState { to_remove, sent: port.sent, ..Default::default() };
            return;
        };
        match event {
            PORT_READY => port.ready(setup, value),
            PORT_OPEN if port.usable => port.guest_open = value,
            _ => {}
        }
    }

    /// There is a port now. `told` says whether the driver is there to be told.
    pub(super) fn comes(&mut self, index: usize, told: bool) {
        if let Some(port) = self.ports.get_mut(index) {
            port.to_add = told;
        }
    }

    /// A port is no longer there.
    pub(super) fn goes(&mut self, index: usize) {
        if let Some(port) = self.ports.get_mut(index) {
            let to_remove = port.to_remove || port.added;
            *port = PortState { to_remove, ..Default::default() };
        }
    }

    /// The terminal has another size.
    pub(super) fn resized(&mut self, setups: &[Option<PortSetup>]) {
        for (port, setup) in self.ports.iter_mut().zip(setups) {
            let console = setup.as_ref().is_some_and(|setup| setup.is_console);
            port.to_resize |= console && port.usable;
        }
    }

    /// The next message to the driver, and of which port.
    pub(super) fn next_message(
        &self,
        setups: &[Option<PortSetup>],
        size: Option<Size>,
    ) -> Option<(usize, Message)> {
        let ports = self.ports.iter().zip(setups).enumerate();
        let mut messages = ports.filter_map(|(index, (port, setup))| {
            Some((index, port.next_message(setup.as_ref(), size)?))
        });
        messages.next()
    }

    /// The driver has this message.
    pub(super) fn told(&mut self, index: usize, message: Message) {
        if let Some(port) = self.ports.get_mut(index) {
            port.told(message);
        }
    }

    pub(super) fn check(&self) -> Result<(), StateError> {
        let known = |port: &PortState| port.added || !port.usable;
        let open = |port: &PortState| port.usable || !port.guest_open;
        let gone = |port: &PortState| !port.to_remove || !port.added;
        let possible = self.ports.iter().all(|port| known(port) && open(port) && gone(port));
        StateError::check::<SavedV2>(possible, "a driver uses ports that it knows")?;
        let sent = self.ports.iter().all(|port| u32::try_from(port.sent).is_ok());
        StateError::check::<SavedV2>(sent, "a request has no more bytes than 32 bits can say")
    }
}

impl Message {
    /// Its bytes, for the port with this number.
    pub(super) fn bytes(self, index: usize, setup: Option<&PortSetup>) -> Vec<u8> {
        let (event, value) = match self {
            Self::Remove => (PORT_REMOVE, 1),
            Self::Add => (PORT_ADD, 1),
            Self::CallConsole => (CONSOLE_PORT, 1),
            Self::Name => (PORT_NAME, 1),
            Self::Open(open) => (PORT_OPEN, u16::from(open)),
            Self::Resize(_) => (RESIZE, 0),
        };
        let id = u32::try_from(index).unwrap_or(u32::MAX);
        let mut bytes =
            [&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
        match self {
            Self::Name => {
                // QEMU ends it with a NUL, and so drivers know it.
                let name = setup.and_then(|setup| setup.name.as_deref()).unwrap_or_default();
                bytes.extend(name.bytes().chain([0]));
            }
            Self::Resize(Size { columns, rows }) => {
                bytes.extend([columns, rows].map(u16::to_le_bytes).as_flattened());
            }
            Self::Remove | Self::Add | Self::CallConsole | Self::Open(_) => {}
        }
        bytes
    }
}

saved_form! {
    /// [`State`], version 2: ports can go.
    pub(super) struct SavedV2 of State, "virtio-console" version 2 {
        ports: Vec<PortV2> => list,
    }
}

saved_form! {
    /// [`PortState`], in version 2.
    pub(super) struct PortV2 of PortState {
        to_remove: bool,
        to_add: bool,
        added: bool,
        usable: bool,
        to_call_console: bool,
        to_name: bool,
        to_resize: bool,
        told_open: bool,
        guest_open: bool,
        sent: u64,
    }
}
