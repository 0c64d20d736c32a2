//! The report of a vCPU that cannot go on: why, its registers, its last accesses.

use std::fmt;

use trapline::{AccessSummary, Reached, Registry};
use trapline_device::{Direction, Space};

/// Why a vCPU could not go on. `Display` is the whole report, several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrashReport {
    /// The vCPU's index.
    pub vcpu: u32,
    /// The reason, a sentence.
    pub cause: String,
    /// Its registers as KVM shows them, ready to print.
    pub registers: String,
    /// The bytes at its instruction pointer in hex, if they could be read.
    pub code: Option<String>,
    /// Its last accesses to devices, oldest first: `serial0/uart THR (pio 0x3f8) write 1 byte 0x41`.
    pub accesses: Vec<String>,
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "vCPU {} stopped: {}", self.vcpu, self.cause)?;
        write!(f, "{}", self.registers)?;
        if let Some(code) = &self.code {
            writeln!(f, "  code {code}")?;
        }
        if self.accesses.is_empty() {
            return writeln!(f, "It had not accessed any device.");
        }
        writeln!(f, "Its last accesses, oldest first:")?;
        self.accesses.iter().try_for_each(|access| writeln!(f, "  {access}"))
    }
}

/// How many accesses are remembered.
const REMEMBERED: usize = 16;

/// The last accesses of one vCPU, overwritten in a circle.
#[derive(Debug, Default)]
pub(crate) struct AccessLog {
    records: [Option<Access>; REMEMBERED],
    next: usize,
}

/// One exit's access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) space: Space,
    pub(crate) direction: Direction,
    pub(crate) addr: u64,
    /// Bytes per element.
    pub(crate) len: usize,
    /// How many elements.
    pub(crate) count: u32,
    /// The first element.
    pub(crate) value: u64,
    /// What answered it.
    pub(crate) reached: Option<Reached>,
}

impl AccessLog {
    /// Remembers an access.
    pub(crate) fn push(&mut self, access: Access) {
        if let Some(record) = self.records.get_mut(self.next) {
            *record = Some(access);
        }
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The accesses in words, oldest first.
    pub(crate) fn describe(&self, registry: &Registry) -> Vec<String> {
        let (newer, older) = self.records.split_at(self.next.min(REMEMBERED));
        older.iter().chain(newer).flatten().map(|access| access.describe(registry)).collect()
    }
}

impl Access {
    /// The little-endian number at the start of `data`, `len` bytes wide.
    pub(crate) fn value_of(data: &[u8], len: usize) -> u64 {
        let mut value = [0; 8];
        value.iter_mut().zip(data.iter().take(len)).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(value)
    }

    fn describe(&self, registry: &Registry) -> String {
        let Self { space, direction, addr, len, count, value, reached } = *self;
        let who = match reached {
            Some(reached) => registry.describe(&reached, direction),
            None => Some("unclaimed".to_owned()),
        };
        let who = who.as_deref().unwrap_or("gone");
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        format!(
            "{who} {}",
            AccessSummary { space, addr, direction, width: len, count, first: value }
        )
    }
}

/// Bytes in hex, separated by blanks.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sixteen_accesses_are_told_oldest_first() {
        let registry = Registry::builder().build();
        let mut log = AccessLog::default();
        assert!(log.describe(&registry).is_empty());
        for addr in 0..20 {
            let (space, direction) = (Space::Pio, Direction::Write);
            log.push(Access {
                space,
                direction,
                addr,
                len: 1,
                count: 1,
                value: 0x41,
                reached: None,
            });
        }
        let told = log.describe(&registry);
        assert_eq!(told.len(), 16);
        assert_eq!(told[0], "unclaimed (pio 0x4) write 1 byte 0x41");
        assert_eq!(told[15], "unclaimed (pio 0x13) write 1 byte 0x41");
    }

    #[test]
    fn a_string_access_is_one_line() {
        let registry = Registry::builder().build();
        let mut log = AccessLog::default();
        let (space, direction) = (Space::Pio, Direction::Read);
        log.push(Access {
            space,
            direction,
            addr: 0x1f0,
            len: 2,
            count: 256,
            value: 0x1234,
            reached: None,
        });
        let told = log.describe(&registry);
        assert_eq!(told, ["unclaimed (pio 0x1f0) read 256 times 2 bytes, first 0x1234"]);
    }
}
