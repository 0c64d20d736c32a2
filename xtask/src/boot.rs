//! `cargo xtask boot`: a Debian kernel in trapline, to a shell or to a report.

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::guest::{Boot, DONE, Image, Place, Ready, Script, TIMEOUT};
use crate::session::Watch;

/// What `cargo xtask boot` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// The guest's architecture
    #[arg(long, value_enum, default_value_t = Arch::X86_64)]
    arch: Arch,
    /// Print a report from inside the guest and power off, instead of a shell
    #[arg(long)]
    smoke: bool,
    /// The form of the kernel
    #[arg(long, value_enum, default_value_t = Image::Bzimage)]
    kernel: Image,
    /// Run on this machine's KVM, whatever the processor says
    #[arg(long, conflicts_with = "nested")]
    direct: bool,
    /// Run inside QEMU's emulated AMD-V, even with hardware virtualization
    #[arg(long)]
    nested: bool,
    /// Further options of `trapline run`
    #[arg(last = true)]
    run: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Arch {
    #[value(name = "x86_64")]
    X86_64,
}

/// Boots; the status is trapline's, and in a smoke test also 1 if the guest did not finish.
pub(crate) fn run(options: &Options) -> Result<u8> {
    // The only one so far; clap refuses the others by name.
    let Arch::X86_64 = options.arch;
    let ready = Ready::make()?;
    let place = match (options.direct, options.nested) {
        (true, _) => Place::Direct,
        (_, true) => Place::Nested,
        _ => Place::best(),
    };
    match (place, options.nested) {
        (Place::Nested, true) => eprintln!("Booting inside QEMU's emulated AMD-V"),
        (Place::Nested, false) => {
            eprintln!("No hardware virtualization here: booting inside QEMU's emulated AMD-V")
        }
        (Place::Direct, _) => {}
    }
    let boot = Boot {
        name: format!("run-{}", std::process::id()),
        place,
        image: options.kernel,
        init: if options.smoke { "init-smoke.sh" } else { "init-shell.sh" }.to_owned(),
        options: options.run.clone(),
        script: Script::default(),
        watch: Watch {
            show: true,
            input: !options.smoke,
            timeout: options.smoke.then_some(TIMEOUT),
        },
    };
    let outcome = boot.run(&ready)?;
    if options.smoke && outcome.status == 0 && !outcome.text.contains(DONE) {
        eprintln!("The guest ended without reaching the end of its report");
        return Ok(1);
    }
    Ok(outcome.status)
}
