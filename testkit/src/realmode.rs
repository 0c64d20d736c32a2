//! Guests of a few dozen bytes: an assembler of the 16-bit instructions that tests need, and the
//! firmware image that starts with them.
//!
//! Encodings: Intel SDM volume 2. A jump's distance is counted in bytes, so bodies of loops and
//! conditions are programs themselves.

/// The first serial port's transmit and receive register.
pub const UART: u16 = 0x3f8;
/// Its line status register.
pub const UART_LSR: u16 = UART + 5;
/// Line status: a character has come.
pub const LSR_DATA_READY: u8 = 0x01;
/// Line status: the next character can be written.
pub const LSR_EMPTY: u8 = 0x20;
/// The port through which a guest ends the machine with a status.
pub const EXIT: u16 = 0xf4;

/// The segment a firmware image is in, and its length: all of the segment.
const ROM_SEGMENT: u16 = 0xf000;
const ROM_LEN: usize = 0x1_0000;
/// Where in the segment the processor starts.
const RESET_VECTOR: usize = 0xfff0;

/// 16-bit instructions, in order. The bytes are public: they are the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asm(pub Vec<u8>);

/// Plain instructions.
impl Asm {
    /// No instruction yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// These bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// The instructions of `other`, whose jumps must stay inside it.
    #[must_use]
    pub fn then(self, other: &Self) -> Self {
        self.bytes(&other.0)
    }

    /// Bytes so far, which is where the next instruction will be, counted from the first.
    pub fn len16(&self) -> u16 {
        u16::try_from(self.0.len()).unwrap_or_else(|_| panic!("a program has at most 64 KiB"))
    }

    fn op16(self, op: &[u8], operand: u16) -> Self {
        self.bytes(op).bytes(&operand.to_le_bytes())
    }

    /// `mov al, value`
    #[must_use]
    pub fn mov_al(self, value: u8) -> Self {
        self.bytes(&[0xb0, value])
    }

    /// `mov ax, value`
    #[must_use]
    pub fn mov_ax(self, value: u16) -> Self {
        self.op16(&[0xb8], value)
    }

    /// `mov eax, value`
    #[must_use]
    pub fn mov_eax(self, value: u32) -> Self {
        self.bytes(&[0x66, 0xb8]).bytes(&value.to_le_bytes())
    }

    /// `mov cx, value`
    #[must_use]
    pub fn mov_cx(self, value: u16) -> Self {
        self.op16(&[0xb9], value)
    }

    /// `mov dx, value`
    #[must_use]
    pub fn mov_dx(self, value: u16) -> Self {
        self.op16(&[0xba], value)
    }

    /// `mov si, value`
    #[must_use]
    pub fn mov_si(self, value: u16) -> Self {
        self.op16(&[0xbe], value)
    }

    /// `mov di, value`
    #[must_use]
    pub fn mov_di(self, value: u16) -> Self {
        self.op16(&[0xbf], value)
    }

    /// `mov ds, segment`, by way of AX.
    #[must_use]
    pub fn mov_ds(self, segment: u16) -> Self {
        self.mov_ax(segment).bytes(&[0x8e, 0xd8])
    }

    /// `mov al, [addr]`
    #[must_use]
    pub fn load_al(self, addr: u16) -> Self {
        self.op16(&[0xa0], addr)
    }

    /// `mov ax, [addr]`
    #[must_use]
    pub fn load_ax(self, addr: u16) -> Self {
        self.op16(&[0xa1], addr)
    }

    /// `mov eax, [addr]`
    #[must_use]
    pub fn load_eax(self, addr: u16) -> Self {
        self.op16(&[0x66, 0xa1], addr)
    }

    /// `mov [addr], al`
    #[must_use]
    pub fn store_al(self, addr: u16) -> Self {
        self.op16(&[0xa2], addr)
    }

    /// `mov [addr], ax`
    #[must_use]
    pub fn store_ax(self, addr: u16) -> Self {
        self.op16(&[0xa3], addr)
    }

    /// `mov [addr], eax`
    #[must_use]
    pub fn store_eax(self, addr: u16) -> Self {
        self.op16(&[0x66, 0xa3], addr)
    }

    /// `mov es:[addr], eax`: ES stays at 0 while DS points at a device.
    #[must_use]
    pub fn keep_eax(self, addr: u16) -> Self {
        self.op16(&[0x26, 0x66, 0xa3], addr)
    }

