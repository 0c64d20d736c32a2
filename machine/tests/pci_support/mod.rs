//! Four PCI functions whose BARs are programmed at random, and a naive model of what then answers
//! where.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can not go on fails")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use trapline::{Mapping, Region, Registry};
use trapline_device::{
    Delivery, Device, Form, Handler, IoCx, Memory, Regions, SaveState, Saved, Size, Space,
    StateError, Window,
};
use trapline_guestmem::GuestMem;
use trapline_pci::{
    Bar, BridgeWindow, Bus, Devfn, Function, FunctionBuilder, Identity, MsixLayout, PciDevice,
    ROM_BAR, Slot, WindowKind, regs,
};

/// Memory that the host bridge passes on; the end is no multiple of what BARs decode.
pub(crate) const MEMORY: Range<u64> = 0x4000_0000..0x4038_8000;
/// More of it above 4 GiB.
pub(crate) const HIGH: Range<u64> = 0x1_0000_0000..0x1_0040_0000;
/// Ports, and where the processors have them as memory.
pub(crate) const PORTS: Range<u64> = 0..0x800;
pub(crate) const PORTS_CPU: u64 = 0x1000_0000;
/// What is the board's own: 4 KiB in the window, and eight ports.
pub(crate) const BOARD: u64 = 0x4010_0000;
pub(crate) const BOARD_LEN: u64 = 0x1000;
pub(crate) const BOARD_PORTS: u64 = PORTS_CPU + 0x200;
pub(crate) const BOARD_PORTS_LEN: u64 = 8;
/// What the board's own reads.
pub(crate) const BOARD_TAG: u64 = 0xb0a4_d000;

const NOBODY: u64 = 0xffff_ffff;

/// The BARs of each function.
pub(crate) fn bars(function: usize) -> Vec<(usize, Bar)> {
    match function {
        0 => vec![
            (0, Bar::Mem32 { len: 0x1_0000, prefetchable: false }),
            (1, Bar::Io { len: 0x100 }),
        ],
        1 => vec![
            (0, Bar::Mem64 { len: 0x10_0000, prefetchable: true }),
            (2, Bar::Mem32 { len: 0x1000, prefetchable: false }),
        ],
        2 => {
            vec![(0, Bar::Io { len: 0x20 }), (1, Bar::Mem32 { len: 0x2_0000, prefetchable: true })]
        }
        _ => vec![
            (4, Bar::Mem64 { len: 0x1000, prefetchable: false }),
            (ROM_BAR, Bar::Mem32 { len: 0x1_0000, prefetchable: true }),
        ],
    }
}

/// A BAR's first register.
fn register(bar: usize) -> u16 {
    if bar == ROM_BAR { regs::EXPANSION_ROM } else { regs::BAR0 + 4 * u16::try_from(bar).unwrap() }
}

/// What a dword of a BAR reads.
pub(crate) fn tag(function: usize, bar: usize, offset: u64) -> u64 {
    // Function 1 has its MSI-X table of one masked vector at the start of BAR2, and the pending bits
    // behind it.
    if (function, bar) == (1, 2) && offset < 24 {
        return u64::from(offset == 12);
    }
    0x1000_0000 * (function as u64 + 1) + 0x0100_0000 * (bar as u64 + 1) + offset
}

/// A function that answers with who it is.
struct Tagged(usize);

impl PciDevice for Tagged {
    fn bar_read(&self, _cx: &IoCx<'_>, bar: usize, offset: u64, _size: Size) -> u64 {
        tag(self.0, bar, offset)
    }
}

impl Device for Tagged {
    fn reset(&self) {}
}

#[derive(serde::Serialize, serde::Deserialize)]
struct TaggedV1 {}

impl Form for TaggedV1 {
    const NAME: &'static str = "tagged";
    const VERSION: u32 = 1;
}

impl SaveState for Tagged {
    fn save(&self) -> Saved {
        Saved::encode(&TaggedV1 {})
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        saved.decode().map(|TaggedV1 {}| ())
    }
}

