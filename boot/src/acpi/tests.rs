use super::*;

const ISA: &[IsaDevice<'_>] = &[
    IsaDevice { name: "COM1", hid: "PNP0501", uid: 1, ports: &[(0x3f8, 8)], irq: Some(4) },
    IsaDevice { name: "COM2", hid: "PNP0501", uid: 2, ports: &[(0x2f8, 8)], irq: Some(3) },
    IsaDevice { name: "RTC0", hid: "PNP0B00", uid: 0, ports: &[(0x70, 2)], irq: Some(8) },
    IsaDevice {
        name: "KBD0",
        hid: "PNP0303",
        uid: 0,
        ports: &[(0x60, 1), (0x64, 1)],
        irq: Some(1),
    },
    IsaDevice { name: "MOU0", hid: "PNP0F13", uid: 0, ports: &[], irq: Some(12) },
];

fn config(apic_ids: &[u32]) -> AcpiConfig<'_> {
    AcpiConfig {
        rsdp: 0xe_0000,
        tables: 0xe_0040..0xf_0000,
        apic_ids,
        local_apic: 0xfee0_0000,
        nmi_lint: 1,
        io_apic: IoApic { id: 65, addr: 0xfec0_0000, gsi_base: 0 },
        overrides: SCI_AND_TIMER,
        sci: 9,
        power: PowerBlocks {
            event: 0x600,
            control: 0x604,
            timer: Some(0x608),
            button: true,
            off: 5,
        },
        reset: Some(ResetRegister { port: 0x64, value: 0xfe }),
        cmos_rtc: true,
        century: Some(0x32),
        vga: false,
        pci: Some(PciBridge {
            config: PciConfig::Ports(0xcf8),
            ports: &[0..=0xcf7, 0xd00..=0xffff],
            memory: &[0xd200_0000..=0xfebf_ffff],
            routes: &[PciRoute { device: 1, pin: 0, gsi: 5 }],
        }),
        isa: ISA,
        memory: &[],
        uart: None,
    }
}

const SCI_AND_TIMER: &[IrqOverride] = &[
    IrqOverride { irq: 0, gsi: 2, trigger: crate::wiring::Trigger::Bus },
    IrqOverride { irq: 9, gsi: 9, trigger: crate::wiring::Trigger::LevelHigh },
];

/// Guest memory as an operating system finds it.
struct Guest {
    mem: GuestMem,
}

impl Guest {
    fn with(config: &AcpiConfig<'_>) -> Self {
        let mem = GuestMem::new(&[(0, 0x10_0000)]).unwrap();
        write(&mem, config).unwrap();
        Self { mem }
    }

    fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read(addr, &mut bytes).unwrap();
        bytes
    }

    fn number(&self, addr: u64, len: usize) -> u64 {
        self.bytes(addr, len).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// The table at `addr`, its checksum verified.
    fn table(&self, addr: u64, signature: &str) -> Vec<u8> {
        let bytes = self.bytes(addr, usize::try_from(self.number(addr + 4, 4)).unwrap());
        assert_eq!(&bytes[..4], signature.as_bytes());
        assert_eq!(sum(&bytes), 0, "{signature}");
        bytes
    }

    /// The table an XSDT names.
    fn find(&self, signature: &str) -> Vec<u8> {
        let xsdt = self.number(0xe_0000 + 24, 8);
        let list = self.table(xsdt, "XSDT");
        let named = (0..(list.len() as u64 - 36) / 8)
            .map(|at| self.number(xsdt + 36 + 8 * at, 8))
            .find(|addr| self.bytes(*addr, 4) == signature.as_bytes());
        self.table(named.expect("named by the XSDT"), signature)
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn at32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// One line per structure of a MADT, walked by length.
fn madt_lines(madt: &[u8]) -> String {
    let mut rest = &madt[44..];
    let mut lines = String::new();
    while !rest.is_empty() {
        let (entry, after) = rest.split_at(usize::from(rest[1]));
        lines.push_str(&format!("type {}: {:02x?}\n", entry[0], &entry[2..]));
        rest = after;
    }
    lines
}

#[test]
fn every_pointer_from_the_root_leads_to_a_table_that_adds_up() {
    let guest = Guest::with(&config(&[0, 1]));
    let root = guest.bytes(0xe_0000, 36);
    assert_eq!(&root[..8], b"RSD PTR ");
    assert_eq!((sum(&root[..20]), sum(&root), root[15]), (0, 0, 2));
    let rsdt = guest.number(0xe_0000 + 16, 4);
    let list = guest.table(rsdt, "RSDT");
    assert_eq!(list.len(), 36 + 2 * 4);
    for at in 0..2 {
        let signature = ["FACP", "APIC"][at];
        guest.table(u64::from(at32(&list, 36 + 4 * at)), signature);
        guest.find(signature);
    }
    let fadt = guest.find("FACP");
    let x_dsdt = u64::from_le_bytes(fadt[140..148].try_into().unwrap());
    assert_eq!(u64::from(at32(&fadt, 40)), x_dsdt, "DSDT and X_DSDT agree");
    guest.table(u64::from(at32(&fadt, 40)), "DSDT");
    let facs = u64::from(at32(&fadt, 36));
    assert_eq!(guest.bytes(facs, 4), b"FACS");
    assert_eq!(facs % 64, 0);
}

#[test]
fn the_fadt_says_where_to_switch_off_and_what_is_there() {
    let fadt = Guest::with(&config(&[0])).find("FACP");
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    assert_eq!(fadt[46], 9, "SCI_INT");
    assert_eq!(at32(&fadt, 48), 0, "no SMI command port: ACPI mode from the start");
    assert_eq!((at32(&fadt, 56), fadt[88]), (0x600, 4), "PM1a event");
    assert_eq!((at32(&fadt, 64), fadt[89]), (0x604, 2), "PM1a control");
    assert_eq!((at32(&fadt, 76), fadt[91]), (0x608, 4), "PM timer");
    assert_eq!(fadt[108], 0x32, "century");
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 0b111, "legacy, 8042, no VGA");
    let flags = at32(&fadt, 112);
    assert_eq!(flags & 1 << 4, 0, "a fixed power button");
    assert_ne!(flags & 1 << 10, 0, "a reset register");
    assert_eq!(fadt[116..120], [1, 8, 0, 1]);
    assert_eq!((fadt[120], fadt[128]), (0x64, 0xfe));
    assert_eq!(fadt[148..152], [1, 32, 0, 2], "X_PM1a_EVT_BLK");
    assert_eq!(fadt[152..154], [0, 6]);
    assert_eq!(fadt[172..176], [1, 16, 0, 2], "X_PM1a_CNT_BLK");
}

#[test]
fn the_madt_lists_processors_io_apic_overrides_and_nmi() {
    let madt = Guest::with(&config(&[0, 1])).find("APIC");
    assert_eq!((at32(&madt, 36), at32(&madt, 40)), (0xfee0_0000, 1));
    insta::assert_snapshot!(madt_lines(&madt), @r"
    type 0: [00, 00, 01, 00, 00, 00]
    type 0: [01, 01, 01, 00, 00, 00]
    type 1: [41, 00, 00, 00, c0, fe, 00, 00, 00, 00]
    type 2: [00, 00, 02, 00, 00, 00, 00, 00]
    type 2: [00, 09, 09, 00, 00, 00, 0d, 00]
    type 4: [ff, 00, 00, 01]
    ");
}

#[test]
fn sixty_four_processors_fit_and_large_apic_ids_take_the_x2apic_form() {
    let ids: Vec<u32> = (0..64).collect();
    let madt = Guest::with(&config(&ids)).find("APIC");
    assert_eq!(madt_lines(&madt).lines().filter(|line| line.starts_with("type 0:")).count(), 64);
    let madt = Guest::with(&config(&[0, 255])).find("APIC");
    let lines = madt_lines(&madt);
    assert!(lines.contains("type 9: [00, 00, ff, 00, 00, 00, 01, 00, 00, 00, 01, 00, 00, 00]"));
    assert!(lines.contains("type 10: "));
}

#[test]
fn the_namespace_holds_every_processor_and_device() {
    let tables = build(&config(&[0, 1])).unwrap();
    let dsdt = &tables.iter().find(|table| table.signature == "DSDT").unwrap().bytes;
    let has = |text: &[u8]| dsdt.windows(text.len()).any(|window| window == text);
    for name in ["_S5_", "C000", "C001", "PCI0", "_PRT", "COM1", "COM2", "RTC0", "KBD0", "MOU0"] {
        assert!(has(name.as_bytes()), "{name}");
    }
    assert!(!has(b"C002"));
    assert!(has(&[0x12, 0x08, 0x04, 0x0a, 5, 0x0a, 5, 0, 0]), "_S5 is {{5, 5, 0, 0}}");
    assert!(has(&[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x22, 0x10, 0]), "COM1's ports and IRQ 4");
    assert!(has(&[0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8]), "configuration mechanism 1");
}

#[test]
fn a_device_at_an_address_has_its_registers_and_a_shared_level_interrupt() {
    let (name, hid) = ("VR01".to_owned(), "LNRO0005");
    let device = MemoryDevice { name, hid, uid: 1, base: 0xfeb0_0200, len: 0x200, gsi: 11 };
    let config = AcpiConfig { memory: &[device], ..config(&[0]) };
    let tables = build(&config).unwrap();
    let dsdt = &tables.iter().find(|table| table.signature == "DSDT").unwrap().bytes;
    let has = |text: &[u8]| dsdt.windows(text.len()).any(|window| window == text);
    assert!(has(b"VR01\x08_HID\x0dLNRO0005\0"), "an ACPI ID is a string");
    // Memory32Fixed, read and write (ACPI 6.5, section 6.4.3.4).
    assert!(has(&[0x86, 9, 0, 1, 0, 2, 0xb0, 0xfe, 0, 2, 0, 0]));
    // Extended interrupt: consumer, level, active low, shared (section 6.4.3.6).
    assert!(has(&[0x89, 6, 0, 0b1101, 1, 11, 0, 0, 0]));
}

#[test]
fn configuration_space_in_memory_is_in_a_table_and_reserved() {
    let mut memory = config(&[0]);
    let base = 0xd100_0000;
    memory.pci = memory.pci.map(|pci| PciBridge { config: PciConfig::Ecam(base), ..pci });
    let guest = Guest::with(&memory);
    let mcfg = guest.find("MCFG");
    // Eight reserved bytes, then base, segment, first and last bus.
    assert_eq!(mcfg.len(), 36 + 8 + 16);
    assert_eq!(mcfg[44..], [0, 0, 0, 0xd1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let tables = build(&memory).unwrap();
    let dsdt = &tables.iter().find(|table| table.signature == "DSDT").unwrap().bytes;
    let has = |text: &[u8]| dsdt.windows(text.len()).any(|window| window == text);
    assert!(has(b"MBRD") && has(&[0x86, 9, 0, 1, 0, 0, 0, 0xd1, 0, 0, 0x10, 0]));
    assert!(!has(&[0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8]), "no configuration mechanism 1");
    assert!(build(&config(&[0])).unwrap().iter().all(|table| table.signature != "MCFG"));
}

#[test]
fn a_uart_in_memory_is_a_device_and_a_console_for_a_kernel_without_drivers() {
    let uart = MemoryUart { base: 0xfeb1_0000, len: 8, irq: 4 };
    let guest = Guest::with(&AcpiConfig { uart: Some(uart), ..config(&[0]) });
    let spcr = guest.find("SPCR");
    assert_eq!((spcr.len(), spcr[8], spcr[36]), (80, 2, 0));
    assert_eq!(spcr[40..52], [0, 8, 0, 1, 0, 0, 0xb1, 0xfe, 0, 0, 0, 0], "bytes of memory");
    assert_eq!(spcr[52..63], [3, 4, 4, 0, 0, 0, 7, 0, 1, 0, 3], "IRQ 4, 115200n81, ANSI");
    assert_eq!(spcr[64..68], [0xff; 4], "no PCI function");
    let fadt = guest.find("FACP");
    let dsdt = guest.table(at32(&fadt, 40).into(), "DSDT");
    let has = |text: &[u8]| dsdt.windows(text.len()).any(|window| window == text);
    assert!(has(b"UAR0"));
    // Memory32Fixed, and IRQ 4 of the ISA bus behind it.
    assert!(has(&[0x86, 9, 0, 1, 0, 0, 0xb1, 0xfe, 8, 0, 0, 0, 0x22, 0x10, 0]));
}

#[test]
fn tables_are_where_they_were_put_and_do_not_overlap() {
    let config = config(&[0, 1, 2]);
    let mut tables = build(&config).unwrap();
    let root = tables.pop().unwrap();
    assert_eq!((root.addr, root.bytes.len() as u64), (config.rsdp, RSDP_LEN));
    let mut next = config.tables.start;
    for table in &tables {
        assert!(table.addr >= next, "{}", table.signature);
        next = table.addr + table.bytes.len() as u64;
    }
    assert!(next <= config.tables.end);
}

#[test]
fn a_board_without_room_or_alignment_is_refused() {
    let cramped = AcpiConfig { tables: 0xe_0040..0xe_0100, ..config(&[0]) };
    assert!(matches!(build(&cramped), Err(Error::NoRoom { .. })));
    let crooked = AcpiConfig { rsdp: 0xe_0008, ..config(&[0]) };
    assert!(matches!(build(&crooked), Err(Error::BadAddress { .. })));
    let high = AcpiConfig { tables: 1 << 32..1 << 33, ..config(&[0]) };
    assert!(matches!(build(&high), Err(Error::BadAddress { .. })));
}

#[test]
fn a_bare_machine_claims_nothing_it_does_not_have() {
    let mut bare = config(&[0]);
    (bare.pci, bare.isa, bare.reset, bare.vga) = (None, &[], None, true);
    bare.cmos_rtc = false;
    bare.power.timer = None;
    bare.power.button = false;
    let guest = Guest::with(&bare);
    let fadt = guest.find("FACP");
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 1 << 5, "no clock");
    let flags = at32(&fadt, 112);
    assert_eq!((flags & 1 << 4, flags & 1 << 10), (1 << 4, 0));
    assert_eq!((at32(&fadt, 76), fadt[91]), (0, 0));
}

/// Carries out the commands as firmware does, with each file at a place of the firmware's choice.
fn place(files: &FirmwareTables, rsdp: u64, tables: u64) -> GuestMem {
    let mem = GuestMem::new(&[(0, 0x20_0000)]).unwrap();
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(bytes[..end].to_vec()).unwrap()
    };
    let addr = |name: &[u8]| match text(name).as_str() {
        FirmwareTables::RSDP => (rsdp, &files.rsdp),
        FirmwareTables::TABLES => (tables, &files.tables),
        other => panic!("{other}"),
    };
    for command in files.loader.chunks(128) {
        let word =
            |at: usize| u64::from(u32::from_le_bytes(command[at..at + 4].try_into().unwrap()));
        let (base, file) = addr(&command[4..60]);
        match word(0) {
            1 => {
                assert!(base.is_multiple_of(word(60)));
                mem.write(base, file).unwrap();
            }
            2 => {
                let (to, size) = (addr(&command[60..116]).0, usize::from(command[120]));
                let mut pointer = [0; 8];
                mem.read(base + word(116), &mut pointer[..size]).unwrap();
                let sum = (u64::from_le_bytes(pointer) + to).to_le_bytes();
                mem.write(base + word(116), &sum[..size]).unwrap();
            }
            3 => {
                let mut bytes = vec![0; usize::try_from(word(68)).unwrap()];
                mem.read(base + word(64), &mut bytes).unwrap();
                mem.write(base + word(60), &[0_u8.wrapping_sub(sum(&bytes))]).unwrap();
            }
            other => panic!("command {other}"),
        }
    }
    mem
}

#[test]
fn what_firmware_puts_together_is_what_a_kernel_would_have_found() {
    let ids: Vec<u32> = (0..4).collect();
    let config = config(&ids);
    let files = for_firmware(&config).unwrap();
    let contents = |mem: &GuestMem, at: u64, len: usize| {
        let mut bytes = vec![0; len];
        mem.read(at, &mut bytes).unwrap();
        bytes
    };
    let placed = place(&files, config.rsdp, config.tables.start);
    let written = Guest::with(&config).mem;
    let [placed, written] = [placed, written].map(|mem| contents(&mem, 0xe_0000, 0x1_0000));
    assert!(placed == written);
    // And anywhere else every pointer leads to a table that adds up.
    let other = Guest { mem: place(&files, 0xf_0000, 0x12_3440) };
    assert_eq!(sum(&other.bytes(0xf_0000, 20)), 0);
    let xsdt = other.number(0xf_0018, 8);
    for at in [36, 44] {
        let addr = other.number(xsdt + at, 8);
        let len = usize::try_from(other.number(addr + 4, 4)).unwrap();
        assert_eq!(sum(&other.bytes(addr, len)), 0, "{addr:#x}");
    }
}