    /// `movq mm0, [addr]`
    #[must_use]
    pub fn load_mm0(self, addr: u16) -> Self {
        self.op16(&[0x0f, 0x6f, 0x06], addr)
    }

    /// `movq [addr], mm0`
    #[must_use]
    pub fn store_mm0(self, addr: u16) -> Self {
        self.op16(&[0x0f, 0x7f, 0x06], addr)
    }

    /// `movq es:[addr], mm0`
    #[must_use]
    pub fn keep_mm0(self, addr: u16) -> Self {
        self.op16(&[0x26, 0x0f, 0x7f, 0x06], addr)
    }

    /// `hlt`
    #[must_use]
    pub fn hlt(self) -> Self {
        self.bytes(&[0xf4])
    }

    /// `jmp $`
    #[must_use]
    pub fn spin(self) -> Self {
        self.bytes(&[0xeb, 0xfe])
    }
}

/// Ports.
impl Asm {
    /// `out dx, al`
    #[must_use]
    pub fn out_al(self) -> Self {
        self.bytes(&[0xee])
    }

    /// `out dx, ax`
    #[must_use]
    pub fn out_ax(self) -> Self {
        self.bytes(&[0xef])
    }

    /// `out dx, eax`
    #[must_use]
    pub fn out_eax(self) -> Self {
        self.bytes(&[0x66, 0xef])
    }

    /// `in al, dx`
    #[must_use]
    pub fn in_al(self) -> Self {
        self.bytes(&[0xec])
    }

    /// `in ax, dx`
    #[must_use]
    pub fn in_ax(self) -> Self {
        self.bytes(&[0xed])
    }

    /// `in eax, dx`
    #[must_use]
    pub fn in_eax(self) -> Self {
        self.bytes(&[0x66, 0xed])
    }

    /// Writes a byte to a port.
    #[must_use]
    pub fn outb(self, port: u16, value: u8) -> Self {
        self.mov_dx(port).mov_al(value).out_al()
    }

    /// Writes two bytes to a port.
    #[must_use]
    pub fn outw(self, port: u16, value: u16) -> Self {
        self.mov_dx(port).mov_ax(value).out_ax()
    }

    /// Writes four bytes to a port.
    #[must_use]
    pub fn outl(self, port: u16, value: u32) -> Self {
        self.mov_dx(port).mov_eax(value).out_eax()
    }

    /// Reads a byte from a port into AL.
    #[must_use]
    pub fn inb(self, port: u16) -> Self {
        self.mov_dx(port).in_al()
    }

    /// Reads two bytes from a port into AX.
    #[must_use]
    pub fn inw(self, port: u16) -> Self {
        self.mov_dx(port).in_ax()
    }

    /// Reads four bytes from a port into EAX.
    #[must_use]
    pub fn inl(self, port: u16) -> Self {
        self.mov_dx(port).in_eax()
    }

    /// `cld; rep outsb`
    #[must_use]
    pub fn rep_outsb(self) -> Self {
        self.bytes(&[0xfc, 0xf3, 0x6e])
    }

    /// `cld; rep outsw`
    #[must_use]
    pub fn rep_outsw(self) -> Self {
        self.bytes(&[0xfc, 0xf3, 0x6f])
    }

    /// `cld; rep insb`
    #[must_use]
    pub fn rep_insb(self) -> Self {
        self.bytes(&[0xfc, 0xf3, 0x6c])
    }

    /// `cld; rep insw`
    #[must_use]
    pub fn rep_insw(self) -> Self {
        self.bytes(&[0xfc, 0xf3, 0x6d])
    }

    /// Reads a port until one of the bits of `mask` is set. Changes AL and DX.
    #[must_use]
    pub fn wait_for(self, port: u16, mask: u8) -> Self {
        // again: in al, dx; test al, mask; jz again
        self.mov_dx(port).in_al().bytes(&[0xa8, mask, 0x74, 0xfb])
    }
}

/// Loops and conditions.
impl Asm {
    /// Runs `body` CX times: `body; loop body`. The body must keep CX.
    #[must_use]
    pub fn repeat(self, times: u16, body: Self) -> Self {
        let back = distance(-body.span() - 2);
        self.mov_cx(times).then(&body).bytes(&[0xe2, back])
    }

    /// Runs `body` for ever.
    #[must_use]
    pub fn forever(self, body: Self) -> Self {
        let back = distance(-body.span() - 2);
        self.then(&body).bytes(&[0xeb, back])
    }

