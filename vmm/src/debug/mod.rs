//! `--break`, `--symbols`, `--gdb`: looking at a guest where it stands.

mod debugger;
mod gdb;
mod line;
mod prompt;

use std::path::Path;

use anyhow::Context;
use trapline_machine::Control;
use trapline_machine::symbols::Symbols;

pub(crate) use debugger::{Debugger, PROMPT};
pub use gdb::Gdb;
pub use prompt::Prompt;

/// Takes the guest's symbols from a file: `vmlinux`, or `System.map`.
///
/// # Errors
/// It cannot be read, or has none.
pub fn load_symbols(control: &Control, path: &Path) -> anyhow::Result<()> {
    let what = || format!("--symbols {}", path.display());
    let file = std::fs::File::open(path).with_context(what)?;
    control.debug().set_symbols(Symbols::from_file(file).with_context(what)?);
    Ok(())
}
