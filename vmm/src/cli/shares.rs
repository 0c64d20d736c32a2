//! `--9p`: a folder of the host that the guest can mount, in kvmtool's words and some of QEMU's.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::{anyhow, ensure};
use trapline_machine::ninep::{SecurityModel, ShareOptions, TAG_LEN};

use super::commas;

/// Understands each of `DIR,TAG[,ro][,security_model=NAME]`, where two commas are one in a name, and
/// the last of several values wins.
///
/// # Errors
/// What is wrong, as one sentence.
pub(super) fn shares(options: &[OsString]) -> anyhow::Result<Vec<ShareOptions>> {
    let mut shares: Vec<ShareOptions> = Vec::new();
    for option in options {
        let share = parse(option)
            .map_err(|reason| anyhow!("--9p {}: {reason}", option.to_string_lossy()))?;
        let taken = shares.iter().any(|other| other.tag == share.tag);
        ensure!(!taken, "--9p: two folders have the tag {}", share.tag);
        shares.push(share);
    }
    Ok(shares)
}

fn parse(text: &OsStr) -> Result<ShareOptions, String> {
    let mut parts = commas::split(text.as_bytes()).into_iter();
    let path = OsString::from_vec(parts.next().unwrap_or_default());
    if path.is_empty() {
        return Err("the folder's name is missing".to_owned());
    }
    let tag = parts.next().filter(|tag| !tag.is_empty());
    let tag = tag.ok_or("the tag is missing, by which the guest mounts the folder")?;
    let tag = String::from_utf8(tag).map_err(|_| "the tag is not UTF-8")?;
    if tag.len() > TAG_LEN {
        return Err(format!("the tag is longer than {TAG_LEN} bytes"));
    }
    if tag.contains(char::is_control) {
        return Err("the tag has a control character in it".to_owned());
    }
    let mut options = ShareOptions::new(path, tag);
    parts.try_for_each(|part| set(&mut options, &String::from_utf8_lossy(&part)))?;
    Ok(options)
}

fn set(options: &mut ShareOptions, part: &str) -> Result<(), String> {
    match part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value))) {
        ("ro", None) => options.read_only = true,
        ("security_model", Some(value)) => options.security = security(value)?,
        _ => return Err(format!("{part} is neither ro nor security_model=")),
    }
    Ok(())
}

/// QEMU's longer name of one of them is one, too.
fn security(value: &str) -> Result<SecurityModel, String> {
    let name = if value == "mapped-xattr" { "mapped" } else { value };
    let found = SecurityModel::ALL.into_iter().find(|model| model.name() == name);
    found.ok_or_else(|| format!("security_model={value} is none of none, passthrough and mapped"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Result<Vec<ShareOptions>, String> {
        let texts: Vec<_> = texts.iter().map(OsString::from).collect();
        shares(&texts).map_err(|error| error.to_string())
    }

    #[test]
    fn kvmtools_form_and_ours() {
        let plain = ShareOptions::new("/a,b", "host");
        let all =
            ["/a,,b,host", "rel,x,ro", "/c,y,security_model=none,security_model=mapped-xattr"];
        let expected = [
            plain,
            ShareOptions { read_only: true, ..ShareOptions::new("rel", "x") },
            ShareOptions { security: SecurityModel::Mapped, ..ShareOptions::new("/c", "y") },
        ];
        assert_eq!(parse(&all).unwrap(), expected);
    }

    #[test]
    fn mistakes_are_one_sentence_each() {
        let long = format!("/a,{}", "t".repeat(33));
        for (text, said) in [
            ("", "the folder's name is missing"),
            (",tag", "the folder's name is missing"),
            ("/a", "the tag is missing, by which the guest mounts the folder"),
            ("/a,", "the tag is missing, by which the guest mounts the folder"),
            ("/a,b\tc", "the tag has a control character in it"),
            ("/a,b,rw", "rw is neither ro nor security_model="),
            ("/a,b,ro=1", "ro=1 is neither ro nor security_model="),
            ("/a,b,security_model=x", "security_model=x is none of none, passthrough and mapped"),
            (&long, "the tag is longer than 32 bytes"),
        ] {
            assert_eq!(parse(&[text]).unwrap_err(), format!("--9p {text}: {said}"));
        }
        assert_eq!(parse(&["/a,t", "/b,t"]).unwrap_err(), "--9p: two folders have the tag t");
    }
}
