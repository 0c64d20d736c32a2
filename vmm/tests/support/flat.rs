//! Kernels of a few dozen bytes for the 32- and 64-bit entries of the boot protocols.
//!
//! The instructions here have the same encoding and meaning in 32- and in 64-bit mode; pointers
//! are in ESI, which in 64-bit mode is RSI with its upper half cleared.

use trapline_testkit::realmode::{Asm, EXIT, LSR_EMPTY, UART, UART_LSR};

/// Instructions, in order.
#[derive(Clone, Default)]
pub struct Flat(pub Vec<u8>);

impl Flat {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// These bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn mov_dx(self, port: u16) -> Self {
        self.bytes(&[0x66, 0xba]).bytes(&port.to_le_bytes())
    }

    /// Writes a byte to a port.
    #[must_use]
    pub fn outb(self, port: u16, value: u8) -> Self {
        self.mov_dx(port).bytes(&[0xb0, value, 0xee])
    }

    /// Writes two bytes to a port.
    #[must_use]
    pub fn outw(self, port: u16, value: u16) -> Self {
        self.mov_dx(port).bytes(&[0x66, 0xb8]).bytes(&value.to_le_bytes()).bytes(&[0x66, 0xef])
    }

    /// Writes four bytes to a port.
    #[must_use]
    pub fn outl(self, port: u16, value: u32) -> Self {
        self.mov_dx(port).bytes(&[0xb8]).bytes(&value.to_le_bytes()).bytes(&[0xef])
    }

    /// Reads a byte from a port into AL.
    #[must_use]
    pub fn inb(self, port: u16) -> Self {
        self.mov_dx(port).bytes(&[0xec])
    }

    /// Writes a byte to memory.
    #[must_use]
    pub fn store_byte(self, addr: u32, value: u8) -> Self {
        self.bytes(&[0xc6, 0x04, 0x25]).bytes(&addr.to_le_bytes()).bytes(&[value])
    }

    /// Reads four bytes of memory into EAX.
    #[must_use]
    pub fn load(self, addr: u32) -> Self {
        self.bytes(&[0x8b, 0x04, 0x25]).bytes(&addr.to_le_bytes())
    }

    /// `mov esi, [esi + offset]`: follows a 32-bit pointer.
    #[must_use]
    pub fn follow(self, offset: u32) -> Self {
        self.bytes(&[0x8b, 0xb6]).bytes(&offset.to_le_bytes())
    }

    /// Ends the machine through the exit port unless ESI points at `wanted`.
    #[must_use]
    pub fn demand(self, wanted: u32, status: u8) -> Self {
        let otherwise = Self::new().exit(status);
        let over = u8::try_from(otherwise.0.len()).unwrap();
        // cmp dword [esi], wanted; je over
        let asm = self.bytes(&[0x81, 0x3e]).bytes(&wanted.to_le_bytes()).bytes(&[0x74, over]);
        asm.bytes(&otherwise.0)
    }

    /// Sends AL through the first serial port.
    #[must_use]
    pub fn send_al(self) -> Self {
        // mov ah, al; again: in al, dx; test al, empty; jz again; mov al, ah
        let asm = self.bytes(&[0x88, 0xc4]).mov_dx(UART_LSR);
        let asm = asm.bytes(&[0xec, 0xa8, LSR_EMPTY, 0x74, 0xfb, 0x88, 0xe0]);
        asm.mov_dx(UART).bytes(&[0xee])
    }

    /// Sends EAX, lowest byte first.
    #[must_use]
    pub fn send_eax(self) -> Self {
        // mov ebx, eax; then for each byte: mov al, bl; ...; shr ebx, 8
        let kept = self.bytes(&[0x89, 0xc3]);
        (0..4).fold(kept, |asm, _| asm.bytes(&[0x88, 0xd8]).send_al().bytes(&[0xc1, 0xeb, 0x08]))
    }

    /// Sends the text at ESI up to its NUL.
    #[must_use]
    pub fn send_text(self) -> Self {
        let send = Self::new().send_al();
        let len = u8::try_from(send.0.len()).unwrap();
        // again: lodsb; test al, al; jz over; ...; jmp again; over:
        let asm = self.bytes(&[0xac, 0x84, 0xc0, 0x74, len + 2]).bytes(&send.0);
        asm.bytes(&[0xeb, (-(i8::try_from(len).unwrap() + 7)).cast_unsigned()])
    }

    /// Ends the machine through the exit port.
    #[must_use]
    pub fn exit(self, value: u8) -> Self {
        self.outb(EXIT, value).bytes(&[0xeb, 0xfe])
    }
}

/// Where the kernels here are loaded.
const START: u32 = 0x10_0000;

