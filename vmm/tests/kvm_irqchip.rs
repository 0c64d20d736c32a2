//! Interrupts of every kind, with the controllers in the kernel and with our own around the
//! kernel's local APICs: a guest cannot tell them apart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::Path;

use support::flat::{Flat, pvh};
use support::guest::{Ended, Guest, there};
use support::{Pty, shell_status, trapline};
use trapline_testkit::realmode::{Asm, UART};
use trapline_testkit::skip;

/// The two places where interrupt controllers can be.
const CHIPS: [&str; 2] = ["kernel", "split"];

/// Runs the guest with both; hands over each end.
fn on_both(guest: impl Fn() -> Guest, check: impl Fn(&str, Ended)) {
    for chip in CHIPS {
        let ended = guest().with(&["--exit-port", "--stat=all", "--irqchip", chip]).run();
        check(chip, ended);
    }
}

/// Accesses of ours that the statistics show for a region; none where it is the kernel's.
fn accesses(ended: &Ended, region: &str) -> u64 {
    if ended.err.contains(region) {
        ended.stat(region, "reads") + ended.stat(region, "writes")
    } else {
        0
    }
}

/// The first 8259A with vectors from 8, the second with vectors from 0x70, `masks` closed.
fn pics(masks: [u8; 2]) -> Asm {
    let words = [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, masks[0])];
    let second = [(0xa0, 0x11), (0xa1, 0x70), (0xa1, 2), (0xa1, 1), (0xa1, masks[1])];
    words.into_iter().chain(second).fold(Asm::new(), |asm, (port, value)| asm.outb(port, value))
}

/// Sets a real-mode vector to `handler`, which is put into the program. DS is 0.
fn vector(asm: Asm, number: u8, handler: &Asm) -> Asm {
    let (asm, at, _) = asm.embed(&handler.0);
    let entry = u16::from(number) * 4;
    asm.mov_ax(at).store_ax(entry).mov_ax(0xf000).store_ax(entry + 2)
}

/// A handler that counts in memory at 0x500, does `more`, and ends with `iret`.
fn counting(more: &Asm) -> Asm {
    // push ax; push dx; inc byte [0x500]; ...; pop dx; pop ax; iret
    let count = Asm::new().bytes(&[0x50, 0x52, 0xfe, 0x06, 0x00, 0x05]);
    count.then(more).bytes(&[0x5a, 0x58, 0xcf])
}

/// Halts with interrupts on until the count at 0x500 is `wanted`.
fn until_count(wanted: u8) -> Asm {
    // again: cli; cmp byte [0x500], wanted; jae over; sti; hlt; jmp again; over:
    let asm = Asm::new().bytes(&[0xfa, 0x80, 0x3e, 0x00, 0x05, wanted, 0x73, 0x04]);
    asm.bytes(&[0xfb, 0xf4, 0xeb, 0xf4])
}

/// Stack at 0x7000, DS 0, nothing counted.
fn prologue() -> Asm {
    let stack = Asm::new().mov_ax(0).bytes(&[0x8e, 0xd0, 0xbc, 0x00, 0x70]); // mov ss, ax; mov sp
    stack.mov_ds(0).mov_al(0).store_al(0x500)
}

#[test]
fn the_timer_wakes_a_halted_processor_through_the_8259s() {
    let ticks = || {
        let eoi = Asm::new().outb(0x20, 0x20);
        let asm = vector(prologue(), 8, &counting(&eoi)).then(&pics([0xfe, 0xff]));
        // Counter 0, mode 2, 1193 clocks: a millisecond.
        let asm = asm.outb(0x43, 0x34).outb(0x40, 0xa9).outb(0x40, 0x04).then(&until_count(50));
        Guest::new(&asm.load_al(0x500).send_al().exit(0))
    };
    on_both(ticks, |chip, ended| {
        let ended = ended.expect_status(1);
        assert!(ended.out[0] >= 50, "{chip}: {:?}", ended.out);
        assert_eq!(accesses(&ended, "pic/primary") >= 50, chip == "split", "{chip}: {}", ended.err);
    });
}

/// The clock's periodic interrupt: the second 8259A, through the cascade.
#[test]
fn the_clock_interrupts_through_both_8259s() {
    let clock = || {
        // Reading register C lets go of the line.
        let end = Asm::new().outb(0x70, 0x0c).inb(0x71).outb(0xa0, 0x20).outb(0x20, 0x20);
        let asm = vector(prologue(), 0x70, &counting(&end)).then(&pics([0xfb, 0xfe]));
        // Register A: 1024 Hz; register B: periodic interrupt, BCD, 24 hours.
        let asm = asm.outb(0x70, 0x0a).outb(0x71, 0x26).outb(0x70, 0x0b).outb(0x71, 0x42);
        let asm = asm.outb(0x70, 0x0c).inb(0x71).then(&until_count(20));
        Guest::new(&asm.load_al(0x500).send_al().exit(0))
    };
    on_both(clock, |chip, ended| {
        let ended = ended.expect_status(1);
        assert!(ended.out[0] >= 20, "{chip}: {:?}", ended.out);
    });
}

