//! QEMU's command line, as far as its qtest programs use it: a command line for `trapline qtest`
//! where QEMU's program is expected.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{anyhow, bail};
use trapline_machine::console::PORTS_MAX;
use trapline_machine::disk::{DiskOptions, Format, OnError, QUEUES_MAX};
use trapline_machine::net::{Mac, NetMode, NetOptions};
use trapline_machine::qtest::BoardKind;
use trapline_machine::{ConsoleKind, Outlet, Plug, PlugDevice, PlugPort, VirtioTransport};
use trapline_qtest::{Address, Way};

use super::qtest::{AsQemu, QtestOptions};
use super::{commas, disk, ports, units};

/// What QEMU's program is called for the machines that we have.
const PROGRAM: &str = "qemu-system-x86_64";

/// RAM of QEMU's machines without `-m`.
const MEM_BYTES: u64 = 128 << 20;

/// The address of QEMU's first card, unless it is told another.
const CARD_MAC: Mac = Mac([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);

/// 2000-01-01, as of `trapline qtest`.
const UTC_START_NS: u64 = 946_684_800 * 1_000_000_000;

/// The devices that can be named, and what QEMU has each of them be a kind of.
pub(crate) const DRIVERS: [(&str, &str); 7] = [
    ("virtconsole", "virtserialport"),
    ("virtio-balloon-pci", "pci-device"),
    ("virtio-blk-pci", "pci-device"),
    ("virtio-net-pci", "pci-device"),
    ("virtio-rng-pci", "pci-device"),
    ("virtio-serial-pci", "pci-device"),
    ("virtserialport", "virtio-serial-port"),
];

/// What follows a name, by its keys. The name itself is `driver`, or whatever comes first.
pub type Properties = BTreeMap<String, String>;

/// Whether this program is called as QEMU's is: by a link of that name.
pub(super) fn is_called(name: Option<&OsString>) -> bool {
    let name = name.map(Path::new).and_then(Path::file_name);
    name == Some(OsStr::new(PROGRAM))
}

/// What has been said so far.
#[derive(Default)]
struct Said {
    mem: Option<u64>,
    drives: BTreeMap<String, DiskOptions>,
    devices: Vec<Properties>,
    chardevs: BTreeMap<String, Option<Way>>,
    netdevs: Netdevs,
    monitors: Vec<String>,
    qmp: Vec<Way>,
    qtest: Option<Way>,
    recent: bool,
}

/// Understands QEMU's arguments, without the program's name.
///
/// # Errors
/// What is not understood, as one sentence.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<QtestOptions> {
    let text = |arg: OsString| {
        arg.into_string().map_err(|arg| anyhow!("{}: not UTF-8", arg.to_string_lossy()))
    };
    let mut args = args.into_iter().map(text);
    let mut said = Said::default();
    while let Some(option) = args.next().transpose()? {
        let name = option.strip_prefix("--").or_else(|| option.strip_prefix('-'));
        let name = name.ok_or_else(|| anyhow!("{option}: an option of QEMU's begins with -"))?;
        if ["nodefaults", "no-user-config", "nographic", "S", "no-shutdown"].contains(&name) {
            continue;
        }
        let value = args.next().ok_or_else(|| anyhow!("-{name}: the value is missing"))??;
        set(&mut said, name, &value).map_err(|reason| anyhow!("-{name} {value}: {reason}"))?;
    }
    said.options()
}

fn set(said: &mut Said, name: &str, value: &str) -> Result<(), String> {
    match name {
        "M" | "machine" => machine(value)?,
        "accel" if value == "qtest" => {}
        "accel" => return Err("there is no accelerator but qtest".to_owned()),
        "display" | "audio" | "vga" | "serial" | "parallel" | "monitor" | "net" => {
            said.recent |= name == "audio";
            ensure_none(value)?;
        }
        // What is logged there, a client knows.
        "qtest-log" => {}
        "m" => said.mem = Some(mem(value)?),
        "drive" => add_drive(said, value)?,
        "device" => said.devices.push(properties(value, "driver")?),
        "chardev" => add_chardev(said, value)?,
        "netdev" => add_netdev(said, value)?,
        "mon" => add_monitor(said, value)?,
        "qtest" => said.qtest = Some(socket(value)?),
        "qmp" => said.qmp.push(socket(value)?),
        _ => return Err("there is no such option here".to_owned()),
    }
    Ok(())
}

