//! The driver's side of a split ring, and of everything a driver can do wrong in one.
//!
//! Spec: virtio 1.3, section 2.7.

use std::collections::VecDeque;

use trapline_guestmem::GuestMem;

/// The chain goes on at `next`.
pub const DESC_NEXT: u16 = 1;
/// The device writes the buffer.
pub const DESC_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_INDIRECT: u16 = 4;

/// Guest RAM as a driver reaches it.
pub trait Ram {
    /// Copies from RAM.
    fn read(&self, addr: u64, buf: &mut [u8]);

    /// Copies to RAM.
    fn write(&self, addr: u64, data: &[u8]);
}

impl Ram for GuestMem {
    fn read(&self, addr: u64, buf: &mut [u8]) {
        let read = Self::read(self, addr, buf);
        read.unwrap_or_else(|error| panic!("a driver reads RAM: {error}"));
    }

    fn write(&self, addr: u64, data: &[u8]) {
        let written = Self::write(self, addr, data);
        written.unwrap_or_else(|error| panic!("a driver writes RAM: {error}"));
    }
}

/// One descriptor, as it is in a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest physical address of the buffer.
    pub addr: u64,
    /// Its length in bytes.
    pub len: u32,
    /// [`DESC_NEXT`], [`DESC_WRITE`], [`DESC_INDIRECT`].
    pub flags: u16,
    /// Index of the next one.
    pub next: u16,
}

impl Descriptor {
    /// Length in a table.
    pub const LEN: u64 = 16;

    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// A buffer of a request: address and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The device reads it.
    Read(u64, u32),
    /// The device writes it.
    Write(u64, u32),
}

impl Part {
    fn descriptor(self, flags: u16, next: u16) -> Descriptor {
        match self {
            Self::Read(addr, len) => Descriptor { addr, len, flags, next },
            Self::Write(addr, len) => Descriptor { addr, len, flags: flags | DESC_WRITE, next },
        }
    }
}

/// The driver's side of a split ring.
pub struct Ring<R> {
    ram: R,
    size: u16,
    base: u64,
    free: VecDeque<u16>,
    /// How many descriptors the chain that begins with each has.
    lengths: Vec<u16>,
    avail: u16,
    used: u16,
}

impl<R: Ram> Ring<R> {
    /// An empty ring of `size` descriptors at `base`, a multiple of 4,096, laid out as legacy
    /// devices want it: the used ring begins at the next multiple of 4,096.
    pub fn new(ram: R, base: u64, size: u16) -> Self {
        let (free, lengths) = ((0..size).collect(), vec![0; size.into()]);
        let ring = Self { ram, size, base, free, lengths, avail: 0, used: 0 };
        let len = usize::try_from(ring.end() - base);
        let len = len.unwrap_or_else(|_| panic!("a ring fits into memory"));
        ring.ram.write(base, &vec![0; len]);
        ring
    }

    /// How many descriptors it has.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Guest physical address of the descriptor table.
    pub fn descriptors(&self) -> u64 {
        self.base
    }

    /// Of the available ring (driver area).
    pub fn driver(&self) -> u64 {
        self.base + u64::from(self.size) * Descriptor::LEN
    }

    /// Of the used ring (device area).
    pub fn device(&self) -> u64 {
        (self.used_event_addr() + 2).next_multiple_of(0x1000)
    }

    /// Behind all of it.
    pub fn end(&self) -> u64 {
        self.avail_event_addr() + 2
    }

    fn used_event_addr(&self) -> u64 {
        self.driver() + 4 + u64::from(self.size) * 2
    }

    fn avail_event_addr(&self) -> u64 {
        self.device() + 4 + u64::from(self.size) * 8
    }

    /// The RAM it is in.
    pub fn ram(&self) -> &R {
        &self.ram
    }

