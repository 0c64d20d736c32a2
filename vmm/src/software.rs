//! What a guest starts with: a kernel, its arguments, and where it has neither a disk nor an initial
//! RAM disk, a root file system of ours with what our init needs.
//!
//! The root is the host's own files, or a folder, by 9p. The kernel has to have drivers for that: those
//! it has as modules come along in the initramfs. Of a kernel that has none the initramfs is the root,
//! with a shell of the host's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use trapline_machine::boot::drivers::{Drivers, Found};
use trapline_machine::boot::initramfs::{self, File, InitramfsRequest};
use trapline_machine::boot::modules::is_multiboot;
use trapline_machine::boot::{cmdline, search};
use trapline_machine::net::{Addresses, NetMode, NetOptions, UserNetOptions, UserOptions};
use trapline_machine::ninep::ShareOptions;
use trapline_machine::{ConsoleKind, Initrd, PcConfigSpace, VirtioTransport};

use crate::cli::{Boot, LogLevel, RootOptions, RunOptions, Work};
use crate::progress::Progress;
use crate::task::{
    Errand, HOST_TAG, LIST, MODULES, OURS, ROOT_TAG, Root, SCRIPT, Streams, Task, User,
};
use crate::{display, roots, terminal};

/// The longest script, in bytes.
const SCRIPT_MAX: u64 = 16 << 20;
/// Drivers of a shared root, besides those of the transports.
const ROOT_DRIVERS: &[&str] = &["virtio_pci", "virtio_mmio", "9pnet_virtio", "9p"];
/// That of the port to our init, and with it those of the transports.
const PORT_DRIVER: &str = "virtio_console";
const PORT_DRIVERS: &[&str] = &["virtio_pci", "virtio_mmio", PORT_DRIVER];
/// That of network cards.
const CARD_DRIVER: &str = "virtio_net";

/// A run with all that belongs to what it starts with.
pub struct Arranged {
    /// The options, with the devices that our root needs.
    pub options: RunOptions,
    /// What the machine starts with.
    pub boot: trapline_machine::Boot,
    /// What there is to say about it.
    pub remarks: Vec<Remark>,
    /// Our end of the port to init, if there is a root of ours.
    pub errand: Option<Errand>,
}

/// What the user may want to know about a run that could be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// An initramfs was made, with this shell of the host's.
    Shell(PathBuf),
    /// An initramfs was made, without a shell.
    NoShell,
    /// The host's files, or those of this folder, are the root.
    Shared(Option<PathBuf>, bool),
    /// The kernel of this release has no such drivers, so the root is not what it could be.
    NoDrivers(String, String),
    /// The kernel of this release has no such driver, so there is no network card.
    NoCard(String, String),
}

impl Remark {
    /// Says it.
    pub fn say(&self) {
        match self {
            Self::Shell(path) => tracing::info!("no initrd: made one with {}", path.display()),
            Self::NoShell => {
                tracing::warn!("no initrd, and no shell on this host to make one with");
            }
            Self::Shared(None, true) => {
                tracing::info!("the guest's root is the host's files, which it can change");
            }
            Self::Shared(None, false) => {
                tracing::info!(
                    "the guest's root is the host's files, which it cannot change (--rw lets it)"
                );
            }
            Self::Shared(Some(folder), writable) => {
                let but = if *writable { "" } else { ", which it cannot change" };
                tracing::info!("the guest's root is {}{but}", folder.display());
            }
            Self::NoDrivers(release, names) => tracing::warn!(
                "Linux {release} has no driver {names}, by which the guest would see the host's \
                 files: its root is a small one in memory"
            ),
            Self::NoCard(release, name) => {
                tracing::warn!("Linux {release} has no driver {name}: the guest has no network");
            }
        }
    }
}

/// Which of our standard streams are the guest's command's.
pub fn streams(options: &RunOptions) -> Streams {
    if options.root.is_errand() { Streams::of_command() } else { Streams::default() }
}