fn ensure_none(value: &str) -> Result<(), String> {
    match value {
        "none" => Ok(()),
        _ => Err("there is none of that here".to_owned()),
    }
}

/// `KEY=VALUE,...`, where what has no key is the `first`, or a key that is on. Two commas are one.
fn properties(text: &str, first: &str) -> Result<Properties, String> {
    let mut found = Properties::new();
    for (number, part) in commas::split(text.as_bytes()).into_iter().enumerate() {
        let part = String::from_utf8_lossy(&part).into_owned();
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None if number == 0 => (first.to_owned(), part),
            None => (part, "on".to_owned()),
        };
        if key.is_empty() {
            return Err("a name is missing".to_owned());
        }
        found.insert(key, value);
    }
    Ok(found)
}

/// Takes out a switch, by one of QEMU's words (`qapi_bool_parse`); off, if it is not there.
fn take_switch(given: &mut Properties, key: &str) -> Result<bool, String> {
    given.remove(key).map_or(Ok(false), |value| switch(key, &value))
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(format!("{key}={value} is neither on nor off")),
    }
}

/// Takes out a number with a least and a most.
fn take_number<N: TryFrom<u64>>(
    given: &mut Properties,
    key: &str,
    range: RangeInclusive<u64>,
) -> Result<Option<N>, String> {
    let Some(text) = given.remove(key) else { return Ok(None) };
    let number = units::within(key, &text, range).map_err(|error| error.to_string())?;
    Ok(N::try_from(number).ok())
}

fn machine(value: &str) -> Result<(), String> {
    let given = properties(value, "type")?;
    for (key, value) in &given {
        match (key.as_str(), value.as_str()) {
            ("type", "pc" | "none") | ("accel", "qtest") => {}
            ("type", _) => return Err("there is no machine but pc and none".to_owned()),
            ("accel", _) => return Err("there is no accelerator but qtest".to_owned()),
            _ => return Err(format!("a machine has no {key} here")),
        }
    }
    Ok(())
}

fn mem(value: &str) -> Result<u64, String> {
    let given = properties(value, "size")?;
    let size = given.get("size").filter(|_| given.len() == 1);
    let size = size.and_then(|size| units::size(size).ok()).filter(|size| *size > 0);
    let pages = size.and_then(|size| size.checked_next_multiple_of(4096));
    pages.ok_or_else(|| "that is no size of memory".to_owned())
}

/// `unix:PATH` or `tcp:HOST:PORT`, which is connected to, or with `server=on` (and `wait=off`, which
/// it is anyway) listened at.
fn socket(value: &str) -> Result<Way, String> {
    let mut given = properties(value, "address")?;
    let address = given.remove("address").unwrap_or_default();
    way(address.parse().map_err(|error| format!("{error}"))?, given)
}

fn way(address: Address, mut given: Properties) -> Result<Way, String> {
    let listens = take_switch(&mut given, "server")?;
    take_switch(&mut given, "wait")?;
    match given.into_keys().next() {
        Some(key) => Err(format!("a socket has no {key} here")),
        None if listens => Ok(Way::Listen(address)),
        None => Ok(Way::Connect(address)),
    }
}

fn add_chardev(said: &mut Said, value: &str) -> Result<(), String> {
    let mut given = properties(value, "backend")?;
    let id = given.remove("id").ok_or("it needs an id=")?;
    let backend = given.remove("backend").unwrap_or_default();
    let chardev = match backend.as_str() {
        "null" if given.is_empty() => None,
        "socket" => {
            let path = given.remove("path").ok_or("only sockets with a path= are known here")?;
            Some(way(Address::Unix(path.into()), given)?)
        }
        _ => return Err("only socket and null are known here".to_owned()),
    };
    match said.chardevs.insert(id, chardev) {
        Some(_) => Err("there is a chardev of that name already".to_owned()),
        None => Ok(()),
    }
}

