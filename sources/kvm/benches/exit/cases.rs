//! The guests: each makes one kind of access over and over, between two marks.

use crate::support::{Asm, MMIO_SEGMENT};

/// The device's ports.
pub(crate) const PORT: u16 = 0x3f8;
/// Its registers in memory, from the start of the segment at `MMIO`.
pub(crate) const REGISTER: u16 = 0x100;
/// Writing here marks the begin and the end of the loop.
pub(crate) const MARK: u16 = 0x80;
/// What the device answers, in every byte.
pub(crate) const ANSWER: u64 = 0x5a5a_5a5a_5a5a_5a5a;
/// Elements of one `rep insb`: a sector.
const SECTOR: u16 = 512;

/// What the kernel is asked to take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offloaded {
    /// Nothing: every access is an exit.
    Nothing,
    /// Writes to the device queue up.
    Coalesced,
    /// Writes to the device ring a doorbell.
    Doorbell,
}

/// One guest.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What is counted: exits, or writes that cause none.
    pub(crate) unit: &'static str,
    /// How many of them a pass makes.
    pub(crate) units: u16,
    pub(crate) offloaded: Offloaded,
    /// The program, without its `hlt`.
    pub(crate) code: Asm,
}

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    use Offloaded::{Coalesced, Doorbell, Nothing};
    let port = |units, access| Asm::new().mov_dx(PORT).mov_al(0x41).repeat(units, access);
    let register = |units, access| Asm::new().mov_ds(MMIO_SEGMENT).repeat(units, access);
    let (out, store) = (|| Asm::new().out_al(), || Asm::new().store_eax(REGISTER));
    let case = |name, unit, units, offloaded, body: Asm| {
        let code = Asm::new().outb(MARK, 0).bytes(&body.0).outb(MARK, 0);
        Case { name, unit, units, offloaded, code }
    };
    vec![
        case("pio out", "exit", 300, Nothing, port(300, out())),
        case("pio in", "exit", 300, Nothing, port(300, Asm::new().in_al())),
        case("mmio write", "exit", 300, Nothing, register(300, store())),
        case("mmio read", "exit", 300, Nothing, register(300, Asm::new().load_eax(REGISTER))),
        case("rep outsb", "exit", 300, Nothing, string_out(300)),
        case("rep insb 512", "exit", 100, Nothing, string_in(100)),
        case("pio coalesced", "write", 2000, Coalesced, port(2000, out())),
        case("mmio coalesced", "write", 2000, Coalesced, register(2000, store())),
        case("pio doorbell", "write", 2000, Doorbell, port(2000, out())),
        case("mmio doorbell", "write", 2000, Doorbell, register(2000, store())),
    ]
}

/// KVM makes one exit per element of `rep outs`.
fn string_out(elements: u16) -> Asm {
    Asm::new().mov_dx(PORT).mov_si(0x2000).mov_cx(elements).rep_outsb()
}

/// And one for as many elements of `rep ins` as fit its page.
fn string_in(times: u16) -> Asm {
    let body = Asm::new().mov_di(0x3000).mov_cx(SECTOR).rep_insb();
    let back = -(i8::try_from(body.0.len()).unwrap() + 3);
    let [low, high] = times.to_le_bytes();
    // mov bx, times; body; dec bx; jnz body
    let code = Asm::new().mov_dx(PORT).bytes(&[0xbb, low, high]).bytes(&body.0);
    code.bytes(&[0x4b, 0x75]).bytes(&back.to_le_bytes())
}
