//! `cargo xtask`: the project's tasks. `check` is what a compiler and the house lints can say,
//! `build` makes the binary, `boot` brings a Debian kernel up in trapline, `test` is everything, `bench` measures.
#![forbid(unsafe_code)]

mod arch;
mod bench;
mod boot;
mod cases;
mod check;
mod coalescing;
mod cross;
mod deb;
mod disks;
mod driver;
mod filesystems;
mod first_run;
mod guest;
mod heartbeat;
mod initrd;
mod instrumented;
mod interrupts;
mod kernel;
mod lint;
mod live;
mod nested;
mod net;
mod paths;
mod pauses;
mod picture;
mod proc;
mod pty;
mod python;
mod qemu;
mod recordings;
mod scenarios;
mod session;
mod shares;
mod sockets;
mod spent;
mod suite;
mod terminal;
mod test;
mod tools;
mod traces;
mod unit;
mod vfio;
mod viewers;
mod virtio;
mod vmm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tasks of the Trapline project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Format, clippy, documentation and the house lints
    Check,
    /// Build the static trapline binary, also for another architecture, and print its path
    Build(vmm::Options),
    /// Boot a Debian kernel in trapline, to a shell or to a report
    Boot(boot::Options),
    /// Run every test: check, unit tests, guests on /dev/kvm, Linux boots
    Test(test::Options),
    /// PCI functions of a host assigned to guests, each alone and all together, at length
    Vfio(vfio::Options),
    /// Linux on virtio devices over each transport, at length
    Virtio(virtio::Options),
    /// File systems that guests make on disks and work on, at length
    Filesystems(filesystems::Options),
    /// Linux on network cards, at length
    Net(net::Options),
    /// Record machines of every kind, for the tests to play without KVM
    Record(recordings::Options),
    /// Measure
    Bench(bench::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<u8> {
    terminal::catch_signals()?;
    match task {
        Task::Check => check::run(),
        Task::Build(options) => vmm::run(&options),
        Task::Boot(options) => boot::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Vfio(options) => vfio::run(&options),
        Task::Virtio(options) => virtio::run(&options),
        Task::Filesystems(options) => filesystems::run(&options),
        Task::Net(options) => net::run(&options),
        Task::Record(options) => recordings::run(&options),
        Task::Bench(options) => bench::run(&options),
    }
}
