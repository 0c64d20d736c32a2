//! The guest as gdb's protocol has it: each vCPU is a thread, and all of them stop and go together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use gdbstub::common::{Signal, Tid};
use gdbstub::conn::ConnectionExt;
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
    SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps, outputln};
use gdbstub::target::{Target, TargetError, TargetResult};
use trapline_machine::debug::{Cause, Client, DebugStop, Standing, Stopped, Traps, Watchpoint};
use trapline_machine::{Control, State};

use super::connection::Connection;
use super::registers::{self, Arch, BREAKPOINT, Registers};

/// How often it is looked whether gdb wants something while the guest runs.
const LOOK: Duration = Duration::from_millis(10);

/// What `monitor` knows.
const HELP: &str = "\
monitor break NAME[:REGISTER][=r|w|rw][,value=N]  stop after such accesses to devices
monitor list          the breaks
monitor delete NUMBER no longer stop there
monitor step          on continue, stop at the next access
monitor report        why it stopped, with symbols, registers and the last accesses";

/// The guest of one connection.
pub(super) struct Guest {
    control: Control,
    client: Client,
    stops: Receiver<Stopped>,
    /// Where it stops, whatever it does next.
    traps: Traps,
    /// What was there before a breakpoint was written into memory: where, and the bytes.
    written: BTreeMap<u64, (u64, Vec<u8>)>,
    /// The vCPU that is to do one step.
    step: Option<Tid>,
    /// Those that are to go on.
    going: BTreeSet<Tid>,
    /// All others stand still.
    locked: bool,
    last: Stopped,
}

/// What cannot be done, in a sentence. The connection ends of it.
pub(super) type Failure = String;

fn tid(vcpu: u32) -> Tid {
    usize::try_from(vcpu).ok().and_then(|index| Tid::new(index + 1)).unwrap_or(Tid::MIN)
}

fn index(tid: Tid) -> usize {
    tid.get() - 1
}

impl Guest {
    pub(super) fn new(control: Control, client: Client, stops: Receiver<Stopped>) -> Self {
        let (traps, written, step, going, locked, last) = Default::default();
        Self { control, client, stops, traps, written, step, going, locked, last }
    }

    /// Has the guest stand still.
    pub(super) fn pause(&self) -> Result<(), Failure> {
        self.control.pause().map_err(|error| error.to_string())
    }

    /// Takes away all that stops the guest, and has it go on: gdb has gone.
    pub(super) fn leave(&mut self) {
        self.client.clear();
        // It may be running.
        if self.control.pause().is_ok() {
            let written = std::mem::take(&mut self.written);
            let _ = self.look(move |standing| {
                for (phys, before) in written.values() {
                    restore(standing, *phys, before);
                }
                standing.vcpus.iter_mut().for_each(|vcpu| drop(vcpu.set_traps(&Traps::default())));
            });
            let _ = self.control.resume();
        }
    }

    /// Ends the guest: gdb wants it so.
    pub(super) fn kill(&self) {
        self.control.request_stop();
    }

    fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Standing<'_>) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        self.control.inspect(look).map_err(|error| error.to_string())
    }

    /// Has all vCPUs stop at what is wanted now.
    fn set_traps(&self) -> Result<(), Failure> {
        let (traps, step) = (self.traps.clone(), self.step.map(index));
        let (locked, going): (_, Vec<_>) =
            (self.locked, self.going.iter().copied().map(index).collect());
        let set = self.look(move |standing| {
            standing.vcpus.iter_mut().enumerate().try_for_each(|(n, vcpu)| {
                let step = step == Some(n);
                let held = locked && !step && !going.contains(&n);
                vcpu.set_traps(&Traps { step, held, ..traps.clone() })
            })
        })?;
        set.map_err(|error| error.to_string())
    }

    /// Tries to have vCPUs stop at `traps`, too; if it cannot be, it is as before.
    fn try_traps(&mut self, traps: Traps) -> TargetResult<bool, Self> {
        let before = std::mem::replace(&mut self.traps, traps);
        if self.set_traps().is_ok() {
            return Ok(true);
        }
        self.traps = before;
        self.set_traps().map_err(TargetError::Fatal)?;
        Ok(false)
    }

    /// gdb's word for a stop.
    fn reason(&mut self, stopped: Stopped) -> MultiThreadStopReason<u64> {
        self.step = None;
        let hit = stopped.hits.first();
        let thread = tid(hit.and_then(|hit| hit.vcpu).unwrap_or(0));
        let reason = match hit.map(|hit| &hit.cause) {
            Some(Cause::Instruction(DebugStop::Software(_))) => {
                MultiThreadStopReason::SwBreak(thread)
            }
            Some(Cause::Instruction(DebugStop::Hardware(_))) => {
                MultiThreadStopReason::HwBreak(thread)
            }
            Some(Cause::Instruction(DebugStop::Watch(addr))) => {
                let inside = |point: &&Watchpoint| addr.wrapping_sub(point.addr) < point.len;
                let point = self.traps.watchpoints.iter().find(inside);
                let kind = match point.map(|point| (point.read, point.write)) {
                    Some((true, false)) => WatchKind::Read,
                    Some((true, true)) => WatchKind::ReadWrite,
                    _ => WatchKind::Write,
                };
                MultiThreadStopReason::Watch { tid: thread, kind, addr: *addr }
            }
            _ => MultiThreadStopReason::SignalWithThread { tid: thread, signal: Signal::SIGTRAP },
        };
        self.last = stopped;
        reason
    }

    fn monitor(&mut self, line: &str) -> String {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match (word, rest.trim()) {
            ("break" | "b", place) if !place.is_empty() => match self.client.add(place) {
                Ok(number) => format!("break {number}: {place}"),
                Err(error) => error.to_string(),
            },
            ("list" | "l", "") => {
                let breaks = self.client.list();
                let lines = breaks.iter().map(|(number, place)| format!("{number}  {place}"));
                let lines: Vec<_> = lines.collect();
                if lines.is_empty() { "there are no breaks".to_owned() } else { lines.join("\n") }
            }
            ("delete" | "d", number) => match number.parse() {
                Ok(number) if self.client.remove(number) => String::new(),
                _ => format!("delete {number}: there is no such break"),
            },
            ("step" | "s", "") => match self.client.step(None) {
                Ok(()) => "continue stops at the next access".to_owned(),
                Err(error) => error.to_string(),
            },
            ("report" | "r", "") => self.report(),
            _ => HELP.to_owned(),
        }
    }

    fn report(&self) -> String {
        let stopped = self.last.clone();
        self.look(move |standing| standing.tell(&stopped)).unwrap_or_else(|error| error)
    }
}

/// Reads as much as there is.
fn read_memory(standing: &Standing<'_>, vcpu: usize, start: u64, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for (phys, piece) in standing.pieces(vcpu, start, len).unwrap_or_default() {
        let mut bytes = vec![0; piece];
        if !standing.memory.read(phys, &mut bytes) {
            break;
        }
        all.extend(bytes);
    }
    all
}

/// Writes all, or nothing of what is in the page that cannot be written and those after it.
fn write_memory(standing: &Standing<'_>, vcpu: usize, start: u64, data: &[u8]) -> bool {
    let mut rest = data;
    for (phys, piece) in standing.pieces(vcpu, start, data.len()).unwrap_or_default() {
        let Some((bytes, others)) = rest.split_at_checked(piece) else { return false };
        if !standing.memory.write(phys, bytes) {
            return false;
        }
        rest = others;
    }
    rest.is_empty()
}

