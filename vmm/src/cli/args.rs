//! The options of `trapline run` as clap sees them: every one kvmtool's `lkvm run` has, and ours.
//!
//! Values stay text here; [`super::options`] judges them, so that what is said about a wrong one
//! is one sentence of ours.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args};

// All options, by family. No doc comment: clap would take it for the command's help.
#[derive(Args, Clone, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) basic: BasicArgs,
    #[command(flatten)]
    pub(super) machine: MachineArgs,
    #[command(flatten)]
    pub(super) kernel: KernelArgs,
    #[command(flatten)]
    pub(super) root: RootArgs,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
    #[command(flatten)]
    pub(super) display: DisplayArgs,
    #[command(flatten)]
    pub(super) virtio: VirtioArgs,
    #[command(flatten)]
    pub(super) vfio: VfioArgs,
    #[command(flatten)]
    pub(super) devices: DeviceArgs,
    #[command(flatten)]
    pub(super) debug: DebugArgs,
    #[command(flatten)]
    pub(super) trapline: TraplineArgs,
    #[command(flatten)]
    pub(super) arm64: Arm64Args,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Basic options")]
pub(super) struct BasicArgs {
    /// A name for the guest [default: guest-PID]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Number of virtual CPUs [default: the host's online CPUs]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub(super) cpus: Option<String>,
    /// Guest memory; without a unit, in MiB; arm64: with its address behind an @ [default: 64M for each CPU and 192M more, at most 80 %
    /// of the host's]
    #[arg(short, long, value_name = "SIZE[BKMGTP]", allow_negative_numbers = true)]
    pub(super) mem: Option<String>,
    /// Disk image, a file or a block device (several: vda, vdb, ...): raw, qcow2, or VMDK to read; or a
    /// folder to be the root file system, also by the name of one that trapline setup made.
    /// With ,ro the guest cannot write; with ,direct the host's page cache is left out; further
    /// queues=N, serial=TEXT, iops=N, bps=N{K,M,G,T}, format=raw|qcow2|vmdk, werror=report|stop
    #[arg(
        short, long, value_name = "IMAGE[,ro|,direct][,KEY=VALUE...]", action = ArgAction::Append
    )]
    pub(super) disk: Vec<OsString>,
    /// Guest memory in the huge pages of this hugetlbfs mount
    #[arg(long, value_name = "PATH")]
    pub(super) hugetlbfs: Option<PathBuf>,
    /// Add nothing that was not asked for: no default kernel arguments, no root file system, no legacy
    /// devices
    #[arg(long)]
    pub(super) nodefaults: bool,
    /// Where the guest's console is: serial, mmio (a serial port in memory), virtio (hv: not yet)
    /// [default: serial]
    #[arg(long, value_name = "CONSOLE")]
    pub(super) console: Option<String>,
    /// KVM's device file [default: /dev/kvm]
    #[arg(long, value_name = "FILE")]
    pub(super) dev: Option<PathBuf>,
    /// How much to say on standard error: error, warning, info or debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(super) loglevel: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Machine options")]
