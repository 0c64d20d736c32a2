//! What a channel has on its way: the queue of commands that want a response, and bytes that are half
//! sent or half received. All of it is behind the channel's lock, under which nobody waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use trapline_access::{EventFd, Requester};

use super::Death;
use crate::ends::Ends;
use crate::wire::{COMMAND_LEN, Command, RESPONSE_LEN};

/// See the module.
pub(super) struct State {
    /// None while the device is dead.
    pub(super) ends: Option<Arc<Ends>>,
    /// Encoded commands that are to go out: kept back as more was to follow, or what did not fit.
    pub(super) unsent: Vec<u8>,
    /// Since when the device has taken nothing, while there is something to send.
    pub(super) stalled_since: Option<Instant>,
    /// How much of a response has come.
    pub(super) partial: ([u8; RESPONSE_LEN], usize),
    /// Commands that want a response, in order.
    pub(super) slots: VecDeque<Slot>,
    pub(super) next_slot: u64,
    pub(super) next_wire_id: u32,
    /// Events that nobody waits for now.
    pub(super) events: Vec<EventFd>,
}

pub(super) struct Slot {
    pub(super) id: u64,
    /// What it is called on the wire, where commands have ids.
    pub(super) wire_id: u32,
    pub(super) stage: Stage,
    pub(super) command: Command,
    /// Whose it is; nobody's if the answer is of no use any more.
    pub(super) owner: Option<Requester>,
    /// Signalled when there is something to do for its owner; none while the owner is away.
    pub(super) event: Option<EventFd>,
    /// How long it may still take.
    pub(super) patience: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not sent yet.
    Waiting,
    /// On its way.
    Sent,
    /// Answered.
    Done(u64),
    /// It will not be.
    Gone,
}

impl State {
    /// The place of a command: that of before, if its owner was called away from the same one. None if
    /// the device is dead.
    pub(super) fn take_up(
        &mut self,
        command: Command,
        owner: Requester,
        patience: Option<Duration>,
    ) -> Option<u64> {
        if let Some(slot) = self.left_behind(owner) {
            let (id, same) = (slot.id, slot.command == command);
            if same {
                let event = self.event()?;
                self.slots.iter_mut().filter(|slot| slot.id == id).for_each(|slot| {
                    slot.event = Some(event.clone());
                });
                return Some(id);
            }
            self.abandon(id);
        }
        self.ends.as_ref()?;
        let (id, event) = (self.next_slot, self.event()?);
        self.next_slot += 1;
        let (stage, owner, event) = (Stage::Waiting, Some(owner), Some(event));
        let wire_id = self.wire_id();
        self.slots.push_back(Slot { id, wire_id, stage, command, owner, event, patience });
        Some(id)
    }

    /// The command that its owner was called away from.
    pub(super) fn left_behind(&self, owner: Requester) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.owner == Some(owner) && slot.event.is_none())
    }

    /// What the next command is called, posted ones included.
    pub(super) fn wire_id(&mut self) -> u32 {
        self.next_wire_id = self.next_wire_id.wrapping_add(1);
        self.next_wire_id
    }

    pub(super) fn event(&mut self) -> Option<EventFd> {
        self.events.pop().or_else(|| {
            let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
            event.ok().map(EventFd::new)
        })
    }

    /// The owner of a command is called away from it.
    pub(super) fn park(&mut self, id: u64, left: Option<Duration>) {
        let mut events = Vec::new();
        for slot in self.slots.iter_mut().filter(|slot| slot.id == id) {
            slot.patience = left;
            events.extend(slot.event.take());
        }
        self.events.append(&mut events);
        self.wake_first();
    }

    /// A command is over.
    pub(super) fn leave(&mut self, id: u64) {
        if let Some(at) = self.slots.iter().position(|slot| slot.id == id) {
            let slot = self.slots.remove(at);
            self.events.extend(slot.and_then(|slot| slot.event));
        }
        self.wake_first();
    }

    /// Nobody will ask for the answer of a command.
    pub(super) fn abandon(&mut self, id: u64) {
        let Some(at) = self.slots.iter().position(|slot| slot.id == id) else { return };
        if let Some(slot) = self.slots.get_mut(at).filter(|slot| slot.stage == Stage::Sent) {
            *slot = Slot::ghost(slot.command, slot.wire_id);
        } else {
            self.slots.remove(at);
        }
    }

    /// The first command whose owner waits: the one that looks for responses.
    pub(super) fn first_present(&self) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.event.is_some())
    }

    pub(super) fn wake_first(&self) {
        if let Some(slot) = self.first_present() {
            slot.wake();
        }
    }

    /// Sends what is to go out, as far as there is room; whether that was all.
    pub(super) fn send(&mut self, ends: &Ends) -> Result<bool, Death> {
        let mut sent = 0;
        let result = loop {
            let rest = self.unsent.get(sent..).unwrap_or_default();
            if rest.is_empty() {
                break Ok(true);
            }
            match ends.send(rest, COMMAND_LEN) {
                Ok(n) => sent += n,
                Err(Errno::AGAIN) => break Ok(false),
                Err(Errno::PIPE | Errno::CONNRESET) => break Err(Death::Closed),
                Err(Errno::PROTO) => break Err(Death::Protocol("its ring cannot be")),
                Err(error) => break Err(Death::Io(error)),
            }
        };
        self.unsent.drain(..sent.min(self.unsent.len()));
        if sent > 0 || self.unsent.is_empty() {
            self.stalled_since = None;
        }
        if !self.unsent.is_empty() {
            self.stalled_since.get_or_insert_with(Instant::now);
        }
        result
    }

    /// Gives a response to the command it is of: that of its id, or the one that is on its way.
    pub(super) fn answer(&mut self, value: u64, wire_id: Option<u32>) -> Result<(), Death> {
        let is_it = |slot: &Slot| wire_id.is_none_or(|id| slot.wire_id == id);
        let at = self.slots.iter().position(|slot| slot.stage == Stage::Sent && is_it(slot));
        let Some(at) = at else {
            return Err(Death::Protocol("it has answered what nobody asked"));
        };
        if let Some(slot) = self.slots.get_mut(at) {
            slot.stage = Stage::Done(value);
            slot.wake();
            if slot.owner.is_none() {
                self.slots.remove(at);
            }
        }
        Ok(())
    }

    /// Lets go of the device and of all that it was asked.
    pub(super) fn bury(&mut self) {
        if let Some(ends) = self.ends.take() {
            ends.shutdown();
        }
        self.unsent.clear();
        self.stalled_since = None;
        self.partial.1 = 0;
        self.slots.retain(|slot| slot.owner.is_some());
        for slot in &mut self.slots {
            if matches!(slot.stage, Stage::Waiting | Stage::Sent) {
                slot.stage = Stage::Gone;
            }
            slot.wake();
        }
    }
}

impl Slot {
    /// A command whose answer is of no use, and will come.
    pub(super) fn ghost(command: Command, wire_id: u32) -> Self {
        let (stage, owner, event, patience) = (Stage::Sent, None, None, None);
        Self { id: u64::MAX, wire_id, stage, command, owner, event, patience }
    }

    pub(super) fn wake(&self) {
        if let Some(event) = &self.event {
            event.signal();
        }
    }
}