/// Puts back what was there before a breakpoint, unless the guest has written something else there.
fn restore(standing: &Standing<'_>, phys: u64, before: &[u8]) {
    let mut now = vec![0; before.len()];
    if standing.memory.read(phys, &mut now) && now == BREAKPOINT {
        standing.memory.write(phys, before);
    }
}

impl Target for Guest {
    type Arch = Arch;
    type Error = Failure;

    fn base_ops(&mut self) -> BaseOps<'_, Arch, Failure> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Guest {
    fn read_registers(&mut self, to: &mut Registers, tid: Tid) -> TargetResult<(), Self> {
        let read = self.look(move |standing| {
            standing.vcpus.get(index(tid)).and_then(|vcpu| vcpu.processor().ok())
        });
        let processor = read.map_err(TargetError::Fatal)?.ok_or(TargetError::NonFatal)?;
        registers::read(&processor, to);
        Ok(())
    }

    fn write_registers(&mut self, from: &Registers, tid: Tid) -> TargetResult<(), Self> {
        let from = from.clone();
        let written = self.look(move |standing| {
            let vcpu = standing.vcpus.get(index(tid))?;
            let mut processor = vcpu.processor().ok()?;
            registers::write(&from, &mut processor);
            vcpu.set_processor(&processor).ok()
        });
        written.map_err(TargetError::Fatal)?.ok_or(TargetError::NonFatal)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let len = data.len();
        let read = self.look(move |standing| read_memory(standing, index(tid), start, len));
        let mut bytes = read.map_err(TargetError::Fatal)?;
        // gdb sees the guest's own instructions.
        for (addr, (_, before)) in &self.written {
            for (at, byte) in before.iter().enumerate() {
                let place = addr.wrapping_add(at as u64).wrapping_sub(start);
                let place = usize::try_from(place).ok();
                if let Some(shown) = place.and_then(|place| bytes.get_mut(place)) {
                    *shown = *byte;
                }
            }
        }
        if bytes.is_empty() && len > 0 {
            return Err(TargetError::NonFatal);
        }
        data.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
        Ok(bytes.len())
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let data = data.to_vec();
        let written = self.look(move |standing| write_memory(standing, index(tid), start, &data));
        let written = written.map_err(TargetError::Fatal)?;
        written.then_some(()).ok_or(TargetError::NonFatal)
    }

