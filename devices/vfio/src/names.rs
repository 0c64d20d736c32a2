//! Names of a function's registers, from files: what its data sheet calls them, for traces and
//! reports of a BAR that is trapped.
//!
//! ```toml
//! # Whose they are, by vendor and device or by class: for the files that come with this crate.
//! devices = ["8086:100e"]
//! class = "010802"
//!
//! [bar0]
//! 0x0000 = "CTRL"
//! 0x1000-0x1fff = "DOORBELL"
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::Error;

/// The files that come with this crate.
const SHIPPED: [&str; 2] =
    [include_str!("../names/e1000.toml"), include_str!("../names/nvme.toml")];

/// The longest name there can be, in bytes.
const NAME_MAX: usize = 64;
/// The most names of a file.
const NAMES_MAX: usize = 4096;

/// Names of registers, by BAR and offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// By BAR and first offset: last offset and name.
    registers: BTreeMap<(u8, u64), (u64, &'static str)>,
}

/// A file as its author writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    devices: Vec<String>,
    class: Option<String>,
    bar0: Option<BTreeMap<String, String>>,
    bar1: Option<BTreeMap<String, String>>,
    bar2: Option<BTreeMap<String, String>>,
    bar3: Option<BTreeMap<String, String>>,
    bar4: Option<BTreeMap<String, String>>,
    bar5: Option<BTreeMap<String, String>>,
}

impl File {
    /// Whether it is about a function of this vendor and device, or of this class.
    fn is_of(&self, vendor: u16, device: u16, class: u32) -> bool {
        let class = format!("{class:06x}");
        self.devices.contains(&format!("{vendor:04x}:{device:04x}"))
            || self.class.as_ref() == Some(&class)
    }

    fn names(self) -> Result<Names, String> {
        let Self { bar0, bar1, bar2, bar3, bar4, bar5, .. } = self;
        let mut names = Names::default();
        for (bar, rows) in (0..).zip([bar0, bar1, bar2, bar3, bar4, bar5]) {
            for (place, name) in rows.into_iter().flatten() {
                let (first, last) = place.split_once('-').unwrap_or((&place, &place));
                let range = number(first).zip(number(last)).filter(|(first, last)| first <= last);
                let (first, last) = range.ok_or_else(|| {
                    format!("bar{bar}: {place} is no offset; write 0x10, or 0x10-0x1f")
                })?;
                if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
                    return Err(format!("bar{bar}: {place}: not a name of 1 to {NAME_MAX} bytes"));
                }
                if names.registers.len() == NAMES_MAX {
                    return Err(format!("more than {NAMES_MAX} names"));
                }
                if let Some(other) = names.at(bar, first, last) {
                    return Err(format!("bar{bar}: {place}: {name} and {other} are one place"));
                }
                // Traces keep the names of registers for good. A file is read once, and is short.
                let name: &'static str = Box::leak(name.into_boxed_str());
                names.registers.insert((bar, first), (last, name));
            }
        }
        Ok(names)
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

impl Names {
    /// Those of a user's file.
    ///
    /// # Errors
    /// The file cannot be read, or says something else.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Names { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        parse(&text).and_then(File::names).map_err(wrong)
    }

    /// Those that come with this crate for a function, if any do.
    pub(crate) fn shipped(vendor: u16, device: u16, class: u32) -> Self {
        let files = SHIPPED.iter().filter_map(|text| parse(text).ok());
        let mut fitting = files.filter(|file| file.is_of(vendor, device, class));
        fitting.next().and_then(|file| file.names().ok()).unwrap_or_default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.registers.is_empty()
    }

    /// The name of the register at an offset. The bytes up to the next dword are the register's, too,
    /// unless they have a name.
    pub(crate) fn get(&self, bar: u8, offset: u64) -> Option<&'static str> {
        let (end, name) = self.last_from(bar, offset)?;
        (end | 3 >= offset).then_some(name)
    }

    /// What has a name already of these offsets.
    fn at(&self, bar: u8, first: u64, last: u64) -> Option<&'static str> {
        self.last_from(bar, last).filter(|(end, _)| *end >= first).map(|(_, name)| name)
    }

    /// The last that begins at `offset` or before: its last offset, and its name.
    fn last_from(&self, bar: u8, offset: u64) -> Option<(u64, &'static str)> {
        self.registers.range((bar, 0)..=(bar, offset)).next_back().map(|(_, register)| *register)
    }
}

fn parse(text: &str) -> Result<File, String> {
    // One line of what the parser says: where, and what.
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let line = error.span().map(|span| text.get(..span.start).unwrap_or("").lines().count());
        let line = line.map_or(String::new(), |line| format!("line {}: ", line.max(1)));
        format!("{line}{}", error.message())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Names, String> {
        parse(text).and_then(File::names)
    }

    #[test]
    fn a_register_has_its_name_at_each_of_its_bytes() {
        let names = names(
            "[bar0]\n0x10 = \"CTRL\"\n24 = \"STATUS\"\n0x1000-0x1fff = \"BELL\"\n\
                           [bar2]\n0x10 = \"OTHER\"",
        )
        .unwrap();
        let got = |bar, offset| names.get(bar, offset);
        assert_eq!(
            [0xf, 0x10, 0x13, 0x14].map(|at| got(0, at)),
            [None, Some("CTRL"), Some("CTRL"), None]
        );
        assert_eq!([got(0, 24), got(0, 0xfff)], [Some("STATUS"), None]);
        assert_eq!(
            [got(0, 0x1000), got(0, 0x1fff), got(0, 0x2000)],
            [Some("BELL"), Some("BELL"), None]
        );
        assert_eq!([got(1, 0x10), got(2, 0x10)], [None, Some("OTHER")]);
    }

    #[test]
    fn a_file_that_says_something_else_is_refused_in_a_sentence() {
        let refused = |text: &str| names(text).unwrap_err();
        assert!(refused("[bar0]\nx = \"A\"").contains("bar0: x is no offset"));
        assert!(refused("[bar0]\n0x20-0x10 = \"A\"").contains("0x20-0x10 is no offset"));
        assert!(refused("[bar0]\n0x10 = \"\"").contains("not a name of 1 to 64"));
        assert!(refused("[bar0]\n0x10 = \"a\\u001b\"").contains("not a name"));
        let twice = refused("[bar0]\n0x10 = \"A\"\n0x10-0x13 = \"B\"");
        assert!(twice.contains("are one place"), "{twice}");
        assert!(refused("[bar6]\n0 = \"A\"").contains("unknown field `bar6`"));
        assert!(refused("a = 1\n[bar0]\n").starts_with("line 1: "));
        assert!(!refused("[bar0\n").contains('\n'));
        let path = Path::new("/nowhere/names.toml");
        let missing = Names::load(path).unwrap_err().to_string();
        assert!(missing.starts_with("/nowhere/names.toml: No such file"), "{missing}");
    }

    #[test]
    fn what_comes_with_the_crate_is_found_by_device_or_class() {
        for text in SHIPPED {
            assert!(!names(text).unwrap().is_empty());
        }
        assert_eq!(Names::shipped(0x8086, 0x100e, 0x02_0000).get(0, 0xd8), Some("IMC"));
        assert_eq!(Names::shipped(1, 2, 0x01_0802).get(0, 0x1c), Some("CSTS"));
        assert!(Names::shipped(1, 2, 3).is_empty());
    }
}
