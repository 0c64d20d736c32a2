//! The VMM's side: a channel to a device behind descriptors.
//!
//! Whoever has an access to make takes a place in a queue of commands that want a response, and waits
//! by `poll(2)` with no lock held; the first in the queue looks for responses. One command is on its way
//! at a time, as a response does not say what it answers, or any number, where it does. A vCPU that is called away leaves its command
//! where it is (the response, or the half of it that has come, is kept), and finds it again when it
//! makes the same access.
//!
//! A write that is posted goes out at once, before anything the same vCPU does later; the queue is the
//! descriptor's. When that is full the vCPU waits, for as long as [`LinkOptions::post_patience`].
//! So whatever the guest does arrives in one order, and when a read has been answered, all writes before
//! it have arrived.

mod options;
mod state;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use trapline_access::{Answer, Channel, Forwarded, Requester, Size, Waiter};

use self::state::{Slot, Stage, State};
use crate::ends::Ends;
use crate::wire::{COMMAND_LEN, Command, Op, RESPONSE_LEN, Reply, Response, Width};

pub use self::options::{Death, LinkOptions, WhenFull};

/// What went through a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Commands that were sent, or are about to be.
    pub commands: u64,
    /// Responses that came.
    pub responses: u64,
    /// Posted writes that were lost as there was no room.
    pub dropped: u64,
    /// How often the device was found dead.
    pub deaths: u64,
}

#[derive(Default)]
struct Counters {
    commands: AtomicU64,
    responses: AtomicU64,
    dropped: AtomicU64,
    deaths: AtomicU64,
}

/// A channel to a device behind descriptors.
pub struct Link {
    options: LinkOptions,
    state: Mutex<State>,
    counters: Counters,
}

/// Most bytes that are kept back for more to follow.
const BATCH_MAX: usize = 128 * COMMAND_LEN;
/// Longest wait after which a waiter is asked again, should a signal have come just before the wait.
const LOOK_AROUND: Duration = Duration::from_millis(50);

impl Link {
    /// A channel through these.
    pub fn new(ends: Ends, options: LinkOptions) -> Self {
        Self::of(Some(ends), options)
    }

    /// A channel to a device that is still to come ([`Link::replace`]): dead until then.
    pub fn without_device(options: LinkOptions) -> Self {
        Self::of(None, options)
    }

    fn of(ends: Option<Ends>, options: LinkOptions) -> Self {
        let state = State {
            ends: ends.map(Arc::new),
            unsent: Vec::new(),
            stalled_since: None,
            partial: ([0; RESPONSE_LEN], 0),
            slots: VecDeque::new(),
            next_slot: 0,
            next_wire_id: 0,
            events: Vec::new(),
        };
        Self { options, state: Mutex::new(state), counters: Counters::default() }
    }

