//! The keys after Ctrl-a. Pure: a byte in, what it means out.

/// Ctrl-a.
pub(super) const ESCAPE: u8 = 0x01;

/// The text of Ctrl-a h.
pub(crate) const KEYS: &str = "
  Ctrl-a x  end the guest
  Ctrl-a b  send a break: Linux takes the next key as SysRq
  Ctrl-a p  pause the guest, or let it go on
  Ctrl-a s  show what it has accessed so far
  Ctrl-a w  watch it for a second, and say why it hangs
  Ctrl-a h  show these keys
  Ctrl-a a  send Ctrl-a to the guest (also Ctrl-a Ctrl-a)
";

/// What a byte typed means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// The guest gets this byte.
    Guest(u8),
    /// Nothing, or nothing yet.
    Nothing,
    /// End the guest.
    Quit,
    /// The guest gets a break.
    Break,
    /// Pause the guest, or let it go on.
    Pause,
    /// Show the keys.
    Help,
    /// Show the trap statistics.
    Statistics,
    /// Say why the guest hangs.
    Why,
}

/// Remembers whether the byte before was Ctrl-a.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Escape {
    pending: bool,
}

impl Escape {
    /// Takes the next byte typed.
    pub(super) const fn feed(&mut self, byte: u8) -> Key {
        if !self.pending {
            self.pending = byte == ESCAPE;
            return if self.pending { Key::Nothing } else { Key::Guest(byte) };
        }
        self.pending = false;
        match byte {
            b'x' => Key::Quit,
            b'b' => Key::Break,
            b'p' => Key::Pause,
            b's' => Key::Statistics,
            b'w' => Key::Why,
            b'h' | b'?' => Key::Help,
            b'a' | ESCAPE => Key::Guest(ESCAPE),
            _ => Key::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(typed: &[u8]) -> Vec<Key> {
        let mut escape = Escape::default();
        typed.iter().map(|byte| escape.feed(*byte)).collect()
    }

    #[test]
    fn what_is_not_escaped_reaches_the_guest() {
        assert_eq!(keys(b"xs?\r\x03"), b"xs?\r\x03".map(Key::Guest));
    }

    #[test]
    fn ctrl_a_and_a_letter_are_a_command() {
        use Key::{Break, Guest, Help, Nothing, Pause, Quit, Statistics, Why};
        assert_eq!(keys(b"\x01x"), [Nothing, Quit]);
        assert_eq!(keys(b"\x01s"), [Nothing, Statistics]);
        assert_eq!(keys(b"\x01w"), [Nothing, Why]);
        assert_eq!(keys(b"\x01p"), [Nothing, Pause]);
        assert_eq!(keys(b"\x01bh"), [Nothing, Break, Guest(b'h')]);
        assert_eq!(keys(b"\x01h\x01?"), [Nothing, Help, Nothing, Help]);
        assert_eq!(keys(b"\x01a\x01\x01x"), [Nothing, Guest(1), Nothing, Guest(1), Guest(b'x')]);
    }

    #[test]
    fn an_unknown_command_sends_nothing_and_ends_the_escape() {
        assert_eq!(keys(b"\x01zx"), [Key::Nothing, Key::Nothing, Key::Guest(b'x')]);
    }

    proptest! {
        #[test]
        fn text_without_ctrl_a_goes_through_whole(text in prop::collection::vec(2u8.., 0..64)) {
            let through: Vec<Key> = text.iter().map(|byte| Key::Guest(*byte)).collect();
            prop_assert_eq!(keys(&text), through);
        }

        #[test]
        fn ctrl_a_typed_twice_sends_any_text_whole(text: Vec<u8>) {
            let doubled: Vec<u8> = text
                .iter()
                .flat_map(|byte| std::iter::repeat_n(*byte, if *byte == ESCAPE { 2 } else { 1 }))
                .collect();
            let sent: Vec<u8> = keys(&doubled)
                .into_iter()
                .filter_map(|key| if let Key::Guest(byte) = key { Some(byte) } else { None })
                .collect();
            prop_assert_eq!(sent, text);
        }
    }
}