/// What is the board's own.
pub(crate) struct BoardTag;

impl Handler for BoardTag {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        BOARD_TAG + offset
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

/// How a function's builder is finished.
pub(crate) type Finish<'a> = &'a dyn Fn(FunctionBuilder<'_>, usize) -> Function;

/// BARs that the device answers.
#[allow(dead_code, reason = "not everybody has them trapped")]
pub(crate) fn trapped(builder: FunctionBuilder<'_>, function: usize) -> Function {
    builder.build(Arc::new(Tagged(function)))
}

/// What is in each BAR that is memory.
static TAGS: LazyLock<BTreeMap<(usize, usize), Vec<u8>>> = LazyLock::new(|| {
    let bytes = |function: usize, (index, bar): (usize, Bar)| {
        let dwords = (0..bar.len_bytes()).step_by(4).map(|at| tag(function, index, at));
        let dwords = dwords.map(|tag| u32::try_from(tag).unwrap().to_le_bytes());
        ((function, index), dwords.flatten().collect())
    };
    (0..4)
        .flat_map(|function| bars(function).into_iter().map(move |bar| bytes(function, bar)))
        .collect()
});

/// The same, with memory that answers as the device does in all BARs that are memory. That of
/// function 2 begins and ends inside of pages, where the device goes on.
pub(crate) fn in_memory(builder: FunctionBuilder<'_>, function: usize) -> Function {
    let bars = bars(function).into_iter().filter(|(_, bar)| !matches!(bar, Bar::Io { .. }));
    let builder = bars.fold(builder, |builder, (index, bar)| {
        let len = bar.len_bytes();
        let mem = GuestMem::new(&[(0, len)]).unwrap();
        mem.write(0, &TAGS[&(function, index)]).unwrap();
        let memory: Arc<dyn Memory> = Arc::new(mem.pieces().remove(0));
        let (offset, len) = if function == 2 { (0x800, len - 0x1400) } else { (0, len) };
        let delivery = Delivery::Memory { memory, offset, readonly: index == ROM_BAR };
        builder.window(index, Window { offset, len, delivery })
    });
    builder.build(Arc::new(Tagged(function)))
}

pub(crate) fn windows() -> Vec<BridgeWindow> {
    let ports =
        BridgeWindow { kind: WindowKind::Io, bus: PORTS, space: Space::Mmio, cpu: PORTS_CPU };
    vec![
        ports,
        BridgeWindow::identity(WindowKind::Memory, MEMORY),
        BridgeWindow::identity(WindowKind::Prefetchable, HIGH),
    ]
}

fn devfn(function: usize) -> Devfn {
    Devfn::new(u8::try_from(function).unwrap() + 1, 0).unwrap()
}

/// The bus with all four.
pub(crate) fn bus(registry: Arc<dyn Regions>, finish: Finish<'_>) -> Bus {
    let bus = Bus::new(registry, windows());
    for function in 0..4 {
        let name = format!("function{function}");
        let slot = Slot { name: &name, devfn: devfn(function), pin: None, messages: None };
        let mut builder = FunctionBuilder::new(slot, &Identity::default());
        for (index, bar) in bars(function) {
            builder = match bar {
                Bar::Mem32 { len, .. } if index == ROM_BAR => builder.rom(len),
                _ => builder.bar(index, bar),
            };
        }
        if function == 1 {
            builder = builder.msix(MsixLayout::in_bar(2, 1));
        }
        bus.insert(devfn(function), finish(builder, function)).unwrap();
    }
    bus
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A BAR is written, both halves if it has two.
    Place {
        function: usize,
        bar: usize,
        base: u64,
    },
    /// The command register is.
    Enable {
        function: usize,
        command: u32,
    },
    /// Two BARs of the same kind trade places.
    Swap {
        one: usize,
        other: usize,
    },
    Reset,
    Save,
    Restore,
    /// What is the board's own in the window of memory is unmapped, or mapped again.
    Board {
        present: bool,
    },
}

/// Places that are worth trying: next to, on top of and across each other, the board's own and the
/// windows' ends.
fn base() -> impl Strategy<Value = u64> {
    let memory = prop::sample::select(vec![
        0x4000_0000,
        0x4000_1000,
        0x4001_0000,
        0x4002_0000,
        0x4010_0000,
        0x4010_1000,
        0x4020_0000,
        0x4030_0000,
        0x4038_0000,
        0x4038_7000,
        0x3fff_f000,
        0x4038_8000,
        0x1_0000_0000,
        0x1_0030_0000,
        0x1_0040_0000,
        0xffff_ffff_fff0_0000,
        0,
    ]);
    let ports =
        prop::sample::select(vec![0, 0x20, 0x100, 0x200, 0x220, 0x700, 0x7e0, 0x800, 0xffff_ff00]);
    // Either kind into any BAR: the low bits are not the guest's to write.
    prop_oneof![3 => memory, 1 => ports, 1 => Just(u64::MAX)]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let place = (0..4usize, 0..2usize, base()).prop_map(|(function, bar, base)| Step::Place {
        function,
        bar,
        base,
    });
    let command = prop::sample::select(vec![0u32, 1, 2, 3, 3, 3, 7]);
    let enable =
        (0..4usize, command).prop_map(|(function, command)| Step::Enable { function, command });
    let swap = (0..4usize, 0..4usize).prop_map(|(one, other)| Step::Swap { one, other });
    prop_oneof![
        12 => place,
        6 => enable,
        2 => swap,
        2 => any::<bool>().prop_map(|present| Step::Board { present }),
        1 => Just(Step::Reset),
        1 => Just(Step::Save),
        1 => Just(Step::Restore),
    ]
}

/// What is the board's own in the window of memory.
pub(crate) struct Board<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) mapping: Option<Mapping>,
}

