//! `trapline device serve`: a device in this process, for VMMs that connect to its socket.

use std::process::ExitCode;
use std::sync::Arc;

use trapline_device::CharBackend;

use crate::cli::ServeOptions;
use crate::stream;

/// Serves for ever.
///
/// # Errors
/// Why that is not possible, or no longer.
pub fn serve(options: &ServeOptions) -> anyhow::Result<ExitCode> {
    let ServeOptions { device, socket, seqpacket } = options;
    trapline_machine::serve(device, socket, *seqpacket, Arc::new(Stdout))?;
    Ok(ExitCode::SUCCESS)
}

/// Is the process of a device that a run of ours has started (`--isolate`).
pub fn isolated() -> ExitCode {
    match trapline_machine::isolate::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Who has started it has been told, or is somebody at a terminal.
            let text =
                format!("trapline device isolated is started by trapline run --isolate: {why}\n");
            let _ = stream::write_all(rustix::stdio::stderr(), text.as_bytes(), None);
            ExitCode::FAILURE
        }
    }
}

/// Standard output behind a UART. Whoever does not read holds up this device, and its guest by no more
/// than a device that stalls.
struct Stdout;

impl CharBackend for Stdout {
    fn transmit(&self, data: &[u8]) -> usize {
        // What nobody reads is lost.
        let _ = stream::write_all(rustix::stdio::stdout(), data, None);
        data.len()
    }

    fn receive(&self, _buf: &mut [u8]) -> usize {
        0
    }
}
