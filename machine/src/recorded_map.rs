//! What a recording's map says of a board: its regions, what their registers are called, and what is
//! to be known of them.

use trapline::{Delivery, Direction, RegionStats, Registry, Window};
use trapline_device::NullBackend;
use trapline_intc::{ioapic, pic, pit, v2m};
use trapline_pci::regs as pci;
use trapline_platform::{acpi_pm, fw_cfg, i8042, legacy, rtc, serial};
use trapline_qtest::Target;
use trapline_regs::{Access, Described, RegMap, Select, Traits};
use trapline_trace::{
    Bank, Delivered, Field, MapChange, MapRegion, MapWindow, Register, Registers,
};
use trapline_virtio::{mmio, pci as virtio};

use crate::qtest::{BoardKind, Config, Machine};
use crate::{ConsoleKind, Error, VirtioTransports};

use std::sync::Arc;

/// Regions that are longer than this have their registers named by replay only: they are windows
/// onto other devices' registers.
const NAMED_MAX: u64 = 1 << 20;
/// Up to this length a register can begin at any byte; above that at every fourth.
const BYTES_MAX: u64 = 1 << 12;

/// A board's name on the command line.
pub const fn board_name(board: BoardKind) -> &'static str {
    match board {
        BoardKind::X86Pc => "x86-pc",
        BoardKind::Arm64Virt => "arm64-virt",
    }
}

/// The map of a board as it is after power-on, without a guest.
///
/// # Errors
/// Why the board cannot be built.
pub fn of_board(board: BoardKind) -> Result<MapChange, Error> {
    Ok(of_registry(machine(board)?.registry()))
}

/// A board without a guest, with what it always has.
pub(crate) fn machine(board: BoardKind) -> Result<Machine, Error> {
    Machine::new(&Config {
        board,
        cpus: 1,
        virtio: VirtioTransports::default(),
        rng: false,
        edu: 0,
        disks: Vec::new(),
        nets: Vec::new(),
        shares: Vec::new(),
        vsock: None,
        plugs: false,
        mem_bytes: 64 << 20,
        utc_start_ns: 0,
        console: Arc::new(NullBackend),
        console_kind: ConsoleKind::Serial,
        ports: Vec::new(),
        balloon: None,
        exit_port: false,
        flash: None,
        firmware: None,
        testdev: false,
        fw_cfg: Vec::new(),
    })
}

/// The map of a registry as it is now: regions and their registers, without slots.
pub fn of_registry(registry: &Registry) -> MapChange {
    let mut change = MapChange::default();
    for region in registry.stats().regions {
        let registers = registers(registry, &region);
        change.banks.extend(banks(&region, &registers));
        if !registers.is_empty() {
            change.registers.push(Registers { id: region.id.0, registers });
        }
        if !change.devices.iter().any(|device| **device == *region.name.device) {
            change.devices.push(region.name.device.to_string());
        }
        change.regions.push(map_region(region));
    }
    change
}

fn map_region(region: RegionStats) -> MapRegion {
    let windows = region.deliveries.iter().map(|(window, _)| map_window(window)).collect();
    MapRegion {
        id: region.id.0,
        device: region.name.device.to_string(),
        region: region.name.region.to_string(),
        space: region.space,
        base: region.range.map(|(first, _)| first),
        len: region.len,
        device_offset: region.device_offset,
        windows,
    }
}

fn map_window(window: &Window) -> MapWindow {
    let delivered = match window.delivery {
        Delivery::Coalesced => Delivered::Coalesced,
        Delivery::Doorbell { datamatch, .. } => Delivered::Doorbell(datamatch),
        Delivery::Forward { .. } => Delivered::Forwarded,
        Delivery::Memory { .. } => Delivered::Memory,
        Delivery::Mirrored { .. } => Delivered::Mirrored,
    };
    MapWindow { offset: window.offset, len: window.len, delivered }
}

/// The registers of a region by the names they have now, each as long as its name goes on.
fn registers(registry: &Registry, region: &RegionStats) -> Vec<Register> {
    if region.len > NAMED_MAX || is_memory(region) {
        return Vec::new();
    }
    let step = if region.len <= BYTES_MAX { 1 } else { 4 };
    let known = Known::of(&region.name.device);
    let mut registers: Vec<Register> = Vec::new();
    for direction in [Direction::Read, Direction::Write] {
        let mut last = None;
        for offset in (0..region.len).step_by(step) {
            let name = registry.register_at(region.id, offset, direction);
            match name {
                Some(name) if last == Some(name) => {
                    if let Some(register) = registers.last_mut() {
                        register.width += u32::try_from(step).unwrap_or(1);
                    }
                }
                Some(name) => registers.push(known.register(offset, direction, step, name)),
                None => {}
            }
            last = name;
        }
    }
    merged(registers)
}