pub(super) struct MachineArgs {
    /// Interrupt controllers. Of a PC: kernel (those and the timer in KVM) or split (local APICs in
    /// KVM; 8259 pair, I/O APIC and 8254 here, where --stat shows them) [default: kernel]. Of an
    /// arm64 guest: gicv2, gicv2m, gicv3 or gicv3-its [default: the first that can be had of
    /// gicv3-its, gicv3, gicv2m and gicv2]
    #[arg(long, value_name = "CHIP")]
    pub(super) irqchip: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kernel options")]
pub(super) struct KernelArgs {
    /// Kernel to boot: bzImage, ELF vmlinux, Multiboot, arm64 Image or zImage [default: one nearby, or the host's in /boot]
    #[arg(short, long, value_name = "FILE")]
    pub(super) kernel: Option<PathBuf>,
    /// Initial RAM disk; for a Multiboot kernel, its modules, with commas between them
    #[arg(short, long, value_name = "FILE")]
    pub(super) initrd: Option<PathBuf>,
    /// Kernel arguments, appended to the default ones
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) params: Option<String>,
    /// Firmware image to start instead of a kernel
    #[arg(short, long, value_name = "FILE")]
    pub(super) firmware: Option<PathBuf>,
    /// Image of the flash, which the guest changes. Of a PC: firmware with its variables; or with
    /// --firmware, which the guest cannot change then, the variables alone
    #[arg(short = 'F', long, value_name = "FILE")]
    pub(super) flash: Option<PathBuf>,
    /// Kernel to boot, as with --kernel
    #[arg(value_name = "KERNEL")]
    pub(super) positional: Vec<PathBuf>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Root file system and command, without a disk and initial RAM disk")]
pub(super) struct RootArgs {
    /// Let the guest change the host's files, as far as the user can
    #[arg(long, overrides_with = "ro")]
    pub(super) rw: bool,
    /// Keep the guest from changing its root [default for the host's files, not for -d DIR]
    #[arg(long, overrides_with = "rw")]
    pub(super) ro: bool,
    /// Begin in the folder that this command is given in
    #[arg(long)]
    pub(super) pwd: bool,
    /// Run the shell or the command as this user of the guest, a name or a number [default: root]
    #[arg(long, value_name = "USER")]
    pub(super) user: Option<String>,
    /// Run this script of the host's in the guest, with the arguments behind --, and end with its status
    #[arg(long, value_name = "FILE")]
    pub(super) script: Option<PathBuf>,
    /// Run this command in the guest, and end with its status
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Networking options")]
pub(super) struct NetworkArgs {
    /// Add a network card: in a network that needs no rights on the host (mode=user; also host_ip,
    /// guest_ip, host_mac, hostfwd=tcp:8022:22 to have a port of the host lead to the guest, and
    /// backend=passt or embedded, without which passt makes it if it is installed), on a tap of the
    /// host's (mode=tap; also tapif, fd, script, downscript, host_ip, host_mac, mq), or none at all
    /// (mode=none). Of each: guest_mac, trans, mtu, speed, pcap
    #[arg(
        short, long, value_name = "KEY=VALUE,...", action = ArgAction::Append,
        num_args = 0..=1, default_missing_value = "mode=user"
    )]
    pub(super) network: Vec<String>,
    /// Do not configure the guest's network by DHCP, which our init does
    #[arg(long)]
    pub(super) no_dhcp: bool,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Display options")]
pub(super) struct DisplayArgs {
    /// Give the guest a display and serve it by VNC, to anybody who can connect
    /// [default: 127.0.0.1:5900]
    // The address needs its `=`, as kvmtool's --vnc has no value and may stand before a kernel.
    #[arg(
        long, value_name = "ADDRESS:PORT", num_args = 0..=1, require_equals = true,
        default_missing_value = ""
    )]
    pub(super) vnc: Option<String>,
    /// Give the guest a display and write what it shows at the end to this file, as PNG
    #[arg(long, value_name = "FILE")]
    pub(super) screendump: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "virtio options")]
pub(super) struct VirtioArgs {
    /// Port of the virtio console device besides the console, by its name: into a file, on a pseudo
    /// terminal (with a symbolic link to it), or on a socket for a client to connect to
    #[arg(
        long, value_name = "[name=]NAME,file=PATH|pty[=LINK]|socket=PATH",
        action = ArgAction::Append
    )]
    pub(super) virtio_port: Vec<OsString>,
    /// virtio memory balloon, which is to hold this much of the guest's memory at first; without a
    /// unit, in MiB [default: nothing]
    // The size needs its `=`, as kvmtool's --balloon has no value and may stand before a kernel.
    #[arg(
        long, value_name = "SIZE[BKMGTP]", num_args = 0..=1, require_equals = true,
        default_missing_value = "0"
    )]
    pub(super) balloon: Option<String>,
    /// Folder of the host for the guest to mount by 9p under this tag (several). With ,ro it changes
    /// nothing. security_model says whose the guest's new files are: none (the guest user's if that
    /// can be), passthrough (or it is an error), mapped (ours, with the guest's view kept beside)
    #[arg(
        long = "9p", value_name = "DIR,TAG[,ro][,security_model=NAME]", action = ArgAction::Append
    )]
    pub(super) plan9: Vec<OsString>,
    /// Sockets between programs of the guest, which has this context identifier, and the host's: who
    /// connects to PATH and says "CONNECT port" gets to a port of the guest's, and the guest gets to
    /// who listens at PATH_port
    #[arg(long, value_name = "CID,socket=PATH")]
    pub(super) vsock: Option<OsString>,
    /// virtio random number generator
    #[arg(long)]
    pub(super) rng: bool,
    /// Older version of the virtio transport: pci-legacy for pci, mmio-legacy for mmio
    #[arg(long)]
    pub(super) virtio_legacy: bool,
    /// virtio transport: pci, pci-legacy, pci-transitional, mmio or mmio-legacy; with DEVICE=, of one
    /// device (disk0, 9p0, rng) [default: pci]
    #[arg(long, value_name = "TRANSPORT[,DEVICE=TRANSPORT...]")]
    pub(super) virtio_transport: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "VFIO options")]
