//! `--fw-cfg`: a file for firmware, in QEMU's words.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use trapline_machine::boot::read;

use super::commas;

/// The longest file. All of it is in memory, beside the guest's, as long as the guest runs.
const FILE_MAX: u64 = 64 << 20;

/// A file for firmware to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FwCfgFile {
    /// What firmware looks for.
    pub name: String,
    /// What is in it.
    pub source: FwCfgSource,
}

/// Where a file's contents come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FwCfgSource {
    /// A file of the host's.
    File(PathBuf),
    /// The command line. There is no NUL after it.
    Text(Vec<u8>),
}

impl FwCfgFile {
    /// Understands `[name=]NAME,file=PATH` and `[name=]NAME,string=TEXT`, where two commas are one
    /// in a name or value.
    pub(super) fn new(option: &OsStr) -> anyhow::Result<Self> {
        let shown = option.to_string_lossy();
        let (mut name, mut source) = (None, None);
        for (at, part) in commas::split(option.as_bytes()).into_iter().enumerate() {
            let value = |key: &str| part.strip_prefix(key.as_bytes()).map(<[u8]>::to_vec);
            if let Some(path) = value("file=") {
                source = Some(FwCfgSource::File(OsString::from_vec(path).into()));
            } else if let Some(text) = value("string=") {
                source = Some(FwCfgSource::Text(text));
            } else if let Some(text) = value("name=").or_else(|| (at == 0).then(|| part.clone())) {
                name = Some(text);
            } else {
                let part = String::from_utf8_lossy(&part);
                bail!("--fw-cfg {shown}: {part} is none of name=, file= and string=");
            }
        }
        let name = name.and_then(|name| String::from_utf8(name).ok()).unwrap_or_default();
        ensure!(!name.is_empty(), "--fw-cfg {shown}: the file's name is missing");
        let source = source.with_context(|| {
            format!("--fw-cfg {shown}: contents are missing; add file= or string=")
        })?;
        Ok(Self { name, source })
    }

    /// Its name and its contents.
    ///
    /// # Errors
    /// The host's file cannot be read, or is no file, or has more than 64 MiB.
    pub fn load(&self) -> anyhow::Result<(String, Vec<u8>)> {
        let bytes = match &self.source {
            FwCfgSource::Text(text) => text.clone(),
            FwCfgSource::File(path) => read(path, FILE_MAX).with_context(|| {
                format!("--fw-cfg {}: cannot read {}", self.name, path.display())
            })?,
        };
        Ok((self.name.clone(), bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(option: &str) -> String {
        FwCfgFile::new(option.as_ref()).unwrap_err().to_string()
    }

    #[test]
    fn files_and_texts_have_names() {
        let text = FwCfgFile::new("opt/a,string=b,,c d=".as_ref()).unwrap();
        let (name, source) = ("opt/a".to_owned(), FwCfgSource::Text(b"b,c d=".to_vec()));
        assert_eq!(text, FwCfgFile { name, source });
        assert_eq!(text.load().unwrap(), ("opt/a".to_owned(), b"b,c d=".to_vec()));
        let file = FwCfgFile::new("file=/x/y,name=etc/z".as_ref()).unwrap();
        assert_eq!(file.source, FwCfgSource::File("/x/y".into()));
        assert_eq!(file.name, "etc/z");
        let text = file.load().unwrap_err().to_string();
        assert_eq!(text, "--fw-cfg etc/z: cannot read /x/y");
        let zeros = FwCfgFile::new("opt/z,file=/dev/zero".as_ref()).unwrap().load().unwrap_err();
        let reason = "it is a character device, not a file";
        assert_eq!(
            format!("{zeros:#}"),
            format!("--fw-cfg opt/z: cannot read /dev/zero: {reason}")
        );
        let large = tempfile::NamedTempFile::new().unwrap();
        large.as_file().set_len(FILE_MAX + 1).unwrap();
        let option = format!("opt/l,file={}", large.path().display());
        let error = FwCfgFile::new(option.as_ref()).unwrap().load().unwrap_err();
        assert!(format!("{error:#}").ends_with("it has more than 64 MiB"), "{error:#}");
    }

    #[test]
    fn what_is_missing_or_unknown_is_said() {
        assert_eq!(refusal("a"), "--fw-cfg a: contents are missing; add file= or string=");
        assert_eq!(refusal("string=a"), "--fw-cfg string=a: the file's name is missing");
        assert_eq!(
            refusal("a,gen_id=3"),
            "--fw-cfg a,gen_id=3: gen_id=3 is none of name=, file= and string="
        );
    }
}