/// The registers that share a place of a region, whose registers in their own places are these.
fn banks(region: &RegionStats, own: &[Register]) -> Vec<Bank> {
    let offset = |offset: u32| u64::from(offset).checked_sub(region.device_offset);
    let bank = |banked: &Banked| {
        let Select { selector, width, enabled, mask, shift, first, len } = banked.select;
        let len = len.min(u32::try_from(region.len).unwrap_or(u32::MAX));
        let (selector, first) = (offset(selector)?, offset(first)?);
        // Another region of the device has them.
        let selects = |register: &Register| register.offset == selector && register.write;
        let here = width == 0 || own.iter().any(selects);
        (here && first + u64::from(len) <= region.len).then(|| Bank {
            id: region.id.0,
            selector,
            width: u8::try_from(width).unwrap_or(8),
            enabled: enabled.into(),
            mask: mask.into(),
            shift,
            first,
            len: len.into(),
            period: banked.period,
            registers: banked.registers.iter().map(described).collect(),
            others: banked.others.to_owned(),
        })
    };
    Banked::of(&region.name.device, &region.name.region).iter().filter_map(bank).collect()
}

/// Registers that share a place, by the device's own words.
struct Banked {
    select: Select,
    registers: Vec<Described>,
    /// After so many bytes they are there once more; 0 if they are not.
    period: u64,
    /// What is there where none of them is; nothing if that is another register of the device's.
    others: &'static str,
}

impl Banked {
    fn new(
        select: Select,
        registers: impl Iterator<Item = Described>,
        others: &'static str,
    ) -> Self {
        Self { select, registers: registers.collect(), period: 0, others }
    }

    /// Those of a region, by its names on the board.
    fn of(device: &str, region: &str) -> Option<Self> {
        Some(match (device, region) {
            ("rtc", _) => {
                Self::new(rtc::regs::SELECT, rtc::regs::MAP.described(), rtc::regs::RAM_NAME)
            }
            ("crt", _) => {
                let data = legacy::regs::CRT.for_read(1).map_or("", |row| row.name);
                Self::new(legacy::regs::CRT_SELECT, legacy::regs::CRT_FILE.described(), data)
            }
            ("pci", "conf1") => {
                Self::new(pci::CONF1_SELECT, pci::HEADER.described(), "CONFIG_DATA")
            }
            ("pci", "cam") => Self::each_function(pci::CONFIG_LEN),
            ("pci", "ecam") => Self::each_function(pci::EXTENDED_CONFIG_LEN),
            ("ioapic", _) => {
                let registers = ioapic::regs::Indirect::described();
                Self::new(ioapic::regs::SELECT, registers, "IOWIN")
            }
            _ if device.starts_with("serial") => {
                let select = serial::regs::DLAB;
                let shared = move |of: &Described| of.offset < select.first + select.len;
                Self::new(select, serial::regs::MAP_DLAB.described().filter(shared), "")
            }
            _ => return None,
        })
    }

    /// Configuration space of every function, each of so many bytes.
    fn each_function(len: usize) -> Self {
        let all =
            Select { width: 0, enabled: 0, mask: 0, first: 0, len: u32::MAX, ..pci::CONF1_SELECT };
        Self { period: len as u64, ..Self::new(all, pci::HEADER.described(), "") }
    }
}

/// A register behind an index, for a file.
fn described(of: &Described) -> Register {
    let reads = matches!(of.access, Access::Read | Access::ReadWrite);
    let writes = matches!(of.access, Access::Write | Access::ReadWrite);
    register(of.name, (of.offset.into(), of.width), (reads, writes), of.traits)
}

/// A register of this name at an offset, of so many bytes, with what is to be known of it.
fn register(
    name: &str,
    (offset, width): (u64, u32),
    (read, write): (bool, bool),
    traits: Traits,
) -> Register {
    let field = |field: &trapline_regs::Field| Field {
        name: field.name.to_owned(),
        bit: field.bit,
        bits: field.bits,
    };
    Register {
        name: name.to_owned(),
        offset,
        width,
        read,
        write,
        class: traits.class,
        prompt: traits.prompt,
        fields: traits.fields.iter().map(field).collect(),
    }
}

/// Makes one register of those of one name and place that are read and written.
fn merged(mut registers: Vec<Register>) -> Vec<Register> {
    registers.sort_by(|a, b| (a.offset, &a.name, a.width).cmp(&(b.offset, &b.name, b.width)));
    registers.dedup_by(|second, first| {
        let same =
            (&second.name, second.offset, second.width) == (&first.name, first.offset, first.width);
        if same {
            first.read |= second.read;
            first.write |= second.write;
        }
        same
    });
    registers
}

fn is_memory(region: &RegionStats) -> bool {
    let whole = |window: &Window| window.offset == 0 && window.len >= region.len;
    let memory = |window: &Window| matches!(window.delivery, Delivery::Memory { .. });
    region.deliveries.iter().any(|(window, _)| memory(window) && whole(window))
}

/// The names that the register maps of a device have, also for what has no place now: another bank, what
/// an index selects. Empty if `present`, the names of what has one, is of other maps.
pub(crate) fn names_of(device: &str, present: &[Register]) -> Vec<&'static str> {
    let mut known: Vec<_> = Known::of(device).registers.iter().map(|known| known.name).collect();
    if let Some(banked) = Banked::of(device, "") {
        known.extend(banked.registers.iter().map(|register| register.name));
    }
    let ours = present.iter().any(|register| known.contains(&&*register.name));
    if ours { known } else { Vec::new() }
}

