//! Scripts that make the accesses again: QEMU's qtest protocol, and ViDeZZo's plan.
//!
//! The clock is set before each access to its time. Values that were read, and names, are comments,
//! which begin with `#`: qtest has none, so a client takes them out (`grep -v '^#'`).

use std::io::{self, Write};

use trapline_access::{Direction, Space};

use super::{Access, Exporter};
use crate::{Event, Meta, Sites, Stream};

#[derive(Clone, Copy)]
pub(super) enum Words {
    Qtest,
    Plan,
}

pub(super) struct Script {
    words: Words,
    /// The time the clock has been set to.
    time_ns: u64,
}

impl Script {
    pub(super) const fn new(words: Words) -> Self {
        Self { words, time_ns: 0 }
    }

    fn clock(&mut self, to: &mut dyn Write, time_ns: u64) -> io::Result<()> {
        let step = time_ns.saturating_sub(self.time_ns);
        if step == 0 {
            return Ok(());
        }
        self.time_ns = time_ns;
        match self.words {
            Words::Qtest => writeln!(to, "clock_set {time_ns}"),
            Words::Plan => writeln!(to, "EVENT_TYPE_CLOCK_STEP, {step:#x}"),
        }
    }
}

impl Exporter for Script {
    fn begin(&mut self, to: &mut dyn Write, meta: &Meta, _streams: &[Stream]) -> io::Result<()> {
        let board = crate::sites::clean(&meta.board);
        writeln!(to, "# {} accesses of the board {board:?}", crate::sites::clean(&meta.recorder))
    }

    fn access(&mut self, to: &mut dyn Write, access: &Access<'_>) -> io::Result<()> {
        self.clock(to, access.event.time_ns)?;
        let site = access.site;
        for (address, bytes, value) in access.pieces() {
            let name = site.name();
            match site.direction {
                Direction::Read => writeln!(to, "# {name} -> {value:#x}")?,
                Direction::Write => writeln!(to, "# {name}")?,
            }
            match self.words {
                Words::Qtest => qtest(to, site.space, site.direction, (address, bytes, value))?,
                Words::Plan => plan(to, site.space, site.direction, (address, bytes, value))?,
            }
        }
        Ok(())
    }

    fn other(&mut self, to: &mut dyn Write, event: &Event, sites: &Sites) -> io::Result<()> {
        match crate::show::words(event, sites) {
            Some(said) => writeln!(to, "# {said}"),
            None => Ok(()),
        }
    }
}

type Piece = (u64, usize, u64);

fn qtest(to: &mut dyn Write, space: Space, way: Direction, piece: Piece) -> io::Result<()> {
    let (address, bytes, value) = piece;
    let width = match bytes {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        _ => 'q',
    };
    match (space, way) {
        (Space::Pio, Direction::Read) => writeln!(to, "in{width} {address:#x}"),
        (Space::Pio, Direction::Write) => writeln!(to, "out{width} {address:#x} {value:#x}"),
        (Space::Mmio, Direction::Read) => writeln!(to, "read{width} {address:#x}"),
        (Space::Mmio, Direction::Write) => writeln!(to, "write{width} {address:#x} {value:#x}"),
    }
}

fn plan(to: &mut dyn Write, space: Space, way: Direction, piece: Piece) -> io::Result<()> {
    let (address, bytes, value) = piece;
    let space = match space {
        Space::Pio => "PIO",
        Space::Mmio => "MMIO",
    };
    match way {
        Direction::Read => writeln!(to, "EVENT_TYPE_{space}_READ, {address:#x}, {bytes:#x}"),
        Direction::Write => {
            writeln!(to, "EVENT_TYPE_{space}_WRITE, {address:#x}, {bytes:#x}, {value:#x}")
        }
    }
}
