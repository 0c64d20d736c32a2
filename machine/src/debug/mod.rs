//! Stopping a guest to look at it: at an access, or at an instruction.
//!
//! ```text
//!   Client ──add──► Break ──watch──► registry        the vCPU makes the access
//!     ▲                                  └─ Observer: does it match? ──► Hit, Brake::pull
//!     │                                                                     │ access complete
//!   listener ◄── announce ◄── Session: all vCPUs stopped, machine paused ◄──┘ Stop::Braked
//!     └──► Control::inspect: registers, memory, call chain ──► Control::resume
//! ```
//!
//! The vCPU stops **after** the access: it is complete, with its value, and the instruction is over, so
//! that registers can be read and written. The machine is paused then, as by [`crate::Control::pause`]:
//! no other vCPU, no timer and no back end runs, and the clock goes on.
//!
//! A break is a watch of the registry, which takes coalesced, mirrored, forwarded windows and doorbells
//! back from the source, so that none of their accesses is missed.

mod cpu;
mod place;
mod report;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline::{Observer, Outcome, Registry, Requester, TraceRecord, Watch, Watching};
use trapline_kvm::{Brake, SeenMemory, Vcpu, Vm};
use trapline_symbols::{Kernel, Symbols};

use crate::kvm::Host;

pub(crate) use cpu::of as cpu_of;
pub use place::{Break, BreakError};
pub use report::{FrameReport, StopReport};
pub use trapline_kvm::{DebugStop, Processor, Traps, Watchpoint};

/// Hits of one stop that are told; others are counted.
const HITS_MAX: usize = 16;
/// Breaks of one client.
const BREAKS_MAX: usize = 64;

/// Hears of stops, on the machine's thread, which it must not hold up: what it wants of the machine it
/// asks for from another thread.
pub type Listener = Arc<dyn Fn(&Stopped) + Send + Sync>;

/// Who debugs a machine, and what stops it. One for each machine.
#[derive(Default)]
pub struct Debug {
    state: Mutex<State>,
    symbols: Mutex<SymbolState>,
}

#[derive(Default)]
struct State {
    registry: Option<Registry>,
    brakes: Vec<Brake>,
    clients: BTreeMap<u64, ClientState>,
    last_id: u64,
    stopped: Stopped,
}

struct ClientState {
    listener: Listener,
    /// Stops at instructions are this one's.
    instructions: bool,
    breaks: BTreeMap<u64, (Arc<Break>, Option<Watching>)>,
    step: Option<Watching>,
    /// The machine stands still for it.
    holds: bool,
}

#[derive(Default)]
struct SymbolState {
    /// Of a file.
    file: Option<Arc<Symbols>>,
    found: Option<Arc<Kernel>>,
    /// Where none was found.
    missing: Option<u64>,
}

/// Why a machine stands still.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// What stopped it, in the order in which it came.
    pub hits: Vec<Hit>,
    /// How many more there were.
    pub more: u64,
}

/// Something that stops a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Whose client it is for; none is left if it has gone.
    client: u64,
    /// The vCPU, unless a device made the access by itself.
    pub vcpu: Option<u32>,
    /// What.
    pub cause: Cause,
}

/// What stops a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An access, in words, and the break it came to; without one it is the next access of
    /// [`Client::step`].
    Access {
        /// `serial0/uart LCR (pio 0x3fb) write 1 byte 0x83`.
        access: String,
        /// The break's number and words.
        place: Option<(u64, String)>,
    },
    /// An instruction.
    Instruction(DebugStop),
}

impl Debug {
    /// What there is to be stopped.
    pub(crate) fn begin(&self, registry: &Registry, brakes: Vec<Brake>) {
        let mut state = self.state.lock();
        state.registry = Some(registry.clone());
        state.brakes = brakes;
    }

    /// Takes symbols from a file, and no longer from the guest's memory.
    pub fn set_symbols(&self, symbols: Symbols) {
        *self.symbols.lock() = SymbolState { file: Some(Arc::new(symbols)), ..Default::default() };
    }

    /// Adds a client: who sets breaks, and hears of its own. `instructions`: also of vCPUs that come
    /// to what [`Vcpu::set_traps`] asked for.
    pub fn client(self: &Arc<Self>, instructions: bool, listener: Listener) -> Client {
        let mut state = self.state.lock();
        state.last_id += 1;
        let id = state.last_id;
        let (breaks, step, holds) = Default::default();
        state.clients.insert(id, ClientState { listener, instructions, breaks, step, holds });
        Client { debug: Arc::clone(self), id }
    }

    /// A vCPU came to an instruction.
    pub(crate) fn instruction(&self, vcpu: u32, stop: DebugStop) {
        let mut state = self.state.lock();
        let client = state.clients.iter().find(|(_, client)| client.instructions);
        let client = client.map_or(0, |(id, _)| *id);
        state.hit(Hit { client, vcpu: Some(vcpu), cause: Cause::Instruction(stop) });
    }

