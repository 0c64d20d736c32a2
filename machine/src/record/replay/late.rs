//! Writes of a replay that come later than they did, as KVM's queue would have had them: to see whether
//! that makes a difference.

use trapline_access::record::{Op, Record};
use trapline_device::Direction;
use trapline_trace::{Event, Map, Place};

use super::script::{Mismatch, Step};
use crate::deliveries::LateWrites;
use crate::record::journal::Input;

/// How many writes KVM's queue takes: a page of them, less its head and one that stays free.
const QUEUE: usize = 169;

/// Writes that are late, and those that wait.
pub(super) struct Late {
    registers: Vec<LateWrites>,
    waiting: Vec<(Vec<Event>, Step)>,
}

impl Late {
    pub(super) fn new(registers: &[LateWrites]) -> Self {
        Self { registers: registers.to_vec(), waiting: Vec::new() }
    }

    /// Whether a step is one write that waits.
    pub(super) fn takes(&self, map: &Map, step: &[Event]) -> bool {
        if self.registers.is_empty() || self.waiting.len() >= QUEUE {
            return false;
        }
        let mut accesses = step.iter().filter(|event| event.record.access().is_some());
        let (Some(write), None) = (accesses.next(), accesses.next()) else { return false };
        let begins = |event: &Event| match event.record.op {
            Op::In => Input::of(event.record.offset).is_none_or(Input::begins),
            Op::Reset => true,
            _ => false,
        };
        !step.iter().any(begins) && self.is_late(map, &write.record)
    }

    fn is_late(&self, map: &Map, record: &Record) -> bool {
        let Some((Direction::Write, len, ..)) = record.access() else { return false };
        let Some(Place::Region { id, page }) = map.slot(record.slot) else { return false };
        let Some(region) = map.region(id).filter(|_| !matches!(record.op, Op::String(_))) else {
            return false;
        };
        let offset = (page << 16) + u64::from(record.offset);
        self.registers.iter().any(|late| {
            (late.device.as_str(), late.region.as_str()) == (&*region.device, &*region.region)
                && (late.offset, late.len) == (offset, len as u64)
        })
    }

    /// Has a step wait. What came of it that was no byte to be sent would be late, too, and is not to be.
    pub(super) fn queue(&mut self, step: Vec<Event>, script: Step) -> Option<Mismatch> {
        let late = script.first_but_sent();
        self.waiting.push((step, script));
        late
    }

    /// What waits, and then this step. A processor that acknowledges an interrupt has not been to the queue:
    /// it would not have come if what raised the interrupt had waited.
    pub(super) fn before(&mut self, step: Vec<Event>, script: Step) -> (Vec<Event>, Step) {
        let acknowledge = |event: &Event| {
            let input = Input::of(event.record.offset);
            event.record.op == Op::In && input == Some(Input::Acknowledge)
        };
        if step.iter().any(acknowledge) {
            return (step, script);
        }
        let (mut events, mut all) = (Vec::new(), Step::default());
        for (of, waited) in self.waiting.drain(..) {
            events.extend(of);
            all.append(waited);
        }
        events.extend(step);
        all.append(script);
        (events, all)
    }
}
