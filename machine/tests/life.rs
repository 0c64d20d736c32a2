//! A machine on KVM is paused, resumed, reset and stopped from other threads.
//!
//! Its guests are a few dozen bytes of real-mode code. What each of them prints does not depend on
//! when it is paused, so any byte that is lost, doubled or out of order shows.

#![cfg(target_arch = "x86_64")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use trapline_device::Space;
use trapline_machine::{
    Boot, Config, Control, ControlError, Ending, Error, FirmwareFlash, IoRegion, IoRegionFeatures,
    OnDeath, PcIrqchip, Session, Socket, State,
};
use trapline_testkit::realmode::{Asm, LSR_DATA_READY, UART, UART_LSR};
use trapline_testkit::{TestTerminal, skip};

/// What a guest that has come to its end writes to the exit port, and what status that is.
const END: u8 = 7;
const STATUS: u8 = 2 * END + 1;

/// A machine whose guest is `program`; `None` if the host has no KVM.
struct Guest {
    session: Session,
    control: Control,
    terminal: TestTerminal,
    /// Read again at a reset.
    _firmware: tempfile::NamedTempFile,
}

impl Guest {
    fn new(test: &str, program: &Asm, pc_irqchip: PcIrqchip) -> Option<Self> {
        Self::with(test, program, pc_irqchip, Vec::new())
    }

    fn with(
        test: &str,
        program: &Asm,
        pc_irqchip: PcIrqchip,
        ioregions: Vec<IoRegion>,
    ) -> Option<Self> {
        Self::try_new(test, program, pc_irqchip, ioregions)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_new(
        test: &str,
        program: &Asm,
        pc_irqchip: PcIrqchip,
        ioregions: Vec<IoRegion>,
    ) -> Result<Option<Self>, Box<dyn std::error::Error>> {
        if !std::path::Path::new("/dev/kvm").exists() {
            skip(test, "no /dev/kvm");
            return Ok(None);
        }
        let firmware = tempfile::NamedTempFile::new()?;
        std::fs::write(firmware.path(), program.rom())?;
        let terminal = TestTerminal::default();
        let path = firmware.path().to_owned();
        let boot = Boot::Firmware { path, flash: FirmwareFlash::None, kernel: None };
        let session = Session::new(Config {
            exit_port: true,
            ioregions,
            pc_irqchip,
            ..Config::new(boot, 2 << 20, Arc::new(terminal.clone()))
        })?;
        let control = session.control();
        Ok(Some(Self { session, control, terminal, _firmware: firmware }))
    }

    /// Runs it to its end, with `meanwhile` on another thread once it runs: before that not
    /// everything can be asked of it.
    fn run(mut self, meanwhile: impl FnOnce(&Control, &TestTerminal) + Send) -> (Ending, Vec<u8>) {
        let (control, terminal) = (self.control.clone(), self.terminal.clone());
        let ending = thread::scope(|scope| {
            scope.spawn(move || {
                // A test that fails leaves nobody to end the machine.
                let _end = StopIfPanicking(&control);
                while matches!(control.state(), State::Built | State::Resetting) {
                    thread::yield_now();
                }
                meanwhile(&control, &terminal);
            });
            self.session.run()
        });
        (ending.unwrap_or_else(|error: Error| panic!("{error}")), self.terminal.screen())
    }
}

/// Stops the machine of a test that fails.
struct StopIfPanicking<'a>(&'a Control);

impl Drop for StopIfPanicking<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.request_stop();
        }
    }
}

/// What a machine that runs does as it is asked.
fn done(asked: Result<(), ControlError>) {
    asked.unwrap_or_else(|error| panic!("{error}"));
}

/// Pauses and resumes the machine at random moments, `times` if it does not end before. While it
/// is paused, the guest says nothing.
fn pause_at_random(control: &Control, terminal: &TestTerminal, times: u32, seed: u64) -> u32 {
    let mut random = fastrand::Rng::with_seed(seed);
    for paused in 0..times {
        thread::sleep(Duration::from_micros(random.u64(..3_000)));
        if control.pause().is_err() {
            return paused;
        }
        assert_eq!(control.state(), State::Paused);
        let said = terminal.screen().len();
        if random.u64(..4) == 0 {
            thread::sleep(Duration::from_micros(random.u64(..2_000)));
            done(control.pause());
        }
        assert_eq!(terminal.screen().len(), said, "a paused guest said something");
        done(control.resume());
    }
    times
}

/// Pauses per guest, 1,000 in all.
const PAUSES: u32 = 250;

