//! `--vsock`: sockets between programs of the guest and of the host.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::anyhow;
use trapline_machine::VsockOptions;
use trapline_machine::vsock::{GUEST_CID_MAX, GUEST_CID_MIN};

use super::{commas, units};

/// Understands `CID,socket=PATH`, where two commas are one in a name.
///
/// # Errors
/// What is wrong, as one sentence.
pub(super) fn vsock(text: &OsStr) -> anyhow::Result<VsockOptions> {
    parse(text).map_err(|reason| anyhow!("--vsock {}: {reason}", text.to_string_lossy()))
}

fn parse(text: &OsStr) -> Result<VsockOptions, String> {
    let mut parts = commas::split(text.as_bytes()).into_iter();
    let cid = parts.next().unwrap_or_default();
    let cid = String::from_utf8_lossy(&cid).into_owned();
    let range = GUEST_CID_MIN..=GUEST_CID_MAX;
    let number = units::count(&cid).ok().and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|number| range.contains(number)).ok_or_else(|| {
        format!("{cid:?} is no context identifier from {GUEST_CID_MIN} to {GUEST_CID_MAX}")
    })?;
    let mut socket = None;
    for part in parts {
        let path = part.strip_prefix(b"socket=").filter(|path| !path.is_empty());
        let path =
            path.ok_or_else(|| format!("{} is no socket=PATH", String::from_utf8_lossy(&part)))?;
        socket = Some(PathBuf::from(OsString::from_vec(path.to_vec())));
    }
    let socket =
        socket.ok_or("socket=PATH is missing, by which the host's programs get to the guest")?;
    Ok(VsockOptions { cid: number, socket })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_path() {
        let parse = |text: &str| vsock(OsStr::new(text)).map_err(|error| error.to_string());
        let options = |cid, path: &str| Ok(VsockOptions { cid, socket: path.into() });
        assert_eq!(parse("3,socket=/run/v"), options(3, "/run/v"));
        assert_eq!(parse("4294967294,socket=a,,b"), options(u32::MAX - 1, "a,b"));
        for (text, said) in [
            ("2,socket=/v", "\"2\" is no context identifier from 3 to 4294967294"),
            (
                "4294967295,socket=/v",
                "\"4294967295\" is no context identifier from 3 to 4294967294",
            ),
            ("x,socket=/v", "\"x\" is no context identifier from 3 to 4294967294"),
            ("", "\"\" is no context identifier from 3 to 4294967294"),
            ("3", "socket=PATH is missing, by which the host's programs get to the guest"),
            ("3,socket=", "socket= is no socket=PATH"),
            ("3,port=1", "port=1 is no socket=PATH"),
        ] {
            assert_eq!(parse(text), Err(format!("--vsock {text}: {said}")));
        }
    }
}