impl<'a> Board<'a> {
    pub(crate) fn new(registry: &'a Registry) -> Self {
        let mut board = Self { registry, mapping: None };
        assert!(board.set(true));
        board
    }

    pub(crate) fn is_there(&self) -> bool {
        self.mapping.is_some()
    }

    /// Maps or unmaps it. Whether that could be done.
    pub(crate) fn set(&mut self, present: bool) -> bool {
        if !present {
            self.mapping = None;
        } else if self.mapping.is_none() {
            let region = Region::mmio(BOARD, BOARD_LEN, "board", "memory", Arc::new(BoardTag));
            self.mapping = self.registry.map(region).ok();
            return self.is_there();
        }
        true
    }
}

/// What the guest wrote, as numbers: nothing of masks, regions or edits.
#[derive(Clone, Default)]
struct Registers {
    bars: BTreeMap<(usize, usize), u64>,
    commands: [u32; 4],
}

/// The bus and the model of it, taking the same steps.
pub(crate) struct Pair<'a> {
    bus: &'a Bus,
    board: Board<'a>,
    model: Registers,
    saved: Option<(Saved, Registers)>,
}

impl<'a> Pair<'a> {
    pub(crate) fn new(bus: &'a Bus, board: Board<'a>) -> Self {
        Self { bus, board, model: Registers::default(), saved: None }
    }

    /// Both halves of a BAR that has two are written, the upper one first.
    fn place(&mut self, function: usize, (index, bar): (usize, Bar), base: u64) {
        let low = u32::try_from(base & 0xffff_ffff).unwrap();
        let wide = matches!(bar, Bar::Mem64 { .. });
        if wide {
            let high = u32::try_from(base >> 32).unwrap();
            self.bus.config_write(devfn(function), register(index) + 4, Size::Dword, high);
        }
        // An expansion ROM is enabled by its lowest bit.
        let value = if index == ROM_BAR { low | 1 } else { low };
        self.bus.config_write(devfn(function), register(index), Size::Dword, value);
        let kept = if wide { base } else { low.into() };
        self.model.bars.insert((function, index), kept & !(bar.len_bytes() - 1));
    }

