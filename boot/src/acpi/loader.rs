//! The tables for firmware that puts them where it likes: QEMU's `etc/table-loader`.
//!
//! Spec: QEMU `hw/acpi/bios-linker-loader.c`. Firmware carries out a list of commands, 128 bytes
//! each: allocate memory for a file, add a file's address to a pointer, make a checksum right.

use super::{AcpiConfig, Table, build};
use crate::error::Error;

/// The files, by the names firmware knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirmwareTables {
    /// [`FirmwareTables::RSDP`].
    pub rsdp: Vec<u8>,
    /// [`FirmwareTables::TABLES`], all others.
    pub tables: Vec<u8>,
    /// [`FirmwareTables::LOADER`], the commands.
    pub loader: Vec<u8>,
}

impl FirmwareTables {
    /// Name of the file with the root pointer.
    pub const RSDP: &'static str = "etc/acpi/rsdp";
    /// Name of the file with the tables.
    pub const TABLES: &'static str = "etc/acpi/tables";
    /// Name of the file with the commands.
    pub const LOADER: &'static str = "etc/table-loader";
}

/// `BIOS_LINKER_LOADER_ENTRY`: a command is this long whatever it has to say.
const COMMAND_LEN: usize = 128;
const FILE_NAME_LEN: usize = 56;

const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;

/// Where memory is allocated: anywhere, or in the segment that is searched for the root pointer.
const ZONE_HIGH: u8 = 1;
const ZONE_FSEG: u8 = 2;

/// Where in a table's header its checksum is.
const CHECKSUM: usize = 9;
/// Both of the root pointer: where, and of how many bytes.
const RSDP_CHECKSUMS: [(usize, usize); 2] = [(8, 20), (32, 36)];

/// The tables as files. Addresses of [`AcpiConfig::rsdp`] and [`AcpiConfig::tables`] are not used.
///
/// # Errors
/// As [`build`].
pub fn for_firmware(config: &AcpiConfig<'_>) -> Result<FirmwareTables, Error> {
    // With all tables from address 0, every pointer is an offset in the file.
    let room = config.tables.end - config.tables.start;
    let mut all = build(&AcpiConfig { rsdp: 0, tables: 0..room, ..config.clone() })?;
    let mut rsdp = all.pop().map(|table| table.bytes).unwrap_or_default();
    let mut tables = Vec::new();
    let mut commands = Commands::default();
    commands.allocate(FirmwareTables::TABLES, 64, ZONE_HIGH);
    commands.allocate(FirmwareTables::RSDP, 16, ZONE_FSEG);
    for table in &all {
        let start = usize::try_from(table.addr).unwrap_or(usize::MAX);
        tables.resize(start, 0);
        tables.extend(&table.bytes);
        let pointers = pointers(table);
        for (at, size) in &pointers {
            commands.add_pointer(FirmwareTables::TABLES, start + at, *size);
        }
        if !pointers.is_empty() {
            clear(&mut tables, start + CHECKSUM);
            let len = table.bytes.len();
            commands.add_checksum(FirmwareTables::TABLES, start + CHECKSUM, start, len);
        }
    }
    commands.add_pointer(FirmwareTables::RSDP, 16, 4);
    commands.add_pointer(FirmwareTables::RSDP, 24, 8);
    for (at, _) in RSDP_CHECKSUMS {
        clear(&mut rsdp, at);
    }
    for (at, len) in RSDP_CHECKSUMS {
        commands.add_checksum(FirmwareTables::RSDP, at, 0, len);
    }
    Ok(FirmwareTables { rsdp, tables, loader: commands.0 })
}

/// Where in a table there are pointers to others, and how many bytes they have.
fn pointers(table: &Table) -> Vec<(usize, u8)> {
    const HEADER_LEN: usize = 36;
    let entries = |size: u8| {
        let places = (HEADER_LEN..table.bytes.len()).step_by(size.into());
        places.map(|at| (at, size)).collect()
    };
    match table.signature {
        // FIRMWARE_CTRL, DSDT and X_DSDT.
        "FACP" => vec![(36, 4), (40, 4), (140, 8)],
        "RSDT" => entries(4),
        "XSDT" => entries(8),
        _ => Vec::new(),
    }
}

/// Firmware adds what is missing to the byte that is there.
fn clear(bytes: &mut [u8], at: usize) {
    bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = 0);
}

#[derive(Default)]
struct Commands(Vec<u8>);

impl Commands {
    fn allocate(&mut self, file: &str, align: u32, zone: u8) {
        self.push(ALLOCATE, &[&name(file), &align.to_le_bytes(), &[zone]]);
    }

    /// Every pointer here points into the tables.
    fn add_pointer(&mut self, file: &str, at: usize, size: u8) {
        self.push(ADD_POINTER, &[&name(file), &name(FirmwareTables::TABLES), &word(at), &[size]]);
    }

    fn add_checksum(&mut self, file: &str, at: usize, start: usize, len: usize) {
        self.push(ADD_CHECKSUM, &[&name(file), &word(at), &word(start), &word(len)]);
    }

    fn push(&mut self, command: u32, fields: &[&[u8]]) {
        let end = self.0.len() + COMMAND_LEN;
        self.0.extend(command.to_le_bytes());
        fields.iter().for_each(|field| self.0.extend(*field));
        self.0.resize(end, 0);
    }
}

fn name(file: &str) -> [u8; FILE_NAME_LEN] {
    let mut name = [0; FILE_NAME_LEN];
    name.iter_mut().zip(file.bytes()).for_each(|(to, from)| *to = from);
    name
}

/// A table file has less than 4 GiB.
fn word(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}
