//! `trapline run`: from options to a machine, and from its end to an exit status.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Weak};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use tracing::Level;
use trapline_control::api::Statistics;
use trapline_device::CharBackend;
use trapline_machine::Terminal;
use trapline_machine::boot::modules::initrd_files;
use trapline_machine::boot::{open, read_ahead};
use trapline_machine::console::Size;
use trapline_machine::deliveries;
use trapline_machine::record::RecordOptions;
use trapline_machine::vfio::Assignment;
use trapline_machine::{
    Config, ConsoleKind, Control, CrashReport, Ending, FirmwareFlash, Isolate, Report, ResetCause,
    Session as Machine, release_startup_memory,
};

use crate::cli::{Boot, FwCfgFile, LogLevel, RunOptions, StatForm};
use crate::console::Console;
use crate::debug::{self, Gdb, Prompt};
use crate::display::{self, Display};
use crate::live::{Guest, Look, MetricsFile, MetricsWriter, Name};
use crate::logging;
use crate::pause::Pauses;
use crate::progress::Waiting;
use crate::reboot::{Next, Resets, SILENT_MAX};
use crate::request::{Request, Requests};
use crate::session::Session;
use crate::software::{self, Arranged, Remark};
use crate::task::Errand;
use crate::trace::Trace;
use crate::why::{self, Surroundings};
use crate::{signals, statistics, stream, terminal, vfio};

/// Runs one guest; returns when it has ended.
///
/// # Errors
/// Why it could not be started, or did not end well.
pub fn run(options: &RunOptions) -> anyhow::Result<ExitCode> {
    // Of the options, and before there is a second thread.
    release_startup_memory();
    check_files(&options.boot)?;
    let name = Name::take(options)?;
    let vfio = vfio::assignments(&options.vfio)?;
    let fw_cfg = options.fw_cfg.iter().map(FwCfgFile::load).collect::<Result<_, _>>()?;
    let metrics = options.metrics_path.as_deref().map(MetricsFile::open).transpose()?;
    let mut display = Display::open(options)?;
    let requests = Requests::default();
    let break_key = (options.console == ConsoleKind::Virtio).then_some(HVC_BREAK);
    let console = Console::new(requests.clone(), break_key)?;
    let Arranged { options, boot, remarks, errand } = software::arrange(options)?;
    let options = &options;
    let mut machine = Machine::new(config(options, boot, (fw_cfg, vfio), &console))?;
    console.attach(machine.console_device());
    let late = deliveries::apply(machine.registry(), &options.late_writes);
    late.context("--deliveries")?;
    let trace = (!options.trace.is_empty())
        .then(|| Trace::start(machine.registry(), &options.trace))
        .transpose()?;
    let debugged = debugged(&machine, &console, options)?;
    tell_start(options, &machine, &remarks);
    let viewers = display.serve(&machine, options.name.as_str())?;

    let streams = software::streams(options);
    let session = Session::start(&console, &requests, streams)?;
    let control = machine.control();
    let (look, metrics) = watch(options, &control, metrics)?;
    let wish = Arc::new(Mutex::new(None));
    let pauses = Arc::new(Pauses::new(control.clone()));
    errand.iter().try_for_each(|errand| errand.start(requests.clone()))?;
    let waiting = errand.as_ref().map(|errand| Waiting::start(&console, errand)).transpose()?;
    let terminal = TerminalSize { machine: machine.terminal(), errand };
    terminal.tell();
    let obeying = Obeying {
        pauses: Arc::clone(&pauses),
        control: control.clone(),
        look: look.clone(),
        name: options.name.to_string(),
        console: Arc::downgrade(&console),
        disks: disks(options),
        terminal,
        wish: Arc::clone(&wish),
    };
    requests.serve(move |request| obeying.obey(request));
    let server = name.serve(guest(options, &machine, &console, (&look, &requests)))?;
    let ending = live(&mut machine, &console, options);
    // What the guest has sent comes before what there is to say about its end.
    drop(waiting);
    session.finish(|| wish.lock().is_some());
    drop((trace, debugged));
    requests.unserve();
    let wish = wish.lock().take();
    if let Some(summary) = pauses.summary() {
        logging::text(Level::INFO, &format!("\n{summary}"));
    }
    tell_end(&ending, wish.as_ref(), console.is_inside_line());
    drop(viewers);
    let dumped = display.dump(machine.screen().as_deref());
    drop(metrics);
    let seen = Seen { report: control.report(), statistics: look.statistics(false) };
    look.end();
    let recorded = machine.finish_recording();
    drop(machine);
    say(&seen, options);
    // Who waits for the end finds everything written and free.
    drop(server);
    let status = conclude(ending?, wish, options)?;
    recorded?;
    dumped.map(|()| status)
}

