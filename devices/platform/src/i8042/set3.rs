//! Scan code set 3: one code per key, and a choice per key whether it sends break codes (KBD,
//! "Scan Code Set 3").

/// A set of set 3 codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySet([u64; 4]);

impl KeySet {
    /// No key.
    pub const NONE: Self = Self([0; 4]);
    /// Every key.
    pub const ALL: Self = Self([u64::MAX; 4]);
    /// The keys that send break codes after a reset: left ctrl, left shift, caps lock, left alt,
    /// right shift (KBD, "Scan Code Set 3", default key states).
    pub const DEFAULT_BREAKS: Self =
        Self([1 << 0x11 | 1 << 0x12 | 1 << 0x14 | 1 << 0x19, 1 << (0x59 - 0x40), 0, 0]);

    /// The keys that repeat after a reset: all but those that tell their release, and those that
    /// only tell that they were pressed (KBD, "Scan Code Set 3", default key states).
    pub const DEFAULT_TYPEMATIC: Self = {
        let mut words = [u64::MAX; 4];
        let mut at = 0;
        while at < MAKE_ONLY.len() {
            #[expect(clippy::indexing_slicing, reason = "const evaluation has no get(); both fit")]
            let (word, bit) = (&mut words[(MAKE_ONLY[at] >> 6) as usize], MAKE_ONLY[at] & 63);
            *word &= !(1 << bit);
            at += 1;
        }
        let [low, high, ..] = Self::DEFAULT_BREAKS.0;
        let [first, second, third, fourth] = words;
        Self([first & !low, second & !high, third, fourth])
    };

    /// Whether `code` is in it.
    pub fn contains(self, code: u8) -> bool {
        self.0.get(usize::from(code >> 6)).is_some_and(|word| word >> (code & 63) & 1 == 1)
    }

    /// Puts `code` in or takes it out.
    pub fn set(&mut self, code: u8, member: bool) {
        if let Some(word) = self.0.get_mut(usize::from(code >> 6)) {
            let bit = 1 << (code & 63);
            *word = if member { *word | bit } else { *word & !bit };
        }
    }
}

impl From<KeySet> for [u64; 4] {
    fn from(keys: KeySet) -> Self {
        keys.0
    }
}

impl From<[u64; 4]> for KeySet {
    fn from(words: [u64; 4]) -> Self {
        Self(words)
    }
}

/// The keys that neither repeat nor tell their release after a reset: function keys, escape, right
/// alt and ctrl, the keypad but for its plus, and the keys above and between.
const MAKE_ONLY: [u8; 41] = [
    0x07, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x47, 0x4f, 0x56, 0x5e, // F1 to F12
    0x08, 0x39, 0x58, 0x57, 0x5f, 0x62, // escape, right alt, right ctrl, print, scroll, pause
    0x67, 0x6e, 0x6f, 0x65, 0x6d, // insert, home, page up, end, page down
    0x76, 0x77, 0x7e, 0x84, 0x79, 0x71, // num lock, keypad / * - enter .
    0x70, 0x69, 0x72, 0x7a, 0x6b, 0x73, 0x74, 0x6c, 0x75, 0x7d, // keypad 0 to 9
    0x8b, 0x8c, // GUI keys
];

/// The set 3 code of a set 2 key without prefix. Letters, digits and most of the keypad keep
/// theirs.
pub(super) fn plain(set2: u8) -> u8 {
    match set2 {
        0x05 => 0x07, // F1
        0x06 => 0x0f, // F2
        0x04 => 0x17, // F3
        0x0c => 0x1f, // F4
        0x03 => 0x27, // F5
        0x0b => 0x2f, // F6
        0x83 => 0x37, // F7
        0x0a => 0x3f, // F8
        0x01 => 0x47, // F9
        0x09 => 0x4f, // F10
        0x78 => 0x56, // F11
        0x07 => 0x5e, // F12
        0x14 => 0x11, // left ctrl
        0x11 => 0x19, // left alt
        0x58 => 0x14, // caps lock
        0x5d => 0x5c, // backslash
        0x61 => 0x13, // the 102nd key
        0x76 => 0x08, // escape
        0x77 => 0x76, // num lock
        0x7e => 0x5f, // scroll lock
        0x84 => 0x57, // print screen, with alt
        0x7c => 0x7e, // keypad *
        0x7b => 0x84, // keypad -
        0x79 => 0x7c, // keypad +
        _ => set2,
    }
}

/// The set 3 code of a set 2 key with the 0xe0 prefix. None for the shifts such keys wrap
/// themselves in, which set 3 does not need.
pub(super) fn extended(set2: u8) -> Option<u8> {
    Some(match set2 {
        0x12 | 0x59 => return None,
        0x11 => 0x39, // right alt
        0x14 => 0x58, // right ctrl
        0x1f => 0x8b, // left GUI
        0x27 => 0x8c, // right GUI
        0x2f => 0x8d, // menu
        0x4a => 0x77, // keypad /
        0x5a => 0x79, // keypad enter
        0x69 => 0x65, // end
        0x6b => 0x61, // left
        0x6c => 0x6e, // home
        0x70 => 0x67, // insert
        0x71 => 0x64, // delete
        0x72 => 0x60, // down
        0x74 => 0x6a, // right
        0x75 => 0x63, // up
        0x7a => 0x6d, // page down
        0x7c => 0x57, // print screen
        0x7d => 0x6f, // page up
        0x7e => 0x62, // ctrl-pause
        _ => set2,
    })
}

/// The pause key.
pub(super) const PAUSE: u8 = 0x62;