    fn read_u16(&self, addr: u64) -> u16 {
        let mut bytes = [0; 2];
        self.ram.read(addr, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn read_u32(&self, addr: u64) -> u32 {
        let mut bytes = [0; 4];
        self.ram.read(addr, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Writes a descriptor of the queue's table.
    pub fn describe(&self, index: u16, descriptor: Descriptor) {
        self.describe_at(self.base, index, descriptor);
    }

    /// Writes a descriptor of a table anywhere.
    pub fn describe_at(&self, table: u64, index: u16, descriptor: Descriptor) {
        self.ram.write(table + u64::from(index) * Descriptor::LEN, &descriptor.bytes());
    }

    /// Makes the chain that begins at `head` available, whatever it is.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.avail % self.size);
        self.ram.write(self.driver() + 4 + slot * 2, &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
        self.set_avail_index(self.avail);
    }

    /// Writes the index of the available ring; [`Ring::offer`] goes on from its own.
    pub fn set_avail_index(&self, index: u16) {
        self.ram.write(self.driver() + 2, &index.to_le_bytes());
    }

    /// Makes a request available; its head.
    ///
    /// # Panics
    /// When there are not as many free descriptors.
    pub fn add(&mut self, parts: &[Part]) -> u16 {
        let enough = (1..=self.free.len()).contains(&parts.len());
        assert!(enough, "the ring has {} free descriptors", self.free.len());
        let chain: Vec<u16> = self.free.drain(..parts.len()).collect();
        for (at, (part, index)) in parts.iter().zip(&chain).enumerate() {
            let next = chain.get(at + 1);
            let flags = if next.is_some() { DESC_NEXT } else { 0 };
            self.describe(*index, part.descriptor(flags, next.copied().unwrap_or(0)));
        }
        let Some(&head) = chain.first() else { unreachable!("there is one at least") };
        self.keep(head, u16::try_from(chain.len()).unwrap_or(u16::MAX));
        self.offer(head);
        head
    }

    /// Remembers a chain's length. Its other descriptors are found through the table when it comes
    /// back.
    fn keep(&mut self, head: u16, descriptors: u16) {
        if let Some(length) = self.lengths.get_mut(usize::from(head)) {
            *length = descriptors;
        }
    }

    /// Makes a request available whose descriptors are in a table at `table`; its head.
    ///
    /// # Panics
    /// When there is no free descriptor.
    pub fn add_indirect(&mut self, table: u64, parts: &[Part]) -> u16 {
        let count = u16::try_from(parts.len()).unwrap_or(u16::MAX);
        for (part, index) in parts.iter().zip(0..count) {
            let more = index + 1 < count;
            let flags = if more { DESC_NEXT } else { 0 };
            self.describe_at(
                table,
                index,
                part.descriptor(flags, if more { index + 1 } else { 0 }),
            );
        }
        let head = self.free.pop_front();
        let head = head.unwrap_or_else(|| panic!("the ring has no free descriptor"));
        let len = u32::from(count) * 16;
        let descriptor = Descriptor { addr: table, len, flags: DESC_INDIRECT, next: 0 };
        self.describe(head, descriptor);
        self.keep(head, 1);
        self.offer(head);
        head
    }

    /// The next used request: its head, and how many bytes the device says it wrote.
    pub fn take_used(&mut self) -> Option<(u32, u32)> {
        if self.used_index() == self.used {
            return None;
        }
        let entry = self.device() + 4 + u64::from(self.used % self.size) * 8;
        self.used = self.used.wrapping_add(1);
        let (head, written) = (self.read_u32(entry), self.read_u32(entry + 4));
        self.release(head);
        Some((head, written))
    }

    /// Frees the descriptors of a chain that [`Ring::add`] made.
    fn release(&mut self, head: u32) {
        let Ok(mut index) = u16::try_from(head) else { return };
        let Some(count) = self.lengths.get_mut(usize::from(index)).map(std::mem::take) else {
            return;
        };
        for _ in 0..count {
            self.free.push_back(index);
            index = self.read_u16(self.base + u64::from(index) * Descriptor::LEN + 14);
        }
    }

    /// How many requests the device has used since the start, modulo 65,536.
    pub fn used_index(&self) -> u16 {
        self.read_u16(self.device() + 2)
    }

    /// Whether the device has asked for no notifications (`VRING_USED_F_NO_NOTIFY`).
    pub fn no_notify(&self) -> bool {
        self.read_u16(self.device()) & 1 != 0
    }

    /// Asks for no interrupts, or for them again (`VRING_AVAIL_F_NO_INTERRUPT`).
    pub fn set_no_interrupt(&self, no: bool) {
        self.ram.write(self.driver(), &u16::from(no).to_le_bytes());
    }

    /// With event indices: at which used index the driver wants an interrupt.
    pub fn set_used_event(&self, index: u16) {
        self.ram.write(self.used_event_addr(), &index.to_le_bytes());
    }

    /// With event indices: at which available index the device wants a notification.
    pub fn avail_event(&self) -> u16 {
        self.read_u16(self.avail_event_addr())
    }
}
