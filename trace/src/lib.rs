//! Recordings of what a guest did to its devices.
//!
//! A recording is one file of [chunks](chunk), which is only ever appended to: what was written when
//! the recorder was killed can be read. [`Writer`] makes one, [`Reader`] finds the longest valid
//! prefix of one, and [`Merged`] gives its [records](trapline_access::record) in the order in which
//! they were made, whichever vCPU made them.
//!
//! ```
//! use std::io::Cursor;
//! use trapline_access::record::{Access, Op, Outcome, Record};
//! use trapline_access::{Direction, Size, Space};
//! use trapline_trace::{MapChange, Meta, Part, Reader, Slot, Stream, Writer};
//!
//! # fn main() -> Result<(), trapline_trace::Error> {
//! let mut writer = Writer::new(Vec::new(), &Meta { vcpus: 1, ..Meta::default() })?;
//! let slot = Slot { number: 0, place: trapline_trace::Place::Region { id: 7, page: 0 } };
//! writer.map(0, &MapChange { slots: vec![slot], ..MapChange::default() })?;
//! let op = Op::Access(Access {
//!     direction: Direction::Read,
//!     size: Size::Byte,
//!     space: Space::Pio,
//!     outcome: Outcome::Handled,
//! });
//! let record = Record { op, slot: 0, offset: 5, delta: 0, value: 0x60 };
//! let words = &[record.encode()];
//! writer.steps(&[Part { stream: Stream::vcpu(0), first_time_ns: 1_000, words }])?;
//! let file = writer.finish()?;
//!
//! let mut reader = Reader::open(Cursor::new(file))?;
//! assert!(reader.ending().complete());
//! let mut merged = reader.merged()?;
//! let first = merged.next()?.expect("it has a record");
//! assert_eq!((first.time_ns, first.record), (1_000, record));
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod chunk;
pub mod diff;
mod error;
pub mod export;
pub mod import;
mod map;
mod merge;
mod meta;
pub mod outside;
mod reader;
pub mod show;
mod sites;
pub mod stat;
mod steps;
pub mod tune;
mod writer;

pub use error::Error;
pub use map::{
    Bank, Delivered, Field, Map, MapChange, MapRegion, MapWindow, Place, Register, Registers, Slot,
};
pub use merge::{Event, Merged};
pub use meta::{Level, Meta, Source};
pub use reader::{Ending, Reader};
pub use show::Filter;
pub use sites::{Site, Sites};
pub use steps::Part;
pub use trapline_regs::Class;
pub use writer::Writer;

use std::fmt;

/// A stream of records: who made the accesses in it. Its records are in the order they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream(u16);

impl Stream {
    /// Writes that were queued up by whichever vCPU, when they arrived.
    pub const SHARED: Self = Self(0xffff);
    /// Accesses that devices make to each other's registers.
    pub const DMA: Self = Self(0xfffe);
    /// Whoever is outside of the machine: a debugger, a client of qtest.
    pub const EXTERNAL: Self = Self(0xfffd);
    /// How many vCPUs have a stream.
    pub const VCPUS_MAX: u16 = 0xff00;

    /// The stream of a vCPU; indices from [`Stream::VCPUS_MAX`] up share the last.
    pub const fn vcpu(index: u16) -> Self {
        if index < Self::VCPUS_MAX { Self(index) } else { Self(Self::VCPUS_MAX - 1) }
    }

    /// The vCPU's index, if it is a vCPU's.
    pub const fn as_vcpu(self) -> Option<u16> {
        if self.0 < Self::VCPUS_MAX { Some(self.0) } else { None }
    }

    /// Its number in the file.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The stream of a number in the file.
    pub const fn of(number: u16) -> Self {
        Self(number)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SHARED => f.pad("queued"),
            Self::DMA => f.pad("dma"),
            Self::EXTERNAL => f.pad("external"),
            Self(number) => f.pad(&format!("cpu{number}")),
        }
    }
}
