//! `trapline qtest`: a machine without a CPU, for a client to drive.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use trapline_device::{NullBackend, PowerEvent};
use trapline_machine::qtest::{Config, Machine};
use trapline_qtest::{Address, End, Session, Way, serve};

use crate::cli::{FwCfgFile, QtestOptions};
use crate::stream::Patient;

/// Builds the machine and serves its clients; returns when there are none to come, or when the
/// machine has ended.
///
/// # Errors
/// Why it could not be built, or its client not be reached.
pub fn run(options: &QtestOptions) -> anyhow::Result<ExitCode> {
    let machine = Machine::new(&Config {
        board: options.board,
        cpus: options.cpus,
        virtio: options.virtio.clone(),
        rng: options.rng,
        edu: options.edu,
        disks: options.disks.clone(),
        mem_bytes: options.mem_bytes,
        utc_start_ns: options.utc_start_ns,
        console: Arc::new(NullBackend),
        console_kind: options.console,
        ports: options.ports.clone(),
        balloon: options.balloon,
        exit_port: options.exit_port,
        flash: options.flash.clone(),
        firmware: options.firmware.clone(),
        testdev: options.testdev,
        fw_cfg: options.fw_cfg.iter().map(FwCfgFile::load).collect::<Result<_, _>>()?,
    })?;
    let mut session = Session::new(&machine);
    let end = match &options.way {
        None => session
            .run(Patient(rustix::stdio::stdin()), Patient(rustix::stdio::stdout()))
            .context("cannot talk to standard input and output"),
        Some(way) => {
            let ready = |address: &Address| tracing::info!("waiting for a client on {address}");
            serve(&mut session, way, ready).with_context(|| match way {
                Way::Listen(address) => format!("cannot listen on {address}"),
                Way::Connect(address) => format!("cannot talk to {address}"),
            })
        }
    }?;
    Ok(match end {
        End::Machine(PowerEvent::Exit(status)) => ExitCode::from(status),
        End::Machine(PowerEvent::Off | PowerEvent::Reset) | End::Closed => ExitCode::SUCCESS,
    })
}
