//! A disk as its user describes it: `-d IMAGE[,OPTION...]`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::NonZeroU64;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The most queues a disk can have.
pub const QUEUES_MAX: u16 = 64;

/// Bytes of a serial number that a driver can read.
pub const SERIAL_LEN: usize = 20;

/// What the user says of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// The image: a regular file or a block device.
    pub path: PathBuf,
    /// The guest cannot write.
    pub read_only: bool,
    /// The host's page cache is left out (`O_DIRECT`).
    pub direct: bool,
    /// How many queues there are, from 1 to [`QUEUES_MAX`].
    pub queues: u16,
    /// What the disk says of itself; made from the image's device and inode numbers, if not said.
    pub serial: Option<String>,
    /// How the image is to be understood; found out from its first bytes, if not said.
    pub format: Option<Format>,
    /// How much the guest may ask for.
    pub limits: Limits,
    /// What happens when the host cannot read or write.
    pub on_error: OnError,
}

/// How an image is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Byte for byte.
    Raw,
    /// QEMU's, version 2 or 3.
    Qcow2,
    /// VMware's, which can only be read.
    Vmdk,
}

/// Limits on what a guest asks of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests a second.
    pub iops: Option<NonZeroU64>,
    /// Bytes read and written a second.
    pub bps: Option<NonZeroU64>,
}

/// What happens when the host cannot read or write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told.
    #[default]
    Report,
    /// The machine is paused, and the request made again when it goes on.
    Stop,
}

impl DiskOptions {
    /// A disk with everything as it is without options.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read_only: false,
            direct: false,
            queues: 1,
            serial: None,
            format: None,
            limits: Limits::default(),
            on_error: OnError::default(),
        }
    }

    /// Understands `IMAGE[,ro][,direct][,queues=N][,serial=TEXT][,iops=N][,bps=N][,format=NAME]
    /// [,werror=ACTION]`, where two commas are one in a name or value, and the last of several
    /// wins.
    ///
    /// # Errors
    /// What is wrong, as one sentence that follows the option's text and a colon.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let mut parts = split(text.as_bytes()).into_iter();
        let path = OsString::from_vec(parts.next().unwrap_or_default());
        if path.is_empty() {
            return Err("the image's name is missing".to_owned());
        }
        if path.as_bytes().starts_with(b"scsi:") {
            return Err("disks of the host's SCSI target (vhost-scsi) do not exist yet".to_owned());
        }
        let mut options = Self::new(path);
        for part in parts {
            let part = String::from_utf8_lossy(&part).into_owned();
            options.set(&part)?;
        }
        Ok(options)
    }

    fn set(&mut self, part: &str) -> Result<(), String> {
        match part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value))) {
            ("ro", None) => self.read_only = true,
            ("direct", None) => self.direct = true,
            ("queues", Some(value)) => self.queues = queues(value)?,
            ("serial", Some(value)) => self.serial = Some(serial(value)?),
            ("iops", Some(value)) => self.limits.iops = rate("iops", value)?,
            ("bps", Some(value)) => self.limits.bps = rate("bps", value)?,
            ("format", Some(value)) => self.format = format(value)?,
            ("werror", Some("report")) => self.on_error = OnError::Report,
            ("werror", Some("stop")) => self.on_error = OnError::Stop,
            ("werror", Some(value)) => {
                return Err(format!("werror={value} is neither report nor stop"));
            }
            _ => {
                return Err(format!(
                    "{part} is none of ro, direct, queues=, serial=, iops=, bps=, format= and \
                     werror="
                ));
            }
        }
        Ok(())
    }
}

/// The parts between single commas.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = text.iter().peekable();
    while let Some(&byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&&b',').is_none() {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(byte);
        }
    }
    parts
}

fn queues(value: &str) -> Result<u16, String> {
    let count = value.parse().ok().filter(|count| (1..=QUEUES_MAX).contains(count));
    count.ok_or_else(|| format!("queues={value} is no number from 1 to {QUEUES_MAX}"))
}

fn serial(value: &str) -> Result<String, String> {
    if value.len() > SERIAL_LEN {
        return Err(format!("serial={value} is longer than {SERIAL_LEN} bytes"));
    }
    Ok(value.to_owned())
}

