//! The Multiboot information structure, by which a kernel is told of its command line, memory and
//! modules.
//!
//! Spec: Multiboot Specification, version 0.6.96, section 3.3 "Boot information format".

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::modules::Module;
use crate::e820::{E820Entry, E820Kind};
use crate::kernel::Framebuffer;

/// The kernel shows it as who started it.
const LOADER_NAME: &[u8] = b"trapline";

// Bits of `flags`: which fields are valid.
const MEMORY: u32 = 1 << 0;
const CMDLINE: u32 = 1 << 2;
const MODULES: u32 = 1 << 3;
const MEMORY_MAP: u32 = 1 << 6;
const BOOT_LOADER_NAME: u32 = 1 << 9;
const FRAMEBUFFER: u32 = 1 << 12;

/// `framebuffer_type`: the colours are fields of the pixel.
const DIRECT_RGB: u8 = 1;

/// The structure EBX points at, as far as we have something to say.
#[derive(Clone, Copy, FromZeros, Immutable, IntoBytes)]
#[repr(C)]
struct Info {
    flags: U32,
    mem_lower: U32,
    mem_upper: U32,
    boot_device: U32,
    cmdline: U32,
    mods_count: U32,
    mods_addr: U32,
    syms: [U32; 4],
    mmap_length: U32,
    mmap_addr: U32,
    drives_length: U32,
    drives_addr: U32,
    config_table: U32,
    boot_loader_name: U32,
    apm_table: U32,
    vbe: [U32; 4],
    framebuffer_addr: U64,
    framebuffer_pitch: U32,
    framebuffer_width: U32,
    framebuffer_height: U32,
    framebuffer_bpp: u8,
    framebuffer_type: u8,
    /// Position and width in bits of red, green and blue.
    color_info: [u8; 6],
}

/// One entry of the module list.
#[derive(Clone, Copy, Immutable, IntoBytes)]
#[repr(C)]
struct ModuleEntry {
    mod_start: U32,
    mod_end: U32,
    string: U32,
    reserved: U32,
}

/// One entry of the memory map.
#[derive(Clone, Copy, Immutable, IntoBytes)]
#[repr(C, packed)]
struct MapEntry {
    /// Of what follows.
    size: U32,
    base_addr: U64,
    length: U64,
    kind: U32,
}

/// What there is to tell.
pub(super) struct Told<'a> {
    pub(super) cmdline: &'a [u8],
    pub(super) modules: &'a [Module],
    pub(super) e820: &'a [E820Entry],
    pub(super) framebuffer: Option<Framebuffer>,
}

impl Told<'_> {
    /// Bytes of guest memory it takes.
    pub(super) fn len(&self) -> u64 {
        self.bytes(0).len() as u64
    }

    /// All of it as it is at guest address `addr`: the structure, then what it points at.
    pub(super) fn bytes(&self, addr: u32) -> Vec<u8> {
        let mut info = Info::new_zeroed();
        let mut rest = Appendix { addr, bytes: vec![0; size_of::<Info>()] };
        info.mods_count = u32::try_from(self.modules.len()).unwrap_or(u32::MAX).into();
        let entries: Vec<u8> = self
            .modules
            .iter()
            .flat_map(|module| {
                let string = rest.string(&module.string);
                let [start, end] = [module.place.start, module.place.end].map(word);
                let entry =
                    ModuleEntry { mod_start: start, mod_end: end, string, reserved: 0.into() };
                entry.as_bytes().to_vec()
            })
            .collect();
        info.cmdline = rest.string(self.cmdline);
        info.boot_loader_name = rest.string(LOADER_NAME);
        info.mods_addr = rest.table(&entries);
        let map: Vec<u8> = self.e820.iter().flat_map(map_entry).collect();
        info.mmap_addr = rest.table(&map);
        info.mmap_length = word(map.len() as u64);
        let (lower, upper) = self.contiguous();
        (info.mem_lower, info.mem_upper) = (word(lower >> 10), word(upper >> 10));
        let mut flags = MEMORY | CMDLINE | MODULES | MEMORY_MAP | BOOT_LOADER_NAME;
        if let Some(framebuffer) = self.framebuffer {
            flags |= FRAMEBUFFER;
            info.show(framebuffer);
        }
        info.flags = flags.into();
        let mut bytes = rest.bytes;
        bytes.splice(..size_of::<Info>(), info.as_bytes().iter().copied());
        bytes
    }

    /// Bytes of RAM from 0 and from 1 MiB up to the first hole; "the value for lower memory is at
    /// most 640 kilobytes".
    fn contiguous(&self) -> (u64, u64) {
        const HIGH: u64 = 1 << 20;
        let from = |addr| {
            let holds =
                |e: &&E820Entry| e.kind == E820Kind::Ram && (e.addr..e.end()).contains(&addr);
            self.e820.iter().find(holds).map_or(0, |entry| entry.end() - addr)
        };
        (from(0).min(640 << 10), from(HIGH))
    }
}

impl Info {
    fn show(&mut self, framebuffer: Framebuffer) {
        let Framebuffer { base, len: _, width, height, stride } = framebuffer;
        self.framebuffer_addr = u64::from(base).into();
        self.framebuffer_pitch = u32::from(stride).into();
        self.framebuffer_width = u32::from(width).into();
        self.framebuffer_height = u32::from(height).into();
        self.framebuffer_bpp = 32;
        self.framebuffer_type = DIRECT_RGB;
        self.color_info = [16, 8, 8, 8, 0, 8];
    }
}

/// What the structure points at.
struct Appendix {
    addr: u32,
    bytes: Vec<u8>,
}

impl Appendix {
    /// Adds a string with its NUL, and returns its address.
    fn string(&mut self, text: &[u8]) -> U32 {
        let addr = self.here();
        self.bytes.extend(text);
        self.bytes.push(0);
        addr
    }

    /// Adds a table, aligned, and returns its address.
    fn table(&mut self, table: &[u8]) -> U32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let addr = self.here();
        self.bytes.extend(table);
        addr
    }

    fn here(&self) -> U32 {
        word(u64::from(self.addr) + self.bytes.len() as u64)
    }
}

fn map_entry(entry: &E820Entry) -> Vec<u8> {
    let size = size_of::<MapEntry>() - size_of::<U32>();
    let entry = MapEntry {
        size: word(size as u64),
        base_addr: entry.addr.into(),
        length: entry.len.into(),
        kind: (entry.kind as u32).into(),
    };
    entry.as_bytes().to_vec()
}

/// Everything told is below 4 GiB; what is not, a size, is told as the largest there is.
fn word(value: u64) -> U32 {
    u32::try_from(value).unwrap_or(u32::MAX).into()
}

/// The specification's table ends with `color_info`, at 110 to 115.
const _: () = assert!(size_of::<Info>() == 116);