/// Says what there is to say of a guest that is about to run. Only now: whoever cannot run has one
/// sentence to read.
fn tell_start(options: &RunOptions, machine: &Machine, remarks: &[Remark]) {
    options.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    remarks.iter().for_each(Remark::say);
    if matches!(options.boot, Boot::Kernel { .. }) {
        warn_of_software_kvm();
    }
    tracing::info!("# {}", command_line(options));
    for (name, place) in machine.port_places() {
        tracing::info!("port {name} is on {}", place.display());
    }
}

/// What sees what the guest does, and what writes that down all the time, if somebody wants it.
fn watch(
    options: &RunOptions,
    control: &Control,
    metrics: Option<MetricsFile>,
) -> anyhow::Result<(Look, Option<MetricsWriter>)> {
    let look = Look::new(control, options.cpus);
    if options.stat.is_some_and(|form| form != StatForm::All) {
        look.count_registers();
    }
    let metrics = metrics.map(|file| file.start(look.clone())).transpose()?;
    Ok((look, metrics))
}

/// What is asked by the control socket is asked of this.
fn guest(
    options: &RunOptions,
    machine: &Machine,
    console: &Arc<Console>,
    (look, requests): (&Look, &Requests),
) -> Guest {
    Guest {
        name: options.name.to_string(),
        cpus: options.cpus,
        mem_bytes: options.mem_bytes,
        control: machine.control(),
        balloon: machine.balloon().map(Arc::downgrade),
        console: Arc::downgrade(console),
        disks: disks(options),
        breaks: Arc::default(),
        look: look.clone(),
        requests: requests.clone(),
    }
}

/// The images of the guest's disks.
fn disks(options: &RunOptions) -> Vec<String> {
    options.disks.iter().map(|disk| disk.path.display().to_string()).collect()
}

/// Who looks at the guest where it stands.
fn debugged(
    machine: &Machine,
    console: &Arc<Console>,
    options: &RunOptions,
) -> anyhow::Result<(Option<Prompt>, Option<Gdb>)> {
    let control = machine.control();
    if let Some(path) = &options.symbols {
        debug::load_symbols(&control, path)?;
    }
    let prompt = !options.breaks.is_empty();
    let prompt = prompt.then(|| Prompt::start(&control, console, &options.breaks)).transpose()?;
    let gdb = options.gdb.map(|addr| Gdb::start(&control, addr)).transpose()?;
    Ok((prompt, gdb))
}

/// Who obeys the person at the console, and the host. Runs on their threads, which nothing of the
/// machine waits for: who wants a pause may wait until it has begun.
struct Obeying {
    pauses: Arc<Pauses>,
    control: Control,
    look: Look,
    name: String,
    console: Weak<Console>,
    disks: Vec<String>,
    terminal: TerminalSize,
    /// What ended the guest.
    wish: Arc<Mutex<Option<Request>>>,
}

impl Obeying {
    fn obey(&self, request: Request) {
        let Some(console) = self.console.upgrade() else { return };
        match request {
            Request::Statistics => {
                let seen = self.look.statistics(true);
                let table = statistics::table(&seen, statistics::columns());
                console.message(&format!("\n{table}"));
            }
            Request::Why => {
                let seen = self.control.observe(why::SPAN);
                let seen = why::why(&seen, Surroundings::of(&console, &self.disks));
                console.message(&format!("\n{}", why::text(&self.name, &seen)));
            }
            Request::Pause => console.message(&self.pauses.toggle()),
            Request::Resized => self.terminal.tell(),
            request => {
                self.wish.lock().get_or_insert(request);
                self.control.request_stop();
            }
        }
    }
}

/// What Linux takes on a virtio console for what a break is on a serial port: Ctrl-o.
const HVC_BREAK: u8 = 0x0f;

/// The size of the terminal, and who wants to know it: a virtio console, and our init.
struct TerminalSize {
    machine: Option<Terminal>,
    errand: Option<Errand>,
}

impl TerminalSize {
    fn tell(&self) {
        let Some((columns, rows)) = terminal::size() else { return };
        self.machine.iter().for_each(|console| console.resize(Size { columns, rows }));
        self.errand.iter().for_each(|errand| errand.resize(columns, rows));
    }
}

