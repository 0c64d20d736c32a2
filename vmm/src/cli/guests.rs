//! The options of the commands to guests that run, which are kvmtool's.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgMatches, Args, Command};
use trapline_control::GuestName;
use trapline_control::api::DebugRequest;

use super::{given, units};
use crate::guests::{BreakOptions, Sort, TopOptions};

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
        /// What they say of their memory, and not what they have accessed.
        memory: bool,
        /// As JSON.
        json: bool,
    },
    /// To look into them, or to poke them.
    Debug {
        /// Which ones.
        which: WhichGuests,
        /// What is wanted.
        request: DebugRequest,
    },
    /// To change how much of one's memory is in its balloon.
    Balloon {
        /// The guest's name.
        name: GuestName,
        /// There is to be more in the balloon, and not less.
        inflate: bool,
        /// By how much, in MiB.
        mib: u64,
    },
    /// To end them.
    Stop(WhichGuests),
    /// To show what one does as it happens.
    Top(TopOptions),
    /// To stop one at accesses.
    Break(BreakOptions),
    /// To say why one hangs.
    Why {
        /// The guest; without it the only one there is.
        name: Option<GuestName>,
        /// As JSON.
        json: bool,
    },
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
    /// What the guest says of its memory, which takes a balloon
    #[arg(short, long)]
    memory: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

// As above.
#[derive(Args, Clone, Debug)]
struct DebugArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Where each vCPU is, its registers and its last accesses
    #[arg(short, long)]
    dump: bool,
    /// Give a vCPU a non-maskable interrupt
    #[arg(short = 'm', long, value_name = "VCPU", allow_negative_numbers = true)]
    nmi: Option<String>,
    /// Send SysRq and this letter to the console
    #[arg(short, long, value_name = "LETTER")]
    sysrq: Option<String>,
}

impl DebugArgs {
    fn command(self) -> anyhow::Result<GuestsCommand> {
        let nmi = self.nmi.as_deref();
        let nmi = nmi.map(|text| units::within("--nmi", text, 0..=u64::from(u32::MAX)));
        // As in kvmtool, of a longer word the first letter.
        let sysrq = match &self.sysrq {
            Some(text) => match text.chars().next() {
                Some(letter) if letter.is_ascii_graphic() => Some(letter),
                _ => bail!("--sysrq: which letter?"),
            },
            None => None,
        };
        let nmi = nmi.transpose()?.map(u32::try_from).transpose()?;
        let request = DebugRequest { sysrq, nmi, dump: self.dump };
        Ok(GuestsCommand::Debug { which: self.which.which("debug")?, request })
    }
}

// As above.
#[derive(Args, Clone, Debug)]
struct BalloonArgs {
    /// The running guest of this name
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// Put so many MiB more of the guest's memory into the balloon
    #[arg(short, long, value_name = "MIB", conflicts_with = "deflate")]
    inflate: Option<String>,
    /// Take so many MiB out of it
    #[arg(short, long, value_name = "MIB")]
    deflate: Option<String>,
}

impl BalloonArgs {
    fn command(&self) -> anyhow::Result<GuestsCommand> {
        let mib = |option, text| units::within(option, text, 1..=u64::MAX >> 20);
        let (inflate, mib) = match (&self.inflate, &self.deflate) {
            (Some(text), _) => (true, mib("--inflate", text)?),
            (None, Some(text)) => (false, mib("--deflate", text)?),
            (None, None) => bail!("trapline balloon: by how much? --inflate or --deflate MIB"),
        };
        let name = self.name.as_deref().context("trapline balloon: which guest? -n NAME")?;
        Ok(GuestsCommand::Balloon { name: GuestName::new(name)?, inflate, mib })
    }
}

