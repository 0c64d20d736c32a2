//! The `trapline` command: its options, the terminal it runs on, the guest's console, and the init
//! it is when a guest starts it as process 1.
//!
//! The path of a run: [`cli`] turns the arguments into [`cli::RunOptions`], [`run`] builds the
//! machine from them, [`session`] holds the terminal, the console's threads and the signals while
//! the guest runs.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use rustix::io::Errno;
use trapline_machine::isolate;

pub mod cli;
pub mod console;
pub mod debug;
pub mod device;
pub mod display;
pub mod guest_init;
pub mod guests;
pub mod live;
pub mod logging;
pub mod monitor;
pub mod pause;
pub mod progress;
pub mod qtest;
pub mod reboot;
pub mod recording;
pub mod replay;
pub mod request;
pub mod roots;
pub mod run;
pub mod session;
pub mod signals;
pub mod software;
pub mod statistics;
pub mod status;
pub mod stream;
pub mod task;
pub mod terminal;
pub mod trace;
pub mod vfio;
pub mod why;

/// What `main` does: the command line, or init when the kernel of a guest started us.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if std::process::id() == 1 && guest_init::is_init(args.first()) {
        return guest_init::main();
    }
    if let Some(status) = terminal::guardian::main(args.first()) {
        return status;
    }
    if args.iter().skip(1).eq(isolate::ARGUMENTS.iter()) {
        return device::isolated();
    }
    // Before there is a second thread.
    trapline_machine::register_membarrier();
    if cli::starts_guest(&args) {
        trapline_machine::map_in_small_pieces();
    }
    status::choose(&args);
    signals::outlive_file_limit();
    terminal::restore_on_panic();
    match cli::parse(args) {
        Ok(cli::Parsed::Text(text)) => say(&text),
        Ok(cli::Parsed::Run(options)) => {
            logging::start(options.loglevel);
            run::run(&options).unwrap_or_else(|error| logging::fatal(&error))
        }
        Ok(cli::Parsed::Guests(command)) => guests::run(&command),
        Ok(cli::Parsed::Serve(options)) => {
            logging::start(cli::LogLevel::default());
            device::serve(&options).unwrap_or_else(|error| logging::fatal(&error))
        }
        Ok(cli::Parsed::Qtest(options)) => {
            logging::start(cli::LogLevel::default());
            qtest::run(&options).unwrap_or_else(|error| logging::fatal(&error))
        }
        Ok(cli::Parsed::SetUpVfio(setup)) => {
            vfio::set_up(&setup).unwrap_or_else(|error| logging::fatal(&error))
        }
        Ok(cli::Parsed::SetUpRoot(name)) => match roots::make(&name) {
            Ok(root) => say(&format!("{}\n", root.display())),
            Err(error) => logging::fatal(&error),
        },
        Ok(cli::Parsed::Diff(options)) => {
            logging::start(cli::LogLevel::default());
            recording::diff(&options).unwrap_or_else(|error| logging::fatal(&error))
        }
        Ok(cli::Parsed::Tune(options)) => {
            logging::start(cli::LogLevel::default());
            recording::tune(&options).unwrap_or_else(|error| logging::fatal(&error))
        }
        Ok(cli::Parsed::Trace(options)) => {
            logging::start(cli::LogLevel::default());
            recording::run(&options).unwrap_or_else(|error| logging::fatal(&error))
        }
        Ok(cli::Parsed::Replay(options)) => {
            logging::start(cli::LogLevel::default());
            replay::run(&options).unwrap_or_else(|error| logging::fatal(&error))
        }
        Err(error) => logging::wrong_usage(&error),
    }
}

/// Prints text that was asked for. A reader that has gone away (`trapline --help | head -1`) has
/// seen what it wanted.
fn say(text: &str) -> ExitCode {
    match stream::write_all(rustix::stdio::stdout(), text.as_bytes(), None) {
        Ok(()) | Err(Errno::PIPE) => ExitCode::SUCCESS,
        Err(error) => {
            logging::fatal(&anyhow::Error::new(error).context("cannot write to standard output"))
        }
    }
}
