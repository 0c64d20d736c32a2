//! What is the guest's root file system and what it is there for, where it has no disk or initial RAM
//! disk: in the words of kvmtool and virtme-ng.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use trapline_machine::disk::DiskOptions;

use super::args::{RootArgs, RunArgs};
use super::options::Boot;
use crate::roots;

/// The guest's root file system, and what it is there for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootOptions {
    /// The folder that is the root; the host's own if not said.
    pub folder: Option<PathBuf>,
    /// Whether the guest can change it, if that is said.
    pub writable: Option<bool>,
    /// What is run begins in the folder that we are in.
    pub here: bool,
    /// Whose processes are run, by name or number; root's if not said.
    pub user: Option<String>,
    /// What is run.
    pub work: Work,
    /// There is a network card if none was said.
    pub card: bool,
    /// The first card is configured by DHCP.
    pub dhcp: bool,
}

/// What a guest runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// A shell on its console.
    #[default]
    Shell,
    /// A command, whose end is the guest's.
    Command(Vec<OsString>),
    /// A script of the host's with these arguments, whose end is the guest's.
    Script(PathBuf, Vec<OsString>),
}

impl RootOptions {
    /// What was said, with the folders among the disks.
    ///
    /// # Errors
    /// A sentence about what cannot be had together.
    pub(super) fn new(args: &RunArgs, folders: Vec<DiskOptions>) -> anyhow::Result<Self> {
        let RootArgs { rw, ro, pwd, user, script, command } = &args.root;
        let mut folders = folders.into_iter();
        let folder = folders.next();
        ensure!(folders.next().is_none(), "-d: only one folder can be the root");
        let said = folder.as_ref().map(|folder| !folder.read_only);
        let writable = match (rw, ro) {
            (false, true) => Some(false),
            (true, _) if said == Some(false) => bail!("--rw: the folder was said to be ,ro"),
            (true, _) => Some(true),
            (false, false) => said,
        };
        let work = match (script.as_ref().or(args.devices.sandbox.as_ref()), command) {
            (Some(script), arguments) => Work::Script(script.clone(), arguments.clone()),
            (None, command) if command.is_empty() => Work::Shell,
            (None, command) => Work::Command(command.clone()),
        };
        Ok(Self {
            folder: folder.map(|folder| folder.path),
            writable,
            here: *pwd,
            user: user.clone(),
            work,
            card: args.network.network.is_empty(),
            dhcp: !args.network.no_dhcp,
        })
    }

    /// Whether a command ends the guest.
    pub fn is_errand(&self) -> bool {
        self.errand().is_some()
    }

    /// The first option that only a root of a shared folder can honour.
    pub fn needs_folder(&self) -> Option<&'static str> {
        let table = [
            (self.folder.is_some(), "-d"),
            (self.writable == Some(true), "--rw"),
            (self.writable == Some(false), "--ro"),
            (self.here, "--pwd"),
        ];
        table.into_iter().find(|row| row.0).map(|(_, option)| option)
    }

    /// The first option that is about a root of ours, or what our init does in it.
    pub fn option(&self) -> Option<&'static str> {
        self.needs_folder().or(self.user.is_some().then_some("--user")).or(self.errand())
    }

    /// The option that says what ends the guest, if that is a command.
    pub fn errand(&self) -> Option<&'static str> {
        match self.work {
            Work::Shell => None,
            Work::Command(_) => Some("-- COMMAND"),
            Work::Script(..) => Some("--script"),
        }
    }

    /// Whether what was said can be had with what the guest starts with.
    ///
    /// # Errors
    /// A sentence that names the option.
    pub(super) fn check(
        &self,
        boot: &Boot,
        disks: &[DiskOptions],
        nodefaults: bool,
    ) -> anyhow::Result<()> {
        let Some(option) = self.option() else { return Ok(()) };
        let other = match boot {
            Boot::Firmware { .. } => Some("firmware finds its own (-f)"),
            Boot::Kernel { initrd: Some(_), .. } => Some("there is an initial RAM disk (-i)"),
            Boot::Kernel { params, .. } if params.contains("root=") => Some("-p has a root="),
            Boot::Kernel { .. } if nodefaults => Some("--nodefaults has none"),
            Boot::Kernel { .. } if self.folder.is_none() && !disks.is_empty() => {
                Some("it is the first disk (-d)")
            }
            Boot::Kernel { .. } => None,
        };
        match other {
            Some(other) => bail!("{option}: the guest's root file system is not ours: {other}"),
            None => Ok(()),
        }
    }
}

/// Takes the folders out of the disks: those that are there, and roots that `trapline setup` made, by
/// their names.
pub(super) fn split(disks: Vec<DiskOptions>) -> (Vec<DiskOptions>, Vec<DiskOptions>) {
    let mut folders = Vec::new();
    let mut images = Vec::new();
    for mut disk in disks {
        if !disk.path.exists()
            && let Some(root) = disk.path.to_str().and_then(roots::find)
        {
            disk.path = root;
        }
        if disk.path.is_dir() { folders.push(disk) } else { images.push(disk) }
    }
    (images, folders)
}

/// What `trapline sandbox` runs is a script, if it is not a command.
///
/// # Errors
/// There is neither, or more than one.
pub(super) fn sandboxed(mut args: RunArgs) -> anyhow::Result<RunArgs> {
    let mut words = std::mem::take(&mut args.kernel.positional).into_iter();
    if let Some(script) = words.next() {
        ensure!(args.root.script.is_none(), "{}: a script was already given", script.display());
        args.root.script = Some(script);
    }
    if let Some(second) = words.next() {
        bail!("{}: a script was already given; its arguments come behind --", second.display());
    }
    let there = args.root.script.is_some() || !args.root.command.is_empty();
    let there = there || args.devices.sandbox.is_some();
    there.then_some(args).context("trapline sandbox: a script is missing, or a command behind --")
}
