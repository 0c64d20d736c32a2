//! Exit statuses of our own.
//!
//! A guest with an exit port ends the run with `(v << 1) | 1`, an odd number. Next to such a guest our
//! own failures are even, as runners of tests expect it of QEMU: they are no verdict of the guest's.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether odd statuses are the guest's.
static ODD_ARE_THE_GUESTS: AtomicBool = AtomicBool::new(false);

/// Whether the command is one to guests that run, whose statuses are kvmtool's.
static TO_GUESTS: AtomicBool = AtomicBool::new(false);

/// kvmtool's status of a command to all guests that did not work for some (-1).
pub const SOME_FAILED: u8 = 255;

/// The options that give a guest a status, and how much of each has to be typed to be told from
/// others.
const OPTIONS: [(&[u8], usize); 2] = [(b"--testdev", 4), (b"--exit-port", 4)];

/// Takes odd statuses for the guest's if `args` ask for that. They need not be right otherwise: what
/// is wrong with them is a failure, too.
pub fn choose(args: &[OsString]) {
    let asked = |arg: &OsString| {
        let arg = arg.as_bytes();
        OPTIONS.iter().any(|(option, least)| arg.len() >= *least && option.starts_with(arg))
    };
    ODD_ARE_THE_GUESTS.store(args.iter().any(asked), Ordering::Relaxed);
    let command = args.get(1).and_then(|arg| arg.to_str()).unwrap_or_default();
    // Without it, it is about a recording.
    let follows = command == "trace" && args.iter().any(|arg| arg == "--follow");
    TO_GUESTS.store(follows || crate::cli::is_to_guests(command), Ordering::Relaxed);
}

/// The status of a run that could not be started or did not end well, and of a command to a guest
/// that has come to nothing.
pub fn failure() -> u8 {
    match TO_GUESTS.load(Ordering::Relaxed) {
        true => 128,
        false if ODD_ARE_THE_GUESTS.load(Ordering::Relaxed) => 2,
        false => 1,
    }
}

/// The status after arguments that are wrong: kvmtool's for commands to guests that run, else that of
/// any failure.
pub fn wrong_usage() -> u8 {
    if TO_GUESTS.load(Ordering::Relaxed) { 129 } else { failure() }
}

/// The status after a bug of ours.
pub fn bug() -> u8 {
    if ODD_ARE_THE_GUESTS.load(Ordering::Relaxed) { 102 } else { 101 }
}