fn add_netdev(said: &mut Said, value: &str) -> Result<(), String> {
    let mut given = properties(value, "type")?;
    let id = given.remove("id").ok_or("it needs an id=")?;
    let mode = match given.remove("type").as_deref() {
        // A hub that nobody else is on.
        Some("hubport") => {
            given.remove("hubid").ok_or("it needs a hubid=")?;
            NetMode::Nobody
        }
        Some("socket") => {
            let fd: Option<i32> =
                take_number(&mut given, "fd", 0..=i32::MAX.unsigned_abs().into())?;
            NetMode::Socket(fd.ok_or("only sockets with an fd= are known here")?)
        }
        _ => return Err("only hubport and socket are known here".to_owned()),
    };
    if let Some(key) = given.into_keys().next() {
        return Err(format!("a netdev has no {key} here"));
    }
    match said.netdevs.insert(id, mode) {
        Some(_) => Err("there is a netdev of that name already".to_owned()),
        None => Ok(()),
    }
}

fn add_monitor(said: &mut Said, value: &str) -> Result<(), String> {
    let mut given = properties(value, "chardev")?;
    if given.remove("mode").is_none_or(|mode| mode != "control") {
        return Err("only mode=control is known here".to_owned());
    }
    take_switch(&mut given, "pretty")?;
    let chardev = given.remove("chardev").ok_or("it needs a chardev=")?;
    said.monitors.push(chardev);
    given.into_keys().next().map_or(Ok(()), |key| Err(format!("a monitor has no {key} here")))
}

fn add_drive(said: &mut Said, value: &str) -> Result<(), String> {
    let mut given = properties(value, "file")?;
    if given.remove("if").is_none_or(|interface| interface != "none") {
        return Err("only if=none is known here".to_owned());
    }
    let id = given.remove("id").ok_or("it needs an id=")?;
    let file = given.remove("file").ok_or("it needs a file=")?;
    let mut options = DiskOptions::new(file);
    if options.path.as_os_str() == "null-co://" {
        options.format = Some(Format::Null);
        given.remove("file.read-zeroes");
    }
    for (key, value) in given {
        match (key.as_str(), value.as_str()) {
            // Raw is what is in the one that is not there.
            ("format", "raw") if options.format == Some(Format::Null) => {}
            ("format", name) => options.format = Some(format(name)?),
            ("auto-read-only" | "media" | "aio", _) => {}
            ("read-only" | "readonly", on) => options.read_only = switch(&key, on)?,
            ("cache", "none" | "directsync") => options.direct = true,
            ("cache", "writeback" | "writethrough") => {}
            ("werror" | "rerror", "report") => {}
            ("werror" | "rerror", "stop") => options.on_error = OnError::Stop,
            ("serial", text) => options.serial = Some(disk::serial(text)?),
            _ => return Err(format!("a drive has no {key}={value} here")),
        }
    }
    match said.drives.insert(id, options) {
        Some(_) => Err("there is a drive of that name already".to_owned()),
        None => Ok(()),
    }
}

/// A format by QEMU's name.
pub(crate) fn format(name: &str) -> Result<Format, String> {
    disk::known_format(name).ok_or_else(|| format!("Unknown driver '{name}'"))
}

/// What `-device` and `device_add` can bring.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// A device on the PCI bus.
    Device(Plug),
    /// A port of a console device.
    Port(PlugPort),
}

/// Character devices by their names: where ports that lead there lead, if anywhere. An error says why
/// none can.
pub(crate) type Chardevs = BTreeMap<String, Result<Option<Outlet>, &'static str>>;

/// What is behind network cards, by names.
pub(crate) type Netdevs = BTreeMap<String, NetMode>;