/// A request that comes while it is masked at the 8259, and while the processor does not listen,
/// is there when both do.
#[test]
fn a_request_waits_for_the_mask_and_for_the_processor() {
    let late = || {
        let end = Asm::new().inb(UART + 2).outb(0x20, 0x20);
        let asm = vector(prologue(), 12, &counting(&end)).then(&pics([0xff, 0xff]));
        // The transmitter is empty: with OUT2 the line rises at once. Nothing must come of it.
        let asm = asm.outb(UART + 4, 0x08).outb(UART + 1, 0x02).bytes(&[0xfb]);
        let asm = asm.repeat(100, Asm::new().inb(0x80)).load_al(0x500).send_al();
        let asm = asm.bytes(&[0xfa]).outb(0x21, 0xef).repeat(100, Asm::new().inb(0x80));
        let asm = asm.load_al(0x500).send_al().then(&until_count(1)).outb(UART + 1, 0);
        Guest::new(&asm.load_al(0x500).send_al().exit(0))
    };
    on_both(late, |chip, ended| {
        // Sending a character is another request, but at an edge-triggered input it cannot rise.
        assert_eq!(ended.expect_status(1).out, [0, 0, 1], "{chip}");
    });
}

/// Port 0x61 gates counter 2 and shows its output. (The kernel's timer counts mode 0 without a look
/// at the gate.)
#[test]
fn the_speakers_counter_is_gated_and_seen_through_port_b() {
    let program = || {
        // Counter 2, mode 0, 0x1000 clocks, gate low; its output must stay low.
        let asm = Asm::new().outb(0x61, 0).outb(0x43, 0xb0).outb(0x42, 0).outb(0x42, 0x10);
        let asm = asm.repeat(2000, Asm::new().inb(0x80)).inb(0x61).bytes(&[0x24, 0x21]).send_al();
        // Gate high: bit 5 follows in 3.4 ms, and bit 0 reads back.
        let asm = asm.outb(0x61, 1).wait_for(0x61, 0x20).bytes(&[0x24, 0x21]).send_al();
        Guest::new(&asm.exit(0))
    };
    on_both(program, |chip, ended| {
        let ended = ended.expect_status(1);
        assert_eq!(ended.out, [if chip == "split" { 0x00 } else { 0x20 }, 0x21], "{chip}");
        assert_eq!(accesses(&ended, "i8042/port-b") > 0, chip == "split", "{chip}: {}", ended.err);
    });
}

/// Registers of the local APIC and of the I/O APIC (Intel SDM volume 3, "Local APIC register
/// address map"; 82093AA data sheet, section 3).
const SVR: u32 = 0xfee0_00f0;
const EOI: u32 = 0xfee0_00b0;
const IOREGSEL: u32 = 0xfec0_0000;
const IOWIN: u32 = 0xfec0_0010;
const COUNT: u32 = 0x500;
const IDT: u32 = 0x7000;
const VECTOR: u32 = 0x61;

/// 32-bit instructions that 64-bit mode does not have in this form.
trait Flat32 {
    fn store(self, addr: u32, value: u32) -> Self;
    fn redirect(self, pin: u32, low: u32) -> Self;
    fn gate(self, vector: u32, handler: &Flat) -> Self;
    fn until(self, count: u8) -> Self;
}

impl Flat32 for Flat {
    /// `mov dword [addr], value`
    fn store(self, addr: u32, value: u32) -> Self {
        self.bytes(&[0xc7, 0x05]).bytes(&addr.to_le_bytes()).bytes(&value.to_le_bytes())
    }

    /// Writes the lower half of a redirection entry; the upper one names processor 0.
    fn redirect(self, pin: u32, low: u32) -> Self {
        let upper = self.store(IOREGSEL, 0x11 + 2 * pin).store(IOWIN, 0);
        upper.store(IOREGSEL, 0x10 + 2 * pin).store(IOWIN, low)
    }