    /// Whether the device is there, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.state.lock().ends.is_some()
    }

    /// What went through it.
    pub fn stats(&self) -> LinkStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { commands, responses, dropped, deaths } = &self.counters;
        LinkStats {
            commands: get(commands),
            responses: get(responses),
            dropped: get(dropped),
            deaths: get(deaths),
        }
    }

    /// Goes on with another device in the place of one that is dead. What that one was asked is not
    /// asked again.
    pub fn replace(&self, ends: Ends) {
        let mut state = self.state.lock();
        state.bury();
        state.ends = Some(Arc::new(ends));
    }

    /// Lets go of the descriptors: no region leads here any more. The device hears of it if nobody else
    /// has them.
    pub fn close(&self) {
        let mut state = self.state.lock();
        let ends = state.ends.take();
        state.bury();
        drop(ends);
    }

    /// Gives up the accesses to the region with this `user_data` that are under way: they read as ones,
    /// and their answers are not waited for.
    pub fn cancel(&self, user_data: u64) {
        let mut state = self.state.lock();
        let mut ghosts = Vec::new();
        for slot in &mut state.slots {
            if slot.command.user_data != user_data || slot.owner.is_none() {
                continue;
            }
            if slot.stage == Stage::Sent {
                ghosts.push((slot.id, slot.command, slot.wire_id));
            }
            if matches!(slot.stage, Stage::Waiting | Stage::Sent) {
                slot.stage = Stage::Gone;
                slot.wake();
            }
        }
        for (id, command, wire_id) in ghosts {
            // The response comes all the same, and has to be taken for what it is.
            let at = state.slots.iter().position(|slot| slot.id == id).unwrap_or_default();
            state.slots.insert(at, Slot::ghost(command, wire_id));
        }
        state.wake_first();
    }

    /// Sends a command that wants a response, and waits for it.
    fn exchange(&self, command: Command, owner: Requester, waiter: Option<&dyn Waiter>) -> Answer {
        let mut state = self.state.lock();
        let Some(id) = state.take_up(command, owner, self.options.reply_patience) else {
            return Answer::Gone;
        };
        let start = Instant::now();
        loop {
            let wants_room = match self.pump(&mut state) {
                Ok(wants_room) => wants_room,
                Err(death) => {
                    state = self.die(state, death);
                    false
                }
            };
            let Some(slot) = state.slots.iter().find(|slot| slot.id == id) else {
                return Answer::Gone;
            };
            match slot.stage {
                Stage::Done(value) => {
                    state.leave(id);
                    return Answer::Done(value);
                }
                Stage::Gone => {
                    state.leave(id);
                    return Answer::Gone;
                }
                Stage::Waiting | Stage::Sent => {}
            }
            let left = slot.patience.map(|patience| patience.saturating_sub(start.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                let patience = self.options.reply_patience.unwrap_or_default();
                state = self.die(state, Death::Timeout(patience));
                continue;
            }
            if waiter.is_some_and(Waiter::is_wanted) {
                state.park(id, left);
                return Answer::Interrupted;
            }
            state = self.wait(state, id, wants_room, left);
        }
    }

    /// Waits for something to do for the command `id`, without the lock.
    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        id: u64,
        wants_room: bool,
        left: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        let is_first = state.first_present().is_some_and(|slot| slot.id == id);
        let event = state.slots.iter().find(|slot| slot.id == id).and_then(|s| s.event.clone());
        let (Some(ends), Some(event)) = (state.ends.clone(), event) else { return state };
        drop(state);
        // Whoever is looked for responses by may find one without sleep.
        if is_first && (ends.spin() || !ends.go_to_sleep(wants_room)) {
            return self.state.lock();
        }
        let mut fds = vec![PollFd::new(&event, PollFlags::IN)];
        let (readable, writable) = (ends.readable(), ends.writable());
        if is_first {
            fds.push(PollFd::from_borrowed_fd(readable, PollFlags::IN));
            if wants_room {
                fds.push(PollFd::from_borrowed_fd(writable, ends.room()));
            }
        }
        sleep(&mut fds, left);
        if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            event.take();
        }
        if is_first {
            ends.wake_up();
        }
        self.state.lock()
    }

    /// Sends and receives what can be at once; whether it takes room to go on.
    fn pump(&self, state: &mut State) -> Result<bool, Death> {
        let Some(ends) = state.ends.clone() else { return Ok(false) };
        // What comes before it is asked for answers nothing.
        if !state.slots.iter().any(|slot| slot.stage == Stage::Sent) {
            self.receive(state, &ends)?;
        }
        let wants_room = loop {
            if !state.send(&ends)? {
                break true;
            }
            // Without ids one is on its way at a time.
            if !self.options.ids && state.slots.iter().any(|slot| slot.stage == Stage::Sent) {
                break false;
            }
            let next = state.slots.iter_mut().find(|slot| slot.stage == Stage::Waiting);
            let Some(slot) = next else { break false };
            slot.stage = Stage::Sent;
            let bytes = self.encode(&slot.command, slot.wire_id);
            state.unsent.extend(bytes);
        };
        self.receive(state, &ends)?;
        Ok(wants_room)
    }

    fn encode(&self, command: &Command, wire_id: u32) -> [u8; COMMAND_LEN] {
        match self.options.ids {
            true => command.encode_with_id(wire_id),
            false => command.encode(self.options.layout),
        }
    }

    /// What a response says, and which command it is of, if it says so. A device that could not reads as
    /// ones.
    fn decode(&self, bytes: &[u8; RESPONSE_LEN]) -> (u64, Option<u32>) {
        if !self.options.ids {
            return (Response::decode(bytes).data, None);
        }
        let Reply { id, data, failed } = Reply::decode(bytes);
        (if failed { u64::MAX } else { data }, Some(id))
    }

    /// Takes the responses that have come.
    fn receive(&self, state: &mut State, ends: &Ends) -> Result<(), Death> {
        let mut was_reset = false;
        loop {
            let (bytes, have) = &mut state.partial;
            let room = bytes.get_mut(*have..).unwrap_or_default();
            match ends.receive(room) {
                Ok(0) if *have > 0 => return Err(Death::Protocol("its response is too short")),
                Ok(0) => return Err(Death::Closed),
                Ok(n) if ends.has_borders() && n != RESPONSE_LEN => {
                    return Err(Death::Protocol("its response is too short"));
                }
                Ok(n) => *have += n,
                Err(Errno::AGAIN) => return Ok(()),
                // What it sent before may still be there to read.
                Err(Errno::CONNRESET) if !was_reset => was_reset = true,
                Err(Errno::CONNRESET) => return Err(Death::Closed),
                Err(Errno::PROTO) => return Err(Death::Protocol("its ring cannot be")),
                Err(Errno::MSGSIZE) => return Err(Death::Protocol("its response is too long")),
                Err(error) => return Err(Death::Io(error)),
            }
            if *have == RESPONSE_LEN {
                let (value, wire_id) = self.decode(bytes);
                *have = 0;
                self.counters.responses.fetch_add(1, Ordering::Relaxed);
                state.answer(value, wire_id)?;
            }
        }
    }

    /// The device is dead: whoever waits for it waits no more.
    fn die<'a>(&'a self, mut state: MutexGuard<'a, State>, death: Death) -> MutexGuard<'a, State> {
        if state.ends.is_none() {
            return state;
        }
        state.bury();
        drop(state);
        self.counters.deaths.fetch_add(1, Ordering::Relaxed);
        (self.options.on_death)(&death);
        self.state.lock()
    }

    /// Sends a command that wants no response.
    fn post(&self, command: Command, more: bool, waiter: Option<&dyn Waiter>) -> Answer {
        let start = Instant::now();
        let mut state = self.state.lock();
        let wire_id = if self.options.ids { state.wire_id() } else { 0 };
        let bytes = self.encode(&command, wire_id);
        if more && state.ends.is_some() && state.unsent.len() < BATCH_MAX {
            state.unsent.extend(bytes);
            return Answer::Done(0);
        }
        // It is not taken before there is room for all that came before it.
        loop {
            let Some(ends) = state.ends.clone() else { return Answer::Gone };
            let sent = state.send(&ends).and_then(|all_gone| {
                if !all_gone {
                    return Ok(false);
                }
                state.unsent.extend(bytes);
                state.send(&ends)?;
                // A part of it can not be taken back.
                let taken = state.unsent.len() < COMMAND_LEN;
                if !taken {
                    state.unsent.clear();
                }
                Ok(taken)
            });
            match sent {
                Ok(true) => return Answer::Done(0),
                Ok(false) => {}
                Err(death) => {
                    drop(self.die(state, death));
                    return Answer::Gone;
                }
            }
            if waiter.is_some_and(Waiter::is_wanted) {
                return Answer::Interrupted;
            }
            let left = self.options.post_patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return self.overflow(state);
            }
            drop(state);
            wait_for_room(&ends, left);
            state = self.state.lock();
        }
    }

    fn overflow(&self, state: MutexGuard<'_, State>) -> Answer {
        match self.options.when_full {
            WhenFull::Drop => {
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
                Answer::Done(0)
            }
            WhenFull::Dead => {
                drop(self.die(state, Death::Stalled(self.options.post_patience)));
                Answer::Gone
            }
        }
    }
}

