//! Random accesses for fuzzing: bytes are taken for accesses to the regions of a registry.
//!
//! The same bytes do the same things, so a finding of a fuzzer, of a property test or of a long
//! run is a file that can be played again.

use trapline::{Handle, Registry, Size, Space};

/// What the bytes ask of the machine besides accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many nanoseconds pass.
    Step(u64),
    /// Time passes until the next deadline.
    NextDeadline,
    /// The machine is reset.
    Reset,
    /// A key, a character or a movement of the mouse arrives, as the byte says.
    Input(u8),
    /// The machine is saved and restored.
    Restore,
}

/// What a read has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Where from.
    pub space: Space,
    /// The first address.
    pub addr: u64,
    /// The bytes, made up with zeros.
    pub data: Vec<u8>,
}

/// One place accesses are thrown at.
#[derive(Clone, Copy, Debug)]
struct Spot {
    space: Space,
    first: u64,
    len: u64,
}

/// The longest string in bytes.
const STRING_MAX: usize = 64;
/// The longest step: a bit more than a second, so that deadlines of every kind are met.
const STEP_MAX_NS: u64 = 1 << 30;

/// The regions of a registry as they are now, and a way to reach them.
pub struct Storm {
    spots: Vec<Spot>,
    handle: Handle,
    heard: Vec<Heard>,
}

impl Storm {
    /// Reads the registry's map.
    ///
    /// # Panics
    /// When there is no handle left, or nothing is registered.
    pub fn new(registry: &Registry) -> Self {
        let stats = registry.stats();
        let spots: Vec<Spot> = stats
            .regions
            .iter()
            .filter_map(|region| {
                let (first, last) = region.range?;
                Some(Spot { space: region.space, first, len: (last - first).saturating_add(1) })
            })
            .collect();
        assert!(!spots.is_empty(), "something is registered");
        let handle = registry.handle(0);
        Self { spots, handle, heard: Vec::new() }
    }

    /// Everything that has been read so far, in order.
    pub fn heard(&self) -> &[Heard] {
        &self.heard
    }

    fn hear(&mut self, space: Space, addr: u64, data: &[u8]) {
        self.heard.push(Heard { space, addr, data: data.to_vec() });
    }

    /// Does what `bytes` say, at most one action for each of them; returns how many it were.
    pub fn run(&mut self, bytes: &[u8], mut event: impl FnMut(Event)) -> usize {
        let (mut bytes, mut actions) = (Bytes(bytes), 0);
        while let Some(action) = bytes.next() {
            actions += 1;
            match action {
                0..=9 => event(Event::Step(bytes.wide() % STEP_MAX_NS)),
                10..=19 => event(Event::NextDeadline),
                20 => event(Event::Reset),
                21..=27 => event(Event::Input(bytes.next().unwrap_or_default())),
                28 => event(Event::Restore),
                _ => self.access(action, &mut bytes),
            }
        }
        actions
    }

    fn access(&mut self, action: u8, bytes: &mut Bytes<'_>) {
        let index = usize::from(bytes.next().unwrap_or_default()) % self.spots.len();
        let Some(&Spot { space, first, len }) = self.spots.get(index) else { return };
        // From 4 bytes before the region to 4 past its end, so that accesses straddle both.
        let place = match len {
            0..256 => u64::from(bytes.next().unwrap_or_default()) % (len + 8),
            _ => bytes.wide() % (len + 8),
        };
        let addr = first.wrapping_add(place).wrapping_sub(4) & space.last();
        let size = match action & 3 {
            0 => Size::Byte,
            1 => Size::Word,
            2 => Size::Dword,
            _ => Size::Qword,
        };
        match (action >> 2 & 7, space) {
            (0..=2, _) => {
                let value = self.handle.read_value(space, addr, size);
                assert!(value <= size.ones(), "bits above the width");
                self.hear(space, addr, &value.to_le_bytes());
            }
            (3..=5, _) => self.handle.write_value(space, addr, size, bytes.wide()),
            // KVM hands out MMIO of odd lengths.
            (6, Space::Mmio) => {
                let mut data = [0; 7];
                let len = usize::from(action & 7).min(6) + 1;
                self.handle.read(space, addr, data.get_mut(..len).unwrap_or_default());
                self.hear(space, addr, &data);
            }
            (_, Space::Mmio) => {
                let data = bytes.wide().to_le_bytes();
                let len = usize::from(action & 7) + 1;
                self.handle.write(space, addr, data.get(..len).unwrap_or_default());
            }
            (direction, Space::Pio) => self.string(direction == 6, addr, size, bytes),
        }
    }

    fn string(&mut self, read: bool, addr: u64, size: Size, bytes: &mut Bytes<'_>) {
        let port = u16::try_from(addr).unwrap_or(u16::MAX);
        let count = usize::from(bytes.next().unwrap_or_default());
        let mut data = [0; STRING_MAX];
        let string = data.get_mut(..count % (STRING_MAX + 1)).unwrap_or_default();
        // Ports above 32 bits wide there are none.
        let size = if size == Size::Qword { Size::Dword } else { size };
        if read {
            self.handle.read_rep(port, size, string);
            self.heard.push(Heard { space: Space::Pio, addr, data: string.to_vec() });
        } else {
            string.iter_mut().for_each(|byte| *byte = bytes.next().unwrap_or_default());
            self.handle.write_rep(port, size, string);
        }
    }
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// As many bytes as a first one says, so that small numbers are cheap.
    fn wide(&mut self) -> u64 {
        let len = self.next().unwrap_or_default() % 9;
        (0..len).fold(0, |value, _| value << 8 | u64::from(self.next().unwrap_or_default()))
    }
}
