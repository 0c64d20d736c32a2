//! Everything that can be wrong with what a user asks to boot, one sentence each.

use std::io;

/// Why a guest could not be prepared. The text is meant for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel cannot be opened. Test suites match this text.
    #[error("Unable to open kernel {name}")]
    OpenKernel {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The initrd cannot be opened.
    #[error("Unable to open initrd {name}")]
    OpenInitrd {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The firmware image cannot be opened.
    #[error("Unable to open firmware {name}")]
    OpenFirmware {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A file was opened and then could not be read.
    #[error("cannot read {name}: {reason}")]
    Read {
        /// The file.
        name: String,
        /// Why.
        reason: String,
    },
    /// A file that must have contents has none.
    #[error("{name} is empty; name another file")]
    Empty {
        /// The file.
        name: String,
    },
    /// Neither kernel format was recognised.
    #[error(
        "{name} is not a kernel: neither a bzImage (no HdrS magic) nor an ELF file with a PVH \
         note, and without a Multiboot header"
    )]
    NotKernel {
        /// The file.
        name: String,
    },
    /// A kernel for other processors, or in a form only other loaders take.
    #[error("{name} is not a kernel for this guest: {found}; {wanted}")]
    ForeignKernel {
        /// The file.
        name: String,
        /// What it is.
        found: &'static str,
        /// What to do instead.
        wanted: &'static str,
    },
    /// A compressed kernel that cannot be unpacked.
    #[error("kernel {name} cannot be unpacked: {reason}")]
    Unpack {
        /// The file.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A bzImage from before protocol 2.06.
    #[error(
        "{name}: bzImage protocol {major}.{minor:02} is too old, 2.06 needed; a BIOS may start it \
         (-f with -k)"
    )]
    OldProtocol {
        /// The file.
        name: String,
        /// Protocol major version.
        major: u8,
        /// Protocol minor version.
        minor: u8,
    },
    /// A bzImage without a 32-bit entry, which starts in real mode and wants a BIOS.
    #[error("{name} starts in real mode only, where it needs a BIOS; start it by one (-f with -k)")]
    RealModeOnly {
        /// The file.
        name: String,
    },
    /// A kernel that wants to run below 1 MiB.
    #[error("{name} is a zImage, which loads below 1 MiB; build a bzImage instead")]
    ZImage {
        /// The file.
        name: String,
    },
    /// The file ends before its own header says it does.
    #[error("{name} is truncated, {missing} bytes are missing; copy or build it again")]
    Truncated {
        /// The file.
        name: String,
        /// How many bytes are missing.
        missing: u64,
    },
    /// Looks like ELF, and cannot be parsed.
    #[error("{name} is a damaged ELF file: {reason}")]
    BadElf {
        /// The file.
        name: String,
        /// What the parser says.
        reason: String,
    },
    /// An ELF file we have no way to enter.
    #[error(
        "{name} is not a kernel we can enter: an ELF file without a PVH note, and {reason}; \
         use the bzImage or build with CONFIG_PVH=y"
    )]
    NotLinuxElf {
        /// The file.
        name: String,
        /// Why it is no plain x86-64 vmlinux either.
        reason: &'static str,
    },
    /// A Multiboot header that cannot be obeyed.
    #[error("{name} is a damaged Multiboot kernel: {reason}")]
    BadMultiboot {
        /// The file.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A Multiboot header that requires what nobody knows.
    #[error("Multiboot kernel {name} requires unknown features (flags {flags:#x})")]
    MultibootFlags {
        /// The file.
        name: String,
        /// The bits of the header's flags.
        flags: u32,
    },
    /// A Multiboot kernel that requires a video mode.
    #[error("Multiboot kernel {name} requires a display; give the guest one with --vnc")]
    MultibootVideo {
        /// The file.
        name: String,
    },
    /// The kernel's memory is not there, or not its to take.
    #[error(
        "kernel {name} needs guest RAM from {start:#x} to {end:#x}, which this guest does not \
         have; give it more memory with -m"
    )]
    KernelDoesNotFit {
        /// The file.
        name: String,
        /// First address needed.
        start: u64,
        /// End (exclusive) of what is needed.
        end: u64,
    },
    /// The kernel wants RAM at addresses where this machine never has any.
    #[error(
        "kernel {name} needs guest RAM from {start:#x} to {end:#x}, where a PC has devices; more \
         memory would not help"
    )]
    KernelInHole {
        /// The file.
        name: String,
        /// First address needed.
        start: u64,
        /// End (exclusive) of what is needed.
        end: u64,
    },
    /// The kernel would overwrite what we tell it.
    #[error(
        "kernel {name} wants to be loaded at {addr:#x}, below {floor:#x} where the boot data is"
    )]
    LoadAddress {
        /// The file.
        name: String,
        /// Where it wants to be.
        addr: u64,
        /// The lowest address it may have.
        floor: u64,
    },
    /// No room for the initrd.
    #[error(
        "initrd {name} ({mib} MiB) does not fit into {ram_mib} MiB of guest RAM beside the \
         kernel; give the guest more memory with -m"
    )]
    InitrdDoesNotFit {
        /// The file.
        name: String,
        /// Its size, rounded up to MiB.
        mib: u64,
        /// The guest's RAM in MiB.
        ram_mib: u64,
    },
    /// RAM for the initrd is there, and the kernel does not reach it.
    #[error(
        "initrd {name} ({mib} MiB) does not fit below {top:#x}, where kernel {kernel} wants all \
         of it; use a smaller one or another kernel: more memory would not help"
    )]
    InitrdLimit {
        /// The file.
        name: String,
        /// Its size, rounded up to MiB.
        mib: u64,
        /// The kernel.
        kernel: String,
        /// End (exclusive) of what the kernel reaches.
        top: u64,
    },
    /// More command line than the kernel takes.
    #[error("command line is {len} bytes, {name} takes at most {max}")]
    CmdlineTooLong {
        /// Its length in bytes.
        len: usize,
        /// The kernel.
        name: String,
        /// What the kernel takes, in bytes, without the final NUL.
        max: usize,
    },
    /// A NUL would end the command line early.
    #[error("the command line contains a NUL byte, where the kernel would stop reading it")]
    CmdlineNul,
    /// Firmware is loaded into RAM, with its device tree behind it.
    #[error(
        "Bad firmware destination {address:#x}: provide --firmware-address an address in RAM, \
         {start:#x} to {end:#x}, with room for {need} bytes"
    )]
    FirmwareAddress {
        /// What was asked for.
        address: u64,
        /// First address of RAM.
        start: u64,
        /// End (exclusive) of RAM.
        end: u64,
        /// What the firmware and its device tree take.
        need: u64,
    },
    /// A device tree cannot be made of what it was to say.
    #[error("cannot describe the machine in a device tree: {reason}")]
    DeviceTree {
        /// Why not.
        reason: String,
    },
    /// Firmware that no processor can start.
    #[error(
        "{name} is no firmware: nothing is at its end, where a processor starts; name another file"
    )]
    NoResetVector {
        /// The file.
        name: String,
    },
    /// No firmware of that size can be mapped.
    #[error("firmware {name} is {len} bytes, at most {max} fit; use a smaller image")]
    FirmwareTooBig {
        /// The file.
        name: String,
        /// Its size in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The memory map is too long for the protocol.
    #[error("the memory map has {count} entries, the boot protocol takes at most {max}")]
    MemoryMapTooLong {
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// The board gave a table too little room.
    #[error("{what} needs {need} bytes, the board has room for {room}")]
    NoRoom {
        /// Which table.
        what: &'static str,
        /// Bytes needed.
        need: u64,
        /// Bytes there are.
        room: u64,
    },
    /// The board put a structure where its pointers cannot reach.
    #[error("{what} at {addr:#x} does not fit the format: {why}")]
    BadAddress {
        /// Which structure.
        what: &'static str,
        /// Its address.
        addr: u64,
        /// What the format wants.
        why: &'static str,
    },
    /// More processors than a table can name.
    #[error("{what} describes at most {max} processors, not {count}; use a smaller -c")]
    TooManyCpus {
        /// Which table.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// Guest memory refused.
    #[error("cannot place the {what} in guest memory: {source}")]
    Guest {
        /// What was being placed.
        what: &'static str,
        /// Why not.
        source: trapline_guestmem::Error,
    },
    /// A file for the initramfs cannot be had.
    #[error("cannot put {name} into the initramfs: {reason}")]
    Initramfs {
        /// The file.
        name: String,
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// An initrd of `len` bytes is too large for the RAM there is.
    pub(crate) fn initrd_does_not_fit(name: &str, len: u64, ram_mib: u64) -> Self {
        Self::InitrdDoesNotFit { name: name.to_owned(), mib: len.div_ceil(1 << 20), ram_mib }
    }

    /// An initrd of `len` bytes has room in RAM, but not below `top`.
    pub(crate) fn initrd_limit(name: &str, len: u64, kernel: &str, top: u64) -> Self {
        let (name, kernel) = (name.to_owned(), kernel.to_owned());
        Self::InitrdLimit { name, mib: len.div_ceil(1 << 20), kernel, top }
    }
}

/// The error of a guest memory write, naming what was being written.
pub(crate) fn placing(what: &'static str) -> impl FnOnce(trapline_guestmem::Error) -> Error {
    move |source| Error::Guest { what, source }
}

/// `addr` as the 32-bit pointer to `what`.
pub(crate) fn below_4g(what: &'static str, addr: u64) -> Result<u32, Error> {
    u32::try_from(addr).map_err(|_| Error::BadAddress {
        what,
        addr,
        why: "its pointer has 32 bits, so it must be below 4 GiB",
    })
}