pub(super) struct VfioArgs {
    /// PCI function of the host for the guest to drive, which vfio-pci has (trapline setup vfio)
    #[arg(long, value_name = "[DOMAIN:]BUS:DEV.FN", action = ArgAction::Append)]
    pub(super) vfio_pci: Vec<String>,
    /// Trap every access to this BAR, so that --trace and --stat show them: of one function, if it is
    /// named, or of all
    #[arg(long, value_name = "[FUNCTION=]BAR", action = ArgAction::Append)]
    pub(super) vfio_trap: Vec<String>,
    /// Names of registers, for traces; those of e1000 and NVMe are known
    #[arg(long, value_name = "[FUNCTION=]FILE", action = ArgAction::Append)]
    pub(super) vfio_names: Vec<OsString>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Devices that do not exist yet (refused by name)")]
pub(super) struct DeviceArgs {
    /// Display in a GTK window
    #[arg(long)]
    pub(super) gtk: bool,
    /// Display in an SDL window
    #[arg(long)]
    pub(super) sdl: bool,
    /// VESA video mode
    #[arg(long, value_name = "N")]
    pub(super) vidmode: Option<String>,
    /// Serial port on a pty of the host
    #[arg(long, value_name = "N", action = ArgAction::Append)]
    pub(super) tty: Vec<String>,
    /// As --script
    #[arg(long, value_name = "SCRIPT", hide = true)]
    pub(super) sandbox: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Debug options")]
pub(super) struct DebugArgs {
    /// As --loglevel=debug
    #[arg(long)]
    pub(super) debug: bool,
    /// List the ports the guest used and no device answered
    #[arg(long)]
    pub(super) debug_ioport: bool,
    /// List the memory addresses the guest used and no device answered
    #[arg(long)]
    pub(super) debug_mmio: bool,
    /// Single stepping (not yet)
    #[arg(long)]
    pub(super) debug_single_step: bool,
    /// Delay of every I/O access in milliseconds (not yet)
    #[arg(long, value_name = "MS")]
    pub(super) debug_iodelay: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Trapline's own options")]
pub(super) struct TraplineArgs {
    /// When the guest has ended, print what it accessed: by device and register (table), the whole
    /// map by region (all), or json
    #[arg(
        long, value_name = "FORM", num_args = 0..=1, require_equals = true,
        default_missing_value = "table"
    )]
    pub(super) stat: Option<String>,
    /// Write what the guest does to this file or FIFO, a line of JSON a minute and one at the end
    #[arg(long, value_name = "FILE")]
    pub(super) metrics_path: Option<PathBuf>,
    /// Print accesses as they happen, by the names of registers: those to a device, to one of its
    /// regions (DEVICE/REGION), those nobody answers (unclaimed), or all
    #[arg(long, value_name = "NAME,...", action = ArgAction::Append, value_delimiter = ',')]
    pub(super) trace: Vec<String>,
    /// Stop the guest after accesses to a device or region, to one of its registers, that read or write,
    /// or have this value, and ask what to do; on no terminal, tell and go on
    #[arg(
        long = "break", value_name = "NAME[:REGISTER][=r|w][,value=N]", action = ArgAction::Append
    )]
    pub(super) breaks: Vec<String>,
    /// The guest kernel's symbols, a vmlinux or a System.map [default: those in its memory]
    #[arg(long, value_name = "FILE")]
    pub(super) symbols: Option<PathBuf>,
    /// Have gdb connect to this TCP port, and see vCPUs as threads (break NAME... is a monitor command)
    /// [default address: 127.0.0.1]
    #[arg(long, value_name = "[ADDRESS:]PORT")]
    pub(super) gdb: Option<String>,
    /// Have writes queue up that trapline tune found could be late
    #[arg(long, value_name = "FILE", conflicts_with = "no_coalesce")]
    pub(super) deliveries: Option<PathBuf>,
    /// Record every access to a device, and what devices depend on beside accesses, in this file
    #[arg(long, value_name = "FILE")]
    pub(super) record: Option<PathBuf>,
    /// Leave nothing to the kernel whose order a recording does not see
    #[arg(long, requires = "record")]
    pub(super) record_exact: bool,
    /// Record what disks, network cards and shared folders exchange with guest memory, too, and not
    /// only a hash of it
    #[arg(long, requires = "record")]
    pub(super) record_payload: bool,
    /// Start the guest again when it resets, instead of ending; gives up after ten resets without a
    /// line of output or a picture
    #[arg(long)]
    pub(super) reboot: bool,
    /// A triple fault is a failure, not a reset
    #[arg(long)]
    pub(super) fail_on_triple_fault: bool,
    /// Give the guest a port that ends the run with an exit status, for tests
    #[arg(long)]
    pub(super) exit_port: bool,
    /// Give the guest the test device of kvm-unit-tests, with the exit port
    #[arg(long)]
    pub(super) testdev: bool,
    /// Give a PC its legacy devices with --nodefaults, too: four serial ports, keyboard controller, clock
    #[arg(long)]
    pub(super) legacy: bool,
    /// The first messages of a PC's kernel by the first serial port's registers in memory (earlycon),
    /// which it polls without exits
    #[arg(long)]
    pub(super) earlycon: bool,
    /// PCI configuration space of a PC as memory, 4 KiB a function (ECAM), and not by ports
    #[arg(long)]
    pub(super) ecam: bool,
    /// Educational devices (QEMU's edu) on the PCI bus, for tests of interrupts
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(super) edu: Option<String>,
    /// Give firmware a file to read by fw_cfg
    #[arg(
        long, value_name = "[name=]NAME,file=PATH|string=TEXT", action = ArgAction::Append,
        allow_hyphen_values = true
    )]
    pub(super) fw_cfg: Vec<OsString>,
    /// Have another process answer accesses: the one that listens on a UNIX socket, which is sent each
    /// as a command of ioregionfd (version 3). With ,posted the guest does not wait for writes; with
    /// ,fast the device is told no more than that there was one; further user_data=N, datamatch=VALUE,
    /// type=stream|seqpacket, when-dead=ones|stop|reconnect, and for devices that know them ids (several
    /// accesses on their way at a time) and ring (by memory instead of the socket)
    #[arg(
        long, value_name = "pio=PORT|mmio=ADDRESS,len=BYTES,socket=PATH[,OPTION...]",
        action = ArgAction::Append
    )]
    pub(super) ioregion: Vec<OsString>,
    /// Have each of these devices in a process of its own, which has nothing but its registers,
    /// interrupts and characters: serial0 to serial3, rtc, i8042, crt. When one dies it is started again
    /// (restart), reads as ones (ones), or ends the machine (stop) [default: restart]
    #[arg(
        long, value_name = "DEVICE[,...][,when-dead=restart|ones|stop]", action = ArgAction::Append,
        value_delimiter = ','
    )]
    pub(super) isolate: Vec<String>,
    /// Trap every access at once; writes that may be late are not queued by the kernel
    #[arg(long)]
    pub(super) no_coalesce: bool,
    /// Trap every read; the kernel answers none from pages of registers' values
    #[arg(long)]
    pub(super) no_mirror: bool,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "arm64 options")]
