//! `cargo xtask boot`: a Debian kernel in trapline, to a shell or to a report.

use anyhow::Result;
use clap::Args;

use crate::arch::Arch;
use crate::guest::{Boot, DONE, Image, Place, Ready, Script, patience};
use crate::session::{Show, Watch};
use crate::vmm::Profile;

/// What `cargo xtask boot` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// The guest's architecture
    #[arg(long, value_enum, default_value_t = Arch::host())]
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
    /// Run inside a machine that QEMU emulates, even with hardware virtualization
    #[arg(long)]
    nested: bool,
    /// Further options of `trapline run`
    #[arg(last = true)]
    run: Vec<String>,
}

/// Boots; the status is trapline's, and in a smoke test also 1 if the guest did not finish.
pub(crate) fn run(options: &Options) -> Result<u8> {
    let ready = Ready::make(options.arch, Profile::Release)?;
    let place = match (options.direct, options.nested) {
        (true, _) => Place::Direct,
        (_, true) => Place::Nested,
        _ => Place::best(options.arch),
    };
    let emulated = match options.arch {
        Arch::X86_64 => "AMD-V",
        Arch::Aarch64 => "EL2",
    };
    match (place, options.nested || options.arch != Arch::host()) {
        (Place::Nested, true) => eprintln!("Booting inside QEMU's emulated {emulated}"),
        (Place::Nested, false) => {
            eprintln!("No hardware virtualization here: booting inside QEMU's emulated {emulated}");
        }
        (Place::Direct, _) => {}
    }
    let boot = Boot {
        name: format!("run-{}", std::process::id()),
        place,
        image: options.kernel,
        init: if options.smoke { "init-smoke.sh" } else { "init-shell.sh" }.to_owned(),
        modules: Vec::new(),
        programs: Vec::new(),
        options: options.run.clone(),
        script: Script::default(),
        watch: Watch {
            show: Show::Everything,
            input: !options.smoke,
            timeout: options.smoke.then(|| patience(options.arch)),
        },
    };
    let outcome = boot.run(&ready)?;
    if options.smoke && outcome.status == 0 && !outcome.text.contains(DONE) {
        eprintln!("The guest ended without reaching the end of its report");
        return Ok(1);
    }
    Ok(outcome.status)
}
