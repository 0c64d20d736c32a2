//! Why a command was refused or a signal blocked, and how often.

use core::fmt;

macro_rules! reasons {
    (
        $(#[$doc:meta])* $name:ident, $count:ident:
        $($(#[$vdoc:meta])* $variant:ident = $number:literal, $text:literal;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The number of the reason: 0x01, the opcode, the architecture's error code.
            pub const fn number(self) -> u32 {
                match self { $(Self::$variant => $number,)* }
            }

            /// The reason in words.
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#08x} {}", self.number(), self.reason())
            }
        }

        impl core::error::Error for $name {}

        const $count: usize = $name::ALL.len();
    };
}

reasons! {
    /// Why a command was refused. The numbers are those of the architecture's system error
    /// syndromes (IHI 0069, "ITS command error encodings"), which Linux uses too.
    CommandError, COMMAND_ERRORS:
    /// MAPD: no device table entry.
    MapdDevice = 0x01_0801, "MAPD: DeviceID out of range";
    /// MAPD: more EventID bits than `TYPER.ID_bits`.
    MapdSize = 0x01_0802, "MAPD: too many EventID bits";
    /// MAPC: no such processor.
    MapcTarget = 0x01_0902, "MAPC: RDbase names no processor";
    /// MAPC: no collection table entry.
    MapcCollection = 0x01_0903, "MAPC: ICID out of range";
    /// MAPTI, MAPI: the device is not mapped.
    MaptiDevice = 0x01_0a04, "MAPTI: device not mapped";
    /// MAPTI, MAPI: more than the device has.
    MaptiEvent = 0x01_0a05, "MAPTI: EventID out of range";
    /// MAPTI, MAPI: not an LPI.
    MaptiIntid = 0x01_0a06, "MAPTI: pINTID is no LPI";
    /// MAPTI, MAPI: no collection table entry.
    MaptiCollection = 0x01_0a03, "MAPTI: ICID out of range";
    /// MOVI: nothing to move.
    MoviEvent = 0x01_0107, "MOVI: event not mapped";
    /// MOVI: the old or the new collection has no target.
    MoviCollection = 0x01_0109, "MOVI: collection not mapped";
    /// MOVALL: no such processor.
    MovallTarget = 0x01_0e01, "MOVALL: RDbase names no processor";
    /// DISCARD: nothing there, or its collection has no target.
    Discard = 0x01_0f07, "DISCARD: event or its collection not mapped";
    /// INT: nothing there, or its collection has no target.
    Int = 0x01_0307, "INT: event or its collection not mapped";
    /// CLEAR: nothing there, or its collection has no target.
    Clear = 0x01_0507, "CLEAR: event or its collection not mapped";
    /// INV: nothing there, or its collection has no target.
    Inv = 0x01_0c07, "INV: event or its collection not mapped";
    /// INVALL: the collection has no target.
    Invall = 0x01_0d09, "INVALL: collection not mapped";
    /// A GICv4 command on an ITS without virtual LPIs.
    Virtual = 0x02_0001, "GICv4 command, TYPER.Virtual is 0";
    /// No command has this opcode.
    Unknown = 0x02_0002, "unknown opcode";
    /// The command could not be read.
    QueueMemory = 0x02_0003, "command queue is not in RAM";
    /// A table the command needs could not be read or written.
    TableMemory = 0x02_0004, "table is not in RAM";
}

reasons! {
    /// Why a signal (a write to `GITS_TRANSLATER`) came to nothing.
    Blocked, BLOCKED:
    /// `GITS_CTLR.Enabled` is 0.
    Disabled = 0x03_0000, "the ITS is disabled";
    /// No device table entry, or not mapped.
    Device = 0x03_0001, "device not mapped";
    /// More than the device has.
    Event = 0x03_0002, "EventID out of range";
    /// Nothing there.
    Interrupt = 0x03_0003, "event not mapped";
    /// The collection has no target.
    Collection = 0x03_0004, "collection not mapped";
    /// A table is not in RAM.
    Memory = 0x03_0005, "table is not in RAM";
    /// The write was neither 16 nor 32 bits wide.
    Size = 0x03_0006, "TRANSLATER takes 16 or 32 bits";
}

/// What an ITS has counted since it was made. Counters stop at their maximum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Commands that left the queue.
    pub commands: u64,
    /// Signals that were translated.
    pub signals: u64,
    /// Accesses of a wrong width or alignment, to no register, or by a CPU to `TRANSLATER`.
    pub bad_accesses: u64,
    /// `CWRITER` values outside the queue, ignored.
    pub bad_cwriter: u64,
    /// Writes that set Enabled without all of device table, collection table and queue valid.
    pub bad_enables: u64,
    /// Times the collection table could not be written back or was not as it must be.
    pub bad_collections: u64,
    refused: [u64; COMMAND_ERRORS],
    blocked: [u64; BLOCKED],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            commands: 0,
            signals: 0,
            bad_accesses: 0,
            bad_cwriter: 0,
            bad_enables: 0,
            bad_collections: 0,
            refused: [0; COMMAND_ERRORS],
            blocked: [0; BLOCKED],
        }
    }
}

impl Counters {
    /// How many commands were refused for this reason.
    pub fn refused(&self, error: CommandError) -> u64 {
        self.refused.get(error as usize).copied().unwrap_or(0)
    }

    /// How many signals were blocked for this reason.
    pub fn blocked(&self, reason: Blocked) -> u64 {
        self.blocked.get(reason as usize).copied().unwrap_or(0)
    }

    /// How many commands were refused.
    pub fn all_refused(&self) -> u64 {
        self.refused.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    pub(crate) fn command(&mut self, result: Result<(), CommandError>) {
        bump(&mut self.commands);
        if let Err(error) = result
            && let Some(count) = self.refused.get_mut(error as usize)
        {
            bump(count);
        }
    }

    pub(crate) fn signal<T>(&mut self, result: &Result<T, Blocked>) {
        match result {
            Ok(_) => bump(&mut self.signals),
            Err(reason) => {
                if let Some(count) = self.blocked.get_mut(*reason as usize) {
                    bump(count);
                }
            }
        }
    }
}

/// Adds one.
pub(crate) fn bump(count: &mut u64) {
    *count = count.saturating_add(1);
}
