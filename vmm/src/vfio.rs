//! Functions of the host: what a run is to have of them, and `trapline setup vfio`.

use std::process::ExitCode;

use trapline_machine::vfio::{Assignment, Names, Sysfs};

use crate::cli::{VfioOptions, VfioSetup};
use crate::stream;

/// The functions of a run, with the names of their registers.
///
/// # Errors
/// A file of names that cannot be read, or says something else.
pub fn assignments(options: &[VfioOptions]) -> anyhow::Result<Vec<Assignment>> {
    let assignment = |options: &VfioOptions| {
        let names = options.names.as_deref().map(Names::load).transpose()?;
        Ok(Assignment {
            address: options.address,
            trapped: options.trapped.clone(),
            names: names.unwrap_or_default(),
        })
    };
    options.iter().map(assignment).collect()
}

/// Gives functions to vfio-pci, or back to the host, and says what was done.
///
/// # Errors
/// Why one of them could not be; those before it are done then.
pub fn set_up(setup: &VfioSetup) -> anyhow::Result<ExitCode> {
    let sysfs = Sysfs::default();
    for &address in &setup.functions {
        let done = match setup.release {
            false => sysfs.bind(address)?,
            true => sysfs.release(address)?,
        };
        stream::answer(&format!("{}\n", done.join("\n")));
    }
    Ok(ExitCode::SUCCESS)
}