    /// Puts `handler` into the program and an interrupt gate to it into the table.
    fn gate(self, vector: u32, handler: &Flat) -> Self {
        let entry = IDT + vector * 8;
        let len = u32::try_from(handler.0.len()).unwrap();
        // call over; handler; over: pop eax; mov [entry], ax; mov word [entry + 2], 0x10
        let asm = self.bytes(&[0xe8]).bytes(&len.to_le_bytes()).bytes(&handler.0);
        let asm = asm.bytes(&[0x58, 0x66, 0xa3]).bytes(&entry.to_le_bytes());
        let asm =
            asm.bytes(&[0x66, 0xc7, 0x05]).bytes(&(entry + 2).to_le_bytes()).bytes(&[0x10, 0]);
        // shr eax, 16; mov [entry + 6], ax; mov word [entry + 4], 0x8e00
        let asm = asm.bytes(&[0xc1, 0xe8, 0x10, 0x66, 0xa3]).bytes(&(entry + 6).to_le_bytes());
        asm.bytes(&[0x66, 0xc7, 0x05]).bytes(&(entry + 4).to_le_bytes()).bytes(&[0x00, 0x8e])
    }

    /// Halts with interrupts on until the count is `count`.
    fn until(self, count: u8) -> Self {
        // again: cli; cmp byte [COUNT], count; jae over; sti; hlt; jmp again; over:
        let asm = self.bytes(&[0xfa, 0x80, 0x3d]).bytes(&COUNT.to_le_bytes()).bytes(&[count]);
        asm.bytes(&[0x73, 0x04, 0xfb, 0xf4, 0xeb, 0xf2])
    }
}

/// The 8259s closed, the local APIC on, a stack, and the table in force.
fn protected() -> Flat {
    let limit: u16 = 0x7ff;
    // mov esp, 0x6000; mov word [0x600], limit; mov dword [0x602], IDT; lidt [0x600]
    let asm = Flat::new().bytes(&[0xbc, 0x00, 0x60, 0x00, 0x00]);
    let asm = asm.store(0x600, u32::from(limit)).store(0x602, IDT);
    let asm = asm.bytes(&[0x0f, 0x01, 0x1d, 0x00, 0x06, 0x00, 0x00]);
    asm.outb(0x21, 0xff).outb(0xa1, 0xff).store(SVR, 0x1ff).store(COUNT, 0)
}

/// `inc byte [COUNT]`, `before`, end of interrupt at the local APIC, return with interrupts on.
///
/// A KVM without hardware emulates the guest, which it cannot do with `iret` in this mode. It also
/// reports ends of interrupts only when it is entered, and not from `hlt`: hence a port access.
fn handler(before: &Flat) -> Flat {
    // push eax; push edx; inc byte [COUNT]
    let asm = Flat::new().bytes(&[0x50, 0x52, 0xfe, 0x05]).bytes(&COUNT.to_le_bytes());
    asm.bytes(&before.0).store(EOI, 0).bytes(&[0xe4, 0x80, 0x5a, 0x58, 0xfb, 0xc2, 8, 0]) // in al, 0x80; sti; ret 8
}

/// Leaves with the count as the status.
fn exit_count(asm: Flat) -> Flat {
    // mov al, [COUNT]; mov dx, exit; out dx, al; jmp $
    let asm = asm.bytes(&[0xa0]).bytes(&COUNT.to_le_bytes());
    asm.bytes(&[0x66, 0xba, 0xf4, 0x00, 0xee, 0xeb, 0xfe])
}

/// The serial port's line at a level-triggered pin: the interrupt comes again after each end as
/// long as the line is high (remote IRR and the new look at the line), and not when it is low.
#[test]
fn a_level_interrupt_comes_again_until_its_cause_is_gone() {
    let level = || {
        // cmp byte [COUNT], 4; jb over; mov dx, IIR; in al, dx: the fourth time the cause goes.
        let cause = Flat::new().bytes(&[0x80, 0x3d]).bytes(&COUNT.to_le_bytes()).bytes(&[4]);
        let cause = cause.bytes(&[0x72, 0x05, 0x66, 0xba, 0xfa, 0x03, 0xec]);
        let asm = protected().gate(VECTOR, &handler(&cause)).redirect(4, VECTOR | 1 << 15);
        // The transmitter is empty, so the line rises; four ends later it has fallen.
        let asm = asm.outb(UART + 4, 0x08).outb(UART + 1, 0x02).until(4);
        // Nothing comes for a while with interrupts on; then a character makes one more.
        let asm = asm.bytes(&[0xfb, 0xb9, 0x00, 0x10, 0x00, 0x00, 0xe2, 0xfe, 0xfa]);
        let asm = asm.outb(UART, b'x').until(5);
        Guest::kernel(&pvh(&exit_count(asm)))
    };
    on_both(level, |chip, ended| {
        let ended = ended.expect_status(2 * 5 + 1);
        assert_eq!(ended.out, b"x", "{chip}");
        let ends = if chip == "split" { 5 } else { 0 };
        assert_eq!(ended.exits("end of interrupt"), ends, "{chip}: {}", ended.err);
    });
}

