//! X11 key symbols to scan codes.
//!
//! A viewer says which symbol was typed, not which key was pressed. Symbols are looked up on a US
//! keyboard, where the guest finds them if it thinks that it has one: whoever types `!` also sends
//! the shift key himself, so only the key under the symbol counts.
//!
//! Spec: X Window System Protocol, appendix A (key symbols); Microsoft, "Keyboard Scan Code
//! Specification" 1.3a, appendix A (scan code set 2).

/// A key of the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A code of one byte.
    Plain(u8),
    /// A code behind the prefix 0xe0.
    Extended(u8),
    /// Print screen, which pretends to be shifted.
    Print,
    /// Pause, which is never released.
    Pause,
}

impl Key {
    /// What the keyboard sends when it goes down.
    pub(super) fn make(self) -> Vec<u8> {
        match self {
            Self::Plain(code) => vec![code],
            Self::Extended(code) => vec![0xe0, code],
            Self::Print => vec![0xe0, 0x12, 0xe0, 0x7c],
            Self::Pause => vec![0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77],
        }
    }

    /// What it sends when it comes up.
    pub(super) fn release(self) -> Vec<u8> {
        match self {
            Self::Plain(code) => vec![0xf0, code],
            Self::Extended(code) => vec![0xe0, 0xf0, code],
            Self::Print => vec![0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12],
            Self::Pause => Vec::new(),
        }
    }

    /// The key that types `symbol`, if a US keyboard has one.
    pub(super) fn of(symbol: u32) -> Option<Self> {
        match symbol {
            0x20..=0x7e => character(u8::try_from(symbol).ok()?).map(Self::Plain),
            0xffbe..=0xffc9 => nth(&FUNCTION, symbol - 0xffbe).map(Self::Plain),
            0xffb0..=0xffb9 => nth(&KEYPAD_DIGITS, symbol - 0xffb0).map(Self::Plain),
            0xff13 => Some(Self::Pause),
            0xff15 | 0xff61 => Some(Self::Print),
            _ => SPECIAL.iter().find(|(listed, _)| *listed == symbol).map(|(_, key)| *key),
        }
    }
}

fn nth(codes: &[u8], index: u32) -> Option<u8> {
    codes.get(usize::try_from(index).ok()?).copied()
}

/// F1 to F12.
const FUNCTION: [u8; 12] = [0x05, 0x06, 0x04, 0x0c, 0x03, 0x0b, 0x83, 0x0a, 0x01, 0x09, 0x78, 0x07];

/// The keypad's 0 to 9.
const KEYPAD_DIGITS: [u8; 10] = [0x70, 0x69, 0x72, 0x7a, 0x6b, 0x73, 0x74, 0x6c, 0x75, 0x7d];

/// The keys that type characters: without shift, with shift, code.
const CHARACTERS: &[(u8, u8, u8)] = &[
    (b' ', b' ', 0x29),
    (b'`', b'~', 0x0e),
    (b'1', b'!', 0x16),
    (b'2', b'@', 0x1e),
    (b'3', b'#', 0x26),
    (b'4', b'$', 0x25),
    (b'5', b'%', 0x2e),
    (b'6', b'^', 0x36),
    (b'7', b'&', 0x3d),
    (b'8', b'*', 0x3e),
    (b'9', b'(', 0x46),
    (b'0', b')', 0x45),
    (b'-', b'_', 0x4e),
    (b'=', b'+', 0x55),
    (b'\\', b'|', 0x5d),
    (b'[', b'{', 0x54),
    (b']', b'}', 0x5b),
    (b';', b':', 0x4c),
    (b'\'', b'"', 0x52),
    (b',', b'<', 0x41),
    (b'.', b'>', 0x49),
    (b'/', b'?', 0x4a),
];

/// A to Z.
const LETTERS: [u8; 26] = [
    0x1c, 0x32, 0x21, 0x23, 0x24, 0x2b, 0x34, 0x33, 0x43, 0x3b, 0x42, 0x4b, 0x3a, // A to M
    0x31, 0x44, 0x4d, 0x15, 0x2d, 0x1b, 0x2c, 0x3c, 0x2a, 0x1d, 0x22, 0x35, 0x1a, // N to Z
];

fn character(character: u8) -> Option<u8> {
    if character.is_ascii_alphabetic() {
        return nth(&LETTERS, u32::from(character.to_ascii_lowercase() - b'a'));
    }
    let typed = |row: &&(u8, u8, u8)| row.0 == character || row.1 == character;
    CHARACTERS.iter().find(typed).map(|row| row.2)
}

