//! The BIOS' routines, as machine code: those that end an interrupt of the 8259s, the few services that
//! ask nothing of a device, and the reset vector.
//!
//! A service that is not here fails as a BIOS' does, with the carry flag set. The memory map is
//! the one service that kernels cannot do without: `INT 15h` with EAX E820h, E801h and AH 88h.

use super::{Bios, SEGMENT};
use crate::e820::{E820Entry, E820Kind};
use crate::error::Error;

// Offsets of the routines in the BIOS.
pub(super) const IRET: u16 = 0x00;
pub(super) const EOI_FIRST: u16 = 0x10;
pub(super) const EOI_BOTH: u16 = 0x20;
pub(super) const TICK: u16 = 0x40;
pub(super) const EQUIPMENT: u16 = 0x80;
pub(super) const MEMORY_SIZE: u16 = 0x90;
pub(super) const DISK: u16 = 0xa0;
pub(super) const KEYBOARD: u16 = 0xb0;
pub(super) const TIME: u16 = 0xc0;
pub(super) const SYSTEM: u16 = 0x100;
pub(super) const RESET: u16 = 0x180;
/// Where a Multiboot kernel's first instructions are, see [`Bios::start`].
pub(super) const START: u16 = 0x200;
/// What `INT 15h` answers with.
const MEMORY: u16 = 0x400;
/// The reset vector, f000:fff0.
const VECTOR: u16 = 0xff0;

/// An address range as `INT 15h` tells it: base, length, type.
const RANGE_LEN: usize = 20;
/// As many ranges as there is room for.
const RANGES_MAX: usize = (VECTOR - MEMORY - 12) as usize / RANGE_LEN;

impl Bios {
    /// The last page of the BIOS' segment.
    pub(super) fn image(&self, e820: &[E820Entry]) -> Result<Vec<u8>, Error> {
        let len = usize::try_from(Self::LEN).unwrap_or(0);
        let mut image = vec![0; len];
        for (at, bytes) in [
            (IRET, vec![0xcf]),
            (EOI_FIRST, self.end_of_interrupt(1)),
            (EOI_BOTH, self.end_of_interrupt(2)),
            (TICK, self.tick()),
            (EQUIPMENT, word_of_data_area(0x10)),
            (MEMORY_SIZE, word_of_data_area(0x13)),
            // mov ah, 1 (no such function); jmp fail
            (DISK, vec![0xb4, 0x01, 0xeb, 0x38]),
            (KEYBOARD, NO_KEY.to_vec()),
            (TIME, TIME_AND_RETURNS.to_vec()),
            (SYSTEM, self.system()),
            (RESET, self.reset_code()),
            (MEMORY, memory(e820)?),
            (VECTOR, self.reset_vector()),
        ] {
            let place = image.iter_mut().skip(at.into());
            place.zip(bytes).for_each(|(to, from)| *to = from);
        }
        Ok(image)
    }

    /// push ax; the end of interrupt to the first `count` 8259s, the second first; pop ax; iret.
    fn end_of_interrupt(&self, count: usize) -> Vec<u8> {
        let mut code = vec![0x50];
        self.pics.iter().take(count).rev().for_each(|port| out(&mut code, *port, EOI));
        code.extend([0x58, 0xcf]);
        code
    }

    /// Vector 08, the timer's: counts the ticks of the day and the days, and lets `INT 1Ch` know.
    fn tick(&self) -> Vec<u8> {
        let mut code = vec![
            0x50, 0x1e, 0x31, 0xc0, 0x8e, 0xd8, // push ax; push ds; xor ax, ax; mov ds, ax
            0x66, 0xff, 0x06, 0x6c, 0x04, // inc dword [0x46c]
            0x66, 0x81, 0x3e, 0x6c, 0x04, 0xb0, 0x00, 0x18,
            0x00, // cmp dword [0x46c], 0x1800b0
            0x72, 0x0a, // jb over
            0xa3, 0x6c, 0x04, 0xa3, 0x6e, 0x04, // mov [0x46c], ax; mov [0x46e], ax
            0xfe, 0x06, 0x70, 0x04, // inc byte [0x470]
            0xcd, 0x1c, // over: int 0x1c
        ];
        self.pics.iter().take(1).for_each(|port| out(&mut code, *port, EOI));
        code.extend([0x1f, 0x58, 0xcf]); // pop ds; pop ax; iret
        code
    }