/// Finds and makes what the guest starts with.
///
/// # Errors
/// A sentence: no kernel, or one that lacks what an option needs.
pub fn arrange(options: &RunOptions) -> anyhow::Result<Arranged> {
    let plain =
        |boot| Arranged { options: options.clone(), boot, remarks: Vec::new(), errand: None };
    let (path, initrd, params) = match &options.boot {
        Boot::Firmware { path, flash, kernel } => {
            let (path, flash, kernel) = (path.clone(), flash.clone(), kernel.clone());
            return Ok(plain(trapline_machine::Boot::Firmware { path, flash, kernel }));
        }
        Boot::Kernel { path, initrd, params } => (path, initrd, params),
    };
    let path = path.clone().map_or_else(search::find_host_kernel, Ok)?;
    if is_multiboot(&path) {
        // Our initramfs and our arguments are Linux's.
        let initrd = initrd.clone().map_or(Initrd::None, Initrd::File);
        let cmdline = params.clone();
        return Ok(plain(trapline_machine::Boot::Kernel { path, initrd, cmdline }));
    }
    let has_disk = !options.disks.is_empty() && options.root.folder.is_none();
    let mut arranged = plain(trapline_machine::Boot::Kernel {
        path: path.clone(),
        initrd: initrd.clone().map_or(Initrd::None, Initrd::File),
        cmdline: cmdline(options, params, has_disk, false),
    });
    // A disk is the root file system, as in kvmtool.
    if initrd.is_some() || options.nodefaults || params.contains("root=") || has_disk {
        return Ok(arranged);
    }
    let made = Rooted::new(options, &path)?;
    let cmdline = cmdline(options, params, false, made.root != Plan::Unknown);
    let initrd = made.initramfs()?;
    arranged.boot = trapline_machine::Boot::Kernel { path, initrd: initrd.0, cmdline };
    arranged.remarks = made.remarks(initrd.1);
    if made.root != Plan::Unknown {
        let (errand, port) = Errand::new(streams(options)).context("cannot make a port")?;
        arranged.errand = Some(errand);
        arranged.options.ports.push(port);
        arranged.options.shares.extend(made.shares());
        arranged.options.nets.extend(made.card());
    }
    Ok(arranged)
}

/// The kernel's arguments. With a root of ours there is somebody else to say what happens.
fn cmdline(options: &RunOptions, params: &str, root_disk: bool, quiet: bool) -> String {
    if options.nodefaults {
        return params.to_owned();
    }
    let display = display::console(options);
    let console = match options.console {
        ConsoleKind::Serial if options.earlycon => {
            cmdline::Console::SerialEarly(trapline_machine::MMIO_CONSOLE)
        }
        ConsoleKind::Serial => cmdline::Console::Serial,
        ConsoleKind::Mmio => cmdline::Console::Mmio(trapline_machine::MMIO_CONSOLE),
        ConsoleKind::Virtio => cmdline::Console::Virtio,
    };
    let machine = cmdline::Machine::HOST;
    let ecam = options.config_space == PcConfigSpace::Ecam;
    let quiet = quiet && options.loglevel != LogLevel::Debug && !options.earlycon;
    let defaults = cmdline::Defaults { machine, console, display, ecam, root_disk, quiet };
    cmdline::build(defaults, (!params.is_empty()).then_some(params))
}

/// What the root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// An initramfs, as nothing is known of the kernel.
    Unknown,
    /// An initramfs, as the kernel has no drivers for anything else.
    Memory,
    /// A folder of the host.
    Shared,
}

/// A guest with a root of ours.
struct Rooted<'a> {
    options: &'a RunOptions,
    root: Plan,
    release: String,
    found: Found,
    user: User,
    /// Where what is run begins.
    folder: Option<PathBuf>,
}

impl<'a> Rooted<'a> {
    fn new(options: &'a RunOptions, kernel: &Path) -> anyhow::Result<Self> {
        let drivers = Drivers::of(Path::new("/"), kernel);
        let found = drivers.as_ref().map(|drivers| drivers.find(&wanted(options)));
        let release = drivers.as_ref().map_or_else(String::new, |it| it.release().to_owned());
        let root = plan(found.as_ref(), &release, &options.root)?;
        let found = found.unwrap_or_default();
        Ok(Self { options, root, release, found, user: user(options)?, folder: folder(options)? })
    }

