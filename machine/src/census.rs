//! Counting a running guest's accesses by register, for whoever looks on.
//!
//! The registry counts by region and always; by register somebody has to read the recorder's rings.
//! That is a thread's work, which is there only while there is somebody to look ([`Census`]).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use trapline::{Follower, Recorder, Registry, Slot};
use trapline_access::Direction;
use trapline_access::record::{Op, Outcome, Record};
use trapline_device::thread_builder;

/// How often the rings are read. They have room for 3072 accesses of each vCPU meanwhile.
const PERIOD: Duration = Duration::from_millis(20);
/// How often they are read that fill up faster.
const SHORT_PERIOD: Duration = Duration::from_millis(2);
/// So many accesses of a vCPU in a period are many.
const MANY: usize = 512;
/// So many registers are told apart. A guest can make any number of them, by moving BARs.
const REGISTERS_MAX: usize = 2048;

/// What was counted of one register.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterCounts {
    /// The device; `unclaimed` where there is none.
    pub device: String,
    /// The region: `device/region`.
    pub region: String,
    /// The register, or its offset where it has no name; empty for those that are not told apart.
    pub register: String,
    /// Reads, of strings elements.
    pub reads: u64,
    /// Writes, of strings elements.
    pub writes: u64,
    /// Writes that had been queued up.
    pub queued: u64,
    /// Accesses that stopped the guest.
    pub exits: u64,
    /// How many accesses were timed.
    pub timed: u64,
    /// How long those took in the handler, registry and all, in nanoseconds.
    pub timed_ns: u64,
    /// What was read or written last; of a string its length in bytes.
    pub last: u64,
    /// Whether that was written.
    pub last_written: bool,
}

/// All that was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// By register, in the order of their first access.
    pub registers: Vec<RegisterCounts>,
    /// How many records came too fast, or were there before.
    pub lost: u64,
}

/// A count that goes on. Dropping it ends it.
pub struct Census {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Census {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Census").finish_non_exhaustive()
    }
}

struct Shared {
    state: Mutex<State>,
    /// Notified when the count is over.
    over: Condvar,
}

struct State {
    /// Nothing, when the count is over.
    counter: Option<Counter>,
    /// When it ends, if nobody looks.
    until: Option<Instant>,
}