    /// `INT 15h`. Its jumps to `ok` and `fail` are those of [`TIME_AND_RETURNS`].
    fn system(&self) -> Vec<u8> {
        let word = |at: u16| self.offset(MEMORY + at).to_le_bytes();
        let ([e88_0, e88_1], [ax_0, ax_1], [bx_0, bx_1]) = (word(0), word(2), word(4));
        let ([n_0, n_1], [table_0, table_1]) = (word(8), word(12));
        [
            &[0x3d, 0x20, 0xe8, 0x74, 0x28][..], // cmp ax, 0xe820; je e820
            &[0x3d, 0x01, 0xe8, 0x74, 0x14],     // cmp ax, 0xe801; je e801
            &[0x3d, 0x01, 0x24, 0x74, 0x0b],     // cmp ax, 0x2401; je a20
            &[0x80, 0xfc, 0x88, 0x75, 0xc6],     // cmp ah, 0x88; jne fail
            &[0x2e, 0xa1, e88_0, e88_1, 0xeb, 0xcb], // mov ax, cs:[memory]; jmp ok
            &[0x30, 0xe4, 0xeb, 0xc7],           // a20: xor ah, ah; jmp ok
            // e801: mov ax, cs:[memory + 2]; mov cx, ax; mov bx, cs:[memory + 4]; mov dx, bx; jmp ok
            &[0x2e, 0xa1, ax_0, ax_1, 0x89, 0xc1],
            &[0x2e, 0x8b, 0x1e, bx_0, bx_1, 0x89, 0xda, 0xeb, 0xb8],
            // e820: cmp edx, 'SMAP'; jne fail; cmp ecx, 20; jb fail
            &[0x66, 0x81, 0xfa, b'P', b'A', b'M', b'S', 0x75, 0xa4],
            &[0x66, 0x83, 0xf9, 20, 0x72, 0x9e],
            // cmp ebx, cs:[count]; jae fail
            &[0x2e, 0x66, 0x3b, 0x1e, n_0, n_1, 0x73, 0x96],
            // push si; push di; imul si, bx, 20; add si, table; mov cx, 10; cld
            &[0x56, 0x57, 0x6b, 0xf3, 20, 0x81, 0xc6, table_0, table_1, 0xb9, 10, 0, 0xfc],
            // rep movsw es:[di], cs:[si]; pop di; pop si
            &[0x2e, 0xf3, 0xa5, 0x5f, 0x5e],
            // inc ebx; cmp ebx, cs:[count]; jb more; xor ebx, ebx
            &[0x66, 0x43, 0x2e, 0x66, 0x3b, 0x1e, n_0, n_1, 0x72, 0x03, 0x66, 0x31, 0xdb],
            // more: mov eax, edx; mov ecx, 20; jmp ok
            &[0x66, 0x89, 0xd0, 0x66, 0xb9, 20, 0, 0, 0, 0xe9, 0x76, 0xff],
        ]
        .concat()
    }

    /// A hard reset through the reset control register.
    fn reset_code(&self) -> Vec<u8> {
        let [low, high] = self.reset.to_le_bytes();
        // cli; mov dx, port; mov al, 2; out dx, al; mov al, 6; out dx, al; again: hlt; jmp again
        vec![0xfa, 0xba, low, high, 0xb0, 2, 0xee, 0xb0, 6, 0xee, 0xf4, 0xeb, 0xfd]
    }

