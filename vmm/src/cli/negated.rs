//! Negated options: as in kvmtool, each boolean option has a twin with `--no-` in front of it, and
//! the last of the two wins.

use clap::{Arg, ArgAction, Command};

/// Boolean in kvmtool, or once ours; they take a value, too.
const WITH_VALUE: [&str; 3] = ["vnc", "balloon", "stat"];

/// Gives the boolean options of `command` their twins. One is worth showing: [`SHOWN`].
pub(super) fn add(command: Command) -> Command {
    let booleans: Vec<(String, String)> = command
        .get_arguments()
        .filter(|arg| {
            let with_value = WITH_VALUE.iter().any(|id| arg.get_id() == id);
            matches!(arg.get_action(), ArgAction::SetTrue) || with_value
        })
        .filter_map(|arg| Some((arg.get_id().to_string(), arg.get_long()?.to_owned())))
        .collect();
    booleans.into_iter().fold(command, |command, (id, long)| {
        let twin = Arg::new(format!("no_{id}"))
            .long(format!("no-{long}"))
            .action(ArgAction::SetTrue)
            .overrides_with(id.clone())
            .hide(long != SHOWN)
            .help_heading("Trapline's own options")
            .help(format!("Turns --{long} off, as it is without it"));
        command.mut_arg(&id, |arg| arg.overrides_with(format!("no_{id}"))).arg(twin)
    })
}

/// The option whose twin is shown: QEMU has the twin only.
const SHOWN: &str = "reboot";
