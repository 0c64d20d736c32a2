//! What crosses the line around the devices, apart from accesses: inputs and outputs.
//!
//! Adapters around what a board's devices are wired to (a console's back end, timers, interrupt lines)
//! tell a [`Journal`]. While a machine is recorded it writes down what came in and what went out. In a
//! replay it answers with what was written down, and compares what goes out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{
    CharBackend, Clock, EoiSink, EventHandler, ExtInt, Line, LineSink, MessageVector,
    MsiController, MsiSink, Pieces, SinkVector, Timer, Wake,
};
pub(crate) use trapline_trace::outside::{Input, Output};

/// A hash of what a device puts out, the same on every host: its length, and CRC-32C.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    hash_pieces(bytes.len() as u64, |piece| piece(bytes))
}

/// The same of `len` bytes that come in pieces.
pub(crate) fn hash_pieces(len: u64, each: impl FnOnce(&mut dyn FnMut(&[u8]))) -> u64 {
    let mut crc = 0;
    each(&mut |piece| crc = crc32c::crc32c_append(crc, piece));
    len << 32 | u64::from(crc)
}

/// Something that lasts until it is dropped.
pub(crate) trait Held {}

impl<T> Held for T {}

/// Who writes down, or reads out, what crosses the line around the devices.
pub(crate) trait Journal: Send + Sync {
    /// Whether the machine has been built. What is done before is not written down, but done again in a
    /// replay, at machine time 0.
    fn begun(&self) -> bool;

    /// The number of who is outside, or of the device that has to do with them, by name.
    fn port(&self, name: &str) -> u16;

    /// Begins a step, or goes on with the one the thread is in. It lasts until what this returns is
    /// dropped.
    fn step(&self) -> Box<dyn Held + '_>;

    /// A number a device asks for. Only one that is not the `usual` one is written down.
    fn number(&self, port: u16, kind: Input, usual: u64, ask: &mut dyn FnMut() -> u64) -> u64;

    /// Bytes a device asks for; how many.
    fn bytes(
        &self,
        port: u16,
        kind: Input,
        buf: &mut [u8],
        ask: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> usize;

    /// Something is about to be done to a device, in the step that the caller has begun.
    fn event(&self, port: u16, kind: Input, value: u64, bytes: &[u8]);

    /// What a back end is done with now: `came`, or what was written down.
    fn arrived(&self, port: u16, came: Vec<u64>) -> Vec<u64>;

    /// `len` bytes that the host and guest memory exchange; `copy` hands copies on, piece by piece.
    fn payload(&self, port: u16, len: u64, copy: &mut Pieces<'_>);

    /// A device reads `data` at this guest address.
    fn memory(&self, port: u16, addr: u64, data: &mut [u8]);

    /// `handler` writes down that it was called, by this port and number, and calls `target`. Kept for as
    /// long as the journal is there.
    fn listens(
        &self,
        port: u16,
        number: u64,
        handler: Arc<dyn EventHandler>,
        target: Weak<dyn EventHandler>,
    );

    /// A device has put something out.
    fn output(&self, port: u16, kind: Output, value: u64);
}

/// A back end whose answers are in the journal.
pub(crate) struct JournaledBackend {
    pub(crate) inner: Arc<dyn CharBackend>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) port: u16,
}

impl JournaledBackend {
    pub(crate) fn around(
        inner: &Arc<dyn CharBackend>,
        journal: &Arc<dyn Journal>,
        name: &str,
    ) -> Arc<dyn CharBackend> {
        let (inner, journal) = (Arc::clone(inner), Arc::clone(journal));
        let port = journal.port(name);
        Arc::new(Self { inner, journal, port })
    }
}

impl CharBackend for JournaledBackend {
    fn transmit(&self, data: &[u8]) -> usize {
        let all = data.len() as u64;
        let taken = self
            .journal
            .number(self.port, Input::Accepted, all, &mut || self.inner.transmit(data) as u64);
        let taken = usize::try_from(taken).unwrap_or(usize::MAX).min(data.len());
        let sent = data.get(..taken).unwrap_or_default();
        if !sent.is_empty() {
            self.journal.output(self.port, Output::Sent, hash(sent));
        }
        taken
    }

    fn room(&self) -> usize {
        self.inner.room()
    }

    fn receive(&self, buf: &mut [u8]) -> usize {
        let mut ask = |buf: &mut [u8]| self.inner.receive(buf);
        self.journal.bytes(self.port, Input::Received, buf, &mut ask)
    }

