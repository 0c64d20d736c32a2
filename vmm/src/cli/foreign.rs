//! Options that only guests of one architecture have: on hosts of the other one help does not show
//! them, as in kvmtool, and they are refused by name.

use clap::{Args, Command};
use trapline_machine::boot::cmdline::Machine;

use super::args::{Arm64Args, RunArgs};

/// The identities of the PC's own options.
const PC: [&str; 9] =
    ["vnc", "screendump", "gtk", "sdl", "vidmode", "exit_port", "legacy", "earlycon", "ecam"];

/// Leaves the options of the other architecture out of the help.
pub(super) fn hide(command: Command, machine: Machine) -> Command {
    let ids: Vec<String> = match machine {
        Machine::Pc => {
            let arm64 = Arm64Args::augment_args(Command::new("run"));
            arm64.get_arguments().map(|arg| arg.get_id().to_string()).collect()
        }
        Machine::Arm64 => PC.map(str::to_owned).to_vec(),
    };
    ids.into_iter().fold(command, |command, id| command.mut_arg(id, |arg| arg.hide(true)))
}

/// Why the first of them cannot be honoured.
pub(super) fn first(args: &RunArgs, machine: Machine) -> Option<String> {
    match machine {
        Machine::Pc => arm64(args),
        Machine::Arm64 => pc(args),
    }
}

fn pc(args: &RunArgs) -> Option<String> {
    let display = "arm64 guests have no display";
    let table = [
        (args.display.vnc.is_some(), "--vnc", display),
        (args.display.screendump.is_some(), "--screendump", display),
        (args.devices.gtk, "--gtk", display),
        (args.devices.sdl, "--sdl", display),
        (args.devices.vidmode.is_some(), "--vidmode", display),
        (args.trapline.exit_port, "--exit-port", "arm64 guests have no ports"),
        (args.trapline.legacy, "--legacy", "arm64 guests have no legacy devices"),
        (
            args.trapline.earlycon,
            "--earlycon",
            "an arm64 guest's serial ports are in memory anyway",
        ),
        (args.trapline.ecam, "--ecam", "an arm64 guest's configuration space is memory anyway"),
    ];
    table.iter().find(|row| row.0).map(|(_, option, reason)| format!("{option}: {reason}"))
}

fn arm64(args: &RunArgs) -> Option<String> {
    let args = &args.arm64;
    let table = [
        (args.aarch32, "--aarch32"),
        (args.pmu, "--pmu"),
        (args.disable_mte, "--disable-mte"),
        (args.vcpu_affinity.is_some(), "--vcpu-affinity"),
        (args.kaslr_seed.is_some(), "--kaslr-seed"),
        (args.no_pvtime, "--no-pvtime"),
        (args.sve_max_vl.is_some(), "--sve-max-vl"),
        (args.nested, "--nested"),
        (args.dump_dtb.is_some(), "--dump-dtb"),
        (args.override_bad_firmware_cntfrq.is_some(), "--override-bad-firmware-cntfrq"),
        (args.force_pci, "--force-pci"),
        (args.firmware_address.is_some(), "--firmware-address"),
    ];
    let (_, option) = table.iter().find(|row| row.0)?;
    Some(format!("{option}: only arm64 guests have it, and this host runs none"))
}
