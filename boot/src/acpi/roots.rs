//! The RSDP, ACPI's root pointer, and the RSDT and XSDT, the lists of tables that it points to.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::{OEM_ID, table};

/// ACPI 6.5, section 5.2.5.3, "Root System Description Pointer Structure".
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct Rsdp {
    signature: [u8; 8],
    checksum: u8,
    oem_id: [u8; 6],
    revision: u8,
    rsdt: U32,
    length: U32,
    xsdt: U64,
    extended_checksum: u8,
    reserved: [u8; 3],
}

/// "ACPI 2.0 and later": there is an XSDT.
const REVISION: u8 = 2;
/// The first checksum covers ACPI 1.0's part only.
const FIRST_LEN: usize = 20;

/// The root pointer. It names an RSDT too, for guests that stop reading after ACPI 1.0.
pub(super) fn rsdp(rsdt: u32, xsdt: u32) -> Vec<u8> {
    let mut rsdp = Rsdp {
        signature: *b"RSD PTR ",
        checksum: 0,
        oem_id: OEM_ID,
        revision: REVISION,
        rsdt: rsdt.into(),
        length: 36.into(),
        xsdt: u64::from(xsdt).into(),
        extended_checksum: 0,
        reserved: [0; 3],
    };
    rsdp.checksum = balance(rsdp.as_bytes().iter().take(FIRST_LEN));
    rsdp.extended_checksum = balance(rsdp.as_bytes().iter());
    rsdp.as_bytes().to_vec()
}

/// The byte that makes the sum of all 0.
fn balance<'a>(bytes: impl Iterator<Item = &'a u8>) -> u8 {
    bytes.fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

/// ACPI 6.5, section 5.2.7: 32-bit pointers.
pub(super) fn rsdt(tables: &[u32]) -> Vec<u8> {
    let body: Vec<u8> = tables.iter().flat_map(|addr| addr.to_le_bytes()).collect();
    table(*b"RSDT", 1, &body)
}

/// ACPI 6.5, section 5.2.8: 64-bit pointers.
pub(super) fn xsdt(tables: &[u32]) -> Vec<u8> {
    let body: Vec<u8> = tables.iter().flat_map(|addr| u64::from(*addr).to_le_bytes()).collect();
    table(*b"XSDT", 1, &body)
}
