//! The standard two- or three-button mouse (AUX).

use super::regs::mouse as m;
use super::regs::{MouseStatus, Report, ps2};
use super::state::{Counter, Mouse};

impl Mouse {
    /// The next byte for the controller. In stream mode a new report is made when the one before
    /// is gone and something has changed, so that at most one waits.
    pub(super) fn next_byte(&mut self) -> Option<u8> {
        let moved = self.x != Counter::default()
            || self.y != Counter::default()
            || self.buttons != self.reported_buttons;
        let streams = self.enabled && !self.remote && !self.wrap && self.pending.is_none();
        if self.out.is_empty() && streams && moved {
            let report = self.report(self.scaling_2);
            self.send(&[], &report);
        }
        self.out.pop_front()
    }

    /// The mouse moves by `dx` to the right, `dy` up.
    pub(super) fn movement(&mut self, dx: i32, dy: i32, buttons: u8) {
        self.x.add(dx);
        self.y.add(dy);
        self.buttons = buttons & 0x07;
    }

    /// A byte from the system. It cuts off whatever was being sent.
    pub(super) fn receive(&mut self, byte: u8) {
        self.out.clear();
        match self.pending.take() {
            _ if self.wrap && !matches!(byte, m::RESET_WRAP | ps2::RESET) => {
                self.send(&[], &[byte]);
            }
            // A command in the place of an argument ends the command before.
            Some(command) if byte < m::SET_SCALING_1 => self.argument(command, byte),
            _ => self.command(byte),
        }
    }

    fn command(&mut self, byte: u8) {
        match byte {
            m::SET_SCALING_1 => self.scaling_2 = false,
            m::SET_SCALING_2 => self.scaling_2 = true,
            m::SET_RESOLUTION | ps2::SET_RATE => self.pending = Some(byte),
            m::STATUS_REQUEST => return self.acknowledge(&self.status()),
            m::SET_STREAM => self.change_mode(|mouse| mouse.remote = false),
            m::SET_REMOTE => self.change_mode(|mouse| mouse.remote = true),
            m::SET_WRAP => self.change_mode(|mouse| mouse.wrap = true),
            m::RESET_WRAP => self.change_mode(|mouse| mouse.wrap = false),
            m::READ_DATA => {
                // Scaling is for stream mode only (AUX, "Set Scaling 2:1").
                let report = self.report(false);
                return self.acknowledge(&report);
            }
            ps2::IDENTIFY => return self.acknowledge(&[m::ID]),
            ps2::ENABLE => self.change_mode(|mouse| mouse.enabled = true),
            ps2::DISABLE => self.change_mode(|mouse| mouse.enabled = false),
            ps2::SET_DEFAULTS => self.restart(),
            ps2::RESET => {
                self.restart();
                return self.acknowledge(&[ps2::TEST_OK, m::ID]);
            }
            ps2::RESEND => {
                self.out.clone_from(&self.last);
                return;
            }
            _ => return self.refuse(None),
        }
        self.acknowledge(&[]);
    }

    fn argument(&mut self, command: u8, byte: u8) {
        match command {
            m::SET_RESOLUTION if byte <= 3 => self.resolution = byte,
            ps2::SET_RATE if m::RATES.contains(&byte) => self.rate = byte,
            _ => return self.refuse(Some(command)),
        }
        self.acknowledge(&[]);
    }

    /// Empties the counters into a report.
    fn report(&mut self, double: bool) -> [u8; 3] {
        let (x, x_overflow) = std::mem::take(&mut self.x).reported(double);
        let (y, y_overflow) = std::mem::take(&mut self.y).reported(double);
        self.reported_buttons = self.buttons;
        let head = Report::new()
            .with_buttons(self.buttons & 0x07)
            .with_x_negative(x < 0)
            .with_y_negative(y < 0)
            .with_x_overflow(x_overflow)
            .with_y_overflow(y_overflow);
        let ([x, ..], [y, ..]) = (x.to_le_bytes(), y.to_le_bytes());
        [head.into_bits(), x, y]
    }

    fn status(&self) -> [u8; 3] {
        let head = MouseStatus::new()
            .with_left(self.buttons & 1 != 0)
            .with_right(self.buttons & 2 != 0)
            .with_middle(self.buttons & 4 != 0)
            .with_scaling_2(self.scaling_2)
            .with_enabled(self.enabled)
            .with_remote(self.remote);
        [head.into_bits(), self.resolution, self.rate]
    }

    /// Movement from before a change of mode is not worth reporting after it.
    fn change_mode(&mut self, change: impl FnOnce(&mut Self)) {
        change(self);
        (self.x, self.y) = (Counter::default(), Counter::default());
        self.reported_buttons = self.buttons;
    }

    /// Power-on defaults. The buttons are the user's.
    fn restart(&mut self) {
        let buttons = self.buttons;
        *self = Self { buttons, reported_buttons: buttons, ..Self::default() };
    }

    fn acknowledge(&mut self, bytes: &[u8]) {
        self.erred = false;
        self.send(&[ps2::ACK], bytes);
    }

    /// Asks for a bad byte again, with `pending` still waiting for it; gives up at the second in a
    /// row (AUX, "Resend" and "Error").
    fn refuse(&mut self, pending: Option<u8>) {
        let again = !std::mem::replace(&mut self.erred, true);
        self.pending = pending.filter(|_| again);
        self.erred = again;
        self.out.push_back(if again { ps2::RESEND } else { m::ERROR });
    }

    fn send(&mut self, acknowledgement: &[u8], bytes: &[u8]) {
        self.last.clear();
        self.last.extend(if bytes.is_empty() { acknowledgement } else { bytes });
        self.out.extend(acknowledgement.iter().chain(bytes));
    }
}

impl Counter {
    fn add(&mut self, counts: i32) {
        let sum = i32::from(self.counts).saturating_add(counts);
        (self.counts, self.overflow) = saturated(sum, self.overflow);
    }

    /// What a report says: the counts, scaled in stream mode, and whether there were more.
    fn reported(self, double: bool) -> (i16, bool) {
        let counts = i32::from(self.counts);
        saturated(if double { scale(counts) } else { counts }, self.overflow)
    }
}

/// The nearest number of nine bits, and whether that is another one or there was `overflow` before.
fn saturated(counts: i32, overflow: bool) -> (i16, bool) {
    let (least, most) = (i32::from(m::COUNTS_MIN), i32::from(m::COUNTS_MAX));
    let kept = counts.clamp(least, most);
    // It is within 16 bits.
    (i16::try_from(kept).unwrap_or(0), overflow || kept != counts)
}

/// Scaling 2:1 (AUX, "Set Scaling 2:1"): small movements get smaller, others double.
fn scale(counts: i32) -> i32 {
    let scaled = match counts.abs() {
        small @ 0..=1 => small,
        2 => 1,
        3 => 3,
        4 => 6,
        5 => 9,
        large => 2 * large,
    };
    counts.signum() * scaled
}