/// A number a second, 0 for no limit, with or without a binary unit.
fn rate(key: &str, value: &str) -> Result<Option<NonZeroU64>, String> {
    const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let unit = UNITS
        .into_iter()
        .find(|(unit, _)| value.strip_suffix([*unit, unit.to_ascii_lowercase()]).is_some());
    let digits = if unit.is_some() { value.get(..value.len() - 1) } else { Some(value) };
    let shift = unit.map_or(0, |(_, shift)| shift);
    let number = digits.and_then(|digits| digits.parse::<u64>().ok());
    let number = number.and_then(|number| number.checked_mul(1 << shift));
    let wrong = || format!("{key}={value} is no number, which may end in K, M, G or T");
    number.map(NonZeroU64::new).ok_or_else(wrong)
}

fn format(value: &str) -> Result<Option<Format>, String> {
    match value {
        "raw" => Ok(Some(Format::Raw)),
        "qcow2" => Ok(Some(Format::Qcow2)),
        "vmdk" => Ok(Some(Format::Vmdk)),
        _ => Err(format!("format={value} is none of raw, qcow2 and vmdk")),
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> DiskOptions {
        DiskOptions::parse(text.as_ref()).unwrap()
    }

    fn refusal(text: &str) -> String {
        DiskOptions::parse(text.as_ref()).unwrap_err()
    }

    #[test]
    fn kvmtools_forms_and_ours() {
        assert_eq!(parse("/a/b.img"), DiskOptions::new("/a/b.img"));
        assert_eq!(parse("a,ro"), DiskOptions { read_only: true, ..DiskOptions::new("a") });
        assert_eq!(parse("a,direct"), DiskOptions { direct: true, ..DiskOptions::new("a") });
        let all = "a,,b,ro,direct,queues=4,serial=x,,=y,iops=500,bps=2M,format=qcow2,werror=stop";
        let limits = Limits { iops: NonZeroU64::new(500), bps: NonZeroU64::new(2 << 20) };
        let expected = DiskOptions {
            path: "a,b".into(),
            read_only: true,
            direct: true,
            queues: 4,
            serial: Some("x,=y".to_owned()),
            format: Some(Format::Qcow2),
            limits,
            on_error: OnError::Stop,
        };
        assert_eq!(parse(all), expected);
        assert_eq!(parse("a,iops=5,iops=0,bps=1k").limits.iops, None, "the last one; 0 is none");
        assert_eq!(parse("a,bps=1k").limits.bps, NonZeroU64::new(1024));
        assert_eq!(parse("a,format=qcow2,format=raw").format, Some(Format::Raw));
        assert_eq!(parse("a,format=vmdk,werror=report").on_error, OnError::Report);
    }

    #[test]
    fn mistakes_are_one_sentence_each() {
        for (text, said) in [
            ("", "the image's name is missing"),
            (",ro", "the image's name is missing"),
            ("scsi:naa.6", "disks of the host's SCSI target (vhost-scsi) do not exist yet"),
            ("a,queues=0", "queues=0 is no number from 1 to 64"),
            ("a,queues=65", "queues=65 is no number from 1 to 64"),
            ("a,iops=x", "iops=x is no number, which may end in K, M, G or T"),
            ("a,iops=-1", "iops=-1 is no number, which may end in K, M, G or T"),
            ("a,bps=M", "bps=M is no number, which may end in K, M, G or T"),
            ("a,bps=99999999999T", "bps=99999999999T is no number, which may end in K, M, G or T"),
            ("a,format=vdi", "format=vdi is none of raw, qcow2 and vmdk"),
            ("a,werror=ignore", "werror=ignore is neither report nor stop"),
            (
                "a,serial=123456789012345678901",
                "serial=123456789012345678901 is longer than 20 bytes",
            ),
        ] {
            assert_eq!(refusal(text), said, "{text}");
        }
        for text in ["a,rw", "a,ro=1", "a,direct=on", "a,", "a,queues", "a,serial"] {
            let said = refusal(text);
            assert!(
                said.ends_with(
                    "is none of ro, direct, queues=, serial=, iops=, bps=, format= and werror="
                ),
                "{text}: {said}"
            );
        }
    }
}
