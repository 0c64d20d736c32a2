//! The name of a guest, which is also that of a file.

use std::fmt;

/// The longest name, in bytes.
const LEN_MAX: usize = 64;

/// A guest's name: 1 to 64 bytes, none of them a slash or a control character, the first no dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestName(String);

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no name for a guest: {why}")]
pub struct NameError {
    name: String,
    why: &'static str,
}

impl GuestName {
    /// The name `name`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let why = if name.is_empty() {
            "it is empty"
        } else if name.len() > LEN_MAX {
            "it is longer than 64 bytes"
        } else if name.starts_with('.') {
            "it begins with a dot"
        } else if name.contains('/') || name.contains(char::is_control) {
            "it has a slash or a control character in it"
        } else {
            return Ok(Self(name.to_owned()));
        };
        // A name that is too long is shown as far as it could be one.
        let name = name.chars().take(LEN_MAX).collect();
        Err(NameError { name, why })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GuestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_a_file_that_shows() {
        for name in ["guest-12", "a b", "ä", "-n", &"x".repeat(64)] {
            assert_eq!(GuestName::new(name).unwrap().as_str(), name);
        }
        for name in ["", ".", "..", ".hidden", "a/b", "a\nb", "a\0", &"x".repeat(65)] {
            assert!(GuestName::new(name).is_err(), "{name:?}");
        }
        let long = GuestName::new(&"ä".repeat(5000)).unwrap_err().to_string();
        assert!(long.len() < 256, "{long}");
    }
}
