//! Exit statuses of our own.
//!
//! A guest with an exit port ends the run with `(v << 1) | 1`, an odd number. Next to such a guest our
//! own failures are even, as runners of tests expect it of QEMU: they are no verdict of the guest's.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether odd statuses are the guest's.
static ODD_ARE_THE_GUESTS: AtomicBool = AtomicBool::new(false);

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
}

/// The status of a run that could not be started or did not end well.
pub fn failure() -> u8 {
    if ODD_ARE_THE_GUESTS.load(Ordering::Relaxed) { 2 } else { 1 }
}

/// The status after a bug of ours.
pub fn bug() -> u8 {
    if ODD_ARE_THE_GUESTS.load(Ordering::Relaxed) { 102 } else { 101 }
}