    fn list_active_threads(&mut self, active: &mut dyn FnMut(Tid)) -> Result<(), Failure> {
        let count = self.look(|standing| standing.vcpus.len())?;
        (1..=count).filter_map(Tid::new).for_each(active);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadResume for Guest {
    fn resume(&mut self) -> Result<(), Failure> {
        self.set_traps()?;
        self.control.resume().map_err(|error| error.to_string())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Failure> {
        self.step = None;
        self.going.clear();
        self.locked = false;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Failure> {
        self.going.insert(tid);
        Ok(())
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Guest {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Failure> {
        self.step = Some(tid);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Guest {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Failure> {
        self.locked = true;
        Ok(())
    }
}

impl Breakpoints for Guest {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Guest {
    fn add_sw_breakpoint(&mut self, addr: u64, len: usize) -> TargetResult<bool, Self> {
        // A second one would take the first for the guest's instruction.
        self.remove_sw_breakpoint(addr, len)?;
        // gdb does not say whose address it is: that of the vCPU that it was told of, and else of one
        // that has something there.
        let told = self.last.hits.first().and_then(|hit| hit.vcpu).unwrap_or(0);
        let told = usize::try_from(told).unwrap_or(0);
        let written = self.look(move |standing| {
            let mut vcpus = std::iter::once(told).chain(0..standing.vcpus.len());
            let (phys, len) = vcpus.find_map(|vcpu| {
                let pieces = standing.pieces(vcpu, addr, BREAKPOINT.len()).ok()?;
                if let [piece] = *pieces { Some(piece) } else { None }
            })?;
            let mut before = vec![0; len];
            let whole = len == BREAKPOINT.len() && standing.memory.read(phys, &mut before);
            (whole && standing.memory.write(phys, BREAKPOINT)).then_some((phys, before))
        });
        let Some(before) = written.map_err(TargetError::Fatal)? else { return Ok(false) };
        self.written.insert(addr, before);
        self.traps.software.push(addr);
        Ok(true)
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        self.traps.software.retain(|other| *other != addr);
        let Some((phys, before)) = self.written.remove(&addr) else { return Ok(false) };
        let restored = self.look(move |standing| restore(standing, phys, &before));
        restored.map_err(TargetError::Fatal)?;
        Ok(true)
    }
}

impl HwBreakpoint for Guest {
    fn add_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        if self.traps.breakpoints.contains(&addr) {
            return Ok(true);
        }
        let mut traps = self.traps.clone();
        traps.breakpoints.push(addr);
        self.try_traps(traps)
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        let count = self.traps.breakpoints.len();
        self.traps.breakpoints.retain(|other| *other != addr);
        Ok(self.traps.breakpoints.len() < count)
    }
}

const fn watchpoint(addr: u64, len: u64, kind: WatchKind) -> Watchpoint {
    let read = !matches!(kind, WatchKind::Write);
    let write = !matches!(kind, WatchKind::Read);
    Watchpoint { addr, len, read, write }
}

impl HwWatchpoint for Guest {
    fn add_hw_watchpoint(
        &mut self,
        addr: u64,
        len: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let wanted = watchpoint(addr, len, kind);
        if self.traps.watchpoints.contains(&wanted) {
            return Ok(true);
        }
        let mut traps = self.traps.clone();
        traps.watchpoints.push(wanted);
        self.try_traps(traps)
    }

    fn remove_hw_watchpoint(
        &mut self,
        addr: u64,
        len: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let count = self.traps.watchpoints.len();
        let gone = watchpoint(addr, len, kind);
        self.traps.watchpoints.retain(|other| *other != gone);
        Ok(self.traps.watchpoints.len() < count)
    }
}

impl MonitorCmd for Guest {
    fn handle_monitor_cmd(
        &mut self,
        command: &[u8],
        mut out: ConsoleOutput<'_>,
    ) -> Result<(), Failure> {
        let answer = self.monitor(&String::from_utf8_lossy(command));
        outputln!(out, "{answer}");
        Ok(())
    }
}

/// What happens while the guest runs.
pub(super) enum Running {}

impl BlockingEventLoop for Running {
    type Target = Guest;
    type Connection = Connection;
    type StopReason = MultiThreadStopReason<u64>;

    fn wait_for_stop_reason(
        guest: &mut Guest,
        connection: &mut Connection,
    ) -> Result<Event<Self::StopReason>, WaitForStopReasonError<Failure, std::io::Error>> {
        loop {
            match guest.stops.recv_timeout(LOOK) {
                Ok(stopped) => return Ok(Event::TargetStopped(guest.reason(stopped))),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok(Event::TargetStopped(MultiThreadStopReason::Exited(0)));
                }
            }
            if connection.peek().map_err(WaitForStopReasonError::Connection)?.is_some() {
                let byte = connection.read().map_err(WaitForStopReasonError::Connection)?;
                return Ok(Event::IncomingData(byte));
            }
            if guest.control.state() == State::Ended {
                return Ok(Event::TargetStopped(MultiThreadStopReason::Exited(0)));
            }
        }
    }

    fn on_interrupt(guest: &mut Guest) -> Result<Option<Self::StopReason>, Failure> {
        guest.pause()?;
        // A break may have come first.
        let reason = match guest.stops.try_recv() {
            Ok(stopped) => guest.reason(stopped),
            Err(_) => {
                guest.last = Stopped::default();
                MultiThreadStopReason::SignalWithThread { tid: tid(0), signal: Signal::SIGINT }
            }
        };
        Ok(Some(reason))
    }
}
