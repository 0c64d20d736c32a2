use trapline::{Mapping, NoHandler, Region};
use trapline_device::{
    Doorbell, EventFd, EventHandler, EventLoop, Interrupt, Readiness, Timer, Wake,
};
use trapline_qtest::{Pin, Session, Side};

use super::*;

/// Where no board has anything.
const BELL: u64 = 0x7000_0000;

/// A queue as a back end has it, handled on the event loop.
struct Queue {
    interrupt: Interrupt,
    rung: Mutex<Vec<u64>>,
    clock: VirtualClock,
}

impl EventHandler for Queue {
    fn event(&self, _ready: Readiness) {
        self.rung.lock().push(self.clock.now_ns());
        self.interrupt.trigger();
    }
}

/// Signals an eventfd when it is time to, as a helper of the host's would.
struct Remote(EventFd);

impl Wake for Remote {
    fn wake(&self) {
        self.0.signal();
    }
}

struct Bench {
    machine: Machine,
    queue: Arc<Queue>,
    remote: Arc<Remote>,
    timer: Box<dyn Timer>,
    _doorbell: Doorbell,
    _mapping: Mapping,
}

fn bench() -> Bench {
    let machine = Machine::new(&Config {
        board: BoardKind::X86Pc,
        cpus: 1,
        virtio: VirtioTransports::default(),
        rng: false,
        edu: 0,
        disks: Vec::new(),
        shares: Vec::new(),
        vsock: None,
        plugs: false,
        mem_bytes: 16 << 20,
        utc_start_ns: 0,
        console: Arc::new(NullBackend),
        console_kind: ConsoleKind::Serial,
        ports: Vec::new(),
        balloon: None,
        nets: Vec::new(),
        exit_port: false,
        flash: None,
        firmware: None,
        testdev: false,
        fw_cfg: Vec::new(),
    })
    .unwrap();
    let pin = Pin { device: "ioapic", side: Side::In, number: 20 };
    let interrupt = Interrupt::pin(machine.wires.line(pin, Behind(Line::unconnected())));
    let remote = Arc::new(Remote(interrupt.eventfd(&*machine.event_loop).unwrap()));
    let clock = machine.clock.clone();
    let queue = Arc::new(Queue { interrupt, rung: Mutex::default(), clock });
    let handler: Weak<Queue> = Arc::downgrade(&queue);
    let doorbell = machine.event_loop.doorbell(handler).unwrap();
    let region = Region::mmio(BELL, 8, "bench", "bell", Arc::new(NoHandler));
    let mapping = machine.registry.map(region.doorbell(0, 4, None, doorbell.target())).unwrap();
    let woken: Weak<Remote> = Arc::downgrade(&remote);
    let timer = machine.clock.timer(woken);
    Bench { machine, queue, remote, timer, _doorbell: doorbell, _mapping: mapping }
}

fn converse(machine: &Machine, lines: &str) -> String {
    let mut output = Vec::new();
    Session::new(machine).run(lines.as_bytes(), &mut output).unwrap();
    String::from_utf8(output).unwrap()
}

#[test]
fn a_doorbell_is_handled_before_the_client_has_its_answer() {
    let bench = bench();
    let answers = converse(
        &bench.machine,
        &format!(
            "irq_intercept_in ioapic\nwritel {BELL:#x} 1\nclock_step 10\nwritel {BELL:#x} 1\n"
        ),
    );
    assert_eq!(answers, "OK\nIRQ raise 20\nOK\nOK 10\nOK\n");
    assert_eq!(*bench.queue.rung.lock(), [0, 10]);
}

#[test]
fn an_eventfd_that_is_signalled_in_a_step_interrupts_in_it() {
    let bench = bench();
    bench.timer.arm(Some(500));
    let answers = converse(&bench.machine, "irq_intercept_in ioapic\nclock_step 1000\n");
    assert_eq!(answers, "OK\nIRQ raise 20\nOK 1000\n");
    bench.queue.interrupt.set_level(false);
    bench.remote.wake();
    assert!(!bench.queue.interrupt.level(), "nothing happens between commands");
    let answers = converse(&bench.machine, "irq_intercept_in ioapic\n");
    assert_eq!(answers, "IRQ raise 20\nOK\n");
}
