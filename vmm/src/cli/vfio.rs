//! `--vfio-pci` and what goes with it, and `setup vfio`: functions of the host.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail, ensure};
use clap::{ArgMatches, Args, FromArgMatches};
use trapline_machine::vfio::Address;

use super::args::VfioArgs;
use super::units;

/// A function of the host for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfioOptions {
    /// Where it is on the host.
    pub address: Address,
    /// The BARs of which every access is trapped.
    pub trapped: Vec<u8>,
    /// Names of its registers.
    pub names: Option<PathBuf>,
}

/// The functions, each with what is said of it by its address, or of all of them without one.
pub(super) fn functions(args: &VfioArgs) -> anyhow::Result<Vec<VfioOptions>> {
    let mut functions: Vec<VfioOptions> = Vec::new();
    for text in &args.vfio_pci {
        let address = address("--vfio-pci", text)?;
        let taken = functions.iter().any(|other| other.address == address);
        ensure!(!taken, "--vfio-pci {text}: it was given already");
        functions.push(VfioOptions { address, trapped: Vec::new(), names: None });
    }
    for text in &args.vfio_trap {
        let (of, bar) = split("--vfio-trap", OsStr::new(text))?;
        let bar = units::within("--vfio-trap", &bar.to_string_lossy(), 0..=5)?;
        let bar = u8::try_from(bar)?;
        for function in chosen("--vfio-trap", of, &mut functions)? {
            if !function.trapped.contains(&bar) {
                function.trapped.push(bar);
            }
        }
    }
    for text in &args.vfio_names {
        let (of, path) = split("--vfio-names", text)?;
        ensure!(!path.is_empty(), "--vfio-names: the file's name is missing");
        for function in chosen("--vfio-names", of, &mut functions)? {
            function.names = Some(PathBuf::from(&path));
        }
    }
    Ok(functions)
}

fn address(option: &str, text: &str) -> anyhow::Result<Address> {
    text.parse().map_err(|reason| anyhow!("{option} {reason}"))
}

/// What is before `=`, if that is an address, and the rest.
fn split(option: &str, text: &OsStr) -> anyhow::Result<(Option<Address>, OsString)> {
    let bytes = text.as_bytes();
    let Some(at) = bytes.iter().position(|byte| *byte == b'=') else {
        return Ok((None, text.to_owned()));
    };
    let (front, rest) = bytes.split_at(at);
    let front = String::from_utf8_lossy(front);
    // A file's name may have anything in it.
    let of = match front.parse() {
        Ok(address) => address,
        Err(_) if front.contains('/') => return Ok((None, text.to_owned())),
        Err(reason) => bail!("{option} {reason}"),
    };
    Ok((Some(of), OsString::from_vec(rest.get(1..).unwrap_or_default().to_vec())))
}

/// The function with this address, or all of them.
fn chosen<'a>(
    option: &str,
    of: Option<Address>,
    functions: &'a mut [VfioOptions],
) -> anyhow::Result<Vec<&'a mut VfioOptions>> {
    let fits = |function: &&mut VfioOptions| of.is_none_or(|of| of == function.address);
    let chosen: Vec<_> = functions.iter_mut().filter(fits).collect();
    match of {
        Some(of) => ensure!(!chosen.is_empty(), "{option} {of}: there is no --vfio-pci {of}"),
        None => ensure!(!chosen.is_empty(), "{option}: there is no --vfio-pci that it is about"),
    }
    Ok(chosen)
}

/// What `trapline setup vfio` takes.
#[derive(Args, Clone, Debug)]
pub(super) struct SetupArgs {
    /// Give them back to the drivers that the host has for them
    #[arg(long)]
    release: bool,
    /// The functions: BUS:DEVICE.FUNCTION, with DOMAIN: in front or without
    #[arg(value_name = "FUNCTION", required = true)]
    functions: Vec<String>,
}

/// What drivers of the host are to have which functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfioSetup {
    /// Those that the host has for them, and not vfio-pci.
    pub release: bool,
    /// The functions.
    pub functions: Vec<Address>,
}

/// Understands `trapline setup`'s arguments.
pub(super) fn setup(matches: &ArgMatches) -> anyhow::Result<VfioSetup> {
    let args = SetupArgs::from_arg_matches(matches).context("the arguments of setup vfio")?;
    let functions = args.functions.iter().map(|text| address("trapline setup vfio", text));
    Ok(VfioSetup { release: args.release, functions: functions.collect::<Result<_, _>>()? })
}