    /// Whether there is a card that nobody asked for: only where it can be used.
    fn card(&self) -> Option<NetOptions> {
        let wanted =
            self.options.root.card && !self.found.missing.iter().any(|it| it == CARD_DRIVER);
        let network = UserNetOptions { addresses: Addresses::new(0), forwards: Vec::new() };
        wanted.then(|| NetOptions::new(0, NetMode::User(UserOptions::new(network))))
    }

    fn shares(&self) -> Vec<ShareOptions> {
        if self.root != Plan::Shared {
            return Vec::new();
        }
        let path = self.options.root.folder.clone().unwrap_or_else(|| "/".into());
        let root =
            ShareOptions { read_only: !self.is_writable(), ..ShareOptions::new(path, ROOT_TAG) };
        let host = ShareOptions { read_only: true, ..ShareOptions::new("/", HOST_TAG) };
        let hosts = self.has_host().then_some(host);
        std::iter::once(root).chain(hosts).collect()
    }

    fn is_writable(&self) -> bool {
        let RootOptions { folder, writable, .. } = &self.options.root;
        writable.unwrap_or(folder.is_some())
    }

    /// Whether the root has a place for the host's files.
    fn has_host(&self) -> bool {
        let folder = self.options.root.folder.as_ref();
        folder.is_some_and(|folder| folder.join(roots::HOST).is_dir())
    }

    fn task(&self) -> Task {
        let root = &self.options.root;
        let streams = streams(self.options);
        let kept = ["TERM", "COLORTERM", "LANG"].into_iter();
        let environment =
            kept.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
        let script = |arguments: &Vec<_>| {
            std::iter::once(format!("{OURS}/{SCRIPT}").into()).chain(arguments.clone()).collect()
        };
        Task {
            modules: self.found.modules.iter().map(|module| module.name.clone()).collect(),
            root: (self.root == Plan::Shared).then(|| Root {
                read_only: !self.is_writable(),
                is_hosts: root.folder.is_none(),
                with_host: self.has_host(),
            }),
            hostname: self.options.name.to_string(),
            dhcp: root.dhcp && (self.card().is_some() || !self.options.nets.is_empty()),
            environment: environment.collect(),
            user: self.user.clone(),
            folder: self.folder.clone().map(PathBuf::into_os_string),
            command: match &root.work {
                Work::Shell => None,
                Work::Command(words) => Some(words.clone()),
                Work::Script(_, arguments) => Some(script(arguments)),
            },
            on_console: if streams.command { streams.on_console } else { [true; 3] },
            size: terminal::size(),
        }
    }

    /// The initramfs, and the shell in it.
    fn initramfs(&self) -> anyhow::Result<(Initrd, Option<PathBuf>)> {
        let init = std::env::current_exe().context("cannot find this program's own file")?;
        let mut files = Vec::new();
        let modules = &self.found.modules;
        let mut progress = Progress::new("unpacking drivers");
        for (done, module) in (0..).zip(modules) {
            progress.at(done, modules.len() as u64);
            let path = format!("{MODULES}/{}.ko", module.name);
            files.push(File { path, mode: 0o644, contents: module.load()? });
        }
        drop(progress);
        let mut programs = Vec::new();
        if self.root != Plan::Unknown {
            let contents = serde_json::to_vec(&self.task())?;
            files.push(File { path: LIST.to_owned(), mode: 0o644, contents });
        }
        match &self.options.root.work {
            Work::Script(path, _) => {
                let contents = trapline_machine::boot::read(path, SCRIPT_MAX);
                let contents = contents.with_context(|| format!("--script {}", path.display()))?;
                files.push(File { path: SCRIPT.to_owned(), mode: 0o755, contents });
            }
            Work::Command(words) => programs.extend(words.first().and_then(|word| which(word))),
            Work::Shell => {}
        }
        let shell = self.root != Plan::Shared;
        let programs = if shell { &programs[..] } else { &[] };
        let host = Path::new("/");
        let request = InitramfsRequest { init: &init, host, shell, programs, files: &files };
        let (bytes, contents) = initramfs::build(&request)?;
        Ok((Initrd::Made(Arc::new(bytes)), contents.shell.map(|shell| shell.host_path)))
    }

