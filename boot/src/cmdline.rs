//! The kernel's command line: our defaults, then the user's words.

use trapline_guestmem::GuestMem;

use crate::error::{Error, placing};

/// What kvmtool tells every x86 kernel. Scripts depend on the text. Where Linux has a word for the
/// opposite, the user's wins, because it comes later; `noapic` has none.
const MACHINE: &str = "noapic noacpi";
/// What it tells them of configuration space, where there is configuration mechanism #1.
const CONF1: &str = " pci=conf1";
/// What it goes on with.
const DEVICES: &str = "reboot=k panic=1 i8042.direct=1 i8042.dumbkbd=1 i8042.nopnp=1";
/// What it goes on with when there is no display.
const NO_DISPLAY: &str = "i8042.noaux=1";
/// What it says of the first messages then, if the console is the first serial port.
const EARLY: &str = "earlyprintk=serial ";
/// What it goes on with when there is one.
const DISPLAY: &str = "video=vesafb";

/// Which board the kernel runs on. kvmtool has something to tell it on a PC only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Machine {
    /// The PC.
    #[default]
    Pc,
    /// The arm64 board.
    Arm64,
}

impl Machine {
    /// The board of this host's guests.
    pub const HOST: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Pc };
}

/// Where the kernel's messages go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Console {
    /// The first 16550 UART.
    #[default]
    Serial,
    /// The same, whose registers are at this guest physical address, too: for the first messages.
    SerialEarly(u32),
    /// A 16550 UART at this guest physical address, from the first message on.
    Mmio(u32),
    /// The virtio console.
    Virtio,
    /// The hypervisor console; Linux calls it the same as the virtio console.
    Hypervisor,
}

/// The display, if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Display {
    /// There is none.
    #[default]
    None,
    /// Somebody looks at it: the kernel's messages go there too, and programs talk to
    /// [`Defaults::console`].
    Watched,
    /// Somebody sits in front of it: programs talk to it too.
    Used,
}

/// What of the default command line depends on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// The board.
    pub machine: Machine,
    /// `console=`.
    pub console: Console,
    /// The display.
    pub display: Display,
    /// Whether configuration space is memory alone.
    pub ecam: bool,
    /// Whether there is a first disk to be the root file system.
    pub root_disk: bool,
    /// Whether the kernel is to say nothing but what is wrong, and nothing before it has a console.
    pub quiet: bool,
}

/// The defaults, then `user`. The root disk is not named when `user` names a `root=` itself.
///
/// Deviation: kvmtool names `/dev/vda` also when there is no disk but an initrd, where the word
/// has no effect; without either it names a 9p root, which we do not have. With a display it names
/// `console=tty0` alone; here the other console stays a console, so that there is something to see
/// on the terminal too. Linux gives programs the last one it is told of.
pub fn build(defaults: Defaults, user: Option<&str>) -> String {
    let console = match defaults.console {
        Console::Serial | Console::SerialEarly(_) => "ttyS0".to_owned(),
        Console::Mmio(base) => format!("uart8250,mmio,{base:#x}"),
        Console::Virtio | Console::Hypervisor => "hvc0".to_owned(),
    };
    let no_display = defaults.display == Display::None;
    let early = match defaults.console {
        _ if defaults.quiet => String::new(),
        Console::SerialEarly(base) => format!("earlycon=uart8250,mmio,{base:#x} "),
        Console::Serial | Console::Virtio | Console::Hypervisor if no_display => EARLY.to_owned(),
        // There are no ports to print to early where the console's is in memory.
        _ => String::new(),
    };
    let machine = format!("{MACHINE}{} {DEVICES}", if defaults.ecam { "" } else { CONF1 });
    let mut line = match defaults.display {
        _ if defaults.machine == Machine::Arm64 => format!("console={console}"),
        Display::None => format!("{machine} {early}{NO_DISPLAY} console={console}"),
        Display::Watched => format!("{machine} {early}{DISPLAY} console=tty0 console={console}"),
        Display::Used => format!("{machine} {early}{DISPLAY} console={console} console=tty0"),
    };
    if defaults.quiet {
        line.push_str(" quiet");
    }
    if defaults.root_disk && !user.is_some_and(|user| user.contains("root=")) {
        line.push_str(" root=/dev/vda rw ");
    }
    if let Some(user) = user {
        line.push(' ');
        line.push_str(user);
    }
    line
}

/// Writes `line` and its final NUL at `addr`, where the board has `room` bytes. `kernel` takes
/// at most `max` bytes without the NUL.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "a device tree has it"))]
pub(crate) fn write(
    mem: &GuestMem,
    line: &str,
    kernel: &str,
    max: usize,
    place: CmdlinePlace,
) -> Result<(), Error> {
    if line.contains('\0') {
        return Err(Error::CmdlineNul);
    }
    if line.len() > max {
        return Err(Error::CmdlineTooLong { len: line.len(), name: kernel.to_owned(), max });
    }
    if line.len() >= place.room {
        let [need, room] = [line.len() + 1, place.room].map(|len| len as u64);
        return Err(Error::NoRoom { what: "command line", need, room });
    }
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(0);
    mem.write(place.addr, &bytes).map_err(placing("command line"))
}

