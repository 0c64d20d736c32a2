//! What an image is, by its first bytes.
//!
//! A guest writes whatever it likes into a raw image. If that looked like another format, the next
//! start would take it for one, and a qcow2 image can name any file of the host as its backing file
//! ([`crate::Disk`] has what keeps guests from doing so).

use crate::Format;

/// How many bytes it takes to tell: the sector that a write is never divided below.
pub(crate) const PROBE_LEN: usize = 512;

/// What an image looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probed {
    /// A format we know, or nothing in particular, which is raw.
    Known(Format),
    /// One we do not read, by its name.
    Foreign(&'static str),
}

/// Judges the first sector of an image; a shorter one has less.
pub(crate) fn probe(first: &[u8]) -> Probed {
    let number = |at: usize| {
        let bytes = first.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    if first.starts_with(b"QFI\xfb") {
        return match number(4) {
            Some(2 | 3) => Probed::Known(Format::Qcow2),
            _ => Probed::Foreign("an old QCOW image"),
        };
    }
    if first.starts_with(b"KDMV") || first.starts_with(b"COWD") {
        return Probed::Foreign("a sparse VMDK image");
    }
    if is_vmdk_descriptor(first) {
        return Probed::Known(Format::Vmdk);
    }
    // VirtualBox': a line of text that says who made it comes first.
    if first.get(64..68) == Some(&[0x7f, 0x10, 0xda, 0xbe]) {
        return Probed::Foreign("a VDI image");
    }
    let foreign: [(&[u8], &'static str); 5] = [
        (b"QED\0", "a QED image"),
        (b"vhdxfile", "a VHDX image"),
        (b"conectix", "a VHD image"),
        (b"WithoutFreeSpace", "a Parallels image"),
        (b"WithouFreSpacExt", "a Parallels image"),
    ];
    let foreign = foreign.into_iter().find(|(magic, _)| first.starts_with(magic));
    foreign.map_or(Probed::Known(Format::Raw), |(_, name)| Probed::Foreign(name))
}

/// VMDK's text form: comments and empty lines, then its version.
fn is_vmdk_descriptor(first: &[u8]) -> bool {
    let mut lines = first.split(|&byte| byte == b'\n').map(|line| line.trim_ascii());
    let first = lines.next().unwrap_or_default();
    if first.eq_ignore_ascii_case(b"# Disk DescriptorFile") {
        return true;
    }
    let mut lines = std::iter::once(first).chain(lines);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
    line.is_some_and(|line| line.starts_with(b"version="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_magics_and_everything_else_is_raw() {
        let known = Probed::Known;
        for (bytes, expected) in [
            (&b"QFI\xfb\0\0\0\x03rest"[..], known(Format::Qcow2)),
            (b"QFI\xfb\0\0\0\x02", known(Format::Qcow2)),
            (b"QFI\xfb\0\0\0\x01", Probed::Foreign("an old QCOW image")),
            (b"QFI\xfb", Probed::Foreign("an old QCOW image")),
            (b"KDMV\x01", Probed::Foreign("a sparse VMDK image")),
            (b"COWD", Probed::Foreign("a sparse VMDK image")),
            (b"# Disk DescriptorFile\nversion=1\n", known(Format::Vmdk)),
            (b"\n# comment\n\r\nversion=1\n", known(Format::Vmdk)),
            (b"# comment\nverse=1\n", known(Format::Raw)),
            (b"vhdxfile", Probed::Foreign("a VHDX image")),
            (b"conectix", Probed::Foreign("a VHD image")),
            (b"QED\0", Probed::Foreign("a QED image")),
            (b"WithoutFreeSpace", Probed::Foreign("a Parallels image")),
            (b"WithouFreSpacExt", Probed::Foreign("a Parallels image")),
            (
                &[&[b'<'; 64][..], &[0x7f, 0x10, 0xda, 0xbe]].concat(),
                Probed::Foreign("a VDI image"),
            ),
            (b"\xeb\x63\x90", known(Format::Raw)),
            (b"QFI\xfa\0\0\0\x03", known(Format::Raw)),
            (b"", known(Format::Raw)),
        ] {
            assert_eq!(probe(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