/// The rest, by symbol.
const SPECIAL: &[(u32, Key)] = &[
    (0xff08, Key::Plain(0x66)),    // BackSpace
    (0xff09, Key::Plain(0x0d)),    // Tab
    (0xfe20, Key::Plain(0x0d)),    // ISO_Left_Tab: tab with shift
    (0xff0d, Key::Plain(0x5a)),    // Return
    (0xff14, Key::Plain(0x7e)),    // Scroll_Lock
    (0xff1b, Key::Plain(0x76)),    // Escape
    (0xff50, Key::Extended(0x6c)), // Home
    (0xff51, Key::Extended(0x6b)), // Left
    (0xff52, Key::Extended(0x75)), // Up
    (0xff53, Key::Extended(0x74)), // Right
    (0xff54, Key::Extended(0x72)), // Down
    (0xff55, Key::Extended(0x7d)), // Page_Up
    (0xff56, Key::Extended(0x7a)), // Page_Down
    (0xff57, Key::Extended(0x69)), // End
    (0xff63, Key::Extended(0x70)), // Insert
    (0xff67, Key::Extended(0x2f)), // Menu
    (0xffff, Key::Extended(0x71)), // Delete
    (0xff7f, Key::Plain(0x77)),    // Num_Lock
    (0xff8d, Key::Extended(0x5a)), // KP_Enter
    (0xff95, Key::Plain(0x6c)),    // KP_Home
    (0xff96, Key::Plain(0x6b)),    // KP_Left
    (0xff97, Key::Plain(0x75)),    // KP_Up
    (0xff98, Key::Plain(0x74)),    // KP_Right
    (0xff99, Key::Plain(0x72)),    // KP_Down
    (0xff9a, Key::Plain(0x7d)),    // KP_Page_Up
    (0xff9b, Key::Plain(0x7a)),    // KP_Page_Down
    (0xff9c, Key::Plain(0x69)),    // KP_End
    (0xff9d, Key::Plain(0x73)),    // KP_Begin
    (0xff9e, Key::Plain(0x70)),    // KP_Insert
    (0xff9f, Key::Plain(0x71)),    // KP_Delete
    (0xffaa, Key::Plain(0x7c)),    // KP_Multiply
    (0xffab, Key::Plain(0x79)),    // KP_Add
    (0xffad, Key::Plain(0x7b)),    // KP_Subtract
    (0xffae, Key::Plain(0x71)),    // KP_Decimal
    (0xffaf, Key::Extended(0x4a)), // KP_Divide
    (0xffe1, Key::Plain(0x12)),    // Shift_L
    (0xffe2, Key::Plain(0x59)),    // Shift_R
    (0xffe3, Key::Plain(0x14)),    // Control_L
    (0xffe4, Key::Extended(0x14)), // Control_R
    (0xffe5, Key::Plain(0x58)),    // Caps_Lock
    (0xffe7, Key::Plain(0x11)),    // Meta_L
    (0xffe8, Key::Extended(0x11)), // Meta_R
    (0xffe9, Key::Plain(0x11)),    // Alt_L
    (0xffea, Key::Extended(0x11)), // Alt_R
    (0xfe03, Key::Extended(0x11)), // ISO_Level3_Shift
    (0xffeb, Key::Extended(0x1f)), // Super_L
    (0xffec, Key::Extended(0x27)), // Super_R
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_printable_character_has_a_key_and_case_does_not_matter() {
        for symbol in 0x20..=0x7e {
            assert!(Key::of(symbol).is_some(), "{symbol:#x}");
        }
        assert_eq!(Key::of(u32::from(b'q')), Key::of(u32::from(b'Q')));
        assert_eq!(Key::of(u32::from(b'/')), Key::of(u32::from(b'?')));
    }

    #[test]
    fn no_two_character_keys_share_a_code() {
        let mut codes: Vec<u8> = LETTERS.to_vec();
        codes.extend(CHARACTERS.iter().map(|row| row.2));
        let count = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), count);
    }

    #[test]
    fn prefixes_come_before_the_code() {
        let up = Key::of(0xff52).unwrap();
        assert_eq!((up.make(), up.release()), (vec![0xe0, 0x75], vec![0xe0, 0xf0, 0x75]));
        let f7 = Key::of(0xffc4).unwrap();
        assert_eq!((f7.make(), f7.release()), (vec![0x83], vec![0xf0, 0x83]));
        assert_eq!(Key::of(0xff13).unwrap().release(), []);
    }

    proptest! {
        #[test]
        fn no_symbol_is_too_strange(symbol: u32) {
            if let Some(key) = Key::of(symbol) {
                prop_assert!(key.make().len() <= 8 && key.release().len() <= 8);
            }
        }
    }
}