    /// jmp far reset; then the date of the BIOS, and the model: a PC/AT.
    fn reset_vector(&self) -> Vec<u8> {
        let [low, high] = self.offset(RESET).to_le_bytes();
        let [segment_low, segment_high] = SEGMENT.to_le_bytes();
        let mut code = vec![0xea, low, high, segment_low, segment_high];
        code.extend(b"06/23/99\0\xfc\0");
        code
    }
}

/// The end of interrupt, to an 8259.
const EOI: u8 = 0x20;

/// mov al, imm8; out imm8, al
pub(super) fn out(code: &mut Vec<u8>, port: u8, value: u8) {
    code.extend([0xb0, value, 0xe6, port]);
}

/// push ds; push 0x40; pop ds; mov ax, \[at\]; pop ds; iret
fn word_of_data_area(at: u8) -> Vec<u8> {
    vec![0x1e, 0x6a, 0x40, 0x1f, 0xa1, at, 0x00, 0x1f, 0xcf]
}

/// `INT 16h`: no key is waiting. push bp; mov bp, sp; or byte [bp + 6], ZF; pop bp; iret
const NO_KEY: [u8; 9] = [0x55, 0x89, 0xe5, 0x80, 0x4e, 0x06, 0x40, 0x5d, 0xcf];

/// `INT 1Ah`, AH 0: the ticks of the day, and whether another has begun. Then how services end:
/// with the carry flag of the caller set or cleared.
const TIME_AND_RETURNS: [u8; 46] = [
    0x84, 0xe4, 0x75, 0x16, // test ah, ah; jnz bad
    0x1e, 0x6a, 0x40, 0x1f, // push ds; push 0x40; pop ds
    0x8b, 0x16, 0x6c, 0x00, 0x8b, 0x0e, 0x6e, 0x00, // mov dx, [0x6c]; mov cx, [0x6e]
    0xa0, 0x70, 0x00, 0x88, 0x26, 0x70, 0x00, // mov al, [0x70]; mov [0x70], ah
    0x1f, 0xeb, 0x0b, // pop ds; jmp ok
    0xb4, 0x86, // bad: mov ah, 0x86 (function not supported)
    0x55, 0x89, 0xe5, 0x80, 0x4e, 0x06, 0x01, 0x5d, 0xcf, // fail: or byte [bp + 6], CF
    0x55, 0x89, 0xe5, 0x80, 0x66, 0x06, 0xfe, 0x5d, 0xcf, // ok: and byte [bp + 6], not CF
];

/// What there is to say about memory: KiB above 1 MiB for AH 88h, KiB up to 16 MiB and units of
/// 64 KiB above for E801h, the number of ranges, and the ranges for E820h.
fn memory(e820: &[E820Entry]) -> Result<Vec<u8>, Error> {
    const MIB: u64 = 1 << 20;
    const BLOCK: u64 = 64 << 10;
    if e820.len() > RANGES_MAX {
        return Err(Error::MemoryMapTooLong { count: e820.len(), max: RANGES_MAX });
    }
    let holds = |e: &&E820Entry| e.kind == E820Kind::Ram && (e.addr..e.end()).contains(&MIB);
    let end = e820.iter().find(holds).map_or(MIB, E820Entry::end);
    let word = |value: u64| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
    let mut bytes = Vec::new();
    bytes.extend(word((end - MIB) >> 10));
    bytes.extend(word((end.min(16 * MIB) - MIB) >> 10));
    bytes.extend(word(end.saturating_sub(16 * MIB) / BLOCK));
    bytes.extend([0; 2]);
    bytes.extend(u32::try_from(e820.len()).unwrap_or(0).to_le_bytes());
    for entry in e820 {
        bytes.extend(entry.addr.to_le_bytes());
        bytes.extend(entry.len.to_le_bytes());
        bytes.extend((entry.kind as u32).to_le_bytes());
    }
    Ok(bytes)
}
