//! `--virtio-port`: ports of the virtio console device besides the console.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use trapline_machine::console::PORTS_MAX;
use trapline_machine::{Outlet, PortOptions};

use super::commas;

/// The longest name. The guest's buffers for messages have to take it.
pub(super) const NAME_MAX: usize = 64;

/// Understands each of `[name=]NAME,file=PATH`, `[name=]NAME,pty[=LINK]` and
/// `[name=]NAME,socket=PATH`, where two commas are one in a name or path.
pub(super) fn ports(options: &[OsString]) -> anyhow::Result<Vec<PortOptions>> {
    // Number 0 is the console's, whether there is one or not.
    let most = PORTS_MAX - 1;
    ensure!(options.len() <= most, "--virtio-port: a guest can have at most {most}");
    let mut ports: Vec<PortOptions> = Vec::new();
    for option in options {
        let port = port(option)?;
        let taken = ports.iter().any(|other| other.name == port.name);
        ensure!(!taken, "--virtio-port: two ports are called {}", port.name);
        ports.push(port);
    }
    Ok(ports)
}

fn port(option: &OsStr) -> anyhow::Result<PortOptions> {
    let shown = option.to_string_lossy();
    let (mut name, mut outlet) = (None, None);
    for (at, part) in commas::split(option.as_bytes()).into_iter().enumerate() {
        let value = |key: &str| part.strip_prefix(key.as_bytes()).map(<[u8]>::to_vec);
        let path = |key: &str| value(key).map(OsString::from_vec).map(PathBuf::from);
        let found = path("file=")
            .map(Outlet::File)
            .or_else(|| path("socket=").map(Outlet::Socket))
            .or_else(|| path("pty=").map(|link| Outlet::Pty(Some(link))))
            .or_else(|| (at > 0 && part == b"pty").then_some(Outlet::Pty(None)));
        if let Some(found) = found {
            let only = outlet.replace(found).is_none();
            ensure!(only, "--virtio-port {shown}: it can be one of file=, pty and socket= only");
        } else if let Some(text) = value("name=").or_else(|| (at == 0).then(|| part.clone())) {
            name = Some(text);
        } else {
            let part = String::from_utf8_lossy(&part);
            bail!("--virtio-port {shown}: {part} is none of name=, file=, pty, pty= and socket=");
        }
    }
    let name = name.and_then(|name| String::from_utf8(name).ok()).unwrap_or_default();
    ensure!(!name.is_empty(), "--virtio-port {shown}: the port's name is missing");
    ensure!(
        name.len() <= NAME_MAX,
        "--virtio-port {shown}: the name has more than {NAME_MAX} bytes"
    );
    let control = name.contains(char::is_control);
    ensure!(!control, "--virtio-port {shown}: the name has a control character in it");
    let outlet = outlet.with_context(|| {
        format!("--virtio-port {shown}: where does it lead? Add file=, pty or socket=")
    })?;
    let path = match &outlet {
        Outlet::File(path) | Outlet::Socket(path) | Outlet::Pty(Some(path)) => Some(path),
        Outlet::Pty(None) | Outlet::Connected(_) => None,
    };
    let named = path.is_none_or(|path| !path.as_os_str().is_empty());
    ensure!(named, "--virtio-port {shown}: the path is missing");
    Ok(PortOptions { name, outlet })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Result<Vec<PortOptions>, String> {
        let texts: Vec<_> = texts.iter().map(OsString::from).collect();
        ports(&texts).map_err(|error| error.to_string())
    }

    #[test]
    fn a_port_has_a_name_and_a_place() {
        let port = |name: &str, outlet| PortOptions { name: name.to_owned(), outlet };
        let all = ["log,file=a,,b", "name=pty,pty", "t,pty=/tmp/t", "socket=s,name=org.x.0"];
        let expected = [
            port("log", Outlet::File("a,b".into())),
            port("pty", Outlet::Pty(None)),
            port("t", Outlet::Pty(Some("/tmp/t".into()))),
            port("org.x.0", Outlet::Socket("s".into())),
        ];
        assert_eq!(parse(&all).unwrap(), expected);
        assert_eq!(parse(&["pty,pty"]).unwrap(), [port("pty", Outlet::Pty(None))]);
    }

    #[test]
    fn mistakes_are_one_sentence_each() {
        let long = format!("{},pty", "n".repeat(65));
        for (text, said) in [
            ("", "the port's name is missing"),
            ("pty=/a", "the port's name is missing"),
            ("a", "where does it lead? Add file=, pty or socket="),
            ("a,file=", "the path is missing"),
            ("a,pty=", "the path is missing"),
            ("a,tcp=1", "tcp=1 is none of name=, file=, pty, pty= and socket="),
            ("a,", " is none of name=, file=, pty, pty= and socket="),
            ("a,pty,file=b", "it can be one of file=, pty and socket= only"),
            ("a\nb,pty", "the name has a control character in it"),
            (&long, "the name has more than 64 bytes"),
        ] {
            assert_eq!(parse(&[text]).unwrap_err(), format!("--virtio-port {text}: {said}"));
        }
        assert_eq!(
            parse(&["a,pty", "a,file=b"]).unwrap_err(),
            "--virtio-port: two ports are called a"
        );
        let many: Vec<_> = (0..31).map(|n| format!("{n},pty")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(parse(&many).unwrap_err(), "--virtio-port: a guest can have at most 30");
        parse(&many[1..]).unwrap();
    }
}
