//! The command line: kvmtool's commands and options under kvmtool's names.
//!
//! A wrong argument is one sentence, so clap's answers of several lines are put into one here;
//! help stays as clap prints it.

mod args;
mod arm64;
mod commas;
mod deliveries;
mod device;
mod disk;
mod foreign;
mod fw_cfg;
mod guests;
mod host;
mod ioregion;
mod negated;
mod network;
mod options;
mod ports;
pub(crate) mod qemu;
mod qtest;
mod refused;
mod replay;
mod root;
mod shares;
mod trace;
mod units;
mod vfio;
mod virtio;
mod vsock;

#[cfg(test)]
mod tests;

use std::ffi::OsString;

use anyhow::anyhow;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::console::KEYS;

pub use device::ServeOptions;
pub use fw_cfg::FwCfgFile;
pub use guests::{GuestsCommand, WhichGuests};
pub use host::Host;
pub use options::{Boot, LogLevel, RunOptions, StatForm};
pub use qemu::Properties;
pub use qtest::{AsQemu, QtestOptions};
pub use replay::ReplayOptions;
pub use root::{RootOptions, Work};
pub use trace::{DiffOptions, TraceOptions, TuneOptions};
pub use vfio::{VfioOptions, VfioSetup};

/// What the arguments ask for.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// To run a guest.
    Run(Box<RunOptions>),
    /// To do something with guests that run.
    Guests(GuestsCommand),
    /// To build a machine without a CPU for a client to drive.
    Qtest(Box<QtestOptions>),
    /// To give functions of the host to vfio-pci, or back.
    SetUpVfio(VfioSetup),
    /// To make a root file system with this name.
    SetUpRoot(String),
    /// To compare two recordings.
    Diff(Box<DiffOptions>),
    /// To find out what could be delivered in another way.
    Tune(Box<TuneOptions>),
    /// To look at a recording.
    Trace(Box<TraceOptions>),
    /// To serve a device to VMMs.
    Serve(Box<ServeOptions>),
    /// To play a recording.
    Replay(Box<ReplayOptions>),
    /// To print this on standard output and be done.
    Text(String),
}

/// The sentence in the middle is how other projects' scripts recognize a command line of this
/// kind; kvm-unit-tests looks for its first four words.
const HELP: &str = "
 To start a guest with this machine's own kernel, run 'trapline run'

usage: trapline COMMAND [ARGS]

 The most commonly used trapline commands are:
{subcommands}

 See 'trapline help COMMAND' for more information on a specific command.
";

/// Understands the process's arguments, the first of which is its own name.
///
/// # Errors
/// One sentence for the user about what is wrong with them.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<Parsed> {
    parse_on(args, &Host::this())
}

/// [`parse`] for a host with other CPUs and memory, for tests.
///
/// # Errors
/// One sentence for the user about what is wrong with them.
pub fn parse_on(args: impl IntoIterator<Item = OsString>, host: &Host) -> anyhow::Result<Parsed> {
    let mut args = args.into_iter().peekable();
    if qemu::is_called(args.peek()) {
        return Ok(Parsed::Qtest(Box::new(qemu::parse(args.skip(1))?)));
    }
    let args: Vec<OsString> = args.collect();
    // Memory that the options of a second command take counts as any other.
    let sandboxes = args.iter().any(|word| word == "sandbox");
    let matches = match command(host, sandboxes).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return asked_for_text(&error),
    };
    match matches.subcommand() {
        Some(("run", matches)) => {
            Ok(Parsed::Run(Box::new(RunOptions::new(given(matches)?, host)?)))
        }
        Some(("sandbox", matches)) => {
            let args = root::sandboxed(given(matches)?)?;
            Ok(Parsed::Run(Box::new(RunOptions::new(args, host)?)))
        }
        Some(("device", matches)) => match matches.subcommand() {
            Some((_, matches)) => Ok(Parsed::Serve(Box::new(ServeOptions::new(given(matches)?)?))),
            None => Err(anyhow!("trapline device: a command is missing; there is serve")),
        },
        Some(("qtest", matches)) => {
            Ok(Parsed::Qtest(Box::new(QtestOptions::new(&given(matches)?)?)))
        }
        Some(("setup", matches)) => match matches.subcommand() {
            Some(("vfio", matches)) => Ok(Parsed::SetUpVfio(vfio::setup(matches)?)),
            _ => Ok(Parsed::SetUpRoot(root_name(matches)?)),
        },
        Some(("tune", matches)) => Ok(Parsed::Tune(Box::new(TuneOptions::new(given(matches)?)))),
        Some(("diff", matches)) => Ok(Parsed::Diff(Box::new(DiffOptions::new(given(matches)?)?))),
        Some(("trace", matches)) => {
            Ok(Parsed::Trace(Box::new(TraceOptions::new(given(matches)?)?)))
        }
        Some(("replay", matches)) => Ok(Parsed::Replay(Box::new(given(matches)?))),
        Some((name, matches)) if is_to_guests(name) => {
            Ok(Parsed::Guests(guests::parse(name, matches)?))
        }
        Some(("version", _)) => Ok(Parsed::Text(version())),
        _ => Ok(Parsed::Text(command(host, false).render_help().to_string())),
    }
}

/// The arguments of a command.
fn given<A: FromArgMatches>(matches: &ArgMatches) -> anyhow::Result<A> {
    A::from_arg_matches(matches).map_err(|error| anyhow!(sentence(&error)))
}

