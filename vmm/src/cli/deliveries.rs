//! The file of `--deliveries`: TOML, as `trapline tune` writes it.

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use serde::Deserialize;
use trapline_machine::deliveries::LateWrites;

/// The version that is read.
const VERSION: u32 = 1;
/// The longest file that is read, in bytes.
const LEN_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deliveries {
    version: u32,
    #[serde(default)]
    late: Vec<Late>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Late {
    device: String,
    region: String,
    register: String,
    offset: u64,
    len: u64,
}

/// Reads one, if there is one.
///
/// # Errors
/// Why it cannot be read, with the line that is wrong.
pub(super) fn read(path: Option<&Path>) -> anyhow::Result<Vec<LateWrites>> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let name = || format!("--deliveries {}", path.display());
    let about = std::fs::metadata(path).with_context(name)?;
    ensure!(about.is_file(), "{}: not a regular file", name());
    ensure!(about.len() <= LEN_MAX, "{}: longer than 1 MiB", name());
    parse(&std::fs::read_to_string(path).with_context(name)?).with_context(name)
}

fn parse(text: &str) -> anyhow::Result<Vec<LateWrites>> {
    let parsed = toml::from_str::<Deliveries>(text);
    let Deliveries { version, late } = parsed.map_err(|error| {
        let line = error.span().map(|span| {
            let before = text.get(..span.start).unwrap_or_default();
            before.matches('\n').count() + 1
        });
        // The parser's word is of several lines with a picture; its first sentence says it.
        let said = error.message().lines().next().unwrap_or_default();
        line.map_or_else(|| anyhow!("{said}"), |line| anyhow!("line {line}: {said}"))
    })?;
    ensure!(version == VERSION, "version {version}, and this program reads version {VERSION}");
    let of = |Late { device, region, register, offset, len }| LateWrites {
        device,
        region,
        register,
        offset,
        len,
    };
    Ok(late.into_iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "version = 1\n[[late]]\ndevice = \"rtc\"\nregion = \"cmos\"\n\
                       register = \"RTC index\"\noffset = 0\nlen = 1\n";

    #[test]
    fn what_tune_writes_is_read() {
        let late = parse(ONE).unwrap();
        let [LateWrites { device, register, len, .. }] = late.as_slice() else {
            panic!("{late:?}")
        };
        assert_eq!((device.as_str(), register.as_str(), *len), ("rtc", "RTC index", 1));
        assert!(parse("version = 1\n").unwrap().is_empty());
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, says) in [
            ("version = 2\n", "version 2, and this program reads version 1"),
            ("", "missing field `version`"),
            (&ONE.replace("offset = 0", "offset = -1"), "line 6: "),
            (&ONE.replace("len = 1", "length = 1"), "unknown field `length`"),
            ("version = \n", "line 1: "),
        ] {
            let said = format!("{:#}", parse(text).unwrap_err());
            assert!(said.contains(says) && !said.contains('\n'), "{said}");
        }
    }
}
