//! The 101/102-key keyboard (KBD): its commands, its buffer, and its three sets of scan codes.

use super::regs::keyboard as k;
use super::regs::ps2;
use super::set3::{self, KeySet};
use super::state::{Keyboard, Repeat, ScanSet};
use super::translate::translate;

impl Keyboard {
    /// The next byte for the controller: answers first. While a command waits for its argument,
    /// scan codes wait too (KBD, "Set/Reset Status Indicators").
    pub(super) fn next_byte(&mut self) -> Option<u8> {
        let byte = match self.answers.pop_front() {
            None if self.pending.is_none() => self.codes.pop_front(),
            answer => answer,
        };
        self.last = byte.unwrap_or(self.last);
        byte
    }

    /// A byte from the system. It cuts off what was still to be said about the one before (KBD,
    /// "Commands from the System").
    pub(super) fn receive(&mut self, byte: u8) {
        self.answers.clear();
        match self.pending.take() {
            // A command in the place of an argument ends the command before.
            Some(command) if byte < k::SET_LEDS => self.argument(command, byte),
            _ => self.command(byte),
        }
    }

    /// Keys go down or up, in set 2, when it is `now_ns`.
    pub(super) fn key(&mut self, set2: &[u8], now_ns: u64) {
        let mut rest = set2;
        while !rest.is_empty() && self.enabled {
            let (code, after) = split_code(rest);
            rest = after;
            self.push(&self.encode(code));
            self.hold(code, now_ns.saturating_add(k::delay_ns(self.rate)));
        }
    }

    /// The last key that went down repeats from `at_ns` on, until it comes up or another one goes
    /// down (KBD, "Typematic"). The pause key does not.
    fn hold(&mut self, code: &[u8], at_ns: u64) {
        let released = code.contains(&k::BREAK);
        let (extended, code) = match *code {
            [code] | [k::BREAK, code] => (false, code),
            [k::EXTENDED, code] | [k::EXTENDED, k::BREAK, code] => (true, code),
            _ => return self.repeat = None,
        };
        if !released {
            self.repeat = Some(Repeat { code, extended, at_ns });
        } else if self.repeat.is_some_and(|held| (held.code, held.extended) == (code, extended)) {
            self.repeat = None;
        }
    }

    /// It is `now_ns`: sends the key that is held, if it is time. One that could not be sent yet is
    /// in the buffer once, however long it is held (KBD, "Typematic").
    pub(super) fn repeat(&mut self, now_ns: u64) {
        let period_ns = k::period_ns(self.rate);
        let Some(held) = self.repeat.as_mut().filter(|held| held.at_ns <= now_ns) else { return };
        held.at_ns = now_ns.saturating_add(period_ns);
        let code = if held.extended { vec![k::EXTENDED, held.code] } else { vec![held.code] };
        let repeats = self.set != ScanSet::Three
            || to_set3(&code).is_some_and(|key| self.typematic.contains(key));
        if repeats && self.codes.is_empty() {
            self.push(&self.encode(&code));
        }
    }

    fn command(&mut self, byte: u8) {
        match byte {
            _ if k::has_argument(byte) => self.expect_argument(byte),
            k::ECHO => self.answer(&[k::ECHO]),
            ps2::IDENTIFY => {
                let [low, high] = k::ID;
                self.answer(&[ps2::ACK, low, high]);
            }
            ps2::ENABLE => {
                self.codes.clear();
                self.enabled = true;
                self.answer(&[ps2::ACK]);
            }
            ps2::DISABLE => self.restart(false, &[ps2::ACK]),
            ps2::SET_DEFAULTS => self.restart(self.enabled, &[ps2::ACK]),
            ps2::RESET => self.restart(true, &[ps2::ACK, ps2::TEST_OK]),
            k::ALL_TYPEMATIC => self.all_keys(KeySet::ALL, KeySet::NONE),
            k::ALL_MAKE_BREAK => self.all_keys(KeySet::NONE, KeySet::ALL),
            k::ALL_MAKE => self.all_keys(KeySet::NONE, KeySet::NONE),
            k::ALL_TYPEMATIC_MAKE_BREAK => self.all_keys(KeySet::ALL, KeySet::ALL),
            ps2::RESEND => self.answer(&[self.last]),
            _ => self.answer(&[ps2::RESEND]),
        }
    }

