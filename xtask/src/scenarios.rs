//! Linux boots to test, as data.

use crate::guest::Image;
use crate::pty::Step;

/// Where a scenario's expectations say this, the kernel's release stands.
pub(crate) const RELEASE: &str = "{release}";

/// One boot and what must come of it.
pub(crate) struct Scenario {
    /// What a user calls it.
    pub(crate) name: &'static str,
    /// One line about it.
    pub(crate) about: &'static str,
    /// The kernel's form.
    pub(crate) image: Image,
    /// Options of `trapline run`.
    pub(crate) options: &'static [&'static str],
    /// Who sits in front of it.
    pub(crate) user: User,
    /// Texts that must occur in the output, in this order.
    pub(crate) expect: &'static [&'static str],
    /// A text that must occur exactly once, if any.
    pub(crate) once: Option<&'static str>,
}

/// Who sits in front of the machine.
pub(crate) enum User {
    /// Nobody: the guest runs this init of `guest-tests/` and ends by itself.
    Nobody(&'static str),
    /// Nobody: the guest runs this init in memory of so many huge pages, which are there for it and
    /// no more. Its host is always an emulated one.
    HugePages(&'static str, u32),
    /// Nobody: guests run this init, on disks of two formats one after another. Their host is always
    /// an emulated one.
    Disks(&'static str),
    /// Nobody: guests run `init-records.sh` on disks, as this script of the outer machine arranges.
    Records(&'static str),
    /// A script: it makes room for the disks of guests with this init, which have been paused for lack
    /// of it, and makes one larger. Their host is always an emulated one.
    Mending(&'static str),
    /// A script: it answers what guests with this init ask on their virtio consoles. Their host is
    /// always an emulated one.
    Answering(&'static str),
    /// Nobody: the guest runs this init, and stops at breaks without a terminal, so that all are told.
    /// Its host is always an emulated one.
    Stopping(&'static str),
    /// Nobody: the guest runs this init, and the process of its clock is killed while it boots. Its host
    /// is always an emulated one.
    Isolated(&'static str),
    /// Nobody, but somebody wants to see the display at the end: it must show [`DISPLAYED`].
    Looking(&'static str),
    /// Nobody, twice: with the interrupt controllers in the kernel and with our own. This init's
    /// reports are compared, and both are as expected.
    Comparing(&'static str),
    /// Nobody: Debian's OVMF starts the guest with this init in two machines, one after the other,
    /// that share its variables.
    Firmware(&'static str),
    /// Nobody: the guest runs this init twice, the second time with no write coalesced. Its console
    /// must be the same, and [`FEWER_EXITS`].
    Twice(&'static str),
    /// Nobody: the guest runs this init in several machines that are recorded and played again. Their
    /// host is always an emulated one.
    Recorded(&'static str),
    /// Somebody who typed `cargo xtask boot` at a terminal and goes through these steps.
    Typing(&'static [Step]),
}

/// The report of a guest that found every device.
const REPORT: &[&str] = &[
    "TRAPLINE-GUEST: uname {release}\n",
    "TRAPLINE-GUEST: cpus 1\n",
    "TRAPLINE-GUEST: file /proc/interrupts",
    "i8042",
    "ttyS0",
    "rtc0",
    "TRAPLINE-GUEST: file /proc/ioports",
    "keyboard",
    "rtc_cmos",
    "serial",
    "PCI conf1",
    "TRAPLINE-GUEST: file /proc/iomem",
    "System RAM",
    "TRAPLINE-GUEST: done",
];

/// What `init-display.sh` writes on the display.
pub(crate) const DISPLAYED: &str = "TRAPLINE-GUEST: display works";

/// At most so many exits of a hundred are left of a boot when writes are coalesced.
pub(crate) const FEWER_EXITS: u64 = 60;

const SHELL: Step = Step { seen: "TRAPLINE-GUEST: shell", typed: "" };
const PROMPT: &str = " # ";

/// All of them. What the kernel logs is printed where that is part of the test, and where somebody
/// watches; elsewhere it would be a quarter of all there is to do, an exit for each character.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "boot-bzimage",
        about: "Debian's vmlinuz reports its devices and powers off",
        image: Image::Bzimage,
        options: &["-c", "1"],
        user: User::Nobody("init-smoke.sh"),
        expect: REPORT,
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "boot-coalescing",
        about: "coalesced writes save 40 % of the exits and leave the console as it is",
        image: Image::Bzimage,
        // All that is logged is printed, and the kernel does not put itself elsewhere in each boot.
        options: &["-c", "1", "--stat=all", "-p", "loglevel=8 nokaslr"],
        user: User::Twice("init-quiet.sh"),
        expect: &["Linux version {release}", "GUEST: uname {release}\n", "TRAPLINE-GUEST: done"],
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "record",
        about: "boots are played again without KVM, alike; and exits are as many as tune predicts",
        image: Image::Bzimage,
        options: &["-m", "128", "-c", "1"],
        user: User::Recorded("init-record.sh"),
        expect: &[
            "GUEST: done",
            "played pc-kernel, status 0",
            "GUEST: used vda vdb",
            "played pc-devices, status 0",
            "played pc-exact-2, status 0",
        ],
        once: Some("played pc-split, status 0"),
    },
    Scenario {
        name: "break",
        about: "Debian's kernel stops at accesses, with its own symbols wherever it has put itself",
        image: Image::Bzimage,
        options: &[
            "-m",
            "128",
            "-c",
            "1",
            "--break",
            "serial0:LCR=w,value=0x83",
            "--break",
            "rtc:Register B=r",
            "-p",
            "quiet",
        ],
        user: User::Stopping("init-smoke.sh"),
        expect: &[
            "stopped after serial0/uart LCR (pio 0x3fb) write 1 byte 0x83 (break ",
            " io_serial_out+0x",
            " start_kernel+0x",
            "stopped after rtc/cmos Register B (pio 0x71) read 1 byte 0x2 (break ",
            " rtc_cmos_read+0x",
            " do_one_initcall+0x",
            "TRAPLINE-GUEST: done",
        ],
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "isolate",
        about: "UART, clock and keyboard controller each in a process; the clock's is killed twice in a boot",
        image: Image::Bzimage,
        options: &["-c", "1", "--isolate", "serial0,rtc,i8042"],
        user: User::Isolated("init-smoke.sh"),
        expect: &[
            "Linux version {release}",
            "TRAPLINE-HOST: serial0 has 1 process",
            "TRAPLINE-HOST: rtc has 1 process",
            "TRAPLINE-HOST: i8042 has 1 process",
            "TRAPLINE-HOST: killed the clock's process, 1",
            "TRAPLINE-HOST: killed the clock's process, 2",
            "TRAPLINE-GUEST: uname {release}\n",
            "TRAPLINE-GUEST: file /proc/interrupts",
            "i8042",
            "ttyS0",
            "rtc0",
            "TRAPLINE-GUEST: done",
            "TRAPLINE-HOST: afterwards serial0 has 0",
            "TRAPLINE-HOST: afterwards rtc has 0",
            "TRAPLINE-HOST: afterwards i8042 has 0",
        ],
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "boot-two-cpus",
        about: "the same with two vCPUs",
        image: Image::Bzimage,
        options: &["-c", "2"],
        user: User::Nobody("init-smoke.sh"),
        expect: &["uname {release}\n", "TRAPLINE-GUEST: cpus 2\n", "CPU0", "CPU1", "GUEST: done"],
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "boot-vmlinux",
        about: "the same kernel as an ELF image, by its PVH note",
        image: Image::Vmlinux,
        options: &["-c", "1", "-p", "quiet"],
        user: User::Nobody("init-smoke.sh"),
        expect: REPORT,
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "boot-hugetlbfs",
        about: "the same in huge pages of a hugetlbfs, which the guest takes and gives back",
        image: Image::Bzimage,
        options: &["-c", "1", "-m", "192", "--hugetlbfs", "/huge", "-p", "quiet"],
        user: User::HugePages("init-smoke.sh", 96),
        expect: &[
            "TRAPLINE-GUEST: uname {release}\n",
            "TRAPLINE-HOST: with the guest, 0 of 96 huge pages are to spare\n",
            "TRAPLINE-GUEST: done",
            "TRAPLINE-HOST: after the guest, 96 of 96 huge pages are to spare\n",
        ],
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "guest-killed",
        about: "trapline is killed while guests write to disks (TRAPLINE_KILLS times, 4 if not said)",
        image: Image::Bzimage,
        options: &["-c", "1", "-m", "128"],
        user: User::Records("host-killed.sh"),
        expect: &[
            "RECORDS: all 0 are there",
            "TRAPLINE-HOST: killed 1, raw has ",
            "TRAPLINE-HOST: killed 2, qcow2 has ",
            "TRAPLINE-HOST: raw is whole",
            "TRAPLINE-HOST: qcow2 is whole",
        ],
        once: None,
    },
    Scenario {
        name: "guest-mended",
        about: "guests whose disks have no room are paused, go on when there is some, and get more",
        image: Image::Bzimage,
        options: &["-c", "1", "-m", "128"],
        user: User::Mending("init-mending.sh"),
        expect: &[
            "TRAPLINE-HOST: a disk of raw\n",
            "TRAPLINE-HOST: the guest stands still\n",
            "TRAPLINE-HOST: 1 message\n",
            "TRAPLINE-GUEST: what was written is there\n",
            "TRAPLINE-GUEST: 49152 sectors\n",
            "TRAPLINE-GUEST: there is room for it\n",
            "new size: 49152 512-byte logical blocks",
            "TRAPLINE-GUEST: done",
            "TRAPLINE-HOST: the image of raw is sound\n",
            "TRAPLINE-HOST: a disk of qcow2\n",
            "TRAPLINE-HOST: the guest stands still\n",
            "TRAPLINE-HOST: 1 message\n",
            "TRAPLINE-GUEST: what was written is there\n",
            "TRAPLINE-GUEST: done",
            "TRAPLINE-HOST: the image of qcow2 is sound\n",
        ],
        once: Some("TRAPLINE-GUEST: there is room for it"),
    },
    Scenario {
        name: "boot-disk",
        about: "Debian's virtio_blk fills an ext4 on a raw and on a qcow2 disk, and others find it",
        image: Image::Bzimage,
        options: &["-c", "1"],
        user: User::Disks("init-disk.sh"),
        expect: &[
            "TRAPLINE-HOST: raw filling\n",
            "TRAPLINE-GUEST: vda 65536 sectors, serial trapline-raw, write back, discards of 4096, \
             1 queues\n",
            "TRAPLINE-GUEST: what was written is there\n",
            "TRAPLINE-HOST: raw checking\n",
            "TRAPLINE-GUEST: what was there is there\n",
            "TRAPLINE-HOST: what was written is there\n",
            "TRAPLINE-HOST: the file system is sound\n",
            "TRAPLINE-HOST: qcow2 filling\n",
            "TRAPLINE-GUEST: vda 65536 sectors, serial trapline-qcow2, write back,",
            "TRAPLINE-GUEST: what was written is there\n",
            "TRAPLINE-HOST: qcow2 checking\n",
            "TRAPLINE-GUEST: what was there is there\n",
            "TRAPLINE-GUEST: done",
        ],
        once: Some("TRAPLINE-HOST: disk "),
    },
    Scenario {
        name: "boot-console",
        about: "Debian's virtio_console: the terminal's size, a question on hvc0, and a port",
        image: Image::Bzimage,
        options: &["-c", "1", "-p", "quiet"],
        user: User::Answering("init-console.sh"),
        expect: &[
            "TRAPLINE-HOST: a console\n",
            "TRAPLINE-GUEST: size 43 132\n",
            "TRAPLINE-GUEST: what is your name?\n",
            "TRAPLINE-GUEST: hello world\n",
            ":1\n",
            ":19999\n",
            ":20000\n",
            "TRAPLINE-GUEST: done\n",
            "TRAPLINE-HOST: a console and a port\n",
            "TRAPLINE-GUEST: hello world\n",
            "TRAPLINE-GUEST: port log\n",
            "TRAPLINE-GUEST: done\n",
            "TRAPLINE-HOST: the port says: through the port\n",
            "TRAPLINE-HOST: exit status 0\n",
        ],
        once: Some("TRAPLINE-HOST: exit status"),
    },
    Scenario {
        name: "display",
        about: "a kernel with a console on the VESA display; the picture shows its text",
        image: Image::Full,
        // Every line of all the messages would scroll the whole screen, which is slow when nested.
        options: &["-c", "1", "-p", "loglevel=6"],
        user: User::Looking("init-display.sh"),
        expect: &["GUEST: fb 0 VESA VGA\n", "virtual_size 640,480\n", ": vesafb\n", "GUEST: done"],
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "boot-split",
        about: "our own 8259s and timer: same interrupts, no more warnings than with the kernel's",
        image: Image::Bzimage,
        options: &["-c", "1", "--edu", "1", "-p", "quiet"],
        user: User::Comparing("init-interrupts.sh"),
        expect: &[
            "TRAPLINE-GUEST: cpus 1\n",
            "edu 0000:00:01.0: 32 of 32 interrupts by MSI-X on CPU 0\n",
            "edu 0000:00:01.0: 8 of 8 interrupts of a thread by MSI-X on CPU 0\n",
            "edu 0000:00:01.0: 5 of 5 pending while the vector is masked, then come\n",
            "edu 0000:00:01.0: 2 of 2 pending while the function is masked, then come\n",
            "edu 0000:00:01.0: 8 of 8 interrupts by MSI on CPU 0\n",
            "edu 0000:00:01.0: 8 of 8 interrupts of a thread by MSI on CPU 0\n",
            "XT-PIC",
            "ttyS0",
            "rtc0",
            "LOC:",
            "GUEST: done",
        ],
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "boot-split-two-cpus",
        about: "the same with two vCPUs and our I/O APIC",
        image: Image::Bzimage,
        // Nothing of the defaults, which have noapic.
        options: &["-c", "2", "--nodefaults", "--legacy", "-p", "console=ttyS0 panic=1 quiet"],
        user: User::Comparing("init-interrupts.sh"),
        expect: &["TRAPLINE-GUEST: cpus 2\n", "IO-APIC", "ttyS0", "rtc0", "LOC:", "GUEST: done"],
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "boot-intx",
        about: "PCI functions that share a level-triggered line at the I/O APIC, the kernel's and ours",
        image: Image::Bzimage,
        // Devices 1 and 5 are on the first of the four lines. Nothing of the defaults, which have
        // noapic.
        options: &[
            "-c",
            "2",
            "--edu",
            "5",
            "--nodefaults",
            "--legacy",
            "-p",
            "console=ttyS0 panic=1 pci=nomsi quiet",
        ],
        user: User::Comparing("init-interrupts.sh"),
        expect: &[
            "edu 0000:00:01.0: 16 of 16 interrupts by INTA# on CPU 0-1\n",
            "edu 0000:00:01.0: 16 of 16 interrupts of a thread by INTA# on CPU 0-1\n",
            "edu 0000:00:02.0: 16 of 16 interrupts by INTA# on CPU 0-1\n",
            "edu 0000:00:05.0: 16 of 16 interrupts by INTA# on CPU 0-1\n",
            "edu all at once: 5 of 5 interrupts\n",
            "IO-APIC 10-fasteoi edu, edu\n",
            "IO-APIC 11-fasteoi edu\n",
            "GUEST: done",
        ],
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "boot-intx-8259",
        about: "the same at level-triggered inputs of the 8259s, with the default command line",
        image: Image::Bzimage,
        options: &["-c", "1", "--edu", "5", "-p", "pci=nomsi quiet"],
        user: User::Comparing("init-interrupts.sh"),
        expect: &[
            "edu 0000:00:01.0: 8 of 8 interrupts by INTA# on CPU 0\n",
            "edu 0000:00:01.0: 8 of 8 interrupts of a thread by INTA# on CPU 0\n",
            "edu 0000:00:05.0: 8 of 8 interrupts by INTA# on CPU 0\n",
            "edu all at once: 5 of 5 interrupts\n",
            "XT-PIC edu, edu\n",
            "GUEST: done",
        ],
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "boot-msi",
        about: "messages of PCI functions to the local APICs, with either I/O APIC",
        image: Image::Bzimage,
        options: &[
            "-c",
            "2",
            "--edu",
            "2",
            "--nodefaults",
            "--legacy",
            "-p",
            "console=ttyS0 panic=1 quiet",
        ],
        user: User::Comparing("init-interrupts.sh"),
        expect: &[
            "edu 0000:00:01.0: 64 of 64 interrupts by MSI-X on CPU 0-1\n",
            "edu 0000:00:01.0: 16 of 16 interrupts of a thread by MSI-X on CPU 0-1\n",
            "edu 0000:00:01.0: 64 of 64 moved interrupts by MSI-X\n",
            "edu 0000:00:01.0: 5 of 5 pending while the vector is masked, then come\n",
            "edu 0000:00:01.0: 2 of 2 pending while the function is masked, then come\n",
            "edu 0000:00:01.0: 16 of 16 interrupts by MSI on CPU 0-1\n",
            "edu 0000:00:01.0: 16 of 16 interrupts of a thread by MSI on CPU 0-1\n",
            "edu 0000:00:02.0: 64 of 64 interrupts by MSI-X on CPU 0-1\n",
            "edu 0000:00:02.0: 16 of 16 interrupts by MSI on CPU 0-1\n",
            "edu all at once: 2 of 2 interrupts\n",
            "GUEST: done",
        ],
        once: Some("TRAPLINE-GUEST: done"),
    },
    Scenario {
        name: "boot-ovmf",
        about: "OVMF in flash starts Debian's vmlinuz twice, which finds the variable it made",
        image: Image::Bzimage,
        // Where KASLR puts it is chance, and QEMU's emulation of AMD-V was seen to stand still for good at
        // one of the kernel's first instructions, in this boot alone.
        options: &["-c", "1", "-m", "256", "-p", "console=ttyS0 quiet nokaslr"],
        user: User::Firmware("init-variables.sh"),
        expect: &[
            "TRAPLINE-HOST: first life\n",
            "TRAPLINE-GUEST: uname {release}\n",
            "TRAPLINE-GUEST: no variable\n",
            "TRAPLINE-GUEST: variable made\n",
            "TRAPLINE-GUEST: done\n",
            "TRAPLINE-HOST: second life\n",
            "TRAPLINE-GUEST: variable: written in an earlier life\n",
            "TRAPLINE-GUEST: done\n",
        ],
        once: Some("TRAPLINE-GUEST: no variable"),
    },
    Scenario {
        name: "shell",
        about: "typed text and a break reach the guest; Ctrl-a x leaves a sane terminal",
        image: Image::Bzimage,
        options: &["-c", "1"],
        user: User::Typing(&[
            SHELL,
            Step { seen: PROMPT, typed: "echo $((6*7))\r" },
            Step { seen: "\n42\n", typed: "\x01bh" },
            Step { seen: "sysrq: HELP", typed: "\x01x" },
        ]),
        expect: &["42"],
        once: None,
    },
    Scenario {
        name: "reboot",
        about: "with --reboot the guest's reset starts it again",
        image: Image::Bzimage,
        options: &["-c", "1", "--reboot"],
        user: User::Typing(&[
            SHELL,
            Step { seen: PROMPT, typed: "reboot -f\r" },
            SHELL,
            Step { seen: PROMPT, typed: "poweroff -f\r" },
        ]),
        expect: &["TRAPLINE-GUEST: shell", "TRAPLINE-GUEST: shell"],
        once: None,
    },
    Scenario {
        name: "reset",
        about: "the guest's reset ends trapline, which says how it came",
        image: Image::Bzimage,
        options: &["-c", "1"],
        user: User::Nobody("init-reset.sh"),
        expect: &[
            "TRAPLINE-GUEST: resetting",
            "  # The guest was reset by the keyboard controller.\n  # KVM session ended normally.\n",
        ],
        once: Some("TRAPLINE-GUEST: resetting"),
    },
];