    /// The machine stands still: tells whose hits these are. `None`: there were none. Otherwise
    /// whether somebody was told.
    pub(crate) fn announce(&self) -> Option<bool> {
        let (stopped, listeners, steps) = {
            let mut state = self.state.lock();
            let stopped = std::mem::take(&mut state.stopped);
            if stopped.hits.is_empty() {
                return None;
            }
            // A step is over, whatever it was that stopped it.
            let steps: Vec<_> =
                state.clients.values_mut().filter_map(|client| client.step.take()).collect();
            let mine = |id| {
                let hits = stopped.hits.iter().filter(move |hit| hit.client == id);
                Stopped { hits: hits.cloned().collect(), more: stopped.more }
            };
            let clients = state.clients.iter_mut().map(|(id, client)| (mine(*id), client));
            let told: Vec<_> = clients
                .filter(|(mine, _)| !mine.hits.is_empty())
                .map(|(mine, client)| {
                    client.holds = true;
                    (mine, Arc::clone(&client.listener))
                })
                .collect();
            (stopped, told, steps)
        };
        drop((steps, stopped));
        listeners.iter().for_each(|(stopped, listener)| listener(stopped));
        Some(!listeners.is_empty())
    }

    /// The machine is about to run: it stands still for nobody.
    pub(crate) fn goes_on(&self) {
        self.state.lock().clients.values_mut().for_each(|client| client.holds = false);
    }

    fn registry(&self) -> Option<Registry> {
        self.state.lock().registry.clone()
    }

    fn access(&self, client: u64, place: Option<(u64, String)>, record: &TraceRecord<'_>) {
        // A write that the source had queued before it was watched was made some time ago.
        if record.outcome == Outcome::Coalesced {
            return;
        }
        let vcpu = match record.requester {
            Requester::Vcpu(vcpu) => Some(vcpu),
            _ => None,
        };
        let mut state = self.state.lock();
        if !state.clients.contains_key(&client) {
            return;
        }
        let access = record.to_string();
        // Whose it is, is said beside it.
        let access = access.split_once(": ").map_or(&*access, |(_, access)| access).to_owned();
        state.hit(Hit { client, vcpu, cause: Cause::Access { access, place } });
        // A device's own access is made by whatever thread; all are to stop then.
        let all = vcpu.is_none();
        let brakes = (0..).zip(&state.brakes);
        let pulled = brakes.filter(|(index, _)| all || vcpu == Some(*index));
        let pulled: Vec<_> = pulled.map(|(_, brake)| brake.clone()).collect();
        drop(state);
        pulled.iter().for_each(Brake::pull);
    }

    /// The kernel that `vcpu` runs, if it is known or can be found.
    fn kernel(&self, standing: &Standing<'_>, cpu: &trapline_symbols::Cpu) -> Option<Arc<Kernel>> {
        let virt = trapline_symbols::Virtual::of(standing, cpu);
        let mut state = self.symbols.lock();
        let near = Kernel::anchor(&virt, cpu);
        if let Some(found) = state.found.as_ref()
            // A user's registers may not show the kernel's place, which does not change meanwhile.
            && near.map_or(cpu.is_user(), |near| found.is_text(near))
        {
            return Some(Arc::clone(found));
        }
        if near.is_none() || state.missing == near {
            return None;
        }
        let found = match &state.file {
            Some(file) => Kernel::of_file(&virt, cpu, file),
            None => Kernel::in_memory(&virt, cpu),
        };
        state.found = found.map(Arc::new);
        state.missing = if state.found.is_some() { None } else { near };
        state.found.clone()
    }
}

impl State {
    fn hit(&mut self, hit: Hit) {
        if self.stopped.hits.len() < HITS_MAX {
            self.stopped.hits.push(hit);
        } else {
            self.stopped.more += 1;
        }
    }
}

/// Who debugs a machine. Dropping it takes its breaks away; a machine that stands still stays so.
pub struct Client {
    debug: Arc<Debug>,
    id: u64,
}

impl Client {
    /// Stops the machine at accesses as `text` says ([`Break`]); the number is that of the break.
    ///
    /// # Errors
    /// What is wrong with the words, or that there are too many breaks.
    pub fn add(&self, text: &str) -> Result<u64, BreakError> {
        let registry = self.registry()?;
        let place = Arc::new(Break::parse(text, &registry)?);
        let id = {
            let mut state = self.debug.state.lock();
            state.last_id += 1;
            let id = state.last_id;
            let client = state.clients.get_mut(&self.id).ok_or(BreakError::Over)?;
            if client.breaks.len() >= BREAKS_MAX {
                return Err(BreakError::TooMany { max: BREAKS_MAX });
            }
            client.breaks.insert(id, (Arc::clone(&place), None));
            id
        };
        let trigger = Trigger {
            debug: Arc::downgrade(&self.debug),
            client: self.id,
            place: Some((id, Arc::clone(&place))),
        };
        // An edit, for which no lock is held: it may wait for vCPUs, which may come to a break.
        match registry.watch(place.watch(), Arc::new(trigger)) {
            Ok(watching) => {
                let mut state = self.debug.state.lock();
                let client = state.clients.get_mut(&self.id);
                if let Some((_, kept)) = client.and_then(|client| client.breaks.get_mut(&id)) {
                    *kept = Some(watching);
                }
                Ok(id)
            }
            Err(error) => {
                self.remove(id);
                Err(BreakError::Watch(error.to_string()))
            }
        }
    }