    fn argument(&mut self, command: u8, byte: u8) {
        match (command, byte) {
            (k::SET_LEDS, _) => self.leds = byte & 0x07,
            (ps2::SET_RATE, _) => self.rate = byte & 0x7f,
            (k::SELECT_SET, 0) => return self.answer(&[ps2::ACK, self.set as u8]),
            (k::SELECT_SET, 1) => self.select(ScanSet::One),
            (k::SELECT_SET, 2) => self.select(ScanSet::Two),
            (k::SELECT_SET, 3) => self.select(ScanSet::Three),
            (k::KEY_TYPEMATIC | k::KEY_MAKE | k::KEY_MAKE_BREAK, _) => {
                // As many keys as the system likes; the next command ends it.
                self.breaks.set(byte, command == k::KEY_MAKE_BREAK);
                self.typematic.set(byte, command == k::KEY_TYPEMATIC);
                self.pending = Some(command);
            }
            _ => {
                self.pending = Some(command);
                return self.answer(&[ps2::RESEND]);
            }
        }
        self.answer(&[ps2::ACK]);
    }

    fn expect_argument(&mut self, command: u8) {
        self.pending = Some(command);
        self.answer(&[ps2::ACK]);
    }

    fn select(&mut self, set: ScanSet) {
        self.codes.clear();
        self.set = set;
    }

    fn all_keys(&mut self, typematic: KeySet, breaks: KeySet) {
        self.codes.clear();
        self.typematic = typematic;
        self.breaks = breaks;
        self.answer(&[ps2::ACK]);
    }

    /// Power-on defaults.
    fn restart(&mut self, enabled: bool, answer: &[u8]) {
        *self = Self { enabled, last: self.last, ..Self::default() };
        self.answer(answer);
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.answers.extend(bytes);
    }

    /// Puts one key's code in the buffer, whole or not at all. One overrun code marks where codes
    /// were lost (KBD, "Buffer": it takes the place of the 17th).
    fn push(&mut self, code: &[u8]) {
        let overrun = if self.set == ScanSet::One { k::OVERRUN_SET1 } else { k::OVERRUN };
        if self.codes.len() + code.len() <= k::BUFFER_LEN {
            self.codes.extend(code);
        } else if self.codes.back() != Some(&overrun) {
            self.codes.push_back(overrun);
        }
    }

    /// One key's set 2 code in the set in use.
    fn encode(&self, code: &[u8]) -> Vec<u8> {
        match self.set {
            ScanSet::Two => code.to_vec(),
            ScanSet::One => {
                let mut in_break = false;
                code.iter().filter_map(|&byte| translate(byte, &mut in_break)).collect()
            }
            ScanSet::Three => {
                let released = code.contains(&k::BREAK);
                match to_set3(code) {
                    Some(key) if !released => vec![key],
                    Some(key) if self.breaks.contains(key) => vec![k::BREAK, key],
                    _ => Vec::new(),
                }
            }
        }
    }
}

fn to_set3(code: &[u8]) -> Option<u8> {
    let &key = code.last()?;
    match *code.first()? {
        k::PAUSE => Some(set3::PAUSE),
        k::EXTENDED => set3::extended(key),
        _ => Some(set3::plain(key)),
    }
}

/// Splits the first key's code off: prefixes and one byte, or two after the pause key's prefix.
fn split_code(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut left = if bytes.first() == Some(&k::PAUSE) { 2 } else { 1 };
    let end = bytes.iter().position(|byte| {
        if !matches!(*byte, k::EXTENDED | k::PAUSE | k::BREAK) {
            left -= 1;
        }
        left == 0
    });
    bytes.split_at(end.map_or(bytes.len(), |last| last + 1))
}
