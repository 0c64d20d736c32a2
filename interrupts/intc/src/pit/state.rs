//! What a snapshot of the timer keeps.

use serde::{Deserialize, Serialize};
use trapline_device::{StateError, saved_form};

use super::regs::{BOTH, CHANNELS, Control, LATCH, LSB};

/// What a counter is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Waits for a count after a control word.
    #[default]
    NoCount,
    /// Has a count that is not in the counting element yet.
    Armed,
    /// Counts towards the end, which will change OUT.
    Counting,
    /// Has ended (modes 0, 1, 4 and 5); counts on and on without any effect on OUT.
    Ended,
}

/// One counter. The data sheet leaves power-on open: it is as after a control word for mode 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The control word, without SC.
    pub control: Control,
    /// The level of the gate.
    pub gate: bool,
    /// The level of the output.
    pub out: bool,
    /// What it is doing.
    pub phase: Phase,
    /// The count register (CR), as of the last completely written count.
    pub register: u16,
    /// The counting element (CE).
    pub element: u16,
    /// The counting element is loaded at the next clock.
    pub load: bool,
    /// The count being counted in mode 3 is odd.
    pub odd: bool,
    /// The count register was written and is not in the counting element yet.
    pub null_count: bool,
    /// The least significant byte of a two-byte count, waiting for the other one.
    pub written_low: Option<u8>,
    /// The next read of a two-byte count is of the most significant byte.
    pub read_high: bool,
    /// A latched count.
    pub latched_count: Option<u16>,
    /// A latched status.
    pub latched_status: Option<u8>,
}

impl Default for Channel {
    fn default() -> Self {
        Self {
            control: Control::new().with_rw(BOTH),
            gate: true,
            out: false,
            phase: Phase::NoCount,
            register: 0,
            element: 0,
            load: false,
            odd: false,
            null_count: true,
            written_low: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }
}

/// The chip. On a PC the gates of counters 0 and 1 are tied high, and that of counter 2 is low
/// until port 0x61 says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The counters.
    pub channels: [Channel; CHANNELS],
}

impl Default for State {
    fn default() -> Self {
        let high = Channel::default();
        Self { channels: [high, high, Channel { gate: false, ..high }] }
    }
}

saved_form! {
    /// [`State`], version 1, as of the moment of the snapshot.
    pub(super) struct SavedV1 of State, "i8254" version 1 {
        channels: [ChannelV1; CHANNELS] => each,
    }
}

saved_form! {
    struct ChannelV1 of Channel {
        control: u8,
        gate: bool,
        out: bool,
        phase: Phase,
        register: u16,
        element: u16,
        load: bool,
        odd: bool,
        null_count: bool,
        written_low: Option<u8>,
        read_high: bool,
        latched_count: Option<u16>,
        latched_status: Option<u8>,
    }
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        self.channels.iter().try_for_each(Channel::check)?;
        let [zero, one, _] = &self.channels;
        StateError::check::<SavedV1>(zero.gate && one.gate, "gates 0 and 1 are tied high")
    }
}

impl Channel {
    /// Refuses what no sequence of accesses leads to and the arithmetic relies on.
    fn check(&self) -> Result<(), StateError> {
        let check = StateError::check::<SavedV1>;
        let (rw, mode) = (self.control.rw(), self.mode());
        let started = matches!(self.phase, Phase::Counting | Phase::Ended);
        check(self.control.sc() == 0, "the counter's number is not kept")?;
        check(rw != LATCH, "a latch command is not kept")?;
        check(rw == BOTH || self.written_low.is_none(), "a half count needs two-byte access")?;
        check(rw == BOTH || !self.read_high, "a half read needs two-byte access")?;
        check(rw != LSB || self.register < 0x100, "the byte that is not written is zero")?;
        check(!self.load || self.phase != Phase::NoCount, "only a count can be loaded")?;
        check(
            self.phase != Phase::NoCount || self.out == (mode != 0),
            "OUT has its initial level until there is a count",
        )?;
        check(self.null_count || self.phase != Phase::NoCount, "no count is a null count")?;
        check(self.phase != Phase::Ended || !matches!(mode, 2 | 3), "a periodic mode has no end")?;
        check(mode == 3 || !self.odd, "only mode 3 knows odd counts")?;
        check(mode != 3 || self.element & 1 == 0 || !started, "mode 3 counts in twos")?;
        check(
            self.gate || self.out || !matches!(mode, 2 | 3),
            "a low gate holds OUT high in modes 2 and 3",
        )
    }
}