/// Runs the machine to its end, over the resets that do not end it.
fn live(machine: &mut Machine, console: &Console, options: &RunOptions) -> anyhow::Result<Ending> {
    let mut resets = Resets::new(options.reboot);
    loop {
        let cause = match machine.run()? {
            Ending::Reset(ResetCause::TripleFault(report)) if options.fail_on_triple_fault => {
                return Ok(Ending::Crashed(report));
            }
            Ending::Reset(cause) => cause,
            ending => return Ok(ending),
        };
        let screen = machine.screen();
        let drawn = screen.as_ref().is_some_and(|screen| screen.was_drawn_on());
        match resets.next(console.lines(), drawn) {
            Next::End => return Ok(Ending::Reset(cause)),
            Next::BootAgain { reported: true } => {
                if let ResetCause::TripleFault(report) = &cause {
                    logging::text(Level::WARN, &report.to_string());
                }
                tracing::info!("the guest was reset by {cause}: booting it again");
            }
            Next::BootAgain { reported: false } => tracing::debug!("reset by {cause}"),
            Next::GiveUp => {
                let picture = if screen.is_some() { " or a picture" } else { "" };
                bail!(
                    "the guest was reset {SILENT_MAX} times without a line of output{picture}, the \
                     last time by {cause}"
                )
            }
        }
    }
}

/// Says how the run ended, in kvmtool's words. The guest's last line may not have an end
/// (`inside_line`); an error begins a line of its own all the same.
fn tell_end(ending: &anyhow::Result<Ending>, wish: Option<&Request>, inside_line: bool) {
    let last_line = match (ending, wish) {
        (Ok(_), Some(Request::OutputLost(_) | Request::CommandEnded(_))) => return,
        (Ok(Ending::Stopped), Some(Request::Quit)) => "  # KVM session terminated.\n".to_owned(),
        (Ok(Ending::Off | Ending::Exit(_)), _) => ENDED.to_owned(),
        (Ok(Ending::Reset(cause)), _) => {
            if let ResetCause::TripleFault(report) = cause {
                logging::text(Level::WARN, &format!("\n{report}"));
            }
            format!("  # The guest was reset by {cause}.\n{ENDED}")
        }
        _ => {
            if inside_line && logging::shares_standard_output() {
                logging::text(Level::ERROR, "\n");
            }
            return;
        }
    };
    logging::text(Level::INFO, &format!("\n{last_line}"));
}

/// kvmtool's last line.
const ENDED: &str = "  # KVM session ended normally.\n";

/// The exit status: 0 for a guest that ended in order or was ended by its user, its own for one
/// that used the exit port, its command's for one that was there for a command. What a signal has
/// ended, that signal ends.
fn conclude(
    ending: Ending,
    wish: Option<Request>,
    options: &RunOptions,
) -> anyhow::Result<ExitCode> {
    match (ending, wish) {
        // Whatever it has come to, nobody has seen it.
        (_, Some(Request::OutputLost(why))) => bail!("cannot write the guest's output: {why}"),
        (Ending::Exit(status), _) => Ok(ExitCode::from(status)),
        (Ending::Stopped, Some(Request::CommandEnded(status))) => Ok(ExitCode::from(status)),
        (Ending::Off | Ending::Reset(_), _) if options.root.is_errand() => {
            bail!("the guest has ended before its command did")
        }
        (Ending::Off | Ending::Reset(_), _) => Ok(ExitCode::SUCCESS),
        (Ending::Crashed(report), _) => crashed(&report),
        (Ending::Stopped, Some(Request::Signal(number))) => signals::end_by(number),
        (Ending::Stopped, _) if options.root.is_errand() => {
            bail!("the guest was ended before its command did")
        }
        (Ending::Stopped, _) => Ok(ExitCode::SUCCESS),
    }
}

/// The report is several lines; the sentence after it is the one that counts.
fn crashed(report: &CrashReport) -> anyhow::Result<ExitCode> {
    logging::text(Level::ERROR, &report.to_string());
    bail!("the guest cannot go on: {}", report.cause)
}

/// What the guest has done, when it is over.
struct Seen {
    report: Report,
    statistics: Statistics,
}

/// Prints what was asked for.
fn say(seen: &Seen, options: &RunOptions) {
    let mut text = match options.stat {
        Some(StatForm::All) => return stream::answer(&seen.report.to_string()),
        Some(StatForm::Table) => {
            let table = statistics::table(&seen.statistics, statistics::columns());
            return stream::answer(&table);
        }
        Some(StatForm::Json) => {
            let json = serde_json::to_string(&seen.statistics).unwrap_or_default();
            return stream::answer(&(json + "\n"));
        }
        None => String::new(),
    };
    for (key, count) in &seen.report.traps.unclaimed {
        let wanted = match key.space {
            trapline_device::Space::Pio => options.debug_ioport,
            trapline_device::Space::Mmio => options.debug_mmio,
        };
        if wanted {
            let (space, addr, direction, len) = (key.space, key.addr, key.direction, key.len);
            text += &format!("unclaimed: {space} {addr:#x} {direction} of {len}: {count}\n");
        }
    }
    stream::answer(&text);
}

