//! The board under a storm. Shared by the property test, the long run and the fuzz target.

use std::ops::ControlFlow;
use std::sync::Arc;

use trapline_device::{Clock, NullBackend};
use trapline_machine::qtest::{BoardKind, Config, Machine};
use trapline_qtest::Target;
use trapline_testkit::storm::{Event, Storm};

/// More devices than one step of the storm can wake: the shortest period there is, the timer's, in
/// the longest step.
const WAKES_MAX: u32 = 2_000_000;

/// A board that is about to be hit.
pub(crate) struct Victim {
    machine: Machine,
    storm: Storm,
}

impl Victim {
    /// A PC after power-on.
    pub(crate) fn new() -> Self {
        Self::on(BoardKind::X86Pc)
    }

    /// A machine after power-on.
    #[allow(dead_code, reason = "not everybody has a choice")]
    pub(crate) fn on(board: BoardKind) -> Self {
        let machine = Machine::new(&Config {
            board,
            cpus: 1,
            edu: 2,
            mem_bytes: 1 << 20,
            utc_start_ns: 946_684_800_000_000_000,
            console: Arc::new(NullBackend),
            exit_port: board == BoardKind::X86Pc,
        });
        let machine = machine.unwrap_or_else(|error| panic!("{error}"));
        let storm = Storm::new(machine.registry());
        Self { machine, storm }
    }

    /// Does what the bytes say; returns the number of actions.
    pub(crate) fn suffer(&mut self, bytes: &[u8]) -> usize {
        let Self { machine, storm } = self;
        storm.run(bytes, |event| {
            let clock = machine.clock();
            let to_ns = match event {
                Event::Step(ns) => clock.now_ns() + ns,
                Event::NextDeadline => clock.next_deadline_ns().unwrap_or_default(),
                Event::Reset => return machine.reset(),
            };
            let mut wakes = 0;
            let _ = clock.advance(to_ns, || {
                wakes += 1;
                assert!(wakes < WAKES_MAX, "a device that wakes itself without end");
                ControlFlow::Continue(())
            });
            let _ = machine.settle();
        })
    }

    /// What can be seen of the machine from outside: every count of its registry, and the time.
    #[allow(dead_code, reason = "not everybody looks")]
    pub(crate) fn picture(&self) -> String {
        format!("{} {}", self.machine.clock().now_ns(), self.machine.registry().stats())
    }
}