    fn remarks(&self, shell: Option<PathBuf>) -> Vec<Remark> {
        let shell = || shell.clone().map_or(Remark::NoShell, Remark::Shell);
        let mut remarks = match self.root {
            Plan::Unknown => return vec![shell()],
            Plan::Memory => {
                let names = missing(&self.found, ROOT_DRIVERS);
                vec![Remark::NoDrivers(self.release.clone(), names), shell()]
            }
            Plan::Shared => {
                vec![Remark::Shared(self.options.root.folder.clone(), self.is_writable())]
            }
        };
        if self.options.root.card && self.card().is_none() {
            remarks.push(Remark::NoCard(self.release.clone(), CARD_DRIVER.to_owned()));
        }
        remarks
    }
}

/// What the root is, of a kernel that has `found` of the drivers, if that is known.
fn plan(found: Option<&Found>, release: &str, root: &RootOptions) -> anyhow::Result<Plan> {
    let Some(found) = found else {
        // It has to have them built in.
        return Ok(if root.option().is_some() { Plan::Shared } else { Plan::Unknown });
    };
    let refuse = |option: Option<&str>, names: &str, purpose: &str| match option {
        Some(option) if !names.is_empty() => {
            bail!("{option}: Linux {release} has no driver {names}, by which {purpose}")
        }
        _ => Ok(()),
    };
    let names = missing(found, ROOT_DRIVERS);
    refuse(root.needs_folder(), &names, "guests share files")?;
    refuse(root.errand(), &missing(found, PORT_DRIVERS), "its status comes back")?;
    Ok(if names.is_empty() { Plan::Shared } else { Plan::Memory })
}

/// The drivers for what the guest has, in the order in which they are to be loaded.
fn wanted(options: &RunOptions) -> Vec<&'static str> {
    let is_mmio = |transport: &VirtioTransport| {
        matches!(transport, VirtioTransport::Mmio | VirtioTransport::MmioLegacy)
    };
    let transports = &options.virtio;
    let mut all =
        transports.named.iter().map(|(_, transport)| transport).chain([&transports.others]);
    let mmio = all.clone().any(is_mmio);
    let pci = all.any(|transport| !is_mmio(transport));
    let table = [
        (pci, "virtio_pci"),
        (mmio, "virtio_mmio"),
        (true, PORT_DRIVER),
        (true, "9pnet_virtio"),
        (true, "9p"),
        (options.root.card || !options.nets.is_empty(), CARD_DRIVER),
        (!options.disks.is_empty(), "virtio_blk"),
        (options.rng, "virtio_rng"),
        (options.balloon.is_some(), "virtio_balloon"),
    ];
    table.into_iter().filter(|row| row.0).map(|(_, name)| name).collect()
}

/// Which of these drivers a kernel does not have.
fn missing(found: &Found, of: &[&str]) -> String {
    let missing = found.missing.iter().filter(|name| of.contains(&name.as_str()));
    missing.map(String::as_str).collect::<Vec<_>>().join(" and ")
}

/// The user whose processes are run, as the root's passwd has it; the host's is that of a small root,
/// too.
fn user(options: &RunOptions) -> anyhow::Result<User> {
    let root = options.root.folder.clone().unwrap_or_else(|| "/".into());
    let passwd = std::fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    match &options.root.user {
        None => Ok(User::find(&passwd, "root").unwrap_or_default()),
        Some(name) => User::find(&passwd, name).with_context(|| {
            format!("--user {name}: no such user in {}etc/passwd", display_root(&root))
        }),
    }
}

fn display_root(root: &Path) -> String {
    let text = root.display().to_string();
    if text.ends_with('/') { text } else { text + "/" }
}

/// Where we are, as the guest will have it.
fn folder(options: &RunOptions) -> anyhow::Result<Option<PathBuf>> {
    if !options.root.here {
        return Ok(None);
    }
    let here = std::env::current_dir().context("--pwd: this folder has no name any more")?;
    let Some(folder) = &options.root.folder else { return Ok(Some(here)) };
    let root = std::fs::canonicalize(folder).with_context(|| format!("-d {}", folder.display()))?;
    let below = here.strip_prefix(&root).ok().with_context(|| {
        format!("--pwd: {} is not in the guest's root {}", here.display(), root.display())
    })?;
    Ok(Some(Path::new("/").join(below)))
}