    pub(crate) fn take(&mut self, step: &Step) {
        match *step {
            Step::Place { function, bar, base } => self.place(function, bars(function)[bar], base),
            Step::Enable { function, command } => {
                self.bus.config_write(devfn(function), regs::COMMAND, Size::Word, command);
                self.model.commands[function] = command;
            }
            Step::Swap { one, other } => {
                let base = |function: usize| {
                    let (index, _) = bars(function)[0];
                    self.model.bars.get(&(function, index)).copied().unwrap_or(0)
                };
                let (a, b) = (base(one), base(other));
                self.place(one, bars(one)[0], b);
                self.place(other, bars(other)[0], a);
            }
            Step::Reset => {
                self.bus.reset();
                self.model = Registers::default();
            }
            Step::Board { present } => {
                // It does not push a BAR away.
                let room = !self.owners().contains_key(&BOARD) || self.board.is_there();
                assert_eq!(self.board.set(present), room || !present);
            }
            Step::Save => self.saved = Some((self.bus.save(), self.model.clone())),
            Step::Restore => {
                if let Some((saved, model)) = &self.saved {
                    self.bus.restore(saved).unwrap();
                    self.model = model.clone();
                }
            }
        }
    }

    /// Who has each granule of addresses, and which part of it: `None` for the board.
    fn owners(&self) -> BTreeMap<u64, Option<(usize, usize, u64)>> {
        let mut owners = BTreeMap::new();
        if self.board.is_there() {
            owners.insert(BOARD, None);
        }
        owners.insert(BOARD_PORTS, None);
        for function in 0..4 {
            for (index, bar) in bars(function) {
                let ports = matches!(bar, Bar::Io { .. });
                let enabled = self.model.commands[function] & if ports { 1 } else { 2 } != 0;
                let written = self.model.bars.get(&(function, index));
                // A ROM nobody has written is disabled.
                let base = written.copied().or((index != ROM_BAR).then_some(0));
                let Some(base) = base.filter(|_| enabled) else { continue };
                let len = bar.len_bytes();
                let end = u128::from(base) + u128::from(len);
                let within = |window: &Range<u64>| base >= window.start && end <= window.end.into();
                let start = match ports {
                    true if within(&PORTS) => PORTS_CPU + base,
                    false if within(&MEMORY) || within(&HIGH) => base,
                    _ => continue,
                };
                let granules = || (start..start + len).step_by(granule(start));
                if granules().any(|address| owners.contains_key(&address)) {
                    continue;
                }
                owners.extend(granules().map(|a| (a, Some((function, index, a - start)))));
            }
        }
        owners
    }

    /// Addresses where something begins, ends or could, and what is to answer there.
    pub(crate) fn probes(&self) -> Vec<(u64, u64)> {
        let owners = self.owners();
        let owner = |address: u64| {
            let within = address % granule(address) as u64;
            owners.get(&(address - within)).map(|owner| (*owner, within))
        };
        let borders = owners.keys().copied().filter(|address| {
            let who = |address| owner(address).map(|(who, _)| who.map(|(f, bar, _)| (f, bar)));
            who(address - 16) != who(*address)
                || who(address + granule(*address) as u64) != who(*address)
        });
        let ends = [MEMORY.start, MEMORY.end, HIGH.start, HIGH.end, PORTS_CPU, PORTS_CPU + 0x800];
        let around = |address: u64| {
            let end = address + granule(address) as u64;
            [address - 16, address, address + 16, end - 16, end]
        };
        let probes = borders.chain(ends).flat_map(around).map(|address| {
            let expected = match owner(address) {
                None => NOBODY,
                // The board's ports are half a granule.
                Some((None, within)) => BOARD_TAG + within,
                Some((Some((function, bar, offset)), within)) => {
                    tag(function, bar, offset + within)
                }
            };
            (address, expected)
        });
        probes.collect()
    }
}

/// What is owned as a whole: pages of memory, 16 ports (all of them are in one page).
fn granule(address: u64) -> usize {
    if (PORTS_CPU..PORTS_CPU + 0x1000).contains(&address) { 16 } else { 0x1000 }
}
