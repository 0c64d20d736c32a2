//! `--disk`: an image, in kvmtool's words and some of QEMU's.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU64;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::anyhow;
use trapline_machine::disk::{DiskOptions, Format, OnError, QUEUES_MAX, SERIAL_LEN};

use super::{commas, units};

/// Understands `IMAGE[,ro][,direct][,queues=N][,serial=TEXT][,iops=N][,bps=N][,format=NAME]
/// [,werror=ACTION]`, where two commas are one in a name or value, and the last of several wins.
///
/// # Errors
/// What is wrong, as one sentence.
pub(super) fn disk(option: &OsStr) -> anyhow::Result<DiskOptions> {
    parse(option).map_err(|reason| anyhow!("--disk {}: {reason}", option.to_string_lossy()))
}

fn parse(text: &OsStr) -> Result<DiskOptions, String> {
    let mut parts = commas::split(text.as_bytes()).into_iter();
    let path = OsString::from_vec(parts.next().unwrap_or_default());
    if path.is_empty() {
        return Err("the image's name is missing".to_owned());
    }
    if path.as_bytes().starts_with(b"scsi:") {
        return Err("disks of the host's SCSI target (vhost-scsi) do not exist yet".to_owned());
    }
    let mut options = DiskOptions::new(path);
    parts.try_for_each(|part| set(&mut options, &String::from_utf8_lossy(&part)))?;
    Ok(options)
}

fn set(options: &mut DiskOptions, part: &str) -> Result<(), String> {
    match part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value))) {
        ("ro", None) => options.read_only = true,
        ("direct", None) => options.direct = true,
        ("queues", Some(value)) => options.queues = queues(value)?,
        ("serial", Some(value)) => options.serial = Some(serial(value)?),
        ("iops", Some(value)) => options.limits.iops = rate("iops", value)?,
        ("bps", Some(value)) => options.limits.bps = rate("bps", value)?,
        ("format", Some(value)) => options.format = Some(format(value)?),
        ("werror", Some("report")) => options.on_error = OnError::Report,
        ("werror", Some("stop")) => options.on_error = OnError::Stop,
        ("werror", Some(value)) => {
            return Err(format!("werror={value} is neither report nor stop"));
        }
        ("", None) => return Err("an option is missing behind a comma".to_owned()),
        _ => {
            return Err(format!(
                "{part} is none of ro, direct, queues=, serial=, iops=, bps=, format= and werror="
            ));
        }
    }
    Ok(())
}

fn queues(value: &str) -> Result<u16, String> {
    let count = units::count(value).ok().and_then(|count| u16::try_from(count).ok());
    let count = count.filter(|count| (1..=QUEUES_MAX).contains(count));
    count.ok_or_else(|| format!("queues={value} is no number from 1 to {QUEUES_MAX}"))
}

/// A serial number that a disk can have: characters of ASCII (virtio 1.3, 5.2.6.1), none of which does
/// anything to a terminal of the guest's, and not too many of them.
pub(super) fn serial(value: &str) -> Result<String, String> {
    let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if !value.bytes().all(printable) {
        return Err(format!("serial={} is not printable ASCII", value.escape_debug()));
    }
    if value.len() > SERIAL_LEN {
        return Err(format!("serial={value} is longer than {SERIAL_LEN} bytes"));
    }
    Ok(value.to_owned())
}

/// A number a second, 0 for no limit, with or without a unit.
fn rate(key: &str, value: &str) -> Result<Option<NonZeroU64>, String> {
    let wrong = |_| format!("{key}={value} is no number, which may end in K, M, G or T");
    units::scaled(value, 1).map(NonZeroU64::new).map_err(wrong)
}

fn format(value: &str) -> Result<Format, String> {
    known_format(value).ok_or_else(|| format!("format={value} is none of raw, qcow2 and vmdk"))
}

/// The format of a file with this name, which is QEMU's.
pub(super) fn known_format(name: &str) -> Option<Format> {
    match name {
        "raw" => Some(Format::Raw),
        "qcow2" => Some(Format::Qcow2),
        "vmdk" => Some(Format::Vmdk),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use trapline_machine::disk::Limits;

    use super::*;

    fn options(text: &str) -> DiskOptions {
        disk(text.as_ref()).unwrap()
    }

    /// What follows the option's text and a colon.
    fn refusal(text: &str) -> String {
        let said = disk(text.as_ref()).unwrap_err().to_string();
        said.strip_prefix(&format!("--disk {text}: ")).unwrap().to_owned()
    }

    #[test]
    fn kvmtools_forms_and_ours() {
        assert_eq!(options("/a/b.img"), DiskOptions::new("/a/b.img"));
        assert_eq!(options("a,ro"), DiskOptions { read_only: true, ..DiskOptions::new("a") });
        assert_eq!(options("a,direct"), DiskOptions { direct: true, ..DiskOptions::new("a") });
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
        assert_eq!(options(all), expected);
        assert_eq!(options("a,iops=5,iops=0,bps=1k").limits.iops, None, "the last one; 0 is none");
        assert_eq!(options("a,bps=1k").limits.bps, NonZeroU64::new(1024));
        assert_eq!(options("a,queues=0x10,iops=010").queues, 16, "numbers are as of all options");
        assert_eq!(options("a,format=qcow2,format=raw").format, Some(Format::Raw));
        assert_eq!(options("a,format=vmdk,werror=report").on_error, OnError::Report);
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
            ("a,", "an option is missing behind a comma"),
            ("a,ro,", "an option is missing behind a comma"),
            ("a,serial=\u{e4}", "serial=\u{e4} is not printable ASCII"),
            ("a,serial=b\nc", "serial=b\\nc is not printable ASCII"),
            (
                "a,serial=123456789012345678901",
                "serial=123456789012345678901 is longer than 20 bytes",
            ),
        ] {
            assert_eq!(refusal(text), said, "{text}");
        }
        for text in ["a,rw", "a,ro=1", "a,direct=on", "a,queues", "a,serial"] {
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