/// An ELF file with a PVH note that names `code` as its 32-bit entry
/// (Xen `docs/misc/pvh.pandoc`; System V ABI, "Object files").
pub fn pvh(code: &Flat) -> Vec<u8> {
    const HEADERS: u32 = 64 + 2 * 56;
    const NOTE: u32 = 20;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // ET_EXEC, EM_X86_64; version, entry, program headers at 64, sections nowhere, flags.
    halves(&mut file, &[2, 62]);
    words(&mut file, &[1, START, 0, 64, 0, 0, 0, 0]);
    halves(&mut file, &[64, 56, 2, 64, 0, 0]);
    // PT_LOAD: type, flags; offset, virtual and physical address, size in file and memory, align.
    let len = u32::try_from(code.0.len()).unwrap();
    words(&mut file, &[1, 7, HEADERS + NOTE, 0, START, 0, START, 0, len, 0, len, 0, 1, 0]);
    // PT_NOTE.
    words(&mut file, &[4, 4, HEADERS, 0, 0, 0, 0, 0, NOTE, 0, NOTE, 0, 4, 0]);
    // XEN_ELFNOTE_PHYS32_ENTRY
    words(&mut file, &[4, 4, 18]);
    file.extend(b"Xen\0");
    words(&mut file, &[START]);
    file.extend(&code.0);
    file
}

/// A kernel with a Multiboot header whose address fields name `code` as its entry (Multiboot
/// Specification 0.6.96, section 3.1).
pub fn multiboot(code: &Flat) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const FLAGS: u32 = 1 << 16;
    const HEADER: u32 = 32;
    let checksum = 0u32.wrapping_sub(MAGIC + FLAGS);
    let mut file = Vec::new();
    words(&mut file, &[MAGIC, FLAGS, checksum, START, START, 0, 0, START + HEADER]);
    file.extend(&code.0);
    file
}

/// A Multiboot kernel that goes back to real mode, to `program` at 0000:8000 (Intel SDM volume 3A,
/// section 9.9.2).
pub fn back_to_real_mode(program: &Asm) -> Vec<u8> {
    const PLACE: u32 = 0x8000;
    const HEADER: u32 = 32;
    // mov ax, data; mov ds, es, ss, ax; mov eax, cr0; and al, !PE; mov cr0, eax
    let leave = Asm::new().mov_ax(0x10).bytes(&[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0]);
    let leave = leave.bytes(&[0x0f, 0x20, 0xc0, 0x24, 0xfe, 0x0f, 0x22, 0xc0]);
    // jmp far 0:next; next: xor ax, ax; mov ds, es, ss, ax; mov sp, 0x7c00
    let next = u16::try_from(PLACE).unwrap() + leave.len16() + 5;
    let leave = leave.bytes(&[0xea]).bytes(&next.to_le_bytes()).bytes(&[0, 0]);
    let leave = leave.bytes(&[0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c]);
    let program = leave.then(program).0;
    // The data behind the code below: descriptors of 16-bit code and data, the two table
    // registers, and what goes to PLACE.
    const CODE_LEN: u32 = 17 + 7 + 7 + 7;
    let data = START + HEADER + CODE_LEN;
    let (gdtr, idtr) = (data + 24, data + 30);
    let mut code = vec![0xbe];
    words(&mut code, &[idtr + 6]); // mov esi, program
    code.push(0xbf);
    words(&mut code, &[PLACE]); // mov edi, PLACE
    code.push(0xb9);
    words(&mut code, &[u32::try_from(program.len()).unwrap()]); // mov ecx, length
    code.extend([0xf3, 0xa4, 0x0f, 0x01, 0x15]); // rep movsb; lgdt
    words(&mut code, &[gdtr]);
    code.extend([0x0f, 0x01, 0x1d]); // lidt
    words(&mut code, &[idtr]);
    code.push(0xea); // jmp far 8:PLACE
    words(&mut code, &[PLACE]);
    halves(&mut code, &[8]);
    assert_eq!(code.len(), usize::try_from(CODE_LEN).unwrap());
    words(&mut code, &[0, 0, 0xffff, 0x9b00, 0xffff, 0x9300]);
    halves(&mut code, &[0x17]);
    words(&mut code, &[data]);
    halves(&mut code, &[0x3ff]);
    words(&mut code, &[0]);
    code.extend(program);
    multiboot(&Flat(code))
}

/// A bzImage of protocol 2.15 with `code` at its 64-bit entry (Linux
/// `Documentation/arch/x86/boot.rst`) that takes command lines of 2047 bytes.
pub fn bzimage(code: &Flat) -> Vec<u8> {
    let mut payload = vec![0xf4; 0x200];
    payload.extend(&code.0);
    payload.resize(payload.len().next_multiple_of(16), 0);
    let mut file = vec![0; 0x400];
    let mut field = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    field(0x1f1, &[1]); // setup_sects
    field(0x1f4, &u32::try_from(payload.len() / 16).unwrap().to_le_bytes()); // syssize
    field(0x1fe, &[0x55, 0xaa]); // boot_flag
    field(0x200, &[0xeb, 0x6a]); // jump, over the header
    field(0x202, b"HdrS");
    field(0x206, &0x020f_u16.to_le_bytes()); // version
    field(0x211, &[1]); // loadflags: LOADED_HIGH
    field(0x214, &START.to_le_bytes()); // code32_start
    field(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    field(0x230, &0x1000_u32.to_le_bytes()); // kernel_alignment
    field(0x236, &[1]); // xloadflags: XLF_KERNEL_64
    field(0x238, &2047_u32.to_le_bytes()); // cmdline_size
    field(0x258, &u64::from(START).to_le_bytes()); // pref_address
    field(0x260, &0x1_0000_u32.to_le_bytes()); // init_size
    file.extend(payload);
    file
}

fn halves(file: &mut Vec<u8>, values: &[u16]) {
    file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn words(file: &mut Vec<u8>, values: &[u32]) {
    file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}