/// What the register maps of a device say of its registers.
pub(crate) struct Known {
    registers: Vec<Described>,
    /// What is to be known of others.
    others: Traits,
}

impl Known {
    /// By the device's name on its board.
    pub(crate) fn of(device: &str) -> Self {
        fn of<R: Copy>(map: &RegMap<R>) -> Vec<Described> {
            map.described().collect()
        }
        let registers = match device {
            "rtc" => of(&rtc::regs::MAP),
            "i8042" => of(&i8042::regs::MAP),
            "acpi" => of(&acpi_pm::regs::MAP),
            "fw_cfg" => [of(&fw_cfg::regs::PORTS), of(&fw_cfg::regs::MMIO)].concat(),
            "pit" => of(&pit::regs::MAP),
            "pic" => of(&pic::regs::MAP),
            "ioapic" => of(&ioapic::regs::MAP),
            "gicv2m" => of(&v2m::regs::MAP),
            "dma1" | "dma2" => of(&legacy::dma::regs::MAP),
            "its" | "gic" => {
                [of(&gicv3_its::regs::MAP), of(&gicv3_its::redist::regs::MAP)].concat()
            }
            "pci" => [of(&pci::HEADER), of(&pci::HOTPLUG), of(&pci::CONF1)].concat(),
            _ if device.starts_with("serial") => {
                [of(&serial::regs::MAP), of(&serial::regs::MAP_DLAB)].concat()
            }
            // Whatever transport a virtio device has.
            _ => [
                of(&virtio::regs::COMMON_CFG),
                of(&virtio::regs::LEGACY),
                of(&mmio::regs::MODERN),
                of(&mmio::regs::LEGACY),
            ]
            .concat(),
        };
        // What interrupts, resets or ends the machine does so when it is told.
        let prompt = matches!(
            device,
            "pic" | "ioapic" | "gic" | "gicv2m" | "its" | "acpi" | "system" | "exit" | "testdev"
        );
        Self { registers, others: Traits { prompt, ..Traits::PLAIN } }
    }

    /// What is to be known of a register.
    pub(crate) fn traits(&self, name: &str) -> Traits {
        let known = self.registers.iter().find(|known| known.name == name);
        known.map_or(self.others, |known| known.traits)
    }

    /// A register that begins at `offset`.
    fn register(&self, offset: u64, direction: Direction, step: usize, name: &str) -> Register {
        let width = u32::try_from(step).unwrap_or(1);
        let ways = (direction == Direction::Read, direction == Direction::Write);
        register(name, (offset, width), ways, self.traits(name))
    }
}

#[cfg(test)]
mod tests {
    use trapline_regs::Class;

    use super::*;

    fn register(map: &MapChange, region: &str, name: &str) -> Register {
        let of = map.regions.iter().find(|of| of.name() == region);
        let id = of.unwrap_or_else(|| panic!("no region {region}")).id;
        let registers = map.registers.iter().find(|of| of.id == id);
        let mut registers = registers.into_iter().flat_map(|of| &of.registers);
        let found = registers.find(|register| register.name == name);
        found.unwrap_or_else(|| panic!("{region} has no {name}")).clone()
    }

    #[test]
    fn registers_are_listed_with_what_their_maps_say_of_them() {
        let map = of_board(BoardKind::X86Pc).unwrap();
        let thr = register(&map, "serial0/uart", "THR");
        assert_eq!((thr.offset, thr.width, thr.read, thr.write), (0, 1, false, true));
        assert_eq!((thr.class, thr.prompt), (Class::Payload, false));
        let lsr = register(&map, "serial0/uart", "LSR");
        assert_eq!((lsr.offset, lsr.read, lsr.write), (5, true, false));
        assert_eq!(lsr.fields.iter().filter(|field| field.name == "THRE").count(), 1);
        let ier = register(&map, "serial0/uart", "IER");
        assert!(ier.read && ier.write && ier.prompt);
        assert_eq!(register(&map, "acpi/pm", "PM_TMR").class, Class::Time);
        assert_eq!(register(&map, "acpi/pm", "PM_TMR").width, 4);
        assert!(register(&map, "i8042/command", "COMMAND").prompt);
        // Named by its state, which no map has; forbidden all the same.
        assert!(register(&map, "pic/primary", "OCW1").prompt);
        // A hole ends a register.
        assert_eq!(register(&map, "dma1/8237", "STATUS").width, 1);
    }

    #[test]
    fn the_arm64_board_is_listed_too() {
        let map = of_board(BoardKind::Arm64Virt).unwrap();
        let cwriter = register(&map, "its/frames", "GITS_CWRITER");
        assert_eq!((cwriter.offset, cwriter.width, cwriter.prompt), (0x88, 8, true));
        assert_eq!(register(&map, "its/frames", "GITS_CBASER").class, Class::Address);
        assert_eq!(register(&map, "serial0/uart", "THR").class, Class::Payload);
        let ram = map.regions.iter().find(|region| region.device == "ram").unwrap();
        assert!(map.registers.iter().all(|of| of.id != ram.id));
    }
}
