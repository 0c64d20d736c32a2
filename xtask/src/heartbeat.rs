//! A heartbeat for the outer machine, because QEMU's emulated processor can sleep through an
//! interrupt.
//!
//! Seen with QEMU 7.2 on a busy machine, in several of some seventy boots: the local APIC has
//! its timer's vector in IRR, the priority allows it, interrupts are enabled, and the processor stays
//! halted for good. The likely cause is `helper_vmrun`, which changes the processor's word of pending
//! interrupts by a plain read-modify-write, without the lock under which QEMU's other threads set
//! bits in it. Any later interrupt makes QEMU look at the APIC again and everything goes on, so a key
//! that nobody reads is pressed every second. A guest or a VMM that hangs by itself still hangs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(50);
const LOOKS_PER_BEAT: u32 = 20;

/// Beats until dropped.
pub(crate) struct Heartbeat {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Starts beating at the QEMU monitor that will listen on `socket`.
    pub(crate) fn start(socket: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (path, asked) = (socket.clone(), Arc::clone(&stop));
        let thread = Some(thread::spawn(move || beat(&path, &asked)));
        Self { socket, stop, thread }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn beat(socket: &Path, stop: &AtomicBool) {
    let mut monitor = None;
    for look in 1_u32.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        thread::sleep(LOOK);
        if monitor.is_none() {
            monitor = UnixStream::connect(socket).ok().filter(|m| m.set_nonblocking(true).is_ok());
        }
        if let Some(stream) = monitor.as_mut().filter(|_| look % LOOKS_PER_BEAT == 0) {
            // QEMU echoes every key of a command and stops reading when nobody takes that.
            let mut echo = [0; 4096];
            while stream.read(&mut echo).is_ok_and(|len| len > 0) {}
            // A monitor that is gone went with its machine.
            let _ = stream.write_all(b"sendkey shift\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_key_is_pressed_again_and_again_until_the_end() {
        let socket = std::env::temp_dir().join(format!("heartbeat-{}", std::process::id()));
        let heartbeat = Heartbeat::start(socket.clone());
        let (mut monitor, _) = UnixListener::bind(&socket).unwrap().accept().unwrap();
        let mut keys = [0; 28];
        monitor.read_exact(&mut keys).unwrap();
        assert_eq!(&keys, b"sendkey shift\nsendkey shift\n");
        drop(heartbeat);
        assert!(!socket.exists());
    }
}
