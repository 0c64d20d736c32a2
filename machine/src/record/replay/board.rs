//! The machine of a replay: the board, with nobody behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use trapline::{Mode, Registry};
use trapline_backends::{NoQueuedWrites, PolledLoop};
use trapline_device::{CharBackend, Clock, MsiController, MsiSink, Power, PowerEvent, Saved};
use trapline_guestmem::Backing;
use trapline_trace::Map;
use trapline_virtio::console::Size;

use super::ReplayError;
use super::clock::ReplayClock;
use super::script::{Script, Text};
use crate::board::{self, Board, Vfio, Wiring};
use crate::qtest::BoardKind;
use crate::record::journal::{Journal, JournaledBackend, JournaledClock};
use crate::record::settings::Settings;
use crate::record::states::RecordedState;
use crate::{Error, SnapshotError, arm64_virt, x86_pc};

/// A board as a replay drives it.
pub(crate) trait ReplayBoard: Send + Sync {
    /// The board.
    fn board(&self) -> &dyn Board;

    /// What the machine does for software that relies on firmware, before each start.
    fn power_on(&self) {}

    /// The local APICs say that an interrupt has ended.
    fn eoi(&self, _vector: u8) {}

    /// The processor acknowledges an external interrupt.
    fn acknowledge(&self) -> Option<u8> {
        None
    }
}

/// Takes messages, and that is all.
pub(crate) struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _address: u64, _data: u32) {}
}

impl MsiController for Nowhere {
    fn sink(&self, _requester: u16) -> Arc<dyn MsiSink> {
        Arc::new(Self)
    }
}

/// The machine.
pub(super) struct Machine {
    board: Box<dyn ReplayBoard>,
    pub(super) registry: Registry,
    pub(super) clock: ReplayClock,
    /// The same, as devices see it.
    devices_clock: Arc<JournaledClock>,
    pub(super) script: Arc<Script>,
    text: Arc<Text>,
}

/// What the guest asks of the whole machine is in the recording.
struct Ignored;

impl Power for Ignored {
    fn request(&self, _event: PowerEvent, _device: &'static str) {}
}

impl Machine {
    pub(super) fn new(settings: &Settings, map: &Map) -> Result<Self, ReplayError> {
        let registry = Registry::builder().build();
        let clock = ReplayClock::new(settings.utc_ns);
        registry.start_recorder(Arc::new(clock.clone()), Mode::Flight);
        let event_loop = PolledLoop::new(NoQueuedWrites).map_err(Error::EventLoop)?;
        let script = Arc::new(Script::new(map.devices()));
        let journal: Arc<dyn Journal> = script.clone();
        let inner: Arc<dyn Clock> = Arc::new(clock.clone());
        let text = Arc::<Text>::default();
        let console: Arc<dyn CharBackend> = text.clone();
        let ranges = match settings.board {
            BoardKind::X86Pc => x86_pc::ram_ranges(settings.mem_bytes)?,
            BoardKind::Arm64Virt => arm64_virt::ram_ranges(settings.mem_base, settings.mem_bytes)?,
        };
        let devices_clock = JournaledClock::around(&inner, &journal);
        let wiring = Wiring {
            isolates: Arc::default(),
            registry: registry.clone(),
            clock: devices_clock.clone(),
            host_clock: Arc::clone(&inner),
            event_loop,
            power: Arc::new(Ignored),
            ram: board::map_ram(&ranges, &Backing::Private)?,
            options: settings.options(JournaledBackend::around(&console, &journal, "console")),
            journal: Some(journal),
            vfio: Vfio::default(),
        };
        let board: Box<dyn ReplayBoard> = match settings.board {
            BoardKind::X86Pc => Box::new(x86_pc::Replayed::new(&wiring, settings)?),
            BoardKind::Arm64Virt => Box::new(arm64_virt::Replayed::new(&wiring, settings)?),
        };
        board.power_on();
        Ok(Self { board, registry, clock, devices_clock, script, text })
    }

    pub(super) fn reset(&self) {
        self.board.board().devices().reset();
        self.board.power_on();
    }

    pub(super) fn save(&self) -> BTreeMap<String, Saved> {
        self.board.board().devices().save()
    }

    /// Becomes the machine that was saved, at that time.
    pub(super) fn restore(&self, state: &RecordedState) -> Result<(), SnapshotError> {
        self.clock.set(state.snapshot.now_ns);
        self.devices_clock.set_utc_start_ns(state.utc_start_ns);
        self.script.restore(|| self.board.board().devices().restore(&state.snapshot.devices))
    }

    /// Whether there is a device with state of this name.
    pub(super) fn check_device(&self, name: &str) -> Result<(), ReplayError> {
        let states = self.save();
        if states.contains_key(name) {
            return Ok(());
        }
        let devices: Vec<_> = states.into_keys().collect();
        Err(ReplayError::NoDevice { name: name.to_owned(), devices: devices.join(", ") })
    }

    pub(super) fn eoi(&self, vector: u8) {
        self.board.eoi(vector);
    }

    pub(super) fn acknowledge(&self) -> Option<u8> {
        self.board.acknowledge()
    }

    pub(super) fn poll(&self) {
        if let Some(console) = self.board.board().console().upgrade() {
            console.poll();
        }
    }

    /// Requests to disks that have stopped the machine are made again.
    pub(super) fn retry(&self) {
        self.board.board().virtio().disks.iter().for_each(|blk| blk.retry());
    }

    /// Bytes are as [`crate::on_loop::SizeReport`] has them.
    pub(super) fn resize(&self, bytes: &[u8]) {
        let Some((columns, rest)) = bytes.split_first_chunk() else { return };
        let Some((rows, [])) = rest.split_first_chunk() else { return };
        let [columns, rows] = [*columns, *rows].map(u16::from_le_bytes);
        if let Some(console) = &self.board.board().virtio().console {
            console.resize(Size { columns, rows });
        }
    }

    pub(super) fn send_break(&self) {
        if let Some(console) = self.board.board().console().upgrade() {
            console.receive_break();
        }
    }

    pub(super) fn keys(&self, set2: &[u8]) {
        if let Some(input) = self.board.board().input() {
            input.key(set2);
        }
    }

    /// Bytes are as [`crate::on_loop::InputReport`] has them.
    pub(super) fn movement(&self, bytes: &[u8]) {
        let Some((dx, rest)) = bytes.split_first_chunk() else { return };
        let Some((dy, [buttons])) = rest.split_first_chunk() else { return };
        if let Some(input) = self.board.board().input() {
            input.movement(i32::from_le_bytes(*dx), i32::from_le_bytes(*dy), *buttons);
        }
    }

    pub(super) fn console_line(&self) -> String {
        self.text.last_line()
    }
}
