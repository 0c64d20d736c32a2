//! The options of the commands to guests that run, which are kvmtool's.

use std::time::Duration;

use anyhow::bail;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use trapline_control::GuestName;

use super::sentence;
use crate::guests::{Sort, TopOptions};

/// What is to be done with guests that run.
#[derive(Clone, Debug, PartialEq)]
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
    /// To show what they have done.
    Stat {
        /// Which ones.
        which: WhichGuests,
        /// As JSON.
        json: bool,
    },
    /// To end them.
    Stop(WhichGuests),
    /// To show what one does as it happens.
    Top(TopOptions),
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

// As above.
#[derive(Args, Clone, Debug)]
struct StatArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

// As above.
#[derive(Args, Clone, Debug)]
struct TopArgs {
    /// The running guest of this name; without it the only one there is
    #[arg(value_name = "NAME")]
    guest: Option<String>,
    /// The same
    #[arg(short, long, value_name = "NAME", conflicts_with = "guest")]
    name: Option<String>,
    /// Print one table and end
    #[arg(long)]
    once: bool,
    /// Print lines of JSON, one with --once
    #[arg(long)]
    json: bool,
    /// What comes first: exits, reads, writes, time (in the handler) or name
    #[arg(long, value_name = "KEY", default_value = "exits")]
    sort: String,
    /// Seconds between two looks, 0.1 to 3600
    #[arg(short, long, value_name = "SECONDS", default_value = "0.5")]
    delay: String,
}

impl TopArgs {
    fn options(self) -> anyhow::Result<TopOptions> {
        let name = self.guest.or(self.name).as_deref().map(GuestName::new).transpose()?;
        let sort = Sort::ALL.into_iter().find(|sort| sort.name() == self.sort);
        let Some(sort) = sort else {
            let names: Vec<_> = Sort::ALL.iter().map(|sort| sort.name()).collect();
            bail!("--sort: there is no {}; there are {}", self.sort, names.join(", "));
        };
        let ns = super::trace::time_ns("--delay", &self.delay)?;
        let delay = Duration::from_nanos(ns);
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&delay) {
            bail!("--delay {}: not within 0.1 to 3600 seconds", self.delay);
        }
        Ok(TopOptions { name, once: self.once, json: self.json, sort, delay })
    }
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
pub(super) const NAMES: [&str; 6] = ["list", "pause", "resume", "stat", "stop", "top"];

/// The commands.
pub(super) fn commands() -> [Command; 6] {
    let command = |name: &'static str, about: &'static str| {
        Command::new(name).about(about).infer_long_args(true).args_override_self(true)
    };
    [
        ListArgs::augment_args(command("list", "List the running guests")),
        WhichArgs::augment_args(command("pause", "Stop a running guest's CPUs")),
        WhichArgs::augment_args(command("resume", "Let a paused guest go on")),
        StatArgs::augment_args(command("stat", "Show what a running guest did")),
        WhichArgs::augment_args(command("stop", "End a running guest")),
        TopArgs::augment_args(command("top", "Show what a running guest does, as it happens")),
    ]
}

/// What the command of this name asks for.
pub(super) fn parse(name: &str, matches: &ArgMatches) -> anyhow::Result<GuestsCommand> {
    let wrong = |error: clap::Error| anyhow::anyhow!(sentence(&error));
    if name == "list" {
        let args = ListArgs::from_arg_matches(matches).map_err(wrong)?;
        return Ok(GuestsCommand::List { running: args.run || !args.rootfs });
    }
    if name == "stat" {
        let StatArgs { which, json } = StatArgs::from_arg_matches(matches).map_err(wrong)?;
        return Ok(GuestsCommand::Stat { which: which.which(name)?, json });
    }
    if name == "top" {
        let args = TopArgs::from_arg_matches(matches).map_err(wrong)?;
        return Ok(GuestsCommand::Top(args.options()?));
    }
    let which = WhichArgs::from_arg_matches(matches).map_err(wrong)?.which(name)?;
    Ok(match name {
        "pause" => GuestsCommand::Pause(which),
        "resume" => GuestsCommand::Resume(which),
        _ => GuestsCommand::Stop(which),
    })
}