/// The timer at pin 2 of the I/O APIC, edge triggered, to the second of two processors' logical
/// and the first one's physical number.
#[test]
fn timer_edges_pass_the_io_apic_and_end_without_an_exit() {
    let edges = || {
        let asm = protected().gate(VECTOR, &handler(&Flat::new())).redirect(2, VECTOR);
        let asm = asm.outb(0x43, 0x34).outb(0x40, 0xa9).outb(0x40, 0x04);
        Guest::kernel(&pvh(&exit_count(asm.until(30))))
    };
    on_both(edges, |chip, ended| {
        assert!((ended.status - 1) / 2 >= 30, "{chip}: {ended:?}");
        assert_eq!(ended.exits("end of interrupt"), 0, "{chip}: {}", ended.err);
    });
}

/// Edge requests that come while the pin is masked are lost, levels are not (82093AA section
/// 3.2.4, bit 16).
#[test]
fn a_masked_pin_forgets_edges_and_keeps_levels() {
    for (trigger, expected) in [(0, 1), (1 << 15, 2)] {
        let masked = || {
            // Each time the cause goes.
            let cause = Flat::new().bytes(&[0x66, 0xba, 0xfa, 0x03, 0xec]);
            let low = VECTOR | trigger;
            let asm = protected().gate(VECTOR, &handler(&cause)).redirect(4, low | 1 << 16);
            // Rises while masked; open the pin and look for a while.
            let asm = asm.outb(UART + 4, 0x08).outb(UART + 1, 0x02).redirect(4, low);
            let asm = asm.bytes(&[0xfb, 0xb9, 0x00, 0x10, 0x00, 0x00, 0xe2, 0xfe, 0xfa]);
            // Make it fall if it has not, and rise once more.
            let asm = asm.outb(UART + 1, 0x00).outb(UART + 1, 0x02);
            let asm = asm.bytes(&[0xfb, 0xb9, 0x00, 0x10, 0x00, 0x00, 0xe2, 0xfe, 0xfa]);
            Guest::kernel(&pvh(&exit_count(asm)))
        };
        on_both(masked, |chip, ended| {
            let count = (ended.status - 1) / 2;
            // A KVM without hardware ends a level-triggered interrupt when it delivers it, and says
            // so when it is next entered: mostly after the cause has gone, where the I/O APIC is
            // ours, and always before, where it is in the kernel. Then it comes once more.
            let early = trigger != 0 && ended.err.contains("shows no hardware virtualization");
            let most = if early { 2 * expected } else { expected };
            assert!((expected..=most).contains(&count), "{chip} {trigger}: {ended:?}");
        });
    }
}

/// A reset leaves nothing of what the guest did to the controllers: the second life finds what the
/// first one found.
#[test]
fn a_reset_makes_the_controllers_as_they_were() {
    let resetting = || {
        // Say both masks, the edge/level control and the timer's mode; change them all; a timer
        // interrupt stays pending, too.
        let say = |asm: Asm, port| asm.inb(port).send_al();
        let asm = [0x21, 0xa1, 0x4d0, 0x4d1].into_iter().fold(Asm::new(), say);
        let asm = asm.outb(0x43, 0xe2).inb(0x40).bytes(&[0x24, 0x3f]).send_al();
        // The boots are counted in CMOS RAM.
        let asm = asm.outb(0x70, 0x50).inb(0x71).bytes(&[0xfe, 0xc0, 0x88, 0xc3]);
        let asm = asm.outb(0x70, 0x50).bytes(&[0x88, 0xd8]).mov_dx(0x71).out_al();
        let asm = asm.if_al_is(3, Asm::new().exit(0)).then(&pics([0xa4, 0x5a]));
        let asm = asm.outb(0x4d0, 0x20).outb(0x4d1, 0x0c);
        let asm = asm.outb(0x43, 0x34).outb(0x40, 0x10).outb(0x40, 0x00);
        let asm = asm.repeat(100, Asm::new().inb(0x80));
        Guest::new(&asm.outb(0x64, 0xfe).spin()).with(&["--reboot"])
    };
    on_both(resetting, |chip, ended| {
        let ended = ended.expect_status(1);
        let (first, rest) = ended.out.split_at(5);
        assert_eq!([first, first].concat(), rest, "{chip}");
        assert_ne!(first[0], 0xa4, "{chip}");
    });
}