impl Channel for Link {
    fn read(&self, access: &Forwarded, waiter: Option<&dyn Waiter>) -> Answer {
        self.counters.commands.fetch_add(1, Ordering::Relaxed);
        self.exchange(command(access, Op::Read, 0), access.requester, waiter)
    }

    fn write(&self, access: &Forwarded, value: u64, waiter: Option<&dyn Waiter>) -> Answer {
        self.counters.commands.fetch_add(1, Ordering::Relaxed);
        let command = command(access, Op::Write, value);
        if access.posted {
            self.post(command, access.more, waiter)
        } else {
            self.exchange(command, access.requester, waiter)
        }
    }

    fn forget(&self, requester: Requester) {
        let mut state = self.state.lock();
        if let Some(id) = state.left_behind(requester).map(|slot| slot.id) {
            state.abandon(id);
        }
    }

    fn flush(&self) {
        let start = Instant::now();
        let mut state = self.state.lock();
        while let Some(ends) = state.ends.clone() {
            match state.send(&ends) {
                Ok(true) => return,
                Ok(false) => {}
                Err(death) => return drop(self.die(state, death)),
            }
            let left = self.flush_patience().saturating_sub(start.elapsed());
            let stalled = state.stalled_since.map_or(Duration::ZERO, |since| since.elapsed());
            if left.is_zero() && stalled < self.options.post_patience {
                // The device may only be slow: the rest goes before whatever comes next.
                return;
            }
            if left.is_zero() {
                let kept = (state.unsent.len() / COMMAND_LEN) as u64;
                if self.options.when_full == WhenFull::Drop {
                    // What is left of a command that is partly sent has to follow.
                    let rest = state.unsent.len() % COMMAND_LEN;
                    state.unsent.truncate(rest);
                    self.counters.dropped.fetch_add(kept.saturating_sub(1), Ordering::Relaxed);
                }
                self.overflow(state);
                return;
            }
            drop(state);
            wait_for_room(&ends, left);
            state = self.state.lock();
        }
    }
}