/// `inc si`, and then what it counts to, twice: low byte and high byte.
fn count() -> Asm {
    // inc si; mov ax, si; send al; mov ax, si; mov al, ah; send al
    Asm::new().bytes(&[0x46, 0x89, 0xf0]).send_al().bytes(&[0x89, 0xf0, 0x88, 0xe0]).send_al()
}

fn counted_to(end: u16) -> Vec<u8> {
    (1..=end).flat_map(u16::to_le_bytes).collect()
}

#[test]
fn a_counting_guest_loses_nothing_in_pauses() {
    // Its writes to the UART are coalesced.
    let program = Asm::new().mov_si(0).forever(
        count().bytes(&[0x81, 0xfe]).bytes(&20_000u16.to_le_bytes()).then(&ends_if_equal()),
    );
    for chips in [PcIrqchip::Kernel, PcIrqchip::Split] {
        let name = "a_counting_guest_loses_nothing_in_pauses";
        let Some(guest) = Guest::new(name, &program, chips) else { return };
        let (ending, said) = guest.run(|control, terminal| {
            assert_eq!(pause_at_random(control, terminal, PAUSES / 2, 0x5eed), PAUSES / 2);
        });
        assert!(matches!(ending, Ending::Exit(STATUS)), "{ending:?}");
        assert!(said == counted_to(20_000), "a byte was lost, doubled or late");
    }
}

/// After a comparison: ends the machine if it found equality.
fn ends_if_equal() -> Asm {
    let end = Asm::new().exit(END);
    let over = u8::try_from(end.len16()).unwrap_or_else(|_| panic!("a short jump"));
    Asm::new().bytes(&[0x75, over]).then(&end) // jne over
}

#[test]
fn a_guest_that_is_typed_to_hears_everything_in_order() {
    // What it hears it says, and ends at a zero.
    let program = Asm::new().forever(
        Asm::new()
            .wait_for(UART_LSR, LSR_DATA_READY)
            .inb(UART)
            .send_al()
            .bytes(&[0x3c, 0x00]) // cmp al, 0
            .then(&ends_if_equal()),
    );
    let name = "a_guest_that_is_typed_to_hears_everything_in_order";
    let Some(guest) = Guest::new(name, &program, PcIrqchip::Kernel) else { return };
    let device = guest.session.console_device();
    let typed: Vec<u8> = (0..6_000u32).map(|i| u8::try_from(i % 255).unwrap() + 1).collect();
    let expected = typed.clone();
    let (ending, said) = guest.run(|control, terminal| {
        thread::scope(|scope| {
            scope.spawn(|| {
                let poll = || device.upgrade().unwrap().poll();
                let mut random = fastrand::Rng::with_seed(0xabcd);
                let mut rest = typed.as_slice();
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(1 + random.usize(..30)));
                    terminal.type_in(now);
                    poll();
                    thread::sleep(Duration::from_micros(random.u64(..2_000)));
                    rest = later;
                }
            });
            assert_eq!(pause_at_random(control, terminal, PAUSES, 0xfeed), PAUSES);
        });
        terminal.type_in(&[0]);
        device.upgrade().unwrap().poll();
    });
    assert!(matches!(ending, Ending::Exit(STATUS)), "{ending:?}");
    assert!(said.strip_suffix(&[0]) == Some(&expected), "a key was lost, doubled or late");
}

/// Where the interrupt handler of the timer's guest is told about: interrupt 8 of real mode.
const VECTOR: u16 = 8 * 4;

/// A guest that counts interrupts of the 8254 through the 8259, and says each count.
fn timer_guest(ticks: u16) -> Asm {
    // The handler: count, say, acknowledge; `iret`.
    let handler = count().outb(0x20, 0x20).bytes(&[0xcf]);
    let (start, at, _) = Asm::new().bytes(&[0xfa]).embed(&handler.0); // cli
    start
        .mov_ds(0)
        // mov word [VECTOR], at; mov word [VECTOR + 2], 0xf000
        .mov_ax(at)
        .store_ax(VECTOR)
        .mov_ax(0xf000)
        .store_ax(VECTOR + 2)
        // A stack at 0000:7000: xor ax, ax; mov ss, ax; mov sp, 0x7000.
        .bytes(&[0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x70])
        .outb(0x20, 0x11)
        .outb(0x21, 0x08)
        .outb(0x21, 0x04)
        .outb(0x21, 0x01)
        .outb(0x21, 0xfe)
        // Channel 0 in mode 2, 1,193 clocks: a millisecond.
        .outb(0x43, 0x34)
        .outb(0x40, 0xa9)
        .outb(0x40, 0x04)
        .mov_si(0)
        // sti; hlt; cli; cmp si, ticks
        .forever(
            Asm::new()
                .bytes(&[0xfb, 0xf4, 0xfa, 0x81, 0xfe])
                .bytes(&ticks.to_le_bytes())
                .then(&ends_if_equal()),
        )
}