/// A device or port, as `-device` and `device_add` have it.
pub(crate) fn device(
    properties: &Properties,
    drives: &BTreeMap<String, DiskOptions>,
    chardevs: &Chardevs,
    netdevs: &Netdevs,
) -> Result<Wanted, String> {
    let mut given = properties.clone();
    let driver = given.remove("driver").ok_or("Parameter 'driver' is missing")?;
    let wanted = match driver.as_str() {
        "virtconsole" | "virtserialport" => {
            Wanted::Port(port(&mut given, driver == "virtconsole", chardevs)?)
        }
        _ => Wanted::Device(function(&mut given, &driver, drives, netdevs)?),
    };
    match given.into_keys().next() {
        Some(key) => Err(format!("Property '{driver}.{key}' not found")),
        None => Ok(wanted),
    }
}

/// A port, whose properties are taken out.
fn port(given: &mut Properties, is_console: bool, chardevs: &Chardevs) -> Result<PlugPort, String> {
    let device = given.remove("bus").map(|bus| {
        // QEMU numbers a device's buses, of which ours have one.
        let device = bus.strip_suffix(".0").map(str::to_owned);
        device.ok_or_else(|| format!("Bus '{bus}' not found"))
    });
    // Which of them there are, the device says.
    let number = take_number(given, "nr", 0..=u32::MAX.into())?;
    let name = given.remove("name");
    if name.as_ref().is_some_and(|name| name.len() > ports::NAME_MAX) {
        return Err(format!("the name has more than {} bytes", ports::NAME_MAX));
    }
    if name.as_ref().is_some_and(|name| name.contains(char::is_control)) {
        return Err("the name has a control character in it".to_owned());
    }
    let outlet = match given.remove("chardev") {
        None => None,
        Some(chardev) => match chardevs.get(&chardev) {
            Some(Ok(outlet)) => outlet.clone(),
            Some(Err(reason)) => return Err(format!("chardev={chardev}: {reason}")),
            None => return Err(format!("there is no chardev called {chardev}")),
        },
    };
    let device = device.transpose()?;
    Ok(PlugPort { id: given.remove("id"), device, number, name, is_console, outlet })
}

/// A device on the PCI bus, whose properties are taken out.
fn function(
    given: &mut Properties,
    driver: &str,
    drives: &BTreeMap<String, DiskOptions>,
    netdevs: &Netdevs,
) -> Result<Plug, String> {
    let device = match driver {
        "virtio-blk-pci" => {
            let drive = given.remove("drive").ok_or("drive property not set")?;
            let options = drives.get(&drive);
            let options = options.ok_or_else(|| format!("there is no drive called {drive}"))?;
            let mut options = options.clone();
            if let Some(queues) = take_number(given, "num-queues", 1..=QUEUES_MAX.into())? {
                options.queues = queues;
            }
            if let Some(serial) = given.remove("serial") {
                options.serial = Some(disk::serial(&serial)?);
            }
            PlugDevice::Disk(options)
        }
        "virtio-balloon-pci" => PlugDevice::Balloon,
        "virtio-net-pci" => PlugDevice::Net(card(given, netdevs)?),
        "virtio-rng-pci" => PlugDevice::Rng,
        "virtio-serial-pci" => {
            let places = take_number(given, "max_ports", 1..=PORTS_MAX as u64)?;
            PlugDevice::Serial { places: places.unwrap_or(PORTS_MAX) }
        }
        _ => return Err(format!("'{driver}' is not a valid device model name")),
    };
    let slot = given.remove("addr").map(|addr| slot(&addr)).transpose()?;
    if given.remove("bus").is_some_and(|bus| bus != "pci.0") {
        return Err("there is no bus but pci.0".to_owned());
    }
    // As in QEMU, on a bus that is not PCI Express, where that is what `auto` means.
    given.retain(|key, value| key != "disable-legacy" || value != "auto");
    let mut disabled = |key: &str| take_switch(given, key);
    let transport = match (disabled("disable-legacy")?, disabled("disable-modern")?) {
        (false, false) => VirtioTransport::PciTransitional,
        (true, false) => VirtioTransport::Pci,
        (false, true) => VirtioTransport::PciLegacy,
        (true, true) => return Err("device cannot work as neither modern nor legacy".to_owned()),
    };
    Ok(Plug { id: given.remove("id"), slot, transport, device })
}