fn config(
    options: &RunOptions,
    boot: trapline_machine::Boot,
    (fw_cfg, vfio): (Vec<(String, Vec<u8>)>, Vec<Assignment>),
    console: &Arc<Console>,
) -> Config {
    let backend: Arc<dyn CharBackend> = Arc::clone(console) as _;
    let display = display::mode(options);
    // Without a display firmware shows its screen on the console, too, and only that, unless more is
    // asked for.
    let firmware = matches!(boot, trapline_machine::Boot::Firmware { .. });
    let log = !firmware || display.is_some() || options.loglevel == LogLevel::Debug;
    Config {
        cpus: options.cpus,
        mem_bytes: options.mem_bytes,
        memory: options.memory.clone(),
        pc_irqchip: options.pc_irqchip,
        pc_legacy: options.legacy,
        pc_config_space: options.config_space,
        pc_earlycon: options.earlycon,
        kvm_device: options.dev.clone(),
        boot,
        console: Arc::clone(&backend),
        console_kind: options.console,
        ports: options.ports.clone(),
        balloon: options.balloon,
        firmware_log: log.then_some(backend),
        display,
        exit_port: options.exit_port,
        testdev: options.testdev,
        virtio: options.virtio.clone(),
        rng: options.rng,
        edu: options.edu,
        disks: options.disks.clone(),
        nets: options.nets.clone(),
        vfio,
        shares: options.shares.clone(),
        vsock: options.vsock.clone(),
        fw_cfg,
        ioregions: options.ioregions.clone(),
        isolate: Isolate {
            devices: options.isolated.clone(),
            on_death: options.on_isolated_death,
            // This program, also when its file has been replaced.
            program: "/proc/self/exe".into(),
        },
        coalesce: options.coalesce,
        mirror: options.mirror,
        record: options.record.clone().map(|path| RecordOptions {
            path,
            exact: options.record_exact,
            payload: options.record_payload,
            arguments: std::env::args_os().map(|word| word.to_string_lossy().into()).collect(),
        }),
        arm64: options.arm64.clone(),
    }
}

fn warn_of_software_kvm() {
    if !trapline_machine::hardware_virtualization() {
        tracing::warn!(
            "this processor shows no hardware virtualization: KVM emulates the guest's kernel, \
             and a stock Linux will appear to hang"
        );
    }
}

/// Opens what the user named, so that a wrong name is the first thing said. Test suites look for
/// the words "Unable to open kernel NAME" and want nothing after them.
fn check_files(boot: &Boot) -> anyhow::Result<()> {
    let check = |what: &str, path: &Path| {
        let name = path.display();
        // It is loaded when the machine has been made, and read from its disk meanwhile.
        open(path).map(|(file, _)| read_ahead(&file)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => anyhow::anyhow!("Unable to open {what} {name}"),
            _ => anyhow::anyhow!("Unable to open {what} {name}: {error}"),
        })
    };
    match boot {
        Boot::Firmware { path, flash, kernel } => {
            match flash {
                FirmwareFlash::None => check("firmware", path)?,
                FirmwareFlash::Whole => check("flash", path)?,
                FirmwareFlash::Variables(variables) => {
                    check("firmware", path)?;
                    check("flash", variables)?;
                }
            }
            let Some(kernel) = kernel else { return Ok(()) };
            check("kernel", &kernel.path)?;
            kernel.initrd.iter().try_for_each(|path| check("initrd", path))
        }
        Boot::Kernel { path, initrd, .. } => {
            path.iter().try_for_each(|path| check("kernel", path))?;
            let Some(initrd) = initrd else { return Ok(()) };
            let files = match path {
                Some(kernel) => initrd_files(kernel, initrd),
                None => vec![initrd.clone()],
            };
            files.iter().try_for_each(|path| check("initrd", path))
        }
    }
}

/// The run as a command somebody can repeat.
fn command_line(options: &RunOptions) -> String {
    let boot = match &options.boot {
        Boot::Kernel { path: Some(path), .. } => format!(" -k {}", path.display()),
        Boot::Kernel { path: None, .. } => String::new(),
        Boot::Firmware { path, flash, kernel } => {
            let path = path.display();
            let firmware = match flash {
                FirmwareFlash::None => format!(" --firmware {path}"),
                FirmwareFlash::Whole => format!(" --flash {path}"),
                FirmwareFlash::Variables(variables) => {
                    format!(" --firmware {path} --flash {}", variables.display())
                }
            };
            let kernel = kernel.iter().map(|kernel| format!(" -k {}", kernel.path.display()));
            firmware + &kernel.collect::<String>()
        }
    };
    let (mem, cpus, name) = (options.mem_bytes >> 20, options.cpus, &options.name);
    format!("trapline run{boot} -m {mem} -c {cpus} --name {name}")
}
