//! The `trapline` command. Everything is in the library of the same package, where tests reach it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    trapline_vmm::main()
}