/// Where the board keeps the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmdlinePlace {
    /// Its guest physical address, below 4 GiB.
    pub addr: u64,
    /// Bytes there are, the final NUL included.
    pub room: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: CmdlinePlace = CmdlinePlace { addr: 0x100, room: 64 };

    #[test]
    fn a_disk_gives_kvmtools_text_to_the_letter() {
        let defaults = Defaults { root_disk: true, ..Defaults::default() };
        assert_eq!(
            build(defaults, None),
            "noapic noacpi pci=conf1 reboot=k panic=1 i8042.direct=1 i8042.dumbkbd=1 \
             i8042.nopnp=1 earlyprintk=serial i8042.noaux=1 console=ttyS0 root=/dev/vda rw "
        );
    }

    #[test]
    fn a_kernel_is_told_of_a_console_and_of_configuration_space_in_memory() {
        let defaults =
            Defaults { console: Console::Mmio(0xfeb1_0000), ecam: true, ..Defaults::default() };
        assert_eq!(
            build(defaults, None),
            "noapic noacpi reboot=k panic=1 i8042.direct=1 i8042.dumbkbd=1 i8042.nopnp=1 \
             i8042.noaux=1 console=uart8250,mmio,0xfeb10000"
        );
    }

    #[test]
    fn a_kernel_is_told_once_where_its_first_messages_go() {
        let console = Console::SerialEarly(0xfeb1_0000);
        assert_eq!(
            build(Defaults { console, ..Defaults::default() }, None),
            "noapic noacpi pci=conf1 reboot=k panic=1 i8042.direct=1 i8042.dumbkbd=1 \
             i8042.nopnp=1 earlycon=uart8250,mmio,0xfeb10000 i8042.noaux=1 console=ttyS0"
        );
        let display = Display::Watched;
        let line = build(Defaults { console, display, ..Defaults::default() }, None);
        assert!(line.contains(" earlycon=uart8250,mmio,0xfeb10000 video=vesafb "), "{line}");
    }

    #[test]
    fn on_arm64_only_the_console_is_named() {
        let defaults = Defaults { machine: Machine::Arm64, root_disk: true, ..Defaults::default() };
        assert_eq!(build(defaults, Some("quiet")), "console=ttyS0 root=/dev/vda rw  quiet");
    }

    #[test]
    fn a_display_is_a_console_and_the_last_console_is_the_programs() {
        let with = |display| build(Defaults { display, ..Defaults::default() }, None);
        assert!(with(Display::Watched).ends_with("video=vesafb console=tty0 console=ttyS0"));
        assert!(with(Display::Used).ends_with("video=vesafb console=ttyS0 console=tty0"));
        // The display comes with a mouse.
        assert!(!with(Display::Used).contains("noaux"));
    }

    #[test]
    fn without_a_disk_no_root_is_named_and_the_users_words_come_last() {
        let line = build(Defaults::default(), Some("quiet init=/bin/sh"));
        assert!(line.ends_with(" i8042.noaux=1 console=ttyS0 quiet init=/bin/sh"));
        assert!(!line.contains("root="));
    }

    #[test]
    fn a_quiet_kernel_has_no_early_messages() {
        let defaults = Defaults { quiet: true, ..Defaults::default() };
        assert_eq!(
            build(defaults, Some("loglevel=7")),
            "noapic noacpi pci=conf1 reboot=k panic=1 i8042.direct=1 i8042.dumbkbd=1 \
             i8042.nopnp=1 i8042.noaux=1 console=ttyS0 quiet loglevel=7"
        );
    }

    #[test]
    fn a_root_of_the_users_replaces_the_disk() {
        let defaults =
            Defaults { root_disk: true, console: Console::Virtio, ..Defaults::default() };
        let line = build(defaults, Some("root=/dev/vdb"));
        assert!(line.ends_with(" console=hvc0 root=/dev/vdb"));
        assert!(!line.contains("vda"));
    }

    #[test]
    fn the_longest_line_fits_and_one_byte_more_is_refused() {
        let mem = GuestMem::new(&[(0, 0x1000)]).unwrap();
        mem.write(0x100, &[0xff; 64]).unwrap();
        write(&mem, &"a".repeat(20), "vmlinuz", 20, PLACE).unwrap();
        let mut back = [0; 22];
        mem.read(0x100, &mut back).unwrap();
        assert_eq!(&back[..20], "a".repeat(20).as_bytes());
        assert_eq!(back[20..], [0, 0xff], "one NUL and nothing after it");

        let refused = write(&mem, &"a".repeat(21), "vmlinuz", 20, PLACE).unwrap_err();
        assert_eq!(refused.to_string(), "command line is 21 bytes, vmlinuz takes at most 20");
        let refused = write(&mem, &"a".repeat(64), "vmlinuz", 2048, PLACE).unwrap_err();
        assert_eq!(refused.to_string(), "command line needs 65 bytes, the board has room for 64");
    }

    #[test]
    fn a_nul_is_refused() {
        let mem = GuestMem::new(&[(0, 0x1000)]).unwrap();
        assert!(matches!(write(&mem, "a\0b", "k", 20, PLACE), Err(Error::CmdlineNul)));
    }
}
