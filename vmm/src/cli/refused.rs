//! Options we know but cannot honour yet. They are refused by name: a guest without the disk its
//! user asked for is worse than no guest.

use super::args::{BasicArgs, DeviceArgs, RunArgs};

/// Why the arguments cannot be honoured: the first reason, in the order of the help text.
pub(super) fn first(args: &RunArgs) -> Option<String> {
    console(&args.basic).or_else(|| device(&args.devices)).or_else(|| other(args))
}

fn missing(option: &str, device: &str) -> String {
    format!("{option}: {device} does not exist yet in this version")
}

fn given(table: &[(bool, &str, &str)]) -> Option<String> {
    table.iter().find(|row| row.0).map(|(_, option, device)| missing(option, device))
}

fn console(args: &BasicArgs) -> Option<String> {
    match args.console.as_deref() {
        None | Some("serial" | "mmio" | "virtio") => None,
        Some("hv") => Some(missing("--console hv", "the hypervisor console")),
        // The console stays where it is, as in kvmtool.
        Some(_) => None,
    }
}

fn device(args: &DeviceArgs) -> Option<String> {
    given(&[
        (args.gtk, "--gtk", "a window for the display"),
        (args.sdl, "--sdl", "a window for the display"),
        (args.vidmode.is_some(), "--vidmode", "a choice of video modes"),
        (!args.tty.is_empty(), "--tty", "a serial port on a pty of its own"),
    ])
}

fn other(args: &RunArgs) -> Option<String> {
    given(&[
        (args.arm64.nested, "--nested", "nested virtualization"),
        (args.debug.debug_single_step, "--debug-single-step", "single stepping"),
        (args.debug.debug_iodelay.is_some(), "--debug-iodelay", "a delay of accesses"),
    ])
}
