//! The journal of a replay: it answers with what was recorded, and compares what goes out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_access::record::{Blob, Op, Record};
use trapline_device::{CharBackend, EventHandler, Pieces};
use trapline_trace::Event;

use super::{Input, Output};
use crate::record::host::call_of;
use crate::record::journal::{Held, Journal};

/// What came in and went out in one step, as it was recorded.
#[derive(Default)]
pub(super) struct Step {
    inputs: VecDeque<(u16, Input, u64, Vec<u8>)>,
    outputs: VecDeque<(u16, Output, u64)>,
}

impl Step {
    /// Adds an input or output; other records are none.
    pub(super) fn add(
        &mut self,
        event: &Event,
        blob: impl FnOnce(u32) -> Result<Vec<u8>, trapline_trace::Error>,
    ) -> Result<(), trapline_trace::Error> {
        let Record { op, slot, offset, value, .. } = event.record;
        match op {
            Op::In => {
                let Some(input) = Input::of(offset) else { return Ok(()) };
                let bytes =
                    if input.is_blob() { blob(Blob::of(value).number)? } else { Vec::new() };
                self.inputs.push_back((slot, input, value, bytes));
            }
            Op::Out => {
                if let Some(output) = Output::of(offset) {
                    self.outputs.push_back((slot, output, value));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds what another step has, behind its own.
    pub(super) fn append(&mut self, mut later: Self) {
        self.inputs.append(&mut later.inputs);
        self.outputs.append(&mut later.outputs);
    }

    /// The first that comes of it and is no byte to be sent, as one that comes late.
    pub(super) fn first_but_sent(&self) -> Option<Mismatch> {
        let mut others = self.outputs.iter().filter(|(_, output, _)| *output != Output::Sent);
        let (port, output, value) = others.next().copied()?;
        let (what, expected) = (name(output).to_owned(), tell(output, value));
        Some(Mismatch { port, what, expected, got: "it later".to_owned() })
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs.len()
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs.len()
    }
}

/// An input or output that was not the one recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) port: u16,
    /// Which input or output.
    pub(super) what: String,
    pub(super) expected: String,
    pub(super) got: String,
}

/// The journal of a replay.
pub(super) struct Script {
    /// Ports by name, as the recording has them.
    ports: Vec<String>,
    inner: Mutex<Inner>,
    /// Who is called by what happened outside, by port and number.
    handlers: Mutex<BTreeMap<(u16, u64), Called>>,
}

/// One who is called.
struct Called {
    target: Weak<dyn EventHandler>,
    /// The recording's, which nobody calls here.
    _handler: Arc<dyn EventHandler>,
}

#[derive(Default)]
struct Inner {
    /// Whether the machine has been built: what happens before was not recorded.
    begun: bool,
    /// Whether a saved state is being restored: what happens meanwhile was not recorded either.
    restoring: bool,
    step: Step,
    wrong: Option<Mismatch>,
}

impl Inner {
    /// Whether what happens now was recorded.
    fn is_played(&self) -> bool {
        self.begun && !self.restoring
    }
}

impl Script {
    pub(super) fn new(ports: &[String]) -> Self {
        Self { ports: ports.to_vec(), inner: Mutex::default(), handlers: Mutex::default() }
    }

    /// A saved state is restored by `restore`, and the machine has begun.
    pub(super) fn restore<R>(&self, restore: impl FnOnce() -> R) -> R {
        *self.inner.lock() = Inner { begun: true, restoring: true, ..Inner::default() };
        let restored = restore();
        self.inner.lock().restoring = false;
        restored
    }

    /// A step begins.
    pub(super) fn begin(&self, step: Step) {
        let mut inner = self.inner.lock();
        (inner.begun, inner.step, inner.wrong) = (true, step, None);
    }

    /// Takes what a step begins with, and its bytes.
    pub(super) fn take(&self, input: Input, record: &Record) -> Vec<u8> {
        let mut inner = self.inner.lock();
        let wanted = (record.slot, input, record.value);
        let at = inner
            .step
            .inputs
            .iter()
            .position(|(port, kind, value, _)| (*port, *kind, *value) == wanted);
        at.and_then(|at| inner.step.inputs.remove(at)).map(|input| input.3).unwrap_or_default()
    }

    /// The step is over. The first thing in it that was different, if anything was.
    pub(super) fn end(&self) -> Option<Mismatch> {
        let mut inner = self.inner.lock();
        let Step { inputs, outputs } = std::mem::take(&mut inner.step);
        let nothing = || "nothing".to_owned();
        let missing = outputs.into_iter().next().map(|(port, output, value)| {
            let (what, expected) = (name(output).to_owned(), tell(output, value));
            Mismatch { port, what, expected, got: nothing() }
        });
        let untaken = inputs.into_iter().next().map(|(port, input, value, bytes)| Mismatch {
            port,
            what: format!("input {input:?}"),
            expected: if input.is_blob() { format!("{bytes:02x?}") } else { value.to_string() },
            got: "nobody who asks for it".to_owned(),
        });
        inner.wrong.take().or(missing).or(untaken)
    }

    fn take_next(&self, port: u16, kind: Input) -> Option<(u64, Vec<u8>)> {
        let mut inner = self.inner.lock();
        let inputs = &mut inner.step.inputs;
        let usual = u64::from(kind as u16);
        let is_next = |input: &(u16, Input, u64, Vec<u8>)| {
            let counts = input.1 == Input::Usual && input.2 >> 32 == usual;
            input.0 == port && (input.1 == kind || counts)
        };
        let at = inputs.iter().position(is_next)?;
        if let Some((_, Input::Usual, value, _)) = inputs.get_mut(at) {
            *value -= 1;
            // The last of them.
            if *value & 0xffff_ffff == 0 {
                inputs.remove(at);
            }
            return None;
        }
        inputs.remove(at).map(|(_, _, value, bytes)| (value, bytes))
    }

    /// Something was another than recorded.
    fn differs(&self, port: u16, what: &str, expected: String, got: String) {
        let what = what.to_owned();
        self.inner.lock().wrong.get_or_insert(Mismatch { port, what, expected, got });
    }

    /// Calls the handler that was called, as it was. Whether there is such a one.
    pub(super) fn fire(&self, port: u16, value: u64) -> bool {
        let (number, ready) = call_of(value);
        let target = self.handlers.lock().get(&(port, number)).map(|called| called.target.clone());
        let target = target.and_then(|target| target.upgrade());
        target.map(|target| target.event(ready)).is_some()
    }
}

impl Journal for Script {
    fn begun(&self) -> bool {
        self.inner.lock().begun
    }

    fn port(&self, name: &str) -> u16 {
        let at = self.ports.iter().position(|port| port == name);
        at.and_then(|at| u16::try_from(at).ok()).unwrap_or(u16::MAX)
    }

    fn step(&self) -> Box<dyn Held + '_> {
        Box::new(())
    }

    fn number(&self, port: u16, kind: Input, usual: u64, ask: &mut dyn FnMut() -> u64) -> u64 {
        // Who stands in for the world outside hears of it, and what it says does not count.
        let _ = ask();
        self.take_next(port, kind).map_or(usual, |(value, _)| value)
    }

    fn bytes(
        &self,
        port: u16,
        kind: Input,
        buf: &mut [u8],
        _ask: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> usize {
        let Some((_, bytes)) = self.take_next(port, kind) else { return 0 };
        if bytes.len() > buf.len() {
            let (expected, got) = (format!("{} bytes", bytes.len()), buf.len());
            let got = format!("room for {got}");
            self.differs(port, &format!("input {kind:?}"), expected, got);
        }
        buf.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
        bytes.len().min(buf.len())
    }

    fn event(&self, _port: u16, _kind: Input, _value: u64, _bytes: &[u8]) {}

    fn arrived(&self, port: u16, _came: Vec<u64>) -> Vec<u64> {
        let Some((_, bytes)) = self.take_next(port, Input::Arrived) else { return Vec::new() };
        bytes.as_chunks::<8>().0.iter().map(|value| u64::from_le_bytes(*value)).collect()
    }

    /// What the host and guest memory exchanged is nothing that a device depends on.
    fn payload(&self, port: u16, _len: u64, _copy: &mut Pieces<'_>) {
        if self.take_next(port, Input::Exchanged).is_none() {
            let _ = self.take_next(port, Input::Payload);
        }
    }

    fn memory(&self, port: u16, addr: u64, data: &mut [u8]) {
        if !self.inner.lock().is_played() {
            return;
        }
        let got = format!("{} bytes at {addr:#x}", data.len());
        let what = "what is read from guest memory";
        let Some((_, bytes)) = self.take_next(port, Input::Memory) else {
            return self.differs(port, what, "nothing".to_owned(), got);
        };
        let (at, bytes) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let at = u64::from_le_bytes(*at);
        if (at, bytes.len()) != (addr, data.len()) {
            self.differs(port, what, format!("{} bytes at {at:#x}", bytes.len()), got);
        }
        data.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn listens(
        &self,
        port: u16,
        number: u64,
        handler: Arc<dyn EventHandler>,
        target: Weak<dyn EventHandler>,
    ) {
        self.handlers.lock().insert((port, number), Called { target, _handler: handler });
    }

    fn output(&self, port: u16, kind: Output, value: u64) {
        let mut inner = self.inner.lock();
        if !inner.is_played() {
            return;
        }
        let recorded = inner.step.outputs.pop_front();
        if recorded == Some((port, kind, value)) {
            return;
        }
        let expected =
            recorded.map_or_else(|| "nothing".to_owned(), |(_, kind, value)| tell(kind, value));
        let (what, got) = (name(kind).to_owned(), tell(kind, value));
        inner.wrong.get_or_insert(Mismatch { port, what, expected, got });
    }
}

fn name(output: Output) -> &'static str {
    match output {
        Output::Level => "interrupt line",
        Output::Message => "message-signalled interrupt",
        Output::Sent => "bytes sent",
        Output::Written => "bytes written to guest memory",
    }
}

fn tell(output: Output, value: u64) -> String {
    match output {
        Output::Level => {
            let level = if value & 1 == 1 { "high" } else { "low" };
            format!("line {} {level}", value >> 1)
        }
        Output::Message => format!("a message (hash {value:#x})"),
        Output::Sent => {
            let (bytes, crc) = (value >> 32, value & 0xffff_ffff);
            format!("{bytes} bytes (CRC-32C {crc:#x})")
        }
        // The hash is of the address, too.
        Output::Written => {
            let (bytes, crc) = ((value >> 32).saturating_sub(8), value & 0xffff_ffff);
            format!("{bytes} bytes (CRC-32C with their address {crc:#x})")
        }
    }
}

/// Stands in for the terminal: keeps the last lines.
#[derive(Default)]
pub(super) struct Text(Mutex<VecDeque<u8>>);

/// Bytes of the console that are kept.
const KEPT: usize = 4096;

impl Text {
    /// The last line with anything on it.
    pub(super) fn last_line(&self) -> String {
        let mut text = self.0.lock();
        let text = String::from_utf8_lossy(text.make_contiguous()).into_owned();
        let mut lines = text.lines().rev().map(str::trim_end);
        lines.find(|line| !line.is_empty()).unwrap_or_default().to_owned()
    }
}

impl CharBackend for Text {
    fn transmit(&self, data: &[u8]) -> usize {
        let mut text = self.0.lock();
        text.extend(data);
        let excess = text.len().saturating_sub(KEPT);
        text.drain(..excess);
        data.len()
    }

    fn receive(&self, _buf: &mut [u8]) -> usize {
        0
    }
}
