//! A device of the PC's in a process of its own, for a VMM that connects to its socket.

use std::path::Path;
use std::sync::Arc;

use trapline_backends::{EpollLoop, HostClock, NoQueuedWrites, Outlet};
use trapline_device::{CharBackend, Clock, EventLoop, Handler, Power, PowerEvent};
use trapline_platform::rtc::{CmosConfig, WINDOW_LEN};
use trapline_platform::serial::REGISTERS_LEN;
use trapline_remote::{Listener, Server};

use crate::Error;
use crate::isolate::{Kind, Made, Wired};

/// The devices that can be served: those that need no memory of the guest's.
#[derive(Clone, Debug)]
pub enum ServedDevice {
    /// A 16550A UART, eight registers, with this behind it, or standard output.
    Uart(Option<Outlet>),
    /// A clock with CMOS RAM, an MC146818: an index and a data register.
    Rtc,
    /// A keyboard controller: five registers from its data port on.
    I8042,
}

/// What is served, and what has to stay while it is.
struct Served {
    handler: Arc<dyn Handler>,
    len: u64,
    _event_loop: Arc<EpollLoop>,
}

/// Listens on `path` and serves a device to one VMM after the other, for ever. The device keeps its
/// state from one to the next. Its registers are served whatever the VMM calls the region; the
/// region's `user_data` is the register it begins with. `stdout` is what a UART without an outlet
/// writes to.
///
/// # Errors
/// The device or its socket cannot be had, or it has failed.
pub fn serve(
    device: &ServedDevice,
    path: &Path,
    seqpacket: bool,
    stdout: Arc<dyn CharBackend>,
) -> Result<(), Error> {
    let served = build(device, stdout)?;
    let failed = |reason| Error::Socket { path: path.to_owned(), reason };
    let listener = Listener::bind(path, seqpacket).map_err(failed)?;
    loop {
        let ends = listener.accept().map_err(failed)?;
        let mut server = Server::new();
        for first in 0..served.len {
            let handler = Arc::clone(&served.handler);
            server.run_of_registers(first, served.len - first, first, handler)?;
        }
        tracing::info!("a VMM has connected to {}", path.display());
        match server.serve(&ends, None) {
            Ok(()) => tracing::info!("the VMM has gone"),
            // The device may be in any state.
            Err(error @ trapline_remote::ServeError::Panicked) => return Err(Error::Serve(error)),
            Err(error) => tracing::warn!("{error}; waiting for another VMM"),
        }
    }
}

fn build(device: &ServedDevice, stdout: Arc<dyn CharBackend>) -> Result<Served, Error> {
    let event_loop = EpollLoop::start("events", NoQueuedWrites).map_err(Error::EventLoop)?;
    let clock: Arc<dyn Clock> = Arc::new(HostClock::new(&*event_loop).map_err(Error::EventLoop)?);
    // Nobody hears the device's interrupts: the protocol has none.
    let lines = Vec::new();
    let power = Arc::new(NoPower);
    let open = match device {
        ServedDevice::Uart(Some(outlet)) => {
            let on_loop: Arc<dyn EventLoop> = event_loop.clone();
            let open = outlet.open(&on_loop).map_err(|reason| Error::Port {
                name: "uart".to_owned(),
                outlet: outlet.clone(),
                reason,
            })?;
            if let Some(place) = open.place() {
                tracing::info!("the UART is on {}", place.display());
            }
            Some(open)
        }
        _ => None,
    };
    let backend = open.as_ref().map_or(stdout, |open| Arc::clone(open) as Arc<dyn CharBackend>);
    let (kind, len) = match device {
        ServedDevice::Uart(_) => (Kind::Uart, REGISTERS_LEN.into()),
        ServedDevice::Rtc => (CmosConfig { below_4g: 0, above_4g: 0, cpus: 1 }.into(), WINDOW_LEN),
        ServedDevice::I8042 => (Kind::I8042, Kind::I8042.len()),
    };
    let Made { handler, chars, .. } = kind.make(Wired { lines, backend, power, clock });
    if let (Some(open), Some(device)) = (open, chars) {
        open.attach(device);
    }
    Ok(Served { handler, len, _event_loop: event_loop })
}

/// The protocol has no way to say that a guest is to be reset.
struct NoPower;

impl Power for NoPower {
    fn request(&self, event: PowerEvent, device: &'static str) {
        tracing::warn!(
            "the guest asks for {event:?} through {device}, of which the VMM does not hear"
        );
    }
}
