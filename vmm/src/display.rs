//! The guest's display, as far as the user has to do with it: viewers over VNC, and a picture of it
//! when the guest has ended.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::Context;
use trapline_machine::Session;
use trapline_machine::boot::cmdline;
use trapline_machine::display::rfb::Server;
use trapline_machine::display::{Mode, Screen};

use crate::cli::RunOptions;

/// What was asked for, made sure of before there is a guest.
pub struct Display {
    listener: Option<TcpListener>,
    screendump: Option<(PathBuf, File)>,
}

/// What the guest's command line is to say about the display.
pub fn console(options: &RunOptions) -> cmdline::Display {
    match (options.vnc, &options.screendump) {
        (Some(_), _) => cmdline::Display::Used,
        (None, Some(_)) => cmdline::Display::Watched,
        (None, None) => cmdline::Display::None,
    }
}

/// The display the guest gets, if it needs one.
pub fn mode(options: &RunOptions) -> Option<Mode> {
    (console(options) != cmdline::Display::None).then_some(Mode::VESA)
}

impl Display {
    /// Listens where viewers shall connect, and opens the picture's file. Its content stays until
    /// there is a picture.
    ///
    /// # Errors
    /// What cannot be had.
    pub fn open(options: &RunOptions) -> anyhow::Result<Self> {
        let listener = options.vnc.map(|address| {
            TcpListener::bind(address).with_context(|| format!("--vnc: cannot listen on {address}"))
        });
        let screendump = options.screendump.clone().map(|path| {
            let file = trapline_machine::boot::create(&path)
                .with_context(|| format!("Unable to write {}", path.display()))?;
            anyhow::Ok((path, file))
        });
        Ok(Self { listener: listener.transpose()?, screendump: screendump.transpose()? })
    }

    /// Lets viewers in. They stay until the server is dropped.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub fn serve(&mut self, machine: &Session, name: &str) -> anyhow::Result<Option<Server>> {
        let (Some(listener), Some(screen), Some(input)) =
            (self.listener.take(), machine.screen(), machine.input())
        else {
            return Ok(None);
        };
        let server = Server::start(listener, name, screen, input);
        let server = server.context("cannot start the VNC server")?;
        let address = server.address();
        tracing::info!("the display is served by VNC on {address}");
        if !address.ip().is_loopback() {
            tracing::warn!("whoever reaches {address} sees the guest's screen and types on it");
        }
        Ok(Some(server))
    }

    /// Writes the picture, if one was asked for.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn dump(self, screen: Option<&Screen>) -> anyhow::Result<()> {
        let (Some((path, file)), Some(screen)) = (self.screendump, screen) else { return Ok(()) };
        let write = || {
            trapline_machine::boot::empty(&file)?;
            let mut to = BufWriter::new(&file);
            screen.picture().write_png(&mut to)?;
            to.flush()?;
            anyhow::Ok(())
        };
        write().with_context(|| format!("Unable to write {}", path.display()))
    }
}
