//! The commands of the queue: 32 bytes decoded, and said in words.
//!
//! Spec: Arm IHI 0069, "ITS commands". A command is four little-endian 64-bit numbers.

use core::fmt;

use crate::error::CommandError;
use crate::{CollectionId, DeviceId, EventId};

/// Bytes of a command.
pub const COMMAND_BYTES: u32 = 32;

/// The RDbase field of a command, bits 51:16 of its number: a processor number that has not been
/// checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RdBase(pub u64);

/// A decoded command. Reserved fields are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// 0x08: gives a device a translation table, or takes it away.
    Mapd {
        /// The device.
        device: DeviceId,
        /// EventID bits, less one.
        size: u8,
        /// Address of the table, 256-byte aligned.
        itt: u64,
        /// Gives (true) or takes.
        valid: bool,
    },
    /// 0x09: gives a collection a target, or takes it away.
    Mapc {
        /// The collection.
        collection: CollectionId,
        /// Its target.
        target: RdBase,
        /// Gives (true) or takes.
        valid: bool,
    },
    /// 0x0a: maps an event to an LPI in a collection.
    Mapti {
        /// The device.
        device: DeviceId,
        /// The event.
        event: EventId,
        /// The LPI.
        intid: u32,
        /// The collection.
        collection: CollectionId,
    },
    /// 0x0b: MAPTI with the EventID as INTID.
    Mapi {
        /// The device.
        device: DeviceId,
        /// The event, and the LPI.
        event: EventId,
        /// The collection.
        collection: CollectionId,
    },
    /// 0x01: puts an event into another collection, its pending state included.
    Movi {
        /// The device.
        device: DeviceId,
        /// The event.
        event: EventId,
        /// The new collection.
        collection: CollectionId,
    },
    /// 0x0e: moves the pending state of all LPIs.
    Movall {
        /// From here.
        from: RdBase,
        /// To here.
        to: RdBase,
    },
    /// 0x0f: unmaps an event and forgets that it is pending.
    Discard {
        /// The device.
        device: DeviceId,
        /// The event.
        event: EventId,
    },
    /// 0x03: makes an event's LPI pending.
    Int {
        /// The device.
        device: DeviceId,
        /// The event.
        event: EventId,
    },
    /// 0x04: makes an event's LPI not pending.
    Clear {
        /// The device.
        device: DeviceId,
        /// The event.
        event: EventId,
    },
    /// 0x0c: the LPI's configuration byte has changed.
    Inv {
        /// The device.
        device: DeviceId,
        /// The event.
        event: EventId,
    },
    /// 0x0d: configuration bytes of a collection's LPIs have changed.
    Invall {
        /// The collection.
        collection: CollectionId,
    },
    /// 0x05: everything before has taken effect on this target.
    Sync {
        /// The target.
        target: RdBase,
    },
    /// A GICv4 command. Recognised, and refused as `TYPER.Virtual` is 0.
    Virtual {
        /// Its name.
        name: &'static str,
        /// Its number.
        opcode: u8,
    },
    /// No command has this number.
    Unknown {
        /// The number.
        opcode: u8,
    },
}

impl Command {
    /// Decodes the four numbers of a command.
    pub fn decode(words: [u64; 4]) -> Self {
        let [dw0, dw1, dw2, dw3] = words;
        let device = DeviceId(high(dw0));
        let event = EventId(low(dw1));
        let collection = CollectionId(halfword(dw2));
        let target = RdBase(rdbase(dw2));
        let valid = dw2 >> 63 != 0;
        let opcode = byte(dw0);
        match opcode {
            0x01 => Self::Movi { device, event, collection },
            0x03 => Self::Int { device, event },
            0x04 => Self::Clear { device, event },
            0x05 => Self::Sync { target },
            0x08 => {
                let size = byte(dw1) & 0x1f;
                Self::Mapd { device, size, itt: dw2 & 0x000f_ffff_ffff_ff00, valid }
            }
            0x09 => Self::Mapc { collection, target, valid },
            0x0a => Self::Mapti { device, event, intid: high(dw1), collection },
            0x0b => Self::Mapi { device, event, collection },
            0x0c => Self::Inv { device, event },
            0x0d => Self::Invall { collection },
            0x0e => Self::Movall { from: target, to: RdBase(rdbase(dw3)) },
            0x0f => Self::Discard { device, event },
            _ => virtual_name(opcode)
                .map_or(Self::Unknown { opcode }, |name| Self::Virtual { name, opcode }),
        }
    }

    /// Decodes the bytes of a queue slot.
    pub fn from_bytes(bytes: &[u8; COMMAND_BYTES as usize]) -> Self {
        Self::decode(words(bytes))
    }

