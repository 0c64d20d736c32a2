//! Guests in 32-bit protected mode, flat, whose interrupt handlers say the number of their vector:
//! those that reach their local APIC, which real mode cannot.

use trapline_kvm::{Start, Table};

use super::{Asm, CODE, Machine};

/// The local APIC's spurious-interrupt vector register, which switches it on.
pub(crate) const SVR: u32 = 0xfee0_00f0;
/// Its pin of the 8259s.
pub(crate) const LVT0: u32 = 0xfee0_0350;
/// A local vector table entry that is off.
pub(crate) const MASKED: u32 = 1 << 16;
/// Its end-of-interrupt register.
const EOI: u32 = 0xfee0_00b0;
/// The port that handlers speak to.
pub(crate) const PORT: u16 = 0x3f8;

/// Puts the descriptors into memory, which `Start::Protected` has loaded already.
pub(crate) fn descriptors(machine: &Machine) {
    let descriptors = [0, 0, 0x00cf_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff];
    let bytes = descriptors.map(u64::to_le_bytes).concat();
    machine.mem.write(0x500, &bytes).unwrap();
}

/// `mov dword [addr], value`, in 32-bit code.
pub(crate) fn store(addr: u32, value: u32) -> Asm {
    Asm::new().bytes(&[0xc7, 0x05]).bytes(&addr.to_le_bytes()).bytes(&value.to_le_bytes())
}

/// 32-bit code: the interrupt table at 0x6000 in force, then these stores.
pub(crate) fn flat(stores: &[(u32, u32)]) -> Asm {
    let table = store(0x600, 0x7ff).then(&store(0x602, 0x6000));
    let table = table.bytes(&[0x0f, 0x01, 0x1d, 0x00, 0x06, 0x00, 0x00]); // lidt [0x600]
    stores.iter().fold(table, |code, &(addr, value)| code.then(&store(addr, value)))
}

/// An interrupt gate.
pub(crate) fn gate(machine: &Machine, vector: u8, handler: u32) {
    let [a, b, c, d] = handler.to_le_bytes();
    let entry = [a, b, 0x10, 0, 0, 0x8e, c, d];
    machine.mem.write(0x6000 + u64::from(vector) * 8, &entry).unwrap();
}

/// The entry, with the descriptors in memory that interrupts load.
pub(crate) fn protected() -> Start {
    let gdt = Table { base: 0x500, limit: 0x1f };
    Start::Protected { eip: CODE.into(), esp: 0x7000, eax: 0, ebx: 0, esi: 0, gdt }
}

/// A handler that says `vector`, ends the interrupt, and returns.
pub(crate) fn say_and_end(machine: &Machine, vector: u8) {
    // mov al, vector; mov dx, PORT; out dx, al; mov [EOI], eax; in al, 0x80; sti; ret 8
    let at = 0x2000 + u32::from(vector) * 32;
    let asm = say(vector).then(&store(EOI, 0)).bytes(&[0xe4, 0x80, 0xfb, 0xc2, 8, 0]);
    machine.mem.write(at.into(), &asm.0).unwrap();
    gate(machine, vector, at);
}

/// `mov al, value; mov dx, PORT; out dx, al`
pub(crate) fn say(value: u8) -> Asm {
    Asm::new().bytes(&[0xb0, value, 0x66, 0xba]).bytes(&PORT.to_le_bytes()).bytes(&[0xee])
}

/// Says 1, then listens for interrupts for ever: `sti; hlt; jmp hlt`.
pub(crate) fn idle() -> Asm {
    say(1).bytes(&[0xfb, 0xf4, 0xeb, 0xfd])
}
