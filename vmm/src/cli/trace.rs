//! The options of `trapline trace`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{ArgAction, Args, Subcommand};
use trapline_control::GuestName;
use trapline_device::Direction;
use trapline_machine::qtest::BoardKind;
use trapline_trace::export::Format;
use trapline_trace::show::Filter;

use super::units;
use crate::guests::FollowOptions;

// No doc comment: clap would take it for the command's help.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct TraceArgs {
    #[command(subcommand)]
    command: Option<Command>,
    /// Recording, of which is told what it is and what is in it; with --follow a running guest
    #[arg(value_name = "FILE|NAME", required = true)]
    file: Option<PathBuf>,
    /// Print the accesses of the running guest of this name as they happen
    #[arg(long)]
    follow: bool,
    /// Only those to this device or DEVICE/REGION, or unclaimed; may be given several times
    #[arg(long, value_name = "NAME", requires = "follow", action = ArgAction::Append)]
    device: Vec<String>,
    /// Stop after N lines
    #[arg(short = 'n', long, value_name = "N", requires = "follow")]
    lines: Option<String>,
}

impl TraceArgs {
    /// The recording or guest that is not a subcommand's.
    fn own(self) -> anyhow::Result<TraceOptions> {
        let file = self.file.context("the recording is missing")?;
        if !self.follow {
            return Ok(TraceOptions::About { file });
        }
        let name = GuestName::new(&file.to_string_lossy())?;
        let lines = self.lines.map(|n| units::within("--lines", &n, 1..=u64::MAX)).transpose()?;
        Ok(TraceOptions::Follow(FollowOptions { name, devices: self.device, lines }))
    }
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Print the accesses of a recording, a line each
    Show {
        /// Recording
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        filter: FilterArgs,
        /// Stop after N lines
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<String>,
    },
    /// Count the accesses of a recording, by device and register
    Stat {
        /// Recording
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        filter: FilterArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a recording in the format of another program
    Export {
        /// Recording
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// perfetto, pcapng, qtest, plan, mmiotrace or json
        #[arg(long, value_name = "FORMAT")]
        format: String,
        /// Where to; standard output without it
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// Make a recording of the kernel's trace of a guest (kvm:kvm_pio and kvm:kvm_mmio, as text)
    Import {
        /// Text as tracefs or trace-cmd report print it; - is standard input
        #[arg(value_name = "TEXT")]
        text: PathBuf,
        /// Recording to be made
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Whose registers the addresses are: x86-pc, arm64-virt or none
        #[arg(long, value_name = "BOARD", default_value = "x86-pc")]
        machine: String,
    },
}

#[derive(Args, Clone, Debug)]
struct FilterArgs {
    /// Only this device, or DEVICE/REGION
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    device: Vec<String>,
    /// Only this register
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    register: Vec<String>,
    /// Only from this time on, in seconds
    #[arg(long, value_name = "SECONDS")]
    from: Option<String>,
    /// Only before this time, in seconds
    #[arg(long, value_name = "SECONDS")]
    until: Option<String>,
    /// Only this vCPU
    #[arg(long, value_name = "N", action = ArgAction::Append, allow_negative_numbers = true)]
    cpu: Vec<String>,
    /// Only this value, under a mask if there is one
    #[arg(long, value_name = "VALUE[/MASK]")]
    value: Option<String>,
    /// Only reads
    #[arg(long, conflicts_with = "write")]
    read: bool,
    /// Only writes
    #[arg(long)]
    write: bool,
}

/// What is to be done with recordings.
#[derive(Clone, Debug)]
pub enum TraceOptions {
    /// To print a running guest's accesses.
    Follow(FollowOptions),
    /// To tell what one is.
    About {
        /// The recording.
        file: PathBuf,
    },
    /// To print accesses.
    Show {
        /// The recording.
        file: PathBuf,
        /// Which ones.
        filter: Filter,
        /// How many lines at most.
        lines: Option<u64>,
    },
    /// To count accesses.
    Stat {
        /// The recording.
        file: PathBuf,
        /// Which ones.
        filter: Filter,
        /// As JSON.
        json: bool,
    },
    /// To write another format.
    Export {
        /// The recording.
        file: PathBuf,
        /// The format.
        format: Format,
        /// The file, if it is not standard output.
        output: Option<PathBuf>,
        /// Which accesses.
        filter: Filter,
    },
    /// To read the kernel's trace.
    Import {
        /// The text; `None` is standard input.
        text: Option<PathBuf>,
        /// The recording that is made.
        output: PathBuf,
        /// Whose registers the addresses are.
        board: Option<BoardKind>,
    },
}

impl TraceOptions {
    pub(super) fn new(args: TraceArgs) -> anyhow::Result<Self> {
        let Some(command) = args.command else { return args.own() };
        Ok(match command {
            Command::Show { file, filter, lines } => Self::Show {
                file,
                filter: filter.parse()?,
                lines: lines.map(|n| units::within("--lines", &n, 1..=u64::MAX)).transpose()?,
            },
            Command::Stat { file, filter, json } => {
                Self::Stat { file, filter: filter.parse()?, json }
            }
            Command::Export { file, format, output, filter } => Self::Export {
                file,
                format: self::format(&format)?,
                output,
                filter: filter.parse()?,
            },
            Command::Import { text, output, machine } => Self::Import {
                text: (text.as_os_str() != "-").then_some(text),
                output,
                board: board(&machine)?,
            },
        })
    }
}

impl FilterArgs {
    fn parse(&self) -> anyhow::Result<Filter> {
        let cpu = |text: &String| {
            let number = units::within("--cpu", text, 0..=u64::from(u16::MAX))?;
            Ok::<_, anyhow::Error>(u16::try_from(number)?)
        };
        Ok(Filter {
            devices: self.device.clone(),
            registers: self.register.clone(),
            from_ns: self.from.as_deref().map(|text| time_ns("--from", text)).transpose()?,
            until_ns: self.until.as_deref().map(|text| time_ns("--until", text)).transpose()?,
            vcpus: self.cpu.iter().map(cpu).collect::<Result<_, _>>()?,
            direction: match (self.read, self.write) {
                (true, _) => Some(Direction::Read),
                (_, true) => Some(Direction::Write),
                _ => None,
            },
            value: self.value.as_deref().map(value).transpose()?,
        })
    }
}

/// Seconds with up to nine digits behind the point.
pub(super) fn time_ns(option: &str, text: &str) -> anyhow::Result<u64> {
    let wrong = || format!("{option} {text}: not a time in seconds");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > 9 || !digits(whole) || !digits(part) {
        bail!(wrong());
    }
    let part = format!("{part:0<9}").parse::<u64>().with_context(wrong)?;
    let whole = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(1_000_000_000));
    whole.and_then(|whole| whole.checked_add(part)).with_context(wrong)
}

fn value(text: &str) -> anyhow::Result<(u64, u64)> {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffffffffffff"));
    Ok((units::number("--value", value)?, units::number("--value", mask)?))
}

fn format(name: &str) -> anyhow::Result<Format> {
    Ok(match name {
        "perfetto" => Format::Perfetto,
        "pcapng" => Format::Pcapng,
        "qtest" => Format::Qtest,
        "plan" => Format::Plan,
        "mmiotrace" => Format::Mmiotrace,
        "json" => Format::Json,
        _ => bail!(
            "--format {name}: no such format; there are perfetto, pcapng, qtest, plan, mmiotrace \
             and json"
        ),
    })
}

fn board(name: &str) -> anyhow::Result<Option<BoardKind>> {
    Ok(match name {
        "x86-pc" => Some(BoardKind::X86Pc),
        "arm64-virt" => Some(BoardKind::Arm64Virt),
        "none" => None,
        _ => bail!("--machine {name}: no such board; there are x86-pc, arm64-virt and none"),
    })
}

// No doc comment: clap would take it for the command's help.
#[derive(Args, Clone, Debug)]
pub(super) struct DiffArgs {
    /// Recording of the first run
    #[arg(value_name = "FIRST")]
    first: PathBuf,
    /// Recording of the second run
    #[arg(value_name = "SECOND")]
    second: PathBuf,
    /// How many registers to list by what they cost
    #[arg(long, value_name = "N", default_value = "20")]
    costs: String,
}

/// Two recordings to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffOptions {
    /// The recordings.
    pub files: [PathBuf; 2],
    /// How many registers are listed by what they cost.
    pub costs: usize,
}

impl DiffOptions {
    pub(super) fn new(args: DiffArgs) -> anyhow::Result<Self> {
        let costs = units::within("--costs", &args.costs, 0..=u64::from(u32::MAX))?;
        Ok(Self { files: [args.first, args.second], costs: usize::try_from(costs)? })
    }
}

// No doc comment: clap would take it for the command's help.
#[derive(Args, Clone, Debug)]
pub(super) struct TuneArgs {
    /// Recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// File to be written for trapline run --deliveries
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A recording to be learned from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TuneOptions {
    /// The recording.
    pub file: PathBuf,
    /// Where the deliveries go.
    pub output: Option<PathBuf>,
}

impl TuneOptions {
    pub(super) fn new(args: TuneArgs) -> Self {
        Self { file: args.file, output: args.output }
    }
}
