//! `--gdb`: gdb's remote protocol on a TCP port, one gdb at a time.

mod connection;
mod registers;
mod target;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use gdbstub::stub::{DisconnectReason, GdbStub};
use trapline_device::thread_builder;
use trapline_machine::{Control, State};

use connection::Connection;
use target::{Guest, Running};

/// How often it is looked whether somebody connects, or the server is to end.
const LOOK: Duration = Duration::from_millis(50);

/// The server. Dropping it ends a connection and waits for it.
pub struct Gdb {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Gdb {
    /// Listens at `addr`.
    ///
    /// # Errors
    /// Nobody can connect there, or there is no thread.
    pub fn start(control: &Control, addr: SocketAddr) -> anyhow::Result<Self> {
        let what = || format!("--gdb {addr}");
        let listener = TcpListener::bind(addr).with_context(what)?;
        listener.set_nonblocking(true).with_context(what)?;
        let place = listener.local_addr().with_context(what)?;
        tracing::info!("gdb: target remote {place}");
        let end = Arc::new(AtomicBool::new(false));
        let (control, ended) = (control.clone(), Arc::clone(&end));
        let thread = thread_builder("gdb").spawn(move || serve(&control, &listener, &ended));
        Ok(Self { end, thread: Some(thread.with_context(what)?) })
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves one gdb after another.
fn serve(control: &Control, listener: &TcpListener, end: &Arc<AtomicBool>) {
    while !end.load(Ordering::Relaxed) {
        // Before it runs, and while it is being reset, it can not be stopped.
        let ready = matches!(control.state(), State::Running | State::Paused);
        match listener.accept() {
            Ok((stream, from)) if ready => {
                tracing::debug!("gdb connects from {from}");
                if let Err(error) = debug(control, stream, end) {
                    tracing::warn!("gdb: {error}");
                }
            }
            // It is over, or not yet begun: gdb is told so by the end of the connection.
            Ok(_) => {}
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Serves one gdb until it goes.
fn debug(control: &Control, stream: TcpStream, end: &Arc<AtomicBool>) -> Result<(), String> {
    // As the listener does not.
    stream.set_nonblocking(false).map_err(|error| error.to_string())?;
    let connection = Connection::new(stream, end).map_err(|error| error.to_string())?;
    let (tell, stops) = channel();
    let listener = move |stopped: &trapline_machine::debug::Stopped| {
        let _ = tell.send(stopped.clone());
    };
    let client = control.debug().client(true, Arc::new(listener));
    let mut guest = Guest::new(control.clone(), client, stops);
    guest.pause()?;
    let ended = GdbStub::new(connection).run_blocking::<Running>(&mut guest);
    match ended {
        Ok(DisconnectReason::Kill) => guest.kill(),
        Ok(_) => guest.leave(),
        Err(error) => {
            guest.leave();
            // A gdb that was killed is no mistake of anybody's.
            if !error.is_connection_error() {
                return Err(format!("{error}"));
            }
        }
    }
    Ok(())
}