impl Link {
    /// Nobody can be called away from a batch, so it waits less long.
    fn flush_patience(&self) -> Duration {
        const PATIENCE: Duration = Duration::from_millis(50);
        self.options.post_patience.min(PATIENCE)
    }
}

fn wait_for_room(ends: &Ends, left: Duration) {
    if ends.go_to_sleep(true) {
        sleep(&mut [PollFd::from_borrowed_fd(ends.writable(), ends.room())], Some(left));
        ends.wake_up();
    }
}

/// Waits for one of them, for a signal, or for a while.
fn sleep(fds: &mut [PollFd<'_>], left: Option<Duration>) {
    let time = left.unwrap_or(LOOK_AROUND).min(LOOK_AROUND);
    let time = Timespec::try_from(time).ok();
    // Whatever it comes to, the caller looks.
    let _ = poll(fds, time.as_ref());
}

/// An access as a command.
fn command(access: &Forwarded, op: Op, value: u64) -> Command {
    let width = match access.size {
        Some(Size::Byte) | None => Width::Bits8,
        Some(Size::Word) => Width::Bits16,
        Some(Size::Dword) => Width::Bits32,
        Some(Size::Qword) => Width::Bits64,
    };
    let Forwarded { user_data, offset, posted, .. } = *access;
    Command { op, width, respond: !posted, user_data, offset, data: value & width.ones() }
}
