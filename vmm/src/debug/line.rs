//! A line that is typed on a raw terminal. Pure: a byte in, what to show and what it means out.

/// A longer one is not taken.
const LEN_MAX: usize = 256;

/// What a byte has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// This is to be shown.
    Echo(&'static str),
    /// This letter is to be shown.
    Letter(char),
    /// The line is whole.
    Line(String),
    /// The line is given up (Ctrl-c).
    Cancelled,
    /// The end (Ctrl-d on an empty line).
    End,
    /// Nothing.
    Nothing,
}

/// The line so far.
#[derive(Debug, Default)]
pub(super) struct Line(String);

impl Line {
    /// Takes the next byte.
    pub(super) fn feed(&mut self, byte: u8) -> Typed {
        match byte {
            b'\r' | b'\n' => Typed::Line(std::mem::take(&mut self.0)),
            0x03 => {
                self.0.clear();
                Typed::Cancelled
            }
            0x04 if self.0.is_empty() => Typed::End,
            // Backspace, as either kind of terminal sends it.
            0x08 | 0x7f if self.0.pop().is_some() => Typed::Echo("\x08 \x08"),
            b' '..=b'~' if self.0.len() < LEN_MAX => {
                self.0.push(byte.into());
                Typed::Letter(byte.into())
            }
            _ => Typed::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Vec<Typed> {
        let mut line = Line::default();
        bytes.iter().map(|byte| line.feed(*byte)).collect()
    }

    #[test]
    fn a_line_is_what_is_left_of_what_was_typed() {
        let all = typed(b"abx\x7f\x08\x7f\x7f c\r");
        assert_eq!(all.last(), Some(&Typed::Line(" c".to_owned())));
        assert_eq!(all[3], Typed::Echo("\x08 \x08"));
        assert_eq!(all[6], Typed::Nothing, "there is nothing to take away");
        assert_eq!(typed(b"ab\x03c\n").last(), Some(&Typed::Line("c".to_owned())));
        assert_eq!(typed(b"\x04"), [Typed::End]);
        assert_eq!(typed(b"a\x04")[1], Typed::Nothing);
        assert_eq!(typed(b"\x1b\xff\x00"), [const { Typed::Nothing }; 3]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut line = Line::default();
        (0..10_000).for_each(|_| drop(line.feed(b'a')));
        assert_eq!(line.feed(b'\r'), Typed::Line("a".repeat(LEN_MAX)));
    }
}