    /// Runs `body` if AL is `value`.
    #[must_use]
    pub fn if_al_is(self, value: u8, body: Self) -> Self {
        let over = distance(body.span());
        self.bytes(&[0x3c, value, 0x75, over]).then(&body)
    }

    fn span(&self) -> isize {
        isize::try_from(self.0.len()).unwrap_or(isize::MAX)
    }
}

/// A short jump's operand.
fn distance(bytes: isize) -> u8 {
    let distance = i8::try_from(bytes);
    distance
        .unwrap_or_else(|_| panic!("a short jump does not go {bytes} bytes far"))
        .cast_unsigned()
}

/// What a guest of the PC board says, and how it ends.
impl Asm {
    /// Sends the byte in AL through the first serial port, when there is room. Keeps AL and CX.
    #[must_use]
    pub fn send_al(self) -> Self {
        // mov ah, al; ...; mov al, ah
        let waiting = self.bytes(&[0x88, 0xc4]).wait_for(UART_LSR, LSR_EMPTY);
        waiting.bytes(&[0x88, 0xe0]).mov_dx(UART).out_al()
    }

    /// Sends the `count` lowest bytes of EAX, lowest first.
    #[must_use]
    pub fn send_eax(self, count: usize) -> Self {
        // mov ebx, eax; then for each byte: mov al, bl; ...; shr ebx, 8
        let kept = self.bytes(&[0x66, 0x89, 0xc3]);
        (0..count).fold(kept, |asm, _| {
            asm.bytes(&[0x88, 0xd8]).send_al().bytes(&[0x66, 0xc1, 0xeb, 0x08])
        })
    }

    /// Sends `text` through the first serial port, byte by byte as there is room. The text is in
    /// the program, which must be [`Asm::rom`]'s. Changes AX, CX, DX and SI.
    #[must_use]
    pub fn print(self, text: &[u8]) -> Self {
        let (asm, at, len) = self.embed(text);
        asm.mov_si(at).repeat(len, Self::new().bytes(&[0x2e, 0xac]).send_al()) // lods al, cs:[si]
    }

    /// Puts `data` into the program and a jump before it; returns where it is and its length.
    #[must_use]
    pub fn embed(self, data: &[u8]) -> (Self, u16, u16) {
        let len = u16::try_from(data.len()).unwrap_or_else(|_| panic!("at most 64 KiB"));
        let jump = self.op16(&[0xe9], len); // jmp over
        let at = jump.len16();
        (jump.bytes(data), at, len)
    }

    /// Ends the machine through the exit port; should there be none, spins.
    #[must_use]
    pub fn exit(self, value: u8) -> Self {
        self.outb(EXIT, value).spin()
    }

    /// A firmware image that fills its segment and starts with this program at offset 0.
    pub fn rom(&self) -> Vec<u8> {
        let [low, high] = ROM_SEGMENT.to_le_bytes();
        let mut image = self.0.clone();
        assert!(image.len() <= RESET_VECTOR, "the program reaches into the reset vector");
        image.resize(RESET_VECTOR, 0xf4);
        image.extend([0xea, 0x00, 0x00, low, high]); // jmp f000:0000
        image.resize(ROM_LEN, 0);
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_jumps_back_to_its_body_and_a_condition_over_it() {
        let nop = || Asm::new().bytes(&[0x90, 0x90]);
        assert_eq!(Asm::new().repeat(3, nop()).0, [0xb9, 3, 0, 0x90, 0x90, 0xe2, 0xfc]);
        assert_eq!(Asm::new().forever(nop()).0, [0x90, 0x90, 0xeb, 0xfc]);
        assert_eq!(Asm::new().if_al_is(7, nop()).0, [0x3c, 7, 0x75, 2, 0x90, 0x90]);
    }

    #[test]
    #[should_panic = "does not go"]
    fn a_loop_that_is_too_long_is_no_loop_somewhere_else() {
        let _ = Asm::new().forever(Asm::new().bytes(&[0x90; 127]));
    }

    #[test]
    fn an_image_fills_its_segment_and_starts_at_its_beginning() {
        let image = Asm::new().hlt().rom();
        assert_eq!((image.len(), image[0]), (0x1_0000, 0xf4));
        assert_eq!(image[0xfff0..0xfff5], [0xea, 0, 0, 0, 0xf0]);
    }
}
