//! The host's end of a socket device: whoever the guest connects to sends back what it gets, and somebody
//! calls now and then.

use std::collections::BTreeMap;
use std::io;
use std::sync::{OnceLock, Weak};

use parking_lot::Mutex;
use trapline_device::Readiness;
use trapline_vsock::{Event, VsockBackend, VsockDevice};

#[derive(Default)]
pub(crate) struct Callers {
    device: OnceLock<Weak<dyn VsockDevice>>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: u32,
    events: Vec<Event>,
    /// What comes back by each connection.
    echoes: BTreeMap<u32, Vec<u8>>,
}

/// Callers that wait at a time.
const CALLERS_MAX: usize = 4;

impl Callers {
    /// Somebody wants to reach a port of the guest's, unless enough do.
    pub(crate) fn comes(&self, port: u32) {
        let mut inner = self.inner.lock();
        if inner.echoes.len() < CALLERS_MAX {
            let id = inner.add();
            inner.events.push(Event::Incoming { id, port });
        }
        drop(inner);
        if let Some(device) = self.device.get().and_then(Weak::upgrade) {
            device.events_come();
        }
    }
}

impl Inner {
    fn add(&mut self) -> u32 {
        self.last += 1;
        self.echoes.insert(self.last, b"called".to_vec());
        self.last
    }
}

impl VsockBackend for Callers {
    fn attach(&self, device: Weak<dyn VsockDevice>) {
        let _ = self.device.set(device);
    }

    fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.inner.lock().events)
    }

    fn connect(&self, port: u32) -> Option<u32> {
        port.is_multiple_of(2).then(|| self.inner.lock().add())
    }

    fn accept(&self, _id: u32, _host_port: u32) {}

    fn read(&self, id: u32, buf: &mut [u8]) -> io::Result<usize> {
        let inner = &mut *self.inner.lock();
        let echo = inner.echoes.get_mut(&id).unwrap();
        let len = echo.len().min(buf.len());
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buf[..len].copy_from_slice(&echo[..len]);
        echo.drain(..len);
        Ok(len)
    }

    fn write(&self, id: u32, data: &[u8]) -> io::Result<usize> {
        let inner = &mut *self.inner.lock();
        inner.echoes.get_mut(&id).unwrap().extend(data);
        inner.events.push(Event::Ready { id, ready: Readiness::READ });
        Ok(data.len())
    }

    fn wait_for(&self, _id: u32, _what: Readiness) {}

    fn finish(&self, id: u32) {
        assert!(self.inner.lock().echoes.contains_key(&id));
    }

    fn close(&self, id: u32) {
        assert!(self.inner.lock().echoes.remove(&id).is_some(), "it is closed once");
    }
}