#[test]
fn seabios_goes_through_its_self_test_with_our_own_chips() {
    let test = "kvm_irqchip seabios_goes_through_its_self_test_with_our_own_chips";
    let path = Path::new("/usr/share/seabios/bios-256k.bin");
    if !there(path) {
        skip(test, &format!("{} is missing: apt install seabios", path.display()));
        return;
    }
    let pty = Pty::new();
    let guest = Guest::firmware(path).with(&["--irqchip", "split", "--debug"]);
    let mut console = guest.start_in(&pty);
    // The key wait counts timer ticks, and the keyboard interrupts.
    for text in ["SeaBIOS (version ", "PS2 keyboard initialized", "No bootable device."] {
        console.expect(text);
    }
    console.send(b"\x01x");
    let (status, screen) = console.wait();
    assert_eq!(shell_status(status), 0, "{screen}");
}

#[test]
fn another_chip_is_refused_in_a_sentence() {
    for (chip, wanted) in [
        ("both", "--irqchip both: not one of kernel and split"),
        ("gicv3", "--irqchip gicv3: an arm64 guest's; a PC has kernel and split"),
    ] {
        let (status, _, err) = trapline(&["run", "--irqchip", chip]);
        assert_eq!((status, err.trim_end()), (1, format!("Fatal: {wanted}").as_str()));
    }
}

/// The register at `offset` of function 0 of `device`, selected at port 0xcf8.
fn select(asm: Flat, device: u32, offset: u32) -> Flat {
    asm.outl(0xcf8, 1 << 31 | device << 11 | offset)
}

/// What a BIOS would have left: PCI's lines and the SCI level triggered at the 8259s, and each
/// function's line in its configuration space.
#[test]
fn a_kernel_finds_the_lines_of_pci_set_up() {
    let look = || {
        let asm = Flat::new().inb(0x4d0).send_al().inb(0x4d1).send_al();
        let asm = (1..=5).fold(asm, |asm, device| {
            select(asm, device, 0x3c).inb(0xcfc).send_al().inb(0xcfd).send_al()
        });
        Guest::kernel(&pvh(&asm.exit(0))).with(&["--edu", "5"])
    };
    on_both(look, |chip, ended| {
        let lines = [10, 1, 11, 1, 5, 1, 14, 1, 10, 1];
        assert_eq!(ended.expect_status(1).out, [&[0x20, 0x4e][..], &lines].concat(), "{chip}");
    });
}

/// Devices 1 and 5 have their INTA# on one line, level triggered: it stays asserted until both
/// have been acknowledged.
#[test]
fn functions_that_share_a_line_are_both_heard() {
    const REGISTERS: [u32; 2] = [0xd200_0000, 0xd210_0000];
    const RAISE: u32 = 0x60;
    const ACKNOWLEDGE: u32 = 0x64;
    let shared = || {
        let acknowledge = |at| Flat::new().store(REGISTERS[at] + ACKNOWLEDGE, 1);
        // cmp byte [COUNT], 1; jne over: the first time the first of them is acknowledged.
        let first = acknowledge(0).bytes(&[0xeb, u8::try_from(acknowledge(1).0.len()).unwrap()]);
        let cause = Flat::new().bytes(&[0x80, 0x3d]).bytes(&COUNT.to_le_bytes()).bytes(&[1]);
        let cause = cause.bytes(&[0x75, u8::try_from(first.0.len()).unwrap()]);
        let cause = cause.bytes(&first.0).bytes(&acknowledge(1).0);
        let asm = protected().gate(VECTOR, &handler(&cause)).redirect(10, VECTOR | 1 << 15);
        let asm = [1, 5].into_iter().zip(REGISTERS).fold(asm, |asm, (device, base)| {
            let asm = select(asm, device, 0x10).outl(0xcfc, base);
            select(asm, device, 0x04).outl(0xcfc, 2)
        });
        let asm = REGISTERS.iter().fold(asm, |asm, base| asm.store(base + RAISE, 1)).until(2);
        // Nothing comes for a while with interrupts on.
        let asm = asm.bytes(&[0xfb, 0xb9, 0x00, 0x10, 0x00, 0x00, 0xe2, 0xfe, 0xfa]);
        Guest::kernel(&pvh(&exit_count(asm))).with(&["--edu", "5"])
    };
    on_both(shared, |chip, ended| {
        let count = (ended.status - 1) / 2;
        // See above: a KVM without hardware may ask once more after each.
        let early = ended.err.contains("shows no hardware virtualization");
        assert!((2..=if early { 4 } else { 2 }).contains(&count), "{chip}: {ended:?}");
    });
}