pub(super) struct Arm64Args {
    /// 32-bit guest
    #[arg(long)]
    pub(super) aarch32: bool,
    /// Give the CPUs performance monitors, those of the host CPU we start on or of --vcpu-affinity
    #[arg(long)]
    pub(super) pmu: bool,
    /// Keep memory tagging from the guest
    #[arg(long)]
    pub(super) disable_mte: bool,
    /// Host CPUs the virtual ones may use, as in 0-3,8
    #[arg(long, value_name = "CPULIST")]
    pub(super) vcpu_affinity: Option<String>,
    /// Seed of the kernel's address randomization; 0 is none
    #[arg(long, value_name = "N")]
    pub(super) kaslr_seed: Option<String>,
    /// Keep stolen time from the guest
    #[arg(long)]
    pub(super) no_pvtime: bool,
    /// Longest SVE vector in bits, a power of two [default: the host's]
    #[arg(long, value_name = "BITS")]
    pub(super) sve_max_vl: Option<String>,
    /// Nested virtualization (not yet)
    #[arg(long)]
    pub(super) nested: bool,
    /// Write the device tree to a file, too
    #[arg(long, value_name = "FILE")]
    pub(super) dump_dtb: Option<PathBuf>,
    /// Timer frequency to tell the guest, where the host's firmware tells a wrong one
    #[arg(long, value_name = "HZ")]
    pub(super) override_bad_firmware_cntfrq: Option<String>,
    /// virtio over PCI, as it is without --virtio-transport
    #[arg(long)]
    pub(super) force_pci: bool,
    /// Where firmware is loaded [default: the start of memory]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) firmware_address: Option<String>,
}