/// Whether these arguments of the process are of a command that starts a guest.
pub(crate) fn starts_guest(args: &[OsString]) -> bool {
    args.get(1).is_some_and(|command| command == "run" || command == "sandbox")
}

/// Whether a command is one of kvmtool's to guests that run.
pub(crate) fn is_to_guests(command: &str) -> bool {
    guests::NAMES.contains(&command)
}

fn version() -> String {
    format!("trapline {}\n", env!("CARGO_PKG_VERSION"))
}

/// All commands, with help on the options that guests of this host can have; those of `sandbox` only if
/// it is the one.
fn command(host: &Host, sandboxes: bool) -> Command {
    let run = Command::new("run")
        .about("Run a guest")
        .override_usage("trapline run [OPTIONS] [KERNEL] [-- COMMAND...]")
        .after_help(format!("While the guest runs:{}", KEYS.trim_end()))
        // As in kvmtool, options may be shortened and the last of several wins.
        .infer_long_args(true)
        .args_override_self(true);
    let sandbox = Command::new("sandbox")
        .about("Run a script or a command in a guest on the host's files")
        .override_usage("trapline sandbox [OPTIONS] SCRIPT [-- ARGUMENT...] | -- COMMAND...")
        .infer_long_args(true)
        .args_override_self(true);
    let qtest = Command::new("qtest")
        .about("Serve a machine without a CPU to a client of QEMU's qtest protocol")
        .override_usage("trapline qtest [OPTIONS] --socket ADDRESS | --stdio | --qemu ARGUMENT...");
    let trace = Command::new("trace")
        .about("Look at a recording of what a guest did to its devices")
        .disable_help_subcommand(true);
    let diff = Command::new("diff")
        .about("Compare two recordings: where they first differ, and which registers cost more");
    let serve = Command::new("serve")
        .about("Serve a device to VMMs that connect to a socket, by ioregionfd's protocol")
        .override_usage("trapline device serve DEVICE --socket PATH [OPTIONS]");
    let device = Command::new("device")
        .about("Run devices in processes of their own")
        .subcommand(device::ServeArgs::augment_args(serve));
    let tune = Command::new("tune")
        .about("Find out from a recording which writes may be late, and what that saves");
    let options =
        |command| foreign::hide(negated::add(args::RunArgs::augment_args(command)), host.machine);
    Command::new("trapline")
        .version(env!("CARGO_PKG_VERSION"))
        .help_template(StyledStr::from(HELP))
        .subcommand(options(run))
        .subcommand(if sandboxes { options(sandbox) } else { sandbox })
        .subcommands(guests::commands())
        .subcommand(qtest::QtestArgs::augment_args(qtest))
        .subcommand(setup())
        .subcommand(trace::TraceArgs::augment_args(trace))
        .subcommand(trace::DiffArgs::augment_args(diff))
        .subcommand(device)
        .subcommand(trace::TuneArgs::augment_args(tune))
        .subcommand(ReplayOptions::augment_args(Command::new("replay")))
        .subcommand(Command::new("version").about("Print the version"))
}

fn setup() -> Command {
    let vfio = Command::new("vfio")
        .about("Give PCI functions of the host to vfio-pci, or back")
        .override_usage("trapline setup vfio [--release] [DOMAIN:]BUS:DEV.FN...");
    Command::new("setup")
        .about("Make a root file system for guests (-d NAME), or give functions to vfio-pci")
        .override_usage("trapline setup NAME | trapline setup vfio ...")
        .args_conflicts_with_subcommands(true)
        .subcommand_precedence_over_arg(true)
        .arg(Arg::new("name").value_name("NAME").help("What the root file system is to be called"))
        .subcommand(vfio::SetupArgs::augment_args(vfio))
}

/// What the root file system is to be called.
fn root_name(matches: &ArgMatches) -> anyhow::Result<String> {
    let name = matches.get_one::<String>("name").cloned();
    name.ok_or_else(|| anyhow!("trapline setup: a name is missing, or vfio"))
}

/// Help and versions come out of clap as errors.
fn asked_for_text(error: &clap::Error) -> anyhow::Result<Parsed> {
    match error.kind() {
        ErrorKind::DisplayHelp => Ok(Parsed::Text(error.render().to_string())),
        ErrorKind::DisplayVersion => Ok(Parsed::Text(version())),
        _ => Err(anyhow!(sentence(error))),
    }
}

fn sentence(error: &clap::Error) -> String {
    let of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let arg = of(ContextKind::InvalidArg);
    let option = arg.split([' ', '[']).next().unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument => match of(ContextKind::SuggestedArg).as_str() {
            "" => format!("{arg}: no such option; 'trapline run --help' lists them"),
            near => format!("{arg}: no such option; did you mean {near}?"),
        },
        ErrorKind::InvalidSubcommand => {
            let name = of(ContextKind::InvalidSubcommand);
            format!("{name}: no such command; 'trapline --help' lists them")
        }
        ErrorKind::InvalidValue if of(ContextKind::InvalidValue).is_empty() => {
            format!("{arg}: the value is missing")
        }
        ErrorKind::MissingRequiredArgument => format!("{arg}: missing; see --help"),
        ErrorKind::TooManyValues => format!("{option}: takes no value"),
        ErrorKind::InvalidUtf8 => "an argument is not valid UTF-8".to_owned(),
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    }
}