/// A network card, whose own properties are taken out.
fn card(given: &mut Properties, netdevs: &Netdevs) -> Result<NetOptions, String> {
    let mode = match given.remove("netdev") {
        None => NetMode::Nobody,
        Some(name) => {
            netdevs.get(&name).cloned().ok_or(format!("there is no netdev called {name}"))?
        }
    };
    let mac = given.remove("mac").map(|mac| mac.parse::<Mac>());
    let mac = mac.transpose().map_err(|error| error.to_string())?.unwrap_or(CARD_MAC);
    // The least that IPv4 has.
    let mtu = take_number(given, "host_mtu", 68..=u16::MAX.into())?;
    let speed = take_number(given, "speed", 0..=i32::MAX.unsigned_abs().into())?;
    Ok(NetOptions { mac, mtu, speed, pcap: None, mode })
}

/// `SLOT[.FUNCTION]`, hexadecimal, where the function is 0.
fn slot(addr: &str) -> Result<u8, String> {
    let (slot, function) = addr.split_once('.').unwrap_or((addr, "0"));
    let digits = slot.strip_prefix("0x").unwrap_or(slot);
    let slot = units::count(&format!("0x{digits}")).ok().and_then(|slot| u8::try_from(slot).ok());
    match (slot.filter(|slot| *slot < 32), units::count(function)) {
        (Some(slot), Ok(0)) => Ok(slot),
        (Some(_), Ok(1..=7)) => Err(format!("addr={addr}: only function 0 of a slot is free")),
        _ => Err(format!("addr={addr}: no slot of a PCI bus")),
    }
}

/// What ports that lead to each of these lead to. Those of the `monitors` are theirs.
fn ends(chardevs: BTreeMap<String, Option<Way>>, monitors: &[String]) -> Chardevs {
    let end = |(name, way): (String, Option<Way>)| {
        let end = match way {
            _ if monitors.contains(&name) => Err("a monitor has it"),
            None => Ok(None),
            Some(Way::Listen(Address::Unix(path))) => Ok(Some(Outlet::Socket(path))),
            Some(_) => Err("a port's socket is one with server=on"),
        };
        (name, end)
    };
    chardevs.into_iter().map(end).collect()
}

impl Said {
    fn options(self) -> anyhow::Result<QtestOptions> {
        let Self { mem, drives, devices, chardevs, netdevs, monitors, mut qmp, qtest, recent } =
            self;
        let way = qtest.ok_or_else(|| anyhow!("-qtest is missing: where is the client?"))?;
        for name in &monitors {
            match chardevs.get(name) {
                Some(Some(way)) => qmp.push(way.clone()),
                Some(None) => {}
                None => bail!("-mon chardev={name}: there is no such -chardev"),
            }
        }
        let chardevs = ends(chardevs, &monitors);
        for properties in &devices {
            device(properties, &drives, &chardevs, &netdevs)
                .map_err(|reason| anyhow!("-device: {reason}"))?;
        }
        Ok(QtestOptions {
            board: BoardKind::X86Pc,
            cpus: 1,
            virtio: VirtioTransport::Pci.into(),
            console: ConsoleKind::Serial,
            ports: Vec::new(),
            balloon: None,
            rng: false,
            edu: 0,
            disks: Vec::new(),
            shares: Vec::new(),
            vsock: None,
            drives,
            chardevs,
            netdevs,
            devices,
            qmp,
            as_qemu: Some(AsQemu { recent }),
            mem_bytes: mem.unwrap_or(MEM_BYTES),
            way: Some(way),
            utc_start_ns: UTC_START_NS,
            exit_port: false,
            flash: None,
            firmware: None,
            testdev: false,
            fw_cfg: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests;