    fn is_connected(&self) -> bool {
        let mut ask = || u64::from(self.inner.is_connected());
        self.journal.number(self.port, Input::Connected, 1, &mut ask) != 0
    }
}

/// A clock whose wake-ups and whose UTC are in the journal. Its timers count from 0 in the order in
/// which they are made. It stands at 0 until the machine has been built: a device that asks while it is
/// made (a clock that shows a second, say) is told the same in a replay, where that takes no time.
pub(crate) struct JournaledClock {
    inner: Arc<dyn Clock>,
    journal: Arc<dyn Journal>,
    port: u16,
    /// UTC at machine time 0, as devices were told last.
    utc_ns: AtomicU64,
    next_timer: AtomicU64,
}

/// The host's clock may drift this far from the machine's before devices are told.
const DRIFT_NS: u64 = 1_000_000;

impl JournaledClock {
    /// A clock around that of the host, which says now what UTC was at machine time 0.
    pub(crate) fn around(inner: &Arc<dyn Clock>, journal: &Arc<dyn Journal>) -> Arc<Self> {
        let utc_ns = inner.utc_ns().saturating_sub(inner.now_ns());
        Arc::new(Self {
            inner: Arc::clone(inner),
            journal: Arc::clone(journal),
            port: journal.port("clock"),
            utc_ns: AtomicU64::new(utc_ns),
            next_timer: AtomicU64::new(0),
        })
    }

    /// UTC at machine time 0 is what devices were told when a state was saved.
    pub(crate) fn set_utc_start_ns(&self, utc_ns: u64) {
        self.utc_ns.store(utc_ns, Ordering::Relaxed);
    }

    /// UTC at machine time 0, in nanoseconds since 1970.
    pub(crate) fn utc_start_ns(&self) -> u64 {
        self.utc_ns.load(Ordering::Relaxed)
    }
}

impl Clock for JournaledClock {
    fn now_ns(&self) -> u64 {
        if self.journal.begun() { self.inner.now_ns() } else { 0 }
    }

    fn utc_ns(&self) -> u64 {
        let usual = self.utc_ns.load(Ordering::Relaxed);
        if !self.journal.begun() {
            return usual;
        }
        let start_ns = self.journal.number(self.port, Input::Utc, usual, &mut || {
            let start = self.inner.utc_ns().saturating_sub(self.inner.now_ns());
            if start.abs_diff(usual) > DRIFT_NS { start } else { usual }
        });
        self.utc_ns.store(start_ns, Ordering::Relaxed);
        start_ns.saturating_add(self.now_ns())
    }

    fn timer(&self, target: Weak<dyn Wake>) -> Box<dyn Timer> {
        let number = self.next_timer.fetch_add(1, Ordering::Relaxed);
        let (journal, port) = (Arc::clone(&self.journal), self.port);
        let wake = Arc::new(JournaledWake { journal, port, number, target });
        let target: Weak<JournaledWake> = Arc::downgrade(&wake);
        Box::new(JournaledTimer { inner: self.inner.timer(target), _wake: wake })
    }
}

struct JournaledWake {
    journal: Arc<dyn Journal>,
    port: u16,
    number: u64,
    target: Weak<dyn Wake>,
}

impl Wake for JournaledWake {
    fn wake(&self) {
        if let Some(target) = self.target.upgrade() {
            let _step = self.journal.step();
            self.journal.event(self.port, Input::Wake, self.number, &[]);
            target.wake();
        }
    }
}

struct JournaledTimer {
    inner: Box<dyn Timer>,
    _wake: Arc<JournaledWake>,
}

impl Timer for JournaledTimer {
    fn arm(&self, deadline_ns: Option<u64>) {
        self.inner.arm(deadline_ns);
    }
}

/// The end of a line, whose changes are in the journal.
pub(crate) struct JournaledLine {
    inner: Box<dyn LineSink>,
    journal: Arc<dyn Journal>,
    port: u16,
    number: u64,
}

impl JournaledLine {
    /// Around the end of the line of this number, among those of `name`.
    pub(crate) fn around(
        inner: impl LineSink + 'static,
        journal: &Arc<dyn Journal>,
        name: &str,
        number: u32,
    ) -> Line {
        let (journal, port) = (Arc::clone(journal), journal.port(name));
        Line::new(Self { inner: Box::new(inner), journal, port, number: number.into() })
    }
}

impl LineSink for JournaledLine {
    fn set_level(&self, level: bool) {
        self.journal.output(self.port, Output::Level, self.number << 1 | u64::from(level));
        self.inner.set_level(level);
    }
}

/// A line as the end of another.
pub(crate) struct Onto(pub(crate) Line);

impl LineSink for Onto {
    fn set_level(&self, level: bool) {
        self.0.set(level);
    }
}

/// Messages that are in the journal.
pub(crate) struct JournaledMessages {
    pub(crate) inner: Arc<dyn MsiSink>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) port: u16,
}

impl MsiSink for JournaledMessages {
    fn send(&self, address: u64, data: u32) {
        let [a, d] = [address, data.into()].map(u64::to_le_bytes);
        self.journal.output(self.port, Output::Message, hash(&[a, d].concat()));
        self.inner.send(address, data);
    }
}

