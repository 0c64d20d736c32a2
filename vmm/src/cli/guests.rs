//! The options of the commands to guests that run, which are kvmtool's.

use anyhow::bail;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use trapline_control::GuestName;

use super::sentence;

/// What is to be done with guests that run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestsCommand {
    /// To list them.
    List {
        /// Those that run are listed.
        running: bool,
    },
    /// To have them stand still.
    Pause(WhichGuests),
    /// To have them go on.
    Resume(WhichGuests),
    /// To end them.
    Stop(WhichGuests),
}

/// Which guests are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichGuests {
    /// The one of this name.
    One(GuestName),
    /// All of this user's.
    All,
}

// No doc comment: clap would take it for the command's help.
#[derive(Args, Clone, Debug)]
struct ListArgs {
    /// List running guests
    #[arg(short = 'i', long)]
    run: bool,
    /// List root file systems of guests, of which there are none yet
    #[arg(short, long)]
    rootfs: bool,
}

// As above.
#[derive(Args, Clone, Debug)]
struct WhichArgs {
    /// All running guests
    #[arg(short, long)]
    all: bool,
    /// The running guest of this name
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
}

impl WhichArgs {
    fn which(&self, command: &str) -> anyhow::Result<WhichGuests> {
        match &self.name {
            // As in kvmtool, whatever name is given besides.
            _ if self.all => Ok(WhichGuests::All),
            Some(name) => Ok(WhichGuests::One(GuestName::new(name)?)),
            None => bail!("trapline {command}: which guest? -n NAME or --all"),
        }
    }
}

/// The names of the commands.
pub(super) const NAMES: [&str; 4] = ["list", "pause", "resume", "stop"];

/// The commands.
pub(super) fn commands() -> [Command; 4] {
    let command = |name: &'static str, about: &'static str| {
        Command::new(name).about(about).infer_long_args(true).args_override_self(true)
    };
    [
        ListArgs::augment_args(command("list", "List the running guests")),
        WhichArgs::augment_args(command("pause", "Stop a running guest's CPUs")),
        WhichArgs::augment_args(command("resume", "Let a paused guest go on")),
        WhichArgs::augment_args(command("stop", "End a running guest")),
    ]
}

/// What the command of this name asks for.
pub(super) fn parse(name: &str, matches: &ArgMatches) -> anyhow::Result<GuestsCommand> {
    let wrong = |error: clap::Error| anyhow::anyhow!(sentence(&error));
    if name == "list" {
        let args = ListArgs::from_arg_matches(matches).map_err(wrong)?;
        return Ok(GuestsCommand::List { running: args.run || !args.rootfs });
    }
    let which = WhichArgs::from_arg_matches(matches).map_err(wrong)?.which(name)?;
    Ok(match name {
        "pause" => GuestsCommand::Pause(which),
        "resume" => GuestsCommand::Resume(which),
        _ => GuestsCommand::Stop(which),
    })
}