/// The file of a program, as the host finds it.
fn which(program: &std::ffi::OsStr) -> Option<PathBuf> {
    let program = Path::new(program);
    if program.components().count() > 1 {
        return program.is_absolute().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    let mut found = std::env::split_paths(&path).map(|folder| folder.join(program));
    found.find(|file| file.is_absolute() && file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Host, Parsed, parse_on};

    fn options(args: &str) -> RunOptions {
        let host = Host { cpus: 2, ram_bytes: None, machine: cmdline::Machine::Pc };
        let words = ["trapline", "run"].into_iter().chain(args.split_whitespace());
        match parse_on(words.map(Into::into), &host) {
            Ok(Parsed::Run(options)) => *options,
            other => panic!("{args}: {other:?}"),
        }
    }

    #[test]
    fn drivers_are_wanted_for_what_there_is() {
        let all = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "virtio_net"];
        assert_eq!(wanted(&options("")), all);
        assert_eq!(wanted(&options("-n mode=none")), all[..4]);
        let mmio =
            wanted(&options("--virtio-transport mmio,rng=pci --rng --balloon -d / -d image"));
        assert_eq!(mmio[..2], ["virtio_pci", "virtio_mmio"]);
        assert_eq!(mmio[6..], ["virtio_blk", "virtio_rng", "virtio_balloon"]);
        assert_eq!(wanted(&options("--virtio-transport mmio"))[0], "virtio_mmio");
    }

    #[test]
    fn what_is_missing_is_named_where_it_matters() {
        let missing = |of: &[&str]| {
            let names = ["9p", "virtio_net", "9pnet_virtio"].map(str::to_owned);
            missing(&Found { missing: names.into(), ..Found::default() }, of)
        };
        assert_eq!(missing(ROOT_DRIVERS), "9p and 9pnet_virtio");
        assert_eq!(missing(&[CARD_DRIVER]), "virtio_net");
        assert_eq!(missing(PORT_DRIVERS), "");
    }

    #[test]
    fn what_a_kernel_lacks_is_refused_by_the_option_that_needs_it() {
        let plan = |args: &str, lacks: Option<&[&str]>| {
            let missing = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let found = lacks.map(|names| Found { missing: missing(names), ..Found::default() });
            plan(found.as_ref(), "6.1", &options(args).root).map_err(|error| error.to_string())
        };
        for (args, lacks, expected) in [
            ("", None, Plan::Unknown),
            ("--ro", None, Plan::Shared),
            ("-- ls", None, Plan::Shared),
            ("--rw -- ls", Some(&[][..]), Plan::Shared),
            ("-- ls", Some(&["9p"]), Plan::Memory),
            ("", Some(&["9p", "virtio_console"]), Plan::Memory),
        ] {
            assert_eq!(plan(args, lacks), Ok(expected), "{args} {lacks:?}");
        }
        for (args, lacks, said) in [
            ("--rw", "9p", "--rw: Linux 6.1 has no driver 9p, by which guests share files"),
            (
                "-d / --script s",
                "virtio_console",
                "--script: Linux 6.1 has no driver virtio_console, by which its status comes back",
            ),
            (
                "--user root -- ls",
                "virtio_console",
                "-- COMMAND: Linux 6.1 has no driver virtio_console, by which its status comes back",
            ),
        ] {
            assert_eq!(plan(args, Some(&[lacks])).unwrap_err(), said);
        }
    }

    #[test]
    fn a_kernel_under_a_root_of_ours_is_quiet_unless_somebody_wants_to_know() {
        let line = |args: &str| {
            let options = options(args);
            cmdline(&options, "", false, true)
        };
        assert!(line("").ends_with(" quiet"), "{}", line(""));
        assert!(!line("--debug").contains("quiet"));
        assert_eq!(cmdline(&options("--nodefaults"), "a b", false, true), "a b");
    }

    #[test]
    fn programs_are_found_as_the_host_finds_them() {
        let sh = which(std::ffi::OsStr::new("sh")).unwrap();
        assert!(sh.is_absolute() && sh.ends_with("sh"), "{sh:?}");
        assert_eq!(which(std::ffi::OsStr::new("/no/such")), Some("/no/such".into()));
        assert_eq!(which(std::ffi::OsStr::new("./sh")), None);
        assert_eq!(which(std::ffi::OsStr::new("no-such-program-anywhere")), None);
    }
}
