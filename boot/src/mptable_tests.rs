use super::*;

const IO_APIC: IoApic = IoApic { id: 65, addr: 0xfec0_0000, gsi_base: 0 };

fn written(apic_ids: &[u8]) -> Result<(GuestMem, Vec<u8>), Error> {
    let mem = GuestMem::new(&[(0, 0x10_0000)]).unwrap();
    let config = MpConfig {
        pointer: 0xf_0000,
        table: 0xf_0010..0xf_1000,
        apic_ids,
        local_apic: 0xfee0_0000,
        local_apic_version: 0x14,
        cpu_signature: 0x600,
        cpu_features: 0x201,
        io_apic: IO_APIC,
        io_apic_version: 0x11,
        overrides: &[IrqOverride::timer(0, 2), IrqOverride::sci(9, 9)],
        routes: &[
            PciRoute { device: 3, pin: 1, gsi: 17 },
            PciRoute { device: 31, pin: 3, gsi: 11 },
        ],
    };
    write(&mem, &config)?;
    let mut len = [0; 2];
    mem.read(0xf_0014, &mut len).unwrap();
    let mut table = vec![0; usize::from(u16::from_le_bytes(len))];
    mem.read(0xf_0010, &mut table).unwrap();
    Ok((mem, table))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Walks the entries as an operating system does, by type.
fn entries(table: &[u8]) -> Vec<&[u8]> {
    let mut rest = &table[44..];
    let mut found = Vec::new();
    while let Some(kind) = rest.first() {
        let (entry, after) = rest.split_at(if *kind == 0 { 20 } else { 8 });
        found.push(entry);
        rest = after;
    }
    found
}

#[test]
fn the_pointer_leads_to_a_table_and_both_add_up_to_zero() {
    let (mem, table) = written(&[0, 1]).unwrap();
    let mut pointer = [0; 16];
    mem.read(0xf_0000, &mut pointer).unwrap();
    assert_eq!(&pointer[..4], b"_MP_");
    assert_eq!(pointer[4..8], 0xf_0010u32.to_le_bytes());
    assert_eq!((pointer[8], pointer[9]), (1, 4));
    assert_eq!(sum(&pointer), 0);
    assert_eq!(&table[..4], b"PCMP");
    assert_eq!(sum(&table), 0);
    assert_eq!(table[36..40], 0xfee0_0000u32.to_le_bytes());
    let count = u16::from_le_bytes([table[34], table[35]]);
    assert_eq!(usize::from(count), entries(&table).len());
}

#[test]
fn entries_are_in_the_order_of_their_types_and_one_processor_starts() {
    let ids: Vec<u8> = (0..64).collect();
    let (_, table) = written(&ids).unwrap();
    let entries = entries(&table);
    assert!(entries.is_sorted_by_key(|entry| entry[0]));
    let cpus: Vec<_> = entries.iter().filter(|entry| entry[0] == 0).collect();
    assert_eq!(cpus.len(), 64);
    assert!(cpus.iter().zip(&ids).all(|(cpu, id)| cpu[1] == *id && cpu[3] & 1 == 1));
    assert_eq!(cpus.iter().filter(|cpu| cpu[3] & 2 != 0).count(), 1);
    assert_eq!(cpus[0][3], 3, "the first is the one");
}

#[test]
fn interrupts_follow_the_rule_but_for_the_overrides() {
    let (_, table) = written(&[0]).unwrap();
    let lines: Vec<[u8; 8]> = entries(&table)
        .iter()
        .filter(|entry| entry[0] == 3)
        .map(|entry| (*entry).try_into().unwrap())
        .collect();
    assert_eq!(lines.len(), 2 + 14, "PCI's, all ISA lines but the cascade and one of PCI's");
    assert_eq!(lines[0], [3, 0, 0, 0, PCI_BUS, 3 << 2 | 1, 65, 17]);
    assert_eq!(lines[1], [3, 0, 0, 0, PCI_BUS, 31 << 2 | 3, 65, 11]);
    assert!(lines.iter().all(|line| line[4] == PCI_BUS || line[7] != 11));
    assert!(lines.contains(&[3, 0, 0, 0, ISA_BUS, 0, 65, 2]), "the timer at pin 2");
    assert!(lines.contains(&[3, 0, 0, 0, ISA_BUS, 4, 65, 4]), "a serial line at its own");
    assert!(lines.contains(&[3, 0, 0b1101, 0, ISA_BUS, 9, 65, 9]), "ACPI's: level, high");
    let local: Vec<_> = entries(&table).into_iter().filter(|entry| entry[0] == 4).collect();
    assert_eq!(local, [[4, 3, 0, 0, 1, 0, 0, 0], [4, 1, 0, 0, 1, 0, 255, 1]]);
}

#[test]
fn a_table_that_does_not_fit_is_refused() {
    let all: Vec<u8> = (0..=254).collect();
    let refused = written(&all).unwrap_err().to_string();
    assert_eq!(refused, "the MP table describes at most 254 processors, not 255; use a smaller -c");
    assert!(matches!(written(&all[..200]), Err(Error::NoRoom { .. })));
}
