//! QEMU's command line, as far as its qtest programs use it: a command line for `trapline qtest`
//! where QEMU's program is expected.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{anyhow, bail};
use trapline_machine::console::PORTS_MAX;
use trapline_machine::disk::{DiskOptions, Format, OnError};
use trapline_machine::qtest::BoardKind;
use trapline_machine::{ConsoleKind, Outlet, Plug, PlugDevice, PlugPort, VirtioTransport};
use trapline_qtest::{Address, Way};

use super::qtest::{AsQemu, QtestOptions};
use super::{commas, ports, units};

/// What QEMU's program is called for the machines that we have.
const PROGRAM: &str = "qemu-system-x86_64";

/// RAM of QEMU's machines without `-m`.
const MEM_BYTES: u64 = 128 << 20;

/// 2000-01-01, as of `trapline qtest`.
const UTC_START_NS: u64 = 946_684_800 * 1_000_000_000;

/// The devices that can be named, and what QEMU has each of them be a kind of.
pub(crate) const DRIVERS: [(&str, &str); 6] = [
    ("virtconsole", "virtserialport"),
    ("virtio-balloon-pci", "pci-device"),
    ("virtio-blk-pci", "pci-device"),
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
    let mut args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
    let mut said = Said::default();
    while let Some(option) = args.next() {
        let name = option.strip_prefix("--").or_else(|| option.strip_prefix('-'));
        let name = name.ok_or_else(|| anyhow!("{option}: an option of QEMU's begins with -"))?;
        if ["nodefaults", "no-user-config", "nographic", "S", "no-shutdown"].contains(&name) {
            continue;
        }
        let value = args.next().ok_or_else(|| anyhow!("-{name}: the value is missing"))?;
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
    let size = given.get("size").map(|size| units::size(size));
    match (size, given.len()) {
        (Some(Ok(size @ 1..)), 1) => Ok(size.next_multiple_of(4096)),
        _ => Err("that is no size of memory".to_owned()),
    }
}

/// `unix:PATH` or `tcp:HOST:PORT`, which is connected to, or with `server=on` (and `wait=off`, which
/// it is anyway) listened at.
fn socket(value: &str) -> Result<Way, String> {
    let mut given = properties(value, "address")?;
    let address = given.remove("address").unwrap_or_default();
    way(address.parse().map_err(|error| format!("{error}"))?, given)
}

fn way(address: Address, mut given: Properties) -> Result<Way, String> {
    let listens = given.remove("server").is_some_and(|on| on == "on");
    given.remove("wait");
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
    said.chardevs.insert(id, chardev);
    Ok(())
}

fn add_monitor(said: &mut Said, value: &str) -> Result<(), String> {
    let mut given = properties(value, "chardev")?;
    if given.remove("mode").is_none_or(|mode| mode != "control") {
        return Err("only mode=control is known here".to_owned());
    }
    given.remove("pretty");
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
            ("read-only" | "readonly", on) => options.read_only = on == "on",
            ("cache", "none" | "directsync") => options.direct = true,
            ("cache", "writeback" | "writethrough") => {}
            ("werror" | "rerror", "report") => {}
            ("werror" | "rerror", "stop") => options.on_error = OnError::Stop,
            ("serial", text) => options.serial = Some(text.to_owned()),
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
    match name {
        "raw" => Ok(Format::Raw),
        "qcow2" => Ok(Format::Qcow2),
        "vmdk" => Ok(Format::Vmdk),
        _ => Err(format!("Unknown driver '{name}'")),
    }
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

/// A device or port, as `-device` and `device_add` have it.
pub(crate) fn device(
    properties: &Properties,
    drives: &BTreeMap<String, DiskOptions>,
    chardevs: &Chardevs,
) -> Result<Wanted, String> {
    let mut given = properties.clone();
    let driver = given.remove("driver").ok_or("Parameter 'driver' is missing")?;
    let wanted = match driver.as_str() {
        "virtconsole" | "virtserialport" => {
            Wanted::Port(port(&mut given, driver == "virtconsole", chardevs)?)
        }
        _ => Wanted::Device(function(&mut given, &driver, drives)?),
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
    let number = given
        .remove("nr")
        .map(|nr| nr.parse().map_err(|_| format!("nr={nr}: no number of a port")));
    let name = given.remove("name");
    if name.as_ref().is_some_and(|name| name.len() > ports::NAME_MAX) {
        return Err(format!("the name has more than {} bytes", ports::NAME_MAX));
    }
    let outlet = match given.remove("chardev") {
        None => None,
        Some(chardev) => match chardevs.get(&chardev) {
            Some(Ok(outlet)) => outlet.clone(),
            Some(Err(reason)) => return Err(format!("chardev={chardev}: {reason}")),
            None => return Err(format!("there is no chardev called {chardev}")),
        },
    };
    let (device, number) = (device.transpose()?, number.transpose()?);
    Ok(PlugPort { id: given.remove("id"), device, number, name, is_console, outlet })
}

/// A device on the PCI bus, whose properties are taken out.
fn function(
    given: &mut Properties,
    driver: &str,
    drives: &BTreeMap<String, DiskOptions>,
) -> Result<Plug, String> {
    let device = match driver {
        "virtio-blk-pci" => {
            let drive = given.remove("drive").ok_or("drive property not set")?;
            let options = drives.get(&drive);
            let options = options.ok_or_else(|| format!("there is no drive called {drive}"))?;
            let mut options = options.clone();
            if let Some(queues) = given.remove("num-queues") {
                let count = queues.parse().ok().filter(|count| (1..=64).contains(count));
                options.queues = count.ok_or("num-queues is from 1 to 64")?;
            }
            options.serial = given.remove("serial").or(options.serial);
            PlugDevice::Disk(options)
        }
        "virtio-balloon-pci" => PlugDevice::Balloon,
        "virtio-rng-pci" => PlugDevice::Rng,
        "virtio-serial-pci" => {
            let places = given.remove("max_ports").map_or(Ok(PORTS_MAX), |text| text.parse());
            let places = places.ok().filter(|places| (1..=PORTS_MAX).contains(places));
            let places = places.ok_or_else(|| format!("max_ports is from 1 to {PORTS_MAX}"))?;
            PlugDevice::Serial { places }
        }
        _ => return Err(format!("'{driver}' is not a valid device model name")),
    };
    let slot = given.remove("addr").map(|addr| slot(&addr)).transpose()?;
    if given.remove("bus").is_some_and(|bus| bus != "pci.0") {
        return Err("there is no bus but pci.0".to_owned());
    }
    let mut disabled = |interface: &str| {
        let value = given.remove(&format!("disable-{interface}"));
        value.is_some_and(|value| ["on", "true"].contains(&value.as_str()))
    };
    // As in QEMU, on a bus that is not PCI Express.
    let transport = match (disabled("legacy"), disabled("modern")) {
        (false, false) => VirtioTransport::PciTransitional,
        (true, false) => VirtioTransport::Pci,
        (false, true) => VirtioTransport::PciLegacy,
        (true, true) => return Err("device cannot work as neither modern nor legacy".to_owned()),
    };
    Ok(Plug { id: given.remove("id"), slot, transport, device })
}

/// `SLOT[.FUNCTION]`, hexadecimal, where the function is 0.
fn slot(addr: &str) -> Result<u8, String> {
    let (slot, function) = addr.split_once('.').unwrap_or((addr, "0"));
    let digits = slot.strip_prefix("0x").unwrap_or(slot);
    let slot = u8::from_str_radix(digits, 16).ok().filter(|slot| *slot < 32);
    match (slot, function.parse::<u8>()) {
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
        let Self { mem, drives, devices, chardevs, monitors, mut qmp, qtest, recent } = self;
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
            device(properties, &drives, &chardevs)
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
            drives,
            chardevs,
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
mod tests {
    use super::*;

    /// What every test of QEMU's is started with, and then its own.
    fn options(own: &str) -> anyhow::Result<QtestOptions> {
        let all = format!(
            "-qtest unix:/tmp/q.sock -qtest-log /dev/null -chardev socket,path=/tmp/q.qmp,id=char0 \
             -mon chardev=char0,mode=control -display none {own} -accel qtest"
        );
        parse(all.split_whitespace().map(OsString::from))
    }

    fn refusal(own: &str) -> String {
        options(own).unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_of_qos_test_is_understood() {
        let options = options(
            "-M pc -device virtio-blk-pci,id=drv0,drive=drive0,addr=4.0 \
             -drive if=none,id=drive0,file=/tmp/a,,b,format=raw,auto-read-only=off \
             -drive if=none,id=drive1,file=null-co://,file.read-zeroes=on,format=raw",
        )
        .unwrap();
        assert_eq!(options.way, Some(Way::Connect("unix:/tmp/q.sock".parse().unwrap())));
        assert_eq!(options.qmp, [Way::Connect("unix:/tmp/q.qmp".parse().unwrap())]);
        assert_eq!((options.mem_bytes, options.board), (128 << 20, BoardKind::X86Pc));
        assert_eq!(options.as_qemu, Some(AsQemu { recent: false }));
        assert_eq!(options.drives["drive0"].path, Path::new("/tmp/a,b"));
        assert_eq!(options.drives["drive0"].format, Some(Format::Raw));
        assert_eq!(options.drives["drive1"].format, Some(Format::Null));
        let wanted = device(&options.devices[0], &options.drives, &options.chardevs);
        let Wanted::Device(plug) = wanted.unwrap() else { panic!("a port") };
        assert_eq!((plug.id.as_deref(), plug.slot), (Some("drv0"), Some(4)));
        assert!(matches!(plug.device, PlugDevice::Disk(disk) if disk == options.drives["drive0"]));
    }

    #[test]
    fn a_command_line_of_later_versions_has_answers_of_their_kind() {
        assert!(options("-audio none -machine none").unwrap().as_qemu.unwrap().recent);
        let options = options("-m 256 -M pc,accel=qtest -qmp unix:/q,server=on,wait=off").unwrap();
        assert_eq!(options.mem_bytes, 256 << 20);
        assert_eq!(options.qmp[0], Way::Listen("unix:/q".parse().unwrap()));
    }

    #[test]
    fn devices_and_their_properties() {
        let drives = BTreeMap::from([("d".to_owned(), DiskOptions::new("/i"))]);
        let plug = |text: &str| {
            let wanted = device(&properties(text, "driver").unwrap(), &drives, &Chardevs::new())?;
            let Wanted::Device(plug) = wanted else { panic!("{text}: a port") };
            Ok::<_, String>(plug)
        };
        let rng = plug("virtio-rng-pci,addr=0x1f").unwrap();
        assert_eq!((rng.slot, rng.device), (Some(31), PlugDevice::Rng));
        assert_eq!(rng.transport, VirtioTransport::PciTransitional);
        for (choice, transport) in [
            ("disable-legacy=on,disable-modern=off", VirtioTransport::Pci),
            ("disable-legacy=off,disable-modern=true", VirtioTransport::PciLegacy),
        ] {
            assert_eq!(plug(&format!("virtio-rng-pci,{choice}")).unwrap().transport, transport);
        }
        let disk = plug("virtio-blk-pci,drive=d,num-queues=3,serial=x,bus=pci.0").unwrap();
        let PlugDevice::Disk(options) = disk.device else { panic!("a disk") };
        assert_eq!((options.queues, options.serial.as_deref()), (3, Some("x")));
        for (text, places) in [("", 31), (",max_ports=1", 1), (",max_ports=31", 31)] {
            let serial = plug(&format!("virtio-serial-pci{text}")).unwrap();
            assert_eq!(serial.device, PlugDevice::Serial { places });
        }
        for (text, said) in [
            ("virtio-serial-pci,max_ports=0", "max_ports is from 1 to 31"),
            ("virtio-serial-pci,max_ports=32", "max_ports is from 1 to 31"),
            ("virtio-blk-pci", "drive property not set"),
            ("virtio-blk-pci,drive=e", "there is no drive called e"),
            ("virtio-blk-pci,drive=d,num-queues=65", "num-queues is from 1 to 64"),
            ("e1000", "'e1000' is not a valid device model name"),
            ("virtio-rng-pci,addr=20", "addr=20: no slot of a PCI bus"),
            ("virtio-rng-pci,addr=4.1", "addr=4.1: only function 0 of a slot is free"),
            ("virtio-rng-pci,addr=4.8", "addr=4.8: no slot of a PCI bus"),
            ("virtio-rng-pci,bus=pcie.0", "there is no bus but pci.0"),
            ("virtio-rng-pci,max-bytes=1", "Property 'virtio-rng-pci.max-bytes' not found"),
        ] {
            assert_eq!(plug(text).unwrap_err(), said, "{text}");
        }
    }

    #[test]
    fn ports_and_what_they_lead_to() {
        let options = options(
            "-device virtio-serial-pci,id=v -device virtconsole,bus=v.0,chardev=null0 \
             -chardev null,id=null0 -chardev socket,id=s0,path=/s,server=on,wait=off \
             -chardev socket,id=s1,path=/s",
        )
        .unwrap();
        let port = |text: &str| {
            let given = properties(text, "driver").unwrap();
            match device(&given, &BTreeMap::new(), &options.chardevs)? {
                Wanted::Port(port) => Ok(port),
                Wanted::Device(device) => Err(format!("{device:?}")),
            }
        };
        let nothing = PlugPort {
            id: None,
            device: None,
            number: None,
            name: None,
            is_console: true,
            outlet: None,
        };
        assert_eq!(port("virtconsole,chardev=null0"), Ok(nothing));
        let all = "virtserialport,id=p,bus=v.0,nr=2,name=agent,chardev=s0";
        let all_said = PlugPort {
            id: Some("p".to_owned()),
            device: Some("v".to_owned()),
            number: Some(2),
            name: Some("agent".to_owned()),
            is_console: false,
            outlet: Some(Outlet::Socket("/s".into())),
        };
        assert_eq!(port(all), Ok(all_said));
        let long = format!("virtserialport,name={}", "x".repeat(65));
        for (text, said) in [
            ("virtserialport,bus=v", "Bus 'v' not found"),
            ("virtserialport,nr=one", "nr=one: no number of a port"),
            (&long, "the name has more than 64 bytes"),
            ("virtserialport,chardev=x", "there is no chardev called x"),
            ("virtserialport,chardev=char0", "chardev=char0: a monitor has it"),
            ("virtserialport,chardev=s1", "chardev=s1: a port's socket is one with server=on"),
            ("virtserialport,addr=4", "Property 'virtserialport.addr' not found"),
        ] {
            assert_eq!(port(text).unwrap_err(), said, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_one_sentence_each() {
        for (own, said) in [
            ("-M q35", "-M q35: there is no machine but pc and none"),
            ("-enable-kvm -x", "-enable-kvm -x: there is no such option here"),
            ("-display gtk", "-display gtk: there is none of that here"),
            ("-accel kvm", "-accel kvm: there is no accelerator but qtest"),
            ("-m lots", "-m lots: that is no size of memory"),
            ("-drive file=a", "-drive file=a: only if=none is known here"),
            ("-drive if=none,file=a", "-drive if=none,file=a: it needs an id="),
            ("-drive if=none,id=a", "-drive if=none,id=a: it needs a file="),
            (
                "-drive if=none,id=a,file=b,format=vdi",
                "-drive if=none,id=a,file=b,format=vdi: Unknown driver 'vdi'",
            ),
            ("-chardev pty,id=a", "-chardev pty,id=a: only socket and null are known here"),
            ("-mon chardev=x,mode=control", "-mon chardev=x: there is no such -chardev"),
            ("-mon chardev=char0", "-mon chardev=char0: only mode=control is known here"),
            ("-device virtio-rng-pci,addr=x", "-device: addr=x: no slot of a PCI bus"),
            ("pc", "pc: an option of QEMU's begins with -"),
        ] {
            assert_eq!(refusal(own), said, "{own}");
        }
        let nothing = parse(std::iter::empty()).unwrap_err();
        assert_eq!(nothing.to_string(), "-qtest is missing: where is the client?");
        assert_eq!(parse(["-m".into()]).unwrap_err().to_string(), "-m: the value is missing");
    }

    #[test]
    fn only_a_link_of_qemus_name_is_called_so() {
        assert!(is_called(Some(&"/x/qemu-system-x86_64".into())));
        assert!(!is_called(Some(&"qemu-system-aarch64".into())) && !is_called(None));
    }
}