/// A guest that waits for timer interrupts, paused at random moments meanwhile.
fn timer_interrupts(name: &str, chips: PcIrqchip) {
    const TICKS: u16 = 800;
    let Some(guest) = Guest::new(name, &timer_guest(TICKS), chips) else { return };
    let mut paused = 0;
    let (ending, said) = guest.run(|control, terminal| {
        paused = pause_at_random(control, terminal, PAUSES, 0xbeef);
    });
    assert!(matches!(ending, Ending::Exit(STATUS)), "{ending:?}");
    assert!(paused > 50, "{paused} pauses before it ended");
    assert!(said == counted_to(TICKS), "an interrupt was lost or doubled");
}

#[test]
fn a_guest_that_waits_for_timer_interrupts_gets_each() {
    timer_interrupts("a_guest_that_waits_for_timer_interrupts_gets_each", PcIrqchip::Kernel);
}

#[test]
fn a_guest_that_waits_for_timer_interrupts_of_our_own_chips_gets_each() {
    let name = "a_guest_that_waits_for_timer_interrupts_of_our_own_chips_gets_each";
    timer_interrupts(name, PcIrqchip::Split);
}

#[test]
fn what_comes_for_a_device_while_the_machine_is_paused_reaches_it_afterwards() {
    let echo = Asm::new().wait_for(UART_LSR, LSR_DATA_READY).inb(UART).send_al();
    let name = "what_comes_for_a_device_while_the_machine_is_paused_reaches_it_afterwards";
    let Some(guest) = Guest::new(name, &Asm::new().forever(echo), PcIrqchip::Kernel) else {
        return;
    };
    let device = guest.session.console_device();
    let (ending, said) = guest.run(|control, terminal| {
        control.pause().unwrap();
        terminal.type_in(b"x");
        device.upgrade().unwrap().poll();
        thread::sleep(Duration::from_millis(20));
        assert_eq!(terminal.waiting(), b"x", "the device has taken it");
        control.resume().unwrap();
        while terminal.screen().is_empty() {
            thread::yield_now();
        }
        control.stop();
    });
    assert!(matches!(ending, Ending::Stopped), "{ending:?}");
    assert_eq!(said, b"x");
}

#[test]
fn what_is_asked_in_the_wrong_state_is_refused() {
    let name = "what_is_asked_in_the_wrong_state_is_refused";
    let Some(guest) = Guest::new(name, &Asm::new().spin(), PcIrqchip::Kernel) else { return };
    let control = guest.control.clone();
    let refused = control.pause().unwrap_err().to_string();
    assert_eq!(refused, "the machine is not running yet and cannot be paused");
    let (ending, _) = guest.run(|control, _| {
        control.resume().unwrap();
        control.pause().unwrap();
        control.pause().unwrap();
        control.stop();
        assert_eq!(control.state(), State::Ended);
    });
    assert!(matches!(ending, Ending::Stopped), "{ending:?}");
    let refused = control.resume().unwrap_err().to_string();
    assert_eq!(refused, "the machine is over and cannot be resumed");
    control.stop();
}

#[test]
fn a_reset_starts_the_guest_over_and_one_that_is_paused_stays_so() {
    // Says that it is there, and waits.
    let program = Asm::new().print(b"boot").spin();
    let name = "a_reset_starts_the_guest_over_and_one_that_is_paused_stays_so";
    let Some(guest) = Guest::new(name, &program, PcIrqchip::Kernel) else { return };
    let report = guest.control.clone();
    let (ending, said) = guest.run(|control, terminal| {
        let says = |times: usize| {
            while terminal.screen().len() < 4 * times {
                thread::yield_now();
            }
        };
        says(1);
        control.reset().unwrap();
        says(2);
        control.pause().unwrap();
        control.reset().unwrap();
        assert_eq!(control.state(), State::Paused);
        assert_eq!(terminal.screen(), b"bootboot");
        control.resume().unwrap();
        says(3);
        control.stop();
    });
    assert!(matches!(ending, Ending::Stopped), "{ending:?}");
    assert_eq!(said, b"bootbootboot");
    assert_eq!(report.report().resets, 2);
}

