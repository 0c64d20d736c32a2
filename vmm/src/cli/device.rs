//! `trapline device serve`: one of our devices in a process of its own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{bail, ensure};
use clap::Args;
use trapline_machine::{Outlet, ServedDevice};

// No doc comment: clap would take it for the command's help.
#[derive(Args, Clone, Debug)]
pub(super) struct ServeArgs {
    /// The device: uart, rtc or i8042
    #[arg(value_name = "DEVICE")]
    device: String,
    /// Where VMMs connect: a UNIX socket, which is made
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The socket's type: stream or seqpacket
    #[arg(long = "type", value_name = "TYPE", default_value = "stream")]
    kind: String,
    /// What is behind a UART [default: standard output, and nothing to read]
    #[arg(long, value_name = "file=PATH|pty[=LINK]|socket=PATH")]
    chardev: Option<OsString>,
}

/// The options of `trapline device serve`, judged.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// What is served.
    pub device: ServedDevice,
    /// Where.
    pub socket: PathBuf,
    /// Whether the socket keeps the borders of messages.
    pub seqpacket: bool,
}

impl ServeOptions {
    pub(super) fn new(args: ServeArgs) -> anyhow::Result<Self> {
        let outlet = args.chardev.as_deref().map(outlet).transpose()?;
        let name = args.device.as_str();
        ensure!(outlet.is_none() || name == "uart", "--chardev: only a UART has one");
        let device = match name {
            "uart" => ServedDevice::Uart(outlet),
            "rtc" => ServedDevice::Rtc,
            "i8042" => ServedDevice::I8042,
            _ => bail!("device serve {name}: not one of uart, rtc and i8042"),
        };
        let seqpacket = match args.kind.as_str() {
            "stream" => false,
            "seqpacket" => true,
            kind => bail!("--type {kind}: not one of stream and seqpacket"),
        };
        ensure!(!args.socket.as_os_str().is_empty(), "--socket: the path is missing");
        Ok(Self { device, socket: args.socket, seqpacket })
    }
}

fn outlet(text: &OsStr) -> anyhow::Result<Outlet> {
    let bytes = text.as_bytes();
    let path = |key: &str| {
        let value = bytes.strip_prefix(key.as_bytes())?;
        Some(PathBuf::from(OsString::from_vec(value.to_vec())))
    };
    let outlet = path("file=")
        .map(Outlet::File)
        .or_else(|| path("socket=").map(Outlet::Socket))
        .or_else(|| path("pty=").map(|link| Outlet::Pty(Some(link))))
        .or_else(|| (bytes == b"pty").then_some(Outlet::Pty(None)));
    let shown = text.to_string_lossy();
    let Some(outlet) = outlet else {
        bail!("--chardev {shown}: not one of file=, pty, pty= and socket=")
    };
    let named = bytes == b"pty" || !bytes.ends_with(b"=");
    ensure!(named, "--chardev {shown}: the path is missing");
    Ok(outlet)
}