    /// Its name in the specification.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Mapd { .. } => "MAPD",
            Self::Mapc { .. } => "MAPC",
            Self::Mapti { .. } => "MAPTI",
            Self::Mapi { .. } => "MAPI",
            Self::Movi { .. } => "MOVI",
            Self::Movall { .. } => "MOVALL",
            Self::Discard { .. } => "DISCARD",
            Self::Int { .. } => "INT",
            Self::Clear { .. } => "CLEAR",
            Self::Inv { .. } => "INV",
            Self::Invall { .. } => "INVALL",
            Self::Sync { .. } => "SYNC",
            Self::Virtual { name, .. } => name,
            Self::Unknown { .. } => "UNKNOWN",
        }
    }

    /// The command as four numbers, reserved fields 0.
    pub fn encode(&self) -> [u64; 4] {
        let ids = |opcode: u64, device: DeviceId, event: EventId| {
            (opcode | u64::from(device.0) << 32, u64::from(event.0))
        };
        let icid = |collection: CollectionId| u64::from(collection.0);
        let rd = |target: RdBase| (target.0 & 0xf_ffff_ffff) << 16;
        let v = |valid: bool| u64::from(valid) << 63;
        let ((dw0, dw1), dw2, dw3) = match *self {
            Self::Mapd { device, size, itt, valid } => (
                (0x08 | u64::from(device.0) << 32, u64::from(size & 0x1f)),
                itt & 0x000f_ffff_ffff_ff00 | v(valid),
                0,
            ),
            Self::Mapc { collection, target, valid } => {
                ((0x09, 0), icid(collection) | rd(target) | v(valid), 0)
            }
            Self::Mapti { device, event, intid, collection } => {
                let (dw0, dw1) = ids(0x0a, device, event);
                ((dw0, dw1 | u64::from(intid) << 32), icid(collection), 0)
            }
            Self::Mapi { device, event, collection } => {
                (ids(0x0b, device, event), icid(collection), 0)
            }
            Self::Movi { device, event, collection } => {
                (ids(0x01, device, event), icid(collection), 0)
            }
            Self::Movall { from, to } => ((0x0e, 0), rd(from), rd(to)),
            Self::Discard { device, event } => (ids(0x0f, device, event), 0, 0),
            Self::Int { device, event } => (ids(0x03, device, event), 0, 0),
            Self::Clear { device, event } => (ids(0x04, device, event), 0, 0),
            Self::Inv { device, event } => (ids(0x0c, device, event), 0, 0),
            Self::Invall { collection } => ((0x0d, 0), icid(collection), 0),
            Self::Sync { target } => ((0x05, 0), rd(target), 0),
            Self::Virtual { opcode, .. } | Self::Unknown { opcode } => ((opcode.into(), 0), 0, 0),
        };
        [dw0, dw1, dw2, dw3]
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Mapd { device, size, itt, valid } => write!(
                f,
                " DeviceID={device} Size={size:#x} ITT_addr={itt:#x} V={}",
                u8::from(*valid)
            ),
            Self::Mapc { collection, target, valid } => {
                write!(f, " ICID={collection} RDbase={:#x} V={}", target.0, u8::from(*valid))
            }
            Self::Mapti { device, event, intid, collection } => {
                write!(f, " DeviceID={device} EventID={event} pINTID={intid} ICID={collection}")
            }
            Self::Mapi { device, event, collection } | Self::Movi { device, event, collection } => {
                write!(f, " DeviceID={device} EventID={event} ICID={collection}")
            }
            Self::Movall { from, to } => {
                write!(f, " RDbase1={:#x} RDbase2={:#x}", from.0, to.0)
            }
            Self::Discard { device, event }
            | Self::Int { device, event }
            | Self::Clear { device, event }
            | Self::Inv { device, event } => write!(f, " DeviceID={device} EventID={event}"),
            Self::Invall { collection } => write!(f, " ICID={collection}"),
            Self::Sync { target } => write!(f, " RDbase={:#x}", target.0),
            Self::Virtual { opcode, .. } | Self::Unknown { opcode } => {
                write!(f, " opcode={opcode:#x}")
            }
        }
    }
}

/// A command that left the queue, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Its offset in the queue, bytes.
    pub offset: u32,
    /// The command; `None` if the queue's memory could not be read.
    pub command: Option<Command>,
    /// Done, or why not.
    pub result: Result<(), CommandError>,
}

impl fmt::Display for Executed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#07x} ", self.offset)?;
        match &self.command {
            Some(command) => write!(f, "{command}")?,
            None => f.write_str("(unreadable)")?,
        }
        match self.result {
            Ok(()) => Ok(()),
            Err(error) => write!(f, ": refused, {error}"),
        }
    }
}

pub(crate) fn words(bytes: &[u8; COMMAND_BYTES as usize]) -> [u64; 4] {
    let mut words = [0; 4];
    let (chunks, _) = bytes.as_chunks::<8>();
    words.iter_mut().zip(chunks).for_each(|(word, chunk)| *word = u64::from_le_bytes(*chunk));
    words
}

fn virtual_name(opcode: u8) -> Option<&'static str> {
    Some(match opcode {
        0x21 => "VMOVI",
        0x22 => "VMOVP",
        0x23 => "VSGI",
        0x25 => "VSYNC",
        0x29 => "VMAPP",
        0x2a => "VMAPTI",
        0x2b => "VMAPI",
        0x2d => "VINVALL",
        0x2e => "INVDB",
        _ => return None,
    })
}

fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn high(word: u64) -> u32 {
    low(word >> 32)
}

fn halfword(word: u64) -> u16 {
    let [a, b, ..] = word.to_le_bytes();
    u16::from_le_bytes([a, b])
}

fn byte(word: u64) -> u8 {
    let [a, ..] = word.to_le_bytes();
    a
}

fn rdbase(word: u64) -> u64 {
    (word >> 16) & 0xf_ffff_ffff
}