#[test]
fn a_paused_machine_gives_the_state_of_its_devices_and_keeps_it_until_it_goes_on() {
    // Writes to the scratch register of the UART, says so, and waits.
    let program = Asm::new().outb(UART + 7, 0x5a).print(b"x").spin();
    let name = "a_paused_machine_gives_the_state_of_its_devices_and_keeps_it_until_it_goes_on";
    let Some(guest) = Guest::new(name, &program, PcIrqchip::Kernel) else { return };
    let (ending, _) = guest.run(|control, terminal| {
        let refused = control.save().unwrap_err().to_string();
        assert_eq!(refused, "the machine is running and cannot be saved");
        while terminal.screen().is_empty() {
            thread::yield_now();
        }
        control.pause().unwrap();
        let saved = control.save().unwrap();
        assert_eq!(control.state(), State::Saved);
        for (asked, said) in [(control.pause(), "paused"), (control.reset(), "reset")] {
            let refused = asked.unwrap_err().to_string();
            assert_eq!(refused, format!("the machine is saved and cannot be {said}"));
        }
        let again = control.save().unwrap();
        assert_eq!(again.devices.get("serial0"), saved.devices.get("serial0"));
        assert!(again.now_ns >= saved.now_ns, "time goes on");
        assert!(saved.devices.contains_key("serial0") && saved.devices.contains_key("rtc"));
        assert!(saved.vcpus.is_empty() && saved.kernel_chips.is_empty());
        control.resume().unwrap();
        assert_eq!(control.state(), State::Running);
        control.pause().unwrap();
        control.stop();
    });
    assert!(matches!(ending, Ending::Stopped), "{ending:?}");
}

#[test]
fn a_guest_that_ends_while_it_is_being_paused_has_ended() {
    let program = Asm::new().exit(END);
    for _ in 0..20 {
        let name = "a_guest_that_ends_while_it_is_being_paused_has_ended";
        let Some(guest) = Guest::new(name, &program, PcIrqchip::Kernel) else { return };
        let (ending, _) = guest.run(|control, _| {
            // Too early, in time, or too late: whatever it is, somebody says so. What has been
            // paused does not end any more.
            while control.state() != State::Ended {
                if control.pause().is_ok() {
                    done(control.resume());
                }
            }
        });
        assert!(matches!(ending, Ending::Exit(STATUS)), "{ending:?}");
    }
}

/// A device in another process that has stalled keeps nobody: the machine pauses while its vCPU waits
/// for an answer, goes on, pauses again, and the guest gets the answer to the one question it asked.
#[test]
fn a_pause_does_not_wait_for_a_device_in_another_process() {
    let test = "a_pause_does_not_wait_for_a_device_in_another_process";
    let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let path = dir.path().join("device");
    let listener = UnixListener::bind(&path).unwrap_or_else(|error| panic!("{error}"));
    let features = IoRegionFeatures::NONE;
    let socket = Socket { path, seqpacket: false, features, on_death: OnDeath::StopVm };
    let region = IoRegion {
        space: Space::Pio,
        base: 0x500,
        len: 4,
        socket,
        posted: false,
        fast: false,
        user_data: 0,
        datamatch: None,
    };
    let program = Asm::new().inl(0x500).send_eax(4).exit(END);
    let Some(guest) = Guest::with(test, &program, PcIrqchip::Kernel, vec![region]) else { return };
    let (mut device, _) = listener.accept().unwrap_or_else(|error| panic!("{error}"));
    let (ending, screen) = guest.run(|control, terminal| {
        let mut command = [0; 32];
        device.read_exact(&mut command).unwrap_or_else(|error| panic!("{error}"));
        let mut shortest = Duration::MAX;
        for _ in 0..10 {
            let start = Instant::now();
            done(control.pause());
            shortest = shortest.min(start.elapsed());
            assert_eq!((control.state(), terminal.screen().len()), (State::Paused, 0));
            done(control.resume());
        }
        // Half of what each would wait for an answer that does not come. A busy host may keep one waiting.
        assert!(shortest < Duration::from_millis(2500), "each pause took {shortest:?} or longer");
        // Half an answer before a pause, half after it.
        let answer: [u8; 32] = std::array::from_fn(|n| b"late"[n % 4]);
        let (first, second) = answer.split_at(18);
        device.write_all(first).unwrap_or_else(|error| panic!("{error}"));
        done(control.pause());
        device.write_all(second).unwrap_or_else(|error| panic!("{error}"));
        done(control.resume());
    });
    let rest = device.read(&mut [0; 32]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rest, 0, "nothing was asked twice");
    assert!(matches!(ending, Ending::Exit(STATUS)), "{ending:?}");
    assert_eq!(screen, b"late");
}