    /// Takes a break away; whether there was one of that number.
    pub fn remove(&self, id: u64) -> bool {
        let mut state = self.debug.state.lock();
        let removed = state.clients.get_mut(&self.id).and_then(|client| client.breaks.remove(&id));
        drop(state);
        removed.is_some()
    }

    /// Takes all breaks away.
    pub fn clear(&self) {
        let mut state = self.debug.state.lock();
        let client = state.clients.get_mut(&self.id);
        let removed = client.map(|client| (std::mem::take(&mut client.breaks), client.step.take()));
        drop(state);
        drop(removed);
    }

    /// The breaks: their numbers and words.
    pub fn list(&self) -> Vec<(u64, String)> {
        let state = self.debug.state.lock();
        let breaks = state.clients.get(&self.id).map(|client| &client.breaks);
        let told = |(id, (place, _)): (&u64, &(Arc<Break>, _))| (*id, place.to_string());
        breaks.map_or_else(Vec::new, |breaks| breaks.iter().map(told).collect())
    }

    /// Has the machine stop at the next access of `vcpu`, whatever it is to, or, without one, of any.
    ///
    /// # Errors
    /// The machine is over, or its registry refuses.
    pub fn step(&self, vcpu: Option<u32>) -> Result<(), BreakError> {
        let registry = self.registry()?;
        let debug = Arc::downgrade(&self.debug);
        let trigger = Stepping { trigger: Trigger { debug, client: self.id, place: None }, vcpu };
        let watching = registry.watch(Watch::new().everything(), Arc::new(trigger));
        let watching = watching.map_err(|error| BreakError::Watch(error.to_string()))?;
        let mut state = self.debug.state.lock();
        let client = state.clients.get_mut(&self.id).ok_or(BreakError::Over)?;
        let before = client.step.replace(watching);
        drop(state);
        drop(before);
        Ok(())
    }

    /// Takes its breaks away for good, and hears of no stop any more; whether the machine stands still
    /// for it, whether or not it has heard of that yet.
    pub fn close(&self) -> bool {
        let removed = self.debug.state.lock().clients.remove(&self.id);
        removed.is_some_and(|client| client.holds)
    }

    fn registry(&self) -> Result<Registry, BreakError> {
        self.debug.registry().ok_or(BreakError::Over)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}

/// Hears of the accesses to one place, and stops the vCPU that makes the right one.
struct Trigger {
    debug: Weak<Debug>,
    client: u64,
    place: Option<(u64, Arc<Break>)>,
}

impl Observer for Trigger {
    fn access(&self, record: &TraceRecord<'_>) {
        let Some((id, place)) = &self.place else { return };
        if place.matches(record)
            && let Some(debug) = self.debug.upgrade()
        {
            debug.access(self.client, Some((*id, place.to_string())), record);
        }
    }
}

/// Hears of all accesses, and stops the vCPU that makes the first one.
struct Stepping {
    trigger: Trigger,
    vcpu: Option<u32>,
}

impl Observer for Stepping {
    fn access(&self, record: &TraceRecord<'_>) {
        let ours = match record.requester {
            Requester::Vcpu(vcpu) => self.vcpu.is_none_or(|wanted| wanted == vcpu),
            _ => false,
        };
        if ours && let Some(debug) = self.trigger.debug.upgrade() {
            debug.access(self.trigger.client, None, record);
        }
    }
}

/// A machine that stands still, to be looked into.
pub struct Standing<'a> {
    /// Its vCPUs, by their indices.
    pub vcpus: &'a mut [Vcpu],
    /// What they see.
    pub memory: SeenMemory,
    pub(crate) debug: &'a Debug,
    pub(crate) host: &'a Host,
    pub(crate) vm: &'a Vm,
}

impl trapline_symbols::Memory for Standing<'_> {
    fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
        self.memory.read(addr, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(client: &Client) -> Hit {
        let cause = Cause::Access { access: String::new(), place: None };
        Hit { client: client.id, vcpu: Some(0), cause }
    }

    /// A client that has been told of a stop and does not know yet.
    fn told(debug: &Arc<Debug>) -> Client {
        let client = debug.client(false, Arc::new(|_| {}));
        debug.state.lock().hit(hit(&client));
        assert_eq!(debug.announce(), Some(true));
        client
    }

    #[test]
    fn who_leaves_knows_whether_the_machine_stands_still_for_it() {
        let debug = Arc::new(Debug::default());
        let other = debug.client(false, Arc::new(|_| {}));
        let client = told(&debug);
        assert_eq!([client.close(), client.close(), other.close()], [true, false, false]);
        let client = told(&debug);
        debug.goes_on();
        assert!(!client.close());
        let client = debug.client(false, Arc::new(|_| {}));
        debug.state.lock().hit(hit(&client));
        assert!(!client.close(), "it does not stand still yet");
        assert_eq!(debug.announce(), Some(false), "and will not");
    }
}