// As above.
#[derive(Args, Clone, Debug)]
struct TopArgs {
    #[command(flatten)]
    this: ThisArgs,
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

// As above.
#[derive(Args, Clone, Debug)]
struct ThisArgs {
    /// The running guest of this name; without it the only one there is
    #[arg(value_name = "NAME")]
    guest: Option<String>,
    /// The same
    #[arg(short, long, value_name = "NAME", conflicts_with = "guest")]
    name: Option<String>,
}

impl ThisArgs {
    fn name(&self) -> anyhow::Result<Option<GuestName>> {
        let name = self.guest.as_ref().or(self.name.as_ref());
        Ok(name.map(|name| GuestName::new(name)).transpose()?)
    }
}

// As above.
#[derive(Args, Clone, Debug)]
struct BreakArgs {
    /// The running guest of this name
    #[arg(value_name = "NAME")]
    guest: String,
    /// Stop it after accesses to a device or region, to one of its registers, that read or write, or have
    /// this value
    #[arg(value_name = "DEVICE[:REGISTER][=r|w|rw][,value=N]")]
    breaks: Vec<String>,
    /// Tell of so many stops, let the guest go on each time, and end
    #[arg(short = 'c', long, value_name = "N")]
    count: Option<String>,
}

impl BreakArgs {
    fn options(self) -> anyhow::Result<BreakOptions> {
        let count = self.count.as_deref();
        let count = count.map(|text| units::within("--count", text, 1..=u64::MAX)).transpose()?;
        if self.breaks.is_empty() && count.is_some() {
            bail!("trapline break: at which accesses?");
        }
        Ok(BreakOptions { name: GuestName::new(&self.guest)?, breaks: self.breaks, count })
    }
}

// As above.
#[derive(Args, Clone, Debug)]
struct WhyArgs {
    #[command(flatten)]
    this: ThisArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl TopArgs {
    fn options(self) -> anyhow::Result<TopOptions> {
        let name = self.this.name()?;
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
pub(super) const NAMES: [&str; 10] =
    ["balloon", "break", "debug", "list", "pause", "resume", "stat", "stop", "top", "why"];

/// The commands.
pub(super) fn commands() -> [Command; 10] {
    let command = |name: &'static str, about: &'static str| {
        Command::new(name).about(about).infer_long_args(true).args_override_self(true)
    };
    [
        BalloonArgs::augment_args(command("balloon", "Change a running guest's memory")),
        BreakArgs::augment_args(command("break", "Stop a running guest at accesses")),
        DebugArgs::augment_args(command("debug", "Look into a running guest, or poke it")),
        ListArgs::augment_args(command("list", "List the running guests")),
        WhichArgs::augment_args(command("pause", "Stop a running guest's CPUs")),
        WhichArgs::augment_args(command("resume", "Let a paused guest go on")),
        StatArgs::augment_args(command("stat", "Show what a running guest did")),
        WhichArgs::augment_args(command("stop", "End a running guest")),
        TopArgs::augment_args(command("top", "Show what a running guest does, as it happens")),
        WhyArgs::augment_args(command("why", "Say why a running guest hangs")),
    ]
}

/// What the command of this name asks for.
pub(super) fn parse(name: &str, matches: &ArgMatches) -> anyhow::Result<GuestsCommand> {
    let which = || given::<WhichArgs>(matches)?.which(name);
    Ok(match name {
        "balloon" => given::<BalloonArgs>(matches)?.command()?,
        "break" => GuestsCommand::Break(given::<BreakArgs>(matches)?.options()?),
        "debug" => given::<DebugArgs>(matches)?.command()?,
        "list" => {
            let ListArgs { run, rootfs } = given(matches)?;
            GuestsCommand::List { running: run || !rootfs }
        }
        "pause" => GuestsCommand::Pause(which()?),
        "resume" => GuestsCommand::Resume(which()?),
        "stat" => {
            let StatArgs { which, memory, json } = given(matches)?;
            GuestsCommand::Stat { which: which.which(name)?, memory, json }
        }
        "top" => GuestsCommand::Top(given::<TopArgs>(matches)?.options()?),
        "why" => {
            let WhyArgs { this, json } = given(matches)?;
            GuestsCommand::Why { name: this.name()?, json }
        }
        _ => GuestsCommand::Stop(which()?),
    })
}
