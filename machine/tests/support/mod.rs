//! The board under a storm. Shared by the property test, the long run and the fuzz target.

use std::ops::ControlFlow;
use std::sync::Arc;

use trapline_device::Clock;
use trapline_machine::Snapshot;
use trapline_machine::qtest::{BoardKind, Config, Machine};
use trapline_qtest::{Pin, Side, Target};
use trapline_testkit::TestTerminal;
use trapline_testkit::storm::{Event, Storm};

/// More devices than one step of the storm can wake: the shortest period there is, the timer's, in
/// the longest step.
const WAKES_MAX: u32 = 2_000_000;
const MEM_BYTES: u64 = 1 << 20;
/// Inputs of the interrupt controllers, and more than they have outputs.
const PINS: u32 = 24;

/// A board that is about to be hit.
pub(crate) struct Victim {
    board: BoardKind,
    machine: Machine,
    terminal: TestTerminal,
    storm: Storm,
}

impl Victim {
    /// A PC after power-on.
    #[allow(dead_code, reason = "not everybody wants one")]
    pub(crate) fn new() -> Self {
        Self::on(BoardKind::X86Pc)
    }

    /// A machine after power-on.
    #[allow(dead_code, reason = "not everybody has a choice")]
    pub(crate) fn on(board: BoardKind) -> Self {
        let terminal = TestTerminal::default();
        let machine = Machine::new(&Config {
            board,
            cpus: 1,
            virtio: trapline_machine::VirtioTransport::Pci.into(),
            rng: true,
            edu: 2,
            disks: Vec::new(),
            shares: Vec::new(),
            vsock: None,
            plugs: false,
            mem_bytes: MEM_BYTES,
            utc_start_ns: 946_684_800_000_000_000,
            console: Arc::new(terminal.clone()),
            console_kind: trapline_machine::ConsoleKind::Serial,
            ports: Vec::new(),
            balloon: None,
            nets: Vec::new(),
            exit_port: board == BoardKind::X86Pc,
            flash: None,
            firmware: None,
            testdev: board == BoardKind::X86Pc,
            fw_cfg: Vec::new(),
        });
        let machine = machine.unwrap_or_else(|error| panic!("{error}"));
        let storm = Storm::new(machine.registry());
        Self { board, machine, terminal, storm }
    }

    /// Does what the bytes say; returns the number of actions.
    pub(crate) fn suffer(&mut self, bytes: &[u8]) -> usize {
        let Self { machine, storm, terminal, .. } = self;
        let actions = storm.run(bytes, |event| {
            let clock = machine.clock();
            match event {
                Event::Step(ns) => advance(machine, clock.now_ns() + ns),
                Event::NextDeadline => {
                    advance(machine, clock.next_deadline_ns().unwrap_or_default());
                }
                Event::Reset => machine.reset(),
                Event::Input(byte) => input(machine, terminal, byte),
                Event::Restore => {
                    let saved = machine.save();
                    machine.restore(&saved).unwrap_or_else(|error| panic!("{error}"));
                    assert_eq!(difference(&saved, &machine.save()), None);
                }
            }
            machine.run_back_ends();
            let _ = machine.settle();
        });
        // A reset that was asked for last.
        let _ = machine.settle();
        actions
    }

    /// Another machine, restored from what this one is now.
    #[allow(dead_code, reason = "not everybody looks")]
    pub(crate) fn twin(&self) -> Self {
        let twin = Self::on(self.board);
        // Some devices keep a part of their state in RAM.
        let saved = self.machine.save();
        for region in self.machine.ram().regions() {
            let mut ram = vec![0; usize::try_from(region.len).unwrap_or_default()];
            let copied = self.machine.ram().read(region.guest_addr, &mut ram);
            assert!(
                copied.and_then(|()| twin.machine.ram().write(region.guest_addr, &ram)).is_ok()
            );
        }
        twin.machine.restore(&saved).unwrap_or_else(|error| panic!("{error}"));
        twin.terminal.type_in(&self.terminal.waiting());
        assert_eq!(difference(&saved, &twin.machine.save()), None);
        twin
    }

    /// What can be seen of the machine from outside: every count of its registry, and the time.
    #[allow(dead_code, reason = "not everybody looks")]
    pub(crate) fn picture(&self) -> String {
        format!("{} {}", self.machine.clock().now_ns(), self.machine.registry().stats())
    }

    /// Forgets what was read and printed so far.
    #[allow(dead_code, reason = "not everybody looks")]
    pub(crate) fn forget(&mut self) {
        self.storm = Storm::new(self.machine.registry());
        self.terminal.clear();
    }

    /// What two machines that were restored alike and suffered the same do not have in common:
    /// what was read and printed since, every line, and the state of every device.
    #[allow(dead_code, reason = "not everybody looks")]
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let state = difference(&self.machine.save(), &other.machine.save());
        let (ours, theirs) = (self.seen(), other.seen());
        let mut heard = self.storm.heard().iter().zip(other.storm.heard());
        let heard = heard.find(|(a, b)| a != b).map(|pair| format!("{pair:x?}"));
        heard.or(state).or_else(|| (ours != theirs).then(|| format!("{ours:?} and {theirs:?}")))
    }

    fn seen(&self) -> (usize, Vec<u8>, Vec<bool>) {
        let pins =
            [("ioapic", Side::In), ("i8259", Side::Out), ("gic", Side::In), ("gic", Side::Out)];
        let pins = pins
            .into_iter()
            .flat_map(|(device, side)| (0..PINS).map(move |number| Pin { device, side, number }));
        let levels = pins.map(|pin| self.machine.wires().level(pin)).collect();
        (self.storm.heard().len(), self.terminal.screen(), levels)
    }
}

/// The first device that is not the same, or the time.
fn difference(a: &Snapshot, b: &Snapshot) -> Option<String> {
    let time = (a.now_ns != b.now_ns).then(|| format!("{} and {} ns", a.now_ns, b.now_ns));
    let mut devices = a.devices.iter().zip(&b.devices);
    time.or_else(|| devices.find(|(a, b)| a != b).map(|pair| format!("{pair:?}")))
}

fn advance(machine: &Machine, to_ns: u64) {
    let mut wakes = 0;
    let _ = machine.clock().advance(to_ns, || {
        wakes += 1;
        assert!(wakes < WAKES_MAX, "a device that wakes itself without end");
        ControlFlow::Continue(())
    });
}

/// A character, a key or a movement: what of them, the lowest bits say.
fn input(machine: &Machine, terminal: &TestTerminal, byte: u8) {
    match byte & 3 {
        0 | 1 => {
            terminal.type_in(&[byte]);
            if let Some(device) = machine.console_device().upgrade() {
                device.poll();
            }
        }
        2 => machine.input().key(&[0xe0, 0xf0, byte]),
        _ => machine.input().movement(i32::from(byte) - 0x80, i32::from(byte & 0x70), byte >> 4),
    }
}
