//! `membarrier(2)` is registered for when a program asks for it, not only by its first registry.
//! Registration is the process's, so this test has a process to itself.
#![cfg(target_os = "linux")]

use rustix::io::Errno;
use rustix::thread::{MembarrierCommand, membarrier};

#[test]
fn a_process_is_registered_before_its_first_registry() {
    let barrier = || membarrier(MembarrierCommand::PrivateExpedited);
    assert_eq!(barrier(), Err(Errno::PERM), "not registered yet");
    trapline::register_membarrier();
    assert_eq!(barrier(), Ok(()));
}