/// Where PCI functions' messages go, by way of the journal: none of them is left to the kernel.
pub(crate) struct JournaledController {
    pub(crate) inner: Arc<dyn MsiController>,
    pub(crate) journal: Arc<dyn Journal>,
}

impl MsiController for JournaledController {
    fn sink(&self, requester: u16) -> Arc<dyn MsiSink> {
        let port = self.journal.port("messages");
        let (inner, journal) = (self.inner.sink(requester), Arc::clone(&self.journal));
        Arc::new(JournaledMessages { inner, journal, port })
    }

    fn vector(&self, requester: u16) -> Arc<dyn MessageVector> {
        Arc::new(SinkVector::new(self.sink(requester)))
    }
}

/// The 8259s as the processor sees them; acknowledges are in the journal.
pub(crate) struct JournaledExtInt {
    pub(crate) inner: Arc<dyn ExtInt>,
    pub(crate) journal: Arc<dyn Journal>,
}

impl ExtInt for JournaledExtInt {
    fn pending(&self) -> bool {
        self.inner.pending()
    }

    fn acknowledge(&self) -> Option<u8> {
        let _step = self.journal.step();
        let vector = self.inner.acknowledge();
        let got = vector.map_or(0, |vector| u64::from(vector) + 1);
        self.journal.event(self.journal.port("pic"), Input::Acknowledge, got, &[]);
        vector
    }
}

/// Hears of ends of interrupts, which are in the journal.
pub(crate) struct JournaledEoi {
    pub(crate) inner: Arc<dyn EoiSink>,
    pub(crate) journal: Arc<dyn Journal>,
}

impl EoiSink for JournaledEoi {
    fn eoi(&self, vector: u8) {
        let _step = self.journal.step();
        self.journal.event(self.journal.port("ioapic"), Input::Eoi, vector.into(), &[]);
        self.inner.eoi(vector);
    }
}

/// A line onto `line`, the input of this number, by way of the journal.
pub(crate) fn line(line: Line, journal: &Arc<dyn Journal>, number: u32) -> Line {
    JournaledLine::around(Onto(line), journal, "lines", number)
}

/// Where PCI functions' messages go, by way of the journal if there is one.
pub(crate) fn messages(
    inner: Arc<dyn MsiController>,
    journal: Option<&Arc<dyn Journal>>,
) -> Arc<dyn MsiController> {
    match journal {
        Some(journal) => Arc::new(JournaledController { inner, journal: Arc::clone(journal) }),
        None => inner,
    }
}

/// Where an I/O APIC's messages go, by way of the journal if there is one.
pub(crate) fn sink(
    inner: Arc<dyn MsiSink>,
    journal: Option<&Arc<dyn Journal>>,
) -> Arc<dyn MsiSink> {
    let Some(journal) = journal else { return inner };
    let port = journal.port("ioapic");
    Arc::new(JournaledMessages { inner, journal: Arc::clone(journal), port })
}

/// The 8259s as the processor sees them, by way of the journal if there is one.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only KVM has such pins"))]
pub(crate) fn ext_int(
    inner: Arc<dyn ExtInt>,
    journal: Option<&Arc<dyn Journal>>,
) -> Arc<dyn ExtInt> {
    match journal {
        Some(journal) => Arc::new(JournaledExtInt { inner, journal: Arc::clone(journal) }),
        None => inner,
    }
}

/// The I/O APIC, which hears of ends of interrupts, by way of the journal if there is one.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only KVM has local APICs"))]
pub(crate) fn eoi(inner: Arc<dyn EoiSink>, journal: Option<&Arc<dyn Journal>>) -> Arc<dyn EoiSink> {
    match journal {
        Some(journal) => Arc::new(JournaledEoi { inner, journal: Arc::clone(journal) }),
        None => inner,
    }
}

/// Names of ports, in the order of their numbers.
#[derive(Default)]
pub(crate) struct Ports(Mutex<Vec<String>>);

impl Ports {
    /// The number of `name`, which it has from now on.
    pub(crate) fn number(&self, name: &str) -> u16 {
        let mut names = self.0.lock();
        let number = names.iter().position(|known| known == name).unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        u16::try_from(number).unwrap_or(u16::MAX)
    }

    /// Names from number `first` on.
    pub(crate) fn since(&self, first: usize) -> Vec<String> {
        self.0.lock().get(first..).unwrap_or_default().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tells_lengths_and_contents_apart() {
        let hashes = [&b""[..], b"a", b"b", b"ab", b"ba"].map(hash);
        let different: std::collections::BTreeSet<_> = hashes.iter().collect();
        assert_eq!(different.len(), hashes.len());
        // "Check" of the CRC catalogue for CRC-32C.
        assert_eq!(hash(b"123456789"), 9 << 32 | 0xe306_9283);
    }
}
