//! Adapters by which back ends with threads of their own (a terminal's reader, a VNC viewer) call
//! devices on the event loop.
//!
//! What such a thread reports is queued, and told to the device on the machine's event loop, which
//! delivers the guest's coalesced writes first and stands still while the machine is paused. The
//! thread itself waits for neither.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use trapline::{Mode, Registry};
use trapline_backends::{QueuedWrites, Turn};
use trapline_device::{CharDevice, EventHandler, EventLoop, Notifier, Readiness};
use trapline_display::Input;
use trapline_kvm::{ExitCounters, Vcpu};
use trapline_virtio::console::{Console as VirtioConsole, Size};

use crate::record::journal::{Input as Came, Journal};

/// A registry's coalesced writes, for an event loop.
#[derive(Clone)]
pub(crate) struct CoalescedWrites {
    registry: Registry,
    /// Of the vCPUs, when there are some.
    exits: Arc<OnceLock<Vec<Arc<ExitCounters>>>>,
}

impl CoalescedWrites {
    pub(crate) fn of(registry: &Registry) -> Self {
        Self { registry: registry.clone(), exits: Arc::default() }
    }

    /// Tells whose exits show that the guest is not idle.
    pub(crate) fn connect(&self, vcpus: &[Vcpu]) {
        let _ = self.exits.set(vcpus.iter().map(Vcpu::counters).collect());
    }
}

impl QueuedWrites for CoalescedWrites {
    fn possible(&self) -> bool {
        self.registry.coalesces()
    }

    fn deliver(&self) -> bool {
        self.registry.drain()
    }

    fn begin(&self) -> Option<Box<dyn Turn + '_>> {
        let recorder = self.registry.recorder()?;
        (recorder.mode() == Mode::Lossless).then(|| Box::new(recorder.step()) as Box<dyn Turn>)
    }

    fn exits(&self) -> u64 {
        let vcpus = self.exits.get().into_iter().flatten();
        vcpus.map(|vcpu| vcpu.snapshot().total()).sum()
    }
}

/// Reports queued at most. More are forgotten, as a keyboard forgets keys that nobody reads.
const QUEUED_MAX: usize = 256;

/// Reports to a device, passed on on an event loop.
pub(crate) struct OnLoop<D: ?Sized, R> {
    device: Weak<D>,
    reports: Mutex<VecDeque<R>>,
    notifier: OnceLock<Box<dyn Notifier>>,
    /// What is told is written down there, if it is.
    journal: Option<Arc<dyn Journal>>,
}

/// Something a device is told.
pub(crate) trait Report<D: ?Sized>: Send + PartialEq {
    /// Whether it need not be said twice in a row.
    fn is_idempotent(&self) -> bool;

    /// Tells it.
    fn tell(self, device: &D);

    /// As a journal has it: who is told, which input, and its bytes.
    fn journaled(&self) -> (&'static str, Came, Vec<u8>);
}

impl<D, R> OnLoop<D, R>
where
    D: ?Sized + Send + Sync + 'static,
    R: Report<D> + 'static,
{
    /// Passes reports on to `device` on `event_loop`.
    pub(crate) fn new(
        device: Weak<D>,
        event_loop: &dyn EventLoop,
        journal: Option<Arc<dyn Journal>>,
    ) -> Arc<Self> {
        let (reports, notifier) = (Mutex::default(), OnceLock::new());
        let this = Arc::new(Self { device, reports, notifier, journal });
        let handler: Weak<Self> = Arc::downgrade(&this);
        this.notifier.get_or_init(|| event_loop.notifier(handler));
        this
    }

    fn report(&self, report: R) {
        let mut reports = self.reports.lock();
        let again = report.is_idempotent() && reports.back() == Some(&report);
        if !again && reports.len() < QUEUED_MAX {
            reports.push_back(report);
        }
        drop(reports);
        if let Some(notifier) = self.notifier.get() {
            notifier.notify();
        }
    }
}

impl<D, R> EventHandler for OnLoop<D, R>
where
    D: ?Sized + Send + Sync,
    R: Report<D>,
{
    fn event(&self, _ready: Readiness) {
        let Some(device) = self.device.upgrade() else { return };
        let reports = std::mem::take(&mut *self.reports.lock());
        for report in reports {
            if let Some(journal) = &self.journal {
                let (name, input, bytes) = report.journaled();
                journal.event(journal.port(name), input, 0, &bytes);
            }
            report.tell(&device);
        }
    }
}

/// What a character device is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CharReport {
    /// See [`CharDevice::poll`].
    Poll,
    /// See [`CharDevice::receive_break`].
    Break,
}

impl Report<dyn CharDevice> for CharReport {
    fn is_idempotent(&self) -> bool {
        *self == Self::Poll
    }

    fn tell(self, device: &dyn CharDevice) {
        match self {
            Self::Poll => device.poll(),
            Self::Break => device.receive_break(),
        }
    }

    fn journaled(&self) -> (&'static str, Came, Vec<u8>) {
        let input = match self {
            Self::Poll => Came::Poll,
            Self::Break => Came::Break,
        };
        ("console", input, Vec::new())
    }
}

impl CharDevice for OnLoop<dyn CharDevice, CharReport> {
    fn poll(&self) {
        self.report(CharReport::Poll);
    }

    fn receive_break(&self) {
        self.report(CharReport::Break);
    }
}

/// What a keyboard and a mouse are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InputReport {
    /// See [`Input::key`].
    Key(Vec<u8>),
    /// See [`Input::movement`].
    Movement(i32, i32, u8),
}

impl Report<dyn Input> for InputReport {
    fn is_idempotent(&self) -> bool {
        false
    }

    fn tell(self, device: &dyn Input) {
        match self {
            Self::Key(set2) => device.key(&set2),
            Self::Movement(dx, dy, buttons) => device.movement(dx, dy, buttons),
        }
    }

    fn journaled(&self) -> (&'static str, Came, Vec<u8>) {
        match self {
            Self::Key(set2) => ("keyboard", Came::Keys, set2.clone()),
            Self::Movement(dx, dy, buttons) => {
                let bytes = [dx.to_le_bytes().as_slice(), &dy.to_le_bytes(), &[*buttons]].concat();
                ("mouse", Came::Movement, bytes)
            }
        }
    }
}

impl Input for OnLoop<dyn Input, InputReport> {
    fn key(&self, set2: &[u8]) {
        self.report(InputReport::Key(set2.to_vec()));
    }

    fn movement(&self, dx: i32, dy: i32, buttons: u8) {
        self.report(InputReport::Movement(dx, dy, buttons));
    }
}

/// What a virtio console is told of its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeReport(pub(crate) Size);

impl Report<VirtioConsole> for SizeReport {
    fn is_idempotent(&self) -> bool {
        true
    }

    fn tell(self, device: &VirtioConsole) {
        device.resize(self.0);
    }

    fn journaled(&self) -> (&'static str, Came, Vec<u8>) {
        let Size { columns, rows } = self.0;
        let bytes = [columns, rows].map(u16::to_le_bytes).as_flattened().to_vec();
        ("console", Came::Resize, bytes)
    }
}

/// Who tells a virtio console of the size of its terminal: any thread, which does not wait.
#[derive(Clone)]
pub struct Terminal(pub(crate) Arc<OnLoop<VirtioConsole, SizeReport>>);

impl Terminal {
    /// The terminal has this size.
    pub fn resize(&self, size: Size) {
        self.0.report(SizeReport(size));
    }
}
