//! A console's features, configuration space and control messages.
//!
//! Spec: virtio 1.3, section 5.3.

/// The size of the terminal is in the configuration.
pub const F_SIZE: u64 = 1 << 0;
/// There are several ports, and control messages about them.
pub const F_MULTIPORT: u64 = 1 << 1;
/// A character can be written without a queue ([`EMERGENCY`]).
pub const F_EMERG_WRITE: u64 = 1 << 2;

/// Length of the configuration space: columns, rows, number of ports, and [`EMERGENCY`].
pub const CONFIG_LEN: u32 = 12;
/// Offset of the register that writes a character to the first port.
pub const EMERGENCY: u32 = 8;

/// Length of a control message: port, event, value. A name or a size may follow.
pub const MESSAGE_LEN: usize = 8;

/// Driver: it is ready for messages, or has failed.
pub const DEVICE_READY: u16 = 0;
/// Device: there is this port.
pub const PORT_ADD: u16 = 1;
/// Device: the port has gone.
pub const PORT_REMOVE: u16 = 2;
/// Driver: it is ready to use the port, or has failed.
pub const PORT_READY: u16 = 3;
/// Device: the port is a console.
pub const CONSOLE_PORT: u16 = 4;
/// Device: the console's terminal has this size, columns before rows.
pub const RESIZE: u16 = 5;
/// Both: somebody has opened the port, or closed it.
pub const PORT_OPEN: u16 = 6;
/// Device: the port has this name.
pub const PORT_NAME: u16 = 7;