impl Census {
    /// Counts from now on what reaches `registry`; at first what its recorder still has. It ends by
    /// itself when nobody has looked for as long as `lease`, if there is one.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub fn start(registry: &Registry, lease: Option<Duration>) -> io::Result<Self> {
        let recorder = registry.recorder().cloned();
        let recorder = recorder.ok_or(io::ErrorKind::Unsupported)?;
        let counter = Some(Counter::new(recorder, registry.clone()));
        let state = State { counter, until: lease.map(|lease| Instant::now() + lease) };
        let shared = Arc::new(Shared { state: Mutex::new(state), over: Condvar::new() });
        let counting = Arc::clone(&shared);
        let thread = thread_builder("census").spawn(move || counting.count())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Everything up to now; nothing, if it has ended. It goes on for as long as `lease` from now on,
    /// if it would end by itself.
    pub fn look(&self, lease: Duration) -> Option<Counted> {
        let mut state = self.shared.state.lock();
        if let Some(until) = &mut state.until {
            *until = Instant::now() + lease;
        }
        let counter = state.counter.as_mut()?;
        counter.round();
        Some(counter.counted.clone())
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        self.shared.state.lock().counter = None;
        self.shared.over.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Counts until it is over. Who looks waits for a round at most.
    fn count(&self) {
        let mut state = self.state.lock();
        while let Some(counter) = &mut state.counter {
            let period = if counter.round() > MANY { SHORT_PERIOD } else { PERIOD };
            self.over.wait_for(&mut state, period);
            if state.until.is_some_and(|until| until <= Instant::now()) {
                state.counter = None;
            }
        }
    }
}

/// Where a register is: its slot, its offset there, and the direction; and what it was called, if that
/// was said when it was reached.
type Key = (u16, u16, Direction, Option<&'static str>);

struct Counter {
    registry: Registry,
    recorder: Arc<Recorder>,
    follower: Follower,
    slots: Vec<Slot>,
    counted: Counted,
    /// The rows of regions and registers.
    rows: HashMap<(String, String), usize>,
}

impl Counter {
    fn new(recorder: Arc<Recorder>, registry: Registry) -> Self {
        let follower = recorder.follow();
        let (slots, counted, rows) = Default::default();
        Self { registry, recorder, follower, slots, counted, rows }
    }

    /// Reads the rings; says how much the fullest had.
    fn round(&mut self) -> usize {
        let mut most = 0;
        // Regions go, and with them what their registers are called.
        let mut rows = HashMap::new();
        for followed in self.follower.read() {
            most = most.max(followed.records.len());
            self.counted.lost += followed.lost;
            let mut times = followed.times.iter().peekable();
            let all = followed.records.iter().zip(&followed.registers).enumerate();
            for (place, (record, register)) in all {
                let time = times.next_if(|(of, _)| *of == place).map(|(_, ns)| *ns);
                self.add((record, *register), time, &mut rows);
            }
        }
        most
    }

    fn add(
        &mut self,
        (record, register): (&Record, Option<&'static str>),
        time: Option<u64>,
        rows: &mut HashMap<Key, usize>,
    ) {
        let Some((direction, bytes, _, outcome)) = record.access() else { return };
        let key = (record.slot, record.offset, direction, register);
        let row = *rows.entry(key).or_insert_with(|| self.row(key));
        let Some(row) = self.counted.registers.get_mut(row) else { return };
        let count = match record.op {
            Op::String(_) => record.value / (bytes as u64).max(1),
            _ => 1,
        };
        match direction {
            Direction::Read => row.reads += count,
            Direction::Write => row.writes += count,
        }
        match outcome {
            Outcome::Coalesced => row.queued += 1,
            _ => row.exits += 1,
        }
        if let Some(ns) = time {
            row.timed += 1;
            row.timed_ns = row.timed_ns.saturating_add(ns);
        }
        (row.last, row.last_written) = (record.value, direction == Direction::Write);
    }

    /// The row of a register: by what it was called, or, if nobody has said, what it is called now.
    fn row(&mut self, (slot, offset, direction, said): Key) -> usize {
        if usize::from(slot) >= self.slots.len() {
            self.slots.extend(self.recorder.slots(self.slots.len()));
        }
        let (device, region, register) = match self.slots.get(usize::from(slot)) {
            Some(Slot { region: Some(region), base, .. }) => {
                let into = base.wrapping_sub(region.base).wrapping_add(offset.into());
                let name = said.or_else(|| self.registry.register_at(region.id, into, direction));
                let register = name.map_or_else(|| format!("+{into:#x}"), str::to_owned);
                (region.name.device.to_string(), region.name.to_string(), register)
            }
            Some(Slot { region: None, space, base }) => {
                let addr = base.wrapping_add(offset.into());
                ("unclaimed".to_owned(), "unclaimed".to_owned(), format!("{space} {addr:#x}"))
            }
            None => ("unclaimed".to_owned(), "unclaimed".to_owned(), String::new()),
        };
        let mut name = (region, register);
        // A region's others go together once there are many.
        if self.rows.len() >= REGISTERS_MAX && !self.rows.contains_key(&name) {
            name.1.clear();
        }
        let counts = &mut self.counted.registers;
        *self.rows.entry(name).or_insert_with_key(|(region, register)| {
            let (region, register) = (region.clone(), register.clone());
            counts.push(RegisterCounts { device, region, register, ..RegisterCounts::default() });
            counts.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use trapline::{Mode, Region, Size, Space};
    use trapline_access::{AccessClock, Handler, IoCx};
    use trapline_qtest::Target;

    use super::*;
    use crate::qtest::BoardKind;
    use crate::recorded_map;

    const LEASE: Duration = Duration::from_secs(600);

    struct Zero;
    impl AccessClock for Zero {
        fn stamp_ns(&self) -> u64 {
            0
        }
    }

    struct Device;
    impl Handler for Device {
        fn read(&self, _: &IoCx<'_>, offset: u64, _: Size) -> u64 {
            0x40 + offset
        }

        fn write(&self, _: &IoCx<'_>, _: u64, _: Size, _: u64) {}

        fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
            match (offset, direction) {
                (0, Direction::Read) => Some("STATUS"),
                (0, Direction::Write) => Some("COMMAND"),
                _ => None,
            }
        }
    }

    fn registry() -> (Registry, trapline::Mapping) {
        let registry = Registry::builder().build();
        registry.start_recorder(Arc::new(Zero), Mode::Flight);
        let region = Region::pio(0x300, 8, "box", "ports", Arc::new(Device));
        let mapping = registry.map(region).unwrap();
        (registry, mapping)
    }

    #[test]
    fn accesses_are_counted_by_the_names_of_registers() {
        let (registry, _mapping) = registry();
        let mut handle = registry.handle(0);
        handle.read_value(Space::Pio, 0x300, Size::Byte);
        let census = Census::start(&registry, Some(LEASE)).unwrap();
        for value in 1..=200 {
            handle.write_value(Space::Pio, 0x300, Size::Byte, value);
            handle.read_value(Space::Pio, 0x302, Size::Byte);
        }
        handle.read_value(Space::Pio, 0x500, Size::Byte);
        let counted = census.look(LEASE).unwrap();
        assert_eq!(counted.lost, 0);
        let row = |register: &str| {
            let row = counted.registers.iter().find(|row| row.register == register);
            let row = row.unwrap_or_else(|| panic!("no {register}: {counted:?}"));
            (row.region.as_str(), row.reads, row.writes, row.exits, row.last, row.last_written)
        };
        assert_eq!(row("STATUS"), ("box/ports", 1, 0, 1, 0x40, false));
        assert_eq!(row("COMMAND"), ("box/ports", 0, 200, 200, 200, true));
        assert_eq!(row("+0x2"), ("box/ports", 200, 0, 200, 0x42, false));
        assert_eq!(row("pio 0x500"), ("unclaimed", 1, 0, 1, 0xff, false));
        assert!(counted.registers.iter().map(|row| row.timed).sum::<u64>() >= 6);
        // It goes on.
        handle.write_value(Space::Pio, 0x300, Size::Byte, 7);
        let counted = census.look(LEASE).unwrap();
        assert!(counted.registers.iter().any(|row| (row.writes, row.last) == (201, 7)));
    }

    /// A read or a write of an x86-pc.
    type Made = (Space, u64, Size, Option<u64>);

    fn outb(port: u64, value: u64) -> Made {
        (Space::Pio, port, Size::Byte, Some(value))
    }

    fn inb(port: u64) -> Made {
        (Space::Pio, port, Size::Byte, None)
    }

    /// Selects registers in turn, and one of another name at the end.
    fn selecting() -> Vec<Made> {
        let outl = |port, value| (Space::Pio, port, Size::Dword, Some(value));
        let inl = |port| (Space::Pio, port, Size::Dword, None);
        let select = |register| (Space::Mmio, 0xfec0_0000, Size::Dword, Some(register));
        let window = (Space::Mmio, 0xfec0_0010, Size::Dword, None);
        vec![
            // UART: the divisor's places, and what else is there.
            outb(0x3fb, 0x83),
            outb(0x3f8, 12),
            inb(0x3f9),
            outb(0x3fb, 3),
            outb(0x3f8, 0x41),
            inb(0x3f8),
            inb(0x3f9),
            // Clock: a register, RAM, another register.
            outb(0x70, 0x0d),
            inb(0x71),
            outb(0x70, 0x40),
            inb(0x71),
            outb(0x70, 0x0a),
            inb(0x71),
            // CRT controller: the cursor.
            outb(0x3d4, 14),
            outb(0x3d5, 1),
            outb(0x3d4, 15),
            outb(0x3d5, 2),
            // I/O APIC: its version, one entry of its table, its id.
            select(1),
            window,
            select(0x10),
            window,
            select(0),
            window,
            // Configuration space of the host bridge, and of none.
            outl(0xcf8, 0x8000_0000),
            inl(0xcfc),
            outl(0xcf8, 0x8000_0004),
            inl(0xcfc),
            outl(0xcf8, 0),
            inl(0xcfc),
            // Interrupt controller: its initialization, and its mask.
            outb(0x20, 0x11),
            outb(0x21, 8),
            outb(0x21, 4),
            outb(0x21, 1),
            outb(0x21, 0xff),
        ]
    }

    #[test]
    fn registers_that_share_a_place_are_counted_by_what_was_there() {
        let machine = recorded_map::machine(BoardKind::X86Pc).unwrap();
        let registry = machine.registry();
        registry.start_recorder(Arc::new(Zero), Mode::Flight);
        let census = Census::start(registry, None).unwrap();
        let mut handle = registry.handle(0);
        let times = 20;
        for (space, addr, size, written) in selecting().repeat(times) {
            match written {
                Some(value) => handle.write_value(space, addr, size, value),
                None => drop(handle.read_value(space, addr, size)),
            }
        }
        let counted = census.look(LEASE).unwrap();
        assert_eq!(counted.lost, 0);
        let each = |count: u64| {
            assert_eq!(count % times as u64, 0);
            count / times as u64
        };
        let row = |row: &RegisterCounts| {
            (format!("{} {}", row.region, row.register), (each(row.reads), each(row.writes)))
        };
        let rows: BTreeMap<String, (u64, u64)> = counted.registers.iter().map(row).collect();
        let expected = [
            ("crt/6845 CRTC_INDEX", (0, 2)),
            ("crt/6845 Cursor (H)", (0, 1)),
            ("crt/6845 Cursor (L)", (0, 1)),
            ("ioapic/registers IOAPICID", (1, 0)),
            ("ioapic/registers IOAPICVER", (1, 0)),
            ("ioapic/registers IOREDTBL[31:0]", (1, 0)),
            ("ioapic/registers IOREGSEL", (0, 3)),
            ("pci/conf1 COMMAND", (1, 0)),
            ("pci/conf1 CONFIG_ADDRESS", (0, 3)),
            ("pci/conf1 CONFIG_DATA", (1, 0)),
            ("pci/conf1 VENDOR_ID", (1, 0)),
            ("pic/primary ICW1/OCW", (0, 1)),
            ("pic/primary ICW2", (0, 1)),
            ("pic/primary ICW3", (0, 1)),
            ("pic/primary ICW4", (0, 1)),
            ("pic/primary OCW1", (0, 1)),
            ("rtc/cmos CMOS RAM", (1, 0)),
            ("rtc/cmos RTC index", (0, 3)),
            ("rtc/cmos Register A", (1, 0)),
            ("rtc/cmos Register D", (1, 0)),
            ("serial0/uart DLL", (0, 1)),
            ("serial0/uart DLM", (1, 0)),
            ("serial0/uart IER", (1, 0)),
            ("serial0/uart LCR", (0, 2)),
            ("serial0/uart RBR", (1, 0)),
            ("serial0/uart THR", (0, 1)),
        ];
        assert_eq!(rows, expected.map(|(name, counts)| (name.to_owned(), counts)).into());
    }

    #[test]
    fn nobody_who_looks_is_the_end_of_it() {
        let (registry, _mapping) = registry();
        let census = Census::start(&registry, Some(Duration::ZERO)).unwrap();
        let thread = census.thread.as_ref().unwrap();
        while !thread.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(census.look(LEASE), None);
    }

    #[test]
    fn a_guest_that_touches_everything_has_a_bounded_count() {
        let (registry, _mapping) = registry();
        let mut handle = registry.handle(0);
        let census = Census::start(&registry, None).unwrap();
        for port in 0..10_000 {
            handle.read_value(Space::Pio, 0x1000 + port, Size::Byte);
            if port % 1000 == 0 {
                census.look(LEASE).unwrap();
            }
        }
        let counted = census.look(LEASE).unwrap();
        assert!(counted.registers.len() <= REGISTERS_MAX + 1, "{}", counted.registers.len());
        let reads: u64 = counted.registers.iter().map(|row| row.reads).sum();
        assert_eq!(reads + counted.lost, 10_000);
    }
}
